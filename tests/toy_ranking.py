"""A ranking as a stranger would add it: this file, and the row. The largest weight of a group decides."""

from __future__ import annotations

import torch


class Largest:
    """`of`: the largest absolute value of each group; `factors`: that over the norm."""

    def __init__(self, grams, data, sentences):
        pass

    def of(self, encoder, layout):
        with torch.no_grad():
            return {name: layout.block.view(weight).abs().amax((1, 3)).numpy()
                    for name, weight in encoder.weights.items()}

    def factors(self, encoder, layout):
        norms = encoder.norms(layout.block)
        return {name: torch.from_numpy(largest / norms[name].clip(1e-9))
                for name, largest in self.of(encoder, layout).items()}
