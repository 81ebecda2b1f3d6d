"""The compact model on a GPU: heads, neurons and columns that are gone make torch's own products smaller.

A product of what any strip keeps runs at the full speed of the device; walking strips, and sparse products of 2:4, do
not. So they are taken only matrix by matrix where they were timed there and are faster (`fastest_`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from prune_core.cutting.masks import BlockMask
from prune_core.execution import gather
from prune_core.execution.activations import Rounding
from prune_core.execution.alternate import alternate
from prune_core.execution.compact import CompactLinear, compact, shrunk
from prune_core.execution.gather import Strips
from prune_core.execution.paths import GAIN, Choice
from prune_core.models import devices
from prune_core.precision.formats import Pattern
from prune_core.precision.quantizers import keep_pattern

PATTERN = Pattern(2, 4)  # what sparse products of GPUs take


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


class TwoOfFour(nn.Module):
    """A product of which at most 2 of every 4 weights of a row are not zero, by torch's own sparse kernels."""

    executed = "2:4, torch"

    def __init__(self, dense: CompactLinear):
        super().__init__()
        self.sparse, self.bias, self.gelu = torch.sparse.to_sparse_semi_structured(dense.dense), dense.bias, dense.gelu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x.reshape(-1, x.shape[-1]), self.sparse, self.bias).view(*x.shape[:-1], -1)
        return F.gelu(y) if self.gelu else y


@torch.inference_mode()
def fastest_(small: nn.Module, model: nn.Module, mask: BlockMask, tokens: int) -> dict[str, dict[str, int]]:
    """Replace, in place, every product of `small` by what is faster here for so many tokens, each timed in turn.

    What else there is -> {taken: matrices, slower: matrices}. `small`: of `small_model`, of `model` under `mask`.
    """
    linears, biases, live, _ = shrunk(model, mask)
    device, tried = devices.of(model), {}
    for name, linear in linears.items():
        own = small.get_submodule(name)
        others = dict(_others(own, linear.weight, biases[name], mask, name, live))
        if not others or not own.out_features:
            continue
        x = torch.ones(tokens, own.in_features, device=device, dtype=own.dense.dtype)
        calls = {kind: (lambda one=one, x=x: one(x)) for kind, one in ({own.executed: own} | others).items()}
        times = alternate(calls, 0.0, least=9, clock=lambda call: devices.milliseconds(device, call))
        best = min(others, key=lambda kind: times[kind].median)
        faster = times[best].median < GAIN * times[own.executed].median
        for kind in others:
            counts = tried.setdefault(kind, {"taken": 0, "slower": 0})
            counts["taken" if faster and kind == best else "slower"] += 1
        if faster:
            parent, _, last = name.rpartition(".")
            setattr(small.get_submodule(parent), last, others[best])
            small.executed[name] = best
    return tried


def _others(own: CompactLinear, weight: torch.Tensor, bias: torch.Tensor, mask: BlockMask, name: str,
            live: Mapping) -> Iterator[tuple[str, nn.Module]]:
    """(kind, product) that could stand in the place of `own`."""
    if not gather.why_not():
        strips = Strips(weight.to(own.dense.dtype), bias, mask.kept[name], mask.layout.block, live[name], own.gelu)
        if strips.executed != "dense":
            yield strips.executed, strips
    if own.used is None and own.dense.dtype == torch.bfloat16 and _is_two_of_four(own.dense):
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):  # not this shape, not this device
            yield TwoOfFour.executed, TwoOfFour(own)


def _is_two_of_four(weight: torch.Tensor) -> bool:
    """Whether at most 2 of every 4 weights of a row are not zero."""
    if weight.shape[-1] % PATTERN.m:
        return False
    return not bool((weight * ~keep_pattern(abs(weight), PATTERN)).any())
