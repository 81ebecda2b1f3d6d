"""Methods without gradient steps: groups are chosen and what is kept is moved, from the inputs that every matrix meets.

    SurgeonCut   the groups whose removal costs least when their turn comes (surgeon.py)
    BlockADMM    W0 = W * norm;  Z = (W + U) * mask;  U = U + W - Z;  W = (W0 H + rho (Z - U)) (H + rho I)^-1

The second is of arXiv 2401.02938. There the mask is of single weights, |W + U|; here of groups, by their norm. H is the
Gram matrix of the inputs scaled to a diagonal of 1, so that norms are those of Wanda; the wanted share rises with the
cube, s_t = s - s (1 - t/15)^3, over the first 15 of 20 iterations. Both end in the least-squares optimum of their mask
(repair.py). All training goes into what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.methods import repair
from prune_core.methods.compress import compress_
from prune_core.methods.rankings import SENTENCES
from prune_core.methods.repair import Gram
from prune_core.methods.surgeon import Surgeon
from prune_core.models.encoders import Encoder
from prune_core.precision.formats import Format, Formats
from prune_core.tasks.encoding import Encoded

RHO = 1.0  # times the diagonal of the scaled H
DAMP = 0.1  # of the diagonal of the scaled H
ITERATIONS, RISING = 20, 15
PLAIN = Formats()


class ClosedForm:
    """Ranks the groups of the dense model once, or for every share; cuts and repairs in place."""

    def __init__(self, encoder: Encoder, layout: Layout, scope: str, grams: Mapping[str, Gram], data: Encoded,
                 sentences: Sequence[int]):
        """`grams`: of the encoder as it is, from these `sentences` of `data`."""
        self.encoder, self.layout, self.scope, self.grams = encoder, layout, scope, grams

    def ranks(self, sparsity: float) -> dict[str, np.ndarray]:
        """Matrix name -> (groups down, groups across): the lowest go at this sparsity."""
        raise NotImplementedError

    def cut_(self, sparsity: float, formats: Formats = PLAIN) -> None:
        """Zero the share `sparsity` of the dense weights' groups, and what the patterns of `formats` cut of the others;
        move what is kept. Rounding is a matter of the retraining.
        """
        mask = mask_at_sparsity(self.ranks(sparsity), self.layout, sparsity, self.scope)
        if any(one.pattern for one in formats.weights):
            patterns = Formats(formats.scope, tuple(Format(pattern=one.pattern) for one in formats.weights))
            compress_(self.encoder.linears, mask, patterns, self.grams)
        else:
            repair.repair_(self.encoder.linears, mask, self.grams)


class SurgeonCut(ClosedForm):
    """One ranking serves every share."""

    def __init__(self, encoder: Encoder, layout: Layout, scope: str, grams: Mapping[str, Gram], data: Encoded,
                 sentences: Sequence[int]):
        super().__init__(encoder, layout, scope, grams, data, sentences)
        self._ranks = Surgeon(grams, data, sentences[:SENTENCES]).of(encoder, layout)

    def ranks(self, sparsity: float) -> dict[str, np.ndarray]:
        return self._ranks


class BlockADMM(ClosedForm):
    """Every share has iterations of its own."""

    @torch.no_grad()
    def ranks(self, sparsity: float) -> dict[str, np.ndarray]:
        block, weights = self.layout.block, self.encoder.weights
        norms = {name: gram.rms() + 1e-9 for name, gram in self.grams.items()}
        start = {name: weight.detach() * norms[name] for name, weight in weights.items()}
        wanted, inverse = {}, {}
        for name, gram in self.grams.items():
            h = gram.products / gram.count / torch.outer(norms[name], norms[name]) + DAMP * _one(norms[name])
            wanted[name] = start[name] @ h
            inverse[name] = torch.cholesky_inverse(torch.linalg.cholesky(h + RHO * _one(h)))
        w, u = dict(start), {name: torch.zeros_like(value) for name, value in start.items()}
        for t in range(ITERATIONS):
            share = sparsity - sparsity * max(0.0, 1 - (t + 1) / RISING) ** 3
            ranks = {name: block.norms(w[name] + u[name]).cpu().numpy() for name in w}
            kept = mask_at_sparsity(ranks, self.layout, share, self.scope).kept
            for name in w:
                z = w[name] + u[name]
                block.scale_(z, torch.from_numpy(kept[name]).float().to(z.device))
                u[name] = u[name] + w[name] - z
                w[name] = (wanted[name] + RHO * (z - u[name])) @ inverse[name]
        return ranks


def _one(like: torch.Tensor) -> torch.Tensor:
    """(n, n) the identity, for `like` of n rows."""
    return torch.eye(len(like), device=like.device)
