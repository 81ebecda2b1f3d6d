"""What a run has spent so far, and from that, or as counted before it starts, how long it will take yet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from prune_core.runs.estimate import Work


@dataclass
class Spent:
    """Counts and seconds, kept with a checkpoint; `method_seconds`: what the method adds to steps under the penalty."""

    steps: float = 0.0
    step_seconds: float = 0.0
    penalty_seconds: float = 0.0
    method_seconds: float = 0.0
    scored: float = 0.0  # sentences
    eval_seconds: float = 0.0
    seconds: float = 0.0  # in all, for whoever drives the run to keep

    @contextlib.contextmanager
    def scoring(self, sentences: int) -> Iterator[None]:
        """Inside, so many are scored."""
        start = time.perf_counter()
        yield
        self.scored += sentences
        self.eval_seconds += time.perf_counter() - start

    @property
    def penalty_share(self) -> float:
        """Of the time of the steps under the penalty, what the method took."""
        return self.method_seconds / self.penalty_seconds if self.penalty_seconds else 0.0

    def seconds_left(self, work: Work, done: int, once: float) -> float:
        """Expected seconds for what is left of the work after so many steps; `once`: nominal ones, for what comes once.

        By what steps and scores took here, as soon as there are three steps; until then as counted.
        """
        pace = self.step_seconds / self.steps / work.per_step if self.steps >= 3 else 1.0
        per_scored = self.eval_seconds / self.scored if self.scored else pace * work.per_scored
        steps = work.plan.steps - done
        return pace * (work.per_step * steps + once) + per_scored * max(0.0, work.scored - self.scored)
