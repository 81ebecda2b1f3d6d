"""The latency model: how long an encoder takes under any mask, from counts of its work and one machine's times.

Numpy and scipy's result only, so that a page predicts without loading torch; execution/calibrate.py takes the
times. A prediction is for sentences of one length: of the compact model on one of its paths (the kernels for one
arithmetic), and of the dense engines beside it, its rivals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.latency.strips import Blocking, Execution, Registers, layers_of, plan_encoder
from prune_core.latency.work import Batch, Counts, by_module, dense_work, last_layer, of_pass, priced

FORMAT = 2
DTYPES = ("fp32", "bf16", "int8")
ASKED = (*DTYPES, "auto")
PLAIN, TORCH = "fp32", "torch fp32"  # the path and the rival that every profile has
RIVALS = (TORCH, "torch bf16", "onnxruntime fp32", "onnxruntime int8", "openvino fp32", "openvino bf16")
LEFT_OUT = ("embed", "head", "call")  # of a layer alone


def uncut(layout: Layout) -> BlockMask:
    """The mask that keeps all."""
    return BlockMask(layout, {m.name: np.ones(layout.block.grid(m.m, m.n), bool) for m in layout.matrices})


def dtype_of(path: str) -> str:
    """The arithmetic of a path: 'bf16' of 'bf16 avx512'."""
    return path.partition(" ")[0]


@dataclass(frozen=True)
class Prices:
    """Milliseconds per unit of work, and how wrong they were: median |predicted - measured| / measured, where they
    were not fitted."""

    ms: Mapping[str, float]
    error: float


@dataclass(frozen=True)
class PathPrices(Prices):
    """Prices of a path, and how its kernels take strips: Registers where it ran module by module (format 1).

    `slower`: it took longer than fp32 under every mask that was timed.
    """

    blocking: Blocking | Registers = Blocking(1, 1, 1, 1)
    slower: bool = False


class Taken(NamedTuple):
    """Which path is taken, its arithmetic, predicted milliseconds, and why it is not what was asked for ('': it is)."""

    path: str
    dtype: str
    ms: float
    why: str


class Foretold(NamedTuple):
    """A predicted speedup, and what it is: in which arithmetic, over which rival, 'on AMD EPYC, not this machine' where
    it is for another one, else '', and why in no other arithmetic ('': it is what was asked for)."""

    speedup: float
    dtype: str
    over: str
    on: str
    why: str = ""

    @property
    def words(self) -> str:
        """'2.1 times as fast as openvino bf16, in bf16 (predicted)'."""
        said = "; ".join(filter(None, (f"predicted {self.on}".strip(), self.why)))
        return f"{self.speedup:.1f} times as fast as {self.over}, in {self.dtype} ({said})"


@dataclass(frozen=True)
class Profile:
    """What `calibrate` found on a machine: prices of every path that runs there, and of every rival."""

    machine: Mapping
    threads: int
    paths: Mapping[str, PathPrices]
    rivals: Mapping[str, Prices]
    masks: int  # how many stand behind the errors of paths
    created: float
    own: bool = field(default=True, compare=False)  # made here; read: from this machine's own file alone

    @property
    def error(self) -> float:
        """Of the fp32 path."""
        return self.paths[PLAIN].error

    @property
    def error_dense(self) -> float:
        """Of the dense model in torch, fp32."""
        return self.rivals[TORCH].error

    # ---- which path

    def candidates(self, dtype: str) -> tuple[list[str], str]:
        """(the paths that may run where `dtype` is asked for, why another than it). Raises InputError."""
        if dtype not in ASKED:
            raise InputError(f"dtype {dtype!r} is unknown; needed: one of {', '.join(ASKED)}")
        gain = [name for name, path in self.paths.items() if name == PLAIN or not path.slower]
        if dtype == "auto":
            return gain, ""
        mine = [name for name in self.paths if dtype_of(name) == dtype]
        if taken := [name for name in mine if name in gain]:
            return taken, ""
        return [PLAIN], f"{dtype} was slower than fp32 in every timing" if mine else f"{dtype} was not calibrated"

    def path_of(self, dtype: str, mask: BlockMask, setting: Batch, heads: int | None = None) -> Taken:
        """The path with the least predicted milliseconds of those that may run. Raises InputError."""
        names, why = self.candidates(dtype)
        plans: dict[tuple[int, int], Mapping[str, Execution]] = {}
        times = {name: self._ms(name, mask, setting, heads, plans) for name in names}
        best = min(times, key=times.get)
        return Taken(best, dtype_of(best), times[best], why)

    # ---- milliseconds

    def compact_ms(self, mask: BlockMask, setting: Batch, heads: int | None = None, dtype: str = "auto") -> float:
        """Predicted milliseconds of the compact model for one batch. Raises InputError."""
        return self.path_of(dtype, mask, setting, heads).ms

    def path_ms(self, path: str, mask: BlockMask, setting: Batch, heads: int | None = None) -> float:
        """The same on this path, whether or not it would be taken. Raises InputError where it was not calibrated."""
        if path not in self.paths:
            raise InputError(f"path {path!r} was not calibrated; needed: one of {', '.join(self.paths)}")
        return self._ms(path, mask, setting, heads, {})

    def unpruned_ms(self, layout: Layout, setting: Batch, heads: int | None = None, dtype: str = "auto") -> float:
        """The same with nothing cut. Raises InputError."""
        return self.compact_ms(uncut(layout), setting, heads, dtype)

    def dense_ms(self, layout: Layout, setting: Batch) -> float:
        """Predicted milliseconds of the dense model in torch, fp32, for one batch."""
        return self.rivals_ms(layout, setting)[TORCH]

    def rivals_ms(self, layout: Layout, setting: Batch) -> dict[str, float]:
        """Rival -> predicted milliseconds of the dense model for one batch."""
        counts = dense_work(layout, setting)
        return {name: priced(counts, rival.ms) for name, rival in self.rivals.items()}

    def best_rival(self, layout: Layout, setting: Batch) -> tuple[str, float]:
        """(the fastest rival, its predicted milliseconds)."""
        return min(self.rivals_ms(layout, setting).items(), key=lambda rival: rival[1])

    def layers_ms(self, mask: BlockMask, setting: Batch, heads: int | None = None,
                  dtype: str = "auto") -> list[tuple[int, float, float]]:
        """(layer, ms in torch fp32, compact ms) of every layer: what is around the layers belongs to none."""
        path, rows = self.path_of(dtype, mask, setting, heads).path, []
        last = last_layer(mask.layout)
        for number, parts in sorted((next(iter(p.values())).layer, p) for p in layers_of(mask.layout)):
            one = BlockMask(replace(mask.layout, matrices=tuple(parts.values())), mask.kept)
            counts = [dense_work(one.layout, setting), self._counts(path, one, setting, heads, {}, last)]
            inside = [{k: v for k, v in each.items() if k not in LEFT_OUT} for each in counts]
            rows.append((number, priced(inside[0], self.rivals[TORCH].ms), priced(inside[1], self.paths[path].ms)))
        return rows

    def _ms(self, path: str, mask: BlockMask, setting: Batch, heads: int | None, plans: dict) -> float:
        counts = self._counts(path, mask, setting, heads, plans, last_layer(mask.layout))
        return priced(counts, self.paths[path].ms)

    def _counts(self, path: str, mask: BlockMask, setting: Batch, heads: int | None, plans: dict,
                last: int | None) -> Counts:
        """The work of a path. `plans`: kept for paths that join strips alike."""
        blocking = self.paths[path].blocking
        joined = blocking.lanes, blocking.wide(1)
        if joined not in plans:
            plans[joined] = plan_encoder(mask, heads, blocking)
        if isinstance(blocking, Registers):
            return by_module(mask, setting, blocking, plans[joined])
        return of_pass(mask, setting, blocking, plans[joined], heads, dtype_of(path) == "int8", last)

    # ---- speedups

    def speedup(self, mask: BlockMask, setting: Batch, heads: int | None = None, dtype: str = "auto") -> float:
        """Predicted: the best rival / compact. Raises InputError."""
        return self.best_rival(mask.layout, setting)[1] / self.compact_ms(mask, setting, heads, dtype)

    def speedup_over_torch(self, mask: BlockMask, setting: Batch, heads: int | None = None,
                           dtype: str = "auto") -> float:
        """Predicted: dense in torch, fp32 / compact. Raises InputError."""
        return self.dense_ms(mask.layout, setting) / self.compact_ms(mask, setting, heads, dtype)

    def foretold(self, mask: BlockMask, setting: Batch, heads: int | None, here: Mapping,
                 dtype: str = "auto") -> Foretold:
        """The speedup with all that it is, for a reader on the machine `here`. Raises InputError."""
        taken, (rival, ms) = self.path_of(dtype, mask, setting, heads), self.best_rival(mask.layout, setting)
        return Foretold(ms / taken.ms, taken.dtype, rival, self.elsewhere(here), taken.why)

    # ---- in words

    def elsewhere(self, machine: Mapping) -> str:
        """'on AMD EPYC, not this machine' where it is another's than `machine`'s, alike or not; '' where its own."""
        mine, here = ((one.get("cpu"), one.get("cores")) for one in (self.machine, machine))
        cpu, cores = brief(mine[0]), mine[1]
        if mine == here:
            return "" if self.own else f"on another {cpu}, not this machine"
        return f"on {cpu}{f' with {cores} cores' if mine[0] == here[0] and cores else ''}, not this machine"

    # ---- as a file

    def to_json(self) -> dict:
        parts = {name: getattr(self, name) for name in ("machine", "threads", "masks", "created")}
        return {"format": FORMAT, **parts, "paths": {name: asdict(path) for name, path in self.paths.items()},
                "rivals": {name: asdict(rival) for name, rival in self.rivals.items()}}

    @classmethod
    def from_json(cls, data: Mapping) -> Profile:
        """Of format 2, or of format 1, which knew fp32 and torch only. Raises InputError where this is no profile."""
        if not isinstance(data, Mapping) or data.get("format") not in (1, FORMAT):
            raise InputError(_other_format(data))
        try:
            parts = _of_format_1(data) if data["format"] == 1 else data
            paths = {name: _path(one) for name, one in parts["paths"].items()}
            rivals = {name: _prices(one) for name, one in parts["rivals"].items()}
            if PLAIN not in paths or TORCH not in rivals or not isinstance(data["machine"], Mapping):
                raise ValueError("parts are missing")
            for name in ("threads", "masks", "created"):
                _number(data[name])
            return cls(data["machine"], int(data["threads"]), paths, rivals, int(data["masks"]), data["created"], False)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            raise InputError(f"this latency profile is damaged: {why}") from None


def brief(cpu: str | None) -> str:
    """A processor's name without signs and words that tell nothing: 'Intel Xeon Platinum 8488C'."""
    return " ".join(re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b|@.*", " ", cpu or "an unknown processor").split())


def not_timed(profile: Profile) -> str:
    """A sentence on the dense engines that were not calibrated, and may be faster; '' where all were."""
    left = [name for name in RIVALS if name not in profile.rivals]
    if len(left) == len(RIVALS) - 1:
        return "No other dense engine than torch fp32 was calibrated: one of them may be faster."
    return f"Not calibrated, and perhaps faster: {', '.join(left)}." if left else ""


def _other_format(data: object) -> str:
    """Why it cannot be read, and what to do."""
    found = data.get("format") if isinstance(data, Mapping) else None
    if isinstance(found, int) and found > FORMAT:
        return f"this latency profile has format {found}, of a newer version; this one reads up to {FORMAT}: upgrade"
    return "this is no latency profile of this version; make one with: python -m prune_core calibrate --to FILE"


def _of_format_1(data: Mapping) -> dict:
    """The parts of a profile that priced the fp32 kernels module by module, and the dense model in torch."""
    blocking = {"lanes": data["lanes"], "vectors": data["vectors"]}
    return {"paths": {PLAIN: {"ms": data["compact"], "error": data["error"], "blocking": blocking, "slower": False}},
            "rivals": {TORCH: {"ms": data["dense"], "error": data["error_dense"]}}}


def _path(data: Mapping) -> PathPrices:
    prices, parts = _prices(data), data["blocking"]
    kind = Registers if "lanes" in parts else Blocking
    blocking = kind(**{name: int(_number(parts[name])) for name in kind.__dataclass_fields__})
    if isinstance(blocking, Registers):
        fits = blocking.lanes in (1, 4, 8, 16, 32) and 1 <= blocking.vectors <= 8
    else:
        fits = all(1 <= part <= 4096 for part in vars(blocking).values())
    if not fits or not isinstance(data["slower"], bool):
        raise ValueError("blocks are of no size that kernels have")
    return PathPrices(prices.ms, prices.error, blocking, data["slower"])


def _prices(data: Mapping) -> Prices:
    prices, error = data["ms"], data["error"]
    if not {"call", "layers"} <= prices.keys():
        raise ValueError("prices are missing")
    for number in (*prices.values(), error):
        _number(number)
    return Prices(dict(prices), error)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ValueError(f"{str(value)[:40]!r} is not a finite number of at least 0")
    return value
