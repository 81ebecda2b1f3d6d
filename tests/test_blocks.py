"""Cutting a weight into groups: against plain loops and numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape, Layout, Matrix

SHAPES = ("4x1", "1x4", "4x2", "2x4", "allx1", "1xall", "allx2", "allxall", "1x1")


def looped_norms(weight, rows: int, cols: int) -> list[list[float]]:
    """The definition, as a person would write it without knowing tensors."""
    m, n = weight.shape
    sums = [[0.0] * (n // cols) for _ in range(m // rows)]
    for i in range(m):
        for j in range(n):
            sums[i // rows][j // cols] += float(weight[i][j]) ** 2
    return [[math.sqrt(value) for value in row] for row in sums]


@pytest.mark.parametrize("text, rows, cols", [
    ("64x1", 64, 1), ("1x64", 1, 64), ("16x16", 16, 16), ("allx1", None, 1), ("1xall", 1, None), ("columns", None, 1),
    ("row", 1, None), (" 32X1 ", 32, 1), ("allxall", None, None)])
def test_parse_reads_every_form(text, rows, cols):
    assert BlockShape.parse(text) == BlockShape(rows, cols)


@pytest.mark.parametrize("text", ["", "64", "64x", "x1", "0x1", "-4x1", "64x1x1",
                                  "1.5x1", "axb", "64 x 1", "64*1", "1e3x1", "99999999x1"])
def test_parse_refuses_what_is_no_shape_and_names_one_that_is(text):
    with pytest.raises(InputError, match="64x1"):
        BlockShape.parse(text)


@pytest.mark.parametrize("text", ["64x1", "1x64", "16x16", "allx1", "1xall"])
def test_a_shape_reads_back_from_its_text(text):
    assert str(BlockShape.parse(text)) == text


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_norms_equal_a_plain_double_loop(text, kind):
    weight = np.random.default_rng(3).normal(size=(8, 12))
    block = BlockShape.parse(text)
    rows, cols = block.rows or 8, block.cols or 12
    norms = block.norms(torch.from_numpy(weight) if kind == "torch" else weight)
    assert np.allclose(np.asarray(norms), looped_norms(weight, rows, cols), rtol=1e-12, atol=0)


@pytest.mark.parametrize("text, by_hand", [
    ("2x1", [[5.0, 13.0]]), ("1x2", [[math.sqrt(34)], [math.sqrt(160)]]), ("1x1", [[3.0, 5.0], [4.0, 12.0]]),
    ("2x2", [[math.sqrt(194)]]), ("allx1", [[5.0, 13.0]]), ("1xall", [[math.sqrt(34)], [math.sqrt(160)]])])
def test_norms_of_a_2x2_by_hand(text, by_hand):
    weight = np.array([[3.0, 5.0], [4.0, -12.0]])
    assert np.allclose(BlockShape.parse(text).norms(weight), by_hand, rtol=1e-15)


def test_view_is_the_same_memory():
    weight = torch.zeros(4, 6)
    BlockShape.parse("2x3").view(weight)[1, 0, 1, 2] = 7.0
    assert weight[2, 5] == 7.0 and weight.count_nonzero() == 1


@pytest.mark.parametrize("text", SHAPES)
def test_scale_multiplies_every_weight_by_the_value_of_its_group(text):
    block, random = BlockShape.parse(text), np.random.default_rng(4)
    weight = random.normal(size=(8, 12))
    factors = random.uniform(0.5, 2, block.grid(8, 12))
    rows, cols = block.rows or 8, block.cols or 12
    wanted = [[weight[i, j] * factors[i // rows, j // cols] for j in range(12)] for i in range(8)]
    scaled = torch.from_numpy(weight.copy())
    block.scale_(scaled, torch.from_numpy(factors))
    assert np.array_equal(scaled.numpy(), wanted)


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_expand_gives_every_weight_its_groups_value_and_comes_back(text, kind):
    block = BlockShape.parse(text)
    down, across = block.grid(8, 12)
    values = np.arange(down * across, dtype=np.float64).reshape(down, across)
    given = torch.from_numpy(values) if kind == "torch" else values
    expanded = np.asarray(block.expand(given, 8, 12))
    rows, cols = block.rows or 8, block.cols or 12
    assert expanded.shape == (8, 12)
    assert all(expanded[i, j] == values[i // rows, j // cols] for i in range(8) for j in range(12))
    assert np.array_equal(expanded[::rows, ::cols], values)


def test_scaling_with_zeros_then_norms_gives_just_those_zeros():
    block, weight = BlockShape.parse("2x1"), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([[1.0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]])
    block.scale_(weight, keep)
    assert torch.equal(block.norms(weight) > 0, keep > 0)


def test_values_that_do_not_fit_the_groups_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        BlockShape.parse("2x1").scale_(torch.zeros(4, 6), torch.zeros(3, 3))


def test_the_floor_enters_under_the_root():
    assert BlockShape.parse("2x1").norms(np.array([[3.0], [0.0]]), floor=4.0)[0, 0] == 5.0


@pytest.mark.parametrize("text, wanted", [("100x1", ("96", "rows", "enc.w is 384x1536")), ("1x100", ("96", "columns"))])
def test_a_shape_that_does_not_divide_names_sides_that_do(text, wanted):
    with pytest.raises(InputError) as error:
        BlockShape.parse(text).sides(384, 1536, "enc.w")
    assert all(part in str(error.value) for part in wanted)
    sides = str(error.value).split("try ")[1].split(", ")
    assert all(384 % int(d) == 0 if "rows" in wanted else 1536 % int(d) == 0 for d in sides)


@pytest.mark.parametrize("text", ["400x1", "1x400", "400x400"])
def test_a_shape_larger_than_the_matrix_says_how_large_it_is(text):
    with pytest.raises(InputError, match="larger than .* 384x384"):
        BlockShape.parse(text).sides(384, 384)


def test_a_layout_names_shapes_that_fit_all_its_matrices():
    matrices = [Matrix("a", 0, "query", 48, 32), Matrix("b", 0, "output", 32, 64)]
    with pytest.raises(InputError) as error:
        Layout.of(matrices, BlockShape.parse("48x1"), 10_000)
    named = str(error.value).split("(")[-1].split(" fit")[0].split(", ")
    assert "16x1" in named and "64x1" not in named and "32x1" not in named
    for text in named:
        assert Layout.of(matrices, BlockShape.parse(text), 10_000).block == BlockShape.parse(text)


def test_a_layout_counts_its_weights_and_the_size_of_a_group():
    layout = Layout.of([Matrix("a", 0, "query", 48, 32), Matrix("b", 0, "output", 32, 64)],
                       BlockShape.parse("1xall"), 9_000)
    assert layout.encoder_weights == 48 * 32 + 32 * 64
    assert [layout.group_size(m) for m in layout.matrices] == [32, 64]


def test_a_layout_reads_back_from_its_json():
    layout = Layout.of([Matrix("a", 3, "key", 8, 4)], BlockShape.parse("allx1"), 77)
    assert Layout.from_json(layout.to_json()) == layout
