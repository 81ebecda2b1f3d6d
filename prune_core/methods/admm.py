"""ADMM with a projection onto the sparse groups.

    W-step: minimise f(W) + rho/2 ||W - Z + U||^2 by the optimizer;  Z = Proj(W + U);  U += W - Z

Proj keeps the groups of the largest norm. Z = Proj(W), U = 0 at the start; rho doubles at milestones. The wanted share
rises along the run's line (progressive), so one run passes all compressions; with `progressive=False` it is the whole
from the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import by_scope, scope_key, thresholds_for

RHO = 1e-3
GROWTH = 2.0  # of rho, at a milestone


class ADMM:
    """`norms` are those of Z: zero where the projection has cut, though W is only drawn there."""

    def __init__(self, weights: Mapping[str, torch.Tensor], layout: Layout, scope: str = "global",
                 progressive: bool = True):
        self.weights, self.layout, self.scope, self.progressive = weights, layout, scope, progressive
        self.lam = dict.fromkeys(by_scope(layout, scope), RHO)  # rho, under the name that every method has
        self.importance: dict[str, torch.Tensor] = {}
        self._keys = {matrix.name: scope_key(matrix, scope) for matrix in layout.matrices}
        self._u = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self._z = {name: weight.detach().clone() for name, weight in weights.items()}
        self.measure_()

    @torch.no_grad()
    def measure_(self) -> None:
        self.norms = {name: self.layout.block.norms(z) for name, z in self._z.items()}

    def share(self, progress: float) -> float:
        """The share of the target at this progress of the ramp."""
        return progress if self.progressive else 1.0

    @torch.no_grad()
    def control_(self, sparsity: float, lr_ahead: float) -> None:
        """Z and U: project onto this share of zero groups."""
        block = self.layout.block
        wanted = {name: weight.detach() + self._u[name] for name, weight in self.weights.items()}
        scores = {name: (block.norms(value) * self.importance.get(name, 1.0)).numpy() for name, value in wanted.items()}
        limits = thresholds_for(scores, self.layout, sparsity, self.scope)
        for name, value in wanted.items():
            limit = limits[self._keys[name]]
            self._z[name] = value.clone()
            if limit > 0:
                block.scale_(self._z[name], torch.from_numpy((scores[name] > limit).astype("float32")))
            self._u[name] = value - self._z[name]
        self.measure_()

    @torch.no_grad()
    def before_step_(self) -> None:
        """Add rho (W - Z + U) to the gradients."""
        for name, weight in self.weights.items():
            weight.grad += self.lam[self._keys[name]] * (weight - self._z[name] + self._u[name])

    def after_step_(self, lr: float) -> None:
        """Nothing: the weights are drawn, not set."""

    @torch.no_grad()
    def harden_(self) -> None:
        """Zero the groups that the projection has cut."""
        for name, weight in self.weights.items():
            self.layout.block.scale_(weight, (self.norms[name] > 0).float())

    def refresh_(self) -> None:
        """rho grows."""
        self.lam = {key: rho * GROWTH for key, rho in self.lam.items()}

    def weigh_(self, importance: Mapping[str, torch.Tensor], fresh: bool) -> None:
        """Let norms count by what they are multiplied with."""
        self.importance = dict(importance)

    @torch.no_grad()
    def penalty(self) -> float:
        """rho/2 ||W - Z + U||^2."""
        return sum(0.5 * self.lam[self._keys[name]] * float(((weight - self._z[name] + self._u[name]) ** 2).sum())
                   for name, weight in self.weights.items())

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"u.{name}": u for name, u in self._u.items()} | {f"z.{name}": z for name, z in self._z.items()}

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        self._u = {name: tensors[f"u.{name}"].clone() for name in self._u}
        self._z = {name: tensors[f"z.{name}"].clone() for name in self._z}
        self.lam = dict(lam)
        self.measure_()
