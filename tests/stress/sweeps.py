"""Sweeps whose cells, own process, Ray workers and nodes are killed: the table is as without all that."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import sweeping
from browsing import wait
from sweeping import CELLS, NODE

from prune_core.runs import standing


def killed_sweeps(folder: Path, model: Path, data: Path, short: bool) -> Iterator[dict]:
    """Rows of faults. `short`: here only; a cluster takes minutes."""
    asked = [*sweeping.asked(model, data), "--threads=1"]
    whole = sweeping.table(sweeping.done(folder / "undisturbed", *asked))
    yield _row("a sweep that nothing happens to", sum(one[1] == "complete" for one in whole), True)
    yield from _here(folder / "killed", asked, whole)
    if short:
        return
    if importlib.util.find_spec("ray") is None:
        yield _row("a sweep on a Ray cluster: worker and node killed", 0, True, "not tried: Ray is not installed")
        return
    yield from _on_a_cluster(folder / "cluster", asked, whole)


def _here(runs_dir: Path, asked: list[str], whole: list[tuple]) -> Iterator[dict]:
    begun = sweeping.start(runs_dir, *asked)
    sweeping.kill(sweeping.process_of(sweeping.in_the_middle(runs_dir), runs_dir))
    sweeping.in_the_middle(runs_dir)
    begun.kill()
    begun.wait()
    def running() -> int:
        return sum(one.state == "running" for one in standing.standings(CELLS, runs_dir))

    with contextlib.suppress(TimeoutError):  # the system ends them right after their parent
        wait("none is at work", lambda: not running(), 10)
    left = running()
    yield _row("a cell killed, then the sweep: cells that are still at work", left, not left)
    told = sweeping.table(sweeping.done(runs_dir, "--name=sweep"))
    yield _row("killed in the middle and taken up again: the same table", _alike(told, whole), told == whole)


def _on_a_cluster(runs_dir: Path, asked: list[str], whole: list[tuple]) -> Iterator[dict]:
    with sweeping.cluster() as made:
        nodes = [made.add_node(**NODE) for _ in range(2)]
        begun = sweeping.start(runs_dir, *asked, "--on=ray", RAY_ADDRESS=made.address)
        victim = sweeping.in_the_middle(runs_dir)
        sweeping.kill(sweeping.worker_of(victim, runs_dir))
        sweeping.in_the_middle(runs_dir)
        made.remove_node(nodes[1], allow_graceful=False)
        code, told, err = sweeping.ended(begun)
    table = sweeping.table(told) if code == 0 else []
    yield _row("on a Ray cluster, a worker killed and a node removed: the same table", _alike(table, whole),
               table == whole, err[-200:] if code else "")


def _alike(table: list[tuple], whole: list[tuple]) -> int:
    return sum(one in whole for one in table)


def _row(what: str, figure: float, ok: bool, needed: str = "") -> dict:
    return {"what": f"sweep: {what}", "figure": figure, "unit": "cells", "ok": ok, "needed": needed}
