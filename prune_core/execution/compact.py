"""Layers that execute only what a mask keeps. The output equals the masked dense model's.

    small = compact(model, mask)      # shares embeddings and head with `model`, which stays as it is

A strip of rows becomes *panels*: its kept columns' weights, packed for the registers of this
processor (native.cpp). Rows and columns that have died are taken out of the neighbouring matrices
too: a feed-forward neuron whose row or column is gone, a head whose value or output is gone. What
such a row still gave, a constant from its bias, moves into the next bias. Without a compiler the
same shrunk matrices run on stock torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.cutting.masks import BlockMask
from prune_core.execution import native, packing
from prune_core.execution.activations import Rounding
from prune_core.execution.native import Layer
from prune_core.latency.strips import Execution, Live, layers_of, living, plan_matrix
from prune_core.models.encoders import heads_of


class CompactLinear(nn.Module):
    """y = act(x W^T + b) over what is kept of W: x (..., live columns) -> (..., live rows), fp32.

    `weight` (m, n) and `bias` (m,) are those of the dense layer; `kept` (groups down, groups across) says
    which of its groups count. `path` multiplies in its own arithmetic (paths.PATHS), None in fp32; `executed` says how.
    Without `kernels` it is stock torch, which other engines can be given. `scales` (m,): of int8 weights, if they are
    whole multiples of them; `rounding` of what comes in, before everything else.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, kept: np.ndarray, block: BlockShape,
        live: Live | None = None, gelu: bool = False, path: str | None = None, kernels: bool = True,
        scales: torch.Tensor | None = None, rounding: Rounding | None = None,
    ):
        super().__init__()
        weight, live = weight.detach().float(), live or Live.all(*weight.shape)
        self.rounding = rounding
        bias = weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().float()
        self.out_features, self.in_features, self.gelu = int(live.rows.sum()), int(live.cols.sum()), gelu
        self.bias = bias[torch.from_numpy(live.rows).to(bias.device)].contiguous()
        self.native = kernels and (native.library() if path is None else native.kernels(path)[0]) is not None
        if not self.native:
            self._shrink(weight, block.expand(kept, *weight.shape), live)
            return
        self._run = None
        registers = native.registers() if path is None else packing.blocking(path)
        if block.sides(*weight.shape)[0] < registers.lanes or path is not None:  # joined strips hold what one cuts
            weight = weight * torch.from_numpy(block.expand(kept, *weight.shape))
        plan = plan_matrix(kept, block, live, registers)
        if path is None:
            self._pack(weight, plan)
            return
        self._packed = packing.pack(weight, bias, plan, path, registers, "gelu" if gelu else "", scales)
        self._run, self.executed = native.kernels(path)[0].prunescope_linear_rows, plan.executed

    def _pack(self, weight: torch.Tensor, plan: Execution) -> None:
        """Panels for the kernels: the largest first, so that threads end together."""
        registers, self.executed = native.registers(), plan.executed
        row_place, col_place = np.cumsum(plan.live.rows) - 1, np.cumsum(plan.live.cols) - 1
        sheets, panels, columns, outputs = [], [], [], []
        weights_at = columns_at = outputs_at = 0
        for strip in plan.strips:
            kept = torch.from_numpy(strip.cols)
            for part in registers.parts(len(strip.rows)):
                rows = strip.rows[part]
                sheet = torch.zeros(len(strip.cols), registers.wide(len(rows)))
                sheet[:, : len(rows)] = weight[torch.from_numpy(rows)][:, kept].T
                out = outputs_at if plan.scattered else int(row_place[rows[0]])
                vectors = sheet.shape[1] // registers.lanes
                panels.append((columns_at, len(strip.cols), weights_at, vectors, out, len(rows)))
                sheets.append(sheet.ravel())
                outputs.append(row_place[rows])
                outputs_at += len(rows)
                weights_at += sheet.numel()
            columns.append(col_place[strip.cols])
            columns_at += len(strip.cols)
        self.weights = torch.cat([*sheets, torch.zeros(0)])
        self.columns = torch.from_numpy(np.concatenate([*columns, []]).astype(np.int32))
        panels.sort(key=lambda panel: -panel[1] * panel[3])
        self.panels = torch.tensor(panels, dtype=torch.int64).view(len(panels), 6)
        places = np.concatenate([*outputs, [0]]).astype(np.int32)  # never empty: then it would have no address
        self.outputs = torch.from_numpy(places) if plan.scattered else None
        self.bias = F.pad(self.bias, (0, registers.lanes * registers.vectors))  # a last vector may reach past the end
        tensors = (self.columns, self.weights, self.panels, self.outputs, self.bias)  # kept alive by this module
        self._layer = Layer(*(None if t is None else t.data_ptr() for t in tensors), len(panels),
                            self.in_features, self.out_features, self.gelu)

    def _shrink(self, weight: torch.Tensor, full: np.ndarray, live: Live) -> None:
        """Stock torch: one dense product over the columns that any strip keeps."""
        used = full.any(0) & live.cols
        there = weight.device
        masked = weight * torch.from_numpy(full).to(there)
        self.rows = np.flatnonzero(live.rows)  # those of the dense layer that are left
        self.dense = masked[torch.from_numpy(live.rows).to(there)][:, torch.from_numpy(used).to(there)].contiguous()
        self.used = None if used.sum() == live.cols.sum() else (
            torch.from_numpy(np.flatnonzero(used[live.cols])).to(there))
        self.executed = "dense torch" if self.dense.numel() == weight.numel() else "smaller dense torch"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.rounding is None else self.rounding(x)
        if self.native:
            rows = native.rows_of(x)
            y = (native.linear(rows, self._layer, self.out_features) if self._run is None else
                 native.linear_rows(rows, self._run, self._packed.struct, self.out_features))
            return y.view(*x.shape[:-1], self.out_features)
        x = x.to(self.dense.dtype)
        x = x if self.used is None else x[..., self.used]
        y = F.linear(x, self.dense, self.bias)
        return F.gelu(y) if self.gelu else y


