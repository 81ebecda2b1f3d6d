"""What is minimised on a batch: the task's loss, mixed with how far the answers are from the dense model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from prune_core.models import devices
from prune_core.models.encoders import Encoder
from prune_core.models.teacher import MIX, Teacher, hidden_loss, mixed
from prune_core.runs.config import PruneConfig
from prune_core.tasks.encoding import Encoded
from prune_core.training.placement import Placement


@dataclass(frozen=True)
class Losses:
    """Of one phase, by its `number` in the run, in this process."""

    encoder: Encoder
    train: Encoded
    config: PruneConfig
    number: int
    placed: Placement

    def of(self, teacher: Teacher | None, rows: np.ndarray, done: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(the task's loss, what is minimised: that mixed with the distance to the teacher), of a batch.

        In one of several processes its share of both: means over its rows, times the part of all rows that they are.
        `done`: steps of the phase before this one.
        """
        config, model, (mine, part) = self.config, self.encoder.model, self.placed.share_of(rows)
        inputs, labels = self.train.batch(mine, devices.of(model))
        out = model(**inputs, labels=labels, output_hidden_states=bool(teacher and config.distill_hidden))
        if teacher is None:
            return part * out.loss, part * out.loss
        whole = (1 - config.distill) * out.loss + config.distill * teacher.loss(out.logits, teacher.at(mine))
        whole = part * whole
        if config.distill_hidden:
            distance = hidden_loss(out.hidden_states, teacher.hidden(inputs), inputs["attention_mask"])
            whole = whole + config.distill_hidden * self._part_of_tokens(mine, rows, part) * distance
        if config.mixkd:
            share = float(np.random.default_rng([config.seed, self.number, done]).beta(MIX, MIX))
            own, others = self._pairs(inputs, rows)
            there = teacher.model(**mixed(teacher.model, own, share, others)).logits.float()
            whole = whole + part * teacher.loss(model(**mixed(model, own, share, others)).logits, there)
        return part * out.loss, whole

    def _part_of_tokens(self, mine: np.ndarray, rows: np.ndarray, part: float) -> float:
        """What part of a batch's tokens these rows have, whose part of the rows is `part`."""
        if part in (0.0, 1.0):
            return part
        tokens = [sum(len(self.train.inputs["input_ids"][at]) for at in some) for some in (mine, rows)]
        return tokens[0] / tokens[1]

    def _pairs(self, inputs: Mapping[str, torch.Tensor], rows: np.ndarray) -> tuple[Mapping, Mapping | None]:
        """(this process's sentences, of each its neighbour in the whole batch), equally long; None in one alone."""
        if self.placed.count == 1:
            return inputs, None
        mine, before = (self.placed.share_of(some)[0] for some in (rows, np.roll(rows, 1)))
        both, _ = self.train.batch(np.concatenate([mine, before]), inputs["input_ids"].device)
        return ({name: one[: len(mine)] for name, one in both.items()},
                {name: one[len(mine) :] for name, one in both.items()})
