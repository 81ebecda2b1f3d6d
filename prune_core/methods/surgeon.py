"""The surgeon: group after group, each chosen after the rest has been repaired for all that went before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from prune_core.cutting.blocks import BlockShape, Layout
from prune_core.methods.repair import DAMP, Gram, of_tokens, told_apart
from prune_core.models import devices
from prune_core.models.encoders import Encoder
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded

WIDE = 32  # sentences of one pass where every token has its own gradient
AT_ONCE = 8  # groups of a strip that go in one step of the surgeon, at most 1 in 32 of those left
LATER = 2e-6  # by which a group scores more than an equal one before it, so that a threshold can tell them apart
MEMORY = 1 << 26  # floats of inverse matrices that are held at a time


@dataclass(frozen=True)
class Surgeon:
    """Optimal Brain Surgeon on groups; curvature: Gram matrix of the inputs x mean square of the outputs' gradients.

    As The LLM Surgeon has it (van der Ouderaa et al., arXiv 2312.17244), with the diagonal of the outputs' side only
    and with the gradient of the model's outputs in place of its loss, whose own is close to 0 after training. A group
    ranks by the root of what its removal costs when its turn has come; one that goes after another never ranks lower.
    """

    grams: Mapping[str, Gram]
    data: Encoded
    sentences: Sequence[int]

    def of(self, encoder: Encoder, layout: Layout) -> dict[str, np.ndarray]:
        asked, device = np.asarray(self.sentences), devices.of(encoder.model)
        batches = (self.data.batch(asked[at], device)[0]
                   for at in encoding.dev_batches(self.data.lengths[asked], WIDE))
        weighs = outputs_weigh(encoder.model, encoder.linears, batches)
        weights = {name: weight.detach() for name, weight in encoder.weights.items()}
        return {m.name: self._one(weights[m.name], weighs[m.name], self.grams[m.name], layout.block).cpu().numpy()
                for m in layout.matrices}

    def factors(self, encoder: Encoder, layout: Layout) -> dict[str, torch.Tensor]:
        """What the removal of each group costs, over its norm."""
        costs, norms, device = self.of(encoder, layout), encoder.norms(layout.block), devices.of(encoder.model)
        return {name: (torch.from_numpy(cost) / torch.from_numpy(norms[name]).clamp_min(1e-9)).to(device)
                for name, cost in costs.items()}

    @torch.no_grad()
    def _one(self, weight: torch.Tensor, weighs: torch.Tensor, gram: Gram, block: BlockShape) -> torch.Tensor:
        """(groups down, groups across) of one matrix: strips that fit into MEMORY together."""
        n = weight.shape[1]
        strips = block.view(weight * weighs[:, None]).flatten(2)  # (groups down, rows, n)
        h = gram.centred() / gram.count
        h = h + DAMP * float(h.diagonal().mean()) * torch.eye(n, device=h.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
        together = max(1, MEMORY // (n * n))
        cols = block.sides(*weight.shape)[1]
        return torch.cat([_remove_in_turn(part, inverse, cols) for part in strips.split(together)]).sqrt()


def _remove_in_turn(strips: torch.Tensor, inverse: torch.Tensor, cols: int) -> torch.Tensor:
    """(strips, n / cols): what each group of `cols` columns costs when its turn comes.

    `strips`: weights (strips, rows, n); `inverse`: (n, n) of H. After the groups C have gone:
    W -= W_C ([H^-1]_CC)^-1 [H^-1]_C,:   and   H^-1 -= [H^-1]_:,C ([H^-1]_CC)^-1 [H^-1]_C,:
    """
    count, _, n = strips.shape
    w, h = strips.clone(), inverse.expand(count, n, n).clone()
    left = torch.arange(n // cols, device=w.device).expand(count, -1)  # groups that are there yet
    costs, last = torch.zeros(count, n // cols, device=w.device), torch.zeros(count, 1, device=w.device)
    while left.shape[1]:
        groups = left.shape[1]
        if cols == 1:
            cost = (w**2).sum(1) / h.diagonal(dim1=1, dim2=2)
        else:
            at = _columns(torch.arange(groups, device=w.device)[:, None], cols)  # (groups, cols)
            own, parts = h[:, at[:, :, None], at[:, None]], w[:, :, at]
            cost = torch.einsum("srgi,sgij,srgj->sg", parts, torch.linalg.inv(own), parts).clamp_min(0.0)
        now, going = cost.topk(max(1, min(AT_ONCE, groups // 32)), largest=False)
        now = torch.cat([last, now], 1).cummax(1).values[:, 1:]
        turn = n // cols - groups + torch.arange(now.shape[1], device=w.device)
        costs.scatter_(1, left.gather(1, going), now * (1.0 + LATER * turn))
        last = now[:, -1:]
        stays = torch.ones_like(cost, dtype=torch.bool).scatter_(1, going, False).nonzero()[:, 1].view(count, -1)
        left = left.gather(1, stays)
        gone, kept = _columns(going, cols), _columns(stays, cols)
        h_gone = h.gather(1, gone[:, :, None].expand(-1, -1, h.shape[2]))
        corner = h_gone.gather(2, gone[:, None].expand(-1, gone.shape[1], -1))
        h_gone = h_gone.gather(2, kept[:, None].expand(-1, gone.shape[1], -1))
        moved = torch.linalg.solve(corner, h_gone)  # (strips, columns gone, columns kept)
        w_gone = w.gather(2, gone[:, None].expand(-1, w.shape[1], -1))
        w = w.gather(2, kept[:, None].expand(-1, w.shape[1], -1)).baddbmm_(w_gone, moved, alpha=-1)
        h = h.gather(1, kept[:, :, None].expand(-1, -1, h.shape[2]))
        h = h.gather(2, kept[:, None].expand(-1, kept.shape[1], -1))
        h = h.baddbmm_(h_gone.transpose(1, 2), moved, alpha=-1)
    return costs


def _columns(groups: torch.Tensor, cols: int) -> torch.Tensor:
    """(rows, k) numbers of groups -> (rows, k * cols) columns."""
    return (groups[..., None] * cols + torch.arange(cols, device=groups.device)).flatten(1)


def outputs_weigh(model: nn.Module, linears: Mapping[str, nn.Linear],
                  batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Matrix name -> (m,) root mean square of the gradient of the model's outputs by this matrix's, over tokens.

    Padding does not count. With several outputs: of one of them, drawn for each sentence, about the mean of all (a
    softmax does not see the mean).
    """
    sums = {name: torch.zeros(linear.out_features, device=linear.weight.device) for name, linear in linears.items()}
    drawing, tokens, training = torch.Generator("cpu").manual_seed(0), 0, model.training  # alike on every device
    count: torch.Tensor | None = None
    model.eval()

    def hook(name: str):
        def add(gradient: torch.Tensor) -> None:
            rows = of_tokens(gradient, count)
            if rows is not None:
                sums[name] += (rows.float() ** 2).sum(0)
        return lambda _module, _arguments, out: (out.register_hook(add), None)[1]

    hooks = [linear.register_forward_hook(hook(name)) for name, linear in linears.items()]
    try:
        for inputs in batches:
            asked = len(inputs["attention_mask"])
            inputs, count = told_apart(inputs)
            outputs = model(**inputs).logits.float()[:asked]
            if outputs.shape[-1] > 1:
                drawn = torch.randint(outputs.shape[-1], (len(outputs), 1), generator=drawing, device="cpu")
                drawn = drawn.to(outputs.device)
                outputs = (outputs - outputs.mean(-1, keepdim=True)).gather(1, drawn)
            torch.autograd.grad(outputs.sum(), [linear.weight for linear in linears.values()])
            tokens += int(count.sum())
    finally:
        for one in hooks:
            one.remove()
        model.train(training)
    return {name: (total / tokens).sqrt() for name, total in sums.items()}
