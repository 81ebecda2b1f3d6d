"""Calibration: the fit, what is timed and for how long, and which paths are marked. Numbers and order, no times."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from sample_run import make_mask

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.execution import calibrate, native, rivals
from prune_core.execution.calibrate import Sample
from prune_core.execution.timing import sentences
from prune_core.latency.profile import Profile
from prune_core.latency.strips import Blocking
from prune_core.latency.work import Batch
from prune_core.models import encoders

BLOCKING = Blocking(32, 14, 1, 4)
needs_compiler = pytest.mark.skipif(native.library() is None, reason=f"kernels: {native.why_not()}")


@pytest.fixture
def encoder():
    return encoders.describe("tiny", tiny.model("bert"), tiny.tokenizer("bert"))


def made_up(noise: float = 0.0, each: int = 10) -> tuple[dict, list[Sample]]:
    """(prices, samples that they make); one of `each` times is longer by `noise`."""
    random, truth, samples = np.random.default_rng(0), {"a": 2e-3, "b": 5e-6, "c": 0.0}, []
    for number in range(60):
        counts = {"a": random.uniform(1, 100), "b": random.uniform(1e3, 1e6), "c": random.uniform(1, 9)}
        samples.append(Sample("fp32", counts, sum(counts[k] * truth[k] for k in truth)
                              * (1 + noise * (number % each == 0))))
    return truth, samples


def test_the_fit_finds_prices_that_made_the_times():
    truth, samples = made_up()
    assert calibrate._fit(samples) == pytest.approx(truth, rel=1e-6, abs=1e-9)


def test_a_noisy_moment_moves_no_price():
    truth, samples = made_up(3.0)
    assert calibrate._fit(samples) == pytest.approx(truth, rel=0.01, abs=1e-4)


def test_a_path_that_never_gained_is_marked():
    _, plain = made_up()
    slow = [replace(one, of="int8 vnni", ms=1.1 * one.ms) for one in plain]
    once = [replace(one, of="bf16 avx512", ms=one.ms * (0.9 if at == 7 else 1.2)) for at, one in enumerate(plain)]
    samples = [*plain, *slow, *once]
    marked = {name: calibrate._path(name, BLOCKING, samples[::2], samples[1::2]).slower
              for name in ("fp32", "int8 vnni", "bf16 avx512")}
    assert marked == {"fp32": False, "int8 vnni": True, "bf16 avx512": False}


def test_what_is_too_large_to_be_timed_often_is_made_smaller():
    large = calibrate.Step((768, 3072, 12), 6, Batch(32, 128))
    small = large.affordable()
    assert small.cost <= calibrate._LARGEST < large.cost and small.setting.length == 128
    assert replace(small, setting=Batch(1, 32)).affordable() == replace(small, setting=Batch(1, 32))


def test_paths_that_run_here_begin_with_fp32():
    known = calibrate.runnable()
    assert known[0] == "fp32" and len(set(known)) == len(known)


@needs_compiler
def test_a_short_calibration_prices_an_unseen_mask(monkeypatch):
    monkeypatch.setattr(calibrate, "_SIZES", ((64, 128, 2),))
    monkeypatch.setattr(calibrate, "_SETTINGS", (Batch(1, 8), Batch(4, 16), Batch(8, 32)))
    monkeypatch.setattr(calibrate, "_BLOCKS", ("16x1",))
    monkeypatch.setattr(calibrate, "_RIVALS", ("torch fp32", "torch bf16"))
    *progress, calibrated = calibrate.calibrate(1, masks=12, seconds=0.0)
    assert [(one.done, one.total) for one in progress] == [(at, 18) for at in range(1, 19)]
    assert progress[0].seconds_left is None and progress[-1].seconds_left == 0
    assert calibrated.threads == 1 and calibrated.masks == 3
    assert list(calibrated.rivals) == ["torch fp32", "torch bf16"] and list(calibrated.paths) == calibrate.runnable()
    assert all(np.isfinite(one.error) for one in (*calibrated.paths.values(), *calibrated.rivals.values()))
    assert Profile.from_json(json.loads(json.dumps(calibrated.to_json()))) == calibrated
    mask = make_mask(0.5)
    for path in calibrated.paths.values():
        assert all(price >= 0 for price in path.ms.values())
    assert calibrated.compact_ms(mask, Batch(2, 16)) > 0


@needs_compiler
def test_a_calibration_ends_when_its_time_is_up(monkeypatch):
    monkeypatch.setattr(calibrate, "_SIZES", ((64, 128, 2),))
    monkeypatch.setattr(calibrate, "_SETTINGS", (Batch(1, 8),))
    monkeypatch.setattr(calibrate, "_BLOCKS", ("16x1",))
    monkeypatch.setattr(calibrate, "_RIVALS", ("torch fp32", "torch bf16"))
    monkeypatch.setattr(calibrate, "SECONDS", 0.0)
    monkeypatch.setattr(calibrate, "LEAST", 8)
    *progress, calibrated = calibrate.calibrate(1, masks=400, seconds=0.0)
    assert progress[-1].done == 2 + 7 and calibrated.masks == 2  # two depths of dense encoders, then masks


def test_dense_engines_that_are_installed_are_timed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    there = [name for name in rivals.NAMES if not rivals.missing(name.split()[0])]
    model = calibrate._random_encoder((64, 128, 2), 1)
    runs, left_out = rivals.opened(model, sentences(model, Batch(1, 8)), calibrate._RIVALS, tmp_path)
    timed = [calibrate._dense(model, runs, setting, 0.0) for setting in (Batch(1, 8), Batch(3, 16))]
    assert [[one.of for one in samples] for samples in timed] == [there, there]
    assert {*there, *left_out} == set(rivals.NAMES)
    assert all(one.ms > 0 for samples in timed for one in samples)


def test_without_kernels_there_is_nothing_to_calibrate(monkeypatch):
    monkeypatch.setattr(calibrate, "runnable", lambda: [])
    with pytest.raises(InputError, match="nothing to calibrate"):
        list(calibrate.calibrate(1))


def test_random_masks_are_uneven(encoder):
    block = BlockShape.parse("16x1")
    masks = [calibrate.random_mask(encoder, block, np.random.default_rng(seed)) for seed in range(20)]
    assert len({round(mask.sparsity, 3) for mask in masks}) > 15 and max(m.sparsity for m in masks) > 0.6
    assert replace(masks[0].layout) == masks[1].layout and torch.get_num_threads() >= 1
