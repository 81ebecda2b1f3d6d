"""What norms count in training, beside what they are: from the inputs and gradients of the dense model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from prune_core.cutting.blocks import Layout
from prune_core.methods import repair
from prune_core.methods.rankings import RANKINGS, SENTENCES
from prune_core.methods.repair import Gram
from prune_core.models import devices
from prune_core.models.encoders import Encoder
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded

WEIGHED = 1024  # training sentences whose inputs are weighed


def measured(encoder: Encoder, train: Encoded, seed: int) -> tuple[dict[str, Gram], Encoded, np.ndarray]:
    """(Gram matrices of the encoder as it is, `train`, the sentences of it behind them, which the seed draws)."""
    some = np.random.default_rng(seed).permutation(len(train))[:WEIGHED]
    batches = [some[at] for at in encoding.dev_batches(train.lengths[some], 64)]
    device = devices.of(encoder.model)
    return repair.collect(encoder.model, encoder.linears, (train.batch(at, device)[0] for at in batches)), train, some


def importance(ranking: str, encoder: Encoder, layout: Layout, dense: Mapping[str, torch.Tensor], train: Encoded,
               seed: int) -> dict[str, torch.Tensor]:
    """Matrix name -> (groups down, groups across): what a group's norm counts under this ranking, mean 1.

    Seen with the `dense` weights in the encoder, which has its own again afterwards.
    """
    now = encoder.copies()
    encoder.load_(dense)
    grams, _, some = measured(encoder, train, seed)
    factors = RANKINGS[ranking].build(grams, train, some[:SENTENCES]).factors(encoder, layout)
    encoder.load_(now)
    mean = float(torch.cat([values.flatten() for values in factors.values()]).mean())
    return {name: values / mean for name, values in factors.items()}
