"""Where to cut for the least loss: a share for every layer (or matrix), from what cutting each alone has cost.

Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from prune_core import InputError
from prune_core.cutting.answers import Sensitivity
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask, Norms, by_scope, mask_at, sparsity_of, thresholds_for

EVEN = 1e-3  # loss at a share of 1 that is added to every key, growing with the square: among equals, cut evenly


def shares(
    points: Sequence[Sensitivity], layout: Layout, scope: str, sparsity: float, dense: float,
) -> dict[str, float]:
    """Scope key -> the share of its weights to cut: `sparsity` of all prunable weights in sum, the summed loss lowest.

    `dense`: the dev score uncut. Losses are taken to add up, and each key's to lie on the lower convex hull of its
    points: then cutting where the next weight costs least is optimal. Raises InputError where points are missing or
    reach less far than asked.
    """
    parts = by_scope(layout, scope)
    weights = {key: sum(m.m * m.n for m in matrices) for key, matrices in parts.items()}
    segments = []  # (loss per weight, key, share) of every piece of every hull
    for key in parts:
        mine = [p for p in points if (p.scope, p.key) == (scope, key)]
        if not mine:
            raise InputError(f"no sensitivity of {key!r} is recorded; run: python -m prune_core sensitivity RUN")
        hull = _hull([(0.0, 0.0), *sorted((p.share, max(0.0, dense - p.score) + EVEN * p.share**2) for p in mine)])
        for (start, before), (end, after) in zip(hull, hull[1:], strict=False):
            segments.append(((after - before) / ((end - start) * weights[key]), key, end - start))
    share_of, left = dict.fromkeys(parts, 0.0), sparsity * layout.encoder_weights
    for _, key, share in sorted(segments, key=lambda segment: segment[0]):
        taken = min(share, left / weights[key])
        share_of[key] += taken
        left -= taken * weights[key]
        if left <= 1e-6:
            return share_of
    most = 1 - left / layout.encoder_weights - (1 - sparsity)
    raise InputError(f"the recorded sensitivities reach a sparsity of {most:.0%} only; asked: {sparsity:.0%}")


def _hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of points that are sorted by x, from the first to the last."""
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):  # the last point lies below the line past it
                break
            hull.pop()
        hull.append((x, y))
    return hull


def cheapest(
    norms: Norms, layout: Layout, points: Sequence[Sensitivity], scope: str, compression: float, dense: float,
) -> dict[str, float]:
    """Thresholds by scope key that reach this encoder compression at the least predicted loss. Raises InputError."""
    wanted = shares(points, layout, scope, sparsity_of(compression), dense)
    parts = by_scope(layout, scope)
    return {key: thresholds_for(norms, replace(layout, matrices=tuple(parts[key])), min(share, 0.999), scope)[key]
            for key, share in wanted.items()}


def faster(
    norms: Norms, layout: Layout, points: Sequence[Sensitivity], scope: str, speedup: float, dense: float,
    predicted: Callable[[BlockMask], float],
) -> dict[str, float]:
    """Thresholds by scope key for this speedup, `predicted` from a mask: the least compression that has it.

    Raises InputError.
    """
    most = max((p.share for p in points if p.scope == scope), default=0.0)
    low, high, best = 1.0, 0.999 / (1 - most), None
    for _ in range(18):
        middle = (low + high) / 2
        thresholds = cheapest(norms, layout, points, scope, middle, dense)
        if predicted(mask_at(norms, layout, thresholds, scope)) >= speedup:
            best, high = thresholds, middle
        else:
            low = middle
    if best is None:
        raise InputError(f"no cut within the recorded sensitivities is predicted to be {speedup:g}x faster")
    return best
