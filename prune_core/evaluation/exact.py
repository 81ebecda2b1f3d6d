"""The exact dev score of a cut of a run's weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import mask_at
from prune_core.evaluation.bench import Bench, Doing, quiet
from prune_core.evaluation.dev_score import Running
from prune_core.execution import native
from prune_core.runs.run import Run


def evaluate(run: Run, stage: str, cut: Cut, source: str | None = None, threads: int = 0,
             report: Callable[[Running], None] = lambda running: None, fresh: bool = False,
             bench: Bench | None = None, doing: Doing = quiet) -> dict:
    """The exact dev score of a cut of a stage, on the run's dev examples, fp32: what `evaluate --json` prints.

    `report` gets every running score, `doing` what a repair does before; both may raise to stop. `fresh` does not look
    whether the answer is known; `bench`: weights and data that are loaded already. Seconds count from when both are
    loaded. Raises InputError.
    """
    ranking = run.ranking(stage, cut.ranking)
    thresholds = cut.resolved(ranking, run.layout)
    mask = mask_at(ranking, run.layout, thresholds, cut.scope)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    bench = bench or Bench(run, stage, source)
    native.build()  # built, where that is still to be done, before the clock starts
    start, first = time.perf_counter(), None
    for running in bench.stream(mask, fresh, cut.repaired, doing):
        first = first or time.perf_counter() - start
        report(running)
    score = running.final
    alike = len(set(thresholds.values())) == 1
    return {"run": run.name, "phase": str(stage), "scope": cut.scope, "data": run.data, "by": cut.ranking,
            "repaired": cut.repaired, "sparsity": mask.sparsity,
            "threshold": next(iter(thresholds.values())) if alike else thresholds,
            "compression_encoder": mask.compression_encoder, "compression_model": mask.compression_model,
            "metric": run.metric, "score": score.scores[run.metric], "low": score.low, "high": score.high,
            "scores": dict(score.scores), "examples": score.examples,
            "seconds_to_first": first, "seconds": time.perf_counter() - start}
