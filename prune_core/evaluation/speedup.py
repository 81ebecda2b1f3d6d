"""Times the dense and the compact model of a cut, here, beside what the latency profile predicts."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from prune_core import InputError, files
from prune_core.cutting.cuts import Cut
from prune_core.evaluation.weights import checkpoint_of, encoder_of
from prune_core.execution import timing
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch, Profile
from prune_core.machine import machine
from prune_core.models.encoders import heads_of
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting


def measure(run: Run, stage: str, cut: Cut, batch: Batch, threads: int = 0, dtype: str = "fp32", seconds: float = 3.0,
            profile: Path | None = None, engine: str = "torch") -> dict:
    """Time the dense and the compact model of a cut of a stage. What `measure --json` prints. Raises InputError.

    Works for runs whose weights are not there: a latency does not depend on values, only on what is kept.
    """
    threads = threads or os.cpu_count() or 1
    before = conditions()
    priced = profile_files.read(profile) if profile else _own_profile(threads)
    mask = cut.mask(run.ranking(stage, cut.ranking), run.layout)
    there = (run.path / "weights" / f"{stage}.safetensors").exists()
    encoder = (encoder_of(run, stage, run.outputs) if there
               else checkpoint_of(run, run.outputs))
    model = encoder.model
    timed = timing.measure(model, mask, batch, threads, dtype, seconds, engine)
    heads = heads_of(model, mask.layout.matrices)
    predicted = priced.compact_ms(mask, batch, heads) if priced and (dtype, engine) == ("fp32", "torch") else None
    instead = "of the checkpoint: those of the run do not ship; a latency does not depend on them"
    answer = {"run": run.name, "phase": str(stage), "scope": cut.scope, "mask": mask.digest(),
              "weights": "of the run" if there else instead, **timed, **before, "predicted_ms": predicted,
              "predicted_speedup": priced.speedup(mask, batch, heads) if predicted else None,
              "predicted_error": priced.error if predicted else None}
    with contextlib.suppress(OSError):  # kept for whoever asks again; where nothing can be written it is only told
        files.append_sealed(run.answers.timings_file, answer)
    return answer


def measure_in_turn(run: Run, settings: Sequence[Setting], batch: Batch, threads: int = 0) -> list[dict]:
    """Time the dense model and the compact one of each setting in turn, so that the speedups can be compared.

    One answer for each, with what `measure` says of one cut, but for layers and predictions. Raises InputError.
    """
    threads, before = threads or os.cpu_count() or 1, conditions()
    masks = [setting.mask(run) for setting in settings]
    there = next((stage for stage in run.stages if run.has_weights(stage)), None)
    model = (encoder_of(run, there, run.outputs) if there else checkpoint_of(run, run.outputs)).model
    dense, compact = timing.in_turn(model, masks, batch, threads)
    answers = []
    for setting, mask, small in zip(settings, masks, compact, strict=True):
        answer = {"run": run.name, "phase": str(run.snapshots[setting.at].saved or ""), "scope": setting.cut.scope,
                  "mask": mask.digest(), "dense_ms": dense.median, "compact_ms": small.median,
                  "speedup": dense.median / small.median, "dense_spread": [dense.low, dense.high],
                  "compact_spread": [small.low, small.high], "rounds": dense.runs, "sparsity": mask.sparsity,
                  "compression_encoder": mask.compression_encoder, "compression_model": mask.compression_model,
                  "batch": batch.batch, "length": batch.length, "threads": threads, "dtype": "fp32", "engine": "torch",
                  "machine": machine(), **before}
        answers.append(answer)
        with contextlib.suppress(OSError):
            files.append_sealed(run.answers.timings_file, answer)
    return answers


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
