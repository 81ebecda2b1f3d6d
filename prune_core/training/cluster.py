"""A sweep on a Ray cluster: a cell is a task with its CPUs and GPUs, taken up again elsewhere when its node dies.

Ray only places the tasks; what is done stands in the run folders, as everywhere. Ray is an optional requirement
(requirements-ray.txt), asked for here alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from prune_core import InputError
from prune_core.runs import claims
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import one_line
from prune_core.runs.storage import Storage
from prune_core.runs.sweeps import Cell, Sweep
from prune_core.training import joining
from prune_core.training.cell import How, Outcome, Work, begin

SENDING = 60.0  # seconds between two times that a growing folder is sent to the storage
TICK = 0.3  # seconds between two looks at a cell's process


@contextlib.contextmanager
def connected(on: str, runs_dir: Path, how: How, sweep: Sweep) -> Iterator[Cluster]:
    """The cluster at an address, all of whose nodes see what cells need. Raises InputError."""
    ray = joining.ray_itself()
    mine = not ray.is_initialized()
    if mine:
        joining.join(ray, on)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        how = joining.fitting(how, nodes)
        storage = Storage(how.storage) if how.storage else None
        joining.check_nodes(ray, nodes, runs_dir, storage, sweep)
        if storage:
            for cell in sweep.cells:
                if not (runs_dir / cell.run / "result.json").exists() and storage.complete(cell.run):
                    storage.fetch(cell.run, runs_dir)
        yield Cluster(ray, runs_dir, how, storage)
    finally:
        if mine:
            ray.shutdown()


# ---------------------------------------------------------------- cells as tasks


class Cluster:
    """Cells as tasks of Ray: twice as many are handed in as there is room for, so that none waits for this process."""

    def __init__(self, ray, runs_dir: Path, how: How, storage: Storage | None):
        self.ray, self.runs_dir, self.how, self.storage = ray, runs_dir, how, storage
        self._slots, self._counted = 0, -60.0
        self._work = ray.remote(num_cpus=how.threads, num_gpus=how.gpus, max_retries=how.retries)(work_on)

    @property
    def slots(self) -> int:
        """Nodes come and go, so they are counted again now and then."""
        if time.monotonic() - self._counted > 10:
            nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            room = sum(min(int(one.get("CPU", 0)) // self.how.threads,
                           int(one.get("GPU", 0)) // self.how.gpus if self.how.gpus else 10**6) for one in nodes)
            self._slots, self._counted = 2 * max(1, room), time.monotonic()
        return self._slots

    def start(self, cell: Cell) -> Task | Outcome:
        claim = None
        if self.storage:  # no node sees a claim of another one there: this process has it for all
            claim = claims.take(cell.run, self.runs_dir)
            if claim is None:
                return Outcome(cell.run, "held")
        return Task(self, cell, claim, self._work.remote(cell.run, cell.config, str(self.runs_dir), self.how))


class Task:
    """A cell as a task."""

    def __init__(self, cluster: Cluster, cell: Cell, claim: claims.Claim | None, reference):
        self._cluster, self.run, self._claim, self._reference = cluster, cell.run, claim, reference
        self._mirrored = time.monotonic()

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on or waits. Raises InputError where the cluster is lost."""
        ray = self._cluster.ray
        try:
            ready, _ = ray.wait([self._reference], timeout=0)
            if not ready:
                self._mirror()
                return None
            ended = Outcome(*ray.get(self._reference))
        except ray.exceptions.TaskCancelledError:
            ended = Outcome(self.run, "interrupted")
        except (ray.exceptions.RayError, MemoryError) as error:
            ended = Outcome(self.run, "failed", f"its task was lost {self._cluster.how.retries + 1} times: "
                                                f"{one_line(error)}")
        except (ConnectionError, RuntimeError) as error:
            raise InputError(f"the Ray cluster is lost: {one_line(error)}; what is done is kept, and the sweep goes on "
                             "where it was with the same command") from None
        if self._claim:
            try:
                self._cluster.storage.fetch(self.run, self._cluster.runs_dir)
            except InputError as error:
                ended = Outcome(self.run, "failed", str(error))
        self._let_go(ended)
        return ended

    def _mirror(self) -> None:
        """With a storage: keep the claim, and bring here now and then what has come of the run."""
        if self._claim is None:
            return
        self._claim.beat()
        if time.monotonic() - self._mirrored > SENDING / 2:
            self._mirrored = time.monotonic()
            with contextlib.suppress(InputError):  # it comes with the next look
                self._cluster.storage.fetch(self.run, self._cluster.runs_dir)

    def _let_go(self, ended: Outcome) -> None:
        if self._claim is None:
            if ended.state == "failed" and (claim := claims.take(self.run, self._cluster.runs_dir)):
                claim.let_go(ended.error)  # the task that is gone could not say so itself
            return
        if ended.state == "complete":
            self._claim.done()
        else:
            self._claim.let_go(ended.error)

    def stop(self) -> None:
        """Ask it to stop, with a checkpoint; one that waits does not begin."""
        with contextlib.suppress(Exception):  # it may have ended
            self._cluster.ray.cancel(self._reference, force=False)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(Exception):
            self._cluster.ray.cancel(self._reference, force=True)
        if self._claim:
            self._claim.let_go()


def work_on(run: str, config: PruneConfig, runs_dir: str, how: How) -> tuple[str, str, str]:
    """The task, on a node: one cell to its end; an Outcome. Where Ray cancels it, the run stops with a checkpoint."""
    storage, folder = Storage(how.storage) if how.storage else None, Path(runs_dir)
    if storage:
        folder = Path(tempfile.gettempdir()) / f"prunescope-{os.getuid()}-{zlib.crc32(how.storage.encode()):08x}"
        for one in filter(None, (config.start_from, run)):
            if not (folder / one / "result.json").exists():
                storage.fetch(one, folder)
    work = _begun(run, config, folder, how)
    if isinstance(work, Work):
        try:
            outcome = _waited(work, storage, folder)
        except KeyboardInterrupt:  # so Ray cancels
            work.stop()
            outcome = _waited(work, None, folder)
        finally:
            if work.lives:
                work.kill()
    else:
        outcome = work
    if storage:
        storage.send(run, folder)
    return tuple(outcome)


def _begun(run: str, config: PruneConfig, folder: Path, how: How) -> Work | Outcome:
    """Whoever holds the cell may be this very task on a node that has just died: it is waited for as long as a claim
    takes to go stale."""
    end = time.monotonic() + 2 * claims.STALE
    while True:
        begun = begin(run, config, folder, how)
        if isinstance(begun, Work) or begun.state != "held" or time.monotonic() > end:
            return begun
        time.sleep(1.0)


def _waited(work: Work, storage: Storage | None, folder: Path) -> Outcome:
    """Until it has ended."""
    sent = time.monotonic()
    while (outcome := work.outcome()) is None:
        if storage and time.monotonic() - sent > SENDING:
            sent = time.monotonic()
            with contextlib.suppress(InputError):  # a storage that is away for a moment: the next one sends it all
                storage.send(work.run, folder)
        time.sleep(TICK)
    return outcome
