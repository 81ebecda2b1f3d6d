"""The best mixture of settings, one for each matrix, under a limit of cost: the search, in questions and answers.

    alone      the loss with one matrix changed, all others at their mildest
    descend    from all at their mildest, the step of least extra loss per cost saved, until the limit holds; each time
               another quarter of the cost is gone the loss of all together, and of each next step from there, is
               measured anew, and what that matrix's further steps are expected to lose is corrected
    swap       from the end of the descent, or a setting given to start from, whichever has less loss: one milder, one
               harsher, the limit kept, wherever the measured loss falls, until none helps

The order is ours: NxMiFormer (arXiv 2206.15014) has a cheap search under a ratio, but its abstract does not say which.
Losses are asked for one by one (`Asked`), so that whoever measures can keep them and go on later. Pure: no files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from prune_core import InputError
from prune_core.precision.mixture import Errors, Setting, changed

AGAIN = 0.75  # of the cost at the last time: then losses are measured anew
MOST = 8.0  # times as much, or as little, that one correction may make of what a step is expected to lose
MILDER, HARSHER = 2, 1  # options of a matrix that a swap may take
SMALL = 0.002  # of the largest error of a matrix: an option that is less off loses in proportion
DIFFERENT = 0.7  # of the error of the next harsher option: what is nearer to that is not measured
TRIES = 24  # swaps in a row that do not help before the search ends
BETTER = 0.99  # of the loss before a swap: what it must come down to


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
    """The best setting within the limit by loss; `path`: the descent, setting by setting.

    `trail`: where the swaps began, and what each of them made of it; `start`: of `starts`, None: the descent's end.
    """

    setting: Setting
    loss: float
    base: float  # loss at the mildest
    path: tuple[Setting, ...]
    trail: tuple[Setting, ...]
    start: int | None
    asked: int

    @property
    def swaps(self) -> int:
        return len(self.trail) - 1


Asking = Generator[Asked, float, Found]


class Search:
    """`costs`: of each matrix's options, the mildest first; `total` of a setting: the sum, unless it is another.

    `starts`: settings from which swaps may begin as well. With `errors` the options behind the first `own` of each
    matrix are those of starts alone: the descent leaves them out, and what they lose is told from their errors.
    """

    def __init__(self, costs: Sequence[Sequence[float]], limit: float, total: Callable[[Setting], float] | None = None,
                 starts: Sequence[Setting] = (), errors: Errors | None = None, own: Sequence[int] | None = None):
        self.costs, self.limit = [list(map(float, one)) for one in costs], limit
        self.starts, self.errors = starts, errors
        self.total = total or (lambda setting: sum(one[at] for one, at in zip(costs, setting, strict=True)))
        self.mild, self.own = (0,) * len(costs), own or [len(one) for one in costs]
        self.lost = [[0.0] * len(one) for one in costs]  # what is expected of each option, beyond the mildest
        self._known: dict[Setting, float] = {}
        self._expected = 1 + len(starts) + sum(map(len, map(self._looked_at, range(len(costs)))))
        self._expected += self._marks * (1 + len(costs)) + (MILDER + HARSHER) * len(costs) + TRIES

    @property
    def _marks(self) -> int:
        """How often losses will be measured anew on the way."""
        start = self.total(self.mild)
        return max(0, int(log(self.limit / start) / log(AGAIN))) if 0 < self.limit < start else 0

    @property
    def least(self) -> Setting:
        """Where nothing more can be saved."""
        return tuple(min(range(own), key=one.__getitem__) for one, own in zip(self.costs, self.own, strict=True))

    def run(self) -> Asking:
        """Asks for losses, one by one; ends in what was found. Raises InputError where the limit cannot be met."""
        if self.total(self.least) > self.limit:
            raise InputError(f"{self.limit:g} cannot be reached; needed: {self.total(self.least):g} or more")
        yield from self._alone()
        path = yield from self._descend()
        for at, (lost, own) in enumerate(zip(self.lost, self.own, strict=True)):
            self._tell(at, range(own, len(lost)))  # anew, as the way has corrected the others
        starts = [path[-1], *self.starts]
        losses = []
        for start in starts:
            losses.append((yield from self.ask(start, start, "starts")))
        first = losses.index(min(losses))
        trail = yield from Swaps(self, starts[first], losses[first]).run()
        return Found(trail[-1], self._known[trail[-1]], self._known[self.mild], tuple(path), tuple(trail),
                     first - 1 if first else None, len(self._known))

    def ask(self, setting: Setting, near: Setting, doing: str) -> Generator[Asked, float, float]:
        if setting not in self._known:
            done = len(self._known)
            self._known[setting] = yield Asked(setting, near, done, max(self._expected, done + 1), doing)
        return self._known[setting]

    def _alone(self) -> Generator[Asked, float, None]:
        base = yield from self.ask(self.mild, self.mild, "one at a time")
        for at, lost in enumerate(self.lost):
            for option in self._looked_at(at):
                loss = yield from self.ask(changed(self.mild, at, option), self.mild, "one at a time")
                lost[option] = loss - base
            self._tell(at, [option for option in range(1, len(lost)) if option not in self._looked_at(at)])

    def _looked_at(self, at: int) -> list[int]:
        """Options of a matrix that are measured alone: of known errors those that differ, and are not small."""
        if self.errors is None:
            return list(range(1, self.own[at]))
        errors, some = self.errors[at], []
        for option in sorted(range(1, self.own[at]), key=errors.__getitem__, reverse=True):
            if not some or SMALL * max(errors) < errors[option] < DIFFERENT * errors[some[-1]]:
                some.append(option)
        return sorted(some)

    def _tell(self, at: int, options: Sequence[int]) -> None:
        """What these options are expected to lose, by their errors, from what is known of the others."""
        if options:
            errors, lost = self.errors[at], self.lost[at]
            others = sorted(set(range(self.own[at])) - set(options), key=errors.__getitem__)
            known = [errors[o] for o in others], [lost[o] for o in others]
            for option in options:
                lost[option] = float(np.interp(errors[option], *known))

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
        cost, lost, now = self.costs[at], self.lost[at], setting[at]
        slopes = [((lost[o] - lost[now]) / (cost[now] - cost[o]), cost[o], o)
                  for o in range(self.own[at]) if cost[o] < cost[now]]
        return (min(slopes)[0], at, min(slopes)[2]) if slopes else None

    def _correct(self, setting: Setting) -> Generator[Asked, float, None]:
        """Measure all together, and the next step of each; scale what its further steps are expected to lose."""
        if self.errors and all(of[at] <= SMALL * max(of) for of, at in zip(self.errors, setting, strict=True)):
            return  # near zero losses add
        together = yield from self.ask(setting, setting, "together")
        steps = [step for at in range(len(setting)) if (step := self._step(setting, at))]
        expected = {at: self.lost[at][o] - self.lost[at][setting[at]] for _, at, o in steps}
        small = 0.01 * sum(max(0.0, value) for value in expected.values()) / max(1, len(expected)) + 1e-12
        for _, at, option in steps:
            lost, now = self.lost[at], setting[at]
            measured = (yield from self.ask(changed(setting, at, option), setting, "together")) - together
            further = [o for o in range(self.own[at]) if self.costs[at][o] < self.costs[at][now]]
            if expected[at] > small:
                times = min(MOST, max(1 / MOST, measured / expected[at]))
                new = {o: lost[now] + times * (lost[o] - lost[now]) for o in further}
            else:
                new = {o: lost[o] + measured - expected[at] for o in further}
            for o in further:
                lost[o] = new[o]


class Swaps:
    """From one setting to better ones within the limit; `run` does it."""

    def __init__(self, search: Search, setting: Setting, loss: float):
        self._search, self._setting, self._loss = search, setting, loss

    def run(self) -> Generator[Asked, float, list[Setting]]:
        """The setting, and what every swap makes of it."""
        trail, stale = [self._setting], set(range(len(self._setting)))
        moves: dict[int, list[tuple[int, float]]] = {}  # matrix -> (option, loss beyond the present one)
        refused: set[Setting] = set()
        while True:
            for at in sorted(stale):
                moves[at] = []
                for option in self._neighbours(at):
                    alone = yield from self._ask(changed(self._setting, at, option))
                    moves[at].append((option, alone - self._loss))
            better = yield from self._first_better(moves, refused)
            if better is None:
                return trail
            stale = {at for at, (one, other) in enumerate(zip(self._setting, better, strict=True)) if one != other}
            self._setting, self._loss = better, (yield from self._ask(better))
            trail.append(better)

    def _ask(self, setting: Setting) -> Generator[Asked, float, float]:
        return (yield from self._search.ask(setting, self._setting, "swaps"))

    def _neighbours(self, at: int) -> list[int]:
        """The next milder and harsher options that are expected to be the best of their cost."""
        cost, lost, now = self._search.costs[at], self._search.lost[at], self._setting[at]
        front, least = [], float("inf")
        for o in sorted(range(self._search.own[at]), key=lambda o: (cost[o], lost[o])):  # harshest first
            if lost[o] < least:
                front, least = [*front, o], lost[o]
        harsher = [o for o in front if cost[o] < cost[now] and o != now]
        milder = [o for o in front if cost[o] > cost[now]]
        return harsher[-HARSHER:] + milder[:MILDER]

    def _first_better(self, moves: dict[int, list[tuple[int, float]]],
                      refused: set[Setting]) -> Generator[Asked, float, Setting | None]:
        """The first of the most promising changes of one or two matrices whose measured loss is lower; None of none."""
        flat = [(at, option, more) for at, options in moves.items() for option, more in options]
        now, tries = self._setting, 0
        promising = [(more, changed(now, at, option)) for at, option, more in flat if more < 0]
        promising += [(one + other, changed(changed(now, at, o), where, p))
                      for i, (at, o, one) in enumerate(flat) for where, p, other in flat[i + 1:]
                      if where != at and one + other < 0]
        for _, candidate in sorted(promising):
            if tries == TRIES:
                break
            if candidate in refused or self._search.total(candidate) > self._search.limit:
                continue
            tries += 1
            if (yield from self._ask(candidate)) < BETTER * self._loss:
                return candidate
            refused.add(candidate)
        return None
