"""The other processes of a run: started by the first one with its own command line, watched, and ended with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO

STARTED_BY = "PRUNESCOPE_STARTED_BY"  # in a process that was started by the first: whose end is its own
PLACES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK")  # as launchers say them
LEAVE = 5.0  # seconds that the others have to end by themselves


def end_with_the_first() -> None:
    """Where the first process has started this one: end as soon as that is gone, whatever this one waits for."""
    def watch(first: int) -> None:
        while os.getppid() == first:
            time.sleep(0.5)
        os._exit(1)

    if first := os.environ.get(STARTED_BY):
        threading.Thread(target=watch, args=(int(first),), daemon=True).start()


class Others:
    """`count` processes but this one, which is the first; 0: none are started. Use as a context manager."""

    def __init__(self, count: int):
        self._running: list[tuple[subprocess.Popen, IO]] = []
        self._count, self._done = count, False

    def __enter__(self) -> Others:
        if self._count:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            os.environ.update(zip(PLACES, ("127.0.0.1", str(port), *[str(self._count)] * 2, "0", "0"), strict=True))
            if sys.platform == "linux":  # the name of a machine may lead nowhere
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            for rank in range(1, self._count):
                self._start(rank)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _start(self, rank: int) -> None:
        said = tempfile.TemporaryFile()
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), STARTED_BY: str(os.getpid())}
        arguments = [sys.executable, "-m", "prune_core", *sys.argv[1:]]
        self._running.append((subprocess.Popen(arguments, env=os.environ | own, stdin=subprocess.DEVNULL,
                                               stdout=subprocess.DEVNULL, stderr=said, start_new_session=True), said))

    def why(self) -> str:
        """How the first that ended did; '' while all run."""
        for rank, (process, said) in enumerate(self._running, 1):
            if process.poll() not in (None, 0):
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                how = f"killed by signal {-process.returncode}" if process.returncode < 0 else (
                    lines[-1].removeprefix("error: ")[:200] if lines else f"exit code {process.returncode}")
                return f"number {rank}: {how}"
        return ""

    def _watch(self) -> None:
        """A GPU may wait for ever for one that is gone: where this process does not notice it is ended."""
        while not self._done and not self.why():
            time.sleep(0.2)
        until = time.monotonic() + LEAVE
        while not self._done and time.monotonic() < until:
            time.sleep(0.2)
        if not self._done:
            print(f"error: one of the run's {self._count} processes has ended ({self.why()}); what was recorded is "
                  "kept; go on with: python -m prune_core resume", file=sys.stderr, flush=True)
            os._exit(2)

    def __exit__(self, kind, *_) -> None:
        self._done = True
        until = time.monotonic() + (0.0 if kind else LEAVE)
        for process, said in self._running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            said.close()
        if self._count:
            for name in PLACES:
                os.environ.pop(name, None)
