"""Repair: after a mask is chosen, what is kept is moved to where every matrix's outputs are nearest to the dense ones.

Per strip S of rows with kept columns K and cut columns C, from the Gram matrix H = X^T X of the layer's inputs
(least squares, damped towards the old weights):

    W[S, K] = W0[S, K] + W0[S, C] H[C, K] (H[K, K] + damp I)^-1        and the bias takes what is lost in the mean

No gradients. The update of reconstruction-based pruning as in 2401.02938, here for any block shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import nn

from prune_core.cutting.blocks import Matrix
from prune_core.cutting.masks import BlockMask

DAMP = 0.01  # of the mean of H's diagonal
TILE = 384  # inputs of a piece of a Gram matrix: a symmetric one needs only the pieces on and above its diagonal


@dataclass(frozen=True)
class Gram:
    """What one matrix saw: `products` (n, n) sum over tokens of x x^T, `total` (n,) sum of x, `count` tokens.

    `range`: the least and the largest of all inputs, zero among them.
    """

    products: torch.Tensor
    total: torch.Tensor
    count: int
    range: tuple[float, float] = (0.0, 0.0)

    def to(self, device: torch.device) -> Gram:
        """The same on this device."""
        return Gram(self.products.to(device), self.total.to(device), self.count, self.range)

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


class Collector:
    """Sums up the inputs of every matrix, batch by batch; who is called away may go on later."""

    def __init__(self, model: nn.Module, linears: Mapping[str, nn.Linear]):
        self._model, self._linears = model, linears
        self._sums: dict[str, list] = {}  # products, total, count, least, largest
        self._shared: dict[str, str] = {}  # query, key and value have the input of the first of them

    @torch.inference_mode()
    def add(self, inputs: Mapping[str, torch.Tensor]) -> int:
        """One batch more: all tokens that are no padding, and nothing else. How many sentences it had."""
        inputs, count = told_apart(inputs)
        seen: dict[int, str] = {}  # data pointer of an input -> its first matrix
        alive: list[torch.Tensor] = []  # a pointer is an identity only while its tensor lives

        def hook(name: str):
            def add(_module, arguments):
                rows = of_tokens(arguments[0], count)
                if rows is not None:
                    alive.append(arguments[0])
                    first = seen.setdefault(arguments[0].data_ptr(), name)
                    if self._shared.setdefault(name, first) == name:
                        self._add(name, rows.float())

            return add

        training = self._model.training
        hooks = [linear.register_forward_pre_hook(hook(name)) for name, linear in self._linears.items()]
        try:
            self._model.eval()
            self._model(**inputs)
        finally:
            self._model.train(training)
            for one in hooks:
                one.remove()
        return len(count)

    def _add(self, name: str, rows: torch.Tensor) -> None:
        width = rows.shape[-1]
        new = rows.new_zeros
        sums = self._sums.setdefault(name, [new(width, width), new(width), 0, new(()), new(())])
        _add_products_(sums[0], rows)
        sums[1] += rows.sum(0)
        sums[2] += len(rows)
        if len(rows):
            sums[3], sums[4] = torch.minimum(sums[3], rows.min()), torch.maximum(sums[4], rows.max())

    @torch.inference_mode()
    def grams(self) -> dict[str, Gram]:
        """Matrix name -> Gram of its inputs; matrices with one input share theirs, one without tokens has none.

        To be asked once, after the last batch.
        """
        grams = {name: Gram(_mirrored_(products), total, tokens, (float(least), float(largest)))
                 for name, (products, total, tokens, least, largest) in self._sums.items()}
        return {name: grams[self._shared[name]] for name in self._linears if name in self._shared}


def collect(model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[Mapping[str, torch.Tensor]],
            report: Callable[[int], None] = lambda more: None) -> dict[str, Gram]:
    """Matrix name -> Gram of its inputs over all tokens of `batches`, as a Collector has it.

    `report` gets the sentences of each batch that is done, and may raise to stop.
    """
    collector = Collector(model, linears)
    for inputs in batches:
        report(collector.add(inputs))
    return collector.grams()


def _add_products_(products: torch.Tensor, rows: torch.Tensor) -> None:
    """Add rows^T rows to the pieces on and above the diagonal."""
    for top in range(0, rows.shape[1], TILE):
        left = rows[:, top : top + TILE]
        products[top : top + TILE, top:].addmm_(left.T, rows[:, top:])


def _mirrored_(products: torch.Tensor) -> torch.Tensor:
    """The same on both sides of the diagonal."""
    for top in range(0, len(products), TILE):
        products[top + TILE :, top : top + TILE] = products[top : top + TILE, top + TILE :].T
    return products


def repair_(linears: Mapping[str, nn.Linear], mask: BlockMask, grams: Mapping[str, Gram], damp: float = DAMP,
            report: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Cut every matrix and move what is kept, in place: weights (m, n) and biases (m,).

    `report` gets how many of how many matrices are done, and may raise to stop. Threads take matrices, not parts of
    one operation: there are thousands of those, and on busy cores each would wait for the slowest thread.
    """
    mine = [matrix for matrix in mask.layout.matrices if not mask.kept[matrix.name].all()]

    def one(matrix: Matrix) -> None:
        linear = linears[matrix.name]
        kept = torch.from_numpy(mask.kept[matrix.name]).to(linear.weight.device)
        kept = mask.layout.block.expand(kept, matrix.m, matrix.n)
        _repair_one_(linear, kept, grams[matrix.name].to(linear.weight.device), damp)

    threads = torch.get_num_threads()
    on_processor = all(linear.weight.device.type == "cpu" for linear in linears.values())
    pool = ThreadPoolExecutor(threads if on_processor else 1, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for done, _ in enumerate(pool.map(one, mine), 1):
            report(done, len(mine))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


@torch.no_grad()
def _repair_one_(linear: nn.Linear, kept: torch.Tensor, gram: Gram, damp: float) -> None:
    before = linear.weight.clone()
    linear.weight.copy_(repaired(before, kept, gram, damp))
    if linear.bias is not None:
        linear.bias += (before - linear.weight) @ (gram.total / gram.count)


def repaired(weight: torch.Tensor, kept: torch.Tensor, gram: Gram, damp: float = DAMP) -> torch.Tensor:
    """(m, n) weights, zero where `kept` (m, n, bool) is not, whose outputs are nearest to those of `weight`.

    Rows with like columns are solved together.
    """
    h = gram.centred()
    ridge = damp * float(h.diagonal().mean()) + 1e-12
    nearest = weight * kept
    patterns, which = torch.unique(kept, dim=0, return_inverse=True)
    for number, columns in enumerate(patterns):
        at, gone = columns.nonzero()[:, 0], (~columns).nonzero()[:, 0]
        if not len(at) or not len(gone):
            continue
        rows = (which == number).nonzero()[:, 0]
        # (W - W0) H (W - W0)^T + ridge ||W - W0||^2 over the kept columns: damping pulls to the old weights, not zero
        by_kept = h.index_select(0, at)
        system = by_kept.index_select(1, at)
        system.diagonal().add_(ridge)
        right = by_kept.index_select(1, gone) @ weight[rows].index_select(1, gone).T  # (kept, rows)
        nearest[rows[:, None], at] += _solved(system, right).T
    return nearest


def _solved(system: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """system^-1 right of a positive definite system, in its precision; in float64 where rounding makes it less."""
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        factor = torch.linalg.cholesky(system.double())
    return torch.cholesky_solve(right.to(factor.dtype), factor).to(right.dtype)
