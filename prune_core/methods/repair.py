"""Repair: after a mask is chosen, what is kept is moved to where every matrix's outputs are nearest to the dense ones.

Per strip S of rows with kept columns K, from the Gram matrix H = X^T X of the layer's inputs (least squares):

    W[S, K] = (W0 H)[S, K] (H[K, K] + damp I)^-1        and the bias takes what is lost in the mean

No gradients. The update of reconstruction-based pruning as in 2401.02938, here for any block shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from prune_core.cutting.masks import BlockMask

DAMP = 0.01  # of the mean of H's diagonal


@dataclass(frozen=True)
class Gram:
    """What one matrix saw: `products` (n, n) sum over tokens of x x^T, `total` (n,) sum of x, `count` tokens."""

    products: torch.Tensor
    total: torch.Tensor
    count: int

    def rms(self) -> torch.Tensor:
        """(n,) root mean square of every input."""
        return (self.products.diagonal() / self.count).sqrt()

    def centred(self) -> torch.Tensor:
        """(n, n) the products about the mean of the inputs: what is left when the bias is free."""
        return self.products - torch.outer(self.total, self.total) / self.count


def told_apart(inputs: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """(the inputs, at least two sentences of them; (sentences, length) bool: tokens that count, no padding).

    A linear layer may also be given a table of positions, (1, n, width) (DeBERTa projects it with query and key). With
    two sentences no such table has the shape of the tokens; a second one that was not asked for does not count.
    """
    count = inputs["attention_mask"].bool()
    if len(count) > 1:
        return dict(inputs), count
    return {name: value.expand(2, -1) for name, value in inputs.items()}, torch.stack([count[0], count[0] & False])


def of_tokens(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor | None:
    """(tokens that count, width) rows of what a layer was given or gave; None where those were not the tokens."""
    return x[count] if x.shape[:-1] == count.shape else None


# long: the hook and what it adds to are one thing
@torch.inference_mode()
def collect(model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[Mapping[str, torch.Tensor]],
            report: Callable[[int], None] = lambda done: None) -> dict[str, Gram]:
    """Matrix name -> Gram of its inputs over all tokens of `batches` that are no padding, and over nothing else.

    Matrices with one input share one Gram. A matrix that is given no tokens has none.
    """
    sums: dict[str, list] = {}  # products, total, count
    count: torch.Tensor | None = None
    seen: dict[int, str] = {}  # data pointer of an input -> its first matrix: query, key and value share theirs
    shared: dict[str, str] = {}

    def hook(name: str):
        def add(_module, arguments):
            x = arguments[0]
            rows = of_tokens(x, count)
            if rows is None:
                return
            first = seen.setdefault(x.data_ptr(), name)
            shared.setdefault(name, first)
            if shared[name] != name:
                return
            rows = rows.float()
            if name not in sums:
                sums[name] = [torch.zeros(x.shape[-1], x.shape[-1]), torch.zeros(x.shape[-1]), 0]
            sums[name][0].addmm_(rows.T, rows)
            sums[name][1] += rows.sum(0)
            sums[name][2] += len(rows)
            alive.append(x)  # a pointer is an identity only while its tensor lives

        return add

    alive: list[torch.Tensor] = []
    training = model.training
    hooks = [linear.register_forward_pre_hook(hook(name)) for name, linear in linears.items()]
    try:
        model.eval()
        for done, inputs in enumerate(batches):
            inputs, count = told_apart(inputs)
            model(**inputs)
            seen.clear()
            alive.clear()
            report(done + 1)
    finally:
        model.train(training)
        for one in hooks:
            one.remove()
    grams = {name: Gram(*parts) for name, parts in sums.items()}
    return {name: grams[shared[name]] for name in linears if name in shared}


@torch.no_grad()
def repair_(linears: Mapping[str, nn.Linear], mask: BlockMask, grams: Mapping[str, Gram], damp: float = DAMP) -> None:
    """Cut every matrix and move what is kept, in place: weights (m, n) and biases (m,)."""
    for matrix in mask.layout.matrices:
        linear = linears[matrix.name]
        kept = torch.from_numpy(mask.kept[matrix.name])
        if kept.all():
            continue
        before = linear.weight.clone()
        gram, whole = grams[matrix.name], mask.layout.block.expand(kept, matrix.m, matrix.n)
        linear.weight.copy_(repaired(before, whole, gram, damp))
        if linear.bias is not None:
            linear.bias += (before - linear.weight) @ (gram.total / gram.count)


def repaired(weight: torch.Tensor, kept: torch.Tensor, gram: Gram, damp: float = DAMP) -> torch.Tensor:
    """(m, n) weights, zero where `kept` (m, n, bool) is not, whose outputs are nearest to those of `weight`.

    Rows with like columns are solved together.
    """
    h = gram.centred()
    ridge = damp * float(h.diagonal().mean()) + 1e-12
    wanted = weight @ h  # (m, n)
    nearest = torch.zeros_like(weight)
    patterns, which = torch.unique(kept, dim=0, return_inverse=True)
    for number, columns in enumerate(patterns):
        at = columns.nonzero()[:, 0]
        if not len(at):
            continue
        rows = (which == number).nonzero()[:, 0]
        # (W - W0) H (W - W0)^T + ridge ||W - W0||^2 over the kept columns: damping pulls to the old weights, not zero
        system = h[at][:, at] + ridge * torch.eye(len(at))
        right = wanted[rows][:, at] + ridge * weight[rows][:, at]
        nearest[rows[:, None], at] = torch.cholesky_solve(right.T, torch.linalg.cholesky(system)).T
    return nearest
