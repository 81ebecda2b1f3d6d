"""Distillation: the run's own dense model as a teacher, in the penalty stage and in retraining.

    L = (1 - share) * L_task + share * T^2 * KL(teacher / T || student / T)
        + hidden * mean over layers of MSE(hidden states)

Hinton et al., arXiv 1503.02531; for regression the KL is a squared difference of outputs. The teacher never changes and
sees each sentence as it is, so its outputs are computed once for all training sentences that come up; hidden states
only step by step.
MixKD (Liang et al., arXiv 2011.00593) adds the same on sentences that are mixed in pairs at the embeddings.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from prune_core.models import devices
from prune_core.models.encoders import Encoder
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded

BATCH = 64
MIX = 0.4  # of the Beta distribution from which the mixing share is drawn


class Teacher:
    """Holds the dense model's outputs on the training set, and the model itself for what else is asked of it."""

    def __init__(self, encoder: Encoder, weights: Mapping[str, torch.Tensor], temperature: float):
        """`weights`: of the dense model, by the names of what is trainable. The encoder stays as it is."""
        now = encoder.copies()
        encoder.load_(weights)
        self.model = copy.deepcopy(encoder.model).eval().requires_grad_(False)
        encoder.load_(now)
        self.temperature, self.outputs = temperature, None

    def prepare(self, data: Encoded, rows: np.ndarray, bf16: bool) -> Iterator[tuple[int, int]]:
        """Compute `outputs` (examples, classes) on these rows of `data`, NaN elsewhere; yields (batches done, all)."""
        device = devices.of(self.model)
        outputs = torch.full((len(data), self.model.config.num_labels), torch.nan, device=device)
        batches = [rows[at] for at in encoding.dev_batches(data.lengths[rows], BATCH)]
        for done, at in enumerate(batches):
            if done % 10 == 0:
                yield done, len(batches)
            with torch.inference_mode(), devices.autocast(device, "bf16" if bf16 else "fp32"):
                logits = self.model(**data.batch(at, device)[0]).logits
                outputs[torch.as_tensor(at).to(device)] = logits.float()
        self.outputs = outputs

    def loss(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """() how far the student's outputs (batch, classes) are from the teacher's."""
        if student.shape[-1] == 1:
            return F.mse_loss(student.float(), teacher)
        t = self.temperature
        ours, wanted = F.log_softmax(student.float() / t, -1), F.log_softmax(teacher / t, -1)
        return t * t * F.kl_div(ours, wanted, log_target=True, reduction="batchmean")

    def at(self, rows: np.ndarray) -> torch.Tensor:
        """(batch, classes) outputs for these training examples."""
        return self.outputs[torch.as_tensor(rows).to(self.outputs.device)]

    @torch.no_grad()
    def hidden(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Per layer, (batch, length, width): the teacher's hidden states."""
        return self.model(**inputs, output_hidden_states=True).hidden_states


def hidden_loss(student: tuple[torch.Tensor, ...], teacher: tuple[torch.Tensor, ...],
                attention_mask: torch.Tensor) -> torch.Tensor:
    """() mean squared difference of all layers' hidden states, on the tokens that are no padding."""
    keep = attention_mask.bool()
    layers = zip(student[1:], teacher[1:], strict=True)
    return torch.stack([F.mse_loss(ours[keep].float(), wanted[keep].float()) for ours, wanted in layers]).mean()


def mixed(model: nn.Module, inputs: Mapping[str, torch.Tensor], share: float,
          others: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The batch with the word embeddings of each sentence mixed: share * own + (1 - share) * its neighbour's.

    `others`: the neighbours, as many and as long; None: those before in the batch.
    """
    words, mask = model.get_input_embeddings(), inputs["attention_mask"]
    embeddings = words(inputs["input_ids"])
    beside, covered = (embeddings.roll(1, 0), mask.roll(1, 0)) if others is None else (
        words(others["input_ids"]), others["attention_mask"])
    types = {name: value for name, value in inputs.items() if name == "token_type_ids"}
    return {"inputs_embeds": share * embeddings + (1 - share) * beside,
            "attention_mask": torch.maximum(mask, covered)} | types
