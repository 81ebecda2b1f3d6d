"""How long a run takes: counted before it starts, corrected by what it measures as it goes. Imports no torch.

One count for all who tell a time: the page before the start, the run's own status, the bar in a terminal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prune_core.cutting.answers import GRID
from prune_core.cutting.masks import sparsity_of
from prune_core.machine import machine
from prune_core.methods.rankings import RANKINGS
from prune_core.methods.table import METHODS
from prune_core.runs.config import PruneConfig
from prune_core.runs.schedule import NOMINAL_FLOPS, Schedule, plan, step_flops
from prune_core.runs.shelf import Listed
from prune_core.tasks import hub
from prune_core.tasks.glue import PRACTICE_TASK, TASKS, Task

MINILM_WEIGHTS = 10_616_832  # in the prunable matrices of the embedded checkpoint
LOADING = 15.0  # seconds before the first step: libraries, model, data
SURGERY = 150.0  # seconds for the embedded checkpoint, two cores: choosing the groups in closed form, and repair
WEIGHED = 1024  # training sentences whose inputs are weighed, as training/importance.py does
STEP = 0.04  # seconds of a training step beside its products: optimizer, embeddings (0.04 to 0.05 in the recorded runs)
ROUNDING = 0.06  # seconds of a step of the embedded checkpoint that rounding its weights adds: a pass over them, on one
# core 0.06 by ste and 0.08 by lsq, 0.3 by clusters
FORWARD = 1 / 3  # of a training step's products
LETTERS = 4.4  # of a token, over the GLUE tasks (3.9 to 4.9); two tokens of each example are marks
TIMES = ("per_step", "per_scored", "asking", "cutting")


@dataclass(frozen=True)
class Size:
    """What a run works on: examples of train and of each dev split (the headline one first), their mean tokens, and
    the weights in the prunable matrices."""

    train: int
    tokens: float
    dev: tuple[int, ...]
    dev_tokens: float
    weights: int = MINILM_WEIGHTS


@dataclass(frozen=True)
class Work:
    """All that a run does, in seconds on two idle cores (NOMINAL_FLOPS, STEP): of a step, of a scored sentence.

    What comes once: `asking`, the teacher's answers; `cutting`, weighing the inputs, or choosing in closed form.
    """

    plan: Schedule
    per_step: float
    scored: int  # sentences
    per_scored: float
    asking: float
    cutting: float

    @property
    def seconds(self) -> float:
        """From the first step to the end."""
        return self.plan.steps * self.per_step + self.scored * self.per_scored + self.asking + self.cutting

    def at(self, step_seconds: float) -> Work:
        """The same on a machine where a training step takes so long."""
        times = {name: getattr(self, name) * step_seconds / self.per_step for name in TIMES}
        return replace(self, **times)


def work(config: PruneConfig, size: Size) -> Work:
    """What a run of this config does on so much data."""
    planned = plan(config, size.train, size.tokens, size.weights)
    products = step_flops(config, size.tokens, size.weights) / NOMINAL_FLOPS
    per_sentence = FORWARD * products / config.batch_size
    later = (planned.steps - planned.dense) * config.batch_size
    asking = per_sentence * min(min(size.train, config.train_examples or size.train), later) if config.taught else 0.0
    cutting = 2 * WEIGHED * per_sentence  # each product of inputs costs about what the pass itself does
    if METHODS[config.method].closed_form:
        cutting += SURGERY * (size.weights / MINILM_WEIGHTS) ** (5 / 3)  # width^5, where depth grows with width
    elif not RANKINGS[config.ranking].build:
        cutting = 0.0
    rounded = planned.retrain * len(config.compressions) + planned.penalty * METHODS[config.method].quantizes
    rounding = ROUNDING * (size.weights / MINILM_WEIGHTS) * (rounded / max(1, planned.steps))
    rounding *= any(one.kind != "float" for one in config.formats.weights)
    return Work(planned, products + STEP + rounding, _scored(config, planned, size),
                per_sentence * min(size.dev_tokens, config.max_length) / min(size.tokens, config.max_length),
                asking, cutting)


def _scored(config: PruneConfig, planned: Schedule, size: Size) -> int:
    """Sentences that are scored: for surfaces (equal masks once), at the ends in full, and in between."""
    dev = [min(count, config.dev_examples or count) for count in size.dev]
    small = min(size.dev[0], config.surface_examples or size.dev[0])
    surfaces = len(GRID) + 2 * sum(1 + len([s for s in GRID if s > sparsity_of(c)]) for c in config.compressions)
    between = 3 * (planned.dense > 0) + (config.moments + config.milestones) * (planned.penalty > 0)
    return small * (surfaces + between) + sum(dev) * (1 + 2 * len(config.compressions))


def size_of(config: PruneConfig) -> Size | None:
    """The size of a GLUE task or the practice set for this config, before anything is read; None: not known."""
    task = PRACTICE_TASK if config.data == "practice" else TASKS.get(config.task)
    weights = weights_of(config.model, config.revision)
    if task is None or task.mean_tokens is None or weights is None:
        return None
    train, *dev = (_rows(config.data, task, split) for split in ("train", *task.dev))
    return Size(train or task.train_examples, task.mean_tokens, tuple(dev) if all(dev) else task.dev_examples,
                task.dev_tokens or task.mean_tokens, weights)


def size_of_table(config: PruneConfig, rows: int, characters: float) -> Size | None:
    """The size of a table of so many rows with so many characters each: every fifth row is for scoring."""
    weights = weights_of(config.model, config.revision)
    tokens = min(config.max_length, 2 + characters / LETTERS)
    return weights and Size(rows - rows // 5, tokens, (max(1, rows // 5),), tokens, weights)


def _rows(data: str, task: Task, split: str) -> int:
    """Examples in a folder's parquet files of this split; 0 where there are none such."""
    folder = Path(os.path.expanduser(data)) / task.name
    if data == "practice" or not folder.is_dir():
        return 0
    from pyarrow import ArrowException, parquet

    try:
        return sum(parquet.read_metadata(path).num_rows for path in folder.glob(f"{split}-*.parquet"))
    except (ArrowException, OSError):
        return 0


