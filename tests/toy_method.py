"""A method as a stranger would add it: this file and the row. After each step the lowest groups are zero, and stay."""

from __future__ import annotations

import torch

from prune_core.cutting.masks import by_scope, mask_at_sparsity


class Toy:
    """Cuts what is lowest when it is told how much, and keeps it cut."""

    def __init__(self, weights, layout, scope):
        self.weights, self.layout, self.scope = weights, layout, scope
        self.lam = dict.fromkeys(by_scope(layout, scope), 0.0)
        self.importance = {}
        self.kept = {name: torch.ones(layout.block.grid(*weight.shape)) for name, weight in weights.items()}
        self.after_step_(0.0)

    def before_step_(self):
        pass

    @torch.no_grad()
    def after_step_(self, lr):
        for name, weight in self.weights.items():
            self.layout.block.scale_(weight, self.kept[name])
        self.norms = {name: self.layout.block.norms(weight) for name, weight in self.weights.items()}

    def refresh_(self):
        pass

    def control_(self, sparsity, lr_ahead):
        ranks = {name: (norms * self.importance.get(name, 1.0)).numpy() for name, norms in self.norms.items()}
        mask = mask_at_sparsity(ranks, self.layout, sparsity, self.scope)
        self.kept = {name: torch.from_numpy(kept).float() for name, kept in mask.kept.items()}

    def harden_(self):
        pass

    def share(self, progress):
        return progress

    def weigh_(self, importance, fresh):
        self.importance = dict(importance)

    def penalty(self):
        return 0.0

    def tensors(self):
        return {f"kept.{name}": kept for name, kept in self.kept.items()}

    def restore_(self, tensors, lam):
        self.kept = {name: tensors[f"kept.{name}"].clone() for name in self.kept}
        self.after_step_(0.0)
