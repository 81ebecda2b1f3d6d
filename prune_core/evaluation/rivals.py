"""What a mixture has to beat: one setting for all matrices, with as few blocks cut as a limit allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.evaluation.limits import Limit
from prune_core.precision.formats import Format
from prune_core.precision.mixture import Errors, Option, Table


@dataclass(frozen=True)
class Uniform:
    """One setting for all matrices, cut as little as the limit allows."""

    scope: str
    share: float
    format: Format
    mask: BlockMask

    @property
    def words(self) -> str:
        if not self.share:
            return Option(0.0, self.format).words
        where = "one threshold" if self.scope == "global" else "of every matrix"
        return f"blocks {self.share:.3f} ({where}), {self.format.words}"

    @property
    def text(self) -> str:
        return f"uniform {self.scope} {self.share!r} {self.format}"

    @property
    def formats(self) -> dict[str, Format]:
        """By matrix."""
        return dict.fromkeys((m.name for m in self.mask.layout.matrices), self.format)


def uniforms(table: Table, limit: Limit) -> list[Uniform]:
    """Every format, alone and with as few blocks cut as the limit asks for."""
    formats = dict.fromkeys(option.format for one in table.options for option in one)
    rivals: dict[tuple, Uniform] = {}
    for format in formats:
        for scope in ("global", "matrix"):
            uniform = _least_cut(table, limit, scope, format)
            if uniform is not None:
                rivals.setdefault((format, uniform.mask.digest()), uniform)
    return list(rivals.values())


def _least_cut(table: Table, limit: Limit, scope: str, format: Format) -> Uniform | None:
    """The smallest share of this scope that is within the limit, to a ten-thousandth; None where none up to 0.95 is."""
    def at(share: float) -> Uniform:
        return Uniform(scope, share, format, mask_at_sparsity(table.ranking, table.layout, share, scope))

    def fits(uniform: Uniform) -> bool:
        return limit.of_mask(uniform.mask, uniform.formats) <= limit.most

    low, high = 0, 9500
    if not fits(at(high / 1e4)):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(at(middle / 1e4)) else (middle + 1, high)
    return at(high / 1e4)


def expected(uniform: Uniform, table: Table, errors: Errors) -> float:
    """How far the outputs of its matrices are likely to be off, the mean of all: what each format and each share of
    blocks does alone, and between two shares a straight line; of a format and a share together the larger."""
    off = []
    for matrix, options, of in zip(table.layout.matrices, table.options, errors, strict=True):
        known = {(one.share, one.format): error for one, error in zip(options, of, strict=True)}
        format = known.get((0.0, uniform.format), 0.0)
        shares = {share: min(e for (s, _), e in known.items() if s == share) for share, _ in known} | {1.0: 1.0}
        steps = sorted(shares)
        blocks = np.interp(uniform.mask.matrix_sparsity(matrix.name), steps, [shares[step] for step in steps])
        off.append(max(format, float(blocks)))
    return float(np.mean(off))

