"""Fits the latency model to this machine, on random encoders: every path under random masks, every dense engine."""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import packing, paths, rivals, whole
from prune_core.execution.rivals import Runs
from prune_core.execution.timing import alternate, forward, sentences
from prune_core.latency.profile import PLAIN, PathPrices, Prices, Profile, dtype_of, uncut
from prune_core.latency.strips import Blocking, plan_encoder
from prune_core.latency.work import Batch, Counts, dense_work, last_layer, of_pass, priced
from prune_core.machine import machine
from prune_core.models import encoders
from prune_core.models.encoders import Encoder, heads_of

_SIZES = ((384, 1536, 12), (768, 3072, 12), (256, 1024, 4))
_SETTINGS = (Batch(1, 32), Batch(1, 128), Batch(4, 32), Batch(8, 128), Batch(32, 32), Batch(32, 128))
_BLOCKS = ("64x1", "64x1", "32x1", "16x1", "128x1", "16x16", "1x64")
_DEPTHS = (1, 3)  # of the encoders on which the dense engines are timed
_LARGEST = 6e10  # multiplications of one encoder and batch: half a second in fp32 on two cores
_EVERY = 4  # of so many masks one is held out: those on deep encoders are, as real ones are deep
_UNCUT = 10  # of so many masks one cuts nothing: that is what pruning is compared with
_RIVALS = rivals.NAMES
_ROUNDS, _NEAR = 12, 0.02  # of fitting; a relative error that is as good as none
SECONDS = 340.0  # after which no further mask is timed, once LEAST were
LEAST = 40


class Progress(NamedTuple):
    """How far it is in steps, and the seconds that are left, None before that can be told."""

    done: int
    total: int
    seconds_left: float | None


@dataclass(frozen=True)
class Sample:
    """One thing that was timed: a path or a rival, the work that it had, how long that took."""

    of: str
    counts: Mapping[str, float]
    ms: float


