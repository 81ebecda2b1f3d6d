"""Threshold -> mask -> sparsity and compression. Numpy only: right of the seam nothing needs torch.

A group is cut where its norm <= threshold, so groups that training has already brought to zero are
always cut and a mask never claims fewer zeros than there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prune_core import InputError
from prune_core.cutting.blocks import Layout, Matrix

SCOPES = ("global", "layer", "type", "matrix")
BYTES = 4  # of a weight in fp32
Norms = Mapping[str, np.ndarray]  # matrix name -> (groups down, groups across), float32


def scope_key(matrix: Matrix, scope: str) -> str:
    """What shares one threshold (and one lambda): everything, a layer, a matrix type, or the matrix alone.

    Raises InputError for an unknown scope.
    """
    if scope not in SCOPES:
        raise InputError(f"scope {scope!r} is unknown; one of {', '.join(SCOPES)}")
    return {"global": "all", "layer": f"layer {matrix.layer}", "type": matrix.type, "matrix": matrix.name}[scope]


def by_scope(layout: Layout, scope: str) -> dict[str, list[Matrix]]:
    """Scope key -> its matrices, in the layout's order."""
    parts: dict[str, list[Matrix]] = {}
    for matrix in layout.matrices:
        parts.setdefault(scope_key(matrix, scope), []).append(matrix)
    return parts


def times(compression: float) -> str:
    """'2.50x'; 'nothing kept' where that is infinite."""
    return f"{compression:.2f}x" if np.isfinite(compression) else "nothing kept"


@dataclass(frozen=True)
class BlockMask:
    """Which groups are kept: matrix name -> bool (groups down, groups across), True = kept."""

    layout: Layout
    kept: Mapping[str, np.ndarray]

    @property
    def kept_weights(self) -> int:
        return sum(int(self.kept[m.name].sum()) * self.layout.group_size(m) for m in self.layout.matrices)

    @property
    def sparsity(self) -> float:
        """Share of zero weights in the prunable matrices, 0 to 1."""
        return 1.0 - self.kept_weights / self.layout.encoder_weights

    @property
    def compression_encoder(self) -> float:
        """Dense / kept weights of the prunable matrices; inf when nothing is kept."""
        return self.layout.encoder_weights / self.kept_weights if self.kept_weights else float("inf")

    @property
    def compression_model(self) -> float:
        """Dense / kept weights of the whole model: embeddings, biases and head count as kept."""
        total = self.layout.model_weights
        return total / (total - self.layout.encoder_weights + self.kept_weights)

    def matrix_sparsity(self, name: str) -> float:
        """Share of this matrix's groups that are cut, 0 to 1."""
        return 1.0 - float(self.kept[name].mean())

    def digest(self) -> str:
        """The same text for the same kept groups: the mask's part of a cache key."""
        sha = hashlib.sha256()
        for matrix in self.layout.matrices:
            sha.update(matrix.name.encode() + np.packbits(self.kept[matrix.name]).tobytes())
        return sha.hexdigest()[:24]


def mask_at(norms: Norms, layout: Layout, threshold: float | Mapping[str, float], scope: str = "global") -> BlockMask:
    """Cut every group whose norm <= its threshold: one number, or one per scope key. Raises InputError."""
    if not isinstance(threshold, Mapping):
        threshold = {key: float(threshold) for key in by_scope(layout, scope)}
    for key in by_scope(layout, scope):
        if not (value := threshold.get(key, -1.0)) >= 0:  # also refuses NaN
            raise InputError(f"threshold of {key!r} is {value if key in threshold else 'missing'}; needed: 0 or more")
    kept = {m.name: np.asarray(norms[m.name]) > np.float32(threshold[scope_key(m, scope)]) for m in layout.matrices}
    return BlockMask(layout, kept)


def norm_scale(many_norms: Sequence[Norms]) -> float:
    """The top of a run's colour scale: the highest 99.5% quantile of all given norms, so one outlier dims nothing."""
    tops = [np.quantile(np.concatenate([v.ravel() for v in norms.values()]), 0.995) for norms in many_norms]
    return float(max(tops, default=1.0)) or 1.0


