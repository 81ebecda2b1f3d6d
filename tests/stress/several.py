"""Processes that share a run's batches, the first or another killed with -9 at any moment of training."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from stress.kills import begun_alike, loads, same

from prune_core.runs.run import Run

REPO = Path(__file__).resolve().parent.parent.parent


def command(*words: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "prune_core", *words], cwd=REPO, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def begun(folder: Path, name: str) -> subprocess.Popen:
    return command("prune", f"--model={folder / 'model'}", f"--data={folder / 'data'}", "--block=16x1",
                   "--compression=2", "--method=group-lasso", "--preset=quick", "--dense-steps=80",
                   "--penalty-steps=300", "--retrain-steps=80", "--precision=fp32", "--threads=1", "--processes=2",
                   f"--run={name}", f"--runs-dir={folder}")


def killed(process: subprocess.Popen, path: Path, first: bool, lines: int) -> tuple[str, bool]:
    """(the error line, whether all its processes are gone) of one killed once it has logged so many lines more."""
    log = path / "progress.jsonl"

    def logged() -> int:
        return log.read_bytes().count(b"\n") if log.exists() else 0

    before = logged()
    while process.poll() is None and logged() < before + lines:
        time.sleep(0.02)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    (family[0] if first else family[-1]).kill()
    said = process.communicate(timeout=60)[1]
    error = next((line for line in reversed(said.splitlines()) if line.startswith("error: ")), "")
    return error, not psutil.wait_procs(family, timeout=20)[1]


def workers(folder: Path, rounds: int) -> Iterator[dict]:
    """One run that nothing happens to; then one is killed, the first or the other, and resumed, over and over."""
    process = begun(folder, "together")
    error = process.communicate(timeout=900)[1]
    yield {"what": "two processes: the run that nothing happens to", "figure": 1, "unit": "", "needed": error[-140:],
           "ok": process.returncode == 0}
    if process.returncode:
        return
    whole, chance, wrong, ends = Run(folder / "together"), random.Random(0), [], []
    for number in range(rounds):
        path = folder / f"apart-{number}"
        for at, first in enumerate((number % 2 == 0, number % 2 == 1)):
            process = begun(folder, path.name) if not at else command("resume", path.name, f"--runs-dir={folder}")
            error, gone = killed(process, path, first, chance.randint(20, 200))
            clear = first or "was recorded is kept" in error
            loads(path)
            if not (gone and clear and begun_alike(Run(path), whole)):
                wrong.append(f"{path.name}, {'the first' if first else 'the other'} killed: {error or 'not all gone'}")
        process = command("resume", path.name, f"--runs-dir={folder}")
        error = process.communicate(timeout=900)[1]
        ends.append(process.returncode == 0 and same(path, folder / "together"))
    yield {"what": "two processes: kill -9 of the first or the other; all are gone, one line, what is left is right",
           "figure": 2 * rounds - len(wrong), "unit": f"of {2 * rounds}", "ok": not wrong, "needed": "; ".join(wrong)}
    yield {"what": "two processes: resumed to the end, bit for bit", "figure": sum(ends), "unit": f"of {rounds}",
           "ok": all(ends)}
