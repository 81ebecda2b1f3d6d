"""The whole encoder in one pass of native code, sentences end to end: what runs when a compact model is used."""

from __future__ import annotations

from torch import nn

from prune_core.cutting.masks import BlockMask
from prune_core.execution import paths
from prune_core.execution.compact import compact
from prune_core.execution.paths import Choice
from prune_core.execution.unpadded import unpad_
from prune_core.latency.strips import Blocking


def small_model(model: nn.Module, mask: BlockMask, dtype: str = "fp32", path: str | None = None) -> nn.Module:
    """The compact model in the arithmetic `dtype` (fp32, bf16, int8, auto), without padding where that can be done.

    `path` forces one of paths.PATHS. `.executed`: matrix name -> what runs; `.choice`: the arithmetic and path that
    were really taken, and why another than the one asked for. Raises InputError.
    """
    choice: Choice = paths.choose(dtype, path)
    small = compact(model, mask)
    small.choice = choice
    unpad_(small)
    return small


def blocking(path: str) -> Blocking:
    """How the pass takes strips on this path."""
    return Blocking(32, 14, 1, 4)
