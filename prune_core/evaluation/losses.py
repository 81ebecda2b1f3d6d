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
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.bench import GRAM_SENTENCES
from prune_core.evaluation.matrices import Matrices
from prune_core.execution.exchange import Exchange, Near
from prune_core.precision.formats import Format
from prune_core.runs import mixtures
from prune_core.runs.mixtures import Losses
from prune_core.tasks import encoding
from prune_core.tasks.glue import Examples

SENTENCES = 384


def held_out(train: Examples, count: int = SENTENCES) -> tuple[Examples, Examples, str]:
    """(up to `count` examples, as many others, a note): of those that no repair sees, or of all where these are few.

    The longer an example, the likelier it is taken: every word is as likely as another. Many of SST-2's training
    examples are phrases of two or three words, which tell little.
    """
    seen = np.linspace(0, len(train) - 1, min(GRAM_SENTENCES, len(train))).round().astype(int)
    rest, note = np.setdiff1d(np.arange(len(train)), seen), ""
    if len(rest) < count:
        rest = np.arange(len(train))
        note = (f"only {len(train):,} training sentences, so losses are measured on sentences that repairs have seen")
    ends = np.cumsum([max(1, sum(len(text.split()) for text in train.texts[i])) for i in rest])
    words = (np.arange(2 * count) + 0.5) / (2 * count) * ends[-1]
    at = rest[np.unique(np.searchsorted(ends, words))] if len(rest) > 2 * count else rest
    return (*(Examples([train.texts[i] for i in some], train.labels[some]) for some in (at[::2], at[1::2])), note)


class HeldOut:
    """Losses of settings on some sentences, each measured only once ever."""

    def __init__(self, matrices: Matrices, examples: Examples):
        self._matrices, bench = matrices, matrices.bench
        self._run, self._stage = bench.run, bench.stage
        length = bench.encoder.max_length(self._run.config.max_length)
        self._data = encoding.encode(examples, bench.encoder.tokenizer, length)
        self._exchange = Exchange(bench.encoder.model, self._run.layout, self._data)
        self._nears: OrderedDict[str, Near] = OrderedDict()
        seen = repr((matrices.digest, self._data.inputs, self._data.labels.tolist()))
        self._key = hashlib.sha256(seen.encode()).hexdigest()[:24]
        self._known = mixtures.losses(self._run, self._stage, self._key)
        self.measured = 0  # here, not found

    def known(self, text: str) -> Losses | None:
        """What was measured of this setting; None where nothing was."""
        return self._known.get(text)

    def loss(self, text: str, mask: BlockMask, formats: Mapping[str, Format],
             near: tuple[str, BlockMask, Mapping[str, Format]] | None = None) -> Losses:
        """Of a setting, which `text` names; `near`: another one, with most of its matrices, from which to start."""
        if text not in self._known:
            start = self._near(*near) if near else None
            outputs = self._exchange.outputs(self._matrices.of(mask, formats), start)
            losses = {"labels": self._to_labels(outputs), "answers": self._to_answers(outputs),
                      "outputs": self._to_outputs(outputs)}
            mixtures.keep_loss(self._run, self._stage, self._key, text, losses)
            self._known[text], self.measured = losses, self.measured + 1
        return self._known[text]

    def _near(self, text: str, mask: BlockMask, formats: Mapping[str, Format]) -> Near:
        if text not in self._nears:
            self._nears[text] = self._exchange.near(self._matrices.of(mask, formats))
            if len(self._nears) > 2:  # the first is where most start
                del self._nears[list(self._nears)[1]]
        return self._nears[text]

    # ---- losses

    @cached_property
    def _dense(self) -> torch.Tensor:
        """(sentences, outputs) of the stage as it is."""
        return self._exchange.outputs({})

    def _to_labels(self, outputs: torch.Tensor) -> float:
        labels = torch.from_numpy(np.asarray(self._data.labels)).to(outputs.device)
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
