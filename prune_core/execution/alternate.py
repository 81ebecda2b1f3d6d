"""Timing several things in turn, so that what a noisy moment slows, it slows for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median of `runs` and the quartiles around it."""

    median: float
    low: float
    high: float
    runs: int


def milliseconds(call: Callable[[], object]) -> float:
    """Of one call, by the clock."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def alternate(
    calls: Mapping[Hashable, Callable[[], object]], seconds: float = 4.0, least: int = 5, most: int = 200,
    settles: float = 0.0, told: Callable[[float], None] = lambda share: None,
    clock: Callable[[Callable[[], object]], float] = milliseconds,
) -> dict[Hashable, Timing]:
    """Call each in turn, two rounds to warm up, then for `seconds` but at least `least` rounds and at most `most`.

    What a noisy moment slows, it slows for all. What takes less than `settles` milliseconds is called once untimed
    before each timing. `told` hears the share that is done; `clock` gives the milliseconds of a call.
    """
    taken: dict[Hashable, list[float]] = {name: [] for name in calls}
    last = {name: clock(call) for _ in range(2) for name, call in calls.items()}
    start = time.perf_counter()
    for done in range(most):
        spent = time.perf_counter() - start
        if done >= least and spent > seconds:
            break
        told(min(1.0, done / least, spent / seconds if seconds else 1.0))
        for name, call in calls.items():
            if last[name] < settles:
                call()
            taken[name].append(clock(call))
    return {name: Timing(*(float(q) for q in np.quantile(times, [0.5, 0.25, 0.75])), len(times))
            for name, times in taken.items()}
