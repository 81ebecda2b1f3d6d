"""Snapshots, and the surface that a stage carries, read off between its points."""

from __future__ import annotations

import pytest

from prune_core.cutting.answers import SurfacePoint, predict
from prune_core.runs.snapshots import Snapshot

SURFACE = [SurfacePoint(0.0, 0.2, 0.9, 0.8, 1.0), SurfacePoint(0.2, 0.2, 0.9, 0.8, 1.0),
           SurfacePoint(0.4, 0.4, 0.7, 0.6, 0.8), SurfacePoint(0.8, 0.8, 0.5, 0.4, 0.6)]


@pytest.mark.parametrize("sparsity, by_hand", [
    (0.4, (0.7, 0.6, 0.8)), (0.3, (0.8, 0.7, 0.9)), (0.6, (0.6, 0.5, 0.7)), (0.8, (0.5, 0.4, 0.6))])
def test_between_points_the_prediction_is_linear(sparsity, by_hand):
    assert predict(SURFACE, sparsity) == pytest.approx(by_hand)


def test_below_the_sparsity_of_the_weights_it_is_the_first_points_score():
    assert predict(SURFACE, 0.0) == pytest.approx((0.9, 0.8, 1.0))


def test_beyond_the_last_point_it_is_the_last_points_score():
    assert predict(SURFACE, 0.99) == pytest.approx((0.5, 0.4, 0.6))


def test_snapshots_compare_by_what_happened_not_by_their_arrays():
    assert Snapshot("dense", 1, 0.5, norms={"a": 1}) == Snapshot("dense", 1, 0.5)
    assert Snapshot("dense", 1, 0.5) != Snapshot("dense", 2, 0.5)
