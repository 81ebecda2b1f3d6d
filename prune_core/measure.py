"""Timing: the dense and the compact model in turn, in one process, after a warm-up; and the calibration of latency.py."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError, encoders, engines, native
from prune_core.blocks import BlockShape, Layout
from prune_core.compact import DTYPES, CompactLinear, compact, heads_of
from prune_core.latency import Profile, Setting, dense_work, priced, work
from prune_core.masks import BlockMask
from prune_core.plans import layers_of
from prune_core.recorder import machine
from prune_core.unpadded import unpad_


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median of `runs` and the quartiles around it."""

    median: float
    low: float
    high: float
    runs: int


def alternate(calls: Mapping[str, Callable[[], object]], seconds: float = 4.0, least: int = 5, most: int = 200) -> dict[str, Timing]:
    """Call each in turn, two rounds to warm up, then for `seconds` but at least `least` rounds; what a noisy moment slows, it slows for all."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2):
        for call in calls.values():
            call()
    end = time.perf_counter() + seconds
    for done in range(most):
        if done >= least and time.perf_counter() > end:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: Timing(*(float(q) for q in np.quantile(times, [0.5, 0.25, 0.75])), len(times)) for name, times in taken.items()}


def sentences(model: nn.Module, setting: Setting) -> dict[str, torch.Tensor]:
    """A batch of random token ids, all of the full length. Raises InputError where the model has no such positions."""
    positions = getattr(model.config, "max_position_embeddings", None) or setting.length
    if setting.length > positions - 2:
        raise InputError(f"length {setting.length} is more than this model has positions for; at most {positions - 2}")
    ids = torch.randint(5, model.config.vocab_size, (setting.batch, setting.length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def layer_modules(model: nn.Module, layout: Layout) -> dict[int, nn.Module]:
    """Layer -> the module that its matrices lie in; without layers that have none of their own. Ask before `unpad_` moves them."""
    found: dict[str, int | None] = {}
    for parts in layers_of(layout):
        names = [matrix.name.split(".") for matrix in parts.values()]
        shared = ".".join(same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*names, strict=False)))
        found[shared] = None if shared in found else next(iter(parts.values())).layer
    return {layer: model.get_submodule(name) for name, layer in found.items() if layer is not None}


@contextlib.contextmanager
def clocked(layers: Mapping[int, nn.Module]) -> Iterator[dict[int, list[float]]]:
    """Layer -> milliseconds of each of its calls while this is open."""
    taken: dict[int, list[float]] = {layer: [] for layer in layers}
    starts: list[float] = []  # layers run one after the other
    hooks = [hook for layer, module in layers.items() for hook in (
        module.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter())),
        module.register_forward_hook(lambda *_, times=taken[layer]: times.append(1e3 * (time.perf_counter() - starts.pop()))))]
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


def small_model(model: nn.Module, mask: BlockMask, dtype: str = "fp32") -> nn.Module:
    """The compact model, running without padding where that can be done."""
    small = compact(model, mask, DTYPES[dtype])
    unpad_(small)
    return small


def measure(model: nn.Module, mask: BlockMask, setting: Setting, threads: int = 0, dtype: str = "fp32", seconds: float = 6.0,
            engine: str = "torch") -> dict:
    """Time the dense model against the compact one in an engine. What `measure --json` prints, but for names and predictions.

    In torch the compact model runs on the kernels; another engine is given both as ONNX graphs. Raises InputError.
    """
    for name, value, known in (("dtype", dtype, DTYPES), ("engine", engine, engines.ENGINES)):
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown; one of {', '.join(known)}")
    torch.set_num_threads(threads or torch.get_num_threads())
    model.eval()
    inputs = sentences(model, setting)
    if engine == "torch":
        small = compact(model, mask, DTYPES[dtype])
        parts = [layer_modules(one, mask.layout) for one in (model, small)]
        unpad_(small)
        with clocked(parts[0]) as slow, clocked(parts[1]) as quick:
            found = alternate({"dense": forward(model, inputs, dtype), "compact": forward(small, inputs)}, seconds)
        layers = [[layer, *(float(np.median(times[layer][2:])) for times in (slow, quick))] for layer in slow]  # but for the warm-up
    else:
        small = compact(model, mask, kernels=False)
        with tempfile.TemporaryDirectory(prefix="prunescope-") as folder:
            calls = {name: engines.session(engine, engines.to_onnx(one, Path(folder) / f"{name}.onnx"), torch.get_num_threads(), dtype)
                     for name, one in (("dense", model), ("compact", small))}
            found = alternate({name: lambda call=call: call(inputs) for name, call in calls.items()}, seconds)
        layers = []
    dense, fast = found["dense"], found["compact"]
    kinds = sorted(set(small.executed.values()))
    return {"dense_ms": dense.median, "compact_ms": fast.median, "speedup": dense.median / fast.median,
            "ideal_speedup": mask.compression_encoder, "dense_spread": [dense.low, dense.high], "compact_spread": [fast.low, fast.high],
            "layers_ms": layers, "rounds": dense.runs, "sparsity": mask.sparsity, "compression_encoder": mask.compression_encoder,
            "compression_model": mask.compression_model, "batch": setting.batch, "length": setting.length, "threads": torch.get_num_threads(),
            "dtype": dtype, "engine": engine, "executed": {kind: sum(e == kind for e in small.executed.values()) for kind in kinds},
            "kernels": native.why_not() or ("native" if engine == "torch" else "none: a graph of smaller dense products"), "machine": machine()}


# ---------------------------------------------------------------- patterns of zeros

_PATTERNS = {"single weights": "1x1", "tiles of 16x16": "16x16", "strips of 64x1": "64x1"}


def shapes(sparsity: float, threads: int = 0, seconds: float = 6.0, m: int = 1536, n: int = 384, tokens: int = 1024) -> dict:
    """One m x n matrix times `tokens` inputs, the same share of zeros in three patterns: what `shapes --json` prints.

    Single zeros run as torch's sparse matrix (CSR), tiles and strips on the compact layer; all in turn with torch's dense product.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    draw, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    weight, x = torch.randn(m, n, generator=draw), torch.randn(tokens, n, generator=draw)
    calls: dict[str, Callable[[], object]] = {"dense": lambda: torch.nn.functional.linear(x, weight)}
    executed = {"dense": "torch, dense product"}
    for pattern, text in _PATTERNS.items():
        block = BlockShape.parse(text)
        kept = np.ones(block.grid(m, n), bool)
        kept.ravel()[random.permutation(kept.size)[: round(sparsity * kept.size)]] = False
        if text == "1x1":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls its sparse matrices unfinished
                sparse = (weight * torch.from_numpy(kept)).to_sparse_csr()
            calls[pattern], executed[pattern] = (lambda sparse=sparse: sparse @ x.T), "torch, sparse matrix (CSR)"
        else:
            layer = CompactLinear(weight, None, kept, block)
            calls[pattern], executed[pattern] = (lambda layer=layer: layer(x)), f"compact layer, {layer.executed}"
    with torch.inference_mode():
        found = alternate(calls, seconds)
    patterns = [{"pattern": name, "block": _PATTERNS.get(name), "ms": one.median, "spread": [one.low, one.high],
                 "speedup": found["dense"].median / one.median, "executed": executed[name]} for name, one in found.items()]
    return {"sparsity": sparsity, "m": m, "n": n, "tokens": tokens, "threads": torch.get_num_threads(), "machine": machine(), "patterns": patterns,
            "kernels": native.why_not() or "native"}


