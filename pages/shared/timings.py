"""What was timed of a run on this machine: asked for, read again, and never mixed with what was timed otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pages.shared import loaders, processes, widgets
from pages.shared.loaders import SETTING
from prune_core import machine
from prune_core.latency.profile import Batch, Profile
from prune_core.runs.run import Run

AUTO = "auto"  # the fastest arithmetic here: what runs are compared in
START, ROUNDS, LEAST = 30.0, 7, 6.0  # seconds until all engines are ready; of what is timed how often; seconds of that


def arguments(run: Run, stage: str, scope: str, sparsity: float, setting: Batch, dtype: str = AUTO) -> list[str]:
    """The command that times dense and compact in turn."""
    return ["measure", run.name, f"--runs-dir={loaders.runs_dir()}", f"--phase={stage}", f"--scope={scope}",
            f"--sparsity={sparsity}", f"--batch={setting.batch}", f"--length={setting.length}", f"--dtype={dtype}",
            *widgets.device_option()]


def measured(run: Run, stage: str, scope: str, sparsity: float, setting: Batch) -> dict:
    """`measure`'s answer. Raises processes.Failed with its error line."""
    return processes.measure(arguments(run, stage, scope, sparsity, setting))


def timed(run: Run, stage: str) -> float | None:
    """How much faster a stage is than the best dense engine, as last timed on this machine, on all cores, at SETTING.

    None where it was not.
    """
    last = timing(run, stage)
    return last and last["speedup_over_best"]


def timing(run: Run, stage: str) -> dict | None:
    """All that `measure` said then; None where it was not asked, or timed no other dense engine than torch fp32."""
    wanted, sparsity = (stage, SETTING.batch, SETTING.length), run.snapshots[run.saved(stage)].blocks
    return next((one for one in reversed(timings(run)) if abs(one["sparsity"] - sparsity) < 0.005
                 and (one["phase"], one["batch"], one["length"]) == wanted and len(one["rivals_ms"]) > 1), None)


def timings(run: Run, dtype: str = AUTO) -> list[dict]:
    """What `measure` took of this run on this machine, on all cores, where this dtype was asked for, oldest first."""
    return [one for one in run.answers.timings() if here(one, dtype)]


def on_gpus(run: Run) -> list[dict]:
    """What `measure` took of this run on GPUs, in whatever precision, oldest first; never mixed with the others."""
    return [one for one in run.answers.timings() if one.get("device", {}).get("kind", "cpu") != "cpu"]


def here(one: Mapping, dtype: str) -> bool:
    """Whether it was timed on this processor, on all cores, and in this dtype, on no kernels that were forced.

    What an older version timed counts in fp32 alone: its bf16 was that of the weights.
    """
    this, old = loaders.this_machine(), "rivals_ms" not in one
    return ((one["dtype"], one["engine"], one["threads"]) == (dtype, "torch", os.cpu_count())
            and all(one["machine"][key] == this[key] for key in ("cpu", "cores"))
            and not one.get("path") and (dtype == "fp32" if old else one["processor"] == machine.processor()))


def seconds(run: Run, setting: Batch, profile: Profile) -> float:
    """About how long measuring takes: every engine a few times, as the profile has it."""
    rivals, own = profile.rivals_ms(run.layout, setting), profile.unpruned_ms(run.layout, setting, run.heads)
    return START + max(LEAST, ROUNDS * (sum(rivals.values()) + 2 * own) / 1000)
