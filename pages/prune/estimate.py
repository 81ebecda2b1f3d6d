"""How long a run will take: counted from its plan, or measured where this machine has done the like."""

from __future__ import annotations

from dataclasses import dataclass

from prune_core.machine import machine
from prune_core.runs.config import PruneConfig
from prune_core.runs.schedule import NOMINAL_FLOPS, Schedule, plan, step_flops
from prune_core.runs.shelf import Listed
from prune_core.tasks import glue, table_files
from prune_core.tasks.glue import PRACTICE_TASK

MINILM_WEIGHTS = 10_616_832  # in the prunable matrices; other models are only known once they are loaded


@dataclass(frozen=True)
class Estimate:
    """Steps of the run, its training seconds (None: not known before it starts), and where the number is from."""

    plan: Schedule | None
    seconds: float | None
    source: str


def estimate(config: PruneConfig, listed: list[Listed]) -> Estimate:
    """The estimate for this configuration, given the runs there are."""
    if table_files.is_own(config.data):
        return Estimate(None, None, "How long your sentences are is known only once they are read: "
                                    "the estimate comes once the run has started.")
    task = PRACTICE_TASK if config.data == "practice" else glue.task_named(config.task)
    if config.model != "minilm":
        return Estimate(None, None, "For this model the estimate comes once the run has started.")
    if task.mean_tokens is None:
        return Estimate(None, None, f"How long {task.name}'s sentences are was not measured: "
                                    "the estimate comes once the run has started.")
    planned = plan(config, task.train_examples, task.mean_tokens, MINILM_WEIGHTS)
    steps = planned.steps + _asking(config, planned, task.train_examples)
    if measured := _measured(config, task.name, listed):
        seconds, name = measured
        source = f"Estimated from {seconds:.2f} s a step, measured on this machine in run {name}, plus scoring."
        return Estimate(planned, steps * seconds, source)
    nominal = step_flops(config, task.mean_tokens, MINILM_WEIGHTS) / NOMINAL_FLOPS
    return Estimate(planned, steps * nominal,
                    f"Estimated for {NOMINAL_FLOPS / 1e9:.0f} GFLOP/s, about two cores with bf16; "
                    "plus scoring. "
                    "After one run of this task the estimate is based on this machine.")


def _asking(config: PruneConfig, planned: Schedule, examples: int) -> float:
    """The teacher's pass over the training sentences that come up, in training steps: forward is a third of a step."""
    if not (config.distill or config.mixkd):
        return 0.0
    return min(examples / config.batch_size, planned.steps - planned.dense) / 3


def _measured(config: PruneConfig, task: str, listed: list[Listed]) -> tuple[float, str] | None:
    """(seconds a step, run) of the newest complete run of this model, task, batch and threads on this machine."""
    this = machine()
    for run in (entry.run for entry in listed):
        if run is None or run.status != "complete" or not (run.result or {}).get("seconds_per_step"):
            continue
        its = run.about.get("machine", {})
        same = (run.config.model, run.task, run.config.batch_size, run.config.threads) == (
            config.model, task, config.batch_size, config.threads)
        if same and all(its.get(key) == this[key] for key in ("cpu", "cores")):
            return run.result["seconds_per_step"], run.name
    return None
