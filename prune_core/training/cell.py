"""One cell of a sweep at work: a process of its own, `prune` or `resume`, under a claim. Loads no torch itself."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from prune_core import files
from prune_core.runs import claims
from prune_core.runs.command_line import arguments
from prune_core.runs.config import PruneConfig

HELD = "is being written by another process"  # what `resume` says of a run that somebody else has taken up
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class How:
    """How every cell of a sweep is carried out."""

    threads: int = 1
    gpus: int | None = None  # for each cell; None: one, where there are any
    device: str = "auto"  # where new cells compute, as `prune --device` has it; begun ones go on where they were
    practice: bool = False
    retries: int = 3  # after its process was killed
    gives_way: bool = True  # whether all else on the machine comes first
    storage: str = ""  # an fsspec address where finished and checkpointed folders are kept; "": the runs folder is it


class Outcome(NamedTuple):
    """How work on a cell ended: complete, interrupted, failed, or held (by somebody else)."""

    run: str
    state: str
    error: str = ""


class Work:
    """A cell whose process was started here. `outcome` must be asked every second or so: it is the claim's pulse."""

    def __init__(self, run: str, config: PruneConfig, runs_dir: Path, how: How, claim: claims.Claim,
                 environment: Mapping[str, str]):
        self.run, self.config, self.runs_dir, self.how = run, replace(config, threads=how.threads), runs_dir, how
        self._claim, self._environment, self._killed, self._asked = claim, environment, 0, False
        self._log = Path(runs_dir) / ".logs" / f"{run}.log"
        self._process = self._spawn()

    def _spawn(self) -> subprocess.Popen:
        """Its process: killed with this one, so that whoever takes the cell over finds no other at work on it."""
        if (self.runs_dir / self.run).exists():
            command = ["resume", self.run, f"--runs-dir={self.runs_dir}", "--json"]
        else:
            command = [*arguments(self.config, self.run, self.runs_dir), *["--practice"] * self.how.practice]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        own = {"OMP_NUM_THREADS": str(self.how.threads), "PRUNESCOPE_DEVICE": self.how.device}
        before = partial(_gently if self.how.gives_way else with_parent, os.getpid())
        with open(self._log, "ab") as out:
            process = subprocess.Popen([sys.executable, "-m", "prune_core", *command], stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=out, env=os.environ | own | self._environment,
                                       start_new_session=True, preexec_fn=before)
        with contextlib.suppress(OSError, psutil.Error):  # how pages know it
            born = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
            files.write_whole(self._log.with_suffix(".json"), json.dumps(born).encode())
        return process

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on. A process that was killed is started anew, `how.retries` times."""
        code = self._process.poll()
        if code is None:
            if self._claim.beat():
                return None
            self.kill()
            return Outcome(self.run, "held")
        if (self.runs_dir / self.run / "result.json").exists():
            self._claim.done()
            return Outcome(self.run, "complete")
        if code == 130 or (self._asked and code < 0):
            self._claim.let_go()
            return Outcome(self.run, "interrupted")
        if code < 0 and self._killed < self.how.retries:
            self._killed += 1
            self._process = self._spawn()
            return None
        error = f"its process was killed by signal {-code}, {self._killed + 1} times" if code < 0 else self._last(code)
        if HELD in error:
            self._claim.let_go()
            return Outcome(self.run, "held")
        self._claim.let_go(error)
        return Outcome(self.run, "failed", error)

    def _last(self, code: int) -> str:
        """The line that its process ended with."""
        with contextlib.suppress(OSError), open(self._log, "rb") as log:
            log.seek(max(0, log.seek(0, 2) - 4000))
            lines = log.read().decode(errors="replace").replace("\r", "\n").split("\n")
            if last := next((line.strip() for line in reversed(lines) if line.strip()), ""):
                return last.removeprefix("error:").strip()[:300]
        return f"it ended with code {code}"

    @property
    def lives(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ask it to stop, with a checkpoint; it can be resumed."""
        self._asked = True
        with contextlib.suppress(OSError):
            self._process.terminate()

    def kill(self) -> None:
        """End it at once, and let the cell go; what it has kept can be resumed."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._claim.let_go()


def begin(run: str, config: PruneConfig, runs_dir: Path, how: How,
          environment: Mapping[str, str] | None = None) -> Work | Outcome:
    """Start work on a cell, or say why there is none to do. Raises OSError where nothing can be written."""
    done = Path(runs_dir) / run / "result.json"
    if done.exists():
        return Outcome(run, "complete")
    claim = claims.take(run, runs_dir)
    if claim is None:
        return Outcome(run, "held")
    if done.exists():  # somebody else has just ended it
        claim.done()
        return Outcome(run, "complete")
    try:
        return Work(run, config, Path(runs_dir), how, claim, environment or {})
    except BaseException:
        claim.let_go()
        raise


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def with_parent(parent: int) -> None:
    """In the child: end when the process that started it does, however that ends; also where it just has."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _gently(parent: int) -> None:
    """Likewise, and all else on this machine comes first. Where Linux shares the cores out by session (autogroup),
    it is the session that must be made nice; it has one of its own."""
    with_parent(parent)
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
        with open("/proc/self/autogroup", "w") as group:
            group.write("10")
