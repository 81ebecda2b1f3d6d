"""The best result of several runs: what pages open on, and what Compare, Home and Report name. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from prune_core.cutting.answers import GRID, predict
from prune_core.methods.rankings import RANKINGS
from prune_core.methods.table import METHODS
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage

ALLOWED = 0.01  # of the dense score that may be lost, where nobody says otherwise


@dataclass(frozen=True, eq=False)
class Result:
    """A retrained stage of a run: its exact dev score, the dense one of the same run, and its size."""

    run: Run
    stage: Stage
    score: float
    dense: float
    compression_encoder: float  # dense / kept weights of the prunable matrices
    compression_model: float  # of the whole model

    def keeps(self, allowed: float) -> bool:
        """Whether it scores at most `allowed` below the dense model."""
        return self.dense - self.score <= allowed + 1e-9


def of(runs: Iterable[Run]) -> list[Result]:
    """Every retrained stage of these runs."""
    return [Result(run, Stage.of("retrain", point["compression"]), point["score_retrained"], run.dense_score,
                   point["compression_encoder"], point["compression_model"])
            for run in runs for point in run.points
            if point["score_retrained"] is not None and run.dense_score is not None]


def best(results: Sequence[Result], allowed: float = ALLOWED,
         worth: Callable[[Result], float] = lambda result: result.compression_encoder) -> Result | None:
    """Of those within `allowed` of their dense score the one worth most, then the one that scores highest.

    Where none is within: the one that loses least. None of none.
    """
    if within := [result for result in results if result.keeps(allowed)]:
        return max(within, key=lambda result: (round(worth(result), 2), result.score))
    return max(results, key=lambda result: result.score - result.dense, default=None)


def opening(run: Run) -> Stage | None:
    """The stage to open a run on: its best result whose weights and norms are there, else one without its weights.

    Where nothing is retrained: the last stage there is; None before the first.
    """
    shown = {run.snapshots[at].saved for at in run.with_norms} - {None}
    results = [result for result in of([run]) if result.stage in shown]
    with_weights = [result for result in results if run.has_weights(result.stage)]
    if chosen := best(with_weights or results):
        return chosen.stage
    return max((stage for stage in shown if run.has_weights(stage)), default=max(shown, default=None))


def ranking(run: Run, stage: str) -> str:
    """What ranks the blocks of a stage best, of what was recorded: the highest mean score over the recorded cuts.

    Without recorded scores of the same kind of cut for two rankings: what the run itself was ranked by; else the norm.
    """
    known = run.rankings(stage)
    means: dict[str, float] = {}
    for kind, points in run.surfaces(stage).items():
        if len(points) == len(GRID) and not kind.repaired and kind.ranking in known:
            mean = float(np.mean([predict(points, sparsity)[0] for sparsity in GRID]))
            means[kind.ranking] = max(mean, means.get(kind.ranking, -1.0))
    if len(means) > 1:
        return max(means, key=means.get)
    own = METHODS[run.config.method].ranking or run.config.ranking
    return own if own in known and RANKINGS[own].compares_matrices else "norm"

