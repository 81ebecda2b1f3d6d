"""The latency model: how long an encoder takes under any mask, from counts of its work and one machine's times.

Numpy and scipy's result only, so that a page predicts without loading torch; execution/calibrate.py takes the
times. A prediction is for the compact model on the kernels of native.cpp, in fp32, sentences of one length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.latency.strips import Registers, layers_of, plan_encoder

FORMAT = 1
MAX_TOKENS = 2**18  # of one batch: some GB of activations


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


def work(mask: BlockMask, setting: Batch, registers: Registers, heads: int | None = None) -> dict[str, float]:
    """Counts of what the compact model does for one batch; the names are those of a Profile's coefficients."""
    tokens = setting.tokens
    plans = plan_encoder(mask, heads, registers)
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


def dense_work(layout: Layout, setting: Batch) -> dict[str, float]:
    """Counts of what the dense model does for one batch."""
    def outputs(*types: str) -> int:
        return sum(m.m for m in layout.matrices if not types or m.type in types)

    tokens, weights = setting.tokens, layout.encoder_weights
    inside = {"multiply": float(tokens * weights), "weights": float(weights),
              "gelu": float(tokens * outputs("intermediate")), "store": float(tokens * outputs())}
    return inside | _around(layout, setting, outputs("value"))


def _around(layout: Layout, setting: Batch, widths: float) -> dict[str, float]:
    """What is not in the prunable matrices: attention over `widths` (all layers' heads together), norms, embeddings."""
    hidden, layers = max(m.n for m in layout.matrices if m.type != "output"), len(layers_of(layout))
    batch, length, tokens = setting.batch, setting.length, setting.tokens
    return {"attention": batch * length**2 * widths, "heads": tokens * widths,
            "norm": float(tokens * hidden * layers), "embed": float(tokens * hidden), "head": float(batch * hidden**2),
            "layers": float(layers), "call": 1.0}


@dataclass(frozen=True)
class Profile:
    """What `calibrate` found on a machine: milliseconds per unit of work, and how wrong its predictions were.

    The errors are those on masks that were not used to calibrate.
    """

    machine: Mapping
    threads: int
    lanes: int
    vectors: int
    compact: Mapping[str, float]
    dense: Mapping[str, float]
    error: float  # median |predicted - measured| / measured of the compact model
    error_dense: float
    masks: int  # how many stand behind `error`
    created: float

    @property
    def registers(self) -> Registers:
        return Registers(self.lanes, self.vectors)

    def compact_ms(self, mask: BlockMask, setting: Batch, heads: int | None = None) -> float:
        """Predicted milliseconds of the compact model for one batch."""
        return priced(work(mask, setting, self.registers, heads), self.compact)

    def dense_ms(self, layout: Layout, setting: Batch) -> float:
        """Predicted milliseconds of the dense model in torch for one batch."""
        return priced(dense_work(layout, setting), self.dense)

    def layers_ms(self, mask: BlockMask, setting: Batch, heads: int | None = None) -> list[tuple[int, float, float]]:
        """(layer, dense ms, compact ms) of every layer: what is around the layers belongs to none."""
        rows = []
        for number, parts in sorted((next(iter(p.values())).layer, p) for p in layers_of(mask.layout)):
            layout = replace(mask.layout, matrices=tuple(parts.values()))
            counts = [dense_work(layout, setting), work(BlockMask(layout, mask.kept), setting, self.registers, heads)]
            inside = [{k: v for k, v in each.items() if k not in ("call", "embed", "head")} for each in counts]
            rows.append((number, priced(inside[0], self.dense), priced(inside[1], self.compact)))
        return rows

    def speedup(self, mask: BlockMask, setting: Batch, heads: int | None = None) -> float:
        """Predicted dense / compact."""
        return self.dense_ms(mask.layout, setting) / self.compact_ms(mask, setting, heads)

    def to_json(self) -> dict:
        return {"format": FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, data: Mapping) -> Profile:
        """Raises InputError where this is no profile."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise InputError("this is no latency profile of this version; "
                             "make one with: python -m prune_core calibrate --to FILE")
        try:
            profile = cls(**{key: data[key] for key in cls.__dataclass_fields__})
            numbers = [*profile.compact.values(), *profile.dense.values(), profile.error, profile.error_dense]
            finite = all(isinstance(n, int | float) and 0 <= n < float("inf") for n in numbers)
            if not finite or profile.lanes not in (1, 4, 8, 16, 32):
                raise ValueError("coefficients are not finite numbers of at least 0")
            layout_free = {"call", "layers"} <= profile.compact.keys() & profile.dense.keys()
            if not layout_free or not isinstance(profile.machine, Mapping) or not 1 <= int(profile.vectors) <= 8:
                raise ValueError("parts are missing")
            return profile
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            raise InputError(f"this latency profile is damaged: {why}") from None


def priced(counts: Mapping[str, float], prices: Mapping[str, float]) -> float:
    """Milliseconds of this much work; work without a price costs nothing."""
    return float(sum(count * prices.get(name, 0.0) for name, count in counts.items()))
