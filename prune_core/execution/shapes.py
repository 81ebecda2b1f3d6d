"""One matrix with the same share of zeros in single weights, tiles and strips, timed against the dense product."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from prune_core.cutting.blocks import BlockShape
from prune_core.execution import native
from prune_core.execution.compact import CompactLinear
from prune_core.execution.timing import alternate
from prune_core.machine import machine

_PATTERNS = {"single weights": "1x1", "tiles of 16x16": "16x16", "strips of 64x1": "64x1"}


def shapes(
    sparsity: float, threads: int = 0, seconds: float = 6.0, m: int = 1536, n: int = 384, tokens: int = 1024,
) -> dict:
    """One m x n matrix times `tokens` inputs, the same share of zeros in three patterns: what `shapes --json` prints.

    Single zeros run as torch's sparse matrix (CSR), tiles and strips on the compact layer; all in turn with
    torch's dense product.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    draw, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    weight, x = torch.randn(m, n, generator=draw), torch.randn(tokens, n, generator=draw)
    calls: dict[str, Callable[[], object]] = {"dense": lambda: torch.nn.functional.linear(x, weight)}
    executed = {"dense": "torch, dense product"}
    for pattern, text in _PATTERNS.items():
        block = BlockShape.parse(text)
        kept = np.ones(block.grid(m, n), bool)
        kept.ravel()[random.permutation(kept.size)[: round(sparsity * kept.size)]] = False
        if text == "1x1":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls its sparse matrices unfinished
                sparse = (weight * torch.from_numpy(kept)).to_sparse_csr()
            calls[pattern], executed[pattern] = (lambda sparse=sparse: sparse @ x.T), "torch, sparse matrix (CSR)"
        else:
            layer = CompactLinear(weight, None, kept, block)
            calls[pattern], executed[pattern] = (lambda layer=layer: layer(x)), f"compact layer, {layer.executed}"
    with torch.inference_mode():
        times = alternate(calls, seconds)
    dense = times["dense"].median
    patterns = [{"pattern": name, "block": _PATTERNS.get(name), "ms": timing.median,
                 "spread": [timing.low, timing.high], "speedup": dense / timing.median, "executed": executed[name]}
                for name, timing in times.items()]
    return {"sparsity": sparsity, "m": m, "n": n, "tokens": tokens, "threads": torch.get_num_threads(),
            "machine": machine(), "patterns": patterns, "kernels": native.why_not() or "native"}