def weights_of(model: str, revision: str | None = None) -> int | None:
    """Weights in the prunable matrices, by the config.json of a folder or of a hub name that is at hand; else None."""
    if model == "minilm":
        return MINILM_WEIGHTS
    folder = Path(os.path.expanduser(model))
    try:
        if not folder.is_dir():
            kept = hub.cached("model", model, revision, partial(_has, "config.json"))
            if kept is None:
                return None
            folder = kept.folder
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        width, layers, inner = [[int(said[name]) for name in names if name in said][0] for names in (
            ("hidden_size", "dim"), ("num_hidden_layers", "n_layers"), ("intermediate_size", "hidden_dim"))]
    except (OSError, ValueError, TypeError, IndexError):
        return None
    return layers * (4 * width * width + 2 * width * inner) or None


def _has(file: str, folder: Path) -> bool:
    return (folder / file).exists()


def measured(config: PruneConfig, task: str, listed: Iterable[Listed]) -> tuple[float, str] | None:
    """(seconds a step, run) of the newest complete run of this model, task, batch and threads on this machine."""
    this = machine()
    for run in (entry.run for entry in listed):
        its = run.about.get("machine", {}) if run else {}
        if run is None or run.status != "complete" or not all(its.get(key) == this[key] for key in ("cpu", "cores")):
            continue
        same = (run.config.model, run.task, run.config.batch_size, run.config.threads) == (
            config.model, task, config.batch_size, config.threads)
        if same and (run.result or {}).get("seconds_per_step"):
            return run.result["seconds_per_step"], run.name
    return None