# ---------------------------------------------------------------- calibration

_SIZES = ((384, 1536, 12), (768, 3072, 12), (256, 1024, 4))
_SETTINGS = (Setting(1, 32), Setting(1, 128), Setting(4, 32), Setting(8, 128), Setting(32, 32), Setting(32, 128))
_BLOCKS = ("64x1", "64x1", "32x1", "16x1", "128x1", "16x16", "1x64")


@dataclass(frozen=True)
class Sample:
    """One thing that was timed."""

    kind: str  # compact or dense
    counts: Mapping[str, float]
    ms: float


def calibrate(threads: int = 0, fit: int = 120, check: int = 30, seconds: float = 0.3, seed: int = 0) -> Iterator[tuple[int, int] | Profile]:
    """Time random encoders under random masks and fit the prices of their work. Yields (done, total), at last the Profile.

    The last `check` masks, on six-layer encoders, are not used to fit: the error told is theirs. Raises
    InputError where there are no kernels, as their work is what is priced.
    """
    if native.library() is None:
        raise InputError(f"there is nothing to calibrate here: {native.why_not()}")
    torch.set_num_threads(threads or torch.get_num_threads())
    random, samples, held = np.random.default_rng(seed), [], []
    for number in range(fit + check):
        testing = number >= fit
        setting = _SETTINGS[int(random.integers(len(_SETTINGS)))]
        depths = (1, 3, 6) if setting.tokens <= 1024 else (1, 2, 3)  # large ones in depth would take half an hour
        model = _random_encoder(_SIZES[number % len(_SIZES)], 6 if testing else depths[int(random.integers(3))])
        encoder = encoders.describe("random", model, None)
        mask = random_mask(encoder, BlockShape.parse(_BLOCKS[int(random.integers(len(_BLOCKS)))]), random)
        small, inputs = small_model(model, mask), sentences(model, setting)
        found = alternate({"dense": forward(model, inputs), "compact": forward(small, inputs)}, seconds, least=3)
        (held if testing else samples).extend([
            Sample("compact", work(mask, setting, native.registers(), heads_of(model, mask.layout.matrices)), found["compact"].median),
            Sample("dense", dense_work(mask.layout, setting), found["dense"].median)])
        yield number + 1, fit + check
    profile = Profile(machine(), torch.get_num_threads(), native.registers().lanes, native.registers().vectors,
                      _fit(samples, "compact"), _fit(samples, "dense"), 0.0, 0.0, check, time.time())
    errors = {kind: float(np.median([abs(priced(s.counts, getattr(profile, kind)) / s.ms - 1) for s in held if s.kind == kind]))
              for kind in ("compact", "dense")}
    yield replace(profile, error=errors["compact"], error_dense=errors["dense"])


