"""What a run is made of, when it begins and when it goes on: encoder, weights, precision; the same in all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from prune_core import InputError
from prune_core.evaluation import weights
from prune_core.models import devices, encoders, stored
from prune_core.models.encoders import Encoder
from prune_core.runs import places, shelf
from prune_core.runs.config import PruneConfig, rooted
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.stages import DENSE
from prune_core.tasks.glue import Task
from prune_core.training.data import EncodedTask
from prune_core.training.loop import Pruning
from prune_core.training.placement import Placement
from prune_core.training.step import faster_precision


@dataclass(frozen=True)
class Told:
    """What the first of several processes says to the others: what is trained, on which data, and where it lies."""

    config: PruneConfig
    source: str  # of the data
    folder: Path  # of the runs
    run: str | None = None  # that is taken up; None: one begins
    trained: bool = False  # and whether it has a checkpoint


def pruning_of(encoder: Encoder, sentences: EncodedTask, config: PruneConfig, path: Path | None,
             placed: Placement) -> Pruning:
    """The loop, on the device of this process, with weights that are the same in all of them."""
    devices.repeatable(placed.device)
    encoder.model.to(placed.device)
    pruning = Pruning(encoder, sentences, config, weights_of(path), placed)
    pruning.same_()
    return pruning


def precision_of(asked: str, device: torch.device) -> str:
    """The precision that is trained in. Raises InputError where the device has none such."""
    if asked == "bf16" and not devices.has_bf16(device):
        raise InputError(f"precision 'bf16' on {devices.describe(device)['name']}, which only emulates it; needed: "
                         "fp32, or auto")
    return faster_precision(device=device) if asked == "auto" else asked


def encoder_for(config: PruneConfig, task: Task, runs_dir: Path) -> Encoder:
    """The checkpoint with a fresh head, or fine-tuned as the run `start_from` left it. Raises InputError."""
    if not config.start_from:
        return encoders.load(config.model, task.outputs, config.seed, config.train_embeddings, task.labels,
                             config.revision)
    run = shelf.find(config.start_from, runs_dir)
    if (rooted(run.config).model, run.task) != (config.model, task.name):
        raise InputError(f"run {run.name!r} has {run.config.model} on {run.task}; needed to start from: "
                         f"{config.model} on {task.name}")
    if run.labels != list(task.labels):
        raise InputError(f"run {run.name!r} has {', '.join(run.labels[:6]) or 'a score'} for labels; needed to start "
                         f"from: {', '.join(task.labels[:6]) or 'a score'}")
    if config.revision not in (None, run.config.revision, there := weights.revision_of(run)):
        raise InputError(f"run {run.name!r} has {config.model} at {there or 'no revision'}; needed to start from: "
                         f"{config.revision}")
    encoder = weights.encoder_of(run, DENSE, task.outputs)
    encoder.embeddings.requires_grad_(config.train_embeddings)
    return encoder


def weights_of(path: Path) -> Callable[[str], Mapping]:
    """Name of a saved phase -> its tensors, read back from the run directory.

    Raises RunError where they are damaged.
    """
    from safetensors import SafetensorError

    def read(name: str) -> Mapping:
        try:
            return stored.read(path / "weights" / f"{name}.safetensors", Run(path).layout)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise RunError(f"run {path.name!r}: weights {name!r} cannot be read: {places.one_line(error)}; what was "
                           "recorded is kept, but the run cannot go on; begin it anew with: "
                           f"{Run(path).command()}") from None

    return read


def device_of(run: Run) -> str:
    """The kind of device that a run began on, by name. Raises RunError where this machine has none such."""
    before = run.about.get("device") or {}
    kind = before.get("kind", "cpu")
    if not any(one.startswith(kind) for one in devices.there()):
        raise RunError(f"run {run.name!r} began on {before.get('name', kind)} ({kind}), which is not here; needed: "
                       f"that, or --device {devices.there()[-1]} to go on there, where bits may differ")
    return kind


def processes_of(run: Run) -> int:
    """The number of processes that a run began in."""
    return int((run.about.get("device") or {}).get("processes", 1))


def said_elsewhere(run: Run, placed: Placement) -> str:
    """What to say where a run goes on otherwise than it began: on another kind of device, in another number of
    processes; '' where it does not."""
    before = run.about.get("device") or {"kind": "cpu", "processes": 1}  # of before it was recorded
    now = placed.to_json()
    told = []
    if before.get("kind") != now["kind"]:
        told.append(f"on {now['kind']}, not on {before.get('kind')} as before")
    elif now["kind"] != "cpu" and before.get("name") != now["name"]:
        told.append(f"on {now['name']}, not on {before.get('name')} as before")
    if (processes := before.get("processes", 1)) != now["processes"]:
        told.append(f"in {now['processes']} processes, not in {processes} as before")
    return f"{' and '.join(told)}: bits may differ from those of a run that was never stopped" if told else ""
