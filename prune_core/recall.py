"""What can be asked of a run afterwards: its weights, the exact dev score at any cut, a small copy to ship."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from prune_core import InputError, encoders, files, glue, runs
from prune_core.config import HUB_DATA
from prune_core.evaluate import dev_score, masked
from prune_core.masks import BlockMask, Norms, by_scope, mask_at, thresholds_for
from prune_core.runs import Run, RunError

PACKED_BYTES = 10_000_000
PACKED_STEPS = 1500


@dataclass(frozen=True)
class Cut:
    """A question to a run: which weights, cut where. Either `sparsity` or `threshold` is given."""

    run: Run
    sparsity: float | None
    threshold: float | Mapping[str, float] | None
    scope: str | None = None
    phase: str | None = None

    def resolved(self) -> tuple[str, str, BlockMask, dict[str, float]]:
        """(saved phase, scope, mask, thresholds by scope key). Raises InputError."""
        phase = self.phase or default_phase(self.run, self.sparsity)
        scope = self.scope or self.run.config.scope
        norms, layout = self.run.norms(self.run.saved(phase)), self.run.layout
        if self.sparsity is not None:
            thresholds = thresholds_for(norms, layout, self.sparsity, scope)
        elif isinstance(self.threshold, Mapping):
            thresholds = dict(self.threshold)
        else:
            thresholds = dict.fromkeys(by_scope(layout, scope), self.threshold)
        return phase, scope, mask_at(norms, layout, thresholds, scope), thresholds


def default_phase(run: Run, sparsity: float | None) -> str:
    """The most trained weights there are that are not already sparser than asked; the last ones if nothing was asked."""
    there = {p.stem for p in (run.path / "weights").glob("*.safetensors")}
    names = [s.saved for s in run.snapshots if s.saved in there
             and (sparsity is None or s.point["sparsity"] <= sparsity + 0.01 or s.saved == "dense")]
    if not names:
        run.weights_file("dense")  # raises, and says how to get them
        raise RunError(f"run {run.name!r} has no weights yet")
    order = {"dense": 0, "penalty": 1, "retrain": 2}
    ends = {s.saved: s.point["sparsity"] for s in run.snapshots if s.saved}
    return max(names, key=lambda name: (order[name.split("-")[0]], ends[name]))


def encoder_of(run: Run, phase: str, labels: int) -> encoders.Encoder:
    """The run's encoder with the weights of a saved phase. Raises RunError where they are not there or do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = run.weights_file(phase)
    encoder = encoders.load(run.config.model, labels, run.config.seed, run.config.train_embeddings)
    try:
        tensors = load_file(file)
        with torch.no_grad():
            for name, parameter in encoder.trainable().items():
                parameter.copy_(tensors[name])
    except (KeyError, RuntimeError, OSError, SafetensorError) as error:
        raise RunError(f"run {run.name!r}: weights {phase!r} do not fit {run.config.model!r}: {' '.join(str(error).split())[:160]}") from None
    if not all(torch.isfinite(p).all() for p in encoder.trainable().values()):
        raise RunError(f"run {run.name!r}: weights {phase!r} have NaN or infinite values")
    return encoder


def data_of(run: Run, source: str | None) -> glue.TaskData:
    """The data of a run's task: from `source`, else from where the run had it. Raises InputError, never the practice set instead."""
    if not run.is_glue and source in (None, "practice"):
        return glue.load(run.config.task, "practice")
    data = glue.load(run.config.task, source or run.data)
    if data.task.name != run.task:
        raise InputError(f"run {run.name!r} needs {run.task}, which is not at {source or run.data} now; give --data FOLDER "
                         "in the layout of nyu-mll/glue")
    return data


def evaluate(cut: Cut, source: str | None = None, threads: int = 0) -> dict:
    """The exact dev score of a cut, on the run's dev examples, fp32. What `evaluate --json` prints."""
    run, (phase, scope, mask, thresholds) = cut.run, cut.resolved()
    run.weights_file(phase)  # before the data is asked for: the nearer reason first
    data = data_of(run, source).limited(None, run.config.dev_examples)
    torch.set_num_threads(threads or run.config.threads)
    encoder = encoder_of(run, phase, data.task.outputs)
    length = encoder.max_length(run.config.max_length)
    encoded = {split: glue.encode(examples, encoder.tokenizer, length) for split, examples in data.dev.items()}
    start = time.perf_counter()
    with masked(encoder.weights, mask):
        found = dev_score(encoder.model, data.task, encoded)
    single = next(iter(thresholds.values())) if len(set(thresholds.values())) == 1 else thresholds
    return {"run": run.name, "phase": phase, "scope": scope, "data": run.data, "sparsity": mask.sparsity, "threshold": single,
            "compression_encoder": mask.compression_encoder, "compression_model": mask.compression_model, "metric": run.metric,
            "score": found.scores[run.metric], "low": found.low, "high": found.high, "scores": dict(found.scores),
            "examples": found.examples, "seconds": time.perf_counter() - start}


