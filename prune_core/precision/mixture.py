"""What can be done to every matrix of a model: its options, the bytes that each takes, and which are worth a look.

An option: dense, a pattern, or blocks at a share, and the bits of what stays. `Setting`: one of them for each matrix.
Pure: no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask, Norms, mask_at, mask_at_sparsity, thresholds_of
from prune_core.precision import storage
from prune_core.precision.formats import Format, Formats, Pattern

SHARES, PATTERNS, BITS = (0.5, 0.75, 0.9), ("2:4", "1:4"), ("16", "8", "4")
Setting = tuple[int, ...]  # of each matrix the number of its option, 0 the mildest
Errors = Sequence[Sequence[float]]  # of each matrix's options, how far its outputs are off; 0 nothing, 1 all of them


@dataclass(frozen=True)
class Option:
    """What can be done to a matrix: cut a `share` of its blocks, those that rank lowest, and store what is left."""

    share: float
    format: Format

    def __str__(self) -> str:
        """As it is kept: '0.5 4', '0 4/2:4'."""
        return f"{self.share:g} {self.format}"

    @property
    def words(self) -> str:
        """'blocks 0.5, 4 bits', 'dense, 8 bits', '4 bits, 2:4'."""
        cut = f"blocks {self.share:.3g}, " if self.share else "" if self.format.pattern else "dense, "
        return cut + self.format.words


@dataclass(frozen=True)
class Table:
    """Of every matrix its options, the mildest first, and the bytes that each takes (precision/storage.py)."""

    layout: Layout
    ranking: Norms
    options: tuple[tuple[Option, ...], ...]
    costs: tuple[tuple[int, ...], ...]

    def at(self, setting: Setting) -> dict[str, Option]:
        """Matrix name -> its option."""
        return {m.name: one[at] for m, one, at in zip(self.layout.matrices, self.options, setting, strict=True)}

    def promising(self, errors: Errors) -> tuple[Table, Errors]:
        """Only the options of each matrix that no other one beats in bytes and in `errors` both; their errors."""
        stays = [[at for at, (cost, error) in enumerate(zip(costs, of, strict=True)) if not any(
            other <= cost and less <= error and (other, less, i) < (cost, error, at)
            for i, (other, less) in enumerate(zip(costs, of, strict=True)))]
            for costs, of in zip(self.costs, errors, strict=True)]

        def some(of: Sequence[Sequence]) -> tuple:
            return tuple(tuple(one[at] for at in there) for one, there in zip(of, stays, strict=True))

        return replace(self, options=some(self.options), costs=some(self.costs)), some(errors)

    def joined(self, mask: BlockMask, format: Format) -> tuple[Table, Setting]:
        """With one option more, the last, of every matrix that has none which cuts it like `mask`, in this format; and
        the setting that is all of these."""
        shares = {m.name: mask.matrix_sparsity(m.name) for m in self.layout.matrices}
        options, costs, setting = [], [], []
        for matrix, own, theirs in zip(self.layout.matrices, self.options, self.costs, strict=True):
            at = next((at for at, one in enumerate(own) if one.format == format and np.array_equal(
                self.cut(one.share).kept[matrix.name], mask.kept[matrix.name])), len(own))
            setting.append(at)
            if at == len(own):
                own = (*own, Option(shares[matrix.name], format))
                theirs = (*theirs, storage.parts(matrix, mask, format).stored)
            options.append(own)
            costs.append(theirs)
        return replace(self, options=tuple(options), costs=tuple(costs)), tuple(setting)

    def cut(self, share: float) -> BlockMask:
        """This share of the blocks of every matrix cut."""
        return mask_at_sparsity(self.ranking, self.layout, share, "matrix")

    def shares(self, setting: Setting) -> dict[str, float]:
        return {name: option.share for name, option in self.at(setting).items()}

    def formats(self, setting: Setting) -> Formats:
        return Formats.of_each(self.layout, {name: option.format for name, option in self.at(setting).items()})

    def thresholds(self, setting: Setting) -> dict[str, float]:
        """Of each matrix, on the ranking: for a cut of scope 'matrix'."""
        return thresholds_of(self.ranking, self.layout, self.shares(setting), "matrix")

    def mask(self, setting: Setting) -> BlockMask:
        return mask_at(self.ranking, self.layout, self.thresholds(setting), "matrix")


def usual_patterns(layout: Layout) -> tuple[tuple[str, ...], str]:
    """(those of PATTERNS that fit this layout, why others are left out, in one line; '' if none is)."""
    wrong = {}
    for one in PATTERNS:
        try:
            Pattern.parse(one).check(layout)
        except InputError as error:
            wrong[one] = str(error)
    return tuple(one for one in PATTERNS if one not in wrong), "".join(
        f"without {' and '.join(wrong)}, as nothing was said of patterns: {why}" for why in [*wrong.values()][:1])


def table(layout: Layout, ranking: Norms, shares: Sequence[float] = SHARES, patterns: Sequence[str] = PATTERNS,
          bits: Sequence[str] = BITS) -> Table:
    """{dense, each pattern, blocks at each share} x bits; what a matrix has twice (its blocks are gone) once.

    Patterns that do not fit the blocks raise InputError, as do numbers out of range.
    """
    if wrong := [share for share in shares if not 0 < share < 1]:
        raise InputError(f"share {wrong[0]:g} is out of range; needed: more than 0 and less than 1")
    known = [Pattern.parse(one) for one in patterns]
    for pattern in known:
        pattern.check(layout)
    formats = [Format.parse(one) for one in bits]
    if wrong := [one for one in formats if one.pattern] or not formats:
        raise InputError(f"bits {', '.join(map(str, bits))!r}; needed: one or more of 32, 16, 8 to 2, ternary, binary")
    wanted = [Option(share, one) for one in formats for share in (0.0, *shares)]
    wanted += [Option(0.0, replace(one, pattern=pattern)) for one in formats for pattern in known]
    masks = {share: mask_at(ranking, layout, thresholds_of(
        ranking, layout, dict.fromkeys((m.name for m in layout.matrices), share), "matrix"), "matrix")
        for share in (0.0, *shares)}
    options, costs = [], []
    for matrix in layout.matrices:
        seen = {}
        for option in wanted:
            mask = masks[option.share]
            seen.setdefault((mask.kept[matrix.name].tobytes(), option.format),
                            (storage.parts(matrix, mask, option.format).stored, option))
        ordered = sorted(seen.values(), key=lambda one: -one[0])
        options.append(tuple(option for _, option in ordered))
        costs.append(tuple(cost for cost, _ in ordered))
    return Table(layout, ranking, tuple(options), tuple(costs))


def changed(setting: Setting, at: int, option: int) -> Setting:
    """The same with another option for the matrix at this place."""
    return (*setting[:at], option, *setting[at + 1:])
