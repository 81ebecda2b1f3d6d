"""The loss of a model of which every matrix has a setting of its own, on training sentences that no repair has seen.

A loss falls smoothly where a score jumps, and the dev set is left to judge what was found. Three are measured at once:

    labels    cross-entropy, or squared error
    answers   Kullback-Leibler divergence from the answers' probabilities of the stage itself; of regression as outputs
    outputs   squared difference from the outputs of the stage itself, each sentence's about their mean
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from prune_core.cutting.blocks import Matrix
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.bench import GRAM_SENTENCES, Bench
from prune_core.execution.exchange import Exchange, Near, Pair
from prune_core.methods.compress import compress_
from prune_core.methods.repair import DAMP
from prune_core.precision.formats import Format, Formats
from prune_core.runs import mixtures
from prune_core.runs.mixtures import Losses
from prune_core.tasks import encoding
from prune_core.tasks.glue import Examples

SENTENCES = 512
KEPT_BYTES = 800e6  # of matrices that were compressed
VERSION = 1  # of what a loss depends on beside weights, sentences and ranking


def held_out(train: Examples, count: int = SENTENCES) -> tuple[Examples, str]:
    """(up to `count` examples spread over those that no repair sees, or over all where too few are left; a note)."""
    seen = np.linspace(0, len(train) - 1, min(GRAM_SENTENCES, len(train))).round().astype(int)
    rest, note = np.setdiff1d(np.arange(len(train)), seen), ""
    if len(rest) < count / 2:
        rest = np.arange(len(train))
        note = (f"only {len(train):,} training sentences, so losses are measured on sentences that repairs have seen")
    at = rest[np.linspace(0, len(rest) - 1, min(count, len(rest))).round().astype(int)]
    return Examples([train.texts[i] for i in at], train.labels[at]), note


class HeldOut:
    """Losses of settings, each measured only once ever; matrices are compressed one by one, and kept while in use."""

    def __init__(self, bench: Bench, examples: Examples, about: bytes):
        """`about`: what else losses depend on, the ranking."""
        self._bench, run = bench, bench.run
        length = bench.encoder.max_length(run.config.max_length)
        self._data = encoding.encode(examples, bench.encoder.tokenizer, length)
        self._exchange = Exchange(bench.encoder.model, run.layout, self._data)
        self._made: OrderedDict[tuple, Pair] = OrderedDict()
        self._nears: OrderedDict[str, Near] = OrderedDict()
        self._key = self._digest(about)
        self._known = mixtures.losses(run, bench.stage, self._key)
        self.measured = 0  # here, not found

    def _digest(self, about: bytes) -> str:
        sha = hashlib.sha256(about + repr((VERSION, DAMP, self._bench.train.inputs)).encode())
        sha.update(repr((self._data.inputs, self._data.labels.tolist())).encode())
        for name, tensor in sorted(self._bench.encoder.model.state_dict().items()):
            sha.update(name.encode() + memoryview(tensor.contiguous().numpy()).cast("B"))
        return sha.hexdigest()[:24]

    def known(self, text: str) -> Losses | None:
        """What was measured of this setting; None where nothing was."""
        return self._known.get(text)

    def loss(self, text: str, mask: BlockMask, formats: Mapping[str, Format],
             near: tuple[str, BlockMask, Mapping[str, Format]] | None = None) -> Losses:
        """Of a setting, which `text` names; `near`: another one, with most of its matrices, from which to start."""
        if text not in self._known:
            start = self._near(*near) if near else None
            outputs = self._exchange.outputs(self._weights(mask, formats), start)
            losses = {"labels": self._to_labels(outputs), "answers": self._to_answers(outputs),
                      "outputs": self._to_outputs(outputs)}
            mixtures.keep_loss(self._bench.run, self._bench.stage, self._key, text, losses)
            self._known[text], self.measured = losses, self.measured + 1
        return self._known[text]

    def dev_answers(self, mask: BlockMask, formats: Mapping[str, Format]) -> np.ndarray:
        """(examples, outputs) on the main dev split, of matrices that are compressed already where they are kept."""
        return self._on_dev.outputs(self._weights(mask, formats)).numpy()

    @cached_property
    def _on_dev(self) -> Exchange:
        bench = self._bench
        return Exchange(bench.encoder.model, bench.run.layout, bench.dev[bench.task.dev[0]])

    # ---- models

    def _near(self, text: str, mask: BlockMask, formats: Mapping[str, Format]) -> Near:
        if text not in self._nears:
            self._nears[text] = self._exchange.near(self._weights(mask, formats))
            if len(self._nears) > 2:  # the first is where most start
                del self._nears[list(self._nears)[1]]
        return self._nears[text]

    def _weights(self, mask: BlockMask, formats: Mapping[str, Format]) -> dict[str, Pair]:
        """Matrix name -> weight and bias, the same objects as long as they are kept."""
        weights = {m.name: self._compressed(m, mask, formats[m.name]) for m in mask.layout.matrices}
        while sum(weight.nbytes for weight, _ in self._made.values()) > KEPT_BYTES and len(self._made) > len(weights):
            self._made.popitem(last=False)
        return weights

    def _compressed(self, matrix: Matrix, mask: BlockMask, format: Format) -> Pair:
        kept = mask.kept[matrix.name]
        key = matrix.name, format, np.packbits(kept).tobytes()
        if key not in self._made:
            own = self._bench.encoder.linears[matrix.name]
            linear = nn.Linear(matrix.n, matrix.m, bias=own.bias is not None, device="meta")
            linear.weight = nn.Parameter(own.weight.detach().float().clone())
            if own.bias is not None:
                linear.bias = nn.Parameter(own.bias.detach().float().clone())
            alone = BlockMask(replace(mask.layout, matrices=(matrix,)), {matrix.name: kept})
            with torch.no_grad():
                compress_({matrix.name: linear}, alone, Formats(weights=(format,)), self._bench.grams())
            self._made[key] = (linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
        self._made.move_to_end(key)
        return self._made[key]

    # ---- losses

    @cached_property
    def _dense(self) -> torch.Tensor:
        """(sentences, outputs) of the stage as it is."""
        return self._exchange.outputs({})

    def _to_labels(self, outputs: torch.Tensor) -> float:
        labels = torch.from_numpy(np.asarray(self._data.labels))
        if outputs.shape[1] == 1:
            return float(F.mse_loss(outputs[:, 0].double(), labels.double()))
        return float(F.cross_entropy(outputs.double(), labels))

    def _to_answers(self, outputs: torch.Tensor) -> float:
        if outputs.shape[1] == 1:
            return self._to_outputs(outputs)
        said, dense = outputs.double().log_softmax(1), self._dense.double().log_softmax(1)
        return float(F.kl_div(said, dense, log_target=True, reduction="batchmean"))

    def _to_outputs(self, outputs: torch.Tensor) -> float:
        apart = outputs.double() - self._dense.double()
        return float((apart if apart.shape[1] == 1 else apart - apart.mean(1, keepdim=True)).square().mean())