# ---------------------------------------------------------------- packing


def pack(run: Run, name: str, weights: list[str], data_name: str) -> dict:
    """A read-only copy in data/recorded: norms as integers, fewer moments in between, no logs. Raises RunError.

    Ends of phases get 16 bits per norm, moments in between 8; zero stays zero and nothing else becomes
    zero. Where the weights ship too, norms stay float32, so that every recorded score is found again to
    the last digit. As many moments as fit are kept, evenly chosen.
    """
    runs.check_name(name)
    if run.result is None:
        raise RunError(f"run {run.name!r} is not complete; resume it first")
    for saved in weights:
        run.weights_file(saved)
    to = runs.RECORDED / name
    staged = to.with_name(f".{name}")
    shutil.rmtree(staged, ignore_errors=True)
    (staged / "norms").mkdir(parents=True)
    (staged / "weights").mkdir()
    kept = _norms_to_keep(run)
    _pack_lines(run, staged, kept, weights)
    config = replace(run.config, data=data_name)
    command = re.sub(r" --data \S+", "" if data_name == HUB_DATA else f" --data {data_name}", run.command())
    about = run.about | {"name": name, "config": config.to_json(), "data": data_name, "command": command}
    files.write_whole(staged / "run.json", (json.dumps(about, indent=1) + "\n").encode())
    files.write_whole(staged / "result.json", (json.dumps(run.result | {"run": name, "data": data_name}, indent=1) + "\n").encode())
    for saved in weights:
        shutil.copyfile(run.weights_file(saved), staged / "weights" / f"{saved}.safetensors")
    if to.exists():
        shutil.rmtree(to)
    staged.rename(to)
    size = sum(p.stat().st_size for p in to.rglob("*") if p.is_file())
    return {"run": name, "path": str(to.relative_to(runs.ROOT.parent)), "bytes": size, "snapshots_with_norms": len(kept)}


def _norms_to_keep(run: Run) -> list[int]:
    """Positions of the snapshots whose norms ship: all ends of phases, and in between as many as fit."""
    groups = sum(run.layout.block.grid(m.m, m.n)[0] * run.layout.block.grid(m.m, m.n)[1] for m in run.layout.matrices)
    ends = [at for at in run.with_norms if run.snapshots[at].saved]
    between = [at for at in run.with_norms if not run.snapshots[at].saved]
    room = _room(groups, len(ends))
    if room < 2:  # small blocks: ends of retraining differ little from the ends of the penalty
        ends = [at for at in ends if not run.snapshots[at].saved.startswith("retrain")]
        room = _room(groups, len(ends))
    count = max(0, min(len(between), int(room)))
    chosen = {between[round(i)] for i in np.linspace(0, len(between) - 1, count)} if count else set()
    return sorted({*ends, *chosen})


def _room(groups: int, ends: int) -> float:
    """How many 8-bit moments fit beside so many 16-bit ends; half a megabyte is for the log and the headers."""
    return (0.96 * PACKED_BYTES - 500_000 - 2 * groups * ends) / (groups + 10_000)


def _pack_lines(run: Run, staged: Path, kept: list[int], exact: list[str]) -> None:
    """progress.jsonl with about PACKED_STEPS plain steps and without the norms that do not ship, and the norms that do."""
    from safetensors.numpy import save

    stride = max(1, len(run.lines) // PACKED_STEPS)
    with open(staged / "progress.jsonl", "wb") as file:
        for at, line in enumerate(run.lines):
            if at % stride and not {"saved", "scores", "norms"} & line.keys():
                continue
            line = {key: value for key, value in line.items() if key != "norms"} | ({"norms": True} if at in kept else {})
            file.write(files.sealed(line))
            if at in kept:
                saved, norms = line.get("saved"), run.norms(at)
                tensors = norms if saved in exact else packed(norms, np.uint16 if saved else np.uint8)
                files.write_whole(staged / "norms" / f"{line['i']:06d}.safetensors", save(tensors))


def packed(norms: Norms, dtype: type) -> dict[str, np.ndarray]:
    """Norms as integers of `dtype` times one float32 scale per matrix; only zero becomes 0."""
    tensors = {}
    for name, values in norms.items():
        top = np.iinfo(dtype).max
        scale = np.float32(max(float(values.max()), 1e-30) / top)
        tensors[name] = np.where(values > 0, np.clip(np.round(values / scale), 1, top), 0).astype(dtype)
        tensors[f"{name}.scale"] = np.array([scale], np.float32)
    return tensors
