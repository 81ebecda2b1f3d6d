"""The dev score of a model, exact, in the arithmetic that the model runs in. At once, or as it comes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import nn

from prune_core.cutting.masks import BlockMask
from prune_core.models import devices
from prune_core.tasks import encoding, metrics
from prune_core.tasks.encoding import Encoded
from prune_core.tasks.glue import Task

BATCH = 64
FIRST = 32  # examples behind the first running score; every further one has twice as many
TOKENS = 4096  # of one forward pass, where a running score is taken


class Placed(Protocol):
    """One of several processes, as training/placement.py has it."""

    def share(self, parts: Sequence) -> Sequence:
        """Those of this process."""

    def whole(self, parts: Sequence) -> list:
        """Those of all processes, in their order."""


@dataclass(frozen=True)
class DevScore:
    """Every metric of the task, the headline one with its 95% interval, and how many examples stand behind it.

    `changed`: of a score in another arithmetic than fp32, what that changes of the answers, once it was counted.
    """

    scores: Mapping[str, float]
    low: float
    high: float
    examples: int
    changed: Mapping[str, float | int | None] | None = None


@torch.inference_mode()
def outputs(model: nn.Module, data: Encoded, placed: Placed | None = None) -> np.ndarray:
    """(examples, classes) outputs of the head, in the order of the data, as float32.

    `placed`: one of several processes that have this model; each asks it for its share of the batches.
    """
    was_training = model.training
    model.eval()
    logits, device = np.empty((len(data), model.config.num_labels), np.float32), devices.of(model)
    batches = encoding.dev_batches(data.lengths, BATCH)
    mine = placed.share(batches) if placed else batches
    given = [model(**data.batch(at, device)[0]).logits.float() for at in mine]
    parts = np.split(torch.cat(given).cpu().numpy(), np.cumsum([len(at) for at in mine[:-1]])) if mine else []
    for at, part in zip(batches, placed.whole(parts) if placed else parts, strict=True):
        logits[at] = part
    model.train(was_training)
    return logits


def dev_score(model: nn.Module, task: Task, dev: Mapping[str, Encoded], placed: Placed | None = None) -> DevScore:
    """Score on every dev split; with two (MNLI) metrics are named _matched and _mismatched. `placed` as `outputs`."""
    return _score(task, dev, {split: outputs(model, data, placed) for split, data in dev.items()})


def _score(task: Task, dev: Mapping[str, Encoded], answers: Mapping[str, np.ndarray]) -> DevScore:
    """`answers`: split -> (examples, classes)."""
    scores: dict[str, float] = {}
    for split, data in dev.items():
        ending = split.removeprefix("validation") if len(task.dev) > 1 else ""
        scores |= {metric + ending: value for metric, value in metrics.score(task, answers[split], data.labels).items()}
    main = task.dev[0]
    return DevScore(scores, *metrics.interval(task, answers[main], dev[main].labels), sum(map(len, dev.values())))


@dataclass(frozen=True)
class Running:
    """The headline score of the examples seen so far, a random part of the main dev split, with its 95% interval."""

    done: int
    total: int  # of all dev splits
    score: float
    low: float
    high: float
    final: DevScore | None = None  # on the last one
    answers: Mapping[str, np.ndarray] | None = None  # likewise: split -> (examples, outputs); None where it was known


def stream(model: nn.Module, task: Task, dev: Mapping[str, Encoded]) -> Iterator[Running]:
    """The dev score as it comes in: a running score after each batch, the whole `DevScore` with the last.

    The order is random (the same every time), so that the first scores are fair ones. Stop by not asking on.
    """
    total, answers, running = sum(map(len, dev.values())), {}, None
    for split, data in dev.items():
        order = np.random.default_rng(0).permutation(len(data))
        logits = answers[split] = np.empty((len(data), model.config.num_labels), np.float32)
        done = 0
        for at in _growing(data.lengths, order):
            logits[at] = _forward(model, data, at)
            done += len(at)
            if split == task.dev[0]:
                seen = order[:done]
                score = metrics.score(task, logits[seen], data.labels[seen])[task.metrics[0]]
                running = Running(done, total, score, *metrics.interval(task, logits[seen], data.labels[seen]))
                if done < len(data) or len(dev) > 1:
                    yield running
    yield replace(running, done=total, final=_score(task, dev, answers), answers=answers)


def _growing(lengths: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """`order` in batches of FIRST examples, twice that, ..., of at most TOKENS tokens; shortest first inside one."""
    start, count = 0, FIRST
    while start < len(order):
        room = int(np.searchsorted(np.cumsum(lengths[order[start:]]), TOKENS))
        end = start + max(1, min(count, room))
        yield order[start:end][np.argsort(lengths[order[start:end]], kind="stable")]
        start, count = end, 2 * count


@torch.inference_mode()
def _forward(model: nn.Module, data: Encoded, at: np.ndarray) -> np.ndarray:
    return model(**data.batch(at, devices.of(model))[0]).logits.float().cpu().numpy()


@contextlib.contextmanager
def masked(weights: Mapping[str, torch.Tensor], mask: BlockMask) -> Iterator[None]:
    """Inside, the groups that `mask` cuts are zero; afterwards the weights are what they were, bit for bit."""
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        apply_mask_(weights, mask)
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


@torch.no_grad()
def apply_mask_(weights: Mapping[str, torch.Tensor], mask: BlockMask) -> None:
    """Zero the groups that `mask` cuts: weights name -> (m, n), in place."""
    scale_groups_(weights, kept_groups(weights, mask), mask)


def kept_groups(weights: Mapping[str, torch.Tensor], mask: BlockMask) -> dict[str, torch.Tensor]:
    """Matrix name -> (groups down, groups across), 1 for kept, where and of what kind the weights are."""
    return {name: torch.from_numpy(mask.kept[name]).to(weight.device, weight.dtype) for name, weight in weights.items()}


@torch.no_grad()
def scale_groups_(weights: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], mask: BlockMask) -> None:
    """Multiply every group by what `kept_groups` says, in place."""
    for name, weight in weights.items():
        mask.layout.block.scale_(weight, kept[name])
