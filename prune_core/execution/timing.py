"""Timing: the dense model in every engine, the unpruned one in our own pass and the compact one, in turn, in one
process, after a warm-up."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.execution import engines, gather, gpu, native, paths
from prune_core.execution import rivals as rivals_
from prune_core.execution.alternate import Timing, alternate
from prune_core.execution.compact import compact
from prune_core.execution.engines import ENGINES, forward
from prune_core.execution.rivals import DENSE
from prune_core.execution.whole import Whole, small_model
from prune_core.latency.profile import Batch, uncut
from prune_core.latency.strips import layers_of
from prune_core.machine import machine, processor
from prune_core.models import devices
from prune_core.models.devices import CPU

SETTLES = 20.0  # milliseconds: a quicker call still feels the threads and caches of what was called before it
WARM = 0.25  # of the bar, for what comes before the timing
UNPRUNED = "unpruned"
Told = Callable[[float, str], None]  # hears the share that is done, and in words what goes on


def silent(_share: float, _words: str) -> None:
    """Hears nothing."""


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


@dataclass(frozen=True)
class Sitting:
    """What was timed in turn: the rivals, the unpruned model in our own pass, and the compact models."""

    rivals: Mapping[str, Timing]
    left_out: Mapping[str, str]
    unpruned: Timing | None
    compact: Sequence[Timing]
    smalls: Sequence[nn.Module]
    layers: list[list]  # [layer, dense ms, compact ms] of the first compact model; [] where they cannot be told apart

    def numbers(self, at: int = 0) -> dict:
        """What is told of one compact model: milliseconds, and how much faster it is than what."""
        dense, fast, own = self.rivals.get(DENSE), self.compact[at], self.unpruned
        best = min(self.rivals, key=lambda name: self.rivals[name].median)
        best_ms, dense = self.rivals[best].median, dense or self.rivals[best]
        return {
            "dense_ms": dense.median, "compact_ms": fast.median, "speedup": dense.median / fast.median,
            "unpruned_ms": own and own.median, "rivals_ms": {name: t.median for name, t in self.rivals.items()},
            "rivals_left_out": dict(self.left_out), "best_rival": best, "speedup_over_best": best_ms / fast.median,
            "from_pass": own and best_ms / own.median, "from_pruning": own and own.median / fast.median,
            "dense_spread": [dense.low, dense.high], "compact_spread": [fast.low, fast.high],
            "unpruned_spread": own and [own.low, own.high],
            "rivals_spread": {name: [t.low, t.high] for name, t in self.rivals.items()}, "rounds": dense.runs}


def measure(
    model: nn.Module, mask: BlockMask, setting: Batch, threads: int = 0, dtype: str = "fp32", seconds: float = 6.0,
    engine: str = "torch", rivals: str = "none", path: str | None = None, told: Told = silent,
    device: torch.device = CPU,
) -> dict:
    """Time the dense model, in torch fp32 and in each of the `rivals`, against the compact one in the arithmetic
    `dtype`: what `measure --json` prints, but for predictions.

    Another engine than torch is given both models as ONNX graphs, and has no rivals. Raises InputError.
    """
    return in_turn(model, [mask], setting, threads, seconds, dtype, engine, rivals, path, told, device)[0]


def in_turn(
    model: nn.Module, masks: Sequence[BlockMask], setting: Batch, threads: int = 0, seconds: float = 10.0,
    dtype: str = "fp32", engine: str = "torch", rivals: str = "none", path: str | None = None, told: Told = silent,
    device: torch.device = CPU,
) -> list[dict]:
    """What `measure` says of the compact model of every mask: all called one after the other, round by round.

    What a noisy moment slows, it slows for all, so that they can be compared. On a GPU torch's own products are timed
    there, by its events. Raises InputError.
    """
    paths.check(dtype)
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; one of {', '.join(ENGINES)}")
    names = rivals_.chosen(rivals)
    torch.set_num_threads(threads or torch.get_num_threads())
    model.eval()
    inputs = sentences(model, setting)
    if device.type != "cpu":
        if engine != "torch":
            raise InputError(f"engine {engine!r} runs on the processor here; needed on {device.type}: torch")
        sitting = _on_gpu(model, masks, inputs, dtype, path, names, seconds, told, device)
    elif engine == "torch":
        paths.check(dtype)
        (sitting,) = _in_torch([(model, masks)], [inputs], dtype, path, names, seconds, told)
    else:
        if len(names) > 1 or path:
            raise InputError(f"engine {engine!r} compares the dense graph with the compact one; rivals and path "
                             "belong to engine torch")
        engines.check(engine, dtype)
        sitting = _in_engine(model, masks, inputs, dtype, seconds, engine)
    shared = _shared(setting, dtype, path, engine, device)
    return [_told(sitting, at, mask, dtype, engine) | shared for at, mask in enumerate(masks)]


def _where(device: torch.device, engine: str) -> dict:
    """On what, and by whose products."""
    there = devices.describe(device)
    if device.type != "cpu":
        kernels = f"none: torch's products on {device.type}, eager, fp32 multiplied in {matmul()} for all alike"
        return {"device": there, "processor": there["name"], "kernels": kernels}
    kernels = native.why_not() or ("native" if engine == "torch" else "none: a graph of smaller dense products")
    return {"device": there, "processor": processor(), "kernels": kernels}


def _executed(small: nn.Module, dtype: str, engine: str) -> dict:
    """The arithmetic and the path that ran, why another than was asked for, and how many matrices ran how."""
    kinds = list(small.executed.values())
    ran = ({"dtype": small.choice.dtype, "path": small.choice.path, "why": small.choice.why} if engine == "torch" else
           {"dtype": dtype, "path": engine, "why": ""})
    tried = {"tried": small.tried, "gather": gather.why_not()} if hasattr(small, "tried") else {}
    return ran | {"matrices": {kind: kinds.count(kind) for kind in sorted(set(kinds))}} | tried


def side_by_side(
    models: Sequence[tuple[nn.Module, BlockMask]], setting: Batch, threads: int = 0, seconds: float = 10.0,
    dtype: str = "fp32", rivals: str = "none", told: Told = silent,
) -> list[dict]:
    """What `in_turn` says, of compact models made of several dense ones, on the processor: one sitting for all.

    `models`: the dense model and the mask of each; of a model that stands there twice, the rivals are timed once, and
    the speedup of each compact model is over the rivals of its own. Raises InputError.
    """
    paths.check(dtype)
    names = rivals_.chosen(rivals)
    torch.set_num_threads(threads or torch.get_num_threads())
    groups: dict[nn.Module, list[BlockMask]] = {}
    for model, mask in models:
        groups.setdefault(model.eval(), []).append(mask)
    inputs = [sentences(model, setting) for model in groups]
    sittings = dict(zip(groups, _in_torch(list(groups.items()), inputs, dtype, None, names, seconds, told),
                        strict=True))
    shared, seen, answers = _shared(setting, dtype, None, "torch", CPU), dict.fromkeys(groups, 0), []
    for model, mask in models:
        sitting, at = sittings[model], seen[model]
        seen[model] += 1
        answers.append(_told(sitting, at, mask, dtype, "torch") | shared)
    return answers


def _shared(setting: Batch, dtype: str, path: str | None, engine: str, device: torch.device) -> dict:
    """What is told of all that one sitting timed."""
    return {"batch": setting.batch, "length": setting.length, "threads": torch.get_num_threads(), "dtype": dtype,
            "path": path, "engine": engine, "machine": machine()} | _where(device, engine)


def _told(sitting: Sitting, at: int, mask: BlockMask, dtype: str, engine: str) -> dict:
    """What is told of one compact model of a sitting."""
    return sitting.numbers(at) | {
        "ideal_speedup": mask.compression_encoder, "layers_ms": sitting.layers, "sparsity": mask.sparsity,
        "compression_encoder": mask.compression_encoder, "compression_model": mask.compression_model,
        "executed": _executed(sitting.smalls[at], dtype, engine)}


def _in_torch(
    groups: Sequence[tuple[nn.Module, Sequence[BlockMask]]], inputs: Sequence[Mapping[str, torch.Tensor]], dtype: str,
    path: str | None, names: Sequence[str], seconds: float, told: Told,
) -> list[Sitting]:
    """Of each dense model its rivals, the unpruned model and the compact ones on our kernels, all in one sitting."""
    made = [([small_model(model, mask, dtype, path) for mask in masks],  # first: what is refused, is refused at once
             small_model(model, uncut(masks[0].layout), dtype, path)) for model, masks in groups]
    with tempfile.TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True) as folder:
        calls, left = {}, []
        for at, ((model, _), (smalls, own), own_inputs) in enumerate(zip(groups, made, inputs, strict=True)):
            place = Path(folder) / str(at)
            place.mkdir()
            ready, left_out = rivals_.calls(model, own_inputs, names, place, lambda words: told(0.0, words))
            if DENSE not in ready:
                raise InputError(f"the dense model does not run in torch: {left_out[DENSE]}")
            left.append(left_out)
            ready |= {UNPRUNED: forward(own, own_inputs)}
            ready |= {f"compact {number}": forward(each, own_inputs) for number, each in enumerate(smalls)}
            calls |= {(at, name): call for name, call in ready.items()}
        what = f"timing {len(calls)} in turn on {processor()}"
        told(WARM, what)
        first = groups[0][0]
        layers = layer_modules(first, groups[0][1][0].layout)
        with clocked(layers) as slow, _clocked_small(made[0][0][0], first, layers) as quick:
            times = alternate(calls, seconds, settles=SETTLES,
                              told=lambda share: told(WARM + (1 - WARM) * share, what))
    told(1.0, what)
    return [Sitting({name: times[at, name] for name in names if (at, name) in times}, left[at], times[at, UNPRUNED],
                    [times[at, f"compact {number}"] for number in range(len(smalls))], smalls,
                    [] if at else _by_layer(slow, quick)) for at, (smalls, _) in enumerate(made)]


def _on_gpu(
    model: nn.Module, masks: Sequence[BlockMask], inputs: Mapping[str, torch.Tensor], dtype: str, path: str | None,
    names: Sequence[str], seconds: float, told: Told, device: torch.device,
) -> Sitting:
    """The dense model in torch, in both precisions that are asked for, and the compact ones, on this device."""
    model.to(device)
    inputs = {name: one.to(device) for name, one in inputs.items()}
    smalls = [small_model(model, mask, dtype, path) for mask in masks]
    told(0.0, f"timing each product on {devices.describe(device)['name']}")
    for mask, each in zip(masks, smalls, strict=True):
        each.tried = gpu.fastest_(each, model, mask, inputs["input_ids"].numel())
    ours = {DENSE: model} | ({f"torch {smalls[0].choice.dtype}": gpu.cast(model)}
                             if smalls[0].choice.dtype != "fp32" else {})
    left_out = {name: f"runs on the processor, not on {device.type}" for name in names if not name.startswith("torch ")}
    calls = {name: forward(each, inputs) for name, each in ours.items()}
    calls |= {f"compact {at}": forward(each, inputs) for at, each in enumerate(smalls)}
    what = f"timing {len(calls)} in turn on {devices.describe(device)['name']}"
    times = alternate(calls, seconds, told=lambda share: told(share, what),
                      clock=lambda call: devices.milliseconds(device, call))
    told(1.0, what)
    return Sitting({name: times[name] for name in ours}, left_out, None,
                   [times[f"compact {at}"] for at in range(len(smalls))], smalls, [])


def matmul() -> str:
    """In what torch multiplies fp32 on GPUs: fp32, or TF32 where somebody has allowed that."""
    return "fp32" if torch.get_float32_matmul_precision() == "highest" else "TF32"


@contextlib.contextmanager
def _clocked_small(small: nn.Module, model: nn.Module,
                   layers: Mapping[int, nn.Module]) -> Iterator[dict[int, list[float]]]:
    """As `clocked`, of the compact model of `model`, whose layers these are: of its one pass, where it has one."""
    whole = next((module for module in small.modules() if isinstance(module, Whole)), None)
    if whole is None:
        with clocked(_twins(layers, model, small)) as taken:
            yield taken
        return
    taken: dict[int, list[float]] = {layer: [] for layer in layers} if len(layers) == whole.encoder.count else {}
    plain = whole.run

    def run(*arguments, **more):
        seconds = np.zeros(whole.encoder.count)  # of all threads together
        out = plain(*arguments, **more, spent=seconds)
        for layer, times in taken.items():
            times.append(1e3 * seconds[layer] / torch.get_num_threads())
        return out

    whole.run = run
    try:
        yield taken
    finally:
        del whole.run


def _twins(layers: Mapping[int, nn.Module], model: nn.Module, small: nn.Module) -> dict[int, nn.Module]:
    """The layers of `small` that stand where these stand in `model`, wherever they have moved."""
    kinds = {type(module) for module in layers.values()}
    before, after = ([module for module in each.modules() if type(module) in kinds] for each in (model, small))
    if len(before) != len(after):
        return {}
    place = {id(module): at for at, module in enumerate(before)}
    return {layer: after[place[id(module)]] for layer, module in layers.items()}


def _by_layer(slow: Mapping[int, list[float]], quick: Mapping[int, list[float]]) -> list[list]:
    """[layer, dense ms, compact ms], medians after the warm-up; [] where layers are shared or not told apart."""
    if not quick or not all(quick.values()):
        return []
    return [[layer, *(float(np.median(ms[layer][2:])) for ms in (slow, quick))] for layer in slow]


def _in_engine(
    model: nn.Module, masks: Sequence[BlockMask], inputs: Mapping[str, torch.Tensor], dtype: str, seconds: float,
    engine: str,
) -> Sitting:
    """The dense model and the compact ones, without kernels, as graphs in one engine."""
    smalls = [compact(model, mask, kernels=False) for mask in masks]
    calls, dense = {}, f"{engine} {dtype}"
    with tempfile.TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True) as folder:
        for name, each in {dense: model} | {f"compact {at}": each for at, each in enumerate(smalls)}.items():
            graph = engines.to_onnx(each, Path(folder) / f"{name.replace(' ', '-')}.onnx")
            run = engines.session(engine, graph, torch.get_num_threads(), dtype)
            calls[name] = lambda run=run: run(inputs)
        times = alternate(calls, seconds)
    return Sitting({dense: times[dense]}, {}, None, [times[f"compact {at}"] for at in range(len(smalls))], smalls, [])
