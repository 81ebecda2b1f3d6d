"""A matrix as the pass over a whole encoder takes it: the weights of every strip in the order of their use."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from prune_core.execution import native
from prune_core.latency.strips import Blocking, Execution

_LONG, _POINTER, _DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
PADDING = 64  # elements that may be read beyond the end
_TILES = {"bf16 amx": Blocking(32, 32, 32, 16), "int8 amx": Blocking(32, 32, 64, 16)}
_STEPS = {"fp32": 1, "bf16 avx512": 2, "int8 vnni": 4}
ACTIVATIONS = {"": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


class Linear(ctypes.Structure):
    """The struct Linear of lines.hpp."""

    _fields_ = [*((name, _POINTER) for name in ("columns", "weights", "strips", "outputs", "bias", "scales", "sums")),
                *((name, _LONG) for name in ("count", "inputs", "width", "act"))]


class EncoderLayer(ctypes.Structure):
    """The struct EncoderLayer of lines.hpp."""

    _fields_ = [*((name, Linear) for name in ("query", "key", "value", "out", "inner", "outer")),
                *((name, _POINTER) for name in ("norm_weight", "norm_bias", "last_weight", "last_bias")),
                *((name, _DOUBLE) for name in ("norm_eps", "last_eps", "scale")), ("heads", _LONG)]


class Encoder(ctypes.Structure):
    """The struct Encoder of lines.hpp."""

    _fields_ = [("layers", _POINTER), *((name, _LONG) for name in ("count", "hidden", "depth", "first_only")),
                *((name, _POINTER) for name in ("words", "places", "kinds", "norm_weight", "norm_bias")),
                ("norm_eps", _DOUBLE), ("bias", _POINTER), ("bias_reach", _LONG)]


class Input(ctypes.Structure):
    """The struct Input of lines.hpp."""

    _fields_ = [*((name, _POINTER) for name in ("starts", "lengths", "words", "places", "kinds", "rows")),
                *((name, _LONG) for name in ("sentences", "tokens", "block", "threads")), ("spent", _POINTER)]


@dataclass(frozen=True)
class Packed:
    """`struct` points into `tensors`, which live as long as this does."""

    struct: Linear
    tensors: tuple[torch.Tensor | None, ...]
    executed: str

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors if t is not None)


def blocking(path: str) -> Blocking:
    """What this path takes together. Only where its kernels could be built."""
    library, _ = native.kernels(path)
    return _TILES.get(path) or Blocking(library.prunescope_tile(), library.prunescope_rows(), _STEPS[path])


def pack(weight: torch.Tensor, bias: torch.Tensor, plan: Execution, path: str, takes: Blocking,
         activation: str = "", scales: torch.Tensor | None = None) -> Packed:
    """`weight` (m, n), masked, and `bias` (m,), fp32, of the dense layer; what `plan` keeps of them, for `path`.

    int8: symmetric, with `scales` (m,) of the outputs of which the weights are whole multiples up to 127, else from the
    largest kept weight of each.
    """
    live, dtype = plan.live, path.split()[0]
    row_place, col_place = np.cumsum(live.rows) - 1, np.cumsum(live.cols) - 1
    rows = torch.from_numpy(live.rows)
    sums = None
    if dtype == "int8":
        scales = weight.abs().amax(1).clamp_min(1e-12) / 127 if scales is None else scales
        weight = (weight / scales[:, None]).round_()
        sums = torch.zeros(len(weight))
    sheets, strips, columns, outputs = [], [], [], []
    weights_at = columns_at = outputs_at = 0
    for strip in plan.strips:
        block = weight[torch.from_numpy(strip.rows)][:, torch.from_numpy(strip.cols)]
        if dtype == "int8":
            sums[torch.from_numpy(strip.rows)] += block.sum(1)
        sheet = _sheet(block, path, takes)
        out = outputs_at if plan.scattered else int(row_place[strip.rows[0]])
        strips.append((columns_at, len(strip.cols), weights_at, out, len(strip.rows)))
        sheets.append(sheet)
        outputs.append(row_place[strip.rows])
        columns.append(col_place[strip.cols] * takes.tile)
        outputs_at += len(strip.rows)
        columns_at += len(strip.cols)
        weights_at += sheet.numel()
    if dtype == "int8":
        scales, sums = scales[rows].contiguous(), (scales * sums)[rows].contiguous()
    pad = torch.zeros(PADDING, dtype=_STORED[dtype])  # never empty: then it would have no address
    tensors = (torch.from_numpy(np.concatenate([*columns, [0] * PADDING]).astype(np.int32)), torch.cat([*sheets, pad]),
               torch.tensor(strips, dtype=torch.int64).view(len(strips), 5),
               torch.from_numpy(np.concatenate([*outputs, [0]]).astype(np.int32)) if plan.scattered else None,
               bias[rows].contiguous(), scales if dtype == "int8" else None, sums)
    struct = Linear(*(None if t is None else t.data_ptr() for t in tensors), len(strips),
                    int(live.cols.sum()), int(live.rows.sum()), ACTIVATIONS[activation])
    return Packed(struct, tensors, plan.executed)


_STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def _sheet(block: torch.Tensor, path: str, takes: Blocking) -> torch.Tensor:
    """Kept weights of a strip (rows, kept), flat: part by part, step by step, row by row, `step` columns together."""
    rows, kept = block.shape
    steps = -(-kept // takes.step)
    block = F.pad(block, (0, steps * takes.step - kept)).to(_STORED[path.split()[0]]).view(rows, steps, takes.step)
    if path.endswith("amx"):
        return torch.cat([_tiles(block[part], takes.unit) for part in takes.parts(rows)])
    return torch.cat([block[part].transpose(0, 1).reshape(-1) for part in takes.parts(rows)])


def _tiles(part: torch.Tensor, unit: int) -> torch.Tensor:
    """Rows (rows, steps, step), flat, for tiles of `unit` rows: step by step, its one or two tiles."""
    tiles = -(-len(part) // unit)
    full = F.pad(part, (0, 0, 0, 0, 0, tiles * unit - len(part)))
    return full.view(tiles, unit, *full.shape[1:]).permute(2, 0, 1, 3).reshape(-1)
