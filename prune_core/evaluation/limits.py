"""What a search may spend: bytes of the encoder or the model as they are stored, or milliseconds as predicted here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prune_core import InputError
from prune_core.cutting.masks import BYTES, BlockMask
from prune_core.evaluation.speedup import usual_profile
from prune_core.latency.profile import Profile
from prune_core.latency.work import Batch
from prune_core.precision import mixture, storage
from prune_core.precision.descent import Search
from prune_core.precision.formats import Format
from prune_core.precision.mixture import Setting, Table
from prune_core.runs.run import Run

SHARES_FOR_SPEED = (0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Target:
    """One of: a ratio of the encoder's bytes in fp32 to those stored, index included; bytes of the whole model; how
    many times as fast as the best dense engine, predicted for 32 sentences of 128 tokens."""

    ratio: float | None = None
    bytes: int | None = None
    speedup: float | None = None

    def check(self) -> None:
        """Raises InputError unless it is one that can be asked for."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise InputError(f"{' and '.join(f'--{name}' for name in given) or 'no limit'}; needed: one of --ratio, "
                             "--bytes and --speedup")
        (name, value), = given.items()
        least = {"ratio": 1, "bytes": 0, "speedup": 0}[name]
        if not least < value < float("inf"):
            raise InputError(f"{name} {value:g} is out of range; needed: more than {least}")

    @property
    def name(self) -> str:
        """What a mixture found under it is called: '8x', '60000000-bytes', '4-times-as-fast'."""
        if self.ratio is not None:
            return f"{self.ratio:g}x"
        return f"{self.bytes}-bytes" if self.bytes is not None else f"{self.speedup:g}-times-as-fast"

    def to_json(self) -> dict:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Limit:
    """`costs` of each matrix's options, the `most` that a setting may cost, `total` of one; None: the sum.

    `of_mask(mask, formats by matrix)`: what any model costs; `told(mask)`: what an answer says beside bytes.
    """

    costs: Sequence[Sequence[float]]
    most: float
    total: Callable[[Setting], float] | None
    of_mask: Callable[[BlockMask, Mapping[str, Format]], float]
    told: Callable[[BlockMask], dict]


def table_for(run: Run, stage: str, by: str, target: Target, shares: Sequence[float], patterns: Sequence[str],
              bits: Sequence[str]) -> Table:
    """What may be chosen. Under a speedup only blocks: patterns and few bits save bytes, no time. Raises InputError."""
    ranking = run.ranking(stage, by)
    if target.speedup is None:
        return mixture.table(run.layout, ranking, shares, patterns, bits)
    return mixture.table(run.layout, ranking, SHARES_FOR_SPEED if shares == mixture.SHARES else shares, (), ("32",))


def of(run: Run, table: Table, target: Target, dtype: str = "auto") -> Limit:
    """Raises InputError where it cannot be met, saying what can."""
    return _of_time(run, table, target, dtype) if target.speedup is not None else _of_bytes(run, table, target)


def _of_bytes(run: Run, table: Table, target: Target) -> Limit:
    layout = run.layout
    dense = BYTES * layout.encoder_weights
    rest = BYTES * (layout.model_weights - layout.encoder_weights) + storage.header_bytes(layout)
    most = dense / target.ratio if target.ratio is not None else target.bytes - rest
    least = sum(min(one) for one in table.costs)
    if least > most and target.ratio is not None:
        raise InputError(f"ratio {target.ratio:g} cannot be reached with these settings; the largest is "
                         f"{np.floor(1000 * dense / least) / 1000:g}")
    if least > most:
        raise InputError(f"{target.bytes:,} bytes cannot be reached with these settings; the least is "
                         f"{rest + least:,}, {rest:,} of them outside the encoder's prunable matrices")

    def of_mask(mask: BlockMask, formats: Mapping[str, Format]) -> float:
        return sum(storage.parts(m, mask, formats[m.name]).stored for m in layout.matrices)

    return Limit(table.costs, most, None, of_mask, lambda mask: {})


def _of_time(run: Run, table: Table, target: Target, dtype: str) -> Limit:
    profile, layout, heads, batch = _profile(), run.layout, run.heads, Batch()
    rival, ms = profile.best_rival(layout, batch)
    known: dict[Setting, float] = {}

    def of_mask(mask: BlockMask, formats: Mapping[str, Format]) -> float:
        return profile.compact_ms(mask, batch, heads, dtype)

    def total(setting: Setting) -> float:
        if setting not in known:
            known[setting] = of_mask(table.mask(setting), {})
        return known[setting]

    def told(mask: BlockMask) -> dict:
        taken = profile.path_of(dtype, mask, batch, heads)
        return {"predicted_speedup": ms / taken.ms, "predicted_ms": taken.ms, "path": taken.path, "over": rival,
                "speed_note": "Only blocks are chosen: patterns and few bits save bytes, no time, on this processor."}

    mild = (0,) * len(table.options)
    costs = [[total(mixture.changed(mild, at, option)) for option in range(len(one))]
             for at, one in enumerate(table.options)]
    least = total(Search(costs, 0, total).least)
    if least > ms / target.speedup:
        raise InputError(f"speedup {target.speedup:g} cannot be reached with these settings; the largest is "
                         f"{np.floor(100 * ms / least) / 100:g}")
    return Limit(costs, ms / target.speedup, total, of_mask, told)


def _profile() -> Profile:
    """Raises InputError where this machine was never calibrated."""
    profile = usual_profile()
    if profile is None or not profile.own:
        raise InputError("a speedup cannot be predicted, as this machine was never calibrated; needed: python -m "
                         "prune_core calibrate, or --ratio or --bytes instead")
    return profile
