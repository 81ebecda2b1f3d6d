"""A run's live map in a notebook: `from prune_core import show`. Loads no torch before an exact score is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from prune_core import InputError
from prune_core.runs import places, shelf
from prune_core.runs.run import Run
from prune_core.showing import cells, in_view
from prune_core.showing.in_view import InView
from prune_core.showing.widget import MapView


def show(run: Run | str, at: str | None = None, cut: object = None, data: str | None = None,
         runs_dir: Path = places.RUNS) -> MapView:
    """The live map of a run, shown in the cell, and the handle on it: `view.cut`, `view.sparsity`, `view.exact()`.

    `at`: a snapshot's label, by default the best stage; `cut`: a share of the weights or a Cut; `data`: a GLUE folder
    for exact scores, by default what PRUNESCOPE_DATA names, else where the run had its data. Raises InputError.
    """
    run = run if isinstance(run, Run) else shelf.find(str(run), runs_dir)
    return shown(MapView(in_view.opened(run, at, cut), Scores(data)))


def shown(view: MapView) -> MapView:
    """The same, displayed where a cell of IPython runs; in marimo the value of the cell is shown."""
    if cells.shell() is not None:
        cells.made(view)
        view._ipython_display_()
    return view


class Scores:
    """Exact scores of what is in view; weights and data of the last stage stay loaded for the next question."""

    def __init__(self, data: str | None = None):
        """`data`: where the task's data is; None: what PRUNESCOPE_DATA names, else where the run had it."""
        self.data, self._of, self._bench = data, None, None

    def __call__(self, view: InView, tell: Callable[..., None]) -> dict:
        """What `evaluate --json` prints; `tell` hears how it comes in. Raises InputError."""
        run, stage = view.run, view.stage
        if stage is None or not run.has_weights(stage):
            there = ", ".join(one for one in run.stages if run.has_weights(one)) or "none"
            why = "has no weights, only norms" if stage is None else "is there without its weights"
            raise InputError(f"no exact score at {view.label!r} of run {run.name!r}: it {why}; needed: a stage with "
                             f"weights: {there}")
        from prune_core.evaluation.bench import Bench
        from prune_core.evaluation.exact import evaluate

        data = self.data or (os.environ.get("PRUNESCOPE_DATA") or None if run.is_glue else None)
        if self._of != (run.path, stage, data):
            try:
                self._bench = Bench(run, stage, data)
            except InputError as error:  # as a notebook can follow it
                raise InputError(str(error).replace("give --data FOLDER", "give show(..., data=FOLDER)")) from None
            self._of = run.path, stage, data
        return evaluate(run, stage, view.cut, data, bench=self._bench,
                        report=lambda one: tell(doing="scoring", score=one.score, low=one.low, high=one.high,
                                                done=one.done, total=one.total),
                        doing=lambda what, done=0, total=0: tell(doing=what, done=done, total=total))