@torch.no_grad()
def compact(model: nn.Module, mask: BlockMask, path: str | None = None, kernels: bool = True,
            scales: Mapping[str, torch.Tensor] | None = None,
            roundings: Mapping[str, Rounding] | None = None) -> nn.Module:
    """A copy of `model`, in evaluation mode, whose prunable matrices execute only what `mask` keeps.

    All other parameters are shared with `model`. `.executed`: matrix name -> what runs. Outputs equal
    those of the model with the mask applied, up to rounding. Without `kernels` it is stock torch, for
    engines that run exported graphs: matrices are smaller, strips are not walked. With a `path` the matrices
    multiply in its arithmetic, each by itself; the rest is fp32. `scales`, `roundings`: by matrix, as CompactLinear
    takes them.
    """
    small = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())}).eval()
    modules, layout = dict(small.named_modules()), mask.layout
    linears, biases, live, activations = shrunk(small, mask)
    fused = set()
    for name, (parent, word) in activations.items():
        if word and _is_gelu(getattr(parent, word)):
            fused.add(name)
            setattr(parent, word, nn.Identity())
    small.executed = {}
    for name, linear in linears.items():
        new = CompactLinear(linear.weight, biases[name], mask.kept[name], layout.block,
                            live[name], name in fused, path, kernels, (scales or {}).get(name),
                            (roundings or {}).get(name))
        small.executed[name] = new.executed
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, new)
    if kernels and native.library() is not None:
        _fuse_norms_(small)
    return small


def shrunk(
    model: nn.Module, mask: BlockMask,
) -> tuple[dict[str, nn.Linear], dict[str, torch.Tensor], dict[str, Live], dict[str, tuple[nn.Module, str | None]]]:
    """What is left of `model` under `mask`: by matrix its linear layer, its new bias, its live rows and columns, and
    of an intermediate one where its activation is, as (module, attribute). The model stays as it is."""
    modules, layout = dict(model.named_modules()), mask.layout
    linears = {m.name: modules[m.name] for m in layout.matrices}
    biases = {name: linear.weight.detach().new_zeros(linear.out_features) if linear.bias is None else
              linear.bias.detach().clone() for name, linear in linears.items()}
    live, activations = living(mask, heads_of(model, layout.matrices)), activations_of(model, layout)
    for parts in layers_of(layout):
        if "intermediate" in parts and "output" in parts:
            parent, word = activations[parts["intermediate"].name]
            applied = getattr(parent, word) if word else _written_out(parent, linears[parts["intermediate"].name])
            _move_constants_(parts["intermediate"], parts["output"], live, linears, biases, mask, applied)
        if "value" in parts and "attention.output" in parts:
            _move_constants_(parts["value"], parts["attention.output"], live, linears, biases, mask, nn.Identity())
    return linears, biases, live, activations


