"""Methods that choose which groups go and set them to zero, step by step along a cubic schedule: magnitude, movement.

    share of the target at progress p of the ramp:  1 - (1 - p)^3       (Zhu & Gupta, arXiv 1710.01878)

What is cut is remembered, so that it can come back as it was when its score rises again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import by_scope, scope_key, thresholds_for

ORDER = 1e-9  # of a norm, in a movement score
Weights = Mapping[str, torch.Tensor]  # matrix name -> (m, n)


class GradualMagnitude:
    """Cuts the groups of the lowest norm, more and more of them."""

    def __init__(self, weights: Weights, layout: Layout, scope: str = "global"):
        self.weights, self.layout, self.scope = weights, layout, scope
        self.lam = dict.fromkeys(by_scope(layout, scope), 0.0)
        self.importance: dict[str, torch.Tensor] = {}
        self._keys = {matrix.name: scope_key(matrix, scope) for matrix in layout.matrices}
        self._hidden = {name: torch.zeros_like(weight) for name, weight in weights.items()}  # what is cut, as it was
        self._keep = {name: torch.ones(layout.block.grid(*weight.shape), device=weight.device)
                      for name, weight in weights.items()}
        self.measure_()

    @torch.no_grad()
    def measure_(self) -> None:
        """Bring `norms` up to date: those of the weights, 0 for what is cut."""
        self.norms = {name: self.layout.block.norms(weight) for name, weight in self.weights.items()}

    @staticmethod
    def share(progress: float) -> float:
        """The share of the target that is to be cut at this progress of the ramp, 0 to 1."""
        return 1.0 - (1.0 - progress) ** 3

    def scores(self) -> dict[str, torch.Tensor]:
        """Matrix name -> (groups down, groups across), at least 0: the lowest go. What is cut competes as it was."""
        block = self.layout.block
        return {name: block.norms(weight + self._hidden[name]) * self.importance.get(name, 1.0)
                for name, weight in self.weights.items()}

    @torch.no_grad()
    def control_(self, sparsity: float, lr_ahead: float) -> None:
        """Choose what is cut until the next call: this share of the weights, lowest scores first."""
        scores = {name: score.cpu().numpy() for name, score in self.scores().items()}
        limits = thresholds_for(scores, self.layout, sparsity, self.scope)
        for name, score in scores.items():
            limit = limits[self._keys[name]]
            keep = (score > limit if limit > 0 else score == score).astype("float32")
            self._keep[name] = torch.from_numpy(keep).to(self.weights[name].device)

    def before_step_(self) -> None:
        """Nothing."""

    @torch.no_grad()
    def after_step_(self, lr: float) -> None:
        """Put back what is kept again, hide what is cut."""
        block = self.layout.block
        for name, weight in self.weights.items():
            keep = block.spread(self._keep[name], *weight.shape)
            cut, hidden = block.view(weight), block.view(self._hidden[name])
            whole = cut + hidden * (cut == 0)
            hidden.copy_(whole * (1 - keep))
            cut.copy_(whole * keep)
        self.measure_()

    def harden_(self) -> None:
        """Nothing: what goes is zero already."""

    def refresh_(self) -> None:
        """Nothing: there is no gamma."""

    def weigh_(self, importance: Mapping[str, torch.Tensor], fresh: bool) -> None:
        """Let norms count by what they are multiplied with."""
        self.importance = dict(importance)

    def penalty(self) -> float:
        """Nothing is added to the objective."""
        return 0.0

    def tensors(self) -> dict[str, torch.Tensor]:
        hidden = {f"hidden.{name}": value for name, value in self._hidden.items()}
        return hidden | {f"keep.{name}": value for name, value in self._keep.items()}

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        self._hidden = {name: tensors[f"hidden.{name}"].clone() for name in self._hidden}
        self._keep = {name: tensors[f"keep.{name}"].clone() for name in self._keep}
        self.measure_()


class Movement(GradualMagnitude):
    """Cuts the groups whose weights move towards zero: S_g -= sum of w_ij * dL/dw_ij, straight through the mask.

    Sanh et al., arXiv 2005.07683.
    """

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        # until something has moved, the norms decide
        self._moved = {name: norms * ORDER for name, norms in self.norms.items()}

    @torch.no_grad()
    def before_step_(self) -> None:
        """Add to the scores, from the gradients of the task."""
        for name, weight in self.weights.items():
            self._moved[name] -= self.layout.block.view((weight + self._hidden[name]) * weight.grad).sum((1, 3))

    def scores(self) -> dict[str, torch.Tensor]:
        """How far each group has moved away from zero, above the one that moved towards it the most in its scope."""
        lowest: dict[str, float] = {}
        for name, moved in self._moved.items():
            lowest[self._keys[name]] = min(lowest.get(self._keys[name], float("inf")), float(moved.min()))
        return {name: moved - lowest[self._keys[name]] + 1e-12 for name, moved in self._moved.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        return super().tensors() | {f"moved.{name}": value for name, value in self._moved.items()}

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        super().restore_(tensors, lam)
        self._moved = {name: tensors[f"moved.{name}"].clone() for name in self._moved}
