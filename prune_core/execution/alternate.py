"""Timing several things in turn, so that what a noisy moment slows, it slows for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median of `runs` and the quartiles around it."""

    median: float
    low: float
    high: float
    runs: int


def alternate(
    calls: Mapping[str, Callable[[], object]], seconds: float = 4.0, least: int = 5, most: int = 200,
) -> dict[str, Timing]:
    """Call each in turn, two rounds to warm up, then for `seconds` but at least `least` rounds and at most `most`.

    What a noisy moment slows, it slows for all.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2):
        for call in calls.values():
            call()
    end = time.perf_counter() + seconds
    for done in range(most):
        if done >= least and time.perf_counter() > end:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: Timing(*(float(q) for q in np.quantile(times, [0.5, 0.25, 0.75])), len(times))
            for name, times in taken.items()}