def activations_of(model: nn.Module, layout: Layout) -> dict[str, tuple[nn.Module, str | None]]:
    """By intermediate matrix where its activation is, as (module, attribute); None for one that is written out."""
    modules = dict(model.named_modules())
    return {parts["intermediate"].name: _activation_of(modules, parts["intermediate"])
            for parts in layers_of(layout) if {"intermediate", "output"} <= parts.keys()}


def _activation_of(modules: Mapping[str, nn.Module], matrix: Matrix) -> tuple[nn.Module, str | None]:
    """(parent, attribute) of the activation of the feed-forward layer whose first matrix this is; None: no module."""
    parent, names = modules[matrix.name.rpartition(".")[0]], ("intermediate_act_fn", "activation")
    return parent, next((name for name in names if isinstance(getattr(parent, name, None), nn.Module)), None)


def _written_out(parent: nn.Module, linear: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation where `parent` is a linear layer and then a function (ESM): of its bias, which is what 0 gives."""
    return lambda _bias: parent(linear.weight.new_zeros(1, linear.in_features))[0]


def _is_gelu(activation: nn.Module) -> bool:
    """Whether it is the exact GELU, which the kernels apply as they store."""
    exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
    return exact or type(activation).__name__ == "GELUActivation"


def _move_constants_(
    first: Matrix, second: Matrix, live: Mapping[str, Live], linears: Mapping[str, nn.Linear],
    biases: Mapping[str, torch.Tensor], mask: BlockMask, activation: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """What the dead outputs of `first` gave, activation(bias), goes into the bias of `second`.

    Right for attention too: its weights sum to one, so a head without value gives its value's bias.
    Where the row lives but the column is gone, the masked column is zero and adds nothing.
    """
    dead = torch.from_numpy(~live[first.name].rows).to(biases[first.name].device)
    if dead.any():
        kept = torch.from_numpy(mask.layout.block.expand(mask.kept[second.name], second.m, second.n)).to(dead.device)
        biases[second.name] += (linears[second.name].weight * kept) @ (activation(biases[first.name]) * dead)


class _AddNorm(nn.Module):
    """dense, then residual and layer norm in one pass: what BERT's SelfOutput and Output do."""

    def __init__(self, dense: nn.Module, norm: nn.LayerNorm):
        super().__init__()
        self.dense, self.LayerNorm = dense, norm

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return native.add_norm(self.dense(hidden), residual.contiguous(), self.LayerNorm)


def _fuse_norms_(model: nn.Module) -> None:
    """Every dense, dropout, residual and norm in one: the model is in evaluation mode, where dropout does nothing."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            parts = dict(child.named_children())
            if set(parts) != {"dense", "LayerNorm", "dropout"}:
                continue
            if isinstance(parts["dense"], CompactLinear) and _adds_and_norms(child, **parts):
                setattr(parent, name, _AddNorm(parts["dense"], parts["LayerNorm"]))


def _adds_and_norms(child: nn.Module, dense: CompactLinear, LayerNorm: nn.Module, dropout: nn.Module) -> bool:
    """Whether `child` does what its parts suggest, tried on one token: some keep a norm there for others (X-MOD)."""
    if type(LayerNorm) is not nn.LayerNorm or LayerNorm.weight is None or LayerNorm.bias is None:
        return False  # the kernels know the usual one with both its parameters
    x, residual = torch.linspace(-1, 1, dense.in_features), torch.linspace(2, -1, dense.out_features)
    try:
        given = child(x[None, None], residual[None, None])
    except (TypeError, RuntimeError):  # it is called in another way
        return False
    return torch.allclose(given[0, 0], LayerNorm(dense(x[None])[0] + residual), rtol=1e-4, atol=1e-4)
