"""Whole encoders by the pass on AMX tiles, emulated: the masked dense model, and the same bits in any company."""

from __future__ import annotations

import copy

import emulated
import numpy as np
import pytest
import tiny
import torch
from emulated import AMX, needs_avx512

from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.dev_score import apply_mask_
from prune_core.execution import whole
from prune_core.models import encoders

pytestmark = needs_avx512


@pytest.fixture
def tiles(monkeypatch):
    yield from emulated.tiles(monkeypatch)


def masked_model(kind: str, shape: str, seed: int = 0, share: float = 0.6, **more):
    """(model, mask, masked dense model): dead heads, dead neurons and empty strips among what is cut."""
    model, random = tiny.model(kind, seed, **more).eval(), np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.1)
    layout = encoders.describe(kind, model, None).layout(BlockShape.parse(shape))
    kept = {}
    for m in layout.matrices:
        rows, cols = layout.block.grid(m.m, m.n)
        kept[m.name] = (random.random((rows, cols)) < share) & (random.random((rows, 1)) < 0.8)
        if m.type == "value":
            kept[m.name][: rows // 2] = False
    mask = BlockMask(layout, kept)
    dense = copy.deepcopy(model)
    apply_mask_({name: dense.get_submodule(name).weight for name in kept}, mask)
    return model, mask, dense


LENGTHS = torch.tensor([40, 3, 17, 32, 1, 130, 33, 64, 65, 16])


def batch(lengths: torch.Tensor = LENGTHS, seed: int = 0) -> dict[str, torch.Tensor]:
    there = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.randint(5, len(tiny.VOCABULARY), there.shape, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": torch.where(there == 1, ids, 1), "attention_mask": there}


def states(small: torch.nn.Module, lengths: torch.Tensor, ids: torch.Tensor, **more) -> torch.Tensor:
    """The last hidden states (tokens, hidden) of sentences end to end, by the pass alone."""
    encoder, there = small.base_model, torch.arange(ids.shape[1]) < lengths[:, None]
    keep = there.view(-1).nonzero()[:, 0]
    before, encoder.encoder.first_only = encoder.encoder.first_only, 0
    try:
        return encoder.run(lengths, int(lengths.sum()), encoder._embeddings.inputs(ids, None, keep), **more)
    finally:
        encoder.encoder.first_only = before


SIZES = {"bert": {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2},  # depth 64
         "distilbert": {"dim": 96, "hidden_dim": 192, "n_heads": 3},  # 32
         "mpnet": {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 3},
         "albert": {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 2}}  # 48: not on tiles
SHAPES = {"bert": ["64x1", "16x1", "8x1", "1x16", "4x4", "1x1"], "distilbert": ["48x1", "24x3", "1x16"],
          "mpnet": ["48x1", "4x4"], "albert": ["16x1", "24x3"]}


@pytest.mark.parametrize("path", AMX)
@pytest.mark.parametrize("kind, shape", [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes])
def test_an_encoder_is_the_masked_dense_one(tiles, kind, shape, path):
    model, mask, dense = masked_model(kind, shape, max_position_embeddings=140, **SIZES[kind])
    small, given = whole.small_model(model, mask, path=path, dtype=path.split()[0]), batch()
    assert small.choice.path == path and not small.choice.why and set(small.executed) == set(mask.kept)
    there = given["attention_mask"].bool()
    with torch.inference_mode():
        rough = dense.bfloat16().base_model(**given).last_hidden_state[there].double()
        exact = copy.deepcopy(model).double()
        apply_mask_({name: exact.get_submodule(name).weight for name in mask.kept}, mask)
        want, logits = exact.base_model(**given).last_hidden_state[there], exact(**given).logits
        got = states(small, LENGTHS, given["input_ids"])
        off, torch_off = (float((x - want).norm() / want.norm()) for x in (got, rough))
        assert off <= (torch_off if path == "bf16 amx" else 0.06)
        off = float((small(**given).logits - logits).abs().max() / logits.abs().max())
        assert off < (0.02 if path == "bf16 amx" else 0.1)


@pytest.mark.parametrize("path", AMX)
@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_any_threads_and_any_company_give_the_same_bits(tiles, kind, path):
    model, mask, _ = masked_model(kind, "16x1", max_position_embeddings=140, **SIZES[kind])
    small, given = whole.small_model(model, mask, path.split()[0], path), batch()
    ids = given["input_ids"]
    with torch.inference_mode():
        want = states(small, LENGTHS, ids)
        for threads, block in ((2, 256), (3, 64), (1, 64), (8, 4096)):
            assert torch.equal(states(small, LENGTHS, ids, threads=threads, block=block), want)
        backwards = torch.arange(len(ids) - 1, -1, -1)
        got = states(small, LENGTHS[backwards], ids[backwards])
        assert torch.equal(torch.cat(got.split(LENGTHS[backwards].tolist())[::-1]), want)
        alone = [states(small, LENGTHS[i:i + 1], ids[i:i + 1, :n], threads=2) for i, n in enumerate(LENGTHS)]
        assert torch.equal(torch.cat(alone), want)


@pytest.mark.parametrize("path", AMX)
def test_a_sentence_of_no_numbers_reaches_no_other(tiles, path):
    """Its keys and values lie in the same tiles as others', where what is not theirs is multiplied by 0."""
    model, mask, _ = masked_model("bert", "16x1", max_position_embeddings=140, **SIZES["bert"])
    small, lengths = whole.small_model(model, mask, path.split()[0], path), torch.tensor([20, 7, 37, 7, 90, 5])
    rows = torch.randn(int(lengths.sum()), 128, generator=torch.Generator().manual_seed(0))
    broken = rows.clone()
    theirs = torch.isin(torch.arange(len(lengths)).repeat_interleave(lengths), torch.tensor([1, 3]))
    broken[theirs] = torch.nan
    small.base_model.encoder.first_only = 0
    with torch.inference_mode():
        want, got = (small.base_model.run(lengths, len(rows), {"rows": x}) for x in (rows, broken))
    assert torch.equal(got[~theirs], want[~theirs]) and got[theirs].isnan().all()


def test_every_length_is_attended_to_in_full(tiles):
    model, mask, dense = masked_model("bert", "64x1", max_position_embeddings=140, **SIZES["bert"])
    small, dense = whole.small_model(model, mask, "bf16", "bf16 amx"), dense.double()
    with torch.inference_mode():
        for first in range(1, 131, 13):  # 13 lengths each, so that they begin anywhere in a tile
            lengths = torch.arange(first, min(131, first + 13))
            given = batch(lengths, first)
            there = given["attention_mask"].bool()
            want = dense.base_model(**given).last_hidden_state[there]
            got = states(small, lengths, given["input_ids"])
            for mine, theirs in zip(got.split(lengths.tolist()), want.split(lengths.tolist()), strict=True):
                assert float((mine - theirs).norm() / theirs.norm()) < 0.012
