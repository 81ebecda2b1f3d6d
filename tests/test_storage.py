"""The bytes of what is stored: by hand, by plain loops, and by what packing really makes."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_core import InputError
from prune_core.cutting.masks import BlockMask
from prune_core.precision import packing, storage
from prune_core.precision.formats import Format, Formats, parse
from prune_core.precision.quantizers import keep_pattern, kept_of, quantize
from prune_core.precision.storage import gaps_of, index_bytes

# Removed against fp32, by values and index alone (scales are 32 / n bits a weight): N:M x bits, without and with index
REMOVED = [("8/2:4", 87.5, 84.375), ("4/2:4", 93.75, 90.625), ("4/1:4", 96.875, 95.3125), ("8/1:2", 87.5, 85.9375),
           ("2:4", 50.0, 46.875)]


def layout_of(block: str, m: int = 64, n: int = 64, weights: int = 100_000):
    return tiny.layout(block, ((m, n),) * 2, weights)


def mask_of(layout, share: float, seed: int = 0) -> BlockMask:
    random = np.random.default_rng(seed)
    return BlockMask(layout, {m.name: random.uniform(size=layout.block.grid(m.m, m.n)) >= share
                              for m in layout.matrices})


@pytest.mark.parametrize(("text", "without", "with_index"), REMOVED)
def test_the_table_of_what_is_removed(text, without, with_index):
    layout = layout_of("64x1", 512, 1024, 2_000_000)
    stored = storage.storage(mask_of(layout, 0.0), parse(text, layout))
    one, weights = stored.encoder, layout.encoder_weights
    assert 100 * (1 - one.values / one.dense) == without
    block_index = len(layout.matrices)  # a byte each: all blocks are kept
    assert 100 * (1 - (one.values + one.index - block_index) / one.dense) == with_index
    assert one.scales == (0 if text == "2:4" else 2 * 4 * 512) and one.dense == 4 * weights
    said = stored.to_json()
    assert said["encoder_bytes"] == one.values + one.index + one.scales
    assert said["bytes"] - said["encoder_bytes"] == 4 * (2_000_000 - weights) + storage.header_bytes(layout)
    assert said["bytes_without_index"] == said["bytes"] - one.index
    assert said["encoder_bytes_without_index"] == said["encoder_bytes"] - one.index
    assert (said["bytes_dense"], said["encoder_bytes_dense"]) == (4 * 2_000_000, 4 * weights)


def test_a_matrix_by_hand():
    """Two strips of 4 rows on 8 inputs; the first keeps columns 0 1 2 5, the second none."""
    layout = tiny.layout("4x1", ((8, 8),), 100)
    mask = BlockMask(layout, {"m0": np.array([[1, 1, 1, 0, 0, 1, 0, 0], [0] * 8], bool)})

    def told(text: str) -> tuple[int, int, int]:
        part = storage.storage(mask, parse(text, layout)).matrices["m0"]
        return part.values, part.index, part.scales

    assert told("32") == (64, 1 + 2, 0)  # a bitmap of 16 blocks
    assert told("8") == (16, 3, 16) and told("4") == (8, 3, 16) and told("3") == (6, 3, 16)  # four rows live
    assert told("ternary") == (4, 3, 16) and told("binary") == (2, 3, 16) and told("clusters-2") == (4, 3, 12)
    # 2:4: of the first group two of three stay, of the second its one; 4 groups of two places of 2 bits
    assert told("8/2:4") == (12, 3 + 2, 16)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.97, 0.999, 1.0])
def test_the_relative_index_against_a_plain_loop(share):
    kept = np.random.default_rng(3).uniform(size=(20, 300)) >= share

    def looped(bits: int) -> int:
        entries, since = 0, 0
        for one in kept.ravel():
            if not one:
                since += 1
                continue
            while since >= 2**bits - 1:
                entries, since = entries + 1, since - (2**bits - 1)
            entries, since = entries + 1, 0
        return 4 + -(-bits * entries // 8)

    sizes = {1: 6000 // 8} | {bits: looped(bits) for bits in range(2, 9)}
    kind, size = index_bytes(kept)
    assert (kind, size) == ((0, 0) if share == 0 else (min(sizes, key=sizes.get), min(sizes.values())))
    assert gaps_of(kept.ravel()).sum() + kept.sum() == (0 if not kept.any() else 1 + np.flatnonzero(kept)[-1])


def test_embeddings_in_int8_and_without_their_size():
    layout = layout_of("4x1")
    dense, small = (storage.storage(mask_of(layout, 0.5), parse(text, layout), (300, 64)) for text in ("8", "8;e8"))
    assert dense.bytes - small.bytes == 300 * (4 * 64 - 64 - 4) and dense.dense == small.dense
    with pytest.raises(InputError, match="size of the word embeddings is not known"):
        storage.storage(mask_of(layout, 0.5), parse("8;e8", layout))


FORMATS = ["32", "16", "8", "7", "4", "3", "2", "ternary", "binary", "clusters-4", "clusters-2"]
PATTERNS = ["", "2:4", "1:4", "1:2", "4:8", "3:16"]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(FORMATS), st.sampled_from(PATTERNS), st.sampled_from(["4x1", "1x16", "allx1", "1xall", "16x16"]),
       st.sampled_from([0.0, 0.2, 0.5, 0.9, 0.98, 1.0]), st.integers(0, 10**6))
def test_what_is_packed_is_as_large_as_counted_and_comes_back(number, pattern, block, share, seed):
    text = "/".join(filter(None, (number, pattern))) if number != "32" else pattern or "32"
    format, layout = Format.parse(text), layout_of(block, 32, 48)
    mask, matrix = mask_of(layout, share, seed), layout.matrices[0]
    weight = np.random.default_rng(seed).normal(0, 0.1, (32, 48)).astype(np.float32)
    one = quantize(weight, format, kept_of(mask, matrix.name))
    data = packing.pack(one, mask.kept[matrix.name])
    assert data.dtype == np.uint8 and len(data) == storage.parts(matrix, mask, format).stored
    back = packing.read(data, matrix, layout.block, format)
    alive = kept_of(mask, matrix.name).any(1)
    assert np.array_equal(back.kept, one.kept) and np.array_equal(back.values, one.values)
    for name in ("codes", "codebook", "floats"):
        ours, theirs = getattr(one, name), getattr(back, name)
        assert (ours is None) == (theirs is None) and (ours is None or np.array_equal(ours, theirs))
    assert (one.scales is None) == (back.scales is None)
    assert one.scales is None or np.array_equal(one.scales[alive], back.scales[alive])


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(FORMATS), st.sampled_from(PATTERNS), st.integers(0, 10**6), st.data())
def test_damaged_bytes_are_refused_or_other_weights(number, pattern, seed, data):
    """Never another error than ValueError, and never another shape."""
    text = "/".join(filter(None, (number, pattern))) if number != "32" else pattern or "32"
    format, layout, random = Format.parse(text), layout_of("4x1", 16, 48), np.random.default_rng(seed)
    mask, matrix = mask_of(layout, 0.5, seed), layout.matrices[0]
    weight = random.normal(0, 0.1, (16, 48)).astype(np.float32)
    packed = packing.pack(quantize(weight, format, kept_of(mask, matrix.name)), mask.kept[matrix.name]).copy()
    for cut in (packed[:-1], np.append(packed, np.uint8(0)), packed[:0]):
        with pytest.raises(ValueError, match="m0: it ends|m0: .* left over|m0: .*"):
            packing.read(cut, matrix, layout.block, format)
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert packing.read(packed, matrix, layout.block, format).values.shape == (16, 48)
    except ValueError as error:
        assert str(error).startswith("m0: ")


def test_formats_of_their_own_add_up():
    layout = layout_of("4x1")
    mask, mixed = mask_of(layout, 0.5), Formats("layer", (Format.parse("4/2:4"), Format.parse("8")))
    stored = storage.storage(mask, mixed)
    alone = [storage.storage(mask, parse(text, layout)).matrices for text in ("4/2:4", "8")]
    assert stored.matrices == {"m0": alone[0]["m0"], "m1": alone[1]["m1"]}
    assert stored.encoder.stored == sum(part.stored for part in stored.matrices.values())
    weights = keep_pattern(np.ones((64, 64), np.float32), mixed.weights[0].pattern, kept_of(mask, "m0")).sum()
    assert storage.kept_weights(layout.matrices[0], mask, mixed.weights[0])[0] == weights
