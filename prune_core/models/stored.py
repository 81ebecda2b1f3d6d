"""A stage's weights as a file: every tensor as it is, or of the prunable matrices only the blocks that are not zero.

The smaller form, which ships, has for each matrix X in place of X.weight

    X.weight.blocks   uint8: one bit for each block, row by row of the grid, 1 for kept
    X.weight.kept     bf16 (kept blocks, rows, columns): their values, in the same order

and says so in the file's metadata: {"form": "kept blocks", "block": "64x1"}. Nothing is rounded: runs keep bf16.
A stage that was trained in few bits ships packed (packed.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.models import packed

FORM = "kept blocks"


def read(path: Path, layout: Layout) -> dict[str, torch.Tensor]:
    """Name -> tensor of a stage, whichever form the file has; what was cut is zero.

    Raises OSError, SafetensorError, KeyError or ValueError where the file is damaged or of another layout.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    if about.get("form") == packed.FORM:
        return packed.dequantized(*packed.read(tensors, about, layout))
    if about.get("form") != FORM:
        return tensors
    if about.get("block") != str(layout.block):
        raise ValueError(f"its blocks are {about.get('block')}; needed: {layout.block}")
    for matrix in layout.matrices:
        name = f"{matrix.name}.weight"
        tensors[name] = _whole(tensors.pop(f"{name}.blocks"), tensors.pop(f"{name}.kept"), layout.block, matrix)
    return tensors


def kept_blocks(tensors: Mapping[str, torch.Tensor], layout: Layout) -> bytes:
    """The file that holds of each matrix only the blocks that are not zero.

    Raises InputError for weights that are not bf16: they would have to be rounded, and then score otherwise.
    """
    from safetensors.torch import save

    left = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if others := {tensor.dtype for tensor in left.values()} - {torch.bfloat16}:
        raise InputError(f"weights are {', '.join(sorted(map(str, others)))}; needed: torch.bfloat16, in which runs "
                         "keep them, as others would be rounded and score otherwise")
    for matrix in layout.matrices:
        name = f"{matrix.name}.weight"
        divided = _blocks(left.pop(name), layout.block)
        kept = (divided != 0).any(-1).any(-1)
        left[f"{name}.blocks"] = torch.from_numpy(np.packbits(kept.numpy()))
        left[f"{name}.kept"] = divided[kept].contiguous()
    return save(left, {"form": FORM, "block": str(layout.block)})


def _blocks(weight: torch.Tensor, block: BlockShape) -> torch.Tensor:
    """(m, n) -> (groups down, groups across, rows, columns), the same memory."""
    return block.view(weight).permute(0, 2, 1, 3)


def _whole(bits: torch.Tensor, values: torch.Tensor, block: BlockShape, matrix: Matrix) -> torch.Tensor:
    """The matrix again. Raises ValueError where bits and values do not fit it or one another."""
    weight, grid = torch.zeros(matrix.m, matrix.n, dtype=values.dtype), block.grid(matrix.m, matrix.n)
    count, divided = grid[0] * grid[1], _blocks(weight, block)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        raise ValueError(f"{matrix.name} has {tuple(bits.shape)} bytes of bits for {count:,} blocks")
    kept = torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).reshape(grid)
    if values.shape != (int(kept.sum()), *divided.shape[2:]):
        raise ValueError(f"{matrix.name} has {tuple(values.shape)} values for {int(kept.sum()):,} kept blocks")
    divided[kept] = values
    return weight
