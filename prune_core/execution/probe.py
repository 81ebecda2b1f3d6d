"""Two sentences through everything that a run will do with an encoder, before it is trained.

So that what an architecture cannot do is said at once. Those that are tested here are looked at briefly; of all others
every part is tried: what is kept executed alone, gradients, Gram matrices, a repair, an ONNX graph.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from prune_core import InputError, out_of_memory
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import engines
from prune_core.execution.compact import compact
from prune_core.execution.unpadded import unpad_
from prune_core.methods import repair
from prune_core.methods.surgeon import outputs_weigh
from prune_core.models.checkpoints import first_line
from prune_core.models.encoders import Encoder, quiet
from prune_core.models.teacher import mixed
from prune_core.tasks import encoding
from prune_core.tasks.glue import Examples

TESTED = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet", "deberta", "deberta-v2",
          "albert")
SENTENCES = (("it was a warm film and a very good one",), ("it was dull",))
LENGTH = 16  # tokens at most: fewer than the smallest position table
KEPT = 0.75  # share of the groups that the probe's mask keeps, beside a head and neurons that are gone
FAR = 1e-3  # of the largest output: rounding is 1e-6 of it, a wrong path 1e-2 and more
SAID = 90  # letters of another library's message

Inputs = Mapping[str, torch.Tensor]


def probe(encoder: Encoder, block: BlockShape, hidden: bool = True, mixup: bool = True) -> None:
    """Raises InputError, one line that names the architecture and each part that fails. The encoder stays as it is.

    `hidden`, `mixup`: whether hidden states, and sentences mixed at the embeddings, will be asked for.
    """
    tried, was_training = _Tried(encoder, block), encoder.model.training
    known = encoder.model.config.model_type in TESTED
    parts: dict[str, Callable[[], str | None]] = {"the dense model": tried.dense}
    parts |= {"gradients": tried.gradients, "compact": tried.compact}
    parts |= {"hidden states": tried.hidden} if hidden else {}
    parts |= {"mixed sentences": tried.mixed} if mixup else {}
    parts |= {} if known else {"Gram matrices": tried.grams, "the surgeon's weights": tried.surgeon,
                               "export to ONNX": tried.export}
    encoder.model.eval()
    try:
        with quiet():
            failed = dict(_failing(parts))
    finally:
        encoder.model.train(was_training)
    if failed:
        kind = f"architecture {encoder.model.config.model_type!r}"
        kind += " with these settings" if known else " is not among those tested here, and"
        told = "; ".join(f"{part}: {why}" for part, why in failed.items())
        raise InputError(f"model {encoder.name!r}: {kind} did not pass the probe: {told}; needed: a checkpoint that "
                         f"does, for example of {', '.join(TESTED[:4])}")


def _failing(parts: Mapping[str, Callable[[], str | None]]) -> Iterator[tuple[str, str]]:
    """(part, why) of each part that fails; without a dense model nothing further is tried."""
    for part, run in parts.items():
        try:
            why = run()
        except Exception as error:  # every architecture has its own way to fail
            if out_of_memory(error):
                raise
            why = re.sub(r"\x1b\[[0-9;]*m", "", first_line(error))[:SAID]
            why = why if isinstance(error, InputError) else f"{type(error).__name__}: {why}"
        if why:
            yield part, why
            if part == "the dense model":
                return


@dataclass
class _Tried:
    """An encoder on two sentences; each method tries one part and says what is wrong with it, or None."""

    encoder: Encoder
    block: BlockShape

    def __post_init__(self):
        regression = self.encoder.model.config.num_labels == 1
        labels = np.zeros(len(SENTENCES), np.float32 if regression else np.int64)
        data = encoding.encode(Examples(SENTENCES, labels), self.encoder.tokenizer, self.encoder.max_length(LENGTH))
        self.inputs, self.labels = data.batch(range(len(SENTENCES)))
        self.wanted: torch.Tensor | None = None  # outputs of the masked dense model
        self.mask = self._mask()

    def dense(self) -> str | None:
        out = self.encoder.model(**self.inputs, labels=self.labels)
        if tuple(out.logits.shape) != (len(SENTENCES), self.encoder.model.config.num_labels):
            return f"outputs of shape {tuple(out.logits.shape)}"
        return None if torch.isfinite(out.logits).all() and torch.isfinite(out.loss) else "outputs are not finite"

    def gradients(self) -> str | None:
        weights = self.encoder.weights
        given = torch.autograd.grad(self.encoder.model(**self.inputs).logits.sum(), list(weights.values()),
                                    allow_unused=True)
        unused = [name for name, gradient in zip(weights, given, strict=True) if gradient is None]
        return f"{unused[0]} ({len(unused)} in all) is part of no output" if unused else None

    @torch.no_grad()
    def compact(self) -> str | None:
        with self._masked():
            self.wanted = self.encoder.model(**self.inputs).logits
        small = compact(self.encoder.model, self.mask)
        differ = self._far(small(**self.inputs).logits, "compact")
        if differ is None and unpad_(small):
            differ = self._far(small(**self.inputs).logits, "compact without padding")
        return differ

    @torch.no_grad()
    def hidden(self) -> str | None:
        states = self.encoder.model(**self.inputs, output_hidden_states=True).hidden_states
        batch = tuple(self.inputs["attention_mask"].shape)
        if not states or len(states) < 2:
            return "none are given"
        odd = next((tuple(state.shape) for state in states[1:] if tuple(state.shape[:2]) != batch), None)
        return f"of shape {odd} for {batch} tokens" if odd else None

    @torch.no_grad()
    def mixed(self) -> str | None:
        logits = self.encoder.model(**mixed(self.encoder.model, self.inputs, 0.7)).logits
        return None if torch.isfinite(logits).all() else "outputs are not finite"

    def grams(self) -> str | None:
        grams = repair.collect(self.encoder.model, self.encoder.linears, [self.inputs])
        tokens = int(self.inputs["attention_mask"].sum())
        odd = [name for name in self.encoder.linears if name not in grams or grams[name].count % tokens]
        if odd:
            return f"{odd[0]} ({len(odd)} in all) is not given each token once"
        first = self.mask.layout.matrices[0]
        rows, _ = self.block.sides(first.m, first.n)
        kept = self.block.expand(torch.from_numpy(self.mask.kept[first.name]), first.m, first.n)
        new = repair.repaired(self.encoder.weights[first.name].detach()[:rows], kept[:rows], grams[first.name])
        return None if torch.isfinite(new).all() else "a repair gives no finite weights"

    def surgeon(self) -> str | None:
        weighs = outputs_weigh(self.encoder.model, self.encoder.linears, [self.inputs])
        odd = [name for name, values in weighs.items() if not torch.isfinite(values).all()]
        return f"not finite for {odd[0]}" if odd else None

    @torch.no_grad()
    def export(self) -> str | None:
        small = compact(self.encoder.model, self.mask, kernels=False)
        if self.wanted is None or engines.onnx_bytes(small) > engines.LARGEST:  # the first is said, the second later
            return None
        with tempfile.TemporaryDirectory(prefix="prunescope-probe-") as folder:
            types = "token_type_ids" in self.inputs
            path = engines.to_onnx(small, Path(folder) / "model.onnx", types=types)
            return self._far(torch.from_numpy(engines.session("onnxruntime", path, 1)(self.inputs)), "the graph")

    def _far(self, logits: torch.Tensor, what: str) -> str | None:
        """'compact differs from masked dense by 0.3', where it does."""
        far = float((logits - self.wanted).abs().max())
        near = FAR * float(self.wanted.abs().max()) + 1e-6
        return None if far <= near else f"{what} differs from masked dense by {far:.2g}"

    def _mask(self) -> BlockMask:
        """Most groups kept; in every layer half of the first head's size of value rows and some neurons gone."""
        layout, random = self.encoder.layout(self.block), np.random.default_rng(0)
        kept = {m.name: random.random(layout.block.grid(m.m, m.n)) < KEPT for m in layout.matrices}
        heads = getattr(self.encoder.model.config, "num_attention_heads", None) or 1
        for m in layout.matrices:
            down = len(kept[m.name])
            if m.type == "value" and heads > 1:
                kept[m.name][: down // heads] = False
            if m.type == "intermediate":
                kept[m.name][: down // 4] = False
        return BlockMask(layout, kept)

    @contextlib.contextmanager
    def _masked(self) -> Iterator[None]:
        """Inside, the groups that the mask cuts are zero; afterwards the weights are what they were, bit for bit."""
        weights = self.encoder.weights
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            for name, weight in weights.items():
                self.block.scale_(weight, torch.from_numpy(self.mask.kept[name]).to(weight.dtype))
            yield
        finally:
            for name, weight in weights.items():
                weight.copy_(before[name])
