"""The system's Chromium and the app served from this checkout: for the browser tests and the browser benchmark."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 300.0  # seconds: no promise, but what a busy machine may take for anything
playwright.expect.set_options(timeout=1000 * PATIENCE)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@contextlib.contextmanager
def chromium() -> Iterator:
    """A browser; the test is skipped where it does not start."""
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        except playwright.Error as error:
            pytest.skip(f"chromium does not start: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@contextlib.contextmanager
def served(runs_dir: Path, root: Path = ROOT, **settings: str) -> Iterator[str]:
    """The address of the app in this checkout, on a free port, with these runs and environment variables."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true", "--server.port", str(port),
         "--server.fileWatcherType", "none"],
        cwd=root, env=os.environ | {"PRUNESCOPE_RUNS_DIR": str(runs_dir)} | settings,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True)  # as from a terminal of its own: Linux shares the cores out by session
    try:
        wait("the app has started", lambda: healthy(f"http://localhost:{port}", process))
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def serving(address: str) -> psutil.Process:
    """The process of the app at this address."""
    port = address.rpartition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        if "streamlit" in (process.info["cmdline"] or []) and port in process.info["cmdline"]:
            return process
    raise RuntimeError(f"no app at {address}")


def healthy(address: str, process: subprocess.Popen, asked: str = "_stcore/health") -> bool:
    """Whether a server answers there; raises RuntimeError where its process has ended."""
    if process.poll() is not None:
        raise RuntimeError(f"the server ended with code {process.returncode}")
    try:
        return bool(urllib.request.urlopen(f"{address}/{asked}", timeout=10).read())
    except OSError:
        return False


def wait(what: str, until: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Until it holds. Patience, not a promise of speed; raises TimeoutError, saying what did not come."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"not in {seconds:.0f} s: {what}")
        time.sleep(0.1)
