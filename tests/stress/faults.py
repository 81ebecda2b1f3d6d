"""Faults: what was recorded still loads, `resume` completes, and the numbers are those of a run that nothing happened to."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tiny
from safetensors.torch import load_file

from prune_core.runs import shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.training import session

REPO = Path(__file__).resolve().parent.parent.parent
GLUE = REPO.parent / "shared" / "glue"
SECONDS = 900  # after which a child is taken for stuck
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "transformers", "datasets", "prune_core.training.session", "tiny"])


# ---------------------------------------------------------------- one run in a process of its own


def work(config: PruneConfig, runs_dir: Path, name: str, checkpoint: float, fault: str, said) -> None:
    """Begin or resume the run, with a fault that happens in it; says None when it is complete, else the error's line."""
    session.CHECKPOINT_SECONDS = checkpoint
    if fault == "clock":
        real, calls = time.time, [0]

        def jumping() -> float:
            calls[0] += 1
            return real() - (86400 if calls[0] > 15 else 0)

        time.time = jumping
    seen = [0]

    def report(event, pruning) -> None:
        seen[0] += 1
        if fault == "memory" and seen[0] == 12:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used, used))

    try:
        if (runs_dir / name).exists():
            session.resume(shelf.find(name, runs_dir), report)
        else:
            session.start(config, runs_dir, name, f"python -m prune_core prune --run {name}", report)
        said.send(None)
    except RunError as error:
        said.send(str(error))
    except BaseException as error:  # what the command line would show as a traceback
        said.send(f"not told clearly: {type(error).__name__}: {error}")


def begin(config: PruneConfig, runs_dir: Path, name: str, checkpoint: float = 0.1, fault: str = ""):
    """(the process, where it will say how it ended)"""
    here, there = _context.Pipe(duplex=False)
    process = _context.Process(target=work, args=(config, runs_dir, name, checkpoint, fault, there), daemon=True)
    process.start()
    there.close()
    return process, here


def ended(process, here) -> str | None:
    """What it said at its end."""
    process.join(SECONDS)
    return here.recv() if here.poll(1) else f"not told clearly: the process ended with code {process.exitcode}"


def complete(config: PruneConfig, runs_dir: Path, name: str, checkpoint: float = 0.1, fault: str = "") -> str | None:
    return ended(*begin(config, runs_dir, name, checkpoint, fault))


# ---------------------------------------------------------------- what must hold


def loads(path: Path) -> int:
    """How many snapshots it has, all of whose norms and weights were read. Raises where one does not load."""
    run = Run(path)
    for at in run.with_norms:
        run.norms(at)
    for name in run.saved_names:
        load_file(run.weights_file(name))
    return len(run.snapshots)


def same(one: Path, other: Path) -> bool:
    """Every snapshot, all norms, all weights byte for byte, the points."""
    a, b = Run(one), Run(other)
    if a.snapshots != b.snapshots or a.with_norms != b.with_norms or (a.result or {}).get("points") != b.result["points"]:
        return False
    norms = all(np.array_equal(values, b.norms(at)[name]) for at in b.with_norms for name, values in a.norms(at).items())
    return norms and all((one / "weights" / file.name).read_bytes() == file.read_bytes() for file in (other / "weights").iterdir())


# long: one loop with its counters, and a row for each of them
def kills(config: PruneConfig, folder: Path, count: int, checkpoint: float, what: str) -> Iterator[dict]:
    """kill -9 at random moments of the start and of each phase in turn, over and over in the same run; a new one where it came through."""
    chance = random.Random(0)
    start = time.monotonic()
    error = complete(config, folder, "whole", checkpoint)
    whole = time.monotonic() - start
    yield {"what": f"{what}: the run that nothing happens to", "figure": whole, "unit": "s", "ok": error is None}
    done, victims, phases, snapshots, wrong = 0, 0, set(), 0, []
    while done < count:
        name = f"victim-{victims}"
        process, here = begin(config, folder, name, checkpoint)
        aim = done % 4 - 1  # -1: at its start
        while process.is_alive() and _reached(folder / name, process.pid) < aim:
            process.join(0.01)
        process.join(chance.uniform(0, 0.02 if aim >= 0 else 0.2) * whole)
        alive = process.is_alive()
        process.kill()
        process.join()
        path = folder / name
        if path.exists():
            run = Run(path)
            snapshots += loads(path)
            now = run.now
            phases.add((now.get("phase", "starting"), now.get("doing", "")))
            if alive and run.result is None:
                done += 1
                if run.status != "interrupted":
                    wrong.append(f"{name} is shown as {run.status}")
        elif alive:
            done += 1
            phases.add(("starting", ""))
        if path.exists() and Run(path).result is not None:
            victims += 1
    endings = [complete(config, folder, f"victim-{at}", checkpoint) for at in range(victims + 1)]
    equal = [same(folder / f"victim-{at}", folder / "whole") for at in range(victims + 1)]
    yield {"what": f"{what}: kill -9 at random moments, every snapshot loads", "figure": done, "unit": "kills", "ok": done >= count,
           "needed": f"{snapshots:,} snapshots read"}
    yield {"what": f"{what}: phases and doings that were hit", "figure": len(phases), "unit": "", "ok": len(phases) >= 3,
           "needed": ", ".join(sorted({phase for phase, _ in phases}))}
    yield {"what": f"{what}: shown as interrupted while dead", "figure": done - len(wrong), "unit": "of them", "ok": not wrong, "needed": "; ".join(wrong)}
    yield {"what": f"{what}: resumed to the end, bit for bit the run that nothing happened to", "figure": sum(equal), "unit": "runs",
           "ok": all(equal) and not any(endings), "needed": "; ".join(filter(None, endings))}


