"""The whole encoder in one pass of native code, sentences end to end: what runs when a compact model is used.

The pass (pass.hpp) takes token ids, or embeddings that torch has computed, and gives what the head asks for. It knows
encoders of BERT's build; the others run module by module (compact.py), and so does a call that asks for more than
logits, hidden states say.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from prune_core.cutting.masks import BlockMask
from prune_core.execution import gpu, native, packing, paths
from prune_core.execution.activations import roundings
from prune_core.execution.compact import activations_of, compact, shrunk
from prune_core.execution.embeddings import TABLES, Embeddings
from prune_core.execution.packing import EncoderLayer, Packed
from prune_core.execution.paths import Choice
from prune_core.execution.unpadded import unpad_
from prune_core.latency.strips import Live, layers_of, plan_matrix
from prune_core.models import devices
from prune_core.precision.formats import Formats

BLOCK = 256  # tokens that a thread takes through all layers together
KNOWN = (*TABLES, "ernie", "albert")  # model types
FP32, NONE = Formats(), MappingProxyType({})
_KINDS = ("query", "key", "value", "attention.output", "intermediate", "output")


def small_model(model: nn.Module, mask: BlockMask, dtype: str = "fp32", path: str | None = None,
                formats: Formats = FP32, scales: Mapping[str, torch.Tensor] = NONE,
                ranges: Mapping[str, tuple[float, float]] = NONE) -> nn.Module:
    """The compact model in the arithmetic `dtype` (fp32, bf16, int8, auto), without padding where that can be done.

    `path` forces one of paths.PATHS. `.executed`: matrix name -> what runs; `.choice`: the arithmetic and path that
    were really taken, and why another than the one asked for. `formats`: how its weights were rounded, `scales` of what
    is whole numbers; and how activations are to be, `ranges` of those with one scale for a tensor. Raises InputError.
    """
    choice = paths.choose(dtype, path, formats, devices.of(model))
    if paths.on_gpu(choice.path):
        return gpu.small_model(model, mask, choice, roundings(formats, mask.layout, ranges))
    if choice.path == paths.MODULES:
        small = compact(model, mask, roundings=roundings(formats, mask.layout, ranges))
        unpad_(small)
    elif (why := why_not(model, mask, choice)) is None:
        whole = Whole(model, mask, choice, scales)
        shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
        small = copy.deepcopy(model, shared | {id(model.base_model): whole}).eval()
        small.executed = whole.executed
        whole.settle_(small)
    else:
        why = "; ".join(filter(None, (choice.why, why)))
        path = choice.path if choice.dtype != "fp32" and native.kernels(choice.path)[0] else None
        small = compact(model, mask, path, scales=scales)
        unpad_(small)
        choice = Choice(choice.asked, choice.dtype, f"{choice.path}, by modules", why) if path else Choice(
            choice.asked, "fp32", "modules", why)
    small.choice = choice
    return small


def why_not(model: nn.Module, mask: BlockMask, choice: Choice) -> str | None:
    """Why this model runs module by module instead, in one line; None where it runs in one pass."""
    config = model.config
    if native.kernels(choice.path)[0] is None:
        return native.kernels(choice.path)[1]
    if config.model_type not in KNOWN:
        return f"architecture {config.model_type!r} runs module by module"
    if getattr(config, "is_decoder", False) or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "its attention is not that of the pass; it runs module by module"
    layers = layers_of(mask.layout)
    if any(set(_KINDS) - parts.keys() or len(norms_of(model, parts)) != 2 for parts in layers):
        return "its layers are not those of the pass; it runs module by module"
    activations = activations_of(model, mask.layout).values()
    if any(word is None or _named(getattr(parent, word)) is None for parent, word in activations):
        return "its activation is not known to the pass; it runs module by module"
    return None


class Whole(nn.Module):
    """Takes the place of a model's encoder with its embeddings; the head stays torch's."""

    def __init__(self, model: nn.Module, mask: BlockMask, choice: Choice, scales: Mapping[str, torch.Tensor] = NONE):
        super().__init__()
        base, config = model.base_model, model.config
        object.__setattr__(self, "_model", model)  # not as children: they belong to the model
        object.__setattr__(self, "_base", base)
        self.config, self.pooler = config, getattr(base, "pooler", None)
        self._mask, self._choice, self._library = mask, choice, native.kernels(choice.path)[0]
        self._scales = scales
        self._modules_only: nn.Module | None = None
        self._embeddings, self._depth = Embeddings(base), 0
        self.encoder = self._struct(self._pack())

    @torch.no_grad()  # else the biases keep what their constants were made of
    def _pack(self) -> list[EncoderLayer]:
        """The layers in the order in which they run; ALBERT's come several times."""
        model, mask, config = self._model, self._mask, self._model.config
        linears, biases, live, activations = shrunk(model, mask)
        takes, block = packing.blocking(self._choice.path), mask.layout.block
        self._kept: list[Packed] = []
        self.executed, made = {}, []
        for parts in layers_of(mask.layout):
            packed = {}
            for kind in _KINDS:
                matrix = parts[kind]
                weight = linears[matrix.name].weight.detach().float()
                if block.sides(*weight.shape)[0] < takes.lanes or self._choice.dtype == "int8":
                    # joined strips hold what one of them cuts; and what is cut has no say in an output's scale
                    weight = weight * torch.from_numpy(block.expand(mask.kept[matrix.name], *weight.shape))
                plan = plan_matrix(mask.kept[matrix.name], block, live[matrix.name], takes)
                word = _named(getattr(*activations[matrix.name])) if kind == "intermediate" else ""
                packed[kind] = packing.pack(weight, biases[matrix.name].float(), plan, self._choice.path, takes, word,
                                            self._scales.get(matrix.name))
                self.executed[matrix.name] = plan.executed
            self._kept += packed.values()
            made.append(self._layer(packed, parts, live[parts["value"].name]))
        return [made[at] for at in _order(config, len(made))]

    def _layer(self, packed: Mapping[str, Packed], parts: Mapping, live: Live) -> EncoderLayer:
        first, last = norms_of(self._model, parts)
        depth = parts["value"].m // self._model.config.num_attention_heads
        self._depth = depth
        return EncoderLayer(*(packed[kind].struct for kind in _KINDS),
                            *(t.data_ptr() for norm in (first, last) for t in (norm.weight, norm.bias)),
                            first.eps, last.eps, depth**-0.5, int(live.rows.sum()) // depth)

    def _struct(self, layers: list[EncoderLayer]) -> packing.Encoder:
        self._layers = (EncoderLayer * len(layers))(*layers)  # kept alive, as the table of biases is
        self._bias, reach = self._relative() if self.config.model_type == "mpnet" else None, 0
        if self._bias is not None:
            reach = self.config.max_position_embeddings
        bias = None if self._bias is None else self._bias.data_ptr()
        return packing.Encoder(ctypes.addressof(self._layers), len(layers), self.config.hidden_size, self._depth, 0,
                               *self._embeddings.pointers(), bias, reach)

    def _relative(self) -> torch.Tensor:
        """MPNet: (heads, 2 * reach - 1) and padding, flat: what a key's score gets, by query's minus key's place."""
        encoder, reach = self._base.encoder, self.config.max_position_embeddings
        apart = torch.arange(reach - 1, -reach, -1)  # key minus query
        bucket = encoder.relative_position_bucket(apart, num_buckets=self.config.relative_attention_num_buckets)
        table = encoder.relative_attention_bias.weight.detach()[bucket].T
        return F.pad(table.reshape(-1), (0, packing.PADDING)).contiguous()

    def settle_(self, model: nn.Module) -> None:
        """Find out whether the head of `model`, whose encoder this is, reads each sentence's first token only."""
        hidden = torch.linspace(-1, 1, 2 * 5 * self.config.hidden_size).view(2, 5, -1)
        other = torch.cat([hidden[:, :1], hidden[:, 1:].flip(1)], 1)
        with torch.inference_mode():
            answers = []
            for given in (hidden, other, hidden[:, :1]):
                self._given = given
                try:
                    answers.append(model(input_ids=torch.ones(2, 5, dtype=torch.long),
                                         attention_mask=torch.ones(2, 5, dtype=torch.long)).logits)
                except (RuntimeError, IndexError):  # it asks for the others
                    return
                finally:
                    del self._given
        self.encoder.first_only = int(all(torch.equal(one, answers[0]) for one in answers))

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **more):
        if hasattr(self, "_given"):
            return self._answer(self._given)
        asked = {name: value for name, value in more.items() if value is not None and value is not False
                 and name != "return_dict"}
        if input_ids is None or asked or not _padded_right(attention_mask):
            return self._module_by_module()(input_ids=input_ids, attention_mask=attention_mask,
                                            token_type_ids=token_type_ids, **more)
        batch, longest = input_ids.shape
        lengths = (attention_mask != 0).sum(1) if attention_mask is not None else torch.full((batch,), longest)
        tokens = int(lengths.sum())
        keep = None if tokens == batch * longest else (
            torch.arange(longest) < lengths[:, None]).view(-1).nonzero()[:, 0]
        hidden = self.run(lengths, tokens, self._embeddings.inputs(input_ids, token_type_ids, keep))
        if self.encoder.first_only:
            return self._answer(hidden[:, None])
        if keep is not None:
            hidden = hidden.new_zeros(batch * longest, hidden.shape[-1]).index_copy_(0, keep, hidden)
        return self._answer(hidden.view(batch, longest, self.config.hidden_size))

    def run(self, lengths: torch.Tensor, tokens: int, inputs: Mapping[str, torch.Tensor], block: int = BLOCK,
            threads: int = 0, spent: np.ndarray | None = None) -> torch.Tensor:
        """Hidden states (tokens, hidden), or (sentences, hidden) of the first tokens, fp32, of sentences end to end.

        `lengths` (sentences,); `inputs`: words, places, kinds (tokens,) int64, or rows (tokens, hidden) fp32. `spent`:
        (layers,) float64, to which the seconds of all threads in each layer are added.
        """
        starts = F.pad(lengths, (1, 0)).cumsum(0)[:-1].contiguous()
        rows = len(lengths) if self.encoder.first_only else tokens
        out = torch.empty(rows, self.config.hidden_size)
        if not tokens:
            return out
        at = [inputs[name].data_ptr() if name in inputs else None for name in ("words", "places", "kinds", "rows")]
        given = packing.Input(starts.data_ptr(), lengths.data_ptr(), *at, len(lengths), tokens, block,
                       threads or torch.get_num_threads(), None if spent is None else spent.ctypes.data)
        self._library.prunescope_pass(ctypes.addressof(self.encoder), ctypes.addressof(given), out.data_ptr())
        return out

    def _answer(self, hidden: torch.Tensor) -> BaseModelOutputWithPooling:
        pooled = None
        if self.pooler is not None:
            activation = getattr(self._base, "pooler_activation", None)  # ALBERT's pooler is a bare linear layer
            pooled = activation(self.pooler(hidden[:, 0])) if activation is not None else self.pooler(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    def _module_by_module(self) -> nn.Module:
        """The compact model's own encoder, made when it is first asked for."""
        if self._modules_only is None:
            path = None if self._choice.dtype == "fp32" else self._choice.path
            small = compact(self._model, self._mask, path, scales=self._scales)
            object.__setattr__(self, "_modules_only", small.base_model)
        return self._modules_only


def _padded_right(mask: torch.Tensor | None) -> bool:
    return mask is None or (mask.dim() == 2 and bool((mask[:, 1:] <= mask[:, :-1]).all()) and bool(mask[:, 0].all()))


def _order(config, layers: int) -> list[int]:
    """Which of the layers that are there runs when: ALBERT's groups are shared by those that come in a row."""
    if config.model_type != "albert":
        return list(range(layers))
    inside, deep = config.inner_group_num, config.num_hidden_layers
    return [int(at / (deep / config.num_hidden_groups)) * inside + each for at in range(deep) for each in range(inside)]


def norms_of(model: nn.Module, parts: Mapping) -> list[nn.LayerNorm]:
    """The layer norms of a layer, attention's first."""
    names = [matrix.name.split(".") for matrix in parts.values()]
    common = []
    for level in zip(*names, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    layer = model.get_submodule(".".join(common))
    norms = [(name, module) for name, module in layer.named_modules() if type(module) is nn.LayerNorm]
    order = sorted(norms, key=lambda one: "attention" not in one[0] and "sa_" not in one[0])
    return [norm for _, norm in order if norm.weight is not None and norm.bias is not None]


def _named(activation) -> str | None:
    """What packing.ACTIVATIONS calls it; None for one that is not known."""
    kind = type(activation).__name__
    if isinstance(activation, nn.GELU):
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    return {"GELUActivation": "gelu", "NewGELUActivation": "gelu_tanh", "GELUTanh": "gelu_tanh",
            "PytorchGELUTanh": "gelu_tanh", "ReLU": "relu"}.get(kind)
