"""Timing: the dense and the compact model in turn, in one process, after a warm-up."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.execution import engines, native
from prune_core.execution.alternate import Timing, alternate
from prune_core.execution.compact import DTYPES, compact
from prune_core.execution.engines import ENGINES
from prune_core.execution.unpadded import unpad_
from prune_core.execution.whole import small_model
from prune_core.latency.profile import Batch
from prune_core.latency.strips import layers_of
from prune_core.machine import machine


def sentences(model: nn.Module, setting: Batch) -> dict[str, torch.Tensor]:
    """A batch of random token ids, all of the full length. Raises InputError where the model has no such positions."""
    positions = getattr(model.config, "max_position_embeddings", None) or setting.length
    if setting.length > positions - 2:
        raise InputError(f"length {setting.length} is more than this model has positions for; at most {positions - 2}")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (setting.batch, setting.length), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def layer_modules(model: nn.Module, layout: Layout) -> dict[int, nn.Module]:
    """Layer -> the module that its matrices lie in; without layers that have none of their own.

    Ask before `unpad_` moves them.
    """
    layer_of: dict[str, int | None] = {}  # the module's name -> its layer; None where it holds several
    for parts in layers_of(layout):
        levels = zip(*(matrix.name.split(".") for matrix in parts.values()), strict=False)
        shared = ".".join(same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, levels))
        layer_of[shared] = None if shared in layer_of else next(iter(parts.values())).layer
    return {layer: model.get_submodule(name) for name, layer in layer_of.items() if layer is not None}


@contextlib.contextmanager
def clocked(layers: Mapping[int, nn.Module]) -> Iterator[dict[int, list[float]]]:
    """Layer -> milliseconds of each of its calls while this is open."""
    taken: dict[int, list[float]] = {layer: [] for layer in layers}
    starts: list[float] = []  # layers run one after the other

    def stop(times: list[float]) -> None:
        times.append(1e3 * (time.perf_counter() - starts.pop()))

    hooks = [hook for layer, module in layers.items() for hook in (
        module.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter())),
        module.register_forward_hook(lambda *_, times=taken[layer]: stop(times)))]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


def forward(model: nn.Module, inputs: Mapping[str, torch.Tensor], dtype: str = "fp32") -> Callable[[], object]:
    """A call of the model on `inputs`, without gradients; bf16 as torch autocasts it."""
    def call():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            return model(**inputs).logits

    return call


def measure(
    model: nn.Module, mask: BlockMask, setting: Batch, threads: int = 0, dtype: str = "fp32", seconds: float = 6.0,
    engine: str = "torch",
) -> dict:
    """Time the dense model against the compact one in an engine: what `measure --json` prints, but for predictions.

    In torch the compact model runs on the kernels; another engine is given both as ONNX graphs. Raises InputError.
    """
    for name, value, known in (("dtype", dtype, DTYPES), ("engine", engine, ENGINES)):
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown; one of {', '.join(known)}")
    torch.set_num_threads(threads or torch.get_num_threads())
    model.eval()
    inputs = sentences(model, setting)
    if engine == "torch":
        small, times, layers = _in_torch(model, mask, inputs, dtype, seconds)
        kernels = native.why_not() or "native"
    else:
        small, times, layers = _in_engine(model, mask, inputs, dtype, seconds, engine)
        kernels = native.why_not() or "none: a graph of smaller dense products"
    dense, fast = times["dense"], times["compact"]
    executed = {kind: sum(e == kind for e in small.executed.values()) for kind in sorted(set(small.executed.values()))}
    return {
        "dense_ms": dense.median, "compact_ms": fast.median, "speedup": dense.median / fast.median,
        "ideal_speedup": mask.compression_encoder,
        "dense_spread": [dense.low, dense.high], "compact_spread": [fast.low, fast.high],
        "layers_ms": layers, "rounds": dense.runs, "sparsity": mask.sparsity,
        "compression_encoder": mask.compression_encoder, "compression_model": mask.compression_model,
        "batch": setting.batch, "length": setting.length, "threads": torch.get_num_threads(),
        "dtype": dtype, "engine": engine, "executed": executed, "kernels": kernels, "machine": machine()}


def in_turn(
    model: nn.Module, masks: Sequence[BlockMask], setting: Batch, threads: int = 0, seconds: float = 10.0,
) -> tuple[Timing, list[Timing]]:
    """(dense, compact of every mask): all called one after the other, round by round, in torch, fp32.

    What a noisy moment slows, it slows for all, so that they can be compared. Raises InputError.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    model.eval()
    inputs = sentences(model, setting)
    calls = {str(at): forward(small_model(model, mask), inputs) for at, mask in enumerate(masks)}
    times = alternate({"dense": forward(model, inputs), **calls}, seconds)
    return times["dense"], [times[at] for at in calls]


def _in_torch(
    model: nn.Module, mask: BlockMask, inputs: Mapping[str, torch.Tensor], dtype: str, seconds: float,
) -> tuple[nn.Module, dict[str, Timing], list[list]]:
    """(compact model on the kernels, both timings, [layer, dense ms, compact ms] of every layer)."""
    small = compact(model, mask, DTYPES[dtype])
    dense_layers, small_layers = (layer_modules(each, mask.layout) for each in (model, small))
    unpad_(small)
    with clocked(dense_layers) as slow, clocked(small_layers) as quick:
        times = alternate({"dense": forward(model, inputs, dtype), "compact": forward(small, inputs)}, seconds)
    layers = [[layer, *(float(np.median(ms[layer][2:])) for ms in (slow, quick))] for layer in slow]  # not the warm-up
    return small, times, layers


def _in_engine(
    model: nn.Module, mask: BlockMask, inputs: Mapping[str, torch.Tensor], dtype: str, seconds: float, engine: str,
) -> tuple[nn.Module, dict[str, Timing], list[list]]:
    """(compact model without kernels, both timings, no layers: a graph has none)."""
    small = compact(model, mask, kernels=False)
    calls = {}
    with tempfile.TemporaryDirectory(prefix="prunescope-") as folder:
        for name, each in (("dense", model), ("compact", small)):
            graph = engines.to_onnx(each, Path(folder) / f"{name}.onnx")
            run = engines.session(engine, graph, torch.get_num_threads(), dtype)
            calls[name] = lambda run=run: run(inputs)
        return small, alternate(calls, seconds), []
