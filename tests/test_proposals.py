"""Propose on Explore, under AppTest: what it asks for, what it shows meanwhile, which cut the map takes."""

from __future__ import annotations

import numpy as np
import pytest
import test_pages
from sample_run import make_profile
from test_pages import FakeClient, checked, opened, sensitivities, sent, texts, with_weights

from pages.shared import loaders
from pages.shared.score_client import Answer
from prune_core.cutting import allocate
from prune_core.cutting.masks import mask_at
from prune_core.latency.profile import Batch
from prune_core.runs.run import Run

runs_dir = test_pages.runs_dir


class Scoring(FakeClient):
    """Scores every cut at once: the more of layer 1 goes, the less is left."""

    def __init__(self, run: Run):
        super().__init__(Answer())
        self.run = run

    def want(self, who, question, again=False):
        self.asked.append(question)
        mask = question.cut.mask(self.run.ranking(question.stage, question.cut.ranking), self.run.layout)
        hurt = np.mean([mask.matrix_sparsity(m.name) for m in self.run.layout.matrices if m.layer == 1])
        score = 0.9 - 0.1 * float(hurt)
        return Answer("done", 872, 872, score, score - 0.02, score + 0.02, {
            "score": score, "low": score - 0.02, "high": score + 0.02, "examples": 872, "seconds": 1.0,
            "sparsity": mask.sparsity})


@pytest.mark.parametrize("aim, value", [("loss", 1.0), ("compression", 2.0), ("speedup", 3.0)])
def test_propose_takes_the_best_of_cuts_that_were_scored_exactly(runs_dir, monkeypatch, aim, value):
    monkeypatch.setattr(loaders, "usual_profile", make_profile)
    with_weights(runs_dir, monkeypatch, Answer())
    run = Run(runs_dir / "sample")
    points = sensitivities(run)
    client = Scoring(run)
    monkeypatch.setattr(loaders, "score_client", lambda: client)
    app = opened("explore", at="dense", view="Layers and matrices")
    app.segmented_control(key="aim").set_value(aim).run()
    app.number_input(key=f"aimed {aim}").set_value(value).run()
    before = len(client.asked)
    app.button(key="propose").click().run()
    said, command = texts(checked(app)), sent(app)["command"]
    assert "Best: by norm, sensitive layers cut less" in said, "only that spares layer 1"
    assert 0 < len({one.cut for one in client.asked[before:]}) <= 13
    mask = mask_at(run.norms(run.saved("dense")), run.layout, command["cut"]["thresholds"], "layer")
    if aim == "compression":
        assert command["cut"]["thresholds"] == pytest.approx(
            allocate.cheapest(run.norms(run.saved("dense")), run.layout, points, "layer", 2.0, 0.9), rel=0.02)
        assert mask.compression_encoder >= 2.0
    elif aim == "speedup":
        assert make_profile().speedup(mask, Batch(32, 128), run.heads) >= 3.0
    else:
        hurt = np.mean([mask.matrix_sparsity(m.name) for m in run.layout.matrices if m.layer == 1])
        assert hurt <= 0.1 + 1e-9 and mask.sparsity > 0.4
    app.button(key="use 0").click().run()
    assert sent(checked(app))["command"]["cut"] != command["cut"]


@pytest.mark.parametrize("dtype, said", [
    ("fp32", "predicted, in fp32, over"), ("auto", "predicted, in the fastest precision (bf16), over")])
def test_speedups_are_for_the_precision_of_the_sidebar(runs_dir, monkeypatch, dtype, said):
    monkeypatch.setattr(loaders, "usual_profile", make_profile)
    with_weights(runs_dir, monkeypatch, Answer())
    client = Scoring(Run(runs_dir / "sample"))
    monkeypatch.setattr(loaders, "score_client", lambda: client)
    app = opened("explore", at="dense", view="Layers and matrices", dtype=dtype)
    app.segmented_control(key="aim").set_value("speedup").run()
    app.button(key="propose").click().run()
    asked = checked(app).session_state["proposal"]
    assert asked.proposal.best.fast.dtype == ("bf16" if dtype == "auto" else dtype) and said in texts(app)


def test_an_aim_that_no_cut_reaches_is_one_line(runs_dir, monkeypatch):
    with_weights(runs_dir, monkeypatch, Answer())
    app = opened("explore", at="dense", view="Layers and matrices")
    app.segmented_control(key="aim").set_value("compression").run()
    app.number_input(key="aimed compression").set_value(99.0).run()
    app.button(key="propose").click().run()
    (error,) = checked(app).error
    assert "no cut of these weights reaches a compression of 99x; the most is a compression of" in error.value


def test_a_search_shows_how_far_it_is_and_can_be_cancelled(runs_dir, monkeypatch):
    client = with_weights(runs_dir, monkeypatch, Answer("repairing", 12, 36))
    app = opened("explore", at="dense", view="Layers and matrices")
    app.button(key="propose").click().run()
    assert "Cut 1 of at most 12" in str(checked(app).get("progress")[0].proto)
    app.button(key="cancel proposal").click().run()
    assert client.left and "cancel proposal" not in [b.key for b in checked(app).button]
