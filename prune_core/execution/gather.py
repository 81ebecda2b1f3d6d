"""Strips on a GPU: every program gathers its strip's kept inputs and multiplies them, for a tile of tokens. Triton.

Inputs lie transposed, (inputs, tokens): so a kept input is a whole row, and gathering reads full lines. Strips are cut
into panels of at most ROWS outputs, the longest first; kept inputs are filled up to whole steps with weights of zero.
Without Triton `why_not` says so. With TRITON_INTERPRET=1 it runs on a processor, to be tested.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from prune_core.cutting.blocks import BlockShape
from prune_core.latency.strips import Live, by_rows

try:
    import triton
    from triton import language as tl
except ImportError:  # processors' builds of torch come without
    triton = None

ROWS, TOKENS, STEP = 64, 64, 32  # outputs and tokens of a program, kept inputs of a step; products need 16 at least
LEAST = 16


def why_not() -> str:
    """Why strips cannot be gathered here, in one line; '' where they can."""
    return "" if triton is not None else "Triton is not installed"


class Strips(nn.Module):
    """y = act(x W^T + b) over what is kept of W: x (..., live inputs) -> (..., live outputs), in the dtype of W.

    Arguments as compact.CompactLinear has them; on the device of `weight`. Raises ImportError without Triton.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, kept: np.ndarray, block: BlockShape, live: Live,
                 gelu: bool = False):
        super().__init__()
        if triton is None:
            raise ImportError(why_not())
        there, dtype = weight.device, weight.dtype
        full = torch.from_numpy(block.expand(kept, *weight.shape)).to(there)
        masked = (weight.detach() * full).T.contiguous()  # (inputs, outputs)
        rows, cols = block.sides(*weight.shape)
        plan, place = by_rows(kept, rows, cols, live, LEAST), np.cumsum(live.cols) - 1
        sheets, columns, panels = [], [], []
        steps = out = 0
        for strip in plan.strips:
            count = -(-len(strip.cols) // STEP)
            for first in range(0, len(strip.rows), ROWS):
                own = strip.rows[first : first + ROWS]
                sheet = masked.new_zeros(count * STEP, ROWS)
                sheet[: len(strip.cols), : len(own)] = masked[torch.from_numpy(strip.cols).to(there)][
                    :, torch.from_numpy(own).to(there)]
                filled = np.zeros(count * STEP, np.int32)
                filled[: len(strip.cols)] = place[strip.cols]
                sheets.append(sheet)
                columns.append(filled)
                panels.append((steps, count, out, len(own)))
                steps, out = steps + count, out + len(own)
        panels.sort(key=lambda panel: -panel[1])  # so that all end together
        self.in_features, self.out_features, self.gelu = int(live.cols.sum()), out, gelu
        self.weights = torch.cat([*sheets, masked.new_zeros(STEP, ROWS)])  # never empty: then it would have no address
        self.columns = torch.from_numpy(np.concatenate([*columns, np.zeros(STEP, np.int32)])).to(there)
        self.panels = torch.tensor(panels, dtype=torch.int32).view(len(panels), 4).to(there)
        self.bias = bias.detach().to(there, dtype)[torch.from_numpy(live.rows).to(there)].contiguous()
        self.executed = "strips, gathered" if plan.executed == "strips" else "dense"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)
        given, tokens = rows.to(self.weights.dtype).T.contiguous(), len(rows)
        out = given.new_empty(tokens, self.out_features)
        if tokens and len(self.panels):
            grid = (triton.cdiv(tokens, TOKENS), len(self.panels))
            _panel[grid](given, self.weights, self.columns, self.panels, self.bias, out, tokens, self.out_features,
                         GELU=self.gelu, ROWS=ROWS, TOKENS=TOKENS, STEP=STEP)
        return out.view(*x.shape[:-1], self.out_features)


if triton is not None:
    @triton.jit
    def _panel(given, weights, columns, panels, bias, out, tokens, width, GELU: tl.constexpr, ROWS: tl.constexpr,
               TOKENS: tl.constexpr, STEP: tl.constexpr):
        """One panel of outputs for one tile of tokens; `panels`: first step, steps, first output, outputs."""
        panel = panels + 4 * tl.program_id(1)
        first, steps, start, count = tl.load(panel), tl.load(panel + 1), tl.load(panel + 2), tl.load(panel + 3)
        at = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
        rows, inside = tl.arange(0, ROWS), at < tokens
        total = tl.zeros((TOKENS, ROWS), dtype=tl.float32)
        for step in range(steps):
            own = (first + step) * STEP + tl.arange(0, STEP)
            cols = tl.load(columns + own).to(tl.int64)
            x = tl.load(given + cols[:, None] * tokens + at[None, :], mask=inside[None, :], other=0.0)
            w = tl.load(weights + own[:, None] * ROWS + rows[None, :])
            total += tl.dot(tl.trans(x), w, input_precision="ieee")  # as the dense product: no TF32
        there = rows < count
        total += tl.load(bias + start + rows, mask=there, other=0.0).to(tl.float32)[None, :]
        if GELU:
            total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
        places = out + at[:, None].to(tl.int64) * width + start + rows[None, :]
        tl.store(places, total.to(out.dtype.element_ty), mask=inside[:, None] & there[None, :])
