"""The best mixture of settings, one for each matrix, under a limit of cost: which options there are, and the search.

    alone      the loss with one matrix changed, all others at their mildest
    descend    from all at their mildest, the step of least extra loss per cost saved, until the limit holds; each time
               another 15% of the cost is gone the loss of all together, and of each next step from there, is
               measured anew, and what that matrix's further steps are expected to lose is corrected
    swap       one milder, one harsher, the limit kept, wherever the measured loss falls, until none helps

The order is ours: NxMiFormer (arXiv 2206.15014) has a cheap search under a ratio, but its abstract does not say which.
Losses are asked for one by one (`Asked`), so that whoever measures can keep them and go on later. Pure: no files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from math import log

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask, Norms, mask_at, thresholds_of
from prune_core.precision import storage
from prune_core.precision.formats import Format, Formats, Pattern

SHARES, PATTERNS, BITS = (0.5, 0.75, 0.9), ("2:4", "1:4"), ("16", "8", "4")
AGAIN = 0.85  # of the cost at the last time: then losses are measured anew
MOST = 8.0  # times as much, or as little, that one correction may make of what a step is expected to lose
NEAR = 2  # milder and harsher options of a matrix that a swap may take
TRIES = 24  # swaps in a row that do not help before the search ends
Setting = tuple[int, ...]  # of each matrix the number of its option, 0 the mildest


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
        cut = f"blocks {self.share:g}, " if self.share else "" if self.format.pattern else "dense, "
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

    def shares(self, setting: Setting) -> dict[str, float]:
        return {name: option.share for name, option in self.at(setting).items()}

    def formats(self, setting: Setting) -> Formats:
        return Formats.of_each(self.layout, {name: option.format for name, option in self.at(setting).items()})

    def thresholds(self, setting: Setting) -> dict[str, float]:
        """Of each matrix, on the ranking: for a cut of scope 'matrix'."""
        return thresholds_of(self.ranking, self.layout, self.shares(setting), "matrix")

    def mask(self, setting: Setting) -> BlockMask:
        return mask_at(self.ranking, self.layout, self.thresholds(setting), "matrix")


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


@dataclass(frozen=True)
class Asked:
    """The loss of `setting` is asked for; it shares most with `near`. `done` of about `total` such questions."""

    setting: Setting
    near: Setting
    done: int
    total: int
    doing: str


@dataclass(frozen=True)
class Found:
    """The best setting within the limit, its loss, the descent to it (and its swaps, if any, as the last)."""

    setting: Setting
    loss: float
    base: float  # loss at the mildest
    path: tuple[Setting, ...]
    swaps: int
    asked: int


Asking = Generator[Asked, float, Found]


class Search:
    """`costs`: of each matrix's options, the mildest first; `total` of a setting: the sum, unless it is another."""

    def __init__(self, costs: Sequence[Sequence[float]], limit: float,
                 total: Callable[[Setting], float] | None = None):
        self.costs, self.limit = [list(map(float, one)) for one in costs], limit
        self.total = total or (lambda setting: sum(one[at] for one, at in zip(costs, setting, strict=True)))
        self.mild = (0,) * len(costs)
        self._lost = [[0.0] * len(one) for one in costs]  # what is expected of each option, beyond the mildest
        self._known: dict[Setting, float] = {}
        self._expected = 1 + sum(len(one) - 1 for one in costs)
        self._expected += self._marks * (1 + len(costs)) + NEAR * len(costs) + TRIES

    @property
    def _marks(self) -> int:
        """How often losses will be measured anew on the way."""
        start = self.total(self.mild)
        return max(0, int(log(self.limit / start) / log(AGAIN))) if 0 < self.limit < start else 0

    @property
    def least(self) -> Setting:
        """Where nothing more can be saved."""
        return tuple(min(range(len(one)), key=one.__getitem__) for one in self.costs)

    def run(self) -> Asking:
        """Asks for losses, one by one; ends in what was found. Raises InputError where the limit cannot be met."""
        if self.total(self.least) > self.limit:
            raise InputError(f"{self.limit:g} cannot be reached; needed: {self.total(self.least):g} or more")
        yield from self._alone()
        path = yield from self._descend()
        setting, loss, swaps = yield from self._swap(path[-1])
        path = (*path, setting) if swaps else tuple(path)
        return Found(setting, loss, self._known[self.mild], path, swaps, len(self._known))

    def _ask(self, setting: Setting, near: Setting, doing: str) -> Generator[Asked, float, float]:
        if setting not in self._known:
            done = len(self._known)
            self._known[setting] = yield Asked(setting, near, done, max(self._expected, done + 1), doing)
        return self._known[setting]

    def _alone(self) -> Generator[Asked, float, None]:
        base = yield from self._ask(self.mild, self.mild, "one at a time")
        for at, lost in enumerate(self._lost):
            for option in range(1, len(lost)):
                loss = yield from self._ask(changed(self.mild, at, option), self.mild, "one at a time")
                lost[option] = loss - base

    # ---- descend

    def _descend(self) -> Generator[Asked, float, list[Setting]]:
        setting, path = self.mild, [self.mild]
        mark = AGAIN * self.total(setting)
        while self.total(setting) > self.limit:
            steps = [step for at in range(len(setting)) if (step := self._step(setting, at))]
            _, at, option = min(steps)
            setting = changed(setting, at, option)
            path.append(setting)
            if self.limit < self.total(setting) <= mark:
                yield from self._correct(setting)
                while self.total(setting) <= mark:
                    mark *= AGAIN
        return path

    def _step(self, setting: Setting, at: int) -> tuple[float, int, int] | None:
        """(extra loss per cost saved, matrix, option): the next corner of its convex hull; None at its end."""
        cost, lost, now = self.costs[at], self._lost[at], setting[at]
        slopes = [((lost[o] - lost[now]) / (cost[now] - cost[o]), cost[o], o)
                  for o in range(len(cost)) if cost[o] < cost[now]]
        return (min(slopes)[0], at, min(slopes)[2]) if slopes else None

    def _correct(self, setting: Setting) -> Generator[Asked, float, None]:
        """Measure all together, and the next step of each; scale what its further steps are expected to lose."""
        together = yield from self._ask(setting, setting, "together")
        steps = [step for at in range(len(setting)) if (step := self._step(setting, at))]
        expected = {at: self._lost[at][o] - self._lost[at][setting[at]] for _, at, o in steps}
        small = 0.01 * sum(max(0.0, value) for value in expected.values()) / max(1, len(expected)) + 1e-12
        for _, at, option in steps:
            lost, now = self._lost[at], setting[at]
            measured = (yield from self._ask(changed(setting, at, option), setting, "together")) - together
            further = [o for o in range(len(lost)) if self.costs[at][o] < self.costs[at][now]]
            if expected[at] > small:
                times = min(MOST, max(1 / MOST, measured / expected[at]))
                new = {o: lost[now] + times * (lost[o] - lost[now]) for o in further}
            else:
                new = {o: lost[o] + measured - expected[at] for o in further}
            for o in further:
                lost[o] = new[o]

    # ---- swap

    def _swap(self, setting: Setting) -> Generator[Asked, float, tuple[Setting, float, int]]:
        """(setting, loss, how many swaps)."""
        loss, swaps, stale = (yield from self._ask(setting, setting, "swaps")), 0, set(range(len(setting)))
        moves: dict[int, list[tuple[int, float]]] = {}  # matrix -> (option, loss beyond the present one)
        refused: set[Setting] = set()
        while True:
            for at in sorted(stale):
                moves[at] = []
                for option in self._neighbours(setting, at):
                    alone = yield from self._ask(changed(setting, at, option), setting, "swaps")
                    moves[at].append((option, alone - loss))
            better = yield from self._first_better(setting, loss, moves, refused)
            if better is None:
                return setting, loss, swaps
            stale = {at for at, (one, other) in enumerate(zip(setting, better, strict=True)) if one != other}
            setting, loss, swaps = better, self._known[better], swaps + 1

    def _neighbours(self, setting: Setting, at: int) -> list[int]:
        """The next milder and harsher options that are expected to be the best of their cost."""
        cost, lost, now = self.costs[at], self._lost[at], setting[at]
        front, least = [], float("inf")
        for o in sorted(range(len(cost)), key=lambda o: (cost[o], lost[o])):  # harshest first
            if lost[o] < least:
                front, least = [*front, o], lost[o]
        harsher = [o for o in front if cost[o] < cost[now] and o != now]
        milder = [o for o in front if cost[o] > cost[now]]
        return harsher[-NEAR:] + milder[:NEAR]

    def _first_better(self, setting: Setting, loss: float, moves: dict[int, list[tuple[int, float]]],
                      refused: set[Setting]) -> Generator[Asked, float, Setting | None]:
        """The first of the most promising changes of one or two matrices whose measured loss is lower; None of none."""
        flat = [(at, option, more) for at, options in moves.items() for option, more in options]
        promising = [(more, changed(setting, at, option)) for at, option, more in flat if more < 0]
        promising += [(one + other, changed(changed(setting, at, o), where, p))
                      for i, (at, o, one) in enumerate(flat) for where, p, other in flat[i + 1:]
                      if where != at and one + other < 0]
        tries = 0
        for _, candidate in sorted(promising):
            if tries == TRIES:
                break
            if candidate in refused or self.total(candidate) > self.limit:
                continue
            tries += 1
            if (yield from self._ask(candidate, setting, "swaps")) < loss:
                return candidate
            refused.add(candidate)
        return None


def changed(setting: Setting, at: int, option: int) -> Setting:
    """The same with another option for the matrix at this place."""
    return (*setting[:at], option, *setting[at + 1:])
