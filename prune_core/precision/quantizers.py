"""Weights to codes and back: levels, ternary, binary, clusters, N:M patterns. On numpy arrays and torch tensors alike.

A code is a small whole number, 0 for zero; `scales` (m,) of the rows or a `codebook` (k,) make values of it:

    levels, ternary, binary   w = scale * code,  -K <= code <= K
    clusters                  w = codebook[code - 1], code from 1

The interval of levels by alternating least squares (ADMM-NN, arXiv 1812.11677, as in its public code, per row):
q = clip(round(v / s), -K, K);  s = <v, q> / <q, q>, until nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_core.cutting.masks import BlockMask
from prune_core.precision.formats import Format, Pattern

ROUNDS = 20  # of alternating least squares
STARTS = tuple(0.05 * at for at in range(6, 21))  # shares of the full scale that are tried first
TERNARY = 0.7  # of the mean magnitude: below it a weight is zero (TernaryBERT)
SMALLEST = 1e-12


@dataclass(frozen=True)
class Quantized:
    """One matrix as it is stored. All arrays are numpy's: `kept` (m, n) bool, `codes` (m, n) int16, 0 where not kept.

    Of floats `values` (m, n) float32 instead of codes. `scales` (m,) float32, `codebook` (k,) float32, or None.
    """

    format: Format
    kept: np.ndarray
    codes: np.ndarray | None = None
    scales: np.ndarray | None = None
    codebook: np.ndarray | None = None
    floats: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """(m, n) float32: what the codes stand for."""
        if self.codes is None:
            return self.floats
        if self.codebook is not None:
            return np.concatenate([np.zeros(1, np.float32), self.codebook])[self.codes]
        return self.codes.astype(np.float32) * self.scales[:, None]


def kept_of(mask: BlockMask, name: str) -> np.ndarray:
    """(m, n) bool: the weights of a matrix that a block mask keeps."""
    matrix = next(m for m in mask.layout.matrices if m.name == name)
    return mask.layout.block.expand(mask.kept[name], matrix.m, matrix.n)


def keep_pattern(scores, pattern: Pattern, kept=None):
    """(m, n) bool: of every M consecutive inputs of a row the N of the highest `scores` (m, n); first of equals stays.

    `kept` (m, n) bool: of those alone. Scores are magnitudes, or what else ranks weights.
    """
    m, n = scores.shape
    scores = scores if kept is None else scores * kept - 1.0 * ~kept
    groups = scores.reshape(m, n // pattern.m, pattern.m)
    stays = groups == groups
    for i in range(pattern.m):
        before = sum(((groups[..., j] >= groups[..., i]) * 1 if j < i else (groups[..., j] > groups[..., i]) * 1)
                     for j in range(pattern.m) if j != i)
        stays[..., i] = before < pattern.n
    stays = stays.reshape(m, n)
    return stays if kept is None else stays & kept


def largest(weight):
    """(m,) the largest magnitude of every row."""
    size = abs(weight)
    return size.amax(1) if hasattr(size, "amax") else size.max(1)


def codes_at(weight, scales, top: int):
    """(m, n) whole numbers from -top to top nearest to weight / scale of the row: half to even."""
    return (weight / scales[:, None]).round().clip(-top, top)


def full_scale(weight, top: int):
    """(m,) scales at which the largest weight of a row is the highest level. Of kept weights: others must be zero."""
    return largest(weight).clip(SMALLEST) / top


def interval(weight, top: int, scales=None, rounds: int = ROUNDS):
    """(m,) scales of the least squared error, by alternating least squares from `scales` (mean magnitude / (top / 2)).

    Neither half of a round can raise the error, so it ends in a local optimum.
    """
    if scales is None:
        count = (weight != 0).sum(1).clip(1)
        scales = (abs(weight).sum(1) / count / (top / 2 if top > 1 else 1)).clip(SMALLEST)
    for _ in range(rounds):
        q = codes_at(weight, scales, top)
        square = (q * q).sum(1)
        fitted = (weight * q).sum(1) / square.clip(SMALLEST)
        scales = fitted * (square > 0) + scales * (square == 0)
    return scales


def scales_for(weight, format: Format):
    """(m,) scales of a row's kept weights (others zero) by the format's own rule.

    8 bits: the largest weight; fewer: the least squared error, by rounds from the best of STARTS; ternary: the mean of
    what is above TERNARY of the mean magnitude; binary: the mean magnitude (of Rastegari et al., arXiv 1603.05279).
    """
    count = (weight != 0).sum(1).clip(1)
    mean = (abs(weight).sum(1) / count).clip(SMALLEST)
    if format.kind == "binary":
        return mean
    if format.kind == "ternary":
        above = abs(weight) > TERNARY * mean[:, None]
        return ((abs(weight) * above).sum(1) / above.sum(1).clip(1)).clip(SMALLEST)
    if format.bits >= 8:
        return full_scale(weight, format.top)
    return interval(weight, format.top, best_start(weight, format.top), ROUNDS // 2)


def best_start(weight, top: int):
    """(m,) scales: of STARTS, or the start of `interval`, what has the least squared error.

    From one start alone the rounds end up to 31% above the least error (5 bits, rows of 384 normal weights), so 2%.
    """
    full = full_scale(weight, top)
    scales, least = None, None
    for one in (interval(weight, top, rounds=0), *(full * share for share in STARTS)):
        error = ((weight - codes_at(weight, one, top) * one[:, None]) ** 2).sum(1)
        better = None if least is None else error < least
        scales = one if least is None else one * better + scales * ~better
        least = error if least is None else error * better + least * ~better
    return scales


def round_to(weight, format: Format, scales, kept=None):
    """(m, n) codes of the kept weights; 0 elsewhere. Of ternary what is nearer than half a scale to zero is zero.

    Binary has no zero: there `kept` (m, n) bool says which are stored; what is not given is kept where not zero.
    """
    if format.kind == "binary":
        kept = weight != 0 if kept is None else kept
        return ((weight >= 0) * 2.0 - 1.0) * kept
    if format.kind == "ternary":
        threshold = (TERNARY * abs(weight).sum(1) / (weight != 0).sum(1).clip(1))[:, None]
        signs = (weight > threshold) * 1.0 - (weight < -threshold) * 1.0
        return signs if kept is None else signs * kept
    codes = codes_at(weight, scales, format.top)
    return codes if kept is None else codes * kept


def codebook_for(weight: np.ndarray, format: Format, start: np.ndarray | None = None) -> np.ndarray:
    """(k,) float32 values for the weights that are not zero, by k-means (Lloyd), from a line between least and largest.

    Zero is a value of its own beside them: nothing else becomes zero, and zero no other value.
    """
    given = np.sort(np.asarray(weight, np.float64)[np.asarray(weight) != 0])
    if not len(given):
        return np.zeros(format.top, np.float32)
    centres = np.linspace(given[0], given[-1], format.top) if start is None else np.sort(start.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(given)])
    for _ in range(ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(given, (centres[1:] + centres[:-1]) / 2), [len(given)]])
        count = np.diff(edges)
        moved = np.where(count, np.diff(sums[edges]) / np.maximum(count, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres.astype(np.float32)


def cluster(weight: np.ndarray, codebook: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(m, n) int16: 1 + the place of the nearest value of the codebook (ascending) where kept, 0 elsewhere."""
    nearest = np.searchsorted((codebook[1:] + codebook[:-1]) / 2, weight)
    return ((nearest + 1) * kept).astype(np.int16)


def quantize(weight: np.ndarray, format: Format, kept: np.ndarray | None = None, scales: np.ndarray | None = None,
             codebook: np.ndarray | None = None) -> Quantized:
    """A matrix (m, n) as it is stored: what `kept` (m, n, bool) and the pattern leave, rounded to the nearest.

    `scales`, `codebook`: those given, not new ones; a matrix that is on their levels already is not moved.
    """
    weight = np.asarray(weight, np.float32)
    kept = np.ones(weight.shape, bool) if kept is None else kept
    if format.pattern:
        kept = keep_pattern(abs(weight), format.pattern, kept)
    weight = weight * kept
    if format.kind == "float":
        return Quantized(format, kept, floats=weight if format.bits == 32 else to_bf16(weight))
    if format.kind == "clusters":
        codebook = codebook_for(weight, format) if codebook is None else codebook
        return Quantized(format, kept, cluster(weight, codebook, kept & (weight != 0)), codebook=codebook)
    scales = scales_for(weight, format).astype(np.float32) if scales is None else scales
    return Quantized(format, kept, round_to(weight, format, scales, kept).astype(np.int16), scales)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """The nearest values that bf16 has, half to even, as float32. Of finite numbers."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32).reshape(values.shape)
