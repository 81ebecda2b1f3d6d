"""Rounding with repair: a matrix to few levels, and every error made up for by the weights that are still to come.

With A = H + damp I of a matrix's centred inputs (repair.py), W0 its weights, Q what they become and D = W0 - Q, the
outputs are off by trace(D A D^T). In turn:

    pattern    the N of M with the largest w^2 A_jj, some more of M cut in every round; after each what is left is moved
               by conjugate gradients towards the least error, for all rows at once
    columns    A = R R^T, R upper triangular: column j goes to the level nearest to w_j + sum_(i<j) d_i R_ij / R_jj, the
               largest A_jj first; the same as GPTQ (arXiv 2210.17323), which inverts A. Strips of rows go together
    descent    a column again, to the level nearest to q_j + (D A)_j / A_jj while all others stay as they are; first the
               scale of each row that is best for its codes, <w, q> / <q, q> through A. Neither raises the error
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from prune_core.methods.repair import DAMP, Gram, repaired
from prune_core.precision.formats import Format, Pattern
from prune_core.precision.quantizers import (
    SMALLEST,
    Quantized,
    codebook_for,
    full_scale,
    keep_pattern,
    to_bf16,
)

PIECE = 64  # columns between two updates of all that follow
FACTOR_BYTES = 100e6  # of the factors of strips that go together
STEPS, BETWEEN, SOLVING = 4, 5, 10  # of a pattern: rounds, and of conjugate gradients between them and at the end
STARTS = tuple(0.08 * at for at in range(1, 13))  # shares of the full scale, from which rounds of least squares begin
FITTING = 4  # such rounds
CLUSTERING = 10  # rounds of k-means for a codebook
Nearest = Callable[[torch.Tensor], torch.Tensor]  # wanted values of a column, (..., rows) -> levels


def rounded(weight: torch.Tensor, kept: torch.Tensor, plain: Quantized, gram: Gram, given: bool = False) -> Quantized:
    """`weight` (m, n), cut to `kept` (m, n, bool), in the format of `plain`, with outputs nearest to what they were.

    `plain` is what cutting and rounding to the nearest gave; `given`: on its grid, which stays. What would be farther
    off is taken from it: row by row, with a codebook all of it.
    """
    format, products = plain.format, gram.centred()
    products.diagonal().add_(DAMP * float(products.diagonal().mean()) + SMALLEST)
    wanted, stays = weight * kept if kept.all() else repaired(weight, kept, gram), kept
    if format.pattern:
        wanted, stays = patterned(weight, wanted, kept, format.pattern, products)
    if format.kind == "float":
        values = wanted.numpy() if format.bits == 32 else to_bf16(wanted.numpy())
        made = Quantized(format, stays.numpy(), floats=values)
    elif format.kind == "clusters":
        made = _clustered(weight, wanted, kept, stays, products, plain, given)
    else:
        made = _levelled(weight, wanted, kept, stays, products, plain, given)
    return _better(weight, products, plain, made)


def errors(weight: torch.Tensor, values: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """(m,) how far the outputs of every row are off, squared and summed: d A d^T."""
    off = weight - values
    return ((off @ products) * off).sum(1)


def _better(weight: torch.Tensor, products: torch.Tensor, plain: Quantized, made: Quantized) -> Quantized:
    before, after = (errors(weight, torch.from_numpy(one.values), products).numpy() for one in (plain, made))
    if made.codebook is not None:
        return made if after.sum() <= before.sum() else plain
    ours = after <= before
    rows = {name: np.where(ours.reshape(-1, *[1] * (new.ndim - 1)), new, getattr(plain, name))
            for name in ("kept", "codes", "scales", "floats") if (new := getattr(made, name)) is not None}
    return replace(made, **rows)


# ---------------------------------------------------------------- levels and clusters


def _levelled(weight: torch.Tensor, wanted: torch.Tensor, kept: torch.Tensor, stays: torch.Tensor,
              products: torch.Tensor, plain: Quantized, given: bool) -> Quantized:
    format = plain.format
    scales = torch.from_numpy(plain.scales) if given else scales_of(wanted, format, products.diagonal())
    values = by_columns(wanted, kept, stays, products, lambda rows: _level(format, scales[rows]))
    codes = (values / scales[:, None]).round()
    for _ in range(0 if format.bits >= 8 else 1 if format.bits >= 4 else 3):  # what more do gains nothing that counts
        scales = scales if given else _refitted(weight, codes, products, scales)
        values = descended(weight, codes * scales[:, None], stays, products, _level(format, scales))
        codes = (values / scales[:, None]).round()
    return Quantized(format, stays.numpy(), codes.numpy().astype(np.int16), scales.numpy())


def _level(format: Format, scales: torch.Tensor) -> Nearest:
    """To the nearest level of each row at these scales."""
    if format.kind == "binary":
        return lambda x: torch.where(x >= 0, scales, -scales)
    return lambda x: (x / scales).round_().clamp_(-format.top, format.top).mul_(scales)


def scales_of(wanted: torch.Tensor, format: Format, importance: torch.Tensor) -> torch.Tensor:
    """(m,) scales for levels of `wanted` (m, n), zero where nothing is kept: the least squared error, columns weighted
    by `importance` (n,), in rounds from the best of STARTS. In 8 bits the largest weight is the highest level."""
    full = full_scale(wanted, format.top)
    if format.bits >= 8:
        return full
    columns = wanted.T.contiguous()  # (n, m), as all that follows
    weights = (columns != 0) * importance[:, None]
    scales, least = full, torch.full_like(full, torch.inf)
    for share in STARTS:
        error = ((columns - _level(format, share * full)(columns)).square_() * weights).sum(0)
        scales, least = torch.where(error < least, share * full, scales), torch.minimum(error, least)
    for _ in range(FITTING):
        codes = (_level(format, scales)(columns) / scales).mul_(weights)
        square = (codes * _level(format, scales)(columns)).sum(0) / scales
        scales = torch.where(square > 0, (codes * columns).sum(0) / square, scales).clamp_min(SMALLEST)
    return scales


def _refitted(weight: torch.Tensor, codes: torch.Tensor, products: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(m,) the scale of each row that is best for its codes; as it is where there is none above zero."""
    through = codes @ products
    best = (through * weight).sum(1) / (through * codes).sum(1)
    return torch.where(best > SMALLEST, best, scales)


