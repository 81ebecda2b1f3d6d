"""How one matrix comes onto its levels while it is trained: one class for each quantizer, one object for each matrix.

    Rounded    w -> Q(w) in the forward pass, the gradient goes straight through: that of Q(w), 0 beyond the levels
    Learned    the same, the step learned: LSQ (Esser et al., arXiv 1902.08153)
    Clustered  the same with a codebook; in the last steps only its values train
    Frozen     share after share is put on its levels and stays (the iterative way of arXiv 1811.01907)

Levels, scales and codebooks are those of precision/quantizers.py. What is cut is zero and stays it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from prune_core.precision import quantizers
from prune_core.precision.formats import Format
from prune_core.precision.quantizers import Quantized

FITS = 20  # times in a phase that scales are fitted by least squares, and codebooks: that takes longer than a step
TUNED = 0.1  # share of the steps, the last, in which only the values of a codebook train
LEARNING = 10.0  # times the learning rate at which the learned steps move, each relative to where it began
SHARES = (0.5, 0.75, 0.875, 1.0)  # frozen from these moments of the phase on, evenly spaced


class Rounded:
    """Rounded in every forward pass. `warm`: scales by a round of least squares in each step, from the last ones; else
    by the format's own rule: in each step, but where that is least squares FITS times in the phase.
    """

    def __init__(self, weight: torch.Tensor, format: Format, kept: torch.Tensor, count: int, warm: bool = False):
        self.format, self.kept, self.warm = format, kept, warm
        self.fitted = format.kind == "levels" and format.bits < 8
        self.every = max(1, count // FITS) if self.fitted and not warm else 1
        self.clips = format.kind == "levels" and (warm or format.bits < 8)
        self.scales = quantizers.scales_for(weight, format)

    def begin_(self, weight: torch.Tensor, done: int) -> bool:
        """Before a step: may change the weights; whether the optimizer must forget what it knows of them."""
        if self.warm:
            self.scales = quantizers.interval(weight, self.format.top, self.scales, 1)
        elif done % self.every == 0:
            self.scales = quantizers.scales_for(weight, self.format)
        return False

    def round(self, weight: torch.Tensor) -> torch.Tensor | None:
        """Q(w), what the forward pass sees; None where it sees the weights themselves."""
        if self.format.kind == "levels":
            return _wholes(weight, self.scales).clamp_(-self.format.top, self.format.top).mul_(self.scales[:, None])
        return quantizers.round_to(weight, self.format, self.scales, self.kept) * self.scales[:, None]

    def straight_(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Of the gradient of Q(w) make the weights' own, in place."""
        if self.clips:
            gradient *= _wholes(weight, self.scales).abs_() <= self.format.top

    def stepped_(self, weight: torch.Tensor) -> None:
        """After the optimizer's step."""

    def settle(self, weight: torch.Tensor) -> Quantized:
        """At the end of the phase: the matrix as it is stored."""
        scales = quantizers.interval(weight, self.format.top, self.scales) if self.warm else (
            quantizers.scales_for(weight, self.format))
        return _stored(weight, self.format, self.kept, scales=scales)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold."""
        return {"scales": self.scales}

    def restore_(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Undo of `tensors`."""
        self.scales = tensors["scales"].clone()


