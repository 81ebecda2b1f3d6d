"""Timing in turn, and engines that run compact graphs. Numbers and order are compared, no times."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import compact, engines
from prune_core.execution import timing as timing_
from prune_core.execution.paths import PATHS
from prune_core.execution.timing import alternate
from prune_core.latency.work import Batch
from prune_core.models import encoders


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
    assert [layer for layer, _, _ in answer["layers_ms"]] == [0, 1]
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
