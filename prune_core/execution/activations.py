"""Activations in 8 bits, imitated in fp32: what goes into a matrix becomes what its bytes would stand for.

    token     x = least + byte * step, from the least to the largest value of each token, as the int8 kernels have it
              (pass.hpp)
    tensor    x = (byte - zero) * step, from fixed ends with zero between them, beyond which is cut off
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prune_core.cutting.blocks import Layout
from prune_core.precision.formats import Formats

STEPS = 255  # from the least byte to the largest
SMALLEST = 1e-20  # range of a token


class Rounding:
    """Of what goes into one matrix or several: query, key and value are given the same, which is rounded once.

    `ends`: of a tensor, its least and largest; None: each token has its own.
    """

    def __init__(self, ends: tuple[float, float] | None = None):
        self._ends = ends
        self._given = self._made = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> the same, fp32."""
        if x is not self._given:
            made = per_token(x.float()) if self._ends is None else per_tensor(x.float(), *self._ends)
            self._given, self._made = x, made
        return self._made


def per_token(x: torch.Tensor) -> torch.Tensor:
    """(..., width) fp32, each token (the last axis) between its least and its largest value."""
    least, most = x.aminmax(dim=-1, keepdim=True)
    span = (most - least).clamp_min(SMALLEST)
    return (x - least).mul_(STEPS / span).round_().mul_(span * (1 / STEPS)).add_(least)


def per_tensor(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """(..., width) fp32 between `low` and `high`, at most and at least zero: which is a value of its own."""
    step = (high - low) / STEPS
    if step <= 0:
        return x
    zero = round(-low / step)
    return (x / step).round_().clamp_(-zero, STEPS - zero).mul_(step)


def roundings(formats: Formats, layout: Layout, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Rounding]:
    """Matrix name -> how its inputs are rounded; {} where they are not. Matrices of a layer with one range share it."""
    if not formats.activations:
        return {}
    shared: dict[tuple, Rounding] = {}
    ends = {m.name: ranges.get(m.name) if formats.activations == "tensor" else None for m in layout.matrices}
    return {m.name: shared.setdefault((m.layer, ends[m.name], m.n), Rounding(ends[m.name])) for m in layout.matrices
            if formats.activations == "token" or ends[m.name]}
