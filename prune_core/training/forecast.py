"""What a run has spent so far, and from that how long it will take yet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from prune_core.cutting.answers import GRID
from prune_core.cutting.masks import sparsity_of
from prune_core.runs.config import PruneConfig


@dataclass
class Spent:
    """Counts and seconds, kept with a checkpoint; `method_seconds`: what the method adds to steps under the penalty."""

    steps: float = 0.0
    step_seconds: float = 0.0
    penalty_seconds: float = 0.0
    method_seconds: float = 0.0
    evals: float = 0.0
    eval_seconds: float = 0.0
    seconds: float = 0.0  # in all, for whoever drives the run to keep

    @contextlib.contextmanager
    def an_evaluation(self) -> Iterator[None]:
        """Inside, one is made."""
        start = time.perf_counter()
        yield
        self.evals += 1
        self.eval_seconds += time.perf_counter() - start

    @property
    def penalty_share(self) -> float:
        """Of the time of the steps under the penalty, what the method took."""
        return self.method_seconds / self.penalty_seconds if self.penalty_seconds else 0.0

    def seconds_left(self, steps: int, evals: float) -> float | None:
        """Expected seconds for so many more steps and evaluations up to `evals` in all; None before the first steps."""
        if self.steps < 3:
            return None
        per_step = self.step_seconds / self.steps
        per_eval = self.eval_seconds / self.evals if self.evals else 2 * per_step
        return per_step * steps + per_eval * max(0.0, evals - self.evals)


def evals_in_all(config: PruneConfig) -> int:
    """Evaluations of the whole run: surfaces without equal masks, scores at the ends and in between."""
    per_cut = [1 + len([s for s in GRID if s > sparsity_of(c)]) for c in config.compressions]
    ends = len(GRID) + 1 + 2 * sum(1 + count for count in per_cut)
    return ends + 3 + config.moments + config.milestones
