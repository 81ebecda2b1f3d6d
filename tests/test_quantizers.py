"""Weights to codes and back: by hand, against torch's own fake quantization, a grid search, and k-means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_core.precision import quantizers
from prune_core.precision.formats import Format, Pattern
from prune_core.precision.quantizers import keep_pattern, quantize, scales_for

ROW = np.array([[3, -1, 2, -5, 0.5, 0.5, 0.4, -0.6]], np.float32)
V = np.array([[0.9, -0.4, 0.1, 1.7, -2.2]], np.float32)
TWO_OF_FOUR = Pattern(2, 4)
LEVELS = ("8", "7", "5", "4", "3", "2")
ALL = (*LEVELS, "ternary", "binary", "clusters-4", "clusters-2", "16", "32")


def weights(m: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, (m, n)).astype(np.float32)


def looped_pattern(row: np.ndarray, n: int, m: int) -> list[bool]:
    """The definition: of each run of m the n largest, the first of equals first."""
    kept = [False] * len(row)
    for start in range(0, len(row), m):
        order = sorted(range(start, start + m), key=lambda at: (-abs(float(row[at])), at))
        for at in order[:n]:
            kept[at] = True
    return kept


# ---------------------------------------------------------------- patterns


def test_a_row_by_hand_at_2_of_4_and_4_bits():
    kept = keep_pattern(abs(ROW), TWO_OF_FOUR)
    assert kept.tolist() == [[True, False, False, True, True, False, False, True]]
    assert float(((ROW * ~kept) ** 2).sum()) == pytest.approx(5.41)
    made = quantize(ROW, Format.parse("4/2:4"), scales=np.array([5 / 7], np.float32))
    assert made.codes.tolist() == [[4, 0, 0, -7, 1, 0, 0, -1]]
    assert made.values == pytest.approx(np.array([[4, 0, 0, -7, 1, 0, 0, -1]]) * 5 / 7)
    assert quantizers.full_scale(ROW * kept, 7).tolist() == [pytest.approx(5 / 7)]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (4, 8), (3, 16)])
def test_a_pattern_against_a_plain_loop(n, m):
    weight = weights(12, 48, m)
    weight[:3] = np.round(weight[:3] * 40) / 40  # ties
    expected = [looped_pattern(row, n, m) for row in weight]
    assert keep_pattern(abs(weight), Pattern(n, m)).tolist() == expected
    assert keep_pattern(torch.from_numpy(weight).abs(), Pattern(n, m)).tolist() == expected


@pytest.mark.parametrize("cols", [1, 4])
def test_among_what_blocks_keep_it_keeps_as_many_as_there_are(cols):
    weight = weights(64, 32)
    weight[:, 5] = 0  # kept weights that are zero count
    blocks = (np.random.default_rng(1).uniform(size=(8, 32 // cols)) < 0.5).repeat(8, 0).repeat(cols, 1)
    for scores, kept in ((abs(weight), blocks), (torch.from_numpy(weight).abs(), torch.from_numpy(blocks))):
        stays = np.asarray(keep_pattern(scores, TWO_OF_FOUR, kept))
        counts = blocks.reshape(64, 8, 4).sum(2)
        assert np.array_equal(stays.reshape(64, 8, 4).sum(2), np.minimum(counts, 2)) and not (stays & ~blocks).any()


def test_pruning_and_rounding_commute_but_for_ties_whose_magnitudes_agree():
    """On 100,000 groups of four in 4 bits: zero is a level, so |Q| is monotone in |w|."""
    weight = weights(500, 800, 3)
    scales = quantizers.full_scale(weight, 7)

    def q(w):
        return quantizers.codes_at(w, scales, 7)

    pruned_first, rounded_first = q(weight * keep_pattern(abs(weight), TWO_OF_FOUR)), q(weight)
    rounded_first = rounded_first * keep_pattern(abs(rounded_first), TWO_OF_FOUR)
    groups = [abs(codes).reshape(-1, 4) for codes in (pruned_first, rounded_first)]
    assert np.array_equal(*(np.sort(group, 1) for group in groups))
    apart = (pruned_first != rounded_first).reshape(-1, 4).any(1)
    assert 0 < apart.sum() < len(apart)  # ties there are
    codes = np.sort(abs(q(weight)).reshape(-1, 4)[apart], 1)
    assert (codes[:, 1] == codes[:, 2]).all()


# ---------------------------------------------------------------- levels


def test_alternating_least_squares_by_hand():
    start = quantizers.interval(V, 3, rounds=0)
    assert start[0] == pytest.approx(1.06 / 1.5)
    assert quantizers.codes_at(V, start, 3).tolist() == [[1, -1, 0, 2, -3]]
    scale = quantizers.interval(V, 3)
    assert scale[0] == pytest.approx(11.3 / 15) and scale[0] == pytest.approx(0.75333, abs=1e-5)
    assert error_at(V, scale, 3)[0] == pytest.approx(0.19733, abs=1e-5)


def error_at(weight: np.ndarray, scales: np.ndarray, top: int) -> np.ndarray:
    return ((weight - quantizers.codes_at(weight, scales, top) * scales[:, None]) ** 2).sum(1)


@pytest.mark.parametrize("bits", [5, 4, 3, 2])
def test_the_interval_is_near_the_best_of_a_fine_grid(bits):
    """It ends in a local optimum: on random rows at most a few per cent above the best, on V the best there is."""
    format, weight = Format.parse(str(bits)), weights(100, 384, bits).astype(np.float64)
    grid = np.linspace(0.02, 1.2, 1200)[:, None] * abs(weight).max(1) / format.top
    best = np.min([error_at(weight, one, format.top) for one in grid], 0)
    ratio = error_at(weight, scales_for(weight, format), format.top) / best
    assert ratio.max() < 1.06 and ratio.mean() < 1.006 and ratio.min() > 0.999
    scale = quantizers.interval(V, 3)
    grid = [error_at(V, np.array([one]), 3)[0] for one in np.linspace(0.05, 2, 20_000)]
    assert error_at(V, scale, 3)[0] == pytest.approx(min(grid), abs=1e-5)


def test_no_round_raises_the_error():
    weight = weights(300, 64, 7).astype(np.float64)
    errors = [error_at(weight, quantizers.interval(weight, 3, rounds=rounds), 3) for rounds in range(8)]
    assert all((after <= before + 1e-12).all() for before, after in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("pattern", ["", "/2:4"])
def test_levels_against_torchs_fake_quantization(bits, pattern):
    weight, format = weights(96, 128, bits), Format.parse(f"{bits}{pattern}")
    made = quantize(weight, format)
    masked = torch.from_numpy(weight * made.kept)
    theirs = torch.fake_quantize_per_channel_affine(
        masked, torch.from_numpy(made.scales), torch.zeros(96, dtype=torch.int32), 0, -format.top, format.top)
    # they multiply by 1 / scale: at a tie they may be a step away
    between = abs((weight / made.scales[:, None]) % 1 - 0.5) < 1e-4
    assert between.mean() < 0.01 and np.abs((theirs.numpy() - made.values)[~between]).max() < 1e-7
    assert (made.values[~made.kept] == 0).all() and (theirs.numpy()[~made.kept] == 0).all()


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("kind", ["levels", "ternary", "binary"])
def test_numpy_and_torch_give_the_same_codes(bits, kind):
    format = Format.parse(str(bits) if kind == "levels" else kind)
    weight = weights(64, 48, bits)
    kept = np.random.default_rng(5).uniform(size=weight.shape) < 0.5
    kept[7] = False  # a row of which nothing is kept
    weight = weight * kept
    ours = scales_for(weight, format)
    theirs = scales_for(torch.from_numpy(weight), format)
    assert theirs.numpy() == pytest.approx(ours, rel=1e-5)
    codes = quantizers.round_to(weight, format, ours, kept)
    assert np.array_equal(codes, quantizers.round_to(
        torch.from_numpy(weight), format, torch.from_numpy(ours), torch.from_numpy(kept)).numpy())
    assert abs(codes).max() <= format.top and (codes[~kept] == 0).all() and np.isfinite(ours).all()


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("pattern", ["", "/2:4"])
def test_what_is_on_its_levels_already_is_not_moved(text, pattern):
    format = Format.parse(text + pattern) if text != "32" or not pattern else Format.parse(pattern[1:])
    kept = (np.random.default_rng(2).uniform(size=(4, 64)) < 0.5).repeat(8, 0)
    made = quantize(weights(32, 64), format, kept)
    again = quantize(made.values, format, made.kept, made.scales, made.codebook)
    assert np.array_equal(again.values, made.values) and made.values.dtype == np.float32
    if format.kind != "ternary":  # its threshold is of the mean: what it was is not what it will be
        assert np.array_equal(again.codes, made.codes) if made.codes is not None else made.floats is not None
    assert (made.values[~made.kept] == 0).all() and not (made.kept & ~kept).any()


def test_ternary_and_binary_by_hand():
    row = np.array([[1.0, -2.0, 0.1, 0.0, 3.0, -0.5]], np.float32)
    kept = row != 0
    ternary = quantize(row, Format.parse("ternary"), kept)  # mean magnitude 6.6 / 5 = 1.32, threshold 0.924
    assert ternary.codes.tolist() == [[1, -1, 0, 0, 1, 0]] and ternary.scales[0] == pytest.approx(2.0)
    binary = quantize(row, Format.parse("binary"), kept)
    assert binary.codes.tolist() == [[1, -1, 1, 0, 1, -1]] and binary.scales[0] == pytest.approx(1.32)


def test_a_row_of_which_nothing_is_kept_is_zero():
    for text in ALL:
        made = quantize(np.zeros((2, 8), np.float32), Format.parse(text), np.zeros((2, 8), bool))
        assert (made.values == 0).all() and np.isfinite(made.values).all()


def test_bf16_is_torchs():
    weight = weights(64, 64)
    assert np.array_equal(quantizers.to_bf16(weight), torch.from_numpy(weight).bfloat16().float().numpy())


# ---------------------------------------------------------------- clusters


@pytest.mark.parametrize("bits", [2, 3])
def test_clusters_against_k_means_from_the_same_start(bits):
    from sklearn.cluster import KMeans

    weight = weights(4, 30, bits)
    ours = quantizers.codebook_for(weight, Format.parse(f"clusters-{bits}"))
    start = np.linspace(weight.min(), weight.max(), 2**bits - 1)[:, None]
    theirs = KMeans(2**bits - 1, init=start, n_init=1, max_iter=quantizers.ROUNDS, tol=0, algorithm="lloyd").fit(
        weight.reshape(-1, 1).astype(np.float64))
    assert ours == pytest.approx(np.sort(theirs.cluster_centers_.ravel()), abs=1e-6)
    made = quantize(weight, Format.parse(f"clusters-{bits}"))
    distance = abs(weight[..., None] - made.codebook)
    assert np.abs(weight - made.values) == pytest.approx(distance.min(-1), abs=1e-7)


def test_nothing_cut_gets_another_value_and_nothing_kept_becomes_zero():
    weight, kept = weights(16, 32), np.random.default_rng(1).uniform(size=(16, 32)) < 0.5
    made = quantize(weight, Format.parse("clusters-3/2:4"), kept)
    assert (made.codes[~made.kept] == 0).all() and (made.codes[made.kept] >= 1).all()
    assert (made.values[~made.kept] == 0).all() and (made.values[made.kept] != 0).all()
    given_ = quantize(weight, Format.parse("clusters-3"), kept, codebook=made.codebook)
    assert given_.codebook is made.codebook


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(ALL), st.sampled_from(["", "/2:4", "/1:2"]), st.integers(0, 2**16),
       st.sampled_from([1e-9, 1e-3, 1.0, 1e6]))
def test_any_weight_comes_out_finite_on_the_grid_and_where_it_is_kept(text, pattern, seed, size):
    random = np.random.default_rng(seed)
    weight = (random.normal(size=(6, 16)) * size * (random.uniform(size=(6, 16)) < 0.7)).astype(np.float32)
    format = Format.parse(text + pattern) if text != "32" or not pattern else Format.parse(pattern[1:])
    made = quantize(weight, format, random.uniform(size=(6, 16)) < 0.6)
    assert np.isfinite(made.values).all() and (made.values[~made.kept] == 0).all()
    if made.codes is not None:
        assert abs(made.codes).max(initial=0) <= format.top
    if format.pattern:
        counts = made.kept.reshape(6, -1, format.pattern.m).sum(2)
        assert counts.max() <= format.pattern.n
