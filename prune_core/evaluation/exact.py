"""The exact dev score of a cut of a run's weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from prune_core.cutting.masks import BlockMask, by_scope, mask_at, thresholds_for
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.dev_score import Running
from prune_core.execution import native
from prune_core.runs.places import RunError
from prune_core.runs.run import Run


@dataclass(frozen=True)
class Cut:
    """A question to a run: which weights, cut where. Either `sparsity` or `threshold` is given."""

    run: Run
    sparsity: float | None
    threshold: float | Mapping[str, float] | None
    scope: str | None = None
    phase: str | None = None
    score: str = "norm"  # what thresholds are on: norm, or a kind of saliency that was recorded for the phase

    def resolved(self) -> tuple[str, str, BlockMask, dict[str, float]]:
        """(saved phase, scope, mask, thresholds by scope key). Raises InputError."""
        phase = self.phase or default_phase(self.run, self.sparsity)
        scope = self.scope or self.run.config.scope
        norms, layout = self.run.ranking(phase, self.score), self.run.layout
        if self.sparsity is not None:
            thresholds = thresholds_for(norms, layout, self.sparsity, scope)
        elif isinstance(self.threshold, Mapping):
            thresholds = dict(self.threshold)
        else:
            thresholds = dict.fromkeys(by_scope(layout, scope), self.threshold)
        return phase, scope, mask_at(norms, layout, thresholds, scope), thresholds


def default_phase(run: Run, sparsity: float | None, weights: bool = True) -> str:
    """The most trained end of a phase that is not already sparser than asked; the last one if nothing was asked.

    Of those whose `weights` are there, unless only norms are needed. Raises RunError, saying how to get them.
    """
    there = {p.stem for p in (run.path / "weights").glob("*.safetensors")} if weights else set(run.saved_names)
    names = [s.saved for s in run.snapshots if s.saved in there
             and (sparsity is None or s.point["sparsity"] <= sparsity + 0.01 or s.saved == "dense")]
    if not names:
        if weights:
            run.weights_file("dense")  # raises, and says how to get them
        raise RunError(f"run {run.name!r} has no end of a phase yet")
    order = {"dense": 0, "penalty": 1, "retrain": 2}
    ends = {s.saved: s.point["sparsity"] for s in run.snapshots if s.saved}
    return max(names, key=lambda name: (order[name.split("-")[0]], ends[name]))


def evaluate(cut: Cut, source: str | None = None, threads: int = 0, report: Callable[[Running], None] = lambda running: None,
             fresh: bool = False, bench: Bench | None = None, repaired: bool = False) -> dict:
    """The exact dev score of a cut, on the run's dev examples, fp32. What `evaluate --json` prints.

    `report` gets every running score and may raise to stop; `fresh` does not look whether the answer is known; `bench`:
    weights and data that are loaded already; `repaired`: what is kept is first moved to make up for what is cut. Seconds count
    from the question, with weights and data loaded.
    """
    run, (phase, scope, mask, thresholds) = cut.run, cut.resolved()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    bench = bench or Bench(run, phase, source)
    native.library()  # built, where that is still to be done, before the clock starts
    start, first = time.perf_counter(), None
    for running in bench.stream(mask, fresh, repaired):
        first = first or time.perf_counter() - start
        report(running)
    found, single = running.final, next(iter(thresholds.values())) if len(set(thresholds.values())) == 1 else thresholds
    return {"run": run.name, "phase": phase, "scope": scope, "data": run.data, "by": cut.score, "repaired": repaired, "sparsity": mask.sparsity,
            "threshold": single, "compression_encoder": mask.compression_encoder, "compression_model": mask.compression_model, "metric": run.metric,
            "score": found.scores[run.metric], "low": found.low, "high": found.high, "scores": dict(found.scores),
            "examples": found.examples, "seconds_to_first": first, "seconds": time.perf_counter() - start}
