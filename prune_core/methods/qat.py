"""Training with number formats: fake quantization with straight-through gradients, in the steps of a phase.

    before_    the prunable weights are swapped for Q(W)
    running    inside: activations and word embeddings are rounded
    after_     W is back and has the gradient of Q(W); what blocks and pattern cut has none
    stepped_   after the optimizer's step
    settle_    at the end of the phase: the weights are on their levels, exactly

At equal scales pruning and rounding commute where zero is a level: which comes first is no matter. Here scales are
fitted to what is kept, so cutting comes first, everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.methods import constraints
from prune_core.methods.activations import Activations, Widest, embedding_rows, own_range
from prune_core.methods.admm import ADMM
from prune_core.methods.rounding import LEARNING, rounding
from prune_core.models.encoders import Encoder
from prune_core.precision import quantizers
from prune_core.precision.formats import Format, Formats
from prune_core.precision.quantizers import Quantized

ROUNDS = 10  # times in a phase that ADMM projects onto the levels, and that its rho doubles: where the weights have no
# time to follow, U makes what they are drawn to flicker between two levels, and they come no nearer
RHO = 0.1  # at first: rounding is a tenth of what pruning takes away, so that pruning's own is too weak


class Quantization:
    """The formats of an encoder while one phase trains it. `kept`: matrix name -> (m, n) bool; `count` steps."""

    def __init__(self, encoder: Encoder, layout: Layout, formats: Formats, quantizer: str,
                 kept: Mapping[str, torch.Tensor], count: int, widest: Widest = own_range):
        """`widest`: of ranges that several processes have measured makes one."""
        self.encoder, self.kept, self.count = encoder, kept, count
        self.formats = {name: one for name, one in formats.of(layout).items() if one.kind != "float"}
        self.activations = Activations(encoder.linears, formats.activations, widest)
        self.table = encoder.model.get_input_embeddings() if formats.embeddings == 8 else None
        self.parts, self.drawn = {}, None
        weights = {name: encoder.weights[name] for name in self.formats}
        if weights and quantizer == "admm":
            self.levels = constraints.Chain(constraints.of_numbers(self.formats))
            self.drawn = ADMM(weights, _only(layout, weights), constraint=self.levels, rho=RHO, rounds=ROUNDS)
        else:
            with torch.no_grad():
                self.parts = {name: rounding(quantizer, weight.detach(), self.formats[name], kept[name], count)
                              for name, weight in weights.items()}
        self._full: dict[str, torch.Tensor] = {}
        self._rows: torch.Tensor | None = None

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """What is trained beside the encoder, by name."""
        return {f"{name}.scale": part.learned for name, part in self.parts.items() if hasattr(part, "learned")}

    @property
    def group(self) -> list[dict]:
        """The same as a group of parameters for the optimizer; [] where there is none."""
        return [{"params": [*self.learned.values()], "weight_decay": 0.0, "factor": LEARNING}] * bool(self.learned)

    @torch.no_grad()
    def before_(self, done: int, optimizer: torch.optim.Optimizer) -> None:
        """Before the forward pass of a step."""
        if self.drawn and done * ROUNDS // self.count > (done - 1) * ROUNDS // self.count:  # -1 before the first
            if done:
                self.drawn.refresh_()
            self.drawn.control_(0.0, 0.0)
        for name, part in self.parts.items():
            weight = self.encoder.weights[name]
            if part.begin_(weight.detach(), done):
                optimizer.state.pop(weight, None)
            if (rounded := part.round(weight.detach())) is not None:
                self._full[name], weight.data = weight.data, rounded

    @torch.no_grad()
    def after_(self) -> None:
        """After the backward pass."""
        for name, full in self._full.items():
            self.encoder.weights[name].data = full
        self._full.clear()
        for name, part in self.parts.items():
            weight = self.encoder.weights[name]
            part.straight_(weight.detach(), weight.grad)
        if self.drawn:
            self.drawn.before_step_()
        for name, kept in self.kept.items():
            self.encoder.weights[name].grad *= kept

    @torch.no_grad()
    def stepped_(self) -> None:
        for name, part in self.parts.items():
            part.stepped_(self.encoder.weights[name].detach())

    @contextlib.contextmanager
    def running(self, learning: bool = False) -> Iterator[None]:
        """Inside, the model's activations and word embeddings are rounded; `learning`: their ranges are measured."""
        with self.activations.running(learning), self._in_8_bits():
            yield

    @contextlib.contextmanager
    def _in_8_bits(self) -> Iterator[None]:
        if self.table is None:
            yield
            return
        weight = self.table.weight
        if self._rows is None or weight.requires_grad:
            self._rows = embedding_rows(weight.detach())[0]
        full, weight.data = weight.data, self._rows
        try:
            yield
        finally:
            weight.data = full

    @torch.no_grad()
    def settle_(self) -> dict[str, torch.Tensor]:
        """Put the weights onto their levels; name -> tensor of what a stage keeps in fp32: them, scales, codebooks."""
        exact = {}
        for name, format in self.formats.items():
            weight = self.encoder.weights[name]
            made = self._drawn(name, format) if self.drawn else self.parts[name].settle(weight)
            weight.copy_(torch.from_numpy(made.values))
            exact[f"{name}.weight"] = weight.detach().clone()
            for what, values in (("scale", made.scales), ("codebook", made.codebook)):
                exact |= {} if values is None else {f"{name}.weight.{what}": torch.from_numpy(values)}
        exact |= {f"{name}.input.range": range_ for name, range_ in self.activations.ranges.items()}
        if self.table is not None and self.table.weight.requires_grad:
            rows, scales = embedding_rows(self.table.weight.detach())
            self.table.weight.copy_(rows)
            own = next(name for name, one in self.encoder.model.named_parameters() if one is self.table.weight)
            exact |= {own: rows.clone(), f"{own}.scale": scales}
        return exact

    def _drawn(self, name: str, format: Format) -> Quantized:
        """Snapped to the levels of the last projection."""
        state = self.levels.tensors()
        scales, codebook = (state.get(f"{kind}.{name}") for kind in ("levels", "clusters"))
        given = {"scales": scales, "codebook": codebook}
        weight, kept = self.encoder.weights[name].detach().cpu().numpy(), self.kept[name].cpu().numpy()
        return quantizers.quantize(weight, format, kept, **{key: None if one is None else one.cpu().numpy()
                                                            for key, one in given.items()})

    def residuals(self) -> dict[str, float] | None:
        """Of ADMM on the levels, since it last projected."""
        return self.drawn.residuals if self.drawn else None

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold."""
        held = {f"qat.{name}.{what}": one for name, part in self.parts.items() for what, one in part.tensors().items()}
        held |= {f"qat.range.{name}": one for name, one in self.activations.ranges.items()}
        if self.drawn:
            held |= {f"qat.admm.{name}": one for name, one in self.drawn.tensors().items()}
            held["qat.rho"] = torch.tensor([*self.drawn.lam.values()], dtype=torch.float64, device="cpu")
        return held

    def restore_(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Undo of `tensors`."""
        for name, part in self.parts.items():
            part.restore_(_under(f"qat.{name}.", tensors))
        self.activations.ranges = {name: one.clone() for name, one in _under("qat.range.", tensors).items()}
        if self.drawn:
            lam = dict(zip(self.drawn.lam, tensors["qat.rho"].tolist(), strict=True))
            self.drawn.restore_(_under("qat.admm.", tensors), lam)


def kept_by(mask: BlockMask, formats: Mapping[str, Format], weights: Mapping[str, torch.Tensor],
            importance: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Matrix name -> (m, n) bool: what blocks and patterns keep, of a pattern's groups the largest weights.

    `importance`: name -> what groups count, broadcastable to (groups down, groups across), where that is weighed.
    """
    kept, block = {}, mask.layout.block
    for name, weight in weights.items():
        stays = block.expand(torch.from_numpy(mask.kept[name]).to(weight.device), *weight.shape)
        if pattern := formats[name].pattern:
            counts = torch.as_tensor((importance or {}).get(name, 1.0)).to(weight.device)
            counts = counts.expand(mask.kept[name].shape)
            scores = abs(weight.detach()) * block.expand(counts, *weight.shape)
            stays = quantizers.keep_pattern(scores, pattern, stays)
        kept[name] = stays
    return kept


def _under(start: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those whose names begin so, by what follows."""
    return {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}


def _only(layout: Layout, names: Mapping[str, object]) -> Layout:
    """The layout of these matrices alone."""
    return Layout(tuple(m for m in layout.matrices if m.name in names), layout.block, layout.model_weights)
