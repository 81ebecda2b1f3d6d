"""The main job on real input: MiniLM on RTE, small enough for seconds."""

from __future__ import annotations

import pytest

from prune_core.evaluation import exact
from prune_core.runs.config import preset
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of
from prune_core.runs.snapshots import Snapshot
from prune_core.training import session


@pytest.fixture(scope="module")
def done(glue_folder, tmp_path_factory):
    """(the complete run, its events)"""
    asked = preset("quick", task="rte", data=str(glue_folder), dense_steps=6, penalty_steps=8, retrain_steps=3,
                   batch_size=8, max_length=48, train_examples=64, dev_examples=32, surface_examples=8,
                   moments=2, threads=1, precision="fp32")
    folder, events = tmp_path_factory.mktemp("runs"), []
    result = session.start(asked, folder, "rte", "python -m prune_core prune --task rte",
                           lambda event, _: events.append(event))
    return Run(folder / "rte"), events, result


def test_it_runs_through_all_phases_and_is_recorded_as_it_went(done):
    run, events, result = done
    assert run.status == "complete" and run.result == result
    assert run.stages == ["dense", "penalty-2x", "retrain-2x"]
    assert run.snapshots == [event for event in events if isinstance(event, Snapshot)]
    assert (run.task, run.metric, run.config.model) == ("rte", "accuracy", "minilm")
    assert run.layout.encoder_weights == 10_616_832


def test_half_of_the_encoder_is_gone(done):
    run, _, result = done
    (point,) = result["points"]
    assert point["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert point["compression_encoder"] == pytest.approx(2, abs=0.1)
    dense, total = run.layout.encoder_weights, run.layout.model_weights
    assert point["compression_model"] == pytest.approx(total / (total - dense * point["sparsity"]))
    norms = run.norms(run.saved("retrain-2x"))
    groups, zero = sum(n.size for n in norms.values()), sum(int((n == 0).sum()) for n in norms.values())
    assert groups == dense // 64 and zero / groups == pytest.approx(point["sparsity"], abs=1e-12)


@pytest.mark.parametrize("name", ["dense", "retrain-2x"])
def test_the_exact_score_of_the_saved_point_is_the_recorded_one(done, name):
    run, _, _ = done
    end = run.snapshots[run.saved(name)]
    answer = exact.evaluate(run, name, cut_of(run, 0.5 if name != "dense" else 0.0), threads=1)
    assert answer["score"] == end.scores["accuracy"] and answer["examples"] == end.examples == 32
    assert answer["sparsity"] == end.point["sparsity"]


def test_the_times_and_shares_that_it_tells_are_there(done):
    _, _, result = done
    assert 0 < result["seconds_per_step"] < result["seconds"] and 0 < result["penalty_share"] < 1
