"""Reweighted group Lasso, in its two forms.

    L = L_task + sum over groups g of lambda * gamma_g * ||w_g||_2,   gamma_g = 1 / (||w_g||_2 + eps)

eps = 1e-3, gamma constant between milestones. Li et al., "Efficient Transformer-based Large Scale
Language Representations using Hardware-friendly Block Structured Pruning", Findings of EMNLP 2020.
lambda is one number per scope key (global: one; layer: one per layer; ...).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import by_scope, scope_key, thresholds_for

EPS = 1e-3
Weights = Mapping[str, torch.Tensor]  # matrix name -> (m, n)


class _GroupLasso:
    """What both forms share: gamma, lambda, norms. `reweighted=False` keeps gamma at 1: plain group Lasso."""

    def __init__(self, weights: Weights, layout: Layout, lam: float = 0.0, scope: str = "global",
                 reweighted: bool = True):
        self.weights, self.layout, self.scope, self.reweighted = weights, layout, scope, reweighted
        self.lam = dict.fromkeys(by_scope(layout, scope), lam)
        self._keys = {matrix.name: scope_key(matrix, scope) for matrix in layout.matrices}
        self.measure_()
        self.importance: dict[str, torch.Tensor] = {}  # name -> what norms count, broadcastable to the groups; none: 1
        self.gamma = {name: torch.ones_like(norms) for name, norms in self.norms.items()}
        self.refresh_()

    @torch.no_grad()
    def measure_(self) -> None:
        """Bring `norms` up to date with the weights."""
        self.norms = {name: self.layout.block.norms(weight) for name, weight in self.weights.items()}

    def refresh_(self) -> None:
        """gamma = 1 / (norm + eps): groups that are small from here on pay more, large ones less."""
        if self.reweighted:
            self.gamma = {name: 1.0 / (norms * self.importance.get(name, 1.0) + EPS)
                          for name, norms in self.norms.items()}

    @staticmethod
    def share(progress: float) -> float:
        """A straight line."""
        return progress

    def harden_(self) -> None:
        """Nothing: what is not zero yet, the threshold cuts."""

    def weigh_(self, importance: Mapping[str, torch.Tensor], fresh: bool) -> None:
        """Let norms count by what they are multiplied with, name -> (groups down, across) or less.

        `fresh`: gamma is set anew.
        """
        self.importance = dict(importance)
        if fresh:
            self.refresh_()

    @torch.no_grad()
    def penalty(self) -> float:
        """sum of lambda * gamma * norm over all groups."""
        factors = self.factors
        sums = torch.stack([(gamma * self.norms[name]).sum() for name, gamma in factors.items()]).tolist()  # at once
        return sum(self.lam[self._keys[name]] * one for name, one in zip(factors, sums, strict=True))

    @property
    def factors(self) -> dict[str, torch.Tensor]:
        """What multiplies lambda * norm of each group in the penalty: gamma."""
        return self.gamma

    def tensors(self) -> dict[str, torch.Tensor]:
        """gamma, and the norms as the last step left them: measured anew they differ in the last bits."""
        kept = {f"gamma.{name}": gamma for name, gamma in self.gamma.items()}
        return kept | {f"norms.{name}": norms for name, norms in self.norms.items()}

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        self.gamma = {name: tensors[f"gamma.{name}"] for name in self.gamma}
        self.lam = dict(lam)
        self.measure_()  # for checkpoints that hold no norms
        self.norms = {name: tensors.get(f"norms.{name}", measured) for name, measured in self.norms.items()}


class ProximalGroupLasso(_GroupLasso):
    """The penalty as a proximal step after the optimizer's: w_g *= max(0, 1 - lr * lambda * gamma_g / ||w_g||).

    Not diluted by Adam's normalisation of the gradient, and gives exact zeros. `spare` acts only when
    lambda is controlled: groups above the wanted share are left alone instead of being shrunk along with
    those that are to go (see `control_`).
    """

    def __init__(self, *args, spare: bool = True, **settings):
        super().__init__(*args, **settings)
        self.spare = spare
        self._aimed = {name: torch.ones_like(norms) for name, norms in self.norms.items()}  # 1: penalised, 0: spared

    @property
    def factors(self) -> dict[str, torch.Tensor]:
        """gamma of the groups that are penalised now, 0 of those that are spared."""
        return {name: gamma * self._aimed[name] for name, gamma in self.gamma.items()}

    @property
    def hold(self) -> float:
        """lambda under which a group that a milestone has seen at zero stays there."""
        return 2 * EPS * max(self.layout.group_size(m) for m in self.layout.matrices) ** 0.5 if self.reweighted else 0.0

    def before_step_(self) -> None:
        """Nothing: this form never touches the gradient."""

    @torch.no_grad()
    def after_step_(self, lr: float) -> None:
        """Group soft-thresholding of every matrix, in place."""
        factors = self.factors
        for name, weight in self.weights.items():
            norms = self.layout.block.norms(weight)
            shrink = factors[name] * (lr * self.lam[self._keys[name]])
            keep = (1.0 - shrink / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_min_(0.0)
            self.layout.block.scale_(weight, keep)
            self.norms[name] = norms.mul_(keep)

    def control_(self, sparsity: float, lr_ahead: float) -> None:
        """lambda = (the `sparsity` quantile of norm_g / gamma_g) / lr_ahead, per scope key.

        A group that its gradient leaves alone loses lr * lambda * gamma_g per step, so it is zero after
        steps of norm_g / (gamma_g * lambda) summed learning rate; solving for lambda at the quantile
        makes just that share zero. Gradients push back, so this is solved again every few steps. The
        floor holds groups at zero once a milestone has seen them there (gamma = 1/eps): Adam moves a
        group by at most about lr * sqrt(size).

        Norms inside one matrix lie close together (MiniLM, layer 0, intermediate: 0.39 to 0.64 from the
        5th to the 95th percentile), so the whole penalty shrinks what is to stay almost as much as what
        is to go. With `spare` only the groups up to the quantile are penalised until the next call.
        """
        time_to_zero = {name: (n / self.gamma[name]).cpu().numpy() for name, n in self.norms.items()}
        needed = thresholds_for(time_to_zero, self.layout, sparsity, self.scope)
        self.lam = {key: max(value / lr_ahead, self.hold) for key, value in needed.items()}
        if self.spare:
            self._aimed = {name: torch.from_numpy((time <= needed[self._keys[name]]).astype("float32")).to(
                               self.gamma[name].device) for name, time in time_to_zero.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        return super().tensors() | {f"aimed.{name}": aimed for name, aimed in self._aimed.items()}

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        super().restore_(tensors, lam)
        self._aimed = {name: tensors[f"aimed.{name}"] for name in self._aimed}


class DynamicGroupLasso(ProximalGroupLasso):
    """Dynamic regularisation: lambda = bound * max(LEAST, (R - r)^2 / R^2); R, the whole share, is the target always.

    r is the share of groups that are zero now: the penalty is bounded, falls as the target comes near and ends there,
    scope key by scope key (as MLPruning, arXiv 2105.14636, bounds the coefficient of its (R - r)^2). The bound is the
    largest lambda so far that would have brought all that was missing to zero in HORIZONS times the steps that
    `lr_ahead` sums over.
    """

    HORIZONS = 3.0
    LEAST = 0.1  # of the bound, until the target is reached: the last groups would take for ever

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._bound = torch.zeros(len(self.lam), dtype=torch.float64, device="cpu")  # in the order of the scope keys

    @staticmethod
    def share(progress: float) -> float:
        """The whole from the start."""
        return 1.0

    def control_(self, sparsity: float, lr_ahead: float) -> None:
        super().control_(sparsity, self.HORIZONS * lr_ahead)
        for at, (key, matrices) in enumerate(by_scope(self.layout, self.scope).items()):
            self._bound[at] = max(float(self._bound[at]), self.lam[key])
            zeros = torch.stack([(self.norms[m.name] == 0).sum() for m in matrices]).tolist()
            zero = sum(count * self.layout.group_size(m) for count, m in zip(zeros, matrices, strict=True))
            missing = max(0.0, sparsity - zero / sum(m.m * m.n for m in matrices)) / sparsity if sparsity else 0.0
            bounded = float(self._bound[at]) * max(missing**2, self.LEAST)
            self.lam[key] = max(bounded, self.hold) if missing else self.hold

    def tensors(self) -> dict[str, torch.Tensor]:
        return super().tensors() | {"bound": self._bound}

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        super().restore_(tensors, lam)
        self._bound = tensors["bound"].clone()


class InLossGroupLasso(_GroupLasso):
    """The penalty as a term of the loss, as the paper has it: its gradient goes through the optimizer.

    Under Adam this moves a weight by about lr per step at most and never gives an exact zero.
    """

    _FLOOR = 1e-8  # gives a zero group the gradient 0 instead of NaN

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._start = {name: norms.clone() for name, norms in self.norms.items()}

    def term(self) -> torch.Tensor:
        """() the penalty as part of the graph; gamma is a constant in it."""
        block = self.layout.block
        parts = [(self.gamma[name] * block.norms(weight, self._FLOOR)).sum() * self.lam[self._keys[name]]
                 for name, weight in self.weights.items()]
        return torch.stack(parts).sum()

    def before_step_(self) -> None:
        """Add the gradient of the term to that of the task."""
        self.term().backward()

    def after_step_(self, lr: float) -> None:
        self.measure_()

    @torch.no_grad()
    def control_(self, sparsity: float, lr_ahead: float) -> None:
        """Raise lambda by a quarter while fewer groups than wanted have sunk to a tenth of their start, else lower it.

        Adam hides how far a given lambda moves a norm, so this form can only be steered by what it did.
        """
        for key, matrices in by_scope(self.layout, self.scope).items():
            sunk = sum(torch.stack([(self.norms[m.name] < 0.1 * self._start[m.name]).sum() for m in matrices]).tolist())
            share = sunk / sum(self.norms[m.name].numel() for m in matrices)
            self.lam[key] = max(self.lam[key], 1e-6) * (1.25 if share < sparsity else 0.8)

    def tensors(self) -> dict[str, torch.Tensor]:
        return super().tensors() | {f"start.{name}": start for name, start in self._start.items()}

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        super().restore_(tensors, lam)
        self._start = {name: tensors[f"start.{name}"] for name in self._start}
