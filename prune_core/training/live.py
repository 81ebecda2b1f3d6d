"""A run that is trained in a notebook, with its map while it trains: `from prune_core import prune`.

    view = prune(task="sst2", data="glue", preset="quick", run="mine")     # returns with the first picture
    view.training.pause(); view.training.go_on(); view.training.stop()     # as the buttons over the map
    view.training.wait()                                                   # what `prune --json` prints

It trains in a thread, so that other cells and the map go on meanwhile. All that it records is on the disk at once: when
the kernel ends, the same cell takes the run up again at its last checkpoint.
"""

from __future__ import annotations

import contextvars
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from prune_core import InputError
from prune_core.evaluation.live import Scores, shown
from prune_core.runs import config as configs
from prune_core.runs import places, shelf
from prune_core.runs.command_line import arguments
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run
from prune_core.runs.snapshots import Snapshot, Working
from prune_core.showing import in_view
from prune_core.showing.widget import MapView, grown_
from prune_core.tasks import table_files
from prune_core.training import session, stopping
from prune_core.training.loop import Pruning

TOLD = 0.4  # seconds between two words about where it is
FREE = {"threads", "preset", "data", "precision"}  # settings that may differ where a run is taken up again

_training: dict[Path, Training] = {}  # in this kernel, by the folder of its run


def prune(config: PruneConfig | None = None, run: str | None = None, runs_dir: Path = places.RUNS,
          preset: str = "standard", **settings) -> MapView:
    """Train a run in the background; its live map, at the first norms. `settings` as PruneConfig has them, on a preset.

    A run of this name that stopped goes on, one that is at work here is shown again, a complete one just shown.
    Raises InputError for what cannot be trained, and for a name that has other settings.
    """
    if config is None:
        config = _config(preset, settings)
    elif settings:
        raise InputError(f"settings {sorted(settings)} beside a config; needed: one or the other")
    task = Path(config.data).stem if table_files.is_own(config.data) else config.task
    name = run or shelf.free_name(session.default_name(config, task), Path(runs_dir))
    path = Path(runs_dir) / places.check_name(name)
    training = _training.get(path)
    if training is None or not training.alive:
        _alone()
        training = _training[path] = Training(path, _work(config, path))
    elif not _alike(training.config, config):
        raise InputError(f"run {name!r} is being trained here with other settings; give it another name")
    training.config = config
    return training.show()


def _config(preset: str, settings: dict) -> PruneConfig:
    """Raises InputError, for settings that there are not as well."""
    known = {field.name for field in fields(PruneConfig)}
    if unknown := sorted(set(settings) - known):
        raise InputError(f"setting {unknown[0]!r} is unknown; needed: one of {', '.join(sorted(known))}")
    return configs.preset(preset, **settings)


def _alone() -> None:
    """Raises InputError where another run is at work in this kernel: they would share one set of threads."""
    for path, training in _training.items():
        if training.alive:
            raise InputError(f"run {path.name!r} is being trained in this kernel; needed: view.training.wait() or "
                             "view.training.stop() first, or `prunescope sweep` for several at once")


def _work(config: PruneConfig, path: Path) -> Callable[[session.Report], dict]:
    """What has to be done for this run: begin it, or take it up again. Raises InputError."""
    if not path.exists():
        return lambda report: session.start(config, path.parent, path.name, _command(config, path), report, _asked_for)
    there = Run(path)
    if not _alike(there.config, config):
        raise InputError(f"run {path.name!r} is there with other settings; give this one another name, or show() that")
    return lambda report: session.resume(there, report)


def _asked_for(note: str) -> None:
    """Raises InputError: the practice set is trained on where it is asked for, and for nothing else."""
    raise InputError(f'{note.replace("--data FOLDER", "data=FOLDER")}, or data="practice" to train on that')


def _alike(one: PruneConfig, other: PruneConfig) -> bool:
    mine, its = one.to_json(), configs.rooted(other).to_json()
    return all(mine[name] == its[name] for name in mine.keys() - FREE)


def _command(config: PruneConfig, path: Path) -> str:
    """The command that makes the same run."""
    try:
        return shlex.join(["python", "-m", "prune_core", *arguments(config, path.name, path.parent)])
    except InputError:  # settings that have no option
        return "prune_core.prune(...) in a notebook"


