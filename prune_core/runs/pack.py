"""The small read-only copy of a run that ships with the project."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from prune_core import files
from prune_core.cutting.masks import Norms
from prune_core.files import PROJECT
from prune_core.runs import places
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.tasks.glue import HUB_DATA

PACKED_BYTES = 10_000_000
PACKED_STEPS = 1500


def pack(run: Run, name: str, weights: list[str], data_name: str, write_weights: Callable[[Run, str, Path], object],
         write_checkpoint: Callable[[Path], object] | None = None) -> dict:
    """A read-only copy in data/recorded: norms as integers, fewer snapshots in between, no logs. Raises RunError.

    `write_weights` makes the file of a stage's weights (evaluation/weights.py); `write_checkpoint` fills a folder with
    what they need of a checkpoint that is not embedded.

    Stages get 16 bits per norm, snapshots in between 8; zero stays zero and nothing else becomes zero.
    Where the weights ship too, norms stay float32, so that every recorded score is found again to the
    last digit. As many snapshots as fit are kept, evenly chosen.
    """
    places.check_name(name)
    if run.result is None:
        raise RunError(f"run {run.name!r} is not complete; resume it first")
    for saved in weights:
        run.weights_file(saved)
    to = places.RECORDED / name
    staged = to.with_name(f".{name}")
    shutil.rmtree(staged, ignore_errors=True)
    (staged / "norms").mkdir(parents=True)
    (staged / "weights").mkdir()
    kept = _norms_to_keep(run)
    _pack_lines(run, staged, kept, weights)
    config = replace(run.config, data=data_name)
    command = re.sub(r" --data[ =]\S+", "" if data_name == HUB_DATA else f" --data {data_name}", run.command())
    command = re.sub(r" --runs-dir[ =]\S+", "", command)  # a path of this machine
    about = run.about | {"name": name, "config": config.to_json(), "data": data_name, "command": command}
    files.write_whole(staged / "run.json", (json.dumps(about, indent=1) + "\n").encode())
    result = run.result | {"run": name, "data": data_name}
    files.write_whole(staged / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    _pack_weights(run, staged, weights, write_weights)
    if weights and write_checkpoint:
        write_checkpoint(staged / "checkpoint")
    if to.exists():
        shutil.rmtree(to)
    staged.rename(to)
    size = sum(p.stat().st_size for p in to.rglob("*") if p.is_file())
    of_weights = sum(p.stat().st_size for p in (to / "weights").iterdir())
    return {"run": name, "path": str(to.relative_to(PROJECT)), "bytes": size, "weights_bytes": of_weights,
            "snapshots_with_norms": len(kept)}


def _pack_weights(run: Run, staged: Path, weights: list[str], write: Callable[[Run, str, Path], object]) -> None:
    """These stages' weights, and what was asked of them."""
    for saved in weights:
        write(run, saved, staged / "weights" / f"{saved}.safetensors")
        for ranking in run.rankings(saved)[1:]:
            shutil.copyfile(run.answers.ranking_path(saved, ranking), staged / f"{ranking}-{saved}.safetensors")
        for name in (f"sensitivity-{saved}.jsonl", f"surface-{saved}.jsonl"):
            if (run.path / name).exists():
                shutil.copyfile(run.path / name, staged / name)


def _norms_to_keep(run: Run) -> list[int]:
    """Positions of the snapshots whose norms ship: all stages, and in between as many as fit."""
    groups = sum(run.layout.block.grid(m.m, m.n)[0] * run.layout.block.grid(m.m, m.n)[1] for m in run.layout.matrices)
    ends = [at for at in run.with_norms if run.snapshots[at].saved]
    between = [at for at in run.with_norms if not run.snapshots[at].saved]
    room = _room(groups, len(ends))
    if room < 2:  # small blocks: ends of retraining differ little from the ends of the penalty
        ends = [at for at in ends if run.snapshots[at].saved.kind != "retrain"]
        room = _room(groups, len(ends))
    count = max(0, min(len(between), int(room)))
    chosen = {between[round(i)] for i in np.linspace(0, len(between) - 1, count)} if count else set()
    return sorted({*ends, *chosen})


def _room(groups: int, ends: int) -> float:
    """How many 8-bit snapshots fit beside so many 16-bit ones; half a megabyte is for the log and the headers."""
    return (0.96 * PACKED_BYTES - 500_000 - 2 * groups * ends) / (groups + 10_000)


def _pack_lines(run: Run, staged: Path, kept: list[int], exact: list[str]) -> None:
    """progress.jsonl with about PACKED_STEPS plain steps and without the norms that do not ship; the norms that do."""
    from safetensors.numpy import save

    stride = max(1, len(run.progress.lines) // PACKED_STEPS)
    with open(staged / "progress.jsonl", "wb") as file:
        for at, line in enumerate(run.progress.lines):
            if at % stride and not {"saved", "scores", "norms"} & line.keys():
                continue
            line = {key: value for key, value in line.items() if key != "norms"}
            line |= {"norms": True} if at in kept else {}
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
