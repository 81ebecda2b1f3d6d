"""An encoder on several devices, on paper: which layers go where, and how much of the time the devices work.

Pruned layers are unequal, so as many layers for each device is not as much work. The largest stage decides:

    T = sum t_i + (M - 1) max t_i     of M micro-batches through stages of t_i
    utilisation = M sum t_i / (p T),  bubble = (sum t_i - max t_i) / T (filling and emptying), the rest is unbalanced

A stage begins a micro-batch when it is free and has what the one before it gives. Milliseconds are from the latency
model, so of devices like the machine that was calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prune_core import InputError
from prune_core.cutting.masks import BlockMask
from prune_core.hardware import memory
from prune_core.hardware.sizes import Sizes
from prune_core.latency.profile import Profile, dtype_of
from prune_core.latency.strips import Blocking, Registers, layers_of, plan_encoder
from prune_core.latency.work import Batch, Counts, by_module, last_layer, of_pass, priced

HALVES = {"attention": ("query", "key", "value", "attention.output"), "neurons": ("intermediate", "output")}
AROUND = ("embed", "head", "call")  # what belongs to no layer
FP32 = 4
WORK = 12.0  # megabytes of a stage's process beside what is counted: products, messages; measured


@dataclass(frozen=True)
class Unit:
    """What is not divided any further: half a layer, or a whole one (half: '')."""

    layer: int
    half: str = ""

    @property
    def words(self) -> str:
        """'layer 3, attention'."""
        return f"layer {self.layer}" + f", {self.half}" * bool(self.half)


@dataclass(frozen=True)
class Stage:
    """Units in a row on one device: milliseconds a micro-batch, megabytes of weights, those that it sends on, and all
    that it holds."""

    units: tuple[Unit, ...]
    ms: float
    weights_mb: float
    sends_mb: float
    mb: float

    @property
    def words(self) -> str:
        """'layers 0 to 2', 'layer 3, neurons, to layer 5', 'layer 4, attention'."""
        first, last = self.units[0], self.units[-1]
        if first == last:
            return first.words
        begins, ends = first.half in ("", "attention"), last.half in ("", "neurons")  # with a whole layer
        if begins and ends:
            return f"layers {first.layer} to {last.layer}" if first.layer != last.layer else f"layer {first.layer}"
        return (f"layer {first.layer}" if begins else f"{first.words},") + " to " + (
            f"layer {last.layer}" if ends else last.words)


@dataclass(frozen=True)
class Plan:
    """A pipeline: its stages, and how many micro-batches a batch is divided into."""

    stages: tuple[Stage, ...]
    micro_batches: int

    @property
    def times(self) -> list[float]:
        return [stage.ms for stage in self.stages]

    @property
    def ms(self) -> float:
        """Of a whole batch."""
        return total(self.times, self.micro_batches)

    @property
    def utilisation(self) -> float:
        return utilisation(self.times, self.micro_batches)

    @property
    def bubble(self) -> float:
        """Share of the devices' time that goes with filling and emptying the pipeline."""
        return (sum(self.times) - max(self.times)) / self.ms

    @property
    def unbalanced(self) -> float:
        """Share of it in which they wait for the slowest."""
        return max(0.0, 1.0 - self.utilisation - self.bubble)

    def to_json(self) -> dict:
        return {"stages": [{"units": stage.words, "ms": stage.ms, "mb": stage.mb, "weights_mb": stage.weights_mb,
                            "sends_mb": stage.sends_mb} for stage in self.stages],
                "micro_batches": self.micro_batches, "ms": self.ms, "utilisation": self.utilisation,
                "bubble": self.bubble, "unbalanced": self.unbalanced}


def total(times: Sequence[float], micro_batches: int) -> float:
    """Milliseconds of so many micro-batches through stages of these times."""
    return sum(times) + (micro_batches - 1) * max(times)


def utilisation(times: Sequence[float], micro_batches: int) -> float:
    """Share of the devices' time in which they work."""
    return micro_batches * sum(times) / (len(times) * total(times, micro_batches))


# ---------------------------------------------------------------- where to cut


def partition(costs: Sequence[float], stages: int) -> list[int]:
    """Where each stage ends (exclusive), in order: the largest stage is as small as it can be.

    best[i][k] = min over j of max(best[j][k-1], sum of costs j..i): O(units^2 stages). Raises InputError.
    """
    _check(len(costs), stages)
    before = np.concatenate([[0.0], np.cumsum(costs)])
    best = np.full((stages + 1, len(costs) + 1), np.inf)
    begin = np.zeros_like(best, dtype=int)
    best[0, 0] = 0.0
    for k in range(1, stages + 1):
        for i in range(k, len(costs) + 1):
            largest = np.maximum(best[k - 1, k - 1:i], before[i] - before[k - 1:i])
            at = int(largest.argmin())
            best[k, i], begin[k, i] = largest[at], k - 1 + at
    ends, end = [], len(costs)
    for k in range(stages, 0, -1):
        ends.append(end)
        end = int(begin[k, end])
    return ends[::-1]


