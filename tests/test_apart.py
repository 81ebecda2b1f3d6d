"""Why measured and predicted speedups differ: what is known, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import make_layout, make_profile

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
