"""Activations in 8 bits where the kernels take floats: what goes into a matrix becomes what its bytes stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prune_core.cutting.blocks import Layout
from prune_core.methods.activations import by_tensor, by_token
from prune_core.precision.formats import Formats


class Rounding:
    """Of what goes into one matrix or several: query, key and value are given the same, which is rounded once.

    `ends`: of a tensor, its least and largest; None: each token has its own.
    """

    def __init__(self, ends: tuple[float, float] | None = None):
        self._ends = ends
        self._given = self._made = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> the same."""
        if x is not self._given:
            self._given, self._made = x, by_token(x) if self._ends is None else by_tensor(x, *self._ends)
        return self._made


def roundings(formats: Formats, layout: Layout, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Rounding]:
    """Matrix name -> how its inputs are rounded; {} where they are not. Matrices of a layer with one range share it.

    `ranges`: of what has one scale for a tensor; what is not among them is left as it is.
    """
    if not formats.activations:
        return {}
    shared: dict[tuple, Rounding] = {}
    ends = {m.name: ranges.get(m.name) if formats.activations == "tensor" else None for m in layout.matrices}
    return {m.name: shared.setdefault((m.layer, ends[m.name], m.n), Rounding(ends[m.name])) for m in layout.matrices
            if formats.activations == "token" or ends[m.name]}