def even(units: int, stages: int) -> list[int]:
    """The same with as many units for each, as near as that goes. Raises InputError."""
    _check(units, stages)
    return [round(units * (at + 1) / stages) for at in range(stages)]


def _check(units: int, stages: int) -> None:
    if not 1 <= stages <= units:
        raise InputError(f"{stages} devices for {units} parts of the encoder; needed: 1 to {units}, as each device has "
                         "at least half a layer")


# ---------------------------------------------------------------- what units cost


@dataclass(frozen=True)
class Costs:
    """Milliseconds of every unit for one micro-batch, and of what is around: a stage's call, embeddings, head."""

    units: tuple[Unit, ...]
    ms: tuple[float, ...]
    around: Mapping[str, float]
    path: str


def units_of(mask: BlockMask, whole: bool = False) -> tuple[Unit, ...]:
    """Half layers, or whole ones, in the order in which they run."""
    layers = sorted(next(iter(parts.values())).layer for parts in layers_of(mask.layout))
    return tuple(Unit(layer, half) for layer in layers for half in ([""] if whole else HALVES))


def costs(profile: Profile, mask: BlockMask, heads: int | None, setting: Batch, dtype: str = "auto",
          whole: bool = False) -> Costs:
    """What each unit of the compact model costs on the machine of `profile`. Raises InputError."""
    path = profile.path_of(dtype, mask, setting, heads).path
    prices, around, ms = profile.paths[path].ms, {}, []
    units = units_of(mask, whole)
    for unit in units:
        counts = _counts(profile, path, _of_unit(mask, unit), setting, heads, last_layer(mask.layout))
        around = {name: priced({name: counts[name]}, prices) for name in AROUND}
        inside = {name: count for name, count in counts.items() if name not in AROUND}
        if unit.half:  # a layer's two norms, and its own cost, are shared by its halves
            inside |= {name: inside[name] / 2 for name in ("norm", "layers")}
        ms.append(priced(inside, prices))
    return Costs(units, tuple(ms), around, path)


def _of_unit(mask: BlockMask, unit: Unit) -> BlockMask:
    types = HALVES.get(unit.half) or sum(HALVES.values(), ())
    some = tuple(m for m in mask.layout.matrices if m.layer == unit.layer and m.type in types)
    return BlockMask(replace(mask.layout, matrices=some), {m.name: mask.kept[m.name] for m in some})


def _counts(profile: Profile, path: str, mask: BlockMask, setting: Batch, heads: int | None,
            last: int | None) -> Counts:
    blocking = profile.paths[path].blocking
    plans = plan_encoder(mask, heads, blocking)
    if isinstance(blocking, Registers):
        return by_module(mask, setting, blocking, plans)
    return of_pass(mask, setting, blocking, plans, heads, dtype_of(path) == "int8", last)


# ---------------------------------------------------------------- plans


@dataclass(frozen=True)
class Question:
    """A pipeline that is asked for: of what, on how many devices. `link`: gigabytes a second between two of them; None
    where what is sent on costs no time. `micro_batches`: None: the best number."""

    mask: BlockMask
    heads: int | None
    batch: Batch
    devices: int
    dtype: str = "auto"
    micro_batches: int | None = None
    link: float | None = None
    whole: bool = False

    def __post_init__(self):
        if self.devices < 1:
            raise InputError(f"{self.devices} devices; needed: 1 or more")
        if self.link is not None and not self.link > 0:
            raise InputError(f"link {self.link:g} is out of range; needed: more than 0 gigabytes a second")
        if self.micro_batches is not None and (self.micro_batches < 1 or self.batch.batch % self.micro_batches):
            raise InputError(f"{self.micro_batches} micro-batches do not divide {self.batch.batch} sentences; needed: "
                             f"one of {', '.join(map(str, divisors(self.batch.batch)))}")
        _check(len(units_of(self.mask, self.whole)), self.devices)


def divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def plans(question: Question, profile: Profile, sizes: Sizes) -> tuple[Plan, Plan]:
    """(the best plan, the one with as many units for each device, at its own best number of micro-batches).

    Raises InputError.
    """
    numbers = [question.micro_batches] if question.micro_batches else divisors(question.batch.batch)
    made = [_at(question, profile, sizes, number) for number in numbers]
    return min((pair[0] for pair in made), key=_time), min((pair[1] for pair in made), key=_time)


def _time(plan: Plan) -> float:
    return plan.ms