class Learned(Rounded):
    """The step of each row is learned with the weights.

    d Q(w) / d s = round(w/s) - w/s up to |w/s| = K, K with the sign of w beyond; times 1 / sqrt(weights * K). Up to
    there a weight has a gradient too. As we use it: begun at the scale of the format's own rule, not at the paper's;
    and what is learned is the factor on that, at LEARNING times the learning rate, so that Adam's steps fit scales of
    any size.
    """

    def __init__(self, weight: torch.Tensor, format: Format, kept: torch.Tensor, count: int):
        super().__init__(weight, format, kept, count)
        self.clips, self.start = True, self.scales
        self.learned = nn.Parameter(torch.ones_like(self.scales))
        self.damp = 1.0 / (kept.sum(1).clamp_min(1) * format.top).sqrt()

    @torch.no_grad()
    def begin_(self, weight: torch.Tensor, done: int) -> bool:
        self.learned.clamp_(min=0.1)  # a scale stays above zero
        self.scales = self.start * self.learned.detach()
        return False

    def straight_(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        ratio = weight / self.scales[:, None]
        top = self.format.top
        inside = ratio.abs() <= top
        slope = torch.where(inside, ratio.round() - ratio, top * ratio.sign())
        self.learned.grad = (gradient * slope).sum(1) * self.damp * self.start
        gradient *= inside

    def settle(self, weight: torch.Tensor) -> Quantized:
        return _stored(weight, self.format, self.kept, scales=self.start * self.learned.detach().clamp(min=0.1))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"learned": self.learned.detach(), "start": self.start}

    def restore_(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.start = tensors["start"].clone()
        with torch.no_grad():
            self.learned.copy_(tensors["learned"])


class Clustered:
    """Every kept weight is seen as the nearest value of a codebook, which is fitted anew FITS times in the phase.

    In the last steps which value it is stays; each value moves by the mean of its weights' gradients (the papers' sum:
    Adam knows no difference), so that weights of one value stay equal to the last bit.
    """

    def __init__(self, weight: torch.Tensor, format: Format, kept: torch.Tensor, count: int):
        self.format, self.kept, self.every = format, kept, max(1, count // FITS)
        self.fixed_at = count - max(1, math.ceil(TUNED * count))
        self.codebook = _there(quantizers.codebook_for(weight.detach().cpu().numpy(), format), weight)
        self.codes: torch.Tensor | None = None  # (m, n) int16, 0 where cut: once they are fixed

    def begin_(self, weight: torch.Tensor, done: int) -> bool:
        if self.codes is None and done % self.every == 0:
            self._fit_(weight)
        if self.codes is not None or done < self.fixed_at:
            return False
        made = _stored(weight, self.format, self.kept, codebook=self.codebook)
        self.codes = _there(made.codes, weight)
        weight.copy_(torch.from_numpy(made.values))
        return True

    def _fit_(self, weight: torch.Tensor) -> None:
        made = quantizers.codebook_for(weight.cpu().numpy(), self.format, self.codebook.cpu().numpy())
        self.codebook = _there(made, weight)

    def round(self, weight: torch.Tensor) -> torch.Tensor | None:
        if self.codes is not None:
            return None
        middles = (self.codebook[1:] + self.codebook[:-1]) / 2
        return self.codebook[torch.bucketize(weight, middles)] * self.kept

    def straight_(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        if self.codes is not None:
            at = self.codes.flatten().long()
            sums = torch.bincount(at, gradient.flatten().double(), self.format.top + 1)
            means = sums / torch.bincount(at, minlength=self.format.top + 1).clamp_min(1)
            means[0] = 0.0
            gradient.copy_(means.float()[at].view_as(gradient))

    def stepped_(self, weight: torch.Tensor) -> None:
        pass

    def settle(self, weight: torch.Tensor) -> Quantized:
        if self.codes is None:
            return _stored(weight, self.format, self.kept, codebook=self.codebook)
        codes = self.codes.long()
        book = self.codebook.clone().scatter_(0, (codes[codes > 0] - 1), weight[codes > 0])  # equal ones: any of them
        return _stored(weight, self.format, self.kept, codebook=book.sort().values)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"codebook": self.codebook} | ({} if self.codes is None else {"codes": self.codes})

    def restore_(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.codebook = tensors["codebook"].clone()
        self.codes = tensors["codes"].clone() if "codes" in tensors else None


class Frozen:
    """At each of its moments the weights whose rounding loses least are put on their levels, up to a share of SHARES.

    Levels are those of the weights as the phase began, so that what is frozen stays on them; the rest trains on.
    """

    def __init__(self, weight: torch.Tensor, format: Format, kept: torch.Tensor, count: int):
        self.format, self.kept = format, kept
        first = quantizers.quantize(weight.detach().cpu().numpy(), format, kept.cpu().numpy())
        self.scales, self.codebook = (None if one is None else _there(one, weight)
                                      for one in (first.scales, first.codebook))
        self.frozen = torch.zeros_like(kept)
        self.values = torch.zeros_like(weight)  # where frozen
        self.moments = {round(count * at / len(SHARES)): share for at, share in enumerate(SHARES)}

    def begin_(self, weight: torch.Tensor, done: int) -> bool:
        if done in self.moments:
            self._freeze_(weight, self.moments[done])
        return False

    def _freeze_(self, weight: torch.Tensor, share: float) -> None:
        values = _there(self.settle(weight).values, weight)
        open_ = self.kept & ~self.frozen
        lost, more = abs(weight - values)[open_], round(share * int(self.kept.sum())) - int(self.frozen.sum())
        if more <= 0:
            return
        limit = np.partition(lost.cpu().numpy(), more - 1)[more - 1]
        self.frozen |= open_ & (abs(weight - values) <= float(limit))
        self.values = torch.where(self.frozen, values, torch.zeros_like(values))
        self.stepped_(weight)

    def round(self, weight: torch.Tensor) -> torch.Tensor | None:
        return None

    def straight_(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        gradient *= ~self.frozen

    def stepped_(self, weight: torch.Tensor) -> None:
        """What is frozen is where it was: neither Adam's moments nor weight decay move it."""
        weight.copy_(torch.where(self.frozen, self.values, weight))

    def settle(self, weight: torch.Tensor) -> Quantized:
        made = _stored(weight, self.format, self.kept, scales=self.scales, codebook=self.codebook)
        return made

    def tensors(self) -> dict[str, torch.Tensor]:
        given = {"scales": self.scales, "codebook": self.codebook}
        return {"frozen": self.frozen, "values": self.values} | {k: v for k, v in given.items() if v is not None}

    def restore_(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.frozen, self.values = tensors["frozen"].clone(), tensors["values"].clone()
        self.scales, self.codebook = (tensors[k].clone() if k in tensors else None for k in ("scales", "codebook"))


def rounding(quantizer: str, weight: torch.Tensor, format: Format, kept: torch.Tensor,
             count: int) -> Rounded | Clustered | Frozen:
    """What a quantizer makes of one matrix (m, n); `kept` (m, n) bool, `count` steps of the phase."""
    if quantizer == "iterative":
        return Frozen(weight, format, kept, count)
    if format.kind == "clusters":
        return Clustered(weight, format, kept, count)
    if quantizer == "lsq":
        return Learned(weight, format, kept, count)
    return Rounded(weight, format, kept, count, warm=quantizer == "interval")


def _wholes(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return (weight / scales[:, None]).round_()


def _stored(weight: torch.Tensor, format: Format, kept: torch.Tensor, scales: torch.Tensor | None = None,
            codebook: torch.Tensor | None = None) -> Quantized:
    given = {name: None if one is None else one.cpu().numpy()
             for name, one in (("scales", scales), ("codebook", codebook))}
    return quantizers.quantize(weight.detach().cpu().numpy(), format, kept.cpu().numpy(), **given)


def _there(array: np.ndarray, weight: torch.Tensor) -> torch.Tensor:
    """The same where the weight lies."""
    return torch.from_numpy(array).to(weight.device)
