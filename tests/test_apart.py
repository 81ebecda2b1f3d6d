"""Why measured and predicted speedups differ: what is known, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import make_layout, make_mask, make_profile

from prune_core.evaluation.speedup import _predicted
from prune_core.latency import apart
from prune_core.latency.profile import Batch

LAYOUT, PROFILE = make_layout(), make_profile("a processor")
HERE = {"speedup": 2.0, "batch": 32, "length": 128, "threads": 2, "machine": PROFILE.machine,
        "dense_ms": PROFILE.dense_ms(LAYOUT, Batch()), "load": 0.1}


def test_over_what_is_said_where_it_is_not_the_best_dense_engine():
    torch_only = replace(PROFILE, rivals={"torch fp32": PROFILE.rivals["torch fp32"]})
    timing = HERE | {"speedup_over_best": 1.0, "rivals_ms": {"torch fp32": 2.0, "torch bf16": 1.0}}
    assert "Measured 2.00x over torch fp32, predicted 3.00x" in apart.why(timing, 3.0, torch_only, LAYOUT)
    assert "Measured 1.00x, predicted 3.00x" in apart.why(timing, 3.0, PROFILE, LAYOUT)


def test_a_measurement_is_held_against_the_path_that_ran():
    mask, setting = make_mask(0.5), Batch()
    for path in PROFILE.paths:
        timing = HERE | {"executed": {"dtype": path.split()[0], "path": path, "why": ""}}
        assert apart.path_of(timing, mask, PROFILE) == path, "int8 too, which is slower here and was forced"
        dense = PROFILE.dense_ms(LAYOUT, setting)
        assert apart.foretold(timing, mask, PROFILE) == dense / PROFILE.path_ms(path, mask, setting)
        best = timing | {"speedup_over_best": 1.0}
        assert apart.foretold(best, mask, PROFILE) == PROFILE.best_rival(LAYOUT, setting)[1] / PROFILE.path_ms(
            path, mask, setting)
    assert apart.foretold(HERE | {"dtype": "bf16", "executed": {"strips": 12}}, mask, PROFILE) == (
        PROFILE.speedup_over_torch(mask, setting, dtype="bf16")), "an older one did not record its path"


@pytest.mark.parametrize("path, engine, said", [
    ("modules", "torch", "module by module are not"), ("bf16 avx512, by modules", "torch", "module by module are not"),
    ("bf16 amx", "torch", "bf16 amx was not calibrated"), ("onnxruntime", "onnxruntime", "")])
def test_what_has_no_prices_is_not_predicted(path, engine, said):
    timing = HERE | {"engine": engine, "executed": {"dtype": "bf16", "path": path, "why": ""}}
    assert apart.path_of(timing, make_mask(), PROFILE) is apart.foretold(timing, make_mask(), PROFILE) is None
    told = apart.why(timing, None, PROFILE, LAYOUT)
    assert said in told and bool(told) is bool(said)
    answer = timing | {"engine": engine}
    assert _predicted(answer, PROFILE, make_mask(), None) == {
        "predicted_ms": None, "predicted_speedup": None, "predicted_error": None, "apart": told}


def test_what_was_forced_is_predicted_as_that():
    timing = HERE | {"engine": "torch", "executed": {"dtype": "int8", "path": "int8 vnni", "why": ""}}
    told = _predicted(timing, PROFILE, make_mask(), None)
    assert told["predicted_ms"] == PROFILE.path_ms("int8 vnni", make_mask(), Batch())
    assert told["predicted_error"] == 0.07


@pytest.mark.parametrize(("other", "predicted", "said"), [
    ({}, 2.2, ""), ({}, 1.8, ""), ({"load": 9.0}, 2.2, ""),
    ({}, 3.0, "Measured 2.00x, predicted 3.00x: nothing recorded explains it"),
    ({"load": 9.1}, 3.0, "the machine was busy (load 9.1 on "),
    ({"load": None}, 3.0, "nothing recorded explains it"),
    ({"machine": {"cpu": "another", "cores": 2}}, 3.0, "another processor (a processor)"),
    ({"threads": 4}, 3.0, "it is for 2 threads, 4 were used"),
    ({"dense_ms": 3 * HERE["dense_ms"]}, 3.0, "3.0 times the")])
def test_what_is_said(other, predicted, said):
    told = apart.why(HERE | other, predicted, PROFILE, LAYOUT)
    assert said in told and bool(told) is bool(said)
