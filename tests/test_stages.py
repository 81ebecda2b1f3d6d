"""Stages of a pipeline: whatever is cut where, the outputs are those of the compact model in one process."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import native, paths, pipelined, stages
from prune_core.execution.whole import small_model
from prune_core.hardware.pipelines import units_of
from prune_core.latency.work import Batch
from prune_core.models import encoders

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler on this machine")


def cut(kind: str = "bert", layers: int = 3) -> tuple[torch.nn.Module, BlockMask]:
    """A tiny encoder and a random mask under which strips, neurons and heads die."""
    model = tiny.model(kind, **{"n_layers" if kind == "distilbert" else "num_hidden_layers": layers}).eval()
    layout, random = encoders.describe("tiny", model, None).layout(BlockShape(16, 1)), np.random.default_rng(0)
    return model, BlockMask(layout, {
        m.name: (random.random(layout.block.grid(m.m, m.n)) < 0.5) & (random.random((m.m // 16, 1)) < 0.8)
        for m in layout.matrices})


def padded(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Six sentences, two of them shorter."""
    ids = torch.randint(5, 20, (6, 14), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:] = mask[4, 3:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, model.config.pad_token_id), "attention_mask": mask}


def through(model, mask, ends, dtype, inputs) -> torch.Tensor:
    """Logits, stage after stage in this process."""
    units, choice, x, begin = units_of(mask), stages.check(model, mask, dtype), inputs["input_ids"], 0
    for end in ends:
        x = stages.Stage(model, mask, units[begin:end], choice, begin == 0, end == len(units))(
            x, inputs["attention_mask"])
        begin = end
    return x


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("ends", [[6], [2, 6], [3, 6], [1, 2, 3, 4, 5, 6]], ids=str)
def test_stages_one_after_the_other_are_the_compact_model(kind, ends):
    model, mask = cut(kind)
    inputs, small = padded(model), small_model(model, mask)
    with torch.inference_mode():
        torch.testing.assert_close(through(model, mask, ends, "fp32", inputs), small(**inputs).logits,
                                   rtol=1e-5, atol=2e-6)


def test_in_half_precision_whole_layers_are_the_same_to_the_last_bit():
    if paths.choose("bf16").dtype != "bf16":
        pytest.skip("bf16 is not faster here, so it is not taken")
    model, mask = cut()
    inputs, small = padded(model), small_model(model, mask, "bf16")
    with torch.inference_mode():
        assert torch.equal(through(model, mask, [2, 4, 6], "bf16", inputs), small(**inputs).logits)


def test_two_processes_give_what_one_gives():
    """By torch.distributed.pipelining on gloo, in four micro-batches, cut inside a layer."""
    model, mask = cut()
    units = units_of(mask)
    got = pipelined.run(model, mask, [units[:3], units[3:]], Batch(8, 12), 4, rounds=1)
    assert got["largest_difference"] < 1e-5
    assert got["ms"] > 0 and got["one_ms"] > 0 and [stage["ms"] > 0 for stage in got["stages"]] == [True, True]


def test_a_stage_that_dies_ends_all_in_one_line(monkeypatch):
    model, mask = cut()
    units = units_of(mask)
    monkeypatch.setattr(pipelined, "_write", lambda folder, *_: (folder / "plan.json").write_text("{}"))
    with pytest.raises(InputError, match="stage [01] of the pipeline ended with code 1: KeyError") as caught:
        pipelined.run(model, mask, [units[:3], units[3:]], Batch(4, 8), 2, rounds=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["albert", "mpnet", "deberta-v2"])
def test_what_cannot_be_divided_is_one_line(kind):
    model = tiny.model(kind).eval()
    layout = encoders.describe("tiny", model, None).layout(BlockShape(16, 1))
    mask = BlockMask(layout, {m.name: np.ones(layout.block.grid(m.m, m.n), bool) for m in layout.matrices})
    with pytest.raises(InputError, match="it cannot be executed in stages: "):
        stages.check(model, mask, "fp32")
