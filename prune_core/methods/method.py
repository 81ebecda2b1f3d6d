"""What the training loop asks of a pruning method: a small protocol, one file for each method that follows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch


class Method(Protocol):
    """Acts on the prunable weights during the penalty phase. `norms`: name -> (groups down, groups across)."""

    norms: Mapping[str, torch.Tensor]
    lam: dict[str, float]

    def before_step_(self) -> None:
        """After the task's backward pass: may add to the weights' gradients."""

    def after_step_(self, lr: float) -> None:
        """After the optimizer step: may change the weights; brings `norms` up to date."""

    def refresh_(self) -> None:
        """A milestone."""

    def control_(self, sparsity: float, lr_ahead: float) -> None:
        """Set lambda so that `sparsity` is reached after steps whose learning rates sum to `lr_ahead`."""

    def harden_(self) -> None:
        """Before weights are kept at a compression: zero what this method has chosen, where it is not zero yet."""

    def share(self, progress: float) -> float:
        """The share of the wanted sparsity that is aimed at, at this progress (0 to 1) of the ramp."""

    def weigh_(self, importance: Mapping[str, torch.Tensor], fresh: bool) -> None:
        """Let norms count by what they are multiplied with, name -> (groups down, across).

        `fresh`: not after a resume.
        """

    def penalty(self) -> float:
        """What the method adds to the objective now, already times lambda."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold, beside `lam`."""

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float]) -> None:
        """Undo of `tensors`."""
