"""Rankings of groups beside the plain norm: what a threshold may be on. Each is a rankings.Ranking.

    Activation   sqrt(sum of w_ij^2 * E[x_j^2])           the norm, weighted by the inputs it meets (Wanda's, per group)
    Taylor       sqrt(E[(sum of w_ij * dL/dw_ij)^2])      Fisher information of a mask on the group (Kwon et al.,
                                                          arXiv 2204.09656)
    Loss         sqrt(w_C ([H^-1]_CC)^-1 w_C^T, summed)   what is lost in least squares when the group goes and the rest
                                                          of its row is repaired
    Surgeon      (surgeon.py) the same, but group after group: each is chosen after the rest has been repaired for all
                 that went before, and every row counts by how much the model's outputs hang on it, so that matrices can
                 be compared

All are at least 0, and 0 where the group is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prune_core.cutting.blocks import BlockShape, Layout
from prune_core.methods.repair import DAMP, Gram
from prune_core.models import devices
from prune_core.models.encoders import Encoder
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded

BATCH = 8  # sentences behind one gradient: few, so that the mean of squares is not the square of a mean


@dataclass(frozen=True)
class Activation:
    """Needs the inputs' second moments."""

    grams: Mapping[str, Gram]

    def of(self, encoder: Encoder, layout: Layout) -> dict[str, np.ndarray]:
        return {name: layout.block.norms(weight.detach() * self.grams[name].rms()).cpu().numpy()
                for name, weight in encoder.weights.items()}

    def factors(self, encoder: Encoder, layout: Layout) -> dict[str, torch.Tensor]:
        """Root mean square of the inputs that each group meets."""
        return {m.name: layout.block.norms(self.grams[m.name].rms().expand(m.m, m.n)) / layout.group_size(m) ** 0.5
                for m in layout.matrices}


@dataclass(frozen=True)
class Loss:
    """Needs the inputs' Gram matrices."""

    grams: Mapping[str, Gram]

    def of(self, encoder: Encoder, layout: Layout) -> dict[str, np.ndarray]:
        return {m.name: self._one(encoder.weights[m.name].detach(), self.grams[m.name], layout.block)
                for m in layout.matrices}

    def _one(self, weight: torch.Tensor, gram: Gram, block: BlockShape) -> np.ndarray:
        n = weight.shape[1]
        groups, cols = block.view(weight), block.sides(*weight.shape)[1]  # (groups down, rows, groups across, cols)
        h = gram.centred() / gram.count
        h = h + DAMP * float(h.diagonal().mean()) * torch.eye(n, device=h.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
        own = BlockShape(cols, cols).view(inverse).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (across, cols, cols)
        lost = torch.einsum("draj,ajk,drak->da", groups, torch.linalg.inv(own), groups)
        return lost.clamp_min(0.0).sqrt().cpu().numpy()


@dataclass(frozen=True)
class Taylor:
    """Needs sentences with labels."""

    data: Encoded
    sentences: Sequence[int]

    def of(self, encoder: Encoder, layout: Layout) -> dict[str, np.ndarray]:
        block, model, device = layout.block, encoder.model.eval(), devices.of(encoder.model)
        sums = {m.name: torch.zeros(block.grid(m.m, m.n), device=device) for m in layout.matrices}
        asked = np.asarray(self.sentences)
        batches = [asked[at] for at in encoding.dev_batches(self.data.lengths[asked], BATCH)]
        for at in batches:
            inputs, labels = self.data.batch(at, device)
            model(**inputs, labels=labels).loss.backward()
            with torch.no_grad():
                for name, weight in encoder.weights.items():
                    sums[name] += block.view(weight * weight.grad).sum((1, 3)) ** 2
            model.zero_grad()
        return {name: (total / len(batches)).sqrt().cpu().numpy() for name, total in sums.items()}
