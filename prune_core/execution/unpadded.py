"""Sentences end to end: everything between the embeddings and the head runs without padding.

A padded batch (sentences, length) goes in and comes out; in between, all tokens lie in one row, and
attention looks at each sentence alone. Works for encoders that use transformers' attention interface
(BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT and their kin) and look both ways; the others keep their padding.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from prune_core.execution import native

_NAME = "prunescope"
# Model types whose layers see positions in the embeddings alone: in one long row every other kind counts on
PLACELESS = ("bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "ernie", "distilbert",
             "electra", "albert")


def unpad_(model: nn.Module) -> bool:
    """Let `model` run without padding, in place; False, and nothing changed, where that cannot be done."""
    base = model.base_model
    name = next((n for n in ("encoder", "transformer") if isinstance(getattr(base, n, None), nn.Module)), None)
    attentions = [m for m in model.modules() if hasattr(m, "scaling") and hasattr(m, "is_causal")]
    if native.library() is None or name is None or not attentions or model.config.model_type not in PLACELESS:
        return False
    if any(attention.is_causal for attention in attentions):  # `_attend` looks both ways
        return False
    _register()
    model.config._attn_implementation = base.config._attn_implementation = _NAME
    unpadded = Unpadded(getattr(base, name))
    for attention in attentions:
        attention.config._attn_implementation = _NAME
        object.__setattr__(attention, "unpadded", unpadded)  # not as a child: it is its parent
    setattr(base, name, unpadded)
    model.register_forward_pre_hook(unpadded.measure_, with_kwargs=True)
    return True


class Unpadded(nn.Module):
    """A stack of layers that gets (sentences, length, width), padded on the right, and runs on (1, tokens, width)."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers, self.lengths, self.starts = layers, None, None

    def measure_(self, _model: nn.Module, _arguments: tuple, inputs: dict) -> None:
        """Before the model runs: how long is each sentence?"""
        self.lengths = inputs["attention_mask"].sum(1)
        self.starts = F.pad(self.lengths, (1, 0)).cumsum(0)[:-1].contiguous()

    def forward(self, hidden_states: torch.Tensor, *rest, **settings):
        batch, longest, width = hidden_states.shape
        if int(self.lengths.sum()) == batch * longest:
            tokens = hidden_states.reshape(1, -1, width)
            keep = None
        else:
            keep = (torch.arange(longest) < self.lengths[:, None]).ravel().nonzero()[:, 0]
            tokens = hidden_states.reshape(-1, width)[keep][None]
        out = self.layers(tokens, *rest, **settings)
        rows = out.last_hidden_state[0]
        if keep is not None:
            rows = rows.new_zeros(batch * longest, rows.shape[-1]).index_copy_(0, keep, rows)
        out.last_hidden_state = rows.view(batch, longest, -1)
        return out


def _attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask, scaling: float, **_,
) -> tuple:
    """transformers' attention interface: (1, heads, tokens, depth) -> (1, tokens, heads, depth)."""
    _, heads, tokens, depth = query.shape
    flat = [part.transpose(1, 2).reshape(tokens, heads * depth) for part in (query, key, value)]
    out = native.attention(*flat, module.unpadded.starts, module.unpadded.lengths, heads, scaling)
    return out.view(query.transpose(1, 2).shape), None


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, lambda *_, **__: None)