@dataclass(frozen=True)
class Step:
    """An encoder to be timed: of which size and depth, on which batch; under a mask, held out or not, or dense."""

    size: tuple[int, int, int]
    layers: int
    setting: Batch
    held: bool = False

    @property
    def cost(self) -> float:
        """Multiplications."""
        hidden, inner, _ = self.size
        return float(self.layers * self.setting.tokens * (4 * hidden**2 + 2 * hidden * inner))

    def affordable(self) -> Step:
        """The same on less sentences, then with less layers, as far as it is too large to be timed often enough."""
        step = self
        while step.cost > _LARGEST and (step.setting.batch > 16 or step.layers > 1):
            step = replace(step, setting=replace(step.setting, batch=step.setting.batch // 2)) \
                if step.setting.batch > 16 else replace(step, layers=step.layers - 1)
        return step


def runnable() -> list[str]:
    """The paths that this machine can run, fp32 first."""
    return [name for names in paths.PATHS.values() for name in names if not paths.why_not(name)]


def calibrate(
    threads: int = 0, masks: int = 120, seconds: float = 0.2, seed: int = 0,
) -> Iterator[Progress | Profile]:
    """Time random encoders, dense in every engine and under random masks on every path, and fit the prices of their
    work: Progress, at last the Profile.

    A quarter of the masks is not used to fit: the errors told are theirs; for an engine those of each time under
    prices fitted to all others. Raises InputError where there are no kernels.
    """
    if not runnable():
        raise InputError(f"there is nothing to calibrate here: {paths.why_not('fp32')}")
    torch.set_num_threads(threads or torch.get_num_threads())
    paths.timed.cache_clear()
    paths.timed(again=True)  # what `auto` and the others take from now on
    paths.timed.cache_clear()
    random, known = np.random.default_rng(seed), {name: packing.blocking(name) for name in runnable()}
    dense = [Step(size, layers, setting).affordable() for size in _SIZES for layers in _DEPTHS for setting in _SETTINGS]
    masked, start, taken = _masked(random, masks), time.monotonic(), {"rivals": [], "fit": [], "held": []}
    for number, (step, timed) in enumerate(_in_turn(dense, masked, known, random, seconds), 1):
        kind = "rivals" if number <= len(dense) else "held" if step.held else "fit"
        taken[kind] += timed
        done, spent = number - len(dense), time.monotonic() - start
        if done >= LEAST and spent > SECONDS:
            break
        each = spent / number
        yield Progress(number, len(dense) + masks, max(0.0, min(each * (masks - done), max(
            SECONDS - spent, each * (LEAST - done)))) if number > 3 else None)
    yield Profile(machine(), torch.get_num_threads(),
                  {name: _path(name, known[name], taken["fit"], taken["held"]) for name in known},
                  {name: _rival(name, taken["rivals"]) for name in dict.fromkeys(one.of for one in taken["rivals"])},
                  len(taken["held"]) // len(known), time.time())


def _masked(random: np.random.Generator, masks: int) -> list[Step]:
    """What is timed under masks: every size as often, in random settings and depths, deep where it is held out."""
    steps = []
    for number in range(masks):
        held, setting = number % _EVERY == _EVERY - 1, _SETTINGS[int(random.integers(len(_SETTINGS)))]
        depth = 6 if held else (1, 3, 6)[int(random.integers(3))]
        steps.append(Step(_SIZES[int(random.integers(len(_SIZES)))], depth, setting, held).affordable())
    return steps


def _in_turn(dense: Sequence[Step], masked: Sequence[Step], known: Mapping[str, Blocking],
             random: np.random.Generator, seconds: float) -> Iterator[tuple[Step, list[Sample]]]:
    """Each step with what was timed: first the dense engines, whose graphs are made once for each encoder."""
    encoder_of = functools.cache(_random_encoder)
    with tempfile.TemporaryDirectory(prefix="prunescope-") as folder:
        for (size, layers), steps in itertools.groupby(dense, lambda step: (step.size, step.layers)):
            model = encoder_of(size, layers)
            runs, _ = rivals.opened(model, sentences(model, _SETTINGS[0]), _RIVALS, Path(folder))
            for step in steps:
                yield step, _dense(model, runs, step.setting, seconds)
    for number, step in enumerate(masked):
        model = encoder_of(step.size, step.layers)
        encoder = encoders.describe("random", model, None)
        mask = random_mask(encoder, BlockShape.parse(_BLOCKS[int(random.integers(len(_BLOCKS)))]), random)
        mask = uncut(mask.layout) if number % _UNCUT == _UNCUT - 1 else mask
        yield step, _compact(model, mask, step.setting, known, seconds)


# ---------------------------------------------------------------- what is timed


def _compact(model: nn.Module, mask: BlockMask, setting: Batch, known: Mapping[str, Blocking],
             seconds: float) -> list[Sample]:
    """The compact model under this mask on every path, timed in turn."""
    inputs, heads = sentences(model, setting), heads_of(model, mask.layout.matrices)
    calls = {name: forward(whole.small_model(model, mask, dtype_of(name), name), inputs) for name in known}
    times = alternate(calls, seconds * len(calls), least=3)
    return [Sample(name, counts_of(name, mask, setting, blocking, heads), times[name].median)
            for name, blocking in known.items()]


def counts_of(path: str, mask: BlockMask, setting: Batch, blocking: Blocking, heads: int | None) -> Counts:
    """The work of this path for one batch, as a Profile counts it."""
    plans = plan_encoder(mask, heads, blocking)
    return of_pass(mask, setting, blocking, plans, heads, dtype_of(path) == "int8", last_layer(mask.layout))


def _dense(model: nn.Module, runs: Runs, setting: Batch, seconds: float) -> list[Sample]:
    """The dense model in every engine, timed in turn."""
    inputs, layout = sentences(model, setting), encoders.describe("random", model, None).layout(BlockShape(1, 1))
    times = alternate({name: functools.partial(run, inputs) for name, run in runs.items()},
                      seconds * len(runs) / 2, least=3)
    return [Sample(name, dense_work(layout, setting), times[name].median) for name in runs]


# ---------------------------------------------------------------- prices


def _path(name: str, blocking: Blocking, samples: Sequence[Sample], held: Sequence[Sample]) -> PathPrices:
    """The prices of a path, how wrong they were on what was held out, and whether it ever was faster than fp32."""
    prices = _fit([sample for sample in samples if sample.of == name])
    error = _error(prices, [sample for sample in held if sample.of == name])
    mine, plain = ([sample.ms for sample in (*samples, *held) if sample.of == each] for each in (name, PLAIN))
    slower = name != PLAIN and all(ms >= fp32 for ms, fp32 in zip(mine, plain, strict=True))
    return PathPrices(prices, error, blocking, slower)


def _rival(name: str, samples: Sequence[Sample]) -> Prices:
    """The prices of an engine; how wrong they were: each time under prices fitted to the others."""
    mine = [sample for sample in samples if sample.of == name]
    left_out = [_error(_fit([*mine[:at], *mine[at + 1:]]), [sample]) for at, sample in enumerate(mine)]
    return Prices(_fit(mine), float(np.median(left_out)))


def _error(prices: Mapping[str, float], samples: Sequence[Sample]) -> float:
    """Median |predicted - measured| / measured."""
    return float(np.median([abs(priced(s.counts, prices) / s.ms - 1) for s in samples]))


def _fit(samples: Sequence[Sample]) -> dict[str, float]:
    """Milliseconds per unit of work: the least absolute relative errors of non-negative prices.

    By least squares again and again, each row weighed by how far off it was: a noisy moment then moves nothing.
    """
    from scipy.optimize import nnls

    names, weights = list(samples[0].counts), np.ones(len(samples))
    table = np.array([[s.counts[name] / s.ms for name in names] for s in samples])
    scale = np.maximum(table.max(0), 1e-30)
    for _ in range(_ROUNDS):
        prices, _ = nnls(table / scale * weights[:, None], weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(table / scale @ prices - 1), _NEAR))
    return dict(zip(names, (float(p) for p in prices / scale), strict=True))


# ---------------------------------------------------------------- encoders and masks


def _random_encoder(size: tuple[int, int, int], layers: int) -> nn.Module:
    """A BERT of these sizes (hidden, intermediate, heads) with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    hidden, inner, heads = size
    config = BertConfig(vocab_size=1000, hidden_size=hidden, intermediate_size=inner,
                        num_attention_heads=heads, num_hidden_layers=layers)
    return BertForSequenceClassification(config).eval()


def random_mask(encoder: Encoder, block: BlockShape, random: np.random.Generator) -> BlockMask:
    """A mask as a global threshold gives it: uneven between matrices and strips, many strips gone in some matrices.

    What is gone decides which heads and neurons die, so that their price is found apart from that of what stays.
    """
    layout, share = encoder.layout(block), random.uniform(0.05, 1.0)
    kept = {}
    for matrix in layout.matrices:
        down, across = block.grid(matrix.m, matrix.n)
        gone = random.choice([0.0, 0.05, 0.3, 0.7])
        each = np.clip(share * random.gamma(4.0, 0.25, (down, 1)) * random.gamma(4.0, 0.25), 0.0, 1.0)
        drawn = random.random((down, across))
        kept[matrix.name] = drawn < each * (random.random((down, 1)) > gone) * (random.random(across) > gone / 2)
    return BlockMask(layout, kept)
