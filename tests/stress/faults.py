"""Faults: what was recorded still loads, `resume` completes, and the numbers are those of an undisturbed run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tiny
from stress.child import complete, live
from stress.kills import kills, loads, same
from stress.several import workers
from stress.sweeps import killed_sweeps

from prune_core.runs import shelf
from prune_core.runs.config import PruneConfig

REPO = Path(__file__).resolve().parent.parent.parent
GLUE = REPO.parent / "shared" / "glue"


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A file system of this size; None where this user may mount none."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def again(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def told(what: str, line: str | None, words: str) -> dict:
    """Whether the error came as one clear line."""
    clear = line is not None and "\n" not in line and words in line and "not told clearly" not in line
    return {"what": f"{what}: one clear line", "figure": 1 if clear else 0, "unit": "", "ok": clear,
            "needed": (line or "no error")[:140]}


def back(what: str, path: Path, whole: Path, before: int, line: str | None) -> dict:
    """Whether it went on to the same end, with nothing lost."""
    ok = line is None and same(path, whole)
    return {"what": f"{what}: what was recorded still loads; resumed to the same end", "figure": before,
            "unit": "snapshots", "ok": ok, "needed": line or ""}


def disks(config: PruneConfig, folder: Path) -> Iterator[dict]:
    """A disk that fills up in the middle of a run, and one that turns read-only."""
    whole = folder / "whole"
    size = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
    with disk(folder / "small", str(int(size * 0.7))) as small:
        if small is None:
            yield {"what": "a full disk", "figure": 0, "unit": "", "ok": True,
                   "needed": "not tried: this user may not mount"}
            return
        yield told("a full disk", complete(config, small, "full"), "No space left")
        before = loads(small / "full")
        again(small, "size=256m")
        yield back("a full disk", small / "full", whole, before, complete(config, small, "full"))
    with disk(folder / "lent", "256m") as lent:
        live(config, lent, "lent", kill_at=("penalty", "training", config.penalty_steps // 2))
        again(lent, "ro")
        yield told("a read-only runs folder", complete(config, lent, "lent"), "ead-only")
        yield told("a read-only runs folder, a new run", complete(config, lent, "another"), "ead-only")
        before = loads(lent / "lent")
        again(lent, "rw")
        yield back("a read-only runs folder", lent / "lent", whole, before, complete(config, lent, "lent"))


def clock_and_memory(config: PruneConfig, folder: Path) -> Iterator[dict]:
    line = complete(config, folder, "jumped", fault="clock")
    yield back("a clock that jumps back a day", folder / "jumped", folder / "whole", loads(folder / "jumped"), line)
    line = complete(config, folder, "starved", fault="memory")
    yield told("out of memory", line, "out of memory")
    yield back("out of memory", folder / "starved", folder / "whole",
               loads(folder / "starved"), complete(config, folder, "starved"))


# ---------------------------------------------------------------- the app beside a run


def app_killed(folder: Path) -> Iterator[dict]:
    """The app is killed while a run that it started goes on; a new app shows it, and can cancel it."""
    from browsing import CHROMIUM, chromium, served, serving, wait

    if CHROMIUM is None:
        yield {"what": "the app killed beside a run", "figure": 0, "unit": "", "ok": True,
               "needed": "not tried: no chromium"}
        return
    with chromium() as browser, contextlib.ExitStack() as stack:
        first = stack.enter_context(served(folder))
        page = browser.new_page()
        page.goto(f"{first}/Prune")
        page.get_by_role("combobox", name="Data").fill("practice", timeout=60_000)
        page.keyboard.press("Enter")
        page.get_by_role("textbox", name="Run name").fill("beside")
        page.keyboard.press("Enter")
        page.wait_for_timeout(1500)
        page.get_by_role("button", name="Start").click()
        wait("the run has begun", lambda: (folder / "beside" / "progress.jsonl").exists())
        serving(first).kill()
        page.close()
        at = len(shelf.find("beside", folder).snapshots)
        wait("the run goes on", lambda: len(shelf.find("beside", folder).snapshots) > at + 2)
        run = shelf.find("beside", folder)
        yield {"what": "the app killed: the run it had started goes on",
               "figure": len(run.snapshots) - at, "unit": "snapshots",
               "ok": run.status == "running"}
        second = stack.enter_context(served(folder))
        page = browser.new_page()
        page.goto(f"{second}/Prune")
        page.get_by_role("button", name="Cancel").wait_for(timeout=60_000)
        page.get_by_role("button", name="Cancel").click()
        wait("the run is interrupted", lambda: shelf.find("beside", folder).status == "interrupted")
        yield {"what": "a new app shows the run as running, and cancels it", "figure": 1, "unit": "", "ok": True}


def rows(short: bool) -> Iterator[dict]:
    folder = Path(tempfile.mkdtemp(prefix="prunescope-faults-"))
    try:
        model, data = tiny.checkpoint(folder / "model"), tiny.data_folder(folder / "data", ("sst2",))
        steps = (20, 40, 10) if short else (40, 80, 20)
        steps_of = dict(zip(("dense_steps", "penalty_steps", "retrain_steps"), steps, strict=False))
        small = tiny.settings(model, data, moments=8, **steps_of)
        (folder / "runs").mkdir()
        (folder / "sweeps").mkdir()
        yield from kills(small, folder / "runs", 1 if short else 3, "tiny")
        yield from disks(small, folder / "runs")
        yield from clock_and_memory(small, folder / "runs")
        yield from killed_sweeps(folder / "sweeps", model, data, short)
        yield from workers(folder, 1 if short else 3)
        if not short:
            source = str(GLUE) if GLUE.is_dir() else "practice"
            real = PruneConfig(data=source, compressions=(2.0,), dense_steps=8, penalty_steps=16,
                               retrain_steps=8, moments=4, milestones=2, precision="bf16",
                               train_examples=512, dev_examples=128, surface_examples=64, threads=2)
            (folder / "real").mkdir()
            yield from kills(real, folder / "real", 1, "MiniLM")
            (folder / "app").mkdir()
            yield from app_killed(folder / "app")
    finally:
        shutil.rmtree(folder, ignore_errors=True)

