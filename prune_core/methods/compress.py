"""Post-training compression: kept weights into few bits and patterns, without a gradient, in seconds.

Without Gram matrices every weight goes to its nearest level. With them what is cut is made up for first (repair.py),
then every matrix is rounded column by column, and what is left moves to make up for the error so far (columns.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from prune_core.cutting.blocks import Matrix
from prune_core.cutting.masks import BlockMask
from prune_core.methods.columns import rounded
from prune_core.methods.repair import Gram
from prune_core.precision.formats import Format, Formats
from prune_core.precision.quantizers import Quantized, kept_of, quantize

EMBEDDINGS = Format("levels", 8)  # by rows
Grids = Mapping[str, tuple[np.ndarray | None, np.ndarray | None]]  # matrix name -> (scales (m,), codebook (k,))


@dataclass(frozen=True)
class Compressed:
    """A model as it is stored: `matrices` by name, `embeddings` (rows, width) or None.

    `ranges`: by matrix the least and the largest of its inputs, where activations have a scale for each tensor.
    """

    formats: Formats
    matrices: Mapping[str, Quantized]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    embeddings: Quantized | None = None

    @property
    def scales(self) -> dict[str, torch.Tensor]:
        """Matrix name -> (m,) scales of those whose weights are whole numbers up to 127 times them."""
        return {name: torch.from_numpy(one.scales) for name, one in self.matrices.items() if one.format.executable}


def quiet(done: int, total: int) -> None:
    """Nobody watches."""


def compress_(linears: Mapping[str, nn.Linear], mask: BlockMask, formats: Formats,
              grams: Mapping[str, Gram] | None = None, given: Grids | None = None,
              report: Callable[[int, int], None] = quiet, words: tuple[str, nn.Module] | None = None) -> Compressed:
    """Cut, and bring what is kept into `formats`, in place: fp32 weights (m, n) that are exactly what is stored.

    `grams`: repaired, biases too; `given`: grids of trained weights, used instead of new ones; `words`: name and module
    of the embeddings, where they are to be in 8 bits. `report` gets how many of how many matrices are done, and may
    raise to stop. Raises InputError for formats of another layout.
    """
    of = formats.check(mask.layout).of(mask.layout)

    def one(matrix: Matrix) -> tuple[str, Quantized]:
        gram = grams[matrix.name] if grams is not None else None
        return matrix.name, _compress_one_(linears[matrix.name], matrix, mask, of[matrix.name], gram,
                                           *(given or {}).get(matrix.name, (None, None)))

    matrices, threads = {}, torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))  # as repair_ takes them
    try:
        for done, (name, quantized) in enumerate(pool.map(one, mask.layout.matrices), 1):
            matrices[name] = quantized
            report(done, len(mask.layout.matrices))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
    return Compressed(formats, matrices, ranges(formats, grams), _embeddings_(formats, words, given or {}))


@torch.no_grad()
def _compress_one_(linear: nn.Linear, matrix: Matrix, mask: BlockMask, format: Format, gram: Gram | None,
                   scales: np.ndarray | None, codebook: np.ndarray | None) -> Quantized:
    kept, before = kept_of(mask, matrix.name), linear.weight.detach().float().clone()
    before, device = before.cpu(), linear.weight.device  # thousands of short operations: on a processor everywhere
    gram = gram and gram.to(before.device)
    plain = quantize(before.numpy(), format, kept, scales, codebook)
    made = plain
    if gram is not None and not np.array_equal(plain.values, before.numpy()):  # on its grid already: not moved
        made = rounded(before, torch.from_numpy(kept), plain, gram, scales is not None or codebook is not None)
    linear.weight.copy_(torch.from_numpy(made.values))
    if gram is not None and linear.bias is not None and made is not plain:
        linear.bias += ((before - linear.weight.cpu()) @ (gram.total / gram.count)).to(device)
    return made


def ranges(formats: Formats, grams: Mapping[str, Gram] | None) -> dict[str, tuple[float, float]]:
    """Of the inputs of every matrix, where formats have one scale for all of them."""
    if formats.activations != "tensor":
        return {}
    return {name: gram.range for name, gram in (grams or {}).items()}


@torch.no_grad()
def _embeddings_(formats: Formats, words: tuple[str, nn.Module] | None, given: Grids) -> Quantized | None:
    if formats.embeddings != 8 or words is None:
        return None
    name, table = words
    made = quantize(table.weight.detach().float().cpu().numpy(), EMBEDDINGS, scales=given.get(name, (None, None))[0])
    table.weight.copy_(torch.from_numpy(made.values))
    return made
