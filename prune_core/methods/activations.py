"""What goes into linear layers, and word embeddings, in 8 bits while a model runs; gradients go straight through.

    token    x = least + step * byte, step = (largest - least) / 255 of each token, as the int8 kernels in execution/
    tensor   x = step * (byte - zero), one range for all tokens: a running mean of least and largest, zero inside
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from prune_core.precision.quantizers import codes_at, full_scale

TOP = 255
SMALLEST = 1e-20
MEMORY = 0.99  # of the running mean, a step; the first batch sets it
EMBEDDING_TOP = 127


Widest = Callable[[torch.Tensor], torch.Tensor]  # (2,) least and largest of this process -> of all


def own_range(range_: torch.Tensor) -> torch.Tensor:
    """There is no other process."""
    return range_


class _Token(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return by_token(x)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient  # nothing is beyond the range of its own token


def by_token(x: torch.Tensor) -> torch.Tensor:
    """(..., width) rounded to 256 steps between the least and the largest value of each token, in the dtype of `x`."""
    wide = x.float()
    least = wide.amin(-1, keepdim=True)
    reach = (wide.amax(-1, keepdim=True) - least).clamp_min(SMALLEST)
    whole = ((wide - least) * (TOP / reach)).round_()
    return whole.mul_(reach * (1.0 / TOP)).add_(least).to(x.dtype)


def by_tensor(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """(..., width) rounded to 256 steps of one range, zero one of them; no gradient beyond it."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(high - low, SMALLEST) / TOP
    return torch.fake_quantize_per_tensor_affine(x.float(), step, round(-low / step), 0, TOP).to(x.dtype)


def by_range(x: torch.Tensor, range_: torch.Tensor) -> torch.Tensor:
    """The same to the last bit, the range (2,) of a tensor where `x` lies: nothing is fetched from there.

    In float64 where the device has it.
    """
    wide = range_.to(torch.float32 if range_.device.type == "mps" else torch.float64)
    low, high = wide[0].clamp(max=0.0), wide[1].clamp(min=0.0)
    step = (high - low).clamp(min=SMALLEST) / TOP
    zero = (-low / step).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x.float(), step.float(), zero, 0, TOP).to(x.dtype)


class Activations:
    """Quantizes what `linears` are given, inside `running`. `per`: 'token', 'tensor', '' for not at all."""

    def __init__(self, linears: Mapping[str, nn.Linear], per: str, widest: Widest = own_range):
        self.linears, self.per, self._widest = linears, per, widest
        self.ranges: dict[str, torch.Tensor] = {}  # name -> (2,) least and largest, per tensor
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # query, key and value are given the same

    @contextlib.contextmanager
    def running(self, learning: bool = False) -> Iterator[None]:
        """Inside, inputs are rounded; `learning`: ranges follow what comes."""
        added = []
        if self.per:
            hook = self._token if self.per == "token" else self._tensor
            added = [linear.register_forward_pre_hook(hook(name, learning)) for name, linear in self.linears.items()]
        try:
            yield
        finally:
            for one in added:
                one.remove()
            self._last = None

    def _token(self, name: str, learning: bool):
        def round_input(_module, arguments):
            x = arguments[0]
            if self._last is None or self._last[0] is not x:
                self._last = x, _Token.apply(x)
            return self._last[1], *arguments[1:]

        return round_input

    def _tensor(self, name: str, learning: bool):
        def round_input(_module, arguments):
            x = arguments[0]
            if learning or name not in self.ranges:
                now = torch.stack(torch.aminmax(x.detach().float()))
                now = self._widest(now) if learning else now
                before = self.ranges.get(name, now)
                self.ranges[name] = MEMORY * before + (1 - MEMORY) * now
            return by_range(x, self.ranges[name]), *arguments[1:]

        return round_input


def embedding_rows(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """((rows, width) rounded to 8 bits with a scale for each row, (rows,) the scales)."""
    scales = full_scale(table, EMBEDDING_TOP)
    return codes_at(table, scales, EMBEDDING_TOP) * scales[:, None], scales
