"""Counts of the work that a batch makes under a mask: in the pass over a whole encoder, module by module, or dense.

A Profile has a price for each of these counts. showing/canvas/latency.js counts the same in the browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.latency.strips import Blocking, Execution, Registers, layers_of

MAX_TOKENS = 2**18  # of one batch: some GB of activations
FIRST = ("query", "attention.output", "intermediate", "output")  # of the last layer: for each sentence's first token
ATTENDED = 16  # at least so many queries of a sentence are attended together
HEAD = 64  # rows of a head, where it is not known how many there are
PASS = ("multiply", "steps", "blocks", "store", "scatter", "weights", "gather", "gelu", "attention", "softmax", "heads",
        "norm", "quantize", "embed", "head", "layers", "call")

Counts = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """What a latency is for: a batch of sentences of one length."""

    batch: int = 32
    length: int = 128

    def __post_init__(self):
        for name, most in (("batch", 4096), ("length", 4096)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name)} is out of range; needed: 1 to {most}")
        if self.tokens > MAX_TOKENS:
            raise InputError(f"a batch of {self.batch} x {self.length} tokens is out of range; "
                             f"needed: at most {MAX_TOKENS:,} together")

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def words(self) -> str:
        """'32 sentences of 128 tokens'."""
        return f"{self.batch} sentence{'s' * (self.batch > 1)} of {self.length} token{'s' * (self.length > 1)}"


def last_layer(layout: Layout) -> int | None:
    """The layer of which only each sentence's first token is needed; None where layers share weights, and come again.
    """
    shared = any("albert_layer_groups" in matrix.name for matrix in layout.matrices)
    return None if shared else max(matrix.layer for matrix in layout.matrices)


def of_pass(mask: BlockMask, setting: Batch, blocking: Blocking, plans: Mapping[str, Execution],
            heads: int | None = None, quantized: bool = False, last: int | None = None) -> Counts:
    """Counts of PASS for one batch in the pass over the whole encoder (execution/whole.py), as `plans` has it executed.

    All tokens count in whole tiles. `quantized`: inputs are rounded to int8 first. `last`: the layer of which query,
    attention.output, intermediate and output run for each sentence's first token only.
    """
    counts, layout = dict.fromkeys(PASS, 0.0), mask.layout
    every, first = -(-setting.tokens // blocking.tile), -(-setting.batch // blocking.tile)  # tiles
    for matrix in layout.matrices:
        plan, ends = plans[matrix.name], matrix.layer == last
        tiles = first if ends and matrix.type in FIRST else every
        _strips(counts, plan, tiles, blocking)
        tokens, rows = tiles * blocking.tile, float(plan.live.rows.sum())
        if matrix.type == "intermediate":
            counts["gelu"] += tokens * rows
        if matrix.type == "value":
            pairs = setting.batch * setting.length * (min(setting.length, ATTENDED) if ends else setting.length)
            counts["attention"] += pairs * rows
            counts["softmax"] += pairs * rows / (matrix.m // heads if heads else HEAD)
            counts["heads"] += tokens * rows
        if quantized and matrix.type not in ("query", "key"):  # value has the same input
            counts["quantize"] += tokens * float(plan.live.cols.sum())
    ends = [next(iter(parts.values())).layer == last for parts in layers_of(layout)]
    counts["norm"] = float(_hidden(layout) * blocking.tile * sum(first if end else every for end in ends))
    return counts | {"embed": float(every * blocking.tile * _hidden(layout)),
                     "head": float(setting.batch * _hidden(layout)**2), "layers": float(len(ends)), "call": 1.0}


def _strips(counts: Counts, plan: Execution, tiles: int, blocking: Blocking) -> None:
    """Adds what the strips of one matrix take for so many tiles: blocks of outputs by steps of kept columns."""
    tokens = tiles * blocking.tile
    for strip in plan.strips:
        kept, wide = len(strip.cols), blocking.wide(len(strip.rows))
        steps, parts = -(-kept // blocking.step), len(blocking.parts(len(strip.rows)))
        counts["multiply"] += tokens * steps * blocking.step * wide
        counts["steps"] += tiles * steps * parts
        counts["blocks"] += tiles * parts
        counts["scatter" if plan.scattered else "store"] += tokens * wide
        counts["weights"] += kept * wide
        counts["gather"] += tokens * kept


def by_module(mask: BlockMask, setting: Batch, registers: Registers, plans: Mapping[str, Execution]) -> Counts:
    """Counts of what the compact model does for one batch module by module: what profiles of format 1 have prices of.
    """
    tokens = setting.tokens
    counts = {f"multiply {vectors}": 0.0 for vectors in range(1, registers.vectors + 1)}
    counts |= dict.fromkeys(("store", "transpose", "weights", "scatter", "gelu", "panels"), 0.0)
    for matrix in mask.layout.matrices:
        plan = plans[matrix.name]
        counts["transpose"] += tokens * float(plan.live.cols.sum())
        for strip in plan.strips:
            for part in registers.parts(len(strip.rows)):
                width = registers.wide(len(strip.rows[part]))
                counts[f"multiply {width // registers.lanes}"] += tokens * len(strip.cols) * width
                counts["scatter" if plan.scattered else "store"] += tokens * width
                counts["weights"] += len(strip.cols) * width
                counts["panels"] += 1
        if matrix.type == "intermediate":
            counts["gelu"] += tokens * float(plan.live.rows.sum())
    values = [parts["value"] for parts in layers_of(mask.layout) if "value" in parts]
    return counts | _around(mask.layout, setting, sum(float(plans[value.name].live.rows.sum()) for value in values))


def dense_work(layout: Layout, setting: Batch) -> Counts:
    """Counts of what a dense model does for one batch, in any engine."""
    def outputs(*types: str) -> int:
        return sum(m.m for m in layout.matrices if not types or m.type in types)

    tokens, weights = setting.tokens, layout.encoder_weights
    inside = {"multiply": float(tokens * weights), "weights": float(weights),
              "gelu": float(tokens * outputs("intermediate")), "store": float(tokens * outputs())}
    return inside | _around(layout, setting, outputs("value"))


def _around(layout: Layout, setting: Batch, widths: float) -> Counts:
    """What is not in the prunable matrices: attention over `widths` (all layers' heads together), norms, embeddings."""
    hidden, layers = _hidden(layout), len(layers_of(layout))
    batch, length, tokens = setting.batch, setting.length, setting.tokens
    return {"attention": batch * length**2 * widths, "heads": tokens * widths,
            "norm": float(tokens * hidden * layers), "embed": float(tokens * hidden), "head": float(batch * hidden**2),
            "layers": float(layers), "call": 1.0}


def _hidden(layout: Layout) -> int:
    """The width of the activations between layers."""
    return max(m.n for m in layout.matrices if m.type != "output")


def priced(counts: Mapping[str, float], prices: Mapping[str, float]) -> float:
    """Milliseconds of this much work; work without a price costs nothing."""
    return float(sum(count * prices.get(name, 0.0) for name, count in counts.items()))