def _reached(path: Path, pid: int) -> int:
    """Position of the phase that this process says it is in: dense, penalty, retraining; -1 before it says any."""
    now = Run(path).now if path.exists() else {}
    phase = str(now.get("phase", "")) if now.get("pid") == pid else ""
    return next((at for at, name in enumerate(("dense", "penalty", "retrain")) if phase.startswith(name)), -1)


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A file system of this size; None where this user may mount none."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False).returncode == 0
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
    return {"what": f"{what}: one clear line", "figure": 1 if clear else 0, "unit": "", "ok": clear, "needed": (line or "no error")[:140]}


def back(what: str, path: Path, whole: Path, before: int, line: str | None) -> dict:
    """Whether it went on to the same end, with nothing lost."""
    ok = line is None and same(path, whole)
    return {"what": f"{what}: what was recorded still loads; resumed to the same end", "figure": before, "unit": "snapshots", "ok": ok, "needed": line or ""}


def disks(config: PruneConfig, folder: Path) -> Iterator[dict]:
    """A disk that fills up in the middle of a run, and one that turns read-only."""
    whole = folder / "whole"
    size = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
    with disk(folder / "small", str(int(size * 0.7))) as small:
        if small is None:
            yield {"what": "a full disk", "figure": 0, "unit": "", "ok": True, "needed": "not tried: this user may not mount"}
            return
        yield told("a full disk", complete(config, small, "full"), "No space left")
        before = loads(small / "full")
        again(small, "size=256m")
        yield back("a full disk", small / "full", whole, before, complete(config, small, "full"))
    with disk(folder / "lent", "256m") as lent:
        process, _ = begin(config, lent, "lent")
        while not (lent / "lent" / "checkpoint.safetensors").exists() and process.is_alive():
            time.sleep(0.02)
        process.kill()
        process.join()
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
    yield back("out of memory", folder / "starved", folder / "whole", loads(folder / "starved"), complete(config, folder, "starved"))


# ---------------------------------------------------------------- the app beside a run


def app_killed(folder: Path) -> Iterator[dict]:
    """The app is killed while a run that it started goes on; a new app shows it, and can cancel it."""
    from browsing import CHROMIUM, chromium, served

    if CHROMIUM is None:
        yield {"what": "the app killed beside a run", "figure": 0, "unit": "", "ok": True, "needed": "not tried: no chromium"}
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
        wait(lambda: (folder / "beside" / "progress.jsonl").exists())
        subprocess.run(["pkill", "-9", "-f", f"streamlit run app.py.*{first.rpartition(':')[2]}"], check=False)
        page.close()
        at = len(shelf.find("beside", folder).snapshots)
        wait(lambda: len(shelf.find("beside", folder).snapshots) > at + 2)
        yield {"what": "the app killed: the run it had started goes on", "figure": len(shelf.find("beside", folder).snapshots) - at, "unit": "snapshots",
               "ok": shelf.find("beside", folder).status == "running"}
        second = stack.enter_context(served(folder))
        page = browser.new_page()
        page.goto(f"{second}/Prune")
        page.get_by_role("button", name="Cancel").wait_for(timeout=60_000)
        page.get_by_role("button", name="Cancel").click()
        wait(lambda: shelf.find("beside", folder).status == "interrupted")
        yield {"what": "a new app shows the run as running, and cancels it", "figure": 1, "unit": "", "ok": shelf.find("beside", folder).status == "interrupted"}


def wait(until, seconds: float = 120) -> None:
    """Until it holds; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError("waited too long")
        time.sleep(0.2)


def rows(short: bool) -> Iterator[dict]:
    folder = Path(tempfile.mkdtemp(prefix="prunescope-faults-"))
    try:
        model, data = tiny.checkpoint(folder / "model"), tiny.data_folder(folder / "data", ("sst2",))
        steps = {"dense_steps": 20, "penalty_steps": 40, "retrain_steps": 10} if short else {"dense_steps": 40, "penalty_steps": 80, "retrain_steps": 20}
        small = tiny.settings(model, data, moments=8, **steps)
        (folder / "runs").mkdir()
        yield from kills(small, folder / "runs", 4 if short else 50, 0.1, "tiny")
        yield from disks(small, folder / "runs")
        yield from clock_and_memory(small, folder / "runs")
        if not short:
            source = str(GLUE) if GLUE.is_dir() else "practice"
            real = PruneConfig(data=source, compressions=(2.0,), dense_steps=8, penalty_steps=16, retrain_steps=8, moments=4, milestones=2, precision="bf16",
                               train_examples=512, dev_examples=128, surface_examples=64, threads=2)
            (folder / "real").mkdir()
            yield from kills(real, folder / "real", 5, 5.0, "MiniLM")
            (folder / "app").mkdir()
            yield from app_killed(folder / "app")
    finally:
        shutil.rmtree(folder, ignore_errors=True)

