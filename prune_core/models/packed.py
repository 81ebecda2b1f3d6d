"""A model as a packed file: what is kept in its formats, and nothing else. As large as storage.py counts, to the byte.

Safetensors: X.weight.packed for each prunable matrix X (precision/unpack.py says in which order), all other parameters
under their own names in fp32, the word embeddings in int8 with X.scale where that was asked for. Metadata: {"form":
"packed", "block", "formats", "matrices": sides, sides of a block and format of each, "padding"}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.precision import packing
from prune_core.precision.formats import Format, Formats
from prune_core.precision.quantizers import Quantized, codes_at, quantize
from prune_core.precision.storage import header_bytes

FORM = "packed"


def write(parameters: Mapping[str, torch.Tensor], mask: BlockMask, formats: Formats, matrices: Mapping[str, Quantized],
          embeddings: tuple[str, Quantized] | None = None) -> bytes:
    """The file of a whole model. `matrices`: each as it is stored; `embeddings`: the word table's name, and it in int8.

    Raises InputError where the header takes more than is counted for it.
    """
    stored = {name: one.detach().float().contiguous() for name, one in parameters.items()}
    if embeddings:
        stored |= _table(*embeddings)
    _pack_(stored, mask.layout, matrices, mask.kept)
    return _padded(stored, _about(mask.layout, formats, matrices), header_bytes(mask.layout))


def stage(tensors: Mapping[str, torch.Tensor], layout: Layout, formats: Formats) -> bytes:
    """The file of a run's stage that was trained in these formats; all but the matrices as it is.

    `tensors`: X.weight on its levels, X.weight.scale or X.weight.codebook. Raises InputError for weights that are not.
    """
    from safetensors.torch import save

    stored, matrices, kept = {name: one.contiguous() for name, one in tensors.items()}, {}, {}
    for matrix in layout.matrices:
        name = f"{matrix.name}.weight"
        weight, format = stored[name], formats.of(layout)[matrix.name]
        if format.kind == "float" and weight.dtype == torch.bfloat16:
            format = replace(format, bits=16)
        own = weight.float().numpy()
        kept[matrix.name] = blocks = layout.block.view(own != 0).any((1, 3))
        given = {key: stored.pop(f"{name}.{one}", None) for key, one in (("scales", "scale"), ("codebook", "codebook"))}
        made = quantize(own, format, layout.block.expand(blocks, *own.shape),
                        **{key: None if one is None else one.float().numpy() for key, one in given.items()})
        if not np.array_equal(made.values, own):
            raise InputError(f"weights of {matrix.name} are not what {format.words} can store; they would be rounded "
                             "and score otherwise")
        matrices[matrix.name] = made
    for name in [name for name in stored if f"{name}.scale" in stored and formats.embeddings == 8]:
        scales = stored[f"{name}.scale"].float().numpy()
        stored |= _table(name, Quantized(Format.parse("8"), np.ones(stored[name].shape, bool), codes_at(
            stored[name].float().numpy(), scales, 127), scales))
    _pack_(stored, layout, matrices, kept)
    return save(stored, _about(layout, formats, matrices))


def _table(name: str, table: Quantized) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(table.codes.astype(np.int8)), f"{name}.scale": torch.tensor(table.scales)}


def _pack_(stored: dict[str, torch.Tensor], layout: Layout, matrices: Mapping[str, Quantized],
           kept: Mapping[str, np.ndarray]) -> None:
    """Put each matrix in its packed form in place of its weight."""
    for matrix in layout.matrices:
        del stored[f"{matrix.name}.weight"]
        stored[f"{matrix.name}.weight.packed"] = torch.tensor(packing.pack(matrices[matrix.name], kept[matrix.name]))


def _about(layout: Layout, formats: Formats, matrices: Mapping[str, Quantized]) -> dict[str, str]:
    """The file's metadata."""
    each = {m.name: [m.m, m.n, *layout.block.sides(m.m, m.n), str(matrices[m.name].format)] for m in layout.matrices}
    return {"form": FORM, "block": str(layout.block), "formats": str(formats),
            "matrices": json.dumps(each, separators=(",", ":"))}


def _padded(stored: Mapping[str, torch.Tensor], about: Mapping[str, str], size: int) -> bytes:
    """The file with a header of exactly `size` bytes, its length included. Raises InputError where it takes more."""
    from safetensors.torch import save

    need = len(save(stored, about | {"padding": ""})) - sum(t.numel() * t.element_size() for t in stored.values())
    if need > size:
        raise InputError(f"the header of the file takes {need:,} bytes, {size:,} are counted for it; needed: shorter "
                         "names of parameters")
    return save(stored, about | {"padding": " " * (size - need)})


def read(stored: Mapping[str, torch.Tensor], about: Mapping[str, str], layout: Layout) -> tuple[
        dict[str, Quantized], dict[str, torch.Tensor]]:
    """(matrix -> it, all other tensors as they are stored) of a packed file's tensors and metadata.

    Raises KeyError or ValueError where it is damaged or of another layout.
    """
    if about.get("block") != str(layout.block):
        raise ValueError(f"its blocks are {about.get('block')}; needed: {layout.block}")
    left, said, matrices = dict(stored), json.loads(about["matrices"]), {}
    for matrix in layout.matrices:
        if said[matrix.name][:2] != [matrix.m, matrix.n]:
            raise ValueError(f"{matrix.name} is {said[matrix.name][:2]}; needed: [{matrix.m}, {matrix.n}]")
        data = left.pop(f"{matrix.name}.weight.packed")
        if data.dtype != torch.uint8 or data.ndim != 1:
            raise ValueError(f"{matrix.name} is {data.dtype}, {tuple(data.shape)}; needed: bytes")
        matrices[matrix.name] = packing.read(data.numpy(), matrix, layout.block, Format.parse(said[matrix.name][4]))
    return matrices, left


def dequantized(matrices: Mapping[str, Quantized], others: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name -> tensor as a stage has them: X.weight in fp32, with X.weight.scale or X.weight.codebook; a table in int8
    likewise. Raises KeyError for one without its scales."""
    tensors = {}
    for name, one in others.items():
        tensors[name] = one.float() * others[f"{name}.scale"][:, None] if one.dtype == torch.int8 else one
    for name, one in matrices.items():
        tensors[f"{name}.weight"] = torch.from_numpy(one.values)
        for kind, array in (("scale", one.scales), ("codebook", one.codebook)):
            if array is not None:
                tensors[f"{name}.weight.{kind}"] = torch.from_numpy(array)
    return tensors
