"""Layers that execute only what a mask keeps. The output equals the masked dense model's.

    small = compact(model, layout, mask)      # shares embeddings and head with `model`, which stays as it is

A strip of rows becomes *panels*: its kept columns' weights, packed for the registers of this
processor (native.cpp). Rows and columns that have died are taken out of the neighbouring matrices
too: a feed-forward neuron whose row or column is gone, a head whose value or output is gone. What
such a row still gave, a constant from its bias, moves into the next bias. Without a compiler the
same shrunk matrices run on stock torch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from prune_core import native
from prune_core.blocks import BlockShape, Layout, Matrix
from prune_core.masks import BlockMask

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCATTER_COST = 16  # what adding a block to scattered outputs costs, in columns of multiplication


# ---------------------------------------------------------------- one matrix


@dataclass(frozen=True)
class Live:
    """Which outputs and inputs of an m x n matrix are still there after what died around it was removed."""

    rows: np.ndarray  # (m,) bool
    cols: np.ndarray  # (n,) bool

    @classmethod
    def all(cls, matrix: Matrix) -> Live:
        return cls(np.ones(matrix.m, bool), np.ones(matrix.n, bool))


class CompactLinear(nn.Module):
    """y = act(x W^T + b) over what is kept of W: x (..., live columns) -> (..., live rows), fp32.

    `weight` (m, n) and `bias` (m,) are those of the dense layer; `kept` (groups down, groups across) says
    which of its groups count. bf16 keeps the weights in bf16; the arithmetic is fp32.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kept: np.ndarray, block: BlockShape, live: Live | None = None,
                 gelu: bool = False, dtype: torch.dtype = torch.float32):
        super().__init__()
        weight = weight.detach().float()
        bias = torch.zeros(weight.shape[0]) if bias is None else bias.detach().float()
        rows, cols = (np.ones(side, bool) for side in weight.shape) if live is None else (live.rows, live.cols)
        self.out_features, self.in_features, self.gelu = int(rows.sum()), int(cols.sum()), gelu
        self.bias = bias[torch.from_numpy(rows)].contiguous()
        if native.library() is None:
            self._shrink(weight, kept, block, rows, cols, dtype)
        else:
            if block.sides(*weight.shape)[0] < native.library().prunescope_lanes():  # joined strips hold what one of them cuts
                weight = weight * torch.from_numpy(block.expand(kept, *weight.shape))
            self._pack(weight, _plan(kept, block, rows, cols), dtype)

    def _pack(self, weight: torch.Tensor, plan: Plan, dtype: torch.dtype) -> None:
        lanes = native.library().prunescope_lanes()
        self.executed, place_of = plan.executed, np.cumsum(plan.cols) - 1
        sheets, panels, columns, outputs, weights_at, columns_at, outputs_at = [], [], [], [], 0, 0, 0
        row_place = np.cumsum(plan.rows) - 1
        for strip in plan.strips:
            columns.append(place_of[strip.cols])
            lists = torch.from_numpy(strip.cols)
            for part in _parts(len(strip.rows), lanes * native.library().prunescope_max_vectors(), lanes):
                rows = strip.rows[part]
                vectors = -(-len(rows) // lanes)
                sheet = torch.zeros(len(strip.cols), vectors * lanes)
                sheet[:, : len(rows)] = weight[torch.from_numpy(rows)][:, lists].T
                out = outputs_at if plan.scattered else int(row_place[rows[0]])
                panels.append((columns_at, 0, len(strip.cols), weights_at, vectors, out, len(rows)))
                sheets.append(sheet.ravel())
                if plan.scattered:
                    outputs.append(row_place[rows])
                    outputs_at += len(rows)
                weights_at += sheet.numel()
            columns_at += len(strip.cols)
        self.weights = torch.cat(sheets).to(dtype) if sheets else torch.zeros(0, dtype=dtype)
        self.columns = torch.from_numpy(np.concatenate(columns or [[]]).astype(np.int32))
        self.panels = torch.tensor(sorted(panels, key=lambda p: -p[2] * p[4]) or np.zeros((0, 7)), dtype=torch.int64)
        self.outputs = torch.from_numpy(np.concatenate(outputs or [[]]).astype(np.int32)) if plan.scattered else None
        self.padded_bias = F.pad(self.bias, (0, lanes * native.library().prunescope_max_vectors()))  # a panel may read beyond the end

    def _shrink(self, weight: torch.Tensor, kept: np.ndarray, block: BlockShape, rows: np.ndarray, cols: np.ndarray, dtype) -> None:
        """Stock torch: one dense product over the columns that any strip keeps."""
        full = block.expand(kept, *weight.shape)
        used = full.any(0) & cols
        masked = weight * torch.from_numpy(full)
        self.dense = masked[torch.from_numpy(rows)][:, torch.from_numpy(used)].to(dtype).float().contiguous()
        self.used = None if used.sum() == cols.sum() else torch.from_numpy(np.flatnonzero(used[cols]))
        self.executed = "dense torch" if self.used is None and rows.all() else "smaller dense torch"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = native.rows_of(x)
        if native.library() is None or not hasattr(self, "panels"):
            y = F.linear(flat if self.used is None else flat[:, self.used], self.dense, self.bias)
            return (F.gelu(y) if self.gelu else y).view(*x.shape[:-1], self.out_features)
        y = torch.empty(len(flat), self.out_features)
        native.linear(flat, self, y)
        return y.view(*x.shape[:-1], self.out_features)


@dataclass(frozen=True)
class Strip:
    """Outputs that share their kept inputs; both by their number in the dense matrix."""

    rows: np.ndarray
    cols: np.ndarray


@dataclass(frozen=True)
class Plan:
    """How a matrix is executed: its strips, and whether a strip owns its outputs or adds to them."""

    strips: list[Strip]
    scattered: bool
    executed: str
    rows: np.ndarray
    cols: np.ndarray

    @property
    def cost(self) -> float:
        """Multiplications per token, padding to the registers included."""
        lanes = native.library().prunescope_lanes()
        extra = SCATTER_COST if self.scattered else 0
        return float(sum((len(s.cols) + extra) * -(-len(s.rows) // lanes) * lanes for s in self.strips))


def _plan(kept: np.ndarray, block: BlockShape, rows: np.ndarray, cols: np.ndarray) -> Plan:
    """The cheaper way: strips of rows with their kept columns, or strips of columns with their kept rows."""
    r, c = block.sides(len(rows), len(cols))
    plans = [_by_rows(kept, r, c, rows, cols)]
    if c > 1 and r < len(rows):
        plans.append(_by_columns(kept, r, c, rows, cols))
    return min(plans, key=lambda plan: plan.cost)


def _by_rows(kept: np.ndarray, r: int, c: int, rows: np.ndarray, cols: np.ndarray) -> Plan:
    """Bands of rows with the columns that any of their groups keeps; narrow strips are joined to fill a vector."""
    lanes, strips = native.library().prunescope_lanes(), []
    join = max(1, lanes // r)
    for first in range(0, len(kept), join):
        band = kept[first : first + join].any(0)
        out = first * r + np.flatnonzero(rows[first * r : (first + join) * r])
        if len(out):
            strips.append(Strip(out, np.flatnonzero(np.repeat(band, c) & cols)))
    saved = 1 - sum(len(strip.cols) * len(strip.rows) for strip in strips) / max(1, rows.sum() * cols.sum())
    return Plan(strips, False, "strips" if saved > 0.05 else "dense", rows, cols)


def _by_columns(kept: np.ndarray, r: int, c: int, rows: np.ndarray, cols: np.ndarray) -> Plan:
    """Bands of columns with the rows that keep something of them; every band adds to its outputs."""
    strips = []
    for band in range(kept.shape[1]):
        inputs = band * c + np.flatnonzero(cols[band * c : (band + 1) * c])
        out = np.flatnonzero(np.repeat(kept[:, band], r) & rows)
        if len(out) and len(inputs):
            strips.append(Strip(out, inputs))
    return Plan(strips, True, "rows in strips", rows, cols)


def _parts(count: int, most: int, lanes: int) -> list[slice]:
    """`count` outputs in panels of at most `most`, of like width, whole vectors but for the last."""
    panels = max(1, -(-count // most))
    width = -(-(-(-count // panels)) // lanes) * lanes
    return [slice(at, min(count, at + width)) for at in range(0, count, width)]


# ---------------------------------------------------------------- a whole encoder


@torch.no_grad()
def compact(model: nn.Module, layout: Layout, mask: BlockMask, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of `model`, in evaluation mode, whose prunable matrices execute only what `mask` keeps.

    All other parameters are shared with `model`. `.executed`: matrix name -> what runs. Outputs equal
    those of the model with the mask applied, up to rounding.
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    small = copy.deepcopy(model, shared).eval()
    modules = dict(small.named_modules())
    linears = {m.name: modules[m.name] for m in layout.matrices}
    live = {m.name: Live.all(m) for m in layout.matrices}
    biases = {name: torch.zeros(l.out_features) if l.bias is None else l.bias.detach().clone() for name, l in linears.items()}
    fused = set()
    for parts in _layers(layout):
        activation = _activation(modules, parts.get("intermediate"))
        if activation is not None:
            _remove_neurons_(parts, mask, linears, biases, live, activation[2])
            if isinstance(activation[2], nn.GELU) and activation[2].approximate == "none" or type(activation[2]).__name__ == "GELUActivation":
                fused.add(parts["intermediate"].name)
                setattr(activation[0], activation[1], nn.Identity())
        if _heads_are_free(modules, parts):
            _remove_heads_(parts, mask, linears, biases, live, model.config.num_attention_heads)
    small.executed = {}
    for matrix in layout.matrices:
        linear = linears[matrix.name]
        new = CompactLinear(linear.weight, biases[matrix.name], mask.kept[matrix.name], layout.block, live[matrix.name],
                            matrix.name in fused, dtype)
        small.executed[matrix.name] = new.executed
        parent, _, name = matrix.name.rpartition(".")
        setattr(modules[parent], name, new)
    if native.library() is not None:
        _fuse_norms_(small)
    return small


def _layers(layout: Layout) -> list[dict[str, Matrix]]:
    """Type -> matrix, per layer."""
    layers: dict[int, dict[str, Matrix]] = {}
    for matrix in layout.matrices:
        layers.setdefault(matrix.layer, {})[matrix.type] = matrix
    return list(layers.values())


def _activation(modules: Mapping[str, nn.Module], matrix: Matrix | None) -> tuple[nn.Module, str, nn.Module] | None:
    """(parent, attribute, activation) of the feed-forward layer whose first matrix this is; None where it is not known."""
    if matrix is None:
        return None
    parent = modules[matrix.name.rpartition(".")[0]]
    for name in ("intermediate_act_fn", "activation"):
        if isinstance(getattr(parent, name, None), nn.Module):
            return parent, name, getattr(parent, name)
    return None


def _remove_neurons_(parts: Mapping[str, Matrix], mask: BlockMask, linears, biases, live, activation: nn.Module) -> None:
    """Take out neurons whose row of `intermediate` or whose column of `output` is gone; their constants move on."""
    if not {"intermediate", "output"} <= parts.keys():
        return
    one, two = parts["intermediate"], parts["output"]
    block = mask.layout.block
    has_row = block.expand(mask.kept[one.name], one.m, one.n).any(1)
    kept_two = block.expand(mask.kept[two.name], two.m, two.n)
    stays = has_row & kept_two.any(0)
    if stays.all():
        return
    stays[0] |= not stays.any()  # a layer of no neurons is no layer
    constants = activation(biases[one.name]) * torch.from_numpy(~has_row & ~stays)
    biases[two.name] += (linears[two.name].weight * torch.from_numpy(kept_two)) @ constants
    live[one.name], live[two.name] = Live(stays, live[one.name].cols), Live(live[two.name].rows, stays)


def _heads_are_free(modules: Mapping[str, nn.Module], parts: Mapping[str, Matrix]) -> bool:
    """Whether this attention counts its heads by the width it is given (those of transformers' attention interface do)."""
    if not {"query", "key", "value", "attention.output"} <= parts.keys():
        return False
    return hasattr(modules[parts["value"].name.rpartition(".")[0]], "scaling")


def _remove_heads_(parts: Mapping[str, Matrix], mask: BlockMask, linears, biases, live, heads: int) -> None:
    """Take out heads whose value or whose output is gone; a head without value gives its value's bias, always."""
    block, value, output = mask.layout.block, parts["value"], parts["attention.output"]
    has_value = block.expand(mask.kept[value.name], value.m, value.n).any(1).reshape(heads, -1).any(1)
    kept_output = block.expand(mask.kept[output.name], output.m, output.n)
    stays = has_value & kept_output.any(0).reshape(heads, -1).any(1)
    if stays.all():
        return
    stays[0] |= not stays.any()  # attention needs one
    depth = value.m // heads
    constants = biases[value.name] * torch.from_numpy(np.repeat(~has_value & ~stays, depth))
    biases[output.name] += (linears[output.name].weight * torch.from_numpy(kept_output)) @ constants
    rows = np.repeat(stays, depth)
    for kind in ("query", "key", "value"):
        live[parts[kind].name] = Live(rows, live[parts[kind].name].cols)
    live[output.name] = Live(live[output.name].rows, rows)


class _AddNorm(nn.Module):
    """dense, then residual and layer norm in one pass: what BERT's SelfOutput and Output do."""

    def __init__(self, dense: nn.Module, norm: nn.LayerNorm):
        super().__init__()
        self.dense, self.LayerNorm = dense, norm

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return native.add_norm(self.dense(hidden), residual.contiguous(), self.LayerNorm)


def _fuse_norms_(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            parts = dict(child.named_children())
            if set(parts) == {"dense", "LayerNorm", "dropout"} and isinstance(parts["dense"], CompactLinear) and type(parts["LayerNorm"]) is nn.LayerNorm:
                setattr(parent, name, _AddNorm(parts["dense"], parts["LayerNorm"]))
