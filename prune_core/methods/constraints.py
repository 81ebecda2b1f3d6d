"""What ADMM draws weights to: sets of weights, each with the projection onto it (the nearest member).

    Blocks    groups of the largest norm, at a share      Pattern   N of every M inputs of a row, the largest
    Levels    scale * whole number, the scale by rows     Clusters  values of a codebook, its centroids follow
    Chain     one after another; what is zero stays zero

Levels and centroids start from the last ones (warm), as in ADMM-NN, arXiv 1812.11677; centroids are the means of what
is nearest to them, found anew each time (joint updating), as arXiv 1811.01907 names it. `project` takes and gives
name -> (m, n), and leaves the matrices alone that it has nothing to say about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import scope_key, thresholds_for
from prune_core.precision import formats as number_formats
from prune_core.precision import quantizers
from prune_core.precision.formats import Format

Weights = Mapping[str, torch.Tensor]
ROUNDS = 5  # of alternating least squares, from the last scales


class Constraint(Protocol):
    """A set of weights."""

    def project(self, values: Weights) -> dict[str, torch.Tensor]:
        """The nearest weights that fulfil it. New tensors; `values` stay."""

    def at_(self, sparsity: float) -> None:
        """The share of groups that are to be zero from now on."""

    def weigh_(self, importance: Weights) -> None:
        """Let norms of groups count by what they are multiplied with."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold."""

    def restore_(self, tensors: Weights) -> None:
        """Undo of `tensors`."""


class _Still:
    """A constraint that has no share, no importance and nothing to keep."""

    def at_(self, sparsity: float) -> None:
        pass

    def weigh_(self, importance: Weights) -> None:
        pass

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def restore_(self, tensors: Weights) -> None:
        pass


class Blocks:
    """The share `sparsity` of every scope key's weights is zero, groups of the lowest norm first."""

    def __init__(self, layout: Layout, scope: str = "global", sparsity: float = 0.0):
        self.layout, self.scope, self.sparsity = layout, scope, sparsity
        self.importance: dict[str, torch.Tensor] = {}
        self._keys = {matrix.name: scope_key(matrix, scope) for matrix in layout.matrices}

    def at_(self, sparsity: float) -> None:
        self.sparsity = sparsity

    def weigh_(self, importance: Weights) -> None:
        self.importance = dict(importance)

    def project(self, values: Weights) -> dict[str, torch.Tensor]:
        block = self.layout.block
        scores = {name: (block.norms(value) * self.importance.get(name, 1.0)).cpu().numpy()
                  for name, value in values.items()}
        limits, nearest = thresholds_for(scores, self.layout, self.sparsity, self.scope), {}
        for name, value in values.items():
            limit, nearest[name] = limits[self._keys[name]], value.clone()
            if limit > 0:
                keep = torch.from_numpy((scores[name] > limit).astype("float32"))
                block.scale_(nearest[name], keep.to(value.device))
        return nearest

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def restore_(self, tensors: Weights) -> None:
        pass


class Pattern(_Still):
    """At most N of every M consecutive inputs of a row are not zero: the largest; the first of equals stays."""

    def __init__(self, patterns: Mapping[str, number_formats.Pattern]):
        self.patterns = patterns

    def project(self, values: Weights) -> dict[str, torch.Tensor]:
        return {name: value * quantizers.keep_pattern(abs(value), self.patterns[name]) if name in self.patterns
                else value.clone() for name, value in values.items()}


class Levels(_Still):
    """scale * whole number (levels), scale * -1, 0, 1 (ternary), scale * -1, 1 (binary); zero stays zero."""

    def __init__(self, formats: Mapping[str, Format]):
        self.formats = formats
        self.scales: dict[str, torch.Tensor] = {}

    def project(self, values: Weights) -> dict[str, torch.Tensor]:
        nearest = {name: value.clone() for name, value in values.items()}
        for name in self.formats.keys() & values.keys():
            value, format = values[name], self.formats[name]
            scales = quantizers.scales_for(value, format) if format.kind != "levels" or name not in self.scales else (
                quantizers.interval(value, format.top, self.scales[name], ROUNDS))
            codes = quantizers.round_to(value, format, scales, value != 0)
            self.scales[name], nearest[name] = scales, codes * scales[:, None]
        return nearest

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"levels.{name}": scales for name, scales in self.scales.items()}

    def restore_(self, tensors: Weights) -> None:
        held = {name: tensors.get(f"levels.{name}") for name in self.formats}
        self.scales = {name: one.clone() for name, one in held.items() if one is not None}


class Clusters(_Still):
    """One of 2^bits - 1 values of the matrix; zero stays zero, and nothing else becomes it."""

    def __init__(self, formats: Mapping[str, Format]):
        self.formats = formats
        self.codebooks: dict[str, torch.Tensor] = {}

    def project(self, values: Weights) -> dict[str, torch.Tensor]:
        nearest = {name: value.clone() for name, value in values.items()}
        for name in self.formats.keys() & values.keys():
            value, before, device = values[name].cpu().numpy(), self.codebooks.get(name), values[name].device
            before = None if before is None else before.cpu().numpy()
            codebook = quantizers.codebook_for(value, self.formats[name], before)
            made = quantizers.quantize(value, self.formats[name], value != 0, codebook=codebook)
            self.codebooks[name] = torch.from_numpy(codebook).to(device)
            nearest[name] = torch.from_numpy(made.values).to(device)
        return nearest

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"clusters.{name}": codebook for name, codebook in self.codebooks.items()}

    def restore_(self, tensors: Weights) -> None:
        held = {name: tensors.get(f"clusters.{name}") for name in self.formats}
        self.codebooks = {name: one.clone() for name, one in held.items() if one is not None}


class Chain:
    """All of them, in their order: prune, then a pattern among what is kept, then levels of what is kept."""

    def __init__(self, parts: Sequence[Constraint]):
        self.parts = parts

    def project(self, values: Weights) -> dict[str, torch.Tensor]:
        for part in self.parts:
            values = part.project(values)
        return values

    def at_(self, sparsity: float) -> None:
        for part in self.parts:
            part.at_(sparsity)

    def weigh_(self, importance: Weights) -> None:
        for part in self.parts:
            part.weigh_(importance)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for part in self.parts for name, tensor in part.tensors().items()}

    def restore_(self, tensors: Weights) -> None:
        for part in self.parts:
            part.restore_(tensors)


def of_pattern(formats: Mapping[str, Format]) -> list[Constraint]:
    """The patterns that these formats have, matrix by matrix, as a constraint; [] where they have none."""
    patterns = {name: format.pattern for name, format in formats.items() if format.pattern}
    return [Pattern(patterns)] if patterns else []


def of_numbers(formats: Mapping[str, Format]) -> list[Constraint]:
    """Their levels and clusters, likewise."""
    levels = {name: format for name, format in formats.items() if format.kind in ("levels", "ternary", "binary")}
    clusters = {name: format for name, format in formats.items() if format.kind == "clusters"}
    return [Levels(levels)] * bool(levels) + [Clusters(clusters)] * bool(clusters)
