"""Latency: work by hand, prices, profiles as files, timing in turn. Numbers and order are compared, no times."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import sample_run
import tiny
import torch

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import calibrate, compact, engines, native
from prune_core.execution import timing as timing_
from prune_core.execution.calibrate import Sample
from prune_core.execution.compact import CompactLinear
from prune_core.execution.paths import PATHS
from prune_core.execution.timing import alternate
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch, Profile, work
from prune_core.latency.strips import Registers
from prune_core.models import encoders
from prune_core.models.encoders import heads_of

REGISTERS = Registers(16, 4)
needs_compiler = pytest.mark.skipif(native.library() is None, reason=f"kernels: {native.why_not()}")


def full_mask(share: float = 1.0, block: str = "16x1") -> BlockMask:
    layout, random = sample_run.make_layout(block=block), np.random.default_rng(0)
    return BlockMask(layout, {m.name: random.random(layout.block.grid(m.m, m.n)) < share for m in layout.matrices})


def profile() -> Profile:
    return sample_run.make_profile()


# ---------------------------------------------------------------- counts and prices


def test_work_of_an_uncut_encoder_by_hand():
    """Two layers, hidden 64, inner 128, 16x1: every strip is one vector wide."""
    counts = work(full_mask(), Batch(3, 5), REGISTERS)
    weights = 2 * (4 * 64 * 64 + 2 * 64 * 128)
    assert counts["multiply 1"] == 15 * weights and counts["weights"] == weights
    assert counts["multiply 2"] == counts["multiply 3"] == counts["multiply 4"] == counts["scatter"] == 0
    assert counts["store"] == 15 * 2 * (4 * 64 + 128 + 64) and counts["panels"] == 2 * (4 * 4 + 8 + 4)
    assert counts["gelu"] == 15 * 2 * 128 and counts["transpose"] == 15 * 2 * (5 * 64 + 128)
    assert counts["attention"] == 3 * 25 * 2 * 64 and counts["layers"] == 2 and counts["call"] == 1


def test_work_shrinks_with_what_is_cut():
    some = [work(full_mask(share), Batch(), REGISTERS) for share in (1.0, 0.5, 0.1)]
    assert some[0]["multiply 1"] > some[1]["multiply 1"] > some[2]["multiply 1"] > 0
    mask = full_mask(0.5)
    kept = sum(int(mask.kept[m.name].sum()) * 16 for m in mask.layout.matrices)
    assert work(mask, Batch(1, 1), REGISTERS)["multiply 1"] == kept


def test_work_is_what_the_compact_layers_hold():
    if native.library() is None:
        pytest.skip(native.why_not())
    encoder = encoders.describe("tiny", tiny.model("bert"), tiny.tokenizer("bert"))
    for block in ("16x1", "32x1", "1x16", "8x8"):
        layout, random = encoder.layout(BlockShape.parse(block)), np.random.default_rng(1)
        mask = BlockMask(layout, {m.name: random.random(layout.block.grid(m.m, m.n)) < 0.3 for m in layout.matrices})
        small = compact.compact(encoder.model, mask)
        held = [m for m in small.modules() if isinstance(m, CompactLinear)]
        counts = work(mask, Batch(1, 1), native.registers(), heads_of(encoder.model, encoder.matrices))
        assert counts["weights"] == sum(m.weights.numel() for m in held)
        assert counts["panels"] == sum(len(m.panels) for m in held)


def test_prices_by_hand():
    mask, setting = full_mask(), Batch(2, 4)
    weights = mask.layout.encoder_weights
    assert profile().compact_ms(mask, setting) == pytest.approx(0.5 + 8 * weights * 1e-6)
    assert profile().dense_ms(mask.layout, setting) == pytest.approx(0.5 + 8 * weights * 2e-6)
    assert profile().speedup(mask, setting) == pytest.approx((0.5 + 16e-6 * weights) / (0.5 + 8e-6 * weights))


@pytest.mark.parametrize("batch, length", [(0, 1), (1, 0), (-1, 5), (5000, 1), (1, 99999), (4096, 4096)])
def test_settings_out_of_range(batch, length):
    with pytest.raises(InputError, match="out of range"):
        Batch(batch, length)


# ---------------------------------------------------------------- profiles as files


def test_a_profile_comes_back_as_it_was(tmp_path):
    profile_files.write(profile(), tmp_path / "new" / "p.json")
    assert profile_files.read(tmp_path / "new" / "p.json") == profile()


@pytest.mark.parametrize("damage", [
    lambda d: [], lambda d: d | {"format": 99},
    lambda d: {k: v for k, v in d.items() if k != "dense"},
    lambda d: d | {"compact": {"call": -1}},
    lambda d: d | {"compact": {"call": "x"}}, lambda d: d | {"compact": 3},
    lambda d: d | {"lanes": 7}, lambda d: d | {"error": float("inf")},
    lambda d: d | {"vectors": 99}, lambda d: d | {"machine": "x"}, lambda d: d | {"dense": {}}])
def test_a_damaged_profile_is_one_line(tmp_path, damage):
    (tmp_path / "p.json").write_text(json.dumps(damage(profile().to_json())))
    with pytest.raises(InputError, match="latency profile") as error:
        profile_files.read(tmp_path / "p.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_one_line(tmp_path, content):
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        profile_files.read(tmp_path / "p.json")
    with pytest.raises(InputError, match="cannot be read"):
        profile_files.read(tmp_path / "none.json")


def test_the_profiles_that_ship_are_good_ones():
    profiles = [profile_files.read(path) for path in profile_files.shipped()]
    assert profiles and all(p.error <= 0.1 and p.masks >= 30 for p in profiles)


def test_another_machine_has_another_file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {profile_files.own_file({"cpu": cpu, "cores": cores}, threads)
             for cpu in ("AMD EPYC", "Intel(R) i7/../x") for cores in (2, 4) for threads in (1, 2)}
    assert len(files) == 8 and all(f.parent == tmp_path / "prunescope" for f in files)


# ---------------------------------------------------------------- timing


def test_calls_are_timed_in_turn_after_two_rounds_to_warm_up():
    order = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0.0, least=5)
    assert order == ["a", "b"] * 7 and {name: timing.runs for name, timing in times.items()} == {"a": 5, "b": 5}
    assert all(t.low <= t.median <= t.high for t in times.values())


@pytest.fixture
def encoder():
    return encoders.describe("tiny", tiny.model("bert"), tiny.tokenizer("bert"))


def tiny_mask(encoder, share: float = 0.5) -> BlockMask:
    layout, random = encoder.layout(BlockShape.parse("16x1")), np.random.default_rng(0)
    return BlockMask(layout, {m.name: random.random(layout.block.grid(m.m, m.n)) < share for m in layout.matrices})


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "auto"])
def test_measure_tells_what_it_did(encoder, dtype):
    answer = timing_.measure(encoder.model, tiny_mask(encoder), Batch(3, 20), 1, dtype, seconds=0.0)
    assert answer["speedup"] == pytest.approx(answer["dense_ms"] / answer["compact_ms"])
    assert answer["executed"]["dtype"] in PATHS and answer["executed"]["path"] in PATHS[answer["executed"]["dtype"]]
    assert bool(answer["executed"]["why"]) is (dtype not in (answer["executed"]["dtype"], "auto"))
    assert (answer["batch"], answer["length"], answer["threads"], answer["dtype"], answer["rounds"]) == (
        3, 20, 1, dtype, 5)
    assert answer["ideal_speedup"] == pytest.approx(1 / (1 - answer["sparsity"]))
    assert sum(answer["executed"]["matrices"].values()) == 12
    assert answer["dense_spread"][0] <= answer["dense_ms"] <= answer["dense_spread"][1]
    assert [layer for layer, _, _ in answer["layers_ms"]] in ([0, 1], [])  # a pass over all at once has none
    assert all(dense > 0 and small > 0 for _, dense, small in answer["layers_ms"])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_compact_graph_gives_the_same_logits_in_the_engines(encoder, engine, tmp_path):
    pytest.importorskip(engine)
    mask = tiny_mask(encoder)
    graph = engines.to_onnx(compact.compact(encoder.model, mask, kernels=False), tmp_path / "compact.onnx")
    for lengths in ((7, 7), (3, 9, 1)):
        keep = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        inputs = {"input_ids": torch.randint(5, 20, keep.shape) * keep, "attention_mask": keep.long()}
        with torch.inference_mode():
            wanted = compact.compact(encoder.model, mask)(**inputs).logits.numpy()
        assert np.abs(engines.session(engine, graph, 1)(inputs) - wanted).max() < 1e-4


def test_an_engine_that_is_not_known(encoder):
    with pytest.raises(InputError, match="torch, onnxruntime, openvino"):
        timing_.measure(encoder.model, tiny_mask(encoder), Batch(1, 4), 1, engine="tensorrt")
    with pytest.raises(InputError, match="not known here"):
        engines.session("onnxruntime", None, 1, "bf16")


def test_a_length_beyond_the_positions_and_an_unknown_dtype(encoder):
    with pytest.raises(InputError, match="at most 46"):
        timing_.measure(encoder.model, tiny_mask(encoder), Batch(1, 47), 1)
    with pytest.raises(InputError, match="fp32, bf16, int8, auto"):
        timing_.measure(encoder.model, tiny_mask(encoder), Batch(1, 4), 1, "fp16")


def test_the_fit_finds_prices_that_made_the_times():
    random = np.random.default_rng(0)
    truth = {"a": 2e-3, "b": 5e-6, "c": 0.0}
    samples = []
    for _ in range(60):
        counts = {"a": random.uniform(1, 100), "b": random.uniform(1e3, 1e6), "c": random.uniform(1, 9)}
        samples.append(Sample("compact", counts, sum(counts[k] * truth[k] for k in truth)))
    prices = calibrate._fit(samples, "compact")
    assert prices == pytest.approx(truth, rel=1e-6, abs=1e-9)


@needs_compiler
def test_a_short_calibration_prices_an_unseen_mask(monkeypatch):
    monkeypatch.setattr(calibrate, "_SIZES", ((64, 128, 2),))
    monkeypatch.setattr(calibrate, "_SETTINGS", (Batch(1, 8), Batch(4, 16), Batch(8, 32)))
    monkeypatch.setattr(calibrate, "_BLOCKS", ("16x1",))
    *progress, calibrated = calibrate.calibrate(1, fit=8, check=3, seconds=0.0)
    assert progress == [(i, 11) for i in range(1, 12)] and calibrated.threads == 1 and calibrated.masks == 3
    assert np.isfinite(calibrated.error)
    assert Profile.from_json(json.loads(json.dumps(calibrated.to_json()))) == calibrated
    mask = full_mask(0.5)
    assert all(price >= 0 for price in calibrated.compact.values()) and calibrated.compact_ms(mask, Batch(2, 16)) > 0


def test_without_kernels_there_is_nothing_to_calibrate(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    with pytest.raises(InputError, match="nothing to calibrate"):
        list(calibrate.calibrate(1))


def test_random_masks_are_uneven(encoder):
    block = BlockShape.parse("16x1")
    masks = [calibrate.random_mask(encoder, block, np.random.default_rng(seed)) for seed in range(20)]
    assert len({round(mask.sparsity, 3) for mask in masks}) > 15 and max(m.sparsity for m in masks) > 0.6
    assert replace(masks[0].layout) == masks[1].layout and torch.get_num_threads() >= 1
