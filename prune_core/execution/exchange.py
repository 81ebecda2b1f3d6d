"""Outputs of an encoder with other weights for single matrices: what stands before them runs only once.

    exchange = Exchange(model, layout, data)
    near = exchange.near({})                         # hidden states before every layer, kept
    exchange.outputs({name: (weight, bias)}, near)   # from the first layer that is other there

Nothing is left out of the pass: what is cut is zero, so all weights of a matrix take the same time. fp32.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.execution import packing, paths
from prune_core.execution.packing import EncoderLayer, Packed
from prune_core.execution.paths import Choice
from prune_core.execution.whole import BLOCK, Whole, why_not
from prune_core.latency.profile import uncut
from prune_core.latency.strips import Live, layers_of, plan_matrix
from prune_core.models import devices
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded

BATCH = 64  # sentences of one forward pass, module by module
_FIELDS = {"query": "query", "key": "key", "value": "value", "attention.output": "out", "intermediate": "inner",
           "output": "outer"}
Pair = tuple[torch.Tensor, torch.Tensor | None]  # weight (m, n), bias (m,), fp32
Weights = Mapping[str, Pair]  # matrix name -> its weights


@dataclass(frozen=True)
class Near:
    """A model's `weights`, and its `hidden` states (tokens, width) after each layer but the last."""

    weights: Weights
    hidden: tuple[torch.Tensor, ...] = ()


class Exchange:
    """Outputs of the head on `data`, in the order of the data; the model itself stays as it is."""

    def __init__(self, model: nn.Module, layout: Layout, data: Encoded):
        self._data = data
        linears = {m.name: model.get_submodule(m.name) for m in layout.matrices}
        self._own = {name: (one.weight.detach().float(), None if one.bias is None else one.bias.detach().float())
                     for name, one in linears.items()}
        self._pass = _pass(model, layout, data)
        if self._pass is None:  # module by module, in a copy that shares what is never exchanged
            own = {id(t) for one in linears.values() for t in one.parameters(recurse=False)}
            shared = {id(t): t for t in (*model.parameters(), *model.buffers()) if id(t) not in own}
            self._other = copy.deepcopy(model, shared).eval()

    @torch.inference_mode()
    def near(self, weights: Weights) -> Near:
        """A model with these weights, the others its own: what `outputs` may start from."""
        if self._pass is None:
            return Near(dict(weights))
        self._put(weights)
        return Near(dict(weights), self._pass.all_hidden())

    @torch.inference_mode()
    def outputs(self, weights: Weights, near: Near | None = None) -> torch.Tensor:
        """(sentences, outputs) with these weights, the others the model's own."""
        if self._pass is None:
            return self._by_modules(weights)
        first = 0
        if near is not None:
            others = [name for name in weights.keys() | near.weights.keys()
                      if weights.get(name) is not near.weights.get(name)]
            first = min(map(self._pass.layer_of, others), default=len(near.hidden))
        self._put(weights)
        return self._pass.outputs(first, near.hidden[first - 1] if first else None)

    def _put(self, weights: Weights) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # short operations: on busy cores two threads would wait for each other at every one
        try:
            for name, own in self._own.items():
                self._pass.exchange_(name, weights.get(name, own))
        finally:
            torch.set_num_threads(threads)

    def _by_modules(self, weights: Weights) -> torch.Tensor:
        for name, own in self._own.items():
            linear, (weight, bias) = self._other.get_submodule(name), weights.get(name, own)
            linear.weight.copy_(weight)
            if bias is not None:
                linear.bias.copy_(bias)
        device = devices.of(self._other)
        logits = torch.empty(len(self._data), self._other.config.num_labels, device=device)
        for at in encoding.dev_batches(self._data.lengths, BATCH):
            logits[torch.from_numpy(at).to(device)] = self._other(**self._data.batch(at, device)[0]).logits.float()
        return logits


def _pass(model: nn.Module, layout: Layout, data: Encoded) -> _Pass | None:
    """None where this model does not run in one pass, or its head reads more than first tokens."""
    if devices.of(model).type != "cpu":  # the pass is the processor's
        return None
    choice, mask, threads = paths.choose("fp32"), uncut(layout), torch.get_num_threads()
    if why_not(model, mask, choice) is not None:
        return None
    torch.set_num_threads(1)
    try:
        made = _Pass(model, mask, choice)
        return made if made.read(data) else None
    finally:
        torch.set_num_threads(threads)


