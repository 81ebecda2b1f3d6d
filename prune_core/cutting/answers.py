"""Recorded answers about cuts: score surfaces, sensitivities, flips. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRID = tuple(round(0.05 * i, 2) for i in range(20))  # sparsities of a score surface: 0, 0.05 ... 0.95


@dataclass(frozen=True)
class SurfacePoint:
    """One recorded answer to "what if I cut here?": the dev score with the mask at this sparsity."""

    wanted: float  # the grid value, 0 to 0.95
    sparsity: float  # what the mask has: more than wanted where training already left more zeros
    score: float
    low: float  # 95% interval of the score over the examples
    high: float


@dataclass(frozen=True)
class Sensitivity:
    """One recorded answer to "what if I cut only here?": the dev score with `share` of one scope key's weights cut."""

    scope: str  # layer, type or matrix
    key: str
    share: float
    threshold: float  # of this key; that of all others was 0
    sparsity: float  # of the whole encoder
    score: float
    low: float  # 95% interval of the score over the examples
    high: float
    examples: int


@dataclass(frozen=True)
class Flip:
    """A dev example whose answer changed.

    For regression, `before` and `after` are the numbers given, and nothing is sure.
    """

    texts: tuple[str, ...]
    truth: str
    before: str
    after: str
    sure: float | None  # probability that the uncut model gave its answer
    sparsity: float  # of the encoder, where it first changed


@dataclass(frozen=True)
class Flips:
    """What a cut changed on the main dev split.

    `lost`: right before and wrong after; `won`: the other way; both None for regression.
    """

    examples: int
    changed: int
    lost: int | None
    won: int | None
    worst: tuple[Flip, ...]  # lost answers, the uncut model's surest first; for regression those that moved most


def predict(surface: Sequence[SurfacePoint], sparsity: float) -> tuple[float, float, float]:
    """(score, low, high) read off the surface at `sparsity`, linear between its points.

    At or below the sparsity that the weights already have, it is the first point's score.
    """
    best = {point.sparsity: point for point in surface}  # equal masks were scored once
    xs = sorted(best)
    columns = ((best[x].score for x in xs), (best[x].low for x in xs), (best[x].high for x in xs))
    return tuple(float(np.interp(sparsity, xs, list(column))) for column in columns)


def predict_mixed(plain: Sequence[SurfacePoint], parts: Sequence[tuple[float, Sequence[SurfacePoint] | None]],
                  sparsity: float) -> tuple[float, float, float] | None:
    """(score, low, high) of a mixture of formats: the plain surface less the drops of its parts, at this sparsity.

    `parts`: of each format the share of the weights that have it, and the surface where all have it (for fp32 the plain
    one). The drop of a part counts by its share; None where a surface is missing.
    """
    if not plain or any(surface is None or not surface for share, surface in parts if share > 0):
        return None
    score, low, high = predict(plain, sparsity)
    drop = sum(share * (score - predict(surface, sparsity)[0]) for share, surface in parts if share > 0)
    return score - drop, low - drop, high - drop
