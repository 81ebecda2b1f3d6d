"""Every path on the same matrices, in turn: which one is the fastest here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import torch

from prune_core.cutting.blocks import BlockShape
from prune_core.execution import native, packing
from prune_core.execution.alternate import alternate
from prune_core.latency.strips import Live, plan_matrix

_SIZES = ((384, 384), (384, 1536))  # outputs x inputs: the last is where quantizing costs most
_TOKENS, _SHARE = 512, 0.5


def run(names: Sequence[str], seconds: float = 0.6) -> dict[str, float]:
    """Path -> milliseconds of two matrices, half of whose 64x1 groups are kept, for 512 tokens."""
    calls = {name: _matrices(name) for name in names}
    return {name: taken.median for name, taken in alternate(calls, seconds).items()}


def _matrices(path: str) -> Callable[[], None]:
    calls = [lines_call(path, m, n, _TOKENS, _SHARE) for m, n in _SIZES]
    return lambda: [call() for call in calls]


def lines_call(
    path: str, m: int, n: int, tokens: int, share: float, rows: int = 64, seed: int = 0,
) -> Callable[[], None]:
    """One m x n matrix, `share` of its groups of `rows` x 1 kept, by this path as the pass runs it.

    That is from lines to lines, quantizing included.
    """
    random, draw = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    block, takes = BlockShape(rows, 1), packing.blocking(path)
    weight, bias = torch.randn(m, n, generator=draw) / n**0.5, torch.randn(m, generator=draw)
    kept = random.random(block.grid(m, n)) < share
    packed = packing.pack(weight, bias, plan_matrix(kept, block, Live.all(m, n), takes), path, takes)
    tiles, tile = -(-tokens // takes.tile), takes.tile
    kind = torch.float32 if path == "fp32" else torch.bfloat16
    x, y = torch.randn(tiles, n, tile, generator=draw).to(kind), torch.zeros(tiles, m, tile, dtype=kind)
    quantized, scales = torch.zeros(tiles, n, tile, dtype=torch.uint8), torch.zeros(tiles, 2, tile)
    library, _ = native.kernels(path)

    def call() -> None:
        library.prunescope_linear_lines(ctypes.addressof(packed.struct), x.data_ptr(), quantized.data_ptr(),
                                        scales.data_ptr(), tiles, y.data_ptr(), torch.get_num_threads())

    return call
