"""Learn's eighth step: its numbers by hand, by brute force, and against torch's own fake quantization."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prune_core.cutting.blocks import BlockShape
from prune_core.precision.formats import Format, Pattern
from prune_core.runs import places
from prune_core.showing import bits, lesson

DENSE = places.RECORDED / "sst2-minilm-64x1" / "weights" / "dense.safetensors"


def test_a_row_by_its_largest_weight_is_torchs_fake_quantization():
    row = lesson.small_matrix()[3]
    for name, top in (("8", 127), ("4", 7), ("3", 3)):
        one = bits.rounded(row, name, False)
        assert one.scale == pytest.approx(np.abs(row).max() / top) and len(one.levels) == 2 * top + 1
        twin = torch.fake_quantize_per_tensor_affine(torch.from_numpy(row).float(), one.scale, 0, -top, top)
        assert one.values == pytest.approx(twin.numpy(), abs=1e-5)
        assert one.error == pytest.approx(((row - one.values) ** 2).sum() / (row**2).sum())


@pytest.mark.parametrize("name", ["5", "4", "3", "2"])
def test_least_squares_is_near_the_best_of_a_grid_and_never_worse_than_the_largest(name):
    top = Format.parse(name).top
    for row in lesson.small_matrix():
        grid = np.linspace(0.05, 1.2, 4000) * np.abs(row).max() / top
        codes = np.clip(np.rint(row / grid[:, None]), -top, top)
        best = (((row - codes * grid[:, None]) ** 2).sum(1) / (row**2).sum()).min()
        least, largest = (bits.rounded(row, name, rule).error for rule in (True, False))
        assert best - 1e-4 <= least <= min(largest + 1e-9, 1.6 * best + 1e-3)


def test_ternary_and_binary_by_hand():
    row = np.array([1.0, -2.0, 0.1, 3.0])
    ternary, binary = (bits.rounded(row, name, True) for name in ("ternary", "binary"))
    assert ternary.values.tolist() == [0.0, -2.5, 0.0, 2.5]  # 0.7 of the mean 1.525 is 1.0675
    assert binary.values == pytest.approx([1.525, -1.525, 1.525, 1.525]) and len(binary.levels) == 2
    assert ternary.error == pytest.approx((1 + 0.25 + 0.01 + 0.25) / 14.01)


def test_both_orders_keep_the_same_sizes_while_zero_is_a_level():
    first, second = bits.both_orders(bits.EXAMPLE_ROW, 4, Pattern(2, 4), True)
    assert (first * 7 / 5).tolist() == pytest.approx([4, 0, 0, -7, 1, 0, 0, -1])
    assert (second * 7 / 5).tolist() == pytest.approx([4, 0, 0, -7, 1, 1, 0, 0])  # a tie: the first of equals stays
    for seed in range(200):
        row = bits.rows_of(seed)
        for count in (2, 3, 4, 8):
            kept = [np.sort(np.abs(half), axis=1) for half in
                    (part.reshape(2, 4) for part in bits.both_orders(row, count, Pattern(2, 4), True))]
            assert kept[0] == pytest.approx(kept[1], abs=1e-9)


def test_pruned_weights_come_back_where_zero_is_no_level():
    first, second = bits.both_orders(bits.EXAMPLE_ROW, 4, Pattern(2, 4), False)
    step = 8 / 15  # from -5 to 3
    assert (second == 0).sum() == 4 and (first == 0).sum() == 0
    assert first[1] == pytest.approx(-5 + 9 * step)  # 0 lies between levels 9 and 10: 9.375


@pytest.mark.parametrize("name, without, with_index", [
    ("8/2:4", 0.875, 0.84375), ("4/2:4", 0.9375, 0.90625), ("4/1:4", 0.96875, 0.953125), ("8/1:2", 0.875, 0.859375),
    ("2:4", 0.5, 0.46875)])
def test_what_is_removed_with_and_without_the_index(name, without, with_index):
    """Bits of a weight by hand: N/M b, and N/M ceil(log2 M) for the index; a byte says that no block is cut."""
    parts = bits.stored(name)
    assert bits.removed(parts, False) == without
    assert bits.removed(parts, True) == pytest.approx(with_index, abs=2 / parts.dense)
    assert sum(bits.bits_of(parts).values()) == pytest.approx(8 * parts.stored / (384 * 384))


def test_mixtures_take_equal_bytes_and_lose_what_a_loop_counts():
    weight = bits.real_matrix(DENSE)
    found = {one.format: one for one in bits.at_equal_bytes(weight, 8)}
    assert found["32"].error > found["16"].error > found["8"].error > found["4"].error
    for one in found.values():
        assert one.bytes <= weight.size / 2 and (one.bytes > 0.48 * weight.size or not one.cut)
    norms = np.sqrt((weight.reshape(6, 64, 384) ** 2).sum(1)).ravel()
    gone = round(found["32"].cut * norms.size)
    assert found["32"].error == pytest.approx((np.sort(norms)[:gone] ** 2).sum() / (weight**2).sum(), rel=1e-4)


def test_a_real_matrix_is_that_of_the_recorded_run(tmp_path):
    from safetensors import safe_open

    with safe_open(DENSE, framework="pt") as file:
        expected = file.get_tensor(f"{bits.REAL}.weight").float().numpy()
    assert np.array_equal(bits.real_matrix(DENSE), expected)
    assert bits.real_matrix(tmp_path / "none.safetensors") is None and bits.real_matrix(DENSE, "no.such") is None
    (tmp_path / "torn.safetensors").write_bytes(DENSE.read_bytes()[:100])
    assert bits.real_matrix(tmp_path / "torn.safetensors") is None


def test_charts_hold_what_was_counted():
    row = lesson.small_matrix()[0]
    one = bits.rounded(row, "3", True)
    stairs = bits.staircase(row, one)
    assert list(stairs.data[1].y) == one.values[np.argsort(row, kind="stable")].tolist()
    assert len(stairs.layout.shapes) == 7
    bars = bits.stacked({"a": bits.stored("4/2:4")})
    assert [trace.x[0] for trace in bars.data[:2]] == pytest.approx([2.0, 1.0], abs=1e-3)
    assert BlockShape.parse("64x1") == bits.STRIPS
    mixtures = bits.at_equal_bytes(bits.real_matrix(DENSE), 8)
    assert list(bits.equal_bytes(mixtures).data[0].x) == [mixture.error for mixture in mixtures]
    assert [trace.name for trace in bits.orders(row, row, row).data] == ["weight", "pruned, then rounded",
                                                                        "rounded, then pruned"]
