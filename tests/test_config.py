"""Settings and the plan made of them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest

from prune_core import InputError
from prune_core.runs import estimate
from prune_core.runs.config import PRESETS, PruneConfig, preset
from prune_core.runs.outlook import NOTHING, outlook
from prune_core.runs.schedule import NOMINAL_FLOPS, plan, step_flops
from prune_core.runs.stages import DENSE, Stage, kind_of
from prune_core.tasks.glue import TASKS

MINILM = 10_616_832


def test_the_defaults_are_the_embedded_default_main_job():
    asked = PruneConfig()
    assert (asked.model, asked.task, asked.data, asked.block, asked.compressions) == (
        "minilm", "sst2", "nyu-mll/glue", "64x1", (2.0,))
    assert (asked.preset, asked.penalty, asked.seed, asked.threads) == ("standard", "proximal", 0, os.cpu_count())


def test_a_config_reads_back_from_its_json():
    asked = preset("quick", compressions=(3, 1.5), lam=0.25, threads=1)
    assert PruneConfig.from_json(asked.to_json()) == asked


def test_compressions_are_sorted_and_each_comes_once():
    assert PruneConfig(compressions=(3, 2, 2.0, 1.5)).compressions == (1.5, 2.0, 3.0)


@pytest.mark.parametrize("bad, named", [
    ({"block": "64"}, "64x1"), ({"compressions": (0.5,)}, "compression"), ({"compressions": ()}, "compression"),
    ({"lam": -1.0}, "lambda"), ({"lam": float("nan")}, "lambda"), ({"penalty": "l2"}, "proximal, in-loss"),
    ({"scope": "row"}, "global, layer, type, matrix"), ({"precision": "int8"}, "auto, bf16, fp32"),
    ({"batch_size": 0}, "batch_size"), ({"dense_steps": -1}, "dense_steps"), ({"threads": -2}, "threads"),
    ({"seed": -1}, "seed"), ({"train_examples": 0}, "train_examples")])
def test_a_setting_out_of_range_is_refused_by_name(bad, named):
    with pytest.raises(InputError, match=named):
        PruneConfig(**bad)


@pytest.mark.parametrize("bad, said", [
    ({"bits": "0"}, "bits '0' are none that weights can have"), ({"bits": "9"}, "8 to 2, ternary, binary"),
    ({"pattern": "5:4"}, "pattern '5:4' is not N:M"), ({"activation_bits": 4}, "activation bits 4 are out of range"),
    ({"embedding_bits": 4}, "embedding bits 4"), ({"bits": "8", "quantizer": "magic"}, "ste, interval, lsq"),
    ({"quantizer": "lsq"}, "has no bits to bring weights to"),
    ({"quantizer": "admm", "pattern": "2:4"}, "needed: bits"),
    ({"bits": "ternary", "quantizer": "lsq"}, "does not train ternary; needed: one of ste, admm, iterative"),
    ({"pattern": "2:4", "block": "16x3"}, "pattern 2:4 and block 16x3 contradict each other"),
    ({"bits": "4/2:4", "pattern": "1:4"}, "name another"), ({"bits": "8,4"}, "are several"),
    ({"method": "nxm-qat", "bits": "32"}, "few bits and a pattern in every matrix; bits '32' with pattern '2:4'"),
    ({"method": "nxm-qat", "bits": "16", "pattern": "1:4"}, "bits '16' with pattern '1:4' are not that"),
    ({"method": "nxm-qat", "bits": "2:4"}, "bits '2:4' with"),
    ({"method": "nxm-qat", "bits": "layer:8,32"}, "are not that"),
    ({"method": "nxm-qat", "pattern": "none"}, "pattern 'none' are not that; needed: for example bits 8"),
    ({"method": "nxm-qat", "bits": "layer:8/2:4,4"}, "not that")])
def test_formats_that_do_not_go_are_refused_in_one_line(bad, said):
    with pytest.raises(InputError) as error:
        PruneConfig(**bad)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_run_of_before_there_were_formats_has_none():
    before = {name: value for name, value in PruneConfig().to_json().items()
              if name not in ("bits", "pattern", "activation_bits", "embedding_bits", "quantizer")}
    assert PruneConfig.from_json(before).formats.plain and not PruneConfig().of_method.get("formats")


def test_formats_are_said_as_they_are_read():
    asked = PruneConfig(bits="layer:8,4/2:4", activation_bits=8, embedding_bits=8)
    assert str(asked.formats) == "layer:8,4/2:4;a8;e8" and PruneConfig.from_json(asked.to_json()) == asked


@pytest.mark.parametrize("said, trained", [
    ({}, "8/2:4"), ({"pattern": "1:4"}, "8/1:4"), ({"bits": "4"}, "4/2:4"), ({"bits": "4/1:4"}, "4/1:4"),
    ({"bits": "ternary", "pattern": "4:8"}, "ternary/4:8"), ({"bits": ";a8"}, None), ({"bits": "3;e8"}, "3/2:4;e8")])
def test_what_nxm_qat_is_not_told_of_bits_and_pattern_it_has_itself(said, trained):
    if trained is None:
        with pytest.raises(InputError, match="few bits"):
            PruneConfig(method="nxm-qat", **said)
        return
    asked = PruneConfig(method="nxm-qat", **said)
    assert str(asked.formats) == trained and PruneConfig.from_json(asked.to_json()) == asked


def test_a_setting_from_the_future_is_refused():
    with pytest.raises(InputError, match="warp"):
        PruneConfig.from_json(PruneConfig().to_json() | {"warp": 9})


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(InputError, match="quick, standard, full"):
        preset("slow")


@pytest.mark.parametrize("name", list(PRESETS))
def test_settings_override_every_preset(name):
    assert preset(name, dense_steps=7).dense_steps == 7 and preset(name).preset == name


def test_stages_are_the_fields_words():
    assert [Stage.of("retrain", c) for c in (1.5, 2.0, 10)] == ["retrain-1.5x", "retrain-2x", "retrain-10x"]


def test_stages_are_told_apart_and_ordered_in_one_place():
    stages = [Stage(name) for name in ("retrain-2x", "penalty-10x", "dense", "retrain-1.5x", "penalty-2x")]
    assert sorted(stages) == ["dense", "penalty-2x", "penalty-10x", "retrain-1.5x", "retrain-2x"]
    assert max(stages) == "retrain-2x" and min(stages) == DENSE and Stage("penalty-2x") >= "dense"
    assert (stages[1].kind, stages[1].compression, DENSE.compression) == ("penalty", 10.0, None)
    assert {Stage("dense"): 1}["dense"] == 1 and json.dumps(stages[0]) == '"retrain-2x"'
    assert [kind_of(phase) for phase in ("dense", "penalty", "retrain-2x")] == ["dense", "penalty", "retrain"]


@pytest.mark.parametrize("name", ["", "penalty", "dense-2x", "retrain-2", "../dense", "retrain-x", 7, None])
def test_what_is_no_stage_is_told(name):
    with pytest.raises(ValueError, match="is no stage"):
        Stage(name)


def test_the_plan_is_epochs_where_the_budget_allows_them():
    asked = PruneConfig(dense_epochs=2, penalty_epochs=3, retrain_epochs=1, dense_budget=None, penalty_budget=None,
                        retrain_budget=None, compressions=(2, 4))
    made = plan(asked, 100, 20.0, MINILM)  # 100 sentences in batches of 32: 4 steps an epoch
    assert (made.dense, made.penalty, made.retrain) == (8, 12, 4)
    assert made.phases == [("dense", 8), ("penalty", 12), ("retrain-2x", 4), ("retrain-4x", 4)]
    assert made.steps == 28


def test_the_plan_stays_within_its_budget_of_arithmetic():
    asked = PruneConfig(dense_budget=100, penalty_budget=50, retrain_budget=60, compressions=(2, 4, 5))
    made = plan(asked, 10**6, 20.0, MINILM)
    step = 6 * 32 * 20.0 * MINILM / NOMINAL_FLOPS  # seconds
    assert step_flops(asked, 20.0, MINILM) / NOMINAL_FLOPS == pytest.approx(step)
    assert (made.dense, made.penalty, made.retrain) == (int(100 / step), int(50 / step), int(20 / step))


def test_steps_given_win_over_epochs_and_budget():
    made = plan(PruneConfig(dense_steps=5, penalty_steps=6, retrain_steps=7, dense_budget=1e-9), 10**6, 20.0, MINILM)
    assert (made.dense, made.penalty, made.retrain) == (5, 6, 7)


def test_a_limit_on_training_examples_shortens_the_epochs():
    asked = PruneConfig(dense_epochs=1, dense_budget=None, train_examples=64)
    assert plan(asked, 10**6, 20.0, MINILM).dense == 2


def test_every_phase_has_at_least_one_step():
    made = plan(PruneConfig(dense_budget=1e-9, penalty_budget=1e-9, retrain_budget=1e-9), 10, 20.0, MINILM)
    assert (made.dense, made.penalty, made.retrain) == (1, 1, 1)


# ---------------------------------------------------------------- times, and what is known before


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("task", list(TASKS))
def test_what_quick_plans_fits_into_three_minutes_and_standard_into_an_hour(name, task):
    asked = preset(name, task=task)
    seconds = estimate.LOADING + estimate.work(asked, estimate.size_of(asked)).seconds
    assert name == "full" or 60 < seconds < {"quick": 180, "standard": 3600}[name]


@pytest.mark.parametrize("method", ["group-lasso", "surgeon", "magnitude"])
@pytest.mark.parametrize("compressions", [(2,), (1.5, 3, 5)])
def test_the_estimate_counts_what_a_run_scores(method, compressions, tiny_model, tiny_data):
    """Sentences scored and steps taken, counted before the start, are those of the run itself."""
    import tiny

    asked = replace(preset("quick", method=method, compressions=compressions, task="rte", data=str(tiny_data)),
                    model=str(tiny_model), block="4x1", dense_steps=5, penalty_steps=12, retrain_steps=2, batch_size=8,
                    moments=3, milestones=2, surface_examples=6, train_examples=24, allow_unknown=True)
    run = tiny.pruning(asked)
    first = run.seconds_left()
    assert first == pytest.approx(run.work.seconds) and first > 0
    left = [run.seconds_left() for _ in run]
    assert all(seconds is not None for seconds in left)
    assert 0.9 * run.spent.scored <= run.work.scored <= 1.25 * run.spent.scored  # equal masks are scored once
    assert run.spent.steps == run.work.plan.steps


def test_a_pace_that_was_measured_stretches_all_parts_alike():
    asked = preset("quick")
    nominal = estimate.work(asked, estimate.size_of(asked))
    slow = nominal.at(3 * nominal.per_step)
    assert slow.seconds == pytest.approx(3 * nominal.seconds) and slow.plan == nominal.plan


def test_another_models_size_is_read_from_its_config(tmp_path):
    said = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert estimate.weights_of(str(tmp_path)) == 12 * (4 * 768**2 + 2 * 768 * 3072)
    (tmp_path / "config.json").write_text(json.dumps({"dim": 64, "n_layers": 2, "hidden_dim": 128}))
    assert estimate.weights_of(str(tmp_path)) == 2 * (4 * 64**2 + 2 * 64 * 128)
    (tmp_path / "config.json").write_text("[]")
    assert estimate.weights_of(str(tmp_path)) is None and estimate.weights_of("no/such-model") is None
    assert estimate.weights_of("minilm") == MINILM


def test_quick_says_before_it_starts_what_it_cannot_teach():
    said = outlook(preset("quick", task="rte"))
    assert "quick cannot teach rte anything: 131 steps" in said and re.search(r"standard \(about \d+ min\)", said)
    assert "never measured" in outlook(preset("quick", task="qnli"))
    assert "teaches mrpc so little that it may be chance" in outlook(preset("quick", task="mrpc"))
    for other in ({"task": "sst2"}, {"dense_steps": 9}, {"data": "practice"}, {"data": "own.csv"}, {"model": "a/b"}):
        assert outlook(preset("quick", **{"task": "rte"} | other)) == ""
    assert outlook(preset("standard", task="rte")) == ""


def test_what_is_said_of_quick_counts_the_steps_that_it_plans():
    """The table was measured with the settings that quick has: who changes them measures anew."""
    for task, outcome in NOTHING.items():
        asked = preset("quick", task=task)
        planned = estimate.work(asked, estimate.size_of(asked)).plan.dense
        assert outcome.score is None or outcome.steps == pytest.approx(planned, rel=0.02)


def test_a_runs_status_tells_the_time_left_from_its_first_line_and_keeps_what_was_said(tiny_model, tiny_data, tmp_path,
                                                                                     monkeypatch, capsys):
    import tiny

    from prune_core.runs.recorder import Recorder
    from prune_core.runs.run import Run
    from prune_core.training import session

    said, write = [], Recorder.status
    monkeypatch.setattr(Recorder, "status", lambda self, **now: (said.append(now), write(self, **now)))
    monkeypatch.setattr(session, "outlook", lambda config: "quick cannot teach this anything")
    asked = tiny.settings(tiny_model, tiny_data)
    session.start(asked, tmp_path, "one", "prune", tiny.silent)
    first = said[0]
    assert (first["phase"], first["step"], first["doing"]) == ("dense", 0, "training") and first["steps"] > 1
    assert first["seconds"] == 0.0 and first["seconds_left"] == pytest.approx(tiny.pruning(asked).work.seconds)
    assert all(now["seconds_left"] is not None for now in said)
    assert "quick cannot teach this anything" in capsys.readouterr().err
    assert "quick cannot teach this anything" in Run(tmp_path / "one").warnings
