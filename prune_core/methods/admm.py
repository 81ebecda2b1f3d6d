"""ADMM with a projection onto any constraint (constraints.py): sparse groups, and a pattern beside them.

    W-step: minimise f(W) + rho/2 ||W - Z + U||^2 by the optimizer;  Z = Proj(W + U);  U += W - Z

Z = Proj(W), U = 0 at the start; rho doubles at milestones. The wanted share of zero groups rises along the run's line
(progressive), so one run passes all compressions; with `progressive=False` it is the whole from the start.

Where `solved`, the W-step goes on where the optimizer ends: W moves towards Z - U by lr rho / (1 + lr rho), the closed
form of what it minimises beside a step of the optimizer (as AdamW takes weight decay). As a gradient the pull is scaled
away by Adam: weights move by lr a step however far they are from Z, U grows meanwhile, and every projection keeps
others than the last.

U is the dual variable over rho. When rho grows, the dual must stay what it is, so U is multiplied by rho_old / rho_new;
left as it is, the pull rho U would double with rho, and where the weights had come to rest they would be pushed off.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import by_scope, scope_key
from prune_core.methods.constraints import Blocks, Constraint

RHO = 1e-3
ROUNDS = 200  # times in a phase that it projects: the share of blocks rises with them
GROWTH = 2.0  # of rho, at a milestone
RESIDUALS = ("primal", "dual")


class ADMM:
    """`norms` are those of Z: zero where the projection has cut, though W is only drawn there.

    `residuals`: since it projected last, ||W - Z|| / ||W|| (the weights are so far from fulfilling the constraint) and
    ||Z - Z_old|| / ||W|| (what they are drawn to moves so far); {} before. `rounds`: times in a phase to project.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], layout: Layout, scope: str = "global",
                 progressive: bool = True, constraint: Constraint | None = None, rho: float = RHO,
                 rounds: int = ROUNDS, solved: bool = False):
        self.weights, self.layout, self.scope, self.progressive = weights, layout, scope, progressive
        self.constraint = constraint or Blocks(layout, scope)
        self.rounds, self.solved = rounds, solved
        self.lam = dict.fromkeys(by_scope(layout, scope), rho)  # rho, under the name that every method has
        self.importance: dict[str, torch.Tensor] = {}
        self.residuals: dict[str, float] = {}
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
        """Z and U: project onto the constraint, at this share of zero groups."""
        self.constraint.at_(sparsity)
        wanted = {name: weight.detach() + self._u[name] for name, weight in self.weights.items()}
        before, self._z = self._z, self.constraint.project(wanted)
        self._u = {name: value - self._z[name] for name, value in wanted.items()}
        size = _norm(self.weights) or 1.0
        apart = _norm(self.weights, self._z) / size, _norm(self._z, before) / size
        self.residuals = dict(zip(RESIDUALS, apart, strict=True))
        self.measure_()

    @torch.no_grad()
    def before_step_(self) -> None:
        """Add rho (W - Z + U) to the gradients, unless it is solved."""
        for name, weight in self.weights.items() if not self.solved else ():
            weight.grad += self.lam[self._keys[name]] * (weight - self._z[name] + self._u[name])

    @torch.no_grad()
    def after_step_(self, lr: float) -> None:
        """Move towards Z - U, where the W-step is solved."""
        for name, weight in self.weights.items() if self.solved else ():
            pull = lr * self.lam[self._keys[name]]
            weight.lerp_(self._z[name] - self._u[name], pull / (1 + pull))

    @torch.no_grad()
    def harden_(self) -> None:
        """Zero what the projection has cut."""
        for name, weight in self.weights.items():
            self.layout.block.scale_(weight, (self.norms[name] > 0).float())
            weight *= self._z[name] != 0

    def refresh_(self) -> None:
        """rho grows, and U shrinks with it: the pull rho U stays."""
        self.lam = {key: rho * GROWTH for key, rho in self.lam.items()}
        self._u = {name: u / GROWTH for name, u in self._u.items()}

    def weigh_(self, importance: Mapping[str, torch.Tensor], fresh: bool) -> None:
        """Let norms count by what they are multiplied with."""
        self.importance = dict(importance)
        self.constraint.weigh_(importance)

    @torch.no_grad()
    def penalty(self) -> float:
        """rho/2 ||W - Z + U||^2."""
        apart = torch.stack([((weight - self._z[name] + self._u[name]) ** 2).sum()
                             for name, weight in self.weights.items()]).tolist()  # at once
        return sum(0.5 * self.lam[self._keys[name]] * one for name, one in zip(self.weights, apart, strict=True))

    def tensors(self) -> dict[str, torch.Tensor]:
        both = {f"u.{name}": u for name, u in self._u.items()} | {f"z.{name}": z for name, z in self._z.items()}
        if self.residuals:
            told = [self.residuals[name] for name in RESIDUALS]
            both["residuals"] = torch.tensor(told, dtype=torch.float64, device="cpu")
        return both | self.constraint.tensors()

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        self._u = {name: tensors[f"u.{name}"].clone() for name in self._u}
        self._z = {name: tensors[f"z.{name}"].clone() for name in self._z}
        self.lam = dict(lam)
        told = tensors["residuals"].tolist() if "residuals" in tensors else []
        self.residuals = dict(zip(RESIDUALS, told, strict=False))
        self.constraint.restore_(tensors)
        self.measure_()


def _norm(weights: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor] | None = None) -> float:
    """The l2 norm of all weights together, or of their differences to others."""
    parts = (weight.detach() - others[name] if others else weight.detach() for name, weight in weights.items())
    return sum(torch.stack([(part * part).sum() for part in parts]).tolist()) ** 0.5
