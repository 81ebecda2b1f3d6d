"""Fits the latency model to this machine, on random encoders and masks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import native
from prune_core.execution.timing import alternate, forward, sentences
from prune_core.execution.whole import small_model
from prune_core.latency.profile import Batch, Profile, dense_work, priced, work
from prune_core.machine import machine
from prune_core.models import encoders
from prune_core.models.encoders import Encoder, heads_of

_SIZES = ((384, 1536, 12), (768, 3072, 12), (256, 1024, 4))
_SETTINGS = (Batch(1, 32), Batch(1, 128), Batch(4, 32), Batch(8, 128), Batch(32, 32), Batch(32, 128))
_BLOCKS = ("64x1", "64x1", "32x1", "16x1", "128x1", "16x16", "1x64")


@dataclass(frozen=True)
class Sample:
    """One thing that was timed."""

    kind: str  # compact or dense
    counts: Mapping[str, float]
    ms: float


def calibrate(
    threads: int = 0, fit: int = 120, check: int = 30, seconds: float = 0.3, seed: int = 0,
) -> Iterator[tuple[int, int] | Profile]:
    """Time random encoders under random masks and fit the prices of their work: (done, total), at last the Profile.

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
        (held if testing else samples).extend(_timed(model, mask, setting, seconds))
        yield number + 1, fit + check
    profile = Profile(machine(), torch.get_num_threads(), native.registers().lanes, native.registers().vectors,
                      _fit(samples, "compact"), _fit(samples, "dense"), 0.0, 0.0, check, time.time())
    yield replace(profile, error=_error(profile, held, "compact"), error_dense=_error(profile, held, "dense"))


def _timed(model: nn.Module, mask: BlockMask, setting: Batch, seconds: float) -> tuple[Sample, Sample]:
    """The compact model under this mask and the dense one, timed in turn."""
    small, inputs = small_model(model, mask), sentences(model, setting)
    times = alternate({"dense": forward(model, inputs), "compact": forward(small, inputs)}, seconds, least=3)
    counts = work(mask, setting, native.registers(), heads_of(model, mask.layout.matrices))
    return (Sample("compact", counts, times["compact"].median),
            Sample("dense", dense_work(mask.layout, setting), times["dense"].median))


def _error(profile: Profile, held: list[Sample], kind: str) -> float:
    """Median |predicted - measured| / measured over the samples of this kind."""
    prices = getattr(profile, kind)
    return float(np.median([abs(priced(s.counts, prices) / s.ms - 1) for s in held if s.kind == kind]))


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
