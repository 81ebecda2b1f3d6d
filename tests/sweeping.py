"""Sweeps over tiny runs, started as a person starts them, and disturbed: for tests and for `tests.stress faults`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from browsing import wait

from prune_core.runs import claims
from prune_core.runs.standing import standings

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("reweighted", "magnitude", "movement")
CELLS = [f"sweep-sst2-{method}-16x1-2x-s0" for method in METHODS]
STEPS = {"dense-steps": 20, "penalty-steps": 400, "retrain-steps": 20}
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def settings(model: Path, data: Path, **more: object) -> list[str]:
    """Options that all cells share."""
    said = STEPS | {"model": model, "data": data, "preset": "quick", "block": "16x1", "precision": "fp32"} | more
    return [f"--set={name}={value}" for name, value in said.items()]


def asked(model: Path, data: Path, methods: Sequence[str] = METHODS) -> list[str]:
    """A grid of a cell for each method."""
    return ["--tasks=sst2", f"--methods={','.join(methods)}", "--seeds=1", *settings(model, data)]


def start(runs_dir: Path, *options: str, **environment: str) -> subprocess.Popen:
    """`prunescope sweep` in a process of its own, which gives way to no other test unless it is told to."""
    way = [] if "--give-way" in options else ["--no-give-way"]
    command = [sys.executable, "-m", "prune_core", "sweep", f"--runs-dir={runs_dir}", "--json", *way, *options]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | environment, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen, seconds: float = 1500) -> tuple[int, dict, str]:
    """(code, what it printed as JSON, its stderr)"""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, json.loads(out.strip().splitlines()[-1]) if out.strip() else {}, err


def done(runs_dir: Path, *options: str, **environment: str) -> dict:
    """What a sweep that ends well prints."""
    code, told, err = ended(start(runs_dir, *options, **environment))
    assert code == 0, err[-2000:]
    return told


def table(told: dict) -> list[tuple]:
    """What must be equal, however it came to be."""
    return [(cell["run"], cell["status"], cell["settings"], cell["points"]) for cell in told["cells"]]


def at_work(runs_dir: Path, cells: Sequence[str] = CELLS) -> list[str]:
    """The cells that are under the penalty just now: in the middle."""
    now = {one.run: one for one in standings(cells, runs_dir)}
    return [run for run in cells if now[run].state == "running" and (now[run].now or {}).get("phase") == "penalty"
            and psutil.pid_exists(now[run].now.get("pid", 0))]  # and not what a process before it has said


def in_the_middle(runs_dir: Path) -> str:
    """Waits until a cell is; which one."""
    found: list[str] = []
    wait("a cell in the middle", lambda: found.extend(at_work(runs_dir)) or found, 900)
    return found[0]


def worker_of(run: str, runs_dir: Path) -> psutil.Process:
    """The process that holds the claim on a cell: the sweep's own, or a worker of Ray."""
    return psutil.Process(claims.holder(run, runs_dir).pid)


def process_of(run: str, runs_dir: Path) -> psutil.Process:
    """The process that trains it."""
    return psutil.Process(json.loads((runs_dir / run / "status.json").read_bytes())["pid"])


def kill(process: psutil.Process) -> None:
    """As the system does when memory runs out."""
    with contextlib.suppress(psutil.Error):
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)


@contextlib.contextmanager
def cluster(**head: object) -> Iterator:
    """A Ray cluster on this machine, of a head that has no CPUs and as many nodes as one adds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), path)))
    made = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False} | head)
    try:
        yield made
    finally:
        made.shutdown()
        os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)
