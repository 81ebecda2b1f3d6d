"""The copy of a run that ships: small, read-only, and of the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny

from prune_core.evaluation import exact
from prune_core.runs import pack, places, shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.pack import PACKED_BYTES
from prune_core.runs.places import RunError
from prune_core.runs.recorder import Recorder
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of, default_stage
from prune_core.runs.snapshots import Snapshot


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    """A complete run, 16x1 in every matrix alike, at 1.5x and 3x."""
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """An empty data/recorded elsewhere."""
    monkeypatch.setattr(pack, "PROJECT", tmp_path)
    monkeypatch.setattr(places, "RECORDED", tmp_path / "data" / "recorded")
    return tmp_path / "data" / "recorded"


def test_a_packed_run_says_the_same_in_fewer_bytes(made, recorded):
    result = pack.pack(made, "shipped", [], "nyu-mll/glue")
    run = shelf.find("shipped", recorded.parent / "none")
    assert run.recorded and run.status == "complete" and run.data == run.config.data == "nyu-mll/glue"
    assert run.snapshots == made.snapshots and run.points == made.points and run.layout == made.layout
    size = sum(f.stat().st_size for f in (recorded / "shipped").rglob("*") if f.is_file())
    assert result["bytes"] == size < 10_000_000
    assert result["path"] == "data/recorded/shipped" and not list(recorded.glob(".*"))
    assert run.result["run"] == "shipped"


def test_packed_norms_are_close_and_their_zeros_exact(made, recorded):
    pack.pack(made, "shipped", [], "nyu-mll/glue")
    run = Run(recorded / "shipped")
    assert run.with_norms == made.with_norms
    for at in run.with_norms:
        for name, values in made.norms(at).items():
            back, top = run.norms(at)[name], 65535 if made.snapshots[at].saved else 255
            assert np.array_equal(back == 0, values == 0)
            assert np.abs(back - values).max() <= 1.001 * values.max() / top


def test_with_weights_packed_the_exact_score_is_the_same(made, recorded):
    pack.pack(made, "shipped", ["dense"], "nyu-mll/glue")
    run = Run(recorded / "shipped")
    shipped, own = (exact.evaluate(r, "dense", cut_of(r, 0.5), made.data, 1) for r in (run, made))
    assert shipped["score"] == own["score"] and shipped["sparsity"] == own["sparsity"] == 0.5
    assert default_stage(run, 0.9) == "dense"
    with pytest.raises(RunError, match=r"without the weights of 'retrain-3x' \(with: dense\)"):
        run.weights_file("retrain-3x")


def test_packing_replaces_an_older_copy_and_leaves_the_run_alone(made, recorded):
    before = {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()}
    pack.pack(made, "shipped", ["dense"], "nyu-mll/glue")
    pack.pack(made, "shipped", [], "nyu-mll/glue")
    assert not list((recorded / "shipped" / "weights").iterdir())
    assert {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()} == before


def test_a_recorded_run_cannot_be_packed_over_a_bad_name_or_unfinished(made, recorded, tmp_path):
    with pytest.raises(RunError, match="run name"):
        pack.pack(made, "../x", [], "nyu-mll/glue")
    with pytest.raises(RunError, match="no stage 'retrain-9x'"):
        pack.pack(made, "shipped", ["retrain-9x"], "nyu-mll/glue")
    layout = tiny.layout()
    with Recorder.create(tmp_path, "open", tiny.about(layout)) as recorder:
        recorder.append(Snapshot("dense", 0))
    with pytest.raises(RunError, match="not complete"):
        pack.pack(Run(tmp_path / "open"), "shipped", [], "nyu-mll/glue")
    assert not (recorded / "shipped").exists()


def test_a_large_run_is_packed_within_ten_megabytes_with_all_its_stages(recorded, tmp_path):
    """Small blocks, many snapshots: those in between go first."""
    layout = tiny.layout("1x1", ((1000, 1000),), 2_000_000)
    norms = {"m0": np.random.default_rng(0).random((1000, 1000)).astype(np.float32)}
    about = tiny.about(layout, config=PruneConfig(block="1x1").to_json())
    with Recorder.create(tmp_path, "large", about) as recorder:
        for step in range(12):
            recorder.append(Snapshot("penalty", step, norms=norms))
        point = {"sparsity": 0.0, "compression_encoder": 1.0, "compression_model": 1.0}
        for saved in ("dense", "penalty-2x"):
            recorder.append(Snapshot("penalty", 12, saved=saved, scores={"accuracy": 0.9}, point=point, norms=norms))
        recorder.finish({"run": "large"})
    result = pack.pack(Run(tmp_path / "large"), "large", [], "nyu-mll/glue")
    run = Run(recorded / "large")
    assert result["bytes"] <= PACKED_BYTES
    assert [run.snapshots[at].saved for at in run.with_norms if run.snapshots[at].saved] == ["dense", "penalty-2x"]
    assert 2 < len(run.with_norms) < 14 and len(run.snapshots) == 14
    assert json.loads((recorded / "large" / "result.json").read_text())["run"] == "large"
