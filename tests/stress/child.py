"""One run in a process of its own: it tells every moment that it passes, and can kill itself at a chosen one.

A moment is (phase, doing, number). The run's own clock ticks once an event, so that checkpoints fall at the same
moments in every process: where a kill falls is chosen, not hoped for.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from commands import context
from prune_core import files
from prune_core.runs import shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError
from prune_core.runs.snapshots import Snapshot
from prune_core.training import session

Moment = tuple[str, str, object]
SECONDS = 900  # after which a child is taken for stuck
CHECKPOINT = 7  # events between checkpoints, and after the end of each phase


@dataclass(frozen=True)
class End:
    """How a process ended."""

    error: str | None  # None where the run is complete, else the one line that it ended with
    killed: bool
    passed: tuple[Moment, ...]  # in order; () where it was killed


# ---------------------------------------------------------------- in the child


def work(config: PruneConfig, runs_dir: Path, name: str, fault: str, kill_at: Moment | None, said) -> None:
    """Begin or resume the run. Says (error, moments passed), or kills itself at `kill_at`."""
    session.time = SimpleNamespace(monotonic=itertools.count().__next__)
    CHECKPOINT_SECONDS = CHECKPOINT
    passed: list[Moment] = []

    def at(moment: Moment, half: Callable[[], object] = lambda: None) -> None:
        passed.append(moment)
        if moment == kill_at:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    _tell_files(runs_dir / name, at)
    if fault == "clock":
        _clock_jumps()

    def report(event, pruning) -> None:
        at(_moment(event))
        if fault == "memory" and len(passed) > 12:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used, used))

    said.send((_told(config, runs_dir, name, report), tuple(passed)))


def _told(config: PruneConfig, runs_dir: Path, name: str, report) -> str | None:
    """None when the run is complete, else the error's line."""
    try:
        if (runs_dir / name).exists():
            session.resume(shelf.find(name, runs_dir), report)
        else:
            session.start(config, runs_dir, name, f"python -m prune_core prune --run {name}", report)
    except RunError as error:
        return str(error)
    except BaseException as error:  # what the command line would show as a traceback
        return f"not told clearly: {type(error).__name__}: {error}"
    return None


def _moment(event) -> Moment:
    """Of what the loop yields: each comes once in a run."""
    if isinstance(event, Snapshot):
        return event.phase, f"saved {event.saved}" if event.saved else "training", event.step
    return event.phase, event.doing, event.done


def _tell_files(path: Path, at: Callable) -> None:
    """Have `at` told of each file of the run while it is half written, and of each line of its log."""
    replace, rename, sealed = os.replace, os.rename, files.sealed

    def replacing(source, target) -> None:
        if path in Path(target).parents:
            kind, file = Path(target).parent.name, Path(target).stem
            # Where checkpoints and status fall depends on where the process began: its first one counts
            named = kind in ("norms", "weights")
            moment = ("files", f"{kind if named else file} half written", file if named else 0)
            at(moment, lambda: os.truncate(source, os.path.getsize(source) // 2))
        replace(source, target)

    def renaming(source, target) -> None:
        if Path(target) == path:
            at(("starting", "folder not yet in its place", 0))
        rename(source, target)

    def sealing(data) -> bytes:
        line = sealed(data)
        moment = ("files", "half a line", data["i"]) if "i" in data else ("resuming", "half a line", 0)
        at(moment, lambda: _append(path / "progress.jsonl", line[: len(line) // 2]))
        return line

    os.replace, os.rename, files.sealed = replacing, renaming, sealing


def _append(path: Path, content: bytes) -> None:
    with open(path, "ab") as log:
        log.write(content)


def _clock_jumps() -> None:
    """Back by a day, after some looks at it."""
    real, calls = time.time, itertools.count()
    time.time = lambda: real() - (86400 if next(calls) > 14 else 0)


# ---------------------------------------------------------------- in the parent


def live(config: PruneConfig, runs_dir: Path, name: str, fault: str = "", kill_at: Moment | None = None) -> End:
    """Begin or resume the run in a process, and wait for its end."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(config, runs_dir, name, fault, kill_at, there), daemon=True)
    process.start()
    there.close()
    error, passed = f"not told clearly: the process was stuck for {SECONDS} s", ()
    if here.poll(SECONDS):
        try:
            error, passed = here.recv()
        except EOFError:
            process.join(SECONDS)
            error = f"not told clearly: the process ended with code {process.exitcode}"
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()
    return End(error, process.exitcode == -signal.SIGKILL, passed)


def complete(config: PruneConfig, runs_dir: Path, name: str, fault: str = "") -> str | None:
    """What it said at its end; None where all is well."""
    return live(config, runs_dir, name, fault).error
