"""The one place that divides a weight into groups (blocks).

A weight is (m outputs x n inputs). One rectangle of rows x cols covers every form of block pruning:
64x1 is column pruning inside strips of 64 rows, 1x64 row pruning inside strips of 64 columns, 16x16
a tile, allx1 whole columns, 1xall whole rows. Works on torch tensors and on numpy arrays alike and
imports neither, so that pages can count groups without loading torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from prune_core import InputError

_NAMED = {"column": "allx1", "columns": "allx1", "row": "1xall", "rows": "1xall"}
_SIDE = re.compile(r"all|[1-9]\d{0,6}")


@dataclass(frozen=True)
class BlockShape:
    """One group is `rows` x `cols` weights; None on a side means the whole side of the matrix."""

    rows: int | None
    cols: int | None

    @classmethod
    def parse(cls, text: str) -> BlockShape:
        """'64x1', '1x64', '16x16', 'allx1' (or 'columns'), '1xall' (or 'rows'). Raises InputError."""
        sides = _NAMED.get(text.strip().lower(), text.strip().lower()).split("x")
        if len(sides) != 2 or not all(_SIDE.fullmatch(side) for side in sides):
            raise InputError(f"block shape {text[:60]!r} is not ROWSxCOLS, "
                             "for example 64x1, 1x64, 16x16, allx1 (whole columns), 1xall")
        return cls(*(None if side == "all" else int(side) for side in sides))

    def __str__(self) -> str:
        return f"{self.rows or 'all'}x{self.cols or 'all'}"

    def sides(self, m: int, n: int, name: str = "the matrix") -> tuple[int, int]:
        """(rows, cols) of one group in an m x n matrix. Raises InputError where the shape does not divide it.

        A shorter last strip was decided against: every group then would not have the same number of
        weights, norms would not compare, and the compact layers would carry a special case for nothing,
        as real encoders' sides divide by 16, 32 and 64.
        """
        rows, cols = self.rows or m, self.cols or n
        for size, side, word in ((m, rows, "rows"), (n, cols, "columns")):
            if side > size:
                raise InputError(f"block {self} is larger than {name}, which is {m}x{n}: at most {size} {word}")
            if size % side:
                fits = ", ".join(str(d) for d in _near_divisors(size, side))
                raise InputError(f"{name} is {m}x{n}, not divisible into strips of {side} {word}; try {fits}")
        return rows, cols

    def grid(self, m: int, n: int, name: str = "the matrix") -> tuple[int, int]:
        """(groups down, groups across) of an m x n matrix. Raises InputError like `sides`."""
        rows, cols = self.sides(m, n, name)
        return m // rows, n // cols

    def view(self, weight):
        """(m, n) -> (groups down, rows, groups across, cols), the same memory: the weight, divided."""
        rows, cols = self.sides(*weight.shape)
        m, n = weight.shape
        return weight.reshape(m // rows, rows, n // cols, cols)

    def norms(self, weight, floor: float = 0.0):
        """(m, n) -> (groups down, groups across): the l2 norm of every group, sqrt(sum w^2 + floor^2).

        A floor above 0 gives zero groups a gradient (0) where the plain norm has none. Square, sum,
        root: measured 5 to 13 times as fast on strips as torch.linalg.vector_norm.
        """
        divided = self.view(weight)
        return ((divided * divided).sum((1, 3)) + floor * floor) ** 0.5

    def spread(self, per_group, m: int, n: int):
        """(groups down, groups across) -> broadcastable to `view`: one value for all weights of a group."""
        if tuple(per_group.shape) != self.grid(m, n):
            raise ValueError(f"{tuple(per_group.shape)} values for {self.grid(m, n)} groups of a {m}x{n} matrix")
        return per_group.reshape(per_group.shape[0], 1, per_group.shape[1], 1)

    def scale_(self, weight, per_group) -> None:
        """Multiply every group of `weight` (m, n) by its value in `per_group` (groups down, across), in place."""
        divided = self.view(weight)
        divided *= self.spread(per_group, *weight.shape)

    def expand(self, per_group, m: int, n: int):
        """(groups down, groups across) -> (m, n): every weight gets the value of its group."""
        rows, cols = self.sides(m, n)
        repeat = getattr(per_group, "repeat_interleave", None)  # torch; numpy has repeat(count, axis)
        if repeat is None:
            return per_group.repeat(rows, 0).repeat(cols, 1)
        return repeat(rows, 0).repeat_interleave(cols, 1)


def _near_divisors(size: int, wanted: int) -> list[int]:
    """The three divisors of `size` nearest to `wanted`, ascending."""
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    return sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:3])


MOST_SIDE = 2**20


@dataclass(frozen=True)
class Matrix:
    """One prunable weight: `name` as in the model, its layer (from 0), its type, m x n."""

    name: str
    layer: int
    type: str
    m: int
    n: int


@dataclass(frozen=True)
class Layout:
    """What is divided and how: the prunable matrices, the block shape, and the number of all weights of the model."""

    matrices: tuple[Matrix, ...]
    block: BlockShape
    model_weights: int

    @classmethod
    def of(cls, matrices: Iterable[Matrix], block: BlockShape, model_weights: int) -> Layout:
        """Raises InputError, naming shapes that fit every matrix, if the block shape does not divide one."""
        matrices = tuple(matrices)
        for matrix in matrices:
            try:
                block.sides(matrix.m, matrix.n, matrix.name)
            except InputError as error:
                raise InputError(f"{error} ({_shapes_that_fit(matrices)} fit every matrix of this model)") from None
        return cls(matrices, block, model_weights)

    @property
    def encoder_weights(self) -> int:
        """Weights in the prunable matrices: the denominator of the encoder compression."""
        return sum(matrix.m * matrix.n for matrix in self.matrices)

    def group_size(self, matrix: Matrix) -> int:
        """Weights in one group of this matrix."""
        rows, cols = self.block.sides(matrix.m, matrix.n, matrix.name)
        return rows * cols

    def to_json(self) -> dict:
        matrices = [vars(matrix) for matrix in self.matrices]
        return {"block": str(self.block), "model_weights": self.model_weights, "matrices": matrices}

    @classmethod
    def from_json(cls, data: dict) -> Layout:
        """Raises InputError, TypeError, KeyError or ValueError where this is none."""
        matrices = [Matrix(**matrix) for matrix in data["matrices"]]
        for matrix in matrices:
            _check(matrix)
        if not matrices or len({matrix.name for matrix in matrices}) < len(matrices):
            raise InputError("a layout needs matrices, each with a name of its own")
        total = int(data["model_weights"])
        if total < sum(matrix.m * matrix.n for matrix in matrices):
            raise InputError(f"model_weights is {total:,}, less than the matrices have together")
        return cls.of(matrices, BlockShape.parse(data["block"]), total)


def _check(matrix: Matrix) -> None:
    """Raises InputError for fields of another type, and for sides that no encoder has: they would cost hours."""
    name, layer = matrix.name, matrix.layer
    if not all(type(side) is int and 1 <= side <= MOST_SIDE for side in (matrix.m, matrix.n)):
        raise InputError(f"{name!r} is {matrix.m!r}x{matrix.n!r}; needed: whole numbers from 1 to {MOST_SIDE:,}"[:300])
    texts = isinstance(name, str) and isinstance(matrix.type, str)
    if not (texts and type(layer) is int and 0 <= layer < MOST_SIDE):
        raise InputError(f"matrix {name!r} has type {matrix.type!r} in layer {layer!r}; "
                         "needed: text and a whole number"[:300])


def _shapes_that_fit(matrices: tuple[Matrix, ...]) -> str:
    """'64x1, 16x1, 1x64, ...': common shapes that divide all the matrices, for messages."""
    common = ("64x1", "32x1", "16x1", "8x1", "1x64", "16x16", "allx1", "1xall")
    return ", ".join(s for s in common if _fits(BlockShape.parse(s), matrices))


def _fits(block: BlockShape, matrices: tuple[Matrix, ...]) -> bool:
    return all(m.m % (block.rows or m.m) == 0 and m.n % (block.cols or m.n) == 0 for m in matrices)
