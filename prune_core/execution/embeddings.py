"""What the pass over a whole encoder takes of a batch: ids and the embeddings' tables, or what torch made of them."""

from __future__ import annotations

import torch
from torch import nn

TABLES = ("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "distilbert", "electra", "mpnet")
_COUNTING = ("roberta", "xlm-roberta", "camembert", "data2vec-text", "mpnet")  # places begin behind the padding's
_NAMES = {"words": "word_embeddings", "places": "position_embeddings", "kinds": "token_type_embeddings"}


class Embeddings:
    """Those of `base`, a model without its head.

    `tables`: words, places, kinds (rows, hidden) and norm_weight, norm_bias (hidden,), fp32, which the pass reads
    itself; None where torch computes them.
    """

    def __init__(self, base: nn.Module):
        self._base, self._config = base, base.config
        self.tables = self._tables() if base.config.model_type in TABLES else None

    def _tables(self) -> dict[str, torch.Tensor] | None:
        module, norm = self._base.embeddings, getattr(self._base.embeddings, "LayerNorm", None)
        tables = {name: getattr(module, own).weight.detach() for name, own in _NAMES.items() if hasattr(module, own)}
        fits = type(norm) is nn.LayerNorm and norm.bias is not None and not hasattr(self._base, "embeddings_project")
        hidden = self._config.hidden_size
        if not fits or any(t.shape[1] != hidden or t.dtype != torch.float32 for t in tables.values()):
            return None
        return tables | {"norm_weight": norm.weight.detach(), "norm_bias": norm.bias.detach()}

    def pointers(self) -> tuple[int | float | None, ...]:
        """Where the tables lie, in the order of the struct Encoder, and the norm's eps."""
        tables = self.tables or {}
        at = (tables[name].data_ptr() if name in tables else None for name in (*_NAMES, "norm_weight", "norm_bias"))
        return *at, self._base.embeddings.LayerNorm.eps if tables else 0.0

    def inputs(
        self, ids: torch.Tensor, kinds: torch.Tensor | None, keep: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """words, places, kinds (tokens,), or rows (tokens, hidden), end to end, of ids (sentences, length).

        `keep`: the places of the tokens that are no padding, in the batch as one row; None: all.
        """
        def packed(x: torch.Tensor) -> torch.Tensor:
            x = x.reshape(-1, *x.shape[2:])
            return (x if keep is None else x[keep]).contiguous()

        if self.tables is None:
            return {"rows": packed(self._rows(ids, kinds))}
        ids = ids.long()  # the pass reads 64 bits each
        inputs = {"words": packed(ids)}
        if "places" in self.tables:
            inputs["places"] = packed(self._places(ids))
        if "kinds" in self.tables:
            inputs["kinds"] = packed(torch.zeros_like(ids) if kinds is None else kinds.long())
        for name, one in inputs.items():
            if len(one) and not 0 <= int(one.min()) <= int(one.max()) < len(self.tables[name]):
                raise IndexError(f"{name} {int(one.min())} to {int(one.max())}; the table has {len(self.tables[name])}")
        return inputs

    def _places(self, ids: torch.Tensor) -> torch.Tensor:
        if self._config.model_type not in _COUNTING:
            return torch.arange(ids.shape[1]).expand(ids.shape)
        padding = self._base.embeddings.padding_idx
        real = (ids != padding).long()
        return real.cumsum(1) * real + padding

    def _rows(self, ids: torch.Tensor, kinds: torch.Tensor | None) -> torch.Tensor:
        """(sentences, length, hidden): as torch computes them, brought to the encoder's width."""
        base = self._base
        rows = base.embeddings(ids, **({} if kinds is None else {"token_type_ids": kinds}))
        widen = getattr(base, "embeddings_project", None) or getattr(
            getattr(base, "encoder", None), "embedding_hidden_mapping_in", None)
        return (rows if widen is None else widen(rows)).float()