class _Pass(Whole):
    """The pass over the uncut encoder, from any layer on, over sentences that it has read once."""

    def __init__(self, model: nn.Module, mask: BlockMask, choice: Choice):
        super().__init__(model, mask, choice)
        shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
        object.__setattr__(self, "_head", copy.deepcopy(model, shared | {id(model.base_model): self}).eval())
        self._takes = packing.blocking(choice.path)
        self._there: dict[str, tuple[Pair, Packed]] = {}  # what stands in the place of each matrix
        self._places = {matrix.name: (kind, [at for at, owner in enumerate(self._owners) if owner == i])
                        for i, kinds in enumerate(layers_of(mask.layout)) for kind, matrix in kinds.items()}

    def _pack(self) -> list[EncoderLayer]:
        layers = super()._pack()
        seen = list(dict.fromkeys(map(id, layers)))  # ALBERT's come several times
        self._owners = [seen.index(id(layer)) for layer in layers]
        return layers

    @torch.inference_mode()
    def read(self, data: Encoded) -> bool:
        """Take the sentences; whether the head reads first tokens only."""
        batch = data.batch(range(len(data)))[0]
        self._lengths = batch["attention_mask"].sum(1)
        keep = batch["attention_mask"].view(-1).nonzero()[:, 0]
        self._given_words = self._embeddings.inputs(batch["input_ids"], batch.get("token_type_ids"), keep)
        self.settle_(self._head)
        return bool(self.encoder.first_only)

    def layer_of(self, name: str) -> int:
        """The first layer that a matrix stands in."""
        return self._places[name][1][0]

    def exchange_(self, name: str, pair: Pair) -> None:
        """Put other weights in the place of a matrix."""
        if name in self._there and self._there[name][0] is pair:
            return
        (weight, bias), (kind, places) = pair, self._places[name]
        matrix = next(m for m in self._mask.layout.matrices if m.name == name)
        plan = plan_matrix(self._mask.kept[name], self._mask.layout.block, Live.all(matrix.m, matrix.n), self._takes)
        word = {number: word for word, number in packing.ACTIVATIONS.items()}[
            getattr(self._layers[places[0]], _FIELDS[kind]).act]
        packed = packing.pack(weight, torch.zeros(matrix.m) if bias is None else bias, plan, self._choice.path,
                              self._takes, word)
        for at in places:
            setattr(self._layers[at], _FIELDS[kind], packed.struct)
        self._there[name] = pair, packed

    def all_hidden(self) -> tuple[torch.Tensor, ...]:
        """Hidden states (tokens, width) after each layer but the last."""
        hidden: list[torch.Tensor] = []
        for at in range(len(self._layers) - 1):
            hidden.append(self._hidden(at, at + 1, hidden[-1] if at else None, 0))
        return tuple(hidden)

    def outputs(self, first: int, hidden: torch.Tensor | None) -> torch.Tensor:
        """(sentences, outputs): from layer `first` on, which is given `hidden`; the first is given the sentences."""
        self._given = self._hidden(first, len(self._layers), hidden, 1)[:, None]
        try:
            rows = torch.ones(len(self._lengths), 1, dtype=torch.long)
            return self._head(input_ids=rows, attention_mask=rows).logits.float()
        finally:
            del self._given

    def _hidden(self, first: int, last: int, hidden: torch.Tensor | None, first_only: int) -> torch.Tensor:
        """What the layers from `first` up to `last` make of `hidden`."""
        one = packing.Encoder.from_buffer_copy(self.encoder)
        one.layers = ctypes.addressof(self._layers) + first * ctypes.sizeof(EncoderLayer)
        one.count, one.first_only = last - first, first_only
        starts, tokens = F.pad(self._lengths, (1, 0)).cumsum(0)[:-1].contiguous(), int(self._lengths.sum())
        given = self._given_words if hidden is None else {"rows": hidden}
        at = [given[name].data_ptr() if name in given else None for name in ("words", "places", "kinds", "rows")]
        out = torch.empty(len(self._lengths) if first_only else tokens, self.config.hidden_size)
        batch = packing.Input(starts.data_ptr(), self._lengths.data_ptr(), *at, len(self._lengths), tokens,
                              BLOCK, torch.get_num_threads(), None)
        self._library.prunescope_pass(ctypes.addressof(one), ctypes.addressof(batch), out.data_ptr())
        return out