def thresholds_for(norms: Norms, layout: Layout, sparsity: float, scope: str = "global") -> dict[str, float]:
    """The threshold of each scope key that cuts the share `sparsity` of its weights, lowest norms first.

    Each threshold is the norm of the last group cut (0.0 when none is), so `mask_at` cuts exactly
    those groups, and groups of equal norm together.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity {sparsity} is out of range; needed: 0 up to but not including 1")
    return {key: _quantile(norms, layout, parts, sparsity) for key, parts in by_scope(layout, scope).items()}


def thresholds_of(norms: Norms, layout: Layout, shares: Mapping[str, float], scope: str) -> dict[str, float]:
    """The threshold of each scope key that cuts its own share (0 to 1) of its weights, as `thresholds_for` does."""
    return {key: _quantile(norms, layout, parts, shares[key]) for key, parts in by_scope(layout, scope).items()}


def shares_up_to(norms: Norms, layout: Layout, thresholds: Mapping[str, float], scope: str) -> dict[str, float]:
    """Scope key -> the share of its weights that these thresholds cut, 0 to 1. Raises InputError."""
    kept = mask_at(norms, layout, thresholds, scope).kept
    return {key: sum(int((~kept[m.name]).sum()) * layout.group_size(m) for m in parts) / sum(m.m * m.n for m in parts)
            for key, parts in by_scope(layout, scope).items()}


def share_giving(norms: Norms, layout: Layout, sparsity: float, scope: str = "global") -> float:
    """The share of every scope key that makes this sparsity of the whole, to the nearest group.

    It is `sparsity` itself but where some keys have more zeros already.
    """
    zeros = shares_up_to(norms, layout, dict.fromkeys(by_scope(layout, scope), 0.0), scope)
    if scope == "global" or max(zeros.values()) <= sparsity:
        return sparsity
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        below = mask_at_sparsity(norms, layout, middle, scope).sparsity < sparsity
        low, high = (middle, high) if below else (low, middle)
    return min((low, min(high, 0.9999)), key=lambda share: abs(
        mask_at_sparsity(norms, layout, share, scope).sparsity - sparsity))


def _quantile(norms: Norms, layout: Layout, parts: list[Matrix], sparsity: float) -> float:
    """The norm up to which the share `sparsity` of these matrices' weights lies (nearest whole group)."""
    values = np.concatenate([np.asarray(norms[m.name], np.float32).ravel() for m in parts])
    sizes = np.concatenate([np.full(norms[m.name].size, layout.group_size(m)) for m in parts])
    if sizes.min() == sizes.max():  # the usual case; a partition is ten times as fast as a sort
        count = round(sparsity * values.size)
        return float(np.partition(values, count - 1)[count - 1]) if count else 0.0
    order = np.argsort(values, kind="stable")
    gone = np.concatenate([[0], np.cumsum(sizes[order])])  # weights that go with 0, 1, ... groups
    count = int(np.abs(gone - sparsity * gone[-1]).argmin())
    return float(values[order[count - 1]]) if count else 0.0


def mask_at_sparsity(norms: Norms, layout: Layout, sparsity: float, scope: str = "global") -> BlockMask:
    """Cut the share `sparsity` of the weights of each scope key, lowest norms first. Raises InputError."""
    return mask_at(norms, layout, thresholds_for(norms, layout, sparsity, scope), scope)


def zero_share(norms: Norms, layout: Layout) -> float:
    """Share of the prunable weights that lie in groups of norm exactly 0."""
    return mask_at(norms, layout, 0.0).sparsity


def sparsity_of(compression: float) -> float:
    """Encoder compression (2 = half the weights kept) -> sparsity. Raises InputError below 1."""
    if not 1 <= compression < float("inf"):
        raise InputError(f"compression {compression:g} is out of range; needed: 1 or more, for example 2")
    return 1.0 - 1.0 / compression