def _fit(samples: list[Sample], kind: str) -> dict[str, float]:
    """Milliseconds per unit of work: non-negative least squares on relative errors (each row divided by its time)."""
    from scipy.optimize import nnls

    rows = [s for s in samples if s.kind == kind]
    names = list(rows[0].counts)
    table = np.array([[s.counts[name] / s.ms for name in names] for s in rows])
    scale = np.maximum(table.max(0), 1e-30)
    prices, _ = nnls(table / scale, np.ones(len(rows)))
    return dict(zip(names, (float(p) for p in prices / scale), strict=True))


def _random_encoder(size: tuple[int, int, int], layers: int) -> nn.Module:
    """A BERT of these sizes (hidden, intermediate, heads) with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    hidden, inner, heads = size
    return BertForSequenceClassification(BertConfig(vocab_size=1000, hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads,
                                                    num_hidden_layers=layers)).eval()


def random_mask(encoder: encoders.Encoder, block: BlockShape, random: np.random.Generator) -> BlockMask:
    """A mask as a global threshold gives it: uneven between matrices and strips, many of them gone entirely in some matrices.

    What is gone decides which heads and neurons die, so that their price is found apart from that of what stays.
    """
    layout, share = encoder.layout(block), random.uniform(0.05, 1.0)
    kept = {}
    for matrix in layout.matrices:
        down, across = block.grid(matrix.m, matrix.n)
        gone = random.choice([0.0, 0.05, 0.3, 0.7])
        each = np.clip(share * random.gamma(4.0, 0.25, (down, 1)) * random.gamma(4.0, 0.25), 0.0, 1.0)
        kept[matrix.name] = random.random((down, across)) < each * (random.random((down, 1)) > gone) * (random.random(across) > gone / 2)
    return BlockMask(layout, kept)
