"""The dev score of a model, exact, in fp32: the same on every machine up to rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from prune_core import glue
from prune_core.masks import BlockMask

BATCH = 64


@dataclass(frozen=True)
class Score:
    """Every metric of the task, the headline one with its 95% interval, and how many examples stand behind it."""

    scores: Mapping[str, float]
    low: float
    high: float
    examples: int


@torch.inference_mode()
def outputs(model: nn.Module, data: glue.Encoded) -> np.ndarray:
    """(examples, classes) outputs of the head, in the order of the data, fp32."""
    was_training = model.training
    model.eval()
    found = np.empty((len(data), model.config.num_labels), np.float32)
    for at in glue.dev_batches(data.lengths, BATCH):
        found[at] = model(**data.batch(at)[0]).logits.float().numpy()
    model.train(was_training)
    return found


def dev_score(model: nn.Module, task: glue.Task, dev: Mapping[str, glue.Encoded]) -> Score:
    """Score on every dev split; with two (MNLI) metrics are named _matched and _mismatched."""
    scores: dict[str, float] = {}
    for split, data in dev.items():
        found = outputs(model, data)
        ending = split.removeprefix("validation") if len(task.dev) > 1 else ""
        scores |= {metric + ending: value for metric, value in glue.score(task, found, data.labels).items()}
        if split == task.dev[0]:
            low, high = glue.interval(task, found, data.labels)
    return Score(scores, low, high, sum(map(len, dev.values())))


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
    for name, weight in weights.items():
        mask.layout.block.scale_(weight, torch.from_numpy(mask.kept[name]).to(weight.dtype))
