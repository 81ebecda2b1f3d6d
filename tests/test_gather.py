"""Strips gathered on a GPU: the numbers of the masked dense product; on a processor by Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
import torch
from torch.nn import functional as F

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before it is imported

from prune_core.cutting.blocks import BlockShape
from prune_core.execution import gather
from prune_core.execution.gather import Strips
from prune_core.latency.strips import Live

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason=f"{gather.why_not()}")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(64, 48, "16x1"), (128, 96, "64x1"), (48, 40, "8x1"), (96, 64, "allx1"), (64, 64, "16x16"), (64, 64, "1x32"),
          (200, 100, "100x1")]


def made(m: int, n: int, shape: str, share: float, gelu: bool = False, live: Live | None = None, empty: bool = False):
    """(strips, what they must give, x)"""
    draw, random = torch.Generator().manual_seed(m + n), np.random.default_rng(m)
    block, live = BlockShape.parse(shape), live or Live.all(m, n)
    kept = random.random(block.grid(m, n)) < share
    kept[0] = False if empty else kept[0]
    weight, bias = torch.randn(m, n, generator=draw), torch.randn(m, generator=draw)
    x = torch.randn(2, 35, int(live.cols.sum()), generator=draw)
    full = torch.from_numpy(block.expand(kept, m, n))
    wanted = F.linear(x, (weight * full)[torch.from_numpy(live.rows)][:, torch.from_numpy(live.cols)],
                      bias[torch.from_numpy(live.rows)])
    strips = Strips(weight.to(DEVICE), bias.to(DEVICE), kept, block, live, gelu)
    return strips, F.gelu(wanted) if gelu else wanted, x.to(DEVICE)


@needs_triton
@pytest.mark.parametrize(("m", "n", "shape"), SHAPES)
@pytest.mark.parametrize("share", [0.3, 0.0, 1.0])
def test_strips_give_the_masked_dense_product(m, n, shape, share):
    strips, wanted, x = made(m, n, shape, share)
    assert torch.allclose(strips(x).cpu(), wanted, atol=2e-5)


@needs_triton
def test_a_strip_that_keeps_nothing_gives_its_bias():
    strips, wanted, x = made(128, 96, "64x1", 0.5, empty=True)
    out = strips(x).cpu()
    assert torch.allclose(out, wanted, atol=2e-5) and torch.equal(out[0, 0, :64], out[1, 34, :64])


@needs_triton
def test_dead_rows_and_columns_are_gone_and_gelu_is_applied_as_it_stores():
    random = np.random.default_rng(1)
    live = Live(random.random(128) < 0.7, random.random(96) < 0.6)
    strips, wanted, x = made(128, 96, "64x1", 0.4, gelu=True, live=live)
    assert strips(x).shape[-1] == live.rows.sum() and torch.allclose(strips(x).cpu(), wanted, atol=2e-5)


@needs_triton
def test_two_outputs_by_hand():
    """r = 2: x = (1, 2, 3, 4); the first strip keeps inputs 0 and 3, the second nothing."""
    weight = torch.tensor([[1.0, 9, 9, 1], [2, 9, 9, 0], [9, 9, 9, 9], [9, 9, 9, 9]])
    kept = np.array([[True, False, False, True], [False] * 4])
    strips = Strips(weight.to(DEVICE), torch.tensor([0.0, 0, 7, 8], device=DEVICE), kept, BlockShape(2, 1),
                    Live.all(4, 4))
    assert strips(torch.tensor([[1.0, 2, 3, 4]], device=DEVICE)).cpu().tolist() == [[5.0, 2.0, 7.0, 8.0]]


@needs_triton
@pytest.mark.parametrize("faster", [True, False])
def test_a_model_takes_strips_only_where_they_are_faster(monkeypatch, faster):
    import tiny

    from prune_core.cutting.masks import mask_at_sparsity
    from prune_core.evaluation.dev_score import masked
    from prune_core.execution import gpu
    from prune_core.execution.alternate import Timing
    from prune_core.execution.paths import Choice
    from prune_core.models import encoders

    encoder = encoders.describe("tiny", tiny.model().eval().to(DEVICE), None)
    layout = encoder.layout(BlockShape.parse("16x1"))
    mask = mask_at_sparsity(encoder.norms(layout.block), layout, 0.6, "matrix")
    monkeypatch.setattr(gpu, "alternate", lambda calls, *_, **__: {
        kind: Timing(*[1.0 if ("strips" in kind) == faster else 2.0] * 3, 1) for kind in calls})
    small = gpu.small_model(encoder.model, mask, Choice("fp32", "fp32", "fp32 on cuda"))
    tried = gpu.fastest_(small, encoder.model, mask, 64)
    ids = torch.arange(5, 17, device=DEVICE)[None] % 16 + 1
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode(), masked(encoder.weights, mask):
        wanted = encoder.model(**inputs).logits
    with torch.inference_mode():
        assert torch.allclose(small(**inputs).logits, wanted, atol=1e-5)
    assert tried == {"strips, gathered": {"taken": 12 * faster, "slower": 12 * (not faster)}}
    assert ("strips, gathered" in small.executed.values()) == faster


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="Triton is here")
def test_without_triton_it_is_said():
    assert gather.why_not() == "Triton is not installed"
    with pytest.raises(ImportError, match="Triton is not installed"):
        made(64, 48, "16x1", 0.5)
