"""Times the compact model of a cut against every dense engine, here, beside what the latency profile predicts."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from prune_core import InputError, files
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.weights import checkpoint_of, encoder_of, revision_of
from prune_core.execution import timing
from prune_core.execution.timing import Told, silent
from prune_core.latency import apart, profile_files
from prune_core.latency.profile import Batch, Profile
from prune_core.machine import machine
from prune_core.models.devices import CPU
from prune_core.models.encoders import heads_of
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting


def measure(run: Run, stage: str, cut: Cut, batch: Batch, threads: int = 0, dtype: str = "fp32", seconds: float = 3.0,
            profile: Path | None = None, engine: str = "torch", rivals: str | None = None, path: str | None = None,
            told: Told = silent, device: torch.device = CPU) -> dict:
    """Time the dense and the compact model of a cut of a stage. What `measure --json` prints. Raises InputError.

    `rivals`: as rivals.chosen takes them; None: all where the engine is torch. Works for runs whose weights are not
    there: a latency does not depend on values, only on what is kept.
    """
    threads = threads or os.cpu_count() or 1
    rivals = rivals or ("all" if engine == "torch" else "none")
    before = conditions()
    priced = profile_files.read(profile) if profile else _own_profile(threads)
    mask = cut.mask(run.ranking(stage, cut.ranking), run.layout)
    there = (run.path / "weights" / f"{stage}.safetensors").exists()
    encoder = (encoder_of(run, stage, run.outputs) if there
               else checkpoint_of(run, run.outputs))
    model = encoder.model
    timed = timing.measure(model, mask, batch, threads, dtype, seconds, engine, rivals, path, told, device)
    instead = "of the checkpoint: those of the run do not ship; a latency does not depend on them"
    answer = _of(run, stage, cut, mask) | {"weights": "of the run" if there else instead, **timed, **before}
    answer |= _predicted(answer, priced, mask, heads_of(model, mask.layout.matrices))
    _keep(run, answer)
    return answer


def measure_in_turn(pairs: Sequence[tuple[Run, Setting]], batch: Batch, threads: int = 0, dtype: str = "fp32",
                    rivals: str = "all", told: Told = silent) -> list[dict]:
    """Time every rival, the unpruned model and the compact one of each setting in turn, to compare the speedups.

    Settings of several runs are one sitting too; runs of one checkpoint share its dense model. One answer for each,
    with what `measure` says of one cut, but for layers and predictions. Raises InputError.
    """
    threads, before = threads or os.cpu_count() or 1, conditions()
    dense: dict[tuple, nn.Module] = {}
    asked = []
    for run, setting in pairs:
        key = (run.config.model, revision_of(run), run.outputs)
        dense[key] = dense.get(key) or _dense_of(run)
        asked.append((dense[key], setting.mask(run)))
    answers = []
    timed = timing.side_by_side(asked, batch, threads, dtype=dtype, rivals=rivals, told=told)
    for (run, setting), (_, mask), one in zip(pairs, asked, timed, strict=True):
        del one["layers_ms"]  # known of the first alone
        answers.append(_of(run, run.snapshots[setting.at].saved or "", setting.cut, mask) | one | before)
        _keep(run, answers[-1])
    return answers


def _dense_of(run: Run) -> nn.Module:
    """Its model, with whatever weights are there: a latency does not depend on their values."""
    there = next((stage for stage in run.stages if run.has_weights(stage)), None)
    return (encoder_of(run, there, run.outputs) if there else checkpoint_of(run, run.outputs)).model


def _of(run: Run, stage: str, cut: Cut, mask: BlockMask) -> dict:
    return {"run": run.name, "phase": str(stage), "scope": cut.scope, "mask": mask.digest()}


def _keep(run: Run, answer: dict) -> None:
    """Keep it for whoever asks again; where nothing can be written it is only told."""
    with contextlib.suppress(OSError):
        files.append_sealed(run.answers.timings_file, answer)


def _predicted(answer: dict, profile: Profile | None, mask: BlockMask, heads: int | None) -> dict:
    """What the profile says of the path that ran, and, where that is far from what was measured, why: `apart`."""
    nothing = {"predicted_ms": None, "predicted_speedup": None, "predicted_error": None, "apart": ""}
    if answer.get("device", {"kind": "cpu"})["kind"] != "cpu":  # older timings have none: they are all of a processor
        return nothing | {"apart": not_faster(answer)}
    if not profile or answer["engine"] != "torch":
        return nothing
    path, setting = apart.path_of(answer, mask, profile, heads), Batch(answer["batch"], answer["length"])
    speedup = apart.foretold(answer, mask, profile, heads)
    return {"predicted_ms": profile.path_ms(path, mask, setting, heads) if path else None,
            "predicted_speedup": speedup, "predicted_error": profile.paths[path].error if path else None,
            "apart": apart.why(answer, speedup, profile, mask.layout)}


def not_faster(answer: dict) -> str:
    """Of a measurement on a GPU, that pruning has not made it faster there, and why; '' where it has."""
    if answer["speedup_over_best"] > 1.02:
        return ""
    matrices = answer["executed"]["matrices"]
    whole, count = matrices.get("dense torch", 0), sum(matrices.values())
    told = [f"{kind} slower for {counts['slower']} of them" for kind, counts in answer["executed"]["tried"].items()]
    told += [f"strips not tried, as {answer['executed']['gather']}"] * bool(answer["executed"]["gather"])
    return (f"not faster on this device: compact {answer['compact_ms']:.2f} ms against {answer['best_rival']} "
            f"{answer['rivals_ms'][answer['best_rival']]:.2f} ms; {whole} of {count} matrices are multiplied whole, "
            f"as some strip keeps each of their columns{''.join(f', {one}' for one in told)}; cut heads, neurons and "
            "whole columns (block allx1) make them smaller")


def conditions() -> dict[str, float | None]:
    """When it is (`when`, seconds since 1970), and how many programs were at work over the last minute (`load`)."""
    return {"when": time.time(), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}


def usual_profile() -> Profile | None:
    """This machine's latency profile, else the first that was loaded or ships; None where there is none."""
    for path in profile_files.known(profile_files.own_file(machine(), os.cpu_count() or 1)):
        with contextlib.suppress(OSError, InputError):
            return profile_files.read(path)
    return None


def _own_profile(threads: int) -> Profile | None:
    """This machine's latency profile; None where it was never calibrated."""
    path = profile_files.own_file(machine(), threads)
    return profile_files.read(path) if path.exists() else None