def _clustered(weight: torch.Tensor, wanted: torch.Tensor, kept: torch.Tensor, stays: torch.Tensor,
               products: torch.Tensor, plain: Quantized, given: bool) -> Quantized:
    levels = torch.from_numpy(plain.codebook) if given else codebook_of(wanted, stays, plain.format,
                                                                        products.diagonal())

    def nearest(x: torch.Tensor) -> torch.Tensor:
        return levels[_place(x, levels)]

    values = by_columns(wanted, kept, stays, products, lambda rows: nearest)
    values = descended(weight, values, stays, products, nearest)
    codes = (_place(values, levels) + 1) * stays
    return Quantized(plain.format, stays.numpy(), codes.numpy().astype(np.int16), codebook=levels.numpy())


def _place(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Of the nearest of `levels` (k,), ascending."""
    return torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2)


def codebook_of(wanted: torch.Tensor, stays: torch.Tensor, format: Format, importance: torch.Tensor) -> torch.Tensor:
    """(k,) values for what `stays` (m, n, bool) of `wanted` (m, n): k-means, columns weighted by `importance` (n,)."""
    levels = torch.from_numpy(codebook_for(wanted.numpy(), format))
    given, weights = wanted[stays], importance.expand_as(wanted)[stays]
    for _ in range(CLUSTERING):
        place = _place(given, levels)
        total = torch.bincount(place, weights, len(levels))
        means = torch.bincount(place, weights * given, len(levels)) / total
        levels = torch.where(total > 0, means.float(), levels).sort().values
    return levels


# ---------------------------------------------------------------- patterns


def patterned(weight: torch.Tensor, wanted: torch.Tensor, kept: torch.Tensor, pattern: Pattern,
              products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(what `wanted` becomes on the pattern, where that is not zero): (m, n), (m, n) bool, inside `kept`."""
    sizes = np.unique(np.linspace(pattern.m, pattern.n, STEPS + 1).round().astype(int))[::-1][1:].tolist()
    stays = kept
    for n in sizes:
        stays = keep_pattern(wanted.square() * products.diagonal(), replace(pattern, n=n), stays)
        wanted = solved(weight, wanted * stays, stays, products, SOLVING if n == pattern.n else BETWEEN)
    return wanted, stays


def solved(weight: torch.Tensor, start: torch.Tensor, stays: torch.Tensor, products: torch.Tensor,
           rounds: int) -> torch.Tensor:
    """(m, n) from `start` towards the values on `stays` with the least error: conjugate gradients, scaled by A_jj."""
    values, scale = start, 1 / products.diagonal()
    rest = ((weight - values) @ products) * stays
    way = rest * scale
    size = (rest * way).sum(1, keepdim=True)
    for _ in range(rounds):
        through = (way @ products) * stays
        step = size / (way * through).sum(1, keepdim=True).clamp_min(SMALLEST)
        values, rest = values + step * way, rest - step * through
        near = rest * scale
        before, size = size, (rest * near).sum(1, keepdim=True)
        way = near + size / before.clamp_min(SMALLEST) * way
    return values


# ---------------------------------------------------------------- column by column


def by_columns(wanted: torch.Tensor, kept: torch.Tensor, stays: torch.Tensor, products: torch.Tensor,
               levels_of: Callable[[torch.Tensor], Nearest]) -> torch.Tensor:
    """(m, n) levels for `wanted`: errors of a column go to the `kept` ones behind it; zero where not `stays`.

    `levels_of` rows, (strips, rows): the nearest levels of (strips, rows) values.
    """
    values = torch.zeros_like(wanted)
    for rows, columns in _strips(kept):
        _round_(values, wanted, stays, products, rows, columns, levels_of(rows))
    return values


def _strips(kept: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(strips, r) rows with like columns and (strips, k) these columns, -1 where a strip has fewer than others.

    Strips that go together keep at least half as many as the first of them, and their factors fit into FACTOR_BYTES.
    """
    alike, which = torch.unique(kept, dim=0, return_inverse=True)
    counts, rows = alike.sum(1), which.argsort(stable=True).split(torch.bincount(which, minlength=len(alike)).tolist())
    order = [one for one in counts.argsort(descending=True).tolist() if counts[one]]
    while order:
        wide = int(counts[order[0]])
        some = [one for one in order[: max(1, int(FACTOR_BYTES / (4 * wide**2)))] if 2 * counts[one] >= wide]
        order = order[len(some):]
        yield (pad_sequence([rows[one] for one in some], True, -1),
               pad_sequence([alike[one].nonzero()[:, 0] for one in some], True, -1))


def _round_(values: torch.Tensor, wanted: torch.Tensor, stays: torch.Tensor, products: torch.Tensor,
            rows: torch.Tensor, columns: torch.Tensor, nearest: Nearest) -> None:
    """`values` of these strips' rows (strips, r) and columns (strips, k), in place."""
    weights = products.diagonal()[columns].masked_fill(columns < 0, -1)
    columns = columns.gather(1, weights.argsort(dim=1, descending=True, stable=True))
    there = columns >= 0
    system = products[columns[:, :, None], columns[:, None]] * (there[:, :, None] & there[:, None])
    factor = _upper(system + torch.diag_embed((~there).float()))
    factor /= factor.diagonal(dim1=1, dim2=2)[:, None].clone()  # else it would divide by what it writes
    at, valid = (rows[:, None], columns[:, :, None]), there[:, :, None] & (rows >= 0)[:, None]
    target, on = wanted[at] * valid, stays[at] & valid  # (strips, k, r), as all that follows
    off = torch.zeros_like(target)
    for start in range(0, columns.shape[1], PIECE):
        piece = slice(start, min(start + PIECE, columns.shape[1]))
        aim = torch.baddbmm(target[:, piece], factor[:, :start, piece].mT, off[:, :start])
        inside = factor[:, piece, piece]
        for j, column in enumerate(range(start, piece.stop)):
            off[:, column] = target[:, column] - nearest(aim[:, j]) * on[:, column]
            if column + 1 < piece.stop:
                aim[:, j + 1 :].addcmul_(inside[:, j, j + 1 :, None], off[:, column, None])
    where = tuple(index.expand_as(valid)[valid] for index in at)
    values[where] = (target - off)[valid] * stays[where]


def _upper(system: torch.Tensor) -> torch.Tensor:
    """R, upper triangular, with R R^T = `system` (strips, k, k); by way of float64 where rounding makes that less."""
    backwards = system.flip(1, 2)
    factor, failed = torch.linalg.cholesky_ex(backwards)
    if failed.any():
        factor = torch.linalg.cholesky(backwards.double()).to(system.dtype)
    return factor.flip(1, 2)


def descended(weight: torch.Tensor, values: torch.Tensor, stays: torch.Tensor, products: torch.Tensor,
              nearest: Nearest) -> torch.Tensor:
    """(m, n) levels after one descent over all columns, from levels `values`; zero where not `stays`."""
    values, on = values.T.contiguous(), stays.T  # (n, m), as all that follows
    off, diagonal = weight.T - values, products.diagonal()
    for start in range(0, len(values), PIECE):
        piece = slice(start, min(start + PIECE, len(values)))
        slope, inside = products[piece] @ off, products[piece, piece]
        for j, column in enumerate(range(start, piece.stop)):
            moved = values[column] - nearest(values[column] + slope[j] / diagonal[column]) * on[column]
            values[column] -= moved
            off[column] += moved
            if column + 1 < piece.stop:
                slope[j + 1 :].addcmul_(inside[j, j + 1 :, None], moved[None])
    return values.T.contiguous()
