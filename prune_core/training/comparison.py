"""A comparison under one budget: the same steps, seeds and starting weights for every method.

Every run is an ordinary run, named compare-TASK-METHOD-sSEED, and a cell of the sweep compare-TASK: the whole goes on
where it was stopped, here one after the other, or as any sweep (sweep.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from prune_core import InputError
from prune_core.methods import table
from prune_core.runs import claims, sweeps
from prune_core.runs.config import PruneConfig, rooted
from prune_core.runs.run import Run
from prune_core.runs.sweeps import Sweep
from prune_core.showing.compare import FREE, Row, Speedup, row_of
from prune_core.tasks.hub import say
from prune_core.training import session
from prune_core.training.placement import ALONE, Placement

PENALTY_SHARE = 2 / 3  # of the budget; the rest is retraining (all of it where a method takes no steps)
SURFACE = 128  # dev examples behind surfaces, which a comparison does not need; its scores are of the whole dev set


def plan(base: PruneConfig, methods: Sequence[str], seeds: int, budget: int) -> list[tuple[str, PruneConfig]]:
    """(run name, config) of all runs, seed by seed. Raises InputError.

    The first of a seed fine-tunes, the others start from its dense weights. `methods`: variants of the table.
    """
    offered = table.variants()
    if unknown := [name for name in methods if name not in offered]:
        raise InputError(f"method {unknown[0]!r} is unknown; some of {', '.join(offered)}")
    if not methods or len(set(methods)) < len(methods):
        raise InputError("methods must be named once each; needed: at least one")
    if seeds < 1 or budget < 3:
        raise InputError(f"{seeds} seeds and {budget} steps are out of range; needed: at least 1 and 3")
    penalty = round(PENALTY_SHARE * budget)
    shared = replace(rooted(base), penalty_steps=penalty, surface_examples=SURFACE)
    planned = []
    for seed in range(seeds):
        first = run_name(base.task, methods[0], seed)
        for method in methods:
            name, settings = run_name(base.task, method, seed), offered[method]
            retrain = budget if table.METHODS[settings["method"]].closed_form else budget - penalty
            start_from = None if name == first else first
            config = replace(shared, seed=seed, start_from=start_from, retrain_steps=retrain, **settings)
            planned.append((name, config))
    return planned


def run_name(task: str, method: str, seed: int) -> str:
    """compare-mrpc-magnitude-s0"""
    return f"compare-{task}-{method}-s{seed}"


def as_sweep(planned: Sequence[tuple[str, PruneConfig]]) -> Sweep:
    """The same runs as a sweep."""
    return sweeps.of_configs(f"compare-{planned[0][1].task}", planned)


def standing(name: str, config: PruneConfig, runs_dir: Path) -> Run | None:
    """The run of this name if there is one; raises InputError where it was made with other settings."""
    if not (Path(runs_dir) / name).is_dir():
        return None
    run = Run(Path(runs_dir) / name)
    there, here = rooted(run.config).settings(), config.settings()
    if others := [setting for setting in here if setting not in FREE and there[setting] != here[setting]]:
        setting = others[0]
        raise InputError(f"run {name!r} was made with {setting} {there[setting]}, asked: {here[setting]}; "
                         "remove it, or use another --runs-dir")
    return run


def carry_out(planned: Sequence[tuple[str, PruneConfig]], runs_dir: Path, command: str,
              progress: Callable[[], AbstractContextManager[session.Report]],
              agree: session.Agree = say, placed: Placement = ALONE) -> Iterator[tuple[int, str, bool]]:
    """Make all runs, or take them up where they were stopped: (number, run name, whether it is complete) before each.

    `progress()` is entered for each run, and gives what it reports to; `agree`, `placed` as in session.start. Raises
    InputError before any work where a run of that name has other settings; session.Interrupted.
    """
    there = [standing(name, config, runs_dir) for name, config in planned]
    if not any(there):  # where its data cannot be had nothing is written
        session.agreed(rooted(planned[0][1]), agree)
    sweeps.keep(as_sweep(planned), runs_dir, {"threads": planned[0][1].threads})  # how `sweep --name` goes on with it
    for number, ((name, config), run) in enumerate(zip(planned, there, strict=True), 1):
        yield number, name, bool(run and run.result)
        if run and run.result:
            continue
        with progress() as report, claims.held(name, runs_dir):
            if run:
                session.resume(run, report, placed)
            else:
                session.start(config, runs_dir, name, command, report, agree, placed)


def rows(planned: Sequence[tuple[str, PruneConfig]], runs_dir: Path,
         speedup: Speedup = lambda run, point: None, mark: str = "") -> list[Row]:
    """What the complete runs have come to, method by method; `speedup`: what is predicted of a run at a point, `mark`:
    on which machine, if not on this one."""
    made: dict[tuple[str, float], list[tuple[Run, dict]]] = {}
    for name, config in planned:
        run = standing(name, config, runs_dir)
        for point in run.points if run and run.result else ():
            method = name.removeprefix(f"compare-{config.task}-").rpartition("-s")[0]
            made.setdefault((method, point["compression"]), []).append((run, point))
    return [row_of(method, compression, own, speedup=speedup, mark=mark) for (method, compression), own in made.items()]
