"""Matrices of a run, each compressed alone, and models made of them: what a search for a mixture measures."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from prune_core.cutting.blocks import Matrix
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.bench import Bench
from prune_core.execution.exchange import Exchange, Pair
from prune_core.methods.compress import compress_
from prune_core.methods.repair import DAMP
from prune_core.precision.formats import Format, Formats
from prune_core.precision.mixture import Errors, Option, Table
from prune_core.runs import mixtures

KEPT_BYTES = 800e6  # of matrices that were compressed
VERSION = 2  # of what errors and losses depend on beside weights, sentences and ranking


class Matrices:
    """Weights of a stage, repaired, as each setting has them, on the grids of its training where these fit; kept while
    in use. `about`: the ranking."""

    def __init__(self, bench: Bench, about: bytes):
        self.bench = bench
        self._made: OrderedDict[tuple, Pair] = OrderedDict()
        sha = hashlib.sha256(about + repr((VERSION, DAMP, bench.train.inputs)).encode())
        for name, tensor in sorted(bench.encoder.model.state_dict().items()):
            sha.update(name.encode() + memoryview(tensor.cpu().contiguous().numpy()).cast("B"))
        for name, grid in sorted(bench.trained.grids.items()):  # two stages may have the same weights on two grids
            sha.update(name.encode() + b"".join(b"-" if one is None else one.tobytes() for one in grid))
        self.digest = sha.hexdigest()

    def of(self, mask: BlockMask, formats: Mapping[str, Format]) -> dict[str, Pair]:
        """Matrix name -> weight and bias, the same objects as long as they are kept."""
        weights = {m.name: self._compressed(m, mask, formats[m.name]) for m in mask.layout.matrices}
        self._forget(len(weights))
        return weights

    def _forget(self, but: int) -> None:
        while len(self._made) > but and sum(weight.nbytes for weight, _ in self._made.values()) > KEPT_BYTES:
            self._made.popitem(last=False)

    def dev_answers(self, mask: BlockMask, formats: Mapping[str, Format]) -> np.ndarray:
        """(examples, outputs) on the main dev split."""
        return self._on_dev.outputs(self.of(mask, formats)).cpu().numpy()

    @cached_property
    def _on_dev(self) -> Exchange:
        return Exchange(self.bench.encoder.model, self.bench.run.layout, self.bench.dev[self.bench.task.dev[0]])

    def errors(self, table: Table) -> Errors:
        """Of each option of each matrix the squared distance of the outputs from what they were over their spread, on
        the sentences behind the repair: trace(D A D^T) / trace(W A W^T). After `measure`."""
        return tuple(tuple(self._errors[_text(matrix, option)] for option in options)
                     for matrix, options in zip(table.layout.matrices, table.options, strict=True))

    def measure(self, table: Table) -> Iterator[None]:
        """These errors, matrix by matrix; kept with the run."""
        masks: dict[float, BlockMask] = {}
        for matrix, options in zip(table.layout.matrices, table.options, strict=True):
            yield
            for option in options:
                text = _text(matrix, option)
                if text not in self._errors:
                    mask = masks.setdefault(option.share, table.cut(option.share))
                    self._errors[text] = self._error(matrix, mask, option.format)
                    mixtures.keep_loss(self.bench.run, self.bench.stage, self.digest[:24], text,
                                       {"error": self._errors[text]})

    @cached_property
    def _errors(self) -> dict[str, float]:
        known = mixtures.losses(self.bench.run, self.bench.stage, self.digest[:24])
        return {text: one["error"] for text, one in known.items()}

    @torch.no_grad()
    def _error(self, matrix: Matrix, mask: BlockMask, format: Format) -> float:
        own = self.bench.encoder.linears[matrix.name].weight.float()
        products = self.bench.grams()[matrix.name].centred()
        off = own - self._compressed(matrix, mask, format)[0]
        self._forget(1)
        spread = float(((own @ products) * own).sum())
        return max(0.0, float(((off @ products) * off).sum())) / spread if spread > 0 else 0.0

    def _compressed(self, matrix: Matrix, mask: BlockMask, format: Format) -> Pair:
        kept = mask.kept[matrix.name]
        key = matrix.name, format, np.packbits(kept).tobytes()
        if key not in self._made:
            own = self.bench.encoder.linears[matrix.name]
            linear = nn.Linear(matrix.n, matrix.m, bias=own.bias is not None, device="meta")
            linear.weight = nn.Parameter(own.weight.detach().float().clone())
            if own.bias is not None:
                linear.bias = nn.Parameter(own.bias.detach().float().clone())
            alone = BlockMask(replace(mask.layout, matrices=(matrix,)), {matrix.name: kept})
            one = Formats(weights=(format,))
            with torch.no_grad():
                compress_({matrix.name: linear}, alone, one, self.bench.grams(),
                          self.bench.trained.grids_for(one, alone.layout))
            self._made[key] = (linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
        self._made.move_to_end(key)
        return self._made[key]


def _text(matrix: Matrix, option: Option) -> str:
    return f"{matrix.name}: {option}"