class Training:
    """A run at work in a thread, and the map that shows it."""

    def __init__(self, path: Path, work: Callable[[session.Report], dict]):
        self.path, self.view, self.config = path, None, None
        self.result: dict | None = None
        self.error: Exception | None = None
        self._first, self._going, self._said = threading.Event(), threading.Event(), 0.0
        self._going.set()
        self._thread = threading.Thread(  # in the context of the cell, so that what it prints stands there
            target=contextvars.copy_context().run, args=(self._see_through, work), daemon=True)
        self._thread.start()

    alive = property(lambda self: self._thread.is_alive(), doc="Whether it trains, or is paused.")

    def show(self) -> MapView:
        """A map of it, as soon as there are norms. Raises what the training raised before."""
        try:
            while not self._first.wait(0.1) and self.alive:
                pass
        except KeyboardInterrupt:
            self.stop()
            raise
        if self.error and not self._first.is_set():
            raise self.error
        begun = in_view.opened(run := Run(self.path))
        view = MapView(replace(begun, at=run.with_norms[-1]) if self.alive else begun, Scores())
        self.view, view.training, view.press = view, self, self._pressed
        self._tell(self._words())
        if not self.alive:  # it may have ended meanwhile
            self._grow()
            self._tell(self._words())
        return shown(view)

    def pause(self) -> None:
        """It stands still after the step that it is in, all of it in memory."""
        self._going.clear()

    def go_on(self) -> None:
        """From where it was paused."""
        self._going.set()

    def stop(self) -> None:
        """It ends where it can be taken up again: by the same `prune`, or by `prunescope resume`."""
        stopping.ask(self._thread)
        self._going.set()

    def wait(self) -> dict:
        """What `prune --json` prints, when it is there. Ctrl-C stops the training. Raises InputError where it ended
        otherwise."""
        try:
            while self.alive:
                self._thread.join(0.2)
        except KeyboardInterrupt:
            self.stop()
            raise
        if isinstance(self.error, session.Interrupted):
            raise InputError(f"run {self.path.name!r} was stopped; the same prune(...) takes it up again")
        if self.error:
            raise self.error
        return self.result

    # ---- in its thread

    def _see_through(self, work: Callable[[session.Report], dict]) -> None:
        try:
            self.result = work(self._report)
            self._first.set()
        except (InputError, session.Interrupted) as error:
            self.error = error
        except Exception as error:
            self.error = InputError(f"run {self.path.name!r} ended unexpectedly: {type(error).__name__}: {error}")
        self._grow()
        self._tell(self._words())

    def _report(self, event: Snapshot | Working, pruning: Pruning) -> None:
        """After every step: what is new is shown; while it is paused this does not return."""
        if getattr(event, "norms", None) is not None:
            self._first.set()
            self._grow()
        words, share = _where(event, pruning), pruning.steps_done / max(1, pruning.plan.steps)
        if time.monotonic() - self._said > TOLD or not self._going.is_set():
            self._said = time.monotonic()
            self._tell({"words": words, "share": share, "paused": not self._going.is_set()})
        if not self._going.is_set():
            self._going.wait()
            self._tell({"words": words, "share": share})

    def _grow(self) -> None:
        if self.view is not None:
            grown_(self.view, Run(self.path))

    def _tell(self, news: dict) -> None:
        if self.view is not None:
            self.view._training = news

    def _words(self) -> dict:
        """How it stands where no step says so: just shown, ended, or failed."""
        if self.alive and threading.current_thread() is not self._thread:
            return {"words": "training", "share": 0.0, "paused": not self._going.is_set()}
        if isinstance(self.error, session.Interrupted):
            return {"words": "Stopped. Run the cell again to go on.", "share": 0.0, "ended": True}
        if self.error:
            return {"words": str(self.error), "share": 0.0, "ended": True}
        retrained = (f"{point['compression']:g}x {point['score_retrained']:.3f}" for point in self.result["points"])
        return {"words": f"Complete: dense {self.result['dense_score']:.3f}, retrained at {', '.join(retrained)}.",
                "share": 1.0, "ended": True}

    def _pressed(self, what: str) -> None:
        if what == "stop":
            self.stop()
        elif self._going.is_set():
            self.pause()
        else:
            self.go_on()


def _where(event: Snapshot | Working, pruning: Pruning) -> str:
    """'penalty: training, step 40 of 120, 25 s left'"""
    doing = f"{event.doing} {event.done} of {event.total}" if isinstance(event, Working) else "training"
    left = round(pruning.seconds_left())
    clock = f"{left // 60} min {left % 60:02} s" if left > 90 else f"{left} s"
    return f"{event.phase}: {doing}, step {pruning.steps_done} of {pruning.plan.steps}, {clock} left"