def _at(question: Question, profile: Profile, sizes: Sizes, micro_batches: int) -> tuple[Plan, Plan]:
    """The two plans at this number of micro-batches."""
    mask, batch = question.mask, question.batch
    micro = Batch(batch.batch // micro_batches, batch.length)
    cost = costs(profile, mask, question.heads, micro, question.dtype, question.whole)
    ms = list(cost.ms)
    ms[0], ms[-1] = ms[0] + cost.around["embed"], ms[-1] + cost.around["head"]
    sends = FP32 * micro.tokens * sizes.hidden / 1e6
    weights, blocking = _weights(question, profile, cost, sizes), _blocking(profile, cost.path)
    lines = memory.lines(sizes, micro, 1, cost.path, blocking) / 1e6

    def plan(ends: Sequence[int]) -> Plan:
        stages, begin = [], 0
        for end in ends:
            sent, came = (0.0 if at == edge else sends for at, edge in ((end, len(ms)), (begin, 0)))
            sending = sent / question.link if question.link else 0.0  # megabytes by gigabytes a second: milliseconds
            held = sum(weights[begin:end]) + lines + micro_batches * max(sent, came) + WORK
            stages.append(Stage(cost.units[begin:end], sum(ms[begin:end]) + cost.around["call"] + sending,
                                sum(weights[begin:end]), sent, held))
            begin = end
        return Plan(tuple(stages), micro_batches)

    return plan(partition(ms, question.devices)), plan(even(len(ms), question.devices))


def _weights(question: Question, profile: Profile, cost: Costs, sizes: Sizes) -> list[float]:
    """Megabytes of packed weights of every unit; embeddings count to the first, the head to the last."""
    blocking = _blocking(profile, cost.path)
    packed = plan_encoder(question.mask, question.heads, blocking)
    mb = [sum(memory.packed(packed[m.name], cost.path, blocking) for m in _of_unit(question.mask, unit).layout.matrices)
          / 1e6 for unit in cost.units]
    mb[0] += FP32 * sizes.embeddings / 1e6
    mb[-1] += FP32 * sizes.head / 1e6
    return mb


def _blocking(profile: Profile, path: str) -> Blocking:
    blocking = profile.paths[path].blocking
    return memory.FP32_PASS if isinstance(blocking, Registers) else blocking


# ---------------------------------------------------------------- the other way to divide: every matrix


def tensor_split(mask: BlockMask, heads: int, ranks: int, batch: Batch) -> dict[str, float]:
    """Every matrix on all devices, on paper: `traffic_mb`, what a device sends for a layer and batch (two all-reduces
    of tokens x hidden in a ring), `balance`, the slowest device's kept weights over the mean where whole heads and
    strips of neurons are dealt out longest first, and `balance_even` where they are in a row. Raises InputError for
    more devices than heads.
    """
    if not 1 <= ranks <= heads:
        raise InputError(f"{ranks} devices for {heads} heads; needed: 1 to {heads}, as a head is not divided")
    widths = {m.m for m in mask.layout.matrices if m.type == "value"}
    if any(width % heads for width in widths):
        raise InputError(f"{heads} heads do not divide {max(widths)} rows; needed: an encoder whose heads are known")
    dealt = in_a_row = mean = 0.0
    for parts in layers_of(mask.layout):
        for loads in _loads(mask, parts, heads):
            dealt += _largest(loads, longest_first(loads, ranks), ranks)
            in_a_row += _largest(loads, np.arange(len(loads)) * ranks // len(loads), ranks)
            mean += loads.sum() / ranks
    hidden = max(m.n for m in mask.layout.matrices if m.type != "output")
    traffic = 2 * 2 * (ranks - 1) / ranks * batch.tokens * hidden * FP32 / 1e6
    return {"traffic_mb": traffic, "balance": dealt / mean if mean else 1.0,
            "balance_even": in_a_row / mean if mean else 1.0}


def _loads(mask: BlockMask, parts: Mapping, heads: int) -> list[np.ndarray]:
    """Kept weights of every head (its rows of query, key and value, its columns of the output), and of every strip of
    neurons (their rows, and their columns of the next matrix)."""
    def kept(kind: str) -> np.ndarray:
        matrix = parts[kind]
        return mask.layout.block.expand(mask.kept[matrix.name], matrix.m, matrix.n)

    attention = sum(kept(kind).sum(1) for kind in ("query", "key", "value")) + kept("attention.output").sum(0)
    neurons, matrix = kept("intermediate").sum(1) + kept("output").sum(0), parts["intermediate"]
    rows = mask.layout.block.sides(matrix.m, matrix.n)[0]
    strips = matrix.m // rows if rows < matrix.m else matrix.m
    return [attention.reshape(heads, -1).sum(1), neurons.reshape(strips, -1).sum(1)]


def longest_first(loads: np.ndarray, ranks: int) -> np.ndarray:
    """Rank of every load: the longest first, each to whom has least."""
    ranks_of, so_far = np.zeros(len(loads), int), np.zeros(ranks)
    for at in np.argsort(-loads, kind="stable"):
        ranks_of[at] = int(so_far.argmin())
        so_far[ranks_of[at]] += loads[at]
    return ranks_of


def _largest(loads: np.ndarray, ranks_of: np.ndarray, ranks: int) -> float:
    return float(np.bincount(ranks_of, loads, ranks).max())
