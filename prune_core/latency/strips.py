"""How a masked encoder is to be executed: which rows and columns are still there, and which strips are walked.

Numpy only, so that a page can count the work of a mask without loading torch; execution/compact.py executes
the plans, profile.py prices them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.cutting.masks import BlockMask

SCATTER_COST = 16  # what adding a strip to scattered outputs costs, in columns of multiplication


@dataclass(frozen=True)
class Registers:
    """What the kernels hold of a strip's outputs: vectors of `lanes` floats, at most `vectors` of them."""

    lanes: int
    vectors: int

    def parts(self, count: int) -> list[slice]:
        """`count` outputs in panels that fit, of like width, whole vectors but for the last."""
        panels = max(1, -(-count // (self.lanes * self.vectors)))
        width = self.wide(-(-count // panels))
        return [slice(at, min(count, at + width)) for at in range(0, count, width)]

    def wide(self, count: int) -> int:
        """`count` rounded up to whole vectors."""
        return -(-count // self.lanes) * self.lanes


@dataclass(frozen=True)
class Blocking:
    """How the pass over a whole encoder (execution/whole.py) takes a strip: a block of outputs x tokens at a time.

    `tile`: tokens of a block; `rows`: at most so many outputs; `step`: kept columns that one instruction, or one
    step of tiles, takes together; `unit`: outputs that cannot be had singly. Strips of fewer than `join` are joined.
    """

    tile: int
    rows: int
    step: int
    unit: int = 1
    join: int = 4

    @property
    def lanes(self) -> int:
        """What narrow strips are joined to."""
        return max(self.unit, self.join)

    def parts(self, count: int) -> list[slice]:
        """`count` outputs in blocks of like size."""
        blocks = max(1, -(-count // self.rows))
        width = self.wide(-(-count // blocks))
        return [slice(at, min(count, at + width)) for at in range(0, count, width)]

    def wide(self, count: int) -> int:
        """`count` rounded up to whole units."""
        return -(-count // self.unit) * self.unit


@dataclass(frozen=True)
class Live:
    """Which outputs (m,) and inputs (n,) of a matrix are still there after what died around it was taken out."""

    rows: np.ndarray
    cols: np.ndarray

    @classmethod
    def all(cls, m: int, n: int) -> Live:
        return cls(np.ones(m, bool), np.ones(n, bool))


@dataclass(frozen=True)
class Strip:
    """Outputs that share their kept inputs; both by their number in the dense matrix."""

    rows: np.ndarray
    cols: np.ndarray


@dataclass(frozen=True)
class Execution:
    """How one matrix is executed: its strips, and whether a strip owns its outputs or adds to those of others."""

    strips: list[Strip]
    scattered: bool
    executed: str  # strips, rows in strips, or dense: no faster execution than that
    live: Live

    def cost(self, registers: Registers | Blocking) -> int:
        """Multiplications per token, padding to the registers included."""
        extra = SCATTER_COST if self.scattered else 0
        return sum((len(s.cols) + extra) * registers.wide(len(s.rows)) for s in self.strips)


def plan_matrix(kept: np.ndarray, block: BlockShape, live: Live, registers: Registers | Blocking) -> Execution:
    """The cheaper way: strips of rows with their kept columns, or strips of columns with their kept rows."""
    rows, cols = block.sides(len(live.rows), len(live.cols))
    plans = [by_rows(kept, rows, cols, live, registers.lanes)]
    if cols > 1 and rows < len(live.rows):
        plans.append(_by_columns(kept, rows, cols, live))
    return min(plans, key=lambda plan: plan.cost(registers))


def by_rows(kept: np.ndarray, rows: int, cols: int, live: Live, lanes: int) -> Execution:
    """Bands of rows with the columns that any of their groups keeps; narrow strips are joined to fill a vector."""
    join, strips = max(1, lanes // rows), []
    for first in range(0, len(kept), join):
        band = kept[first : first + join].any(0)
        out = first * rows + np.flatnonzero(live.rows[first * rows : (first + join) * rows])
        if len(out):
            strips.append(Strip(out, np.flatnonzero(np.repeat(band, cols) & live.cols)))
    walked = sum(len(strip.cols) * len(strip.rows) for strip in strips)
    return Execution(strips, False, "strips" if walked < 0.95 * live.rows.sum() * live.cols.sum() else "dense", live)


def _by_columns(kept: np.ndarray, rows: int, cols: int, live: Live) -> Execution:
    """Bands of columns with the rows that keep something of them; every band adds to its outputs."""
    strips = []
    for band in range(kept.shape[1]):
        inputs = band * cols + np.flatnonzero(live.cols[band * cols : (band + 1) * cols])
        out = np.flatnonzero(np.repeat(kept[:, band], rows) & live.rows)
        if len(out) and len(inputs):
            strips.append(Strip(out, inputs))
    return Execution(strips, True, "rows in strips", live)


# ---------------------------------------------------------------- what died around a matrix


def layers_of(layout: Layout) -> list[dict[str, Matrix]]:
    """Type -> matrix, per layer."""
    layers: dict[int, dict[str, Matrix]] = {}
    for matrix in layout.matrices:
        layers.setdefault(matrix.layer, {})[matrix.type] = matrix
    return list(layers.values())


def living(mask: BlockMask, heads: int | None) -> dict[str, Live]:
    """Matrix name -> what is still there of it: no neurons whose row or whose column is gone, no heads likewise.

    A head goes with its value or its output. `heads` per layer; None where heads must stay.
    """
    live = {m.name: Live.all(m.m, m.n) for m in mask.layout.matrices}
    for parts in layers_of(mask.layout):
        if {"intermediate", "output"} <= parts.keys() and parts["intermediate"].m == parts["output"].n:
            _tie(mask, live, parts["intermediate"], parts["output"], 1)
        if heads and {"query", "key", "value", "attention.output"} <= parts.keys() and parts["value"].m % heads == 0:
            _tie(mask, live, parts["value"], parts["attention.output"], parts["value"].m // heads)
            for kind in ("query", "key"):
                live[parts[kind].name] = Live(live[parts["value"].name].rows, live[parts[kind].name].cols)
    return live


def _tie(mask: BlockMask, live: dict[str, Live], first: Matrix, second: Matrix, width: int) -> None:
    """Outputs of `first` are inputs of `second`, in units of `width`: one stays while both sides keep some of it."""
    block, kept = mask.layout.block, mask.kept
    gives = np.repeat(kept[first.name].any(1), block.sides(first.m, first.n)[0]).reshape(-1, width).any(1)
    takes = np.repeat(kept[second.name].any(0), block.sides(second.m, second.n)[1]).reshape(-1, width).any(1)
    stays = gives & takes
    stays[0] |= not stays.any()  # a layer of none is no layer
    units = np.repeat(stays, width)
    live[first.name], live[second.name] = Live(units, live[first.name].cols), Live(live[second.name].rows, units)


def plan_encoder(mask: BlockMask, heads: int | None, registers: Registers | Blocking) -> dict[str, Execution]:
    """Matrix name -> how it is executed."""
    live, layout = living(mask, heads), mask.layout
    return {m.name: plan_matrix(mask.kept[m.name], layout.block, live[m.name], registers) for m in layout.matrices}
