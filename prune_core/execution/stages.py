"""A stage of a pipeline that executes only what a mask keeps: units of an encoder (hardware/pipelines.py), in a row.

Whole layers run in our pass; half a layer at either end runs matrix by matrix on the same kernels. A stage keeps the
packed weights of its own units and nothing of the others.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from prune_core import InputError
from prune_core.cutting.blocks import Matrix
from prune_core.cutting.masks import BlockMask
from prune_core.execution import native, paths
from prune_core.execution.compact import CompactLinear, shrunk
from prune_core.execution.embeddings import TABLES, Embeddings
from prune_core.execution.paths import Choice
from prune_core.execution.whole import Whole, norms_of, why_not
from prune_core.hardware.pipelines import HALVES, Unit
from prune_core.latency.strips import layers_of


def check(model: nn.Module, mask: BlockMask, dtype: str) -> Choice:
    """The arithmetic and path that stages run in. Raises InputError where this model cannot be divided into stages."""
    choice = paths.choose(dtype)
    why = why_not(model, mask, choice) or native.why_not()
    if not why and model.config.model_type not in TABLES[:-1]:  # MPNet's half a layer would need its bias of places
        why = f"architecture {model.config.model_type!r} has no layers that can be divided here"
    if why:
        raise InputError(f"it cannot be executed in stages: {why}")
    return choice


class Stage(nn.Module):
    """Ids (sentences, length), or hidden states (sentences, length, hidden) -> hidden states, of the last stage logits.

    `model` gives the weights. `first`, `last`: whether embeddings and head belong to it. `dtype`, `path`: of a Choice.
    """

    def __init__(self, model: nn.Module, mask: BlockMask, units: Sequence[Unit], choice: Choice, first: bool,
                 last: bool):
        super().__init__()
        halves: dict[int, set[str]] = {}
        for unit in units:
            halves.setdefault(unit.layer, set()).add(unit.half)
        alone = {kind: [layer for layer, of in halves.items() if of == {kind}] for kind in HALVES}
        layers = [layer for layer in halves if layer not in sum(alone.values(), [])]
        self._before = [_Half(model, mask, layer, "neurons", choice.path) for layer in alone["neurons"]]
        self._after = [_Half(model, mask, layer, "attention", choice.path) for layer in alone["attention"]]
        self._pass = Whole(model, _only(mask, layers), choice) if layers else None
        self._embeddings = Embeddings(model.base_model) if first else None
        self._head, self._last, self._short = None, last, False
        if last:
            inside = Whole(model, _only(mask, ()), choice)
            self._head = _headed(model, inside)
            inside.settle_(self._head)
            self._short = bool(inside.encoder.first_only and self._pass and not self._after)
            if self._short:
                self._pass.encoder.first_only = 1

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        lengths, (batch, longest) = attention_mask.sum(1), attention_mask.shape
        starts, keep = F.pad(lengths, (1, 0)).cumsum(0)[:-1].contiguous(), attention_mask.reshape(-1).nonzero()[:, 0]
        given = {"rows": x.reshape(-1, x.shape[-1])[keep].contiguous()} if self._embeddings is None else (
            self._embeddings.inputs(x, None, keep))
        for half in self._before:
            given = {"rows": half(self._rows(given), starts, lengths)}
        if self._pass is not None:
            given = {"rows": self._pass.run(lengths, len(keep), given)}
        for half in self._after:
            given = {"rows": half(self._rows(given), starts, lengths)}
        rows = given["rows"]
        if self._short:
            return self._logits(rows[:, None])
        hidden = rows.new_zeros(batch * longest, rows.shape[-1]).index_copy_(0, keep, rows).view(batch, longest, -1)
        return self._logits(hidden) if self._last else hidden

    def _rows(self, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(tokens, hidden): as they came, or the embeddings, which else the pass makes."""
        if "rows" in given:
            return given["rows"]
        tables = self._embeddings.tables
        rows = sum(tables[name][places] for name, places in given.items())
        eps = self._embeddings.pointers()[-1]
        return F.layer_norm(rows, rows.shape[-1:], tables["norm_weight"], tables["norm_bias"], eps)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        inside = self._head.base_model
        inside._given = hidden
        try:
            ones = torch.ones(hidden.shape[:2], dtype=torch.long)
            return self._head(input_ids=ones, attention_mask=ones).logits
        finally:
            del inside._given


class _Half(nn.Module):
    """Attention with its output, or the neurons, each with the norm after it: rows (tokens, hidden) -> the same."""

    def __init__(self, model: nn.Module, mask: BlockMask, layer: int, half: str, path: str):
        super().__init__()
        alone = _only(mask, [layer])
        linears, biases, live, activations = shrunk(model, alone)
        (parts,), block = layers_of(alone.layout), mask.layout.block
        attention, neurons = norms_of(model, parts)
        self._norm = attention if half == "attention" else neurons
        own = None if path == "fp32" else path
        self._linears = [CompactLinear(linears[m.name].weight, biases[m.name], mask.kept[m.name], block, live[m.name],
                                       path=own) for m in (parts[kind] for kind in HALVES[half])]
        self._depth = parts["value"].m // model.config.num_attention_heads
        parent, word = activations[parts["intermediate"].name]
        self._activation = getattr(parent, word) if half == "neurons" else None

    def forward(self, x: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if self._activation is not None:
            first, last = self._linears
            out = last(self._activation(first(x)))
        else:
            query, key, value, last = self._linears
            heads = value.out_features // self._depth
            seen = native.attention(query(x), key(x), value(x), starts, lengths, heads, self._depth**-0.5)
            out = last(seen)
        return native.add_norm(out, x.contiguous(), self._norm)


def _only(mask: BlockMask, layers: Sequence[int]) -> BlockMask:
    """The same of these layers alone."""
    some: tuple[Matrix, ...] = tuple(m for m in mask.layout.matrices if m.layer in layers)
    return BlockMask(replace(mask.layout, matrices=some), {m.name: mask.kept[m.name] for m in some})


def _headed(model: nn.Module, inside: Whole) -> nn.Module:
    """The model with its head, and `inside` for the rest."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared | {id(model.base_model): inside}).eval()
