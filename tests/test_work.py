"""Counts of work by hand: what a batch takes in the pass over an encoder, and module by module."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
from sample_run import make_mask

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import compact, native
from prune_core.execution.compact import CompactLinear
from prune_core.latency.strips import Blocking, plan_encoder
from prune_core.latency.work import Batch, by_module, last_layer, of_pass
from prune_core.models import encoders
from prune_core.models.encoders import heads_of

BLOCKING = Blocking(32, 8, 4, 4)  # tile, rows, step, unit


def plans_of(mask: BlockMask, heads: int | None = None, blocking=BLOCKING):
    return plan_encoder(mask, heads, blocking)


def test_work_of_an_uncut_encoder_by_hand():
    """Two layers, hidden 64, inner 128, 16x1 (four strips of 16 rows for 64); the last only for first tokens."""
    mask = make_mask()
    counts = of_pass(mask, Batch(3, 20), BLOCKING, plans_of(mask), 4, True, 1)
    every, first, hidden = 64, 32, 64 * 64  # tokens in tiles of 32: of 60, of 3
    assert counts["multiply"] == every * (4 * hidden + 4 * hidden) + every * 2 * hidden + first * 6 * hidden
    assert counts["weights"] == 2 * (4 * hidden + 2 * 64 * 128) and counts["scatter"] == 0
    # A strip of 16 rows is two blocks of 8; steps of 4 columns: 16 for 64 columns, 32 for 128
    tiles = [(2, 3 * 4, 16), (2, 4, 16), (2, 8, 16), (2, 4, 32), (2, 2 * 4, 16), (1, 2 * 4, 16), (1, 8, 16), (1, 4, 32)]
    assert counts["blocks"] == sum(2 * tile * strips for tile, strips, _ in tiles)
    assert counts["steps"] == sum(2 * tile * strips * steps for tile, strips, steps in tiles)
    assert counts["store"] == every * (3 * 64 + 64 + 128 + 64) + every * 2 * 64 + first * (64 + 64 + 128 + 64)
    assert counts["gather"] == every * (16 * 64 + 8 * 64 + 4 * 128) + every * 8 * 64 + first * (16 * 64 + 4 * 128)
    assert counts["gelu"] == every * 128 + first * 128 and counts["heads"] == 2 * every * 64
    assert counts["attention"] == 3 * 20 * 20 * 64 + 3 * 20 * 16 * 64
    assert counts["softmax"] == 3 * 20 * 20 * 4 + 3 * 20 * 16 * 4
    assert counts["quantize"] == every * (64 + 64 + 64 + 128) + every * 64 + first * (64 + 64 + 128)
    assert counts["norm"] == 64 * (every + first) and counts["embed"] == every * 64
    assert counts["head"] == 3 * hidden and counts["layers"] == 2 and counts["call"] == 1


def test_work_of_a_strip_by_hand():
    """Five columns kept of one strip of 16 rows: in steps of 4 they count as eight; all else is bias."""
    mask = make_mask(0.0)
    name = next(m.name for m in mask.layout.matrices if m.type == "query" and m.layer == 0)
    mask.kept[name][1, :5] = True
    counts = of_pass(mask, Batch(1, 32), BLOCKING, plans_of(mask), None, False, 1)
    assert counts["multiply"] == 32 * 8 * 16 and counts["weights"] == 5 * 16 and counts["gather"] == 32 * 5
    assert counts["steps"] == 2 * 2 and counts["quantize"] == 0


def test_no_layer_is_the_last_where_they_share_weights():
    layout = make_mask().layout
    assert last_layer(layout) == 1
    shared = [replace(m, name=f"albert.encoder.albert_layer_groups.0.{m.name}") for m in layout.matrices]
    assert last_layer(replace(layout, matrices=tuple(shared))) is None


def test_work_shrinks_with_what_is_cut():
    masks = [make_mask(share) for share in (1.0, 0.5, 0.1)]
    some = [of_pass(mask, Batch(), BLOCKING, plans_of(mask), 4, False, 1) for mask in masks]
    assert some[0]["multiply"] > some[1]["multiply"] > some[2]["multiply"] > 0
    kept = sum(int(masks[1].kept[m.name].sum()) * 16 for m in masks[1].layout.matrices)
    single = Blocking(1, 16, 1, 16)
    assert of_pass(masks[1], Batch(1, 1), single, plans_of(masks[1], None, single))["multiply"] == kept


def test_work_is_what_the_compact_layers_hold():
    if native.library() is None:
        pytest.skip(native.why_not())
    encoder = encoders.describe("tiny", tiny.model("bert"), tiny.tokenizer("bert"))
    for block in ("16x1", "32x1", "1x16", "8x8"):
        layout, random = encoder.layout(BlockShape.parse(block)), np.random.default_rng(1)
        mask = BlockMask(layout, {m.name: random.random(layout.block.grid(m.m, m.n)) < 0.3 for m in layout.matrices})
        small = compact.compact(encoder.model, mask)
        held = [m for m in small.modules() if isinstance(m, CompactLinear)]
        plans = plan_encoder(mask, heads_of(encoder.model, encoder.matrices), native.registers())
        counts = by_module(mask, Batch(1, 1), native.registers(), plans)
        assert counts["weights"] == sum(m.weights.numel() for m in held)
        assert counts["panels"] == sum(len(m.panels) for m in held)


@pytest.mark.parametrize("batch, length", [(0, 1), (1, 0), (-1, 5), (5000, 1), (1, 99999), (4096, 4096)])
def test_settings_out_of_range(batch, length):
    with pytest.raises(InputError, match="out of range"):
        Batch(batch, length)
