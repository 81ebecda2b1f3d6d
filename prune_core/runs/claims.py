"""Who works on a run of a sweep: an atomic claim that outlives kill -9 and works on a disk that machines share (NFS).

    data/runs/.claims/RUN.000002     the second claim on this run: who holds it, or how it ended; its time is its pulse

A claim is a file that only one can create (O_EXCL), with the next number. Its holder touches it every few seconds.
A process of this machine that is gone has lost it at once, one of another machine when its pulse has stopped. Whoever
was passed over finds the next number, and stops. There are no locks of the system in it, which other machines may
not see; the run's own lock (recorder.py) stays what keeps two writers of one machine apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from prune_core import files
from prune_core.runs.places import RunError, one_line

BEAT = 5.0  # seconds between two touches
STALE = 60.0  # seconds without one, after which a claim of another machine no longer holds


def folder_of(runs_dir: Path) -> Path:
    return Path(runs_dir) / ".claims"


@dataclass(frozen=True)
class Holder:
    """What the last claim on a run says. `ended`: None while it is held, else '' or the error, in one line."""

    number: int
    path: Path
    host: str = ""
    pid: int = 0
    created: float = 0.0  # when that process began
    ended: str | None = None

    def alive(self, now: float | None = None) -> bool:
        """Whether it still holds. `now`: by the clock that stamps the files."""
        if self.ended is not None:
            return False
        if self.host == here():
            return _lives(self.pid, self.created)
        try:
            return (time.time() if now is None else now) - os.stat(self.path).st_mtime < STALE
        except OSError:
            return False


class Claim:
    """A run that this process works on, until it is let go."""

    def __init__(self, path: Path, run: str, number: int):
        self.path, self.run, self.number, self._touched = path, run, number, time.monotonic()

    def beat(self) -> bool:
        """Touch it where it is time to; False where somebody else has taken the run over."""
        if time.monotonic() - self._touched < BEAT:
            return True
        self._touched = time.monotonic()
        with contextlib.suppress(OSError):  # a disk that is away for a moment; whoever waits, waits for STALE
            os.utime(self.path)
        return not _file(self.path.parent, self.run, self.number + 1).exists()

    def let_go(self, error: str = "") -> None:
        """Say how it ended, so that the next one need not wait; never fails."""
        with contextlib.suppress(OSError):
            self.path.write_bytes(_said({"ended": error}))

    def done(self) -> None:
        """The run is complete: nobody need claim it again. Never fails."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def take(run: str, runs_dir: Path) -> Claim | None:
    """Claim a run; None where somebody else holds it. Raises OSError where nothing can be written."""
    folder = folder_of(runs_dir)
    files.writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last = holder(run, runs_dir)
    if last and last.alive(_now(folder)):
        return None
    claim = Claim(_file(folder, run, last.number + 1 if last else 1), run, last.number + 1 if last else 1)
    try:
        with open(claim.path, "xb") as file:
            file.write(_said({"host": here(), "pid": os.getpid(), "created": _born(os.getpid())}))
    except FileExistsError:
        return None
    if last:
        last.path.unlink(missing_ok=True)
    return claim


@contextlib.contextmanager
def held(run: str, runs_dir: Path) -> Iterator[None]:
    """A claim while this process itself works on the run, with its pulse. Raises RunError where somebody else does."""
    claim, over = take(run, runs_dir), threading.Event()
    if claim is None:
        raise RunError(f"run {run!r} is being written by another process")

    def pulse() -> None:
        while not over.wait(BEAT) and claim.beat():
            pass

    threading.Thread(target=pulse, daemon=True).start()
    try:
        yield
    except Exception as error:
        claim.let_go("" if type(error).__name__ == "Interrupted" else one_line(error))
        raise
    except BaseException:
        claim.let_go()
        raise
    else:
        claim.done()
    finally:
        over.set()


def holder(run: str, runs_dir: Path) -> Holder | None:
    """The last claim on a run; None where there was none."""
    found = [path for path in folder_of(runs_dir).glob(f"{run}.*") if path.suffix[1:].isdigit()]
    return _read(max(found, key=lambda path: int(path.suffix[1:]))) if found else None


def holders(runs_dir: Path) -> dict[str, Path]:
    """Run -> the file of the last claim on it, of all runs; `read` says what is in it."""
    last: dict[str, tuple[int, Path]] = {}
    with contextlib.suppress(OSError), os.scandir(folder_of(runs_dir)) as entries:
        for entry in entries:
            run, _, number = entry.name.rpartition(".")
            if run and number.isdigit() and int(number) >= last.get(run, (0,))[0]:
                last[run] = int(number), Path(entry.path)
    return {run: path for run, (_, path) in last.items()}


def read(path: Path) -> Holder:
    """What a claim's file says; one that was torn at its first word holds as long as its pulse does."""
    return _read(path)


def _read(path: Path) -> Holder:
    try:
        said = json.loads(path.read_bytes())
        return Holder(int(path.suffix[1:]), path, str(said.get("host", "")), int(said.get("pid", 0)),
                      float(said.get("created", 0)), said.get("ended"))
    except (OSError, ValueError, TypeError, AttributeError):
        return Holder(int(path.suffix[1:]), path)


def _said(what: dict) -> bytes:
    return json.dumps(what).encode()


def _file(folder: Path, run: str, number: int) -> Path:
    return folder / f"{run}.{number:06d}"


def _now(folder: Path) -> float:
    """The time by the clock that stamps files in this folder, which may be a server's."""
    probe = folder / f".now-{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


@cache
def here() -> str:
    """This machine, since it was started; a container that sees no processes but its own is one by itself."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _born(pid: int) -> float:
    return psutil.Process(pid).create_time()


def _lives(pid: int, created: float) -> bool:
    """Whether it is still that process: a pid is used again, with another birth."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
