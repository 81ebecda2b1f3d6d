"""Masks, sparsity and compression: counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import layout

from prune_core import InputError
from prune_core.cutting.masks import (
    SCOPES,
    BlockMask,
    by_scope,
    mask_at,
    mask_at_sparsity,
    scope_key,
    sparsity_of,
    thresholds_for,
    zero_share,
)

# Two matrices 4x2 in groups of 2x1: four groups each of two weights, sixteen weights of a model of 100.
NORMS = {"m0": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "m1": np.array([[5.0, 6.0], [7.0, 8.0]], np.float32)}


def random_norms(made, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {m.name: random.uniform(0.1, 1, made.block.grid(m.m, m.n)).astype(np.float32) for m in made.matrices}


def test_sparsity_and_both_compressions_by_hand():
    mask = mask_at(NORMS, layout(), 3.0)  # cuts norms 1, 2, 3: six of sixteen weights
    assert mask.kept["m0"].tolist() == [[False, False], [False, True]] and mask.kept["m1"].all()
    assert mask.kept_weights == 10
    assert mask.sparsity == 1 - 10 / 16
    assert mask.compression_encoder == 16 / 10
    assert mask.compression_model == 100 / 94


def test_the_sparsity_of_one_matrix_by_hand():
    mask = mask_at(NORMS, layout(), 3.0)
    assert mask.matrix_sparsity("m0") == 0.75 and mask.matrix_sparsity("m1") == 0.0


def test_nothing_kept_compresses_the_encoder_without_bound_but_not_the_model():
    mask = mask_at(NORMS, layout(), 8.0)
    assert mask.compression_encoder == float("inf") and mask.compression_model == 100 / 84


def test_scope_keys_by_hand():
    one = layout().matrices[1]
    assert [scope_key(one, scope) for scope in SCOPES] == ["all", "layer 1", "key", "m1"]
    with pytest.raises(InputError, match="global, layer, type, matrix"):
        scope_key(one, "everything")


def test_matrices_of_a_scope_stand_together():
    made = layout(sides=((4, 2),) * 4)
    groups = {key: [m.name for m in matrices] for key, matrices in by_scope(made, "type").items()}
    assert groups == {"query": ["m0", "m2"], "key": ["m1", "m3"]}


@pytest.mark.parametrize("scope, threshold, kept", [
    ("layer", {"layer 0": 1.0, "layer 1": 7.0}, 8), ("type", {"query": 4.0, "key": 0.0}, 8),
    ("matrix", {"m0": 2.0, "m1": 5.0}, 10)])
def test_each_scope_key_is_cut_at_its_own_threshold(scope, threshold, kept):
    assert mask_at(NORMS, layout(), threshold, scope).kept_weights == kept


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.75, 0.9])
def test_thresholds_cut_exactly_the_share_in_every_scope(scope, sparsity):
    made = layout("2x1", ((20, 10),) * 4, 2000)  # 100 groups per matrix
    mask = mask_at_sparsity(random_norms(made), made, sparsity, scope)
    for matrices in by_scope(made, scope).values():
        cut = sum(int((~mask.kept[m.name]).sum()) for m in matrices)
        assert cut == round(sparsity * 100 * len(matrices))


def test_the_lowest_norms_are_cut_and_the_threshold_is_the_last_of_them():
    made = layout("2x1", ((20, 10),) * 2, 2000)
    norms = random_norms(made)
    everything = np.sort(np.concatenate([n.ravel() for n in norms.values()]))
    assert thresholds_for(norms, made, 0.3) == {"all": float(everything[59])}


def test_no_sparsity_asked_cuts_nothing():
    assert thresholds_for(NORMS, layout(), 0.0) == {"all": 0.0}
    assert mask_at_sparsity(NORMS, layout(), 0.0).kept_weights == 16


def test_groups_of_equal_norm_are_cut_together():
    norms = {"m0": np.array([[1, 2], [2, 2]], np.float32), "m1": np.full((2, 2), 9, np.float32)}
    mask = mask_at_sparsity(norms, layout(), 0.25)  # two groups asked, but three share the second norm
    assert (~mask.kept["m0"]).sum() == 4 and mask.kept["m1"].all()


def test_groups_that_are_zero_are_always_cut():
    norms = NORMS | {"m0": np.array([[0, 0], [0, 4]], np.float32)}
    assert zero_share(norms, layout()) == 6 / 16
    assert mask_at_sparsity(norms, layout(), 0.0).sparsity == 6 / 16
    assert mask_at_sparsity(norms, layout(), 0.25).sparsity == 6 / 16
    assert mask_at_sparsity(norms, layout(), 0.5).sparsity == 0.5


def test_whole_rows_of_unequal_length_count_by_their_weights():
    made = layout("1xall", ((2, 2), (2, 6)), 50)  # groups of 2, 2, 6 and 6 weights
    norms = {"m0": np.array([[1.0], [4.0]], np.float32), "m1": np.array([[2.0], [3.0]], np.float32)}
    mask = mask_at_sparsity(norms, made, 0.5)  # in order of norm: 2, 8, 14, 16 of 16 weights; half is 8
    assert (mask.kept["m0"].ravel().tolist(), mask.kept["m1"].ravel().tolist()) == ([False, True], [False, True])
    assert mask.sparsity == 0.5 and mask.compression_model == 50 / 42


def test_with_unequal_groups_the_nearest_whole_group_is_taken():
    made = layout("1xall", ((2, 2), (2, 6)), 50)
    norms = {"m0": np.array([[1.0], [4.0]], np.float32), "m1": np.array([[2.0], [3.0]], np.float32)}
    assert mask_at_sparsity(norms, made, 0.3).sparsity == 2 / 16  # 4.8 weights: 2 is nearer than 8
    assert mask_at_sparsity(norms, made, 0.33).sparsity == 8 / 16  # 5.28: now 8 is


@pytest.mark.parametrize("threshold, words", [
    (-0.1, "-0.1"), (float("nan"), "nan"), ({"layer 0": 1.0}, "missing"),
    ({"layer 0": 1.0, "layer 1": float("nan")}, "nan")])
def test_bad_thresholds_are_refused(threshold, words):
    scope = "layer" if isinstance(threshold, dict) else "global"
    with pytest.raises(InputError, match=f"threshold.* {words}"):
        mask_at(NORMS, layout(), threshold, scope)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_bad_sparsities_are_refused(sparsity):
    with pytest.raises(InputError, match="sparsity"):
        thresholds_for(NORMS, layout(), sparsity)


@pytest.mark.parametrize("compression, sparsity", [(1, 0.0), (2, 0.5), (4, 0.75), (1.5, 1 / 3)])
def test_compression_to_sparsity_by_hand(compression, sparsity):
    assert sparsity_of(compression) == pytest.approx(sparsity, abs=1e-15)


@pytest.mark.parametrize("compression", [0.99, 0, -2, float("nan"), float("inf")])
def test_compression_below_one_is_refused(compression):
    with pytest.raises(InputError, match="compression .* needed: 1 or more"):
        sparsity_of(compression)


def test_the_digest_tells_masks_apart_and_only_masks():
    one, same, other = mask_at(NORMS, layout(), 3.0), mask_at(NORMS, layout(), 3.5), mask_at(NORMS, layout(), 4.0)
    assert one.digest() == same.digest() != other.digest()


def test_the_digest_sees_a_single_group():
    one = mask_at(NORMS, layout(), 3.0)
    for name in NORMS:
        for at in np.ndindex(2, 2):
            kept = {key: values.copy() for key, values in one.kept.items()}
            kept[name][at] ^= True
            assert BlockMask(one.layout, kept).digest() != one.digest()
