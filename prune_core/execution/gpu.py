"""The compact model on a GPU: heads, neurons and columns that are gone make torch's own products smaller.

There single strips gain nothing that is not measured: a product of what any strip keeps runs at the full speed of the
device, and walking strips does not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from prune_core.cutting.masks import BlockMask
from prune_core.execution.activations import Rounding
from prune_core.execution.compact import CompactLinear, compact
from prune_core.execution.paths import Choice


@torch.no_grad()
def small_model(model: nn.Module, mask: BlockMask, choice: Choice,
                roundings: Mapping[str, Rounding] | None = None) -> nn.Module:
    """A copy of `model`, on its device, that executes only what `mask` keeps; `.executed`: matrix name -> what runs.

    In bf16 all of it is, as a dense model is timed. Shares what is not changed with `model`, which stays as it is.
    """
    small = compact(model, mask, kernels=False, roundings=roundings)
    if choice.dtype == "bf16":
        small = cast(small)
    small.choice = choice
    return small


def cast(model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """A copy of a model in another precision, its smaller products too."""
    made = copy.deepcopy(model).to(dtype)
    for one in made.modules():
        if isinstance(one, CompactLinear):
            one.dense, one.bias = one.dense.to(dtype), one.bias.to(dtype)
    return made.eval()
