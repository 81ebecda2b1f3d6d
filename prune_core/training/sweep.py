"""A sweep carried out: every cell a process of its own, so many at a time, here or on a cluster. Loads no torch.

    from prune_core.runs import sweeps
    from prune_core.training import sweep
    sweep.run(sweeps.grid("mine", {"method": ["surgeon", "magnitude"], "seed": [0, 1]}, task="mrpc"), at_a_time=2)
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from prune_core import InputError
from prune_core.runs import places, standing, sweeps
from prune_core.runs.command_line import arguments
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.stages import DENSE
from prune_core.runs.standing import Standing, standings
from prune_core.runs.sweeps import Cell, Sweep
from prune_core.training.cell import How, Outcome, Work, begin
from prune_core.training.stopping import asked_to_stop

TICK = 0.3  # seconds between two looks at what is at work
AGAIN = 5.0  # seconds before a cell that somebody else holds is tried again
FREE = {"threads", "preset", "data"}  # settings that may differ from those that a cell was begun with


class Interrupted(Exception):
    """The sweep was asked to stop; all its cells can be resumed."""


class Working(Protocol):
    """A cell at work, wherever that is: asked every TICK."""

    def outcome(self) -> Outcome | None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Place(Protocol):
    """Where cells are worked on: `slots` at a time."""

    slots: int

    def start(self, cell: Cell) -> Working | Outcome: ...


Show = Callable[[Sequence[Standing], float | None], None]  # how all cells stand, and seconds left


def run(sweep: Sweep, runs_dir: Path = places.RUNS, *, on: str = "local", at_a_time: int | None = None,
        threads: int | None = None, gpus: int | None = None, device: str = "auto", practice: bool = False,
        storage: str = "", retries: int = 3, gives_way: bool = True,
        show: Show = lambda cells, left: None) -> dict:
    """Carry a sweep out, or take it up again: {sweep, cells: [{run, status, settings, points}], seconds}.

    `on`: local, ray, or ray://HOST:PORT; `at_a_time`: cells here, by default one for every two cores; `threads` of
    each, by default the cores divided; `gpus` of each, by default one where there are any; `storage`: an fsspec
    address where run folders are kept; `gives_way`: whether all else on this machine comes first. Cells that are
    complete are not run again, begun ones are resumed. Raises InputError before any work, Interrupted.
    """
    begun, runs_dir = time.monotonic(), Path(runs_dir).resolve()
    if retries < 0 or (gpus or 0) < 0 or (threads or 0) < 0:
        raise InputError(f"{retries} retries, {gpus or 0} GPUs and {threads or 0} threads are out of range; "
                         "needed: 0 or more of each")
    check(sweep, runs_dir)
    sweeps.keep(sweep, runs_dir, {"on": on, "at_a_time": at_a_time, "threads": threads, "gpus": gpus,
                                  "device": device, "practice": practice, "storage": storage, "retries": retries,
                                  "gives_way": gives_way})
    how = How(threads or 0, gpus, device, practice, retries, gives_way, storage)
    with _place(sweep, runs_dir, on, at_a_time, how) as place, asked_to_stop() as asked:
        errors = _see_through(Drive(sweep, runs_dir, place, asked), show)
    told = result(sweep, runs_dir, errors) | {"seconds": time.monotonic() - begun}
    if left := sum(cell["status"] in ("interrupted", "waiting") for cell in told["cells"]):
        raise Interrupted(f"sweep {sweep.name!r} stopped with {left} of {len(sweep.cells)} cells to come; go on with: "
                          f"python -m prune_core sweep --name {sweep.name}")
    return told


@contextlib.contextmanager
def _place(sweep: Sweep, runs_dir: Path, on: str, at_a_time: int | None, how: How) -> Iterator[Place]:
    """Where it is carried out. Raises InputError."""
    if on == "local":
        if how.device not in ("auto", "cpu"):
            from prune_core.models import devices

            devices.pick(how.device)
        yield Local(runs_dir, how, at_a_time)
    elif on == "ray" or on.startswith("ray://"):
        if at_a_time is not None:
            raise InputError("--at-a-time is for --on local; a cluster has as many at a time as its CPUs allow")
        from prune_core.training import cluster

        with cluster.connected(on, runs_dir, how, sweep) as place:
            yield place
    else:
        raise InputError(f"--on {on[:60]!r} is unknown; one of local, ray, ray://HOST:PORT")


def _see_through(drive: Drive, show: Show) -> dict[str, str]:
    """To the end, looking at all cells now and then, rarely where that takes long; run -> error of those that failed.
    """
    next_look = 0.0
    for working in drive.steps():
        if (now := time.monotonic()) < next_look:
            continue
        cells = standings([cell.run for cell in drive.sweep.cells], drive.runs_dir)
        show(cells, standing.seconds_left(cells, drive.runs_dir, max(1, working)))
        next_look = time.monotonic() + max(1.0, 20 * (time.monotonic() - now))
    return drive.errors


@dataclass
class Drive:
    """A sweep on its way: cells are started as there is room for them and what they start from is there."""

    sweep: Sweep
    runs_dir: Path
    place: Place
    asked: list[int]  # fills when it is to stop

    def __post_init__(self):
        self.errors: dict[str, str] = {}
        self._left = {cell.run: cell for cell in self.sweep.cells if not self._complete(cell.run)}
        self._working: dict[str, Working] = {}
        self._not_before: dict[str, float] = {}
        self._stopping = False

    def steps(self) -> Iterator[int]:
        """How many are at work, every TICK until there is nothing left to do. What is at work ends with it."""
        try:
            while self._left or self._working:
                self._look()
                if not self._stopping:
                    self._fill()
                yield len(self._working)
                if self._stopping and not self._working:
                    return
                time.sleep(TICK)
            yield 0
        finally:
            for work in self._working.values():
                work.kill()

    def _look(self) -> None:
        """See who has ended, and whether all are to stop."""
        if not self._stopping and (self.asked or sweeps.stopped(self.sweep.name, self.runs_dir)):
            self._stopping = True
            for work in self._working.values():
                work.stop()
        for run, work in list(self._working.items()):
            if outcome := work.outcome():
                del self._working[run]
                self._note(outcome)

    def _note(self, outcome: Outcome) -> None:
        if outcome.state == "held":
            self._not_before[outcome.run] = time.monotonic() + AGAIN
            return
        self._left.pop(outcome.run, None)
        if outcome.state == "failed":
            self.errors[outcome.run] = outcome.error

    def _fill(self) -> None:
        """Start what there is room for."""
        for run, cell in list(self._left.items()):
            if len(self._working) >= self.place.slots:
                return
            if run in self._working or self._not_before.get(run, 0.0) > time.monotonic() or not self._ready(cell):
                continue
            begun = self.place.start(cell)
            if isinstance(begun, Outcome):
                self._note(begun)
            else:
                self._working[run] = begun

    def _ready(self, cell: Cell) -> bool:
        """Whether the dense weights that it starts from are there; where they will not come, it is given up."""
        source = self.sweep.needs.get(cell.run)
        if source is None or self._complete(source) or self._dense(source):
            return True
        if source not in self._left:
            del self._left[cell.run]
            if source in self.errors:
                self.errors[cell.run] = f"it starts from the dense weights of {source}, which failed"
        return False

    def _complete(self, run: str) -> bool:
        return (self.runs_dir / run / "result.json").exists()

    def _dense(self, run: str) -> bool:
        path = self.runs_dir / run
        with contextlib.suppress(RunError):
            return (path / "weights" / f"{DENSE}.safetensors").exists() and DENSE in Run(path).stages
        return False


class Local:
    """Cells on this machine: the cores divided among them, all else comes first; GPUs given out one by one."""

    def __init__(self, runs_dir: Path, how: How, at_a_time: int | None):
        """Raises InputError."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if at_a_time is not None and at_a_time < 1:
            raise InputError(f"--at-a-time {at_a_time} is out of range; needed: 1 or more")
        self._gpus = _visible_gpus(how)
        how = replace(how, gpus=how.gpus if how.gpus is not None else min(1, len(self._gpus)))
        self.slots = at_a_time or (len(self._gpus) // how.gpus if how.gpus else max(1, cores // 2))
        if how.gpus * self.slots > len(self._gpus):
            raise InputError(f"{self.slots} cells at a time with {how.gpus} GPUs each are more than the "
                             f"{len(self._gpus)} of this machine")
        self.runs_dir, self.how = runs_dir, replace(how, threads=how.threads or max(1, cores // self.slots))
        self._given: dict[str, tuple[Work, list[str]]] = {}

    def start(self, cell: Cell) -> Work | Outcome:
        """Raises InputError where nothing can be written."""
        for run, (work, gpus) in list(self._given.items()):
            if not work.lives:
                self._gpus += self._given.pop(run)[1] if gpus else []
        mine, self._gpus = self._gpus[:self.how.gpus], self._gpus[self.how.gpus:]
        try:
            begun = begin(cell.run, cell.config, self.runs_dir, self.how,
                          {"CUDA_VISIBLE_DEVICES": ",".join(mine)} if mine else {})
        except OSError as error:
            raise InputError(f"run {cell.run!r} cannot be started in {self.runs_dir}: {error.strerror or error}"
                             ) from None
        if isinstance(begun, Outcome):
            self._gpus += mine
        elif mine:
            self._given[cell.run] = begun, mine
        return begun


def _visible_gpus(how: How) -> list[str]:
    """The GPUs that cells may have. Raises InputError where there are not enough for one cell."""
    if how.gpus == 0 or (how.gpus is None and (how.device == "cpu" or not os.path.exists("/dev/nvidia0"))):
        return []
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        import torch

        known = [str(number) for number in range(torch.cuda.device_count())]
    else:
        known = [one for one in told.split(",") if one.strip()]
    if len(known) < (how.gpus or 0):
        raise InputError(f"{how.gpus} GPUs are asked for each cell, and there are {len(known)} here; needed: fewer, or "
                         "another machine")
    return known


def check(sweep: Sweep, runs_dir: Path) -> None:
    """Raises InputError, before any work, for a cell that no command can make or that was begun otherwise."""
    made = set(os.listdir(runs_dir)) if runs_dir.is_dir() else set()
    for cell in sweep.cells:
        places.check_name(cell.run)
        arguments(cell.config, cell.run, runs_dir)
        if cell.run in made:
            _begun_alike(cell, runs_dir / cell.run / "run.json")


def _begun_alike(cell: Cell, about: Path) -> None:
    """Raises InputError where a cell's run was made with other settings; one that cannot be read fails in its turn."""
    try:
        there = json.loads(about.read_bytes())["config"]
        here = cell.config.to_json()
        others = [name for name in here if name in there and name not in FREE and there[name] != here[name]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if others := [name for name in others if (name, here[name]) != ("precision", "auto")]:
        raise InputError(f"run {cell.run!r} was made with {others[0]} {there[others[0]]}, asked: {here[others[0]]}; "
                         "remove it, or give the sweep another --name")


def result(sweep: Sweep, runs_dir: Path, errors: dict[str, str] | None = None) -> dict:
    """What has come of a sweep so far: {sweep, cells: [{run, status, settings, points}]}; `error` of one that failed.
    """
    rows = []
    for cell, now in zip(sweep.cells, standings([cell.run for cell in sweep.cells], runs_dir), strict=True):
        error = (errors or {}).get(cell.run, now.error)
        state = "failed" if error and now.state != "complete" else now.state
        rows.append({"run": cell.run, "status": state, "settings": dict(cell.settings),
                     "points": _points(runs_dir / cell.run, now)} | ({"error": error} if state == "failed" else {}))
    return {"sweep": sweep.name, "cells": rows}


def _points(path: Path, now: Standing) -> list[dict]:
    """What its run has come to; [] before it has begun or where it cannot be read."""
    if now.state == "waiting":
        return []
    with contextlib.suppress(InputError, OSError):
        run = Run(path)
        told = (run.result or {}).get("points")
        return told if isinstance(told, list) else run.points
    return []
