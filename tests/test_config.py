"""Settings and the plan made of them."""

from __future__ import annotations

import json
import os

import pytest

from prune_core import InputError
from prune_core.runs.config import PRESETS, PruneConfig, preset
from prune_core.runs.schedule import NOMINAL_FLOPS, plan, step_flops
from prune_core.runs.stages import DENSE, Stage, kind_of

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
