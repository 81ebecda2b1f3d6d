"""Figures against numbers counted here: codes, rasters, what a map and a curve carry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_run import make_layout, make_norms, make_run

from prune_core import figures, runs
from prune_core.blocks import BlockShape
from prune_core.masks import mask_at, mask_at_sparsity
from prune_core.trajectory import Snapshot, SurfacePoint, predict

ROOT = Path(__file__).resolve().parent.parent


def test_codes_by_hand():
    norms, kept = np.array([[0.0, 0.5], [1.0, 9.0]]), np.array([[False, True], [True, True]])
    middle = figures.LOWEST + (figures.HIGHEST - figures.LOWEST) / 2
    expected = [[figures.CUT, round(middle)], [figures.HIGHEST, figures.HIGHEST]]
    found = figures.codes(norms, kept, high=1.0)
    assert found.dtype == np.uint8
    assert abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("shape", "cells"), [((6, 40), (3, 10)), ((2, 5), (4, 10)), ((7, 11), (3, 4)), ((1, 384), (24, 96))])
def test_resample_equals_a_plain_loop(shape, cells):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    expected = np.empty(cells)
    for row in range(cells[0]):
        for col in range(cells[1]):
            ends = [(at * size // n, max(at * size // n + 1, (at + 1) * size // n)) for at, size, n in
                    ((row, shape[0], cells[0]), (col, shape[1], cells[1]))]
            expected[row, col] = values[slice(*ends[0]), slice(*ends[1])].mean()
    np.testing.assert_allclose(figures.resample(values, *cells), expected, rtol=1e-5)


def test_raster_marks_cells_that_are_mostly_cut():
    norms = np.array([[1.0, 0.1, 0.1, 0.1, 1.0, 1.0]])
    kept = norms > 0.5
    found = figures.raster(norms, kept, 1.0, 1, 2)
    assert found[0, 0] == figures.CUT  # one of three is kept
    assert found[0, 1] == figures.HIGHEST  # two of three: the mean of what is kept, 1.0


def test_norm_scale_is_the_highest_quantile_and_never_zero():
    low, high = {"a": np.full(1000, 0.5)}, {"a": np.linspace(0, 1, 1001)}
    assert figures.norm_scale([low, high]) == pytest.approx(0.995)
    assert figures.norm_scale([{"a": np.zeros(4)}]) == 1.0
    assert figures.norm_scale([]) == 1.0


def test_encoder_map_is_small_and_says_what_each_matrix_has_cut():
    layout = make_layout(layers=6, hidden=384, inner=1536, block="64x1")
    norms = make_norms(layout)
    mask = mask_at_sparsity(norms, layout, 0.6)
    figure = figures.encoder_map(norms, mask, 1.0)
    assert figure.data[0].z.dtype == np.uint8
    assert len(figure.to_json()) < 250_000
    assert list(figure.data[1].text) == [f"{1 - mask.kept[m.name].mean():.0%} cut" for m in layout.matrices]


def test_layer_map_carries_exact_norms_and_the_mask():
    layout = make_layout(layers=2, block="16x1")
    norms = make_norms(layout)
    mask = mask_at(norms, layout, 0.5)
    figure = figures.layer_map(norms, mask, 1.0, layer=1)
    parts = [m for m in layout.matrices if m.layer == 1]
    assert len(figure.data) == 6
    for trace, matrix in zip(figure.data, parts, strict=True):
        np.testing.assert_array_equal(trace.customdata, norms[matrix.name])
        np.testing.assert_array_equal(trace.z == figures.CUT, ~mask.kept[matrix.name])


def test_layer_map_of_a_huge_matrix_is_averaged_and_says_so(monkeypatch):
    monkeypatch.setattr(figures, "MAX_CELLS", 100)
    layout = make_layout(layers=1, block="16x1")
    norms = make_norms(layout)
    trace = figures.layer_map(norms, mask_at(norms, layout, 0.0), 1.0, 0).data[0]
    assert trace.z.size <= 100 < norms[layout.matrices[0].name].size
    assert "mean of neighbours" in trace.hovertemplate


@pytest.mark.parametrize(("block", "words"), [("64x1", ("strip of 64 rows", "column")), ("1x64", ("row", "strip of 64 columns")),
                                              ("allx1", ("all rows", "column")), ("16x16", ("strip of 16 rows", "strip of 16 columns"))])
def test_axis_words(block, words):
    assert figures.axis_words(BlockShape.parse(block)) == words


def test_histogram_counts_every_group_once():
    layout = make_layout()
    norms = make_norms(layout)
    norms = {name: np.where(values < 0.4, np.float32(0), values) for name, values in norms.items()}
    mask = mask_at(norms, layout, 0.5)
    figure = figures.norm_histogram(norms, mask, 1.0, 0.5)
    every = np.concatenate([values.ravel() for values in norms.values()])
    assert sum(figure.data[0].y) == pytest.approx(((every > 0) & (every <= 0.5)).mean())  # cut, zeros told apart
    assert sum(figure.data[1].y) == pytest.approx((every > 0.5).mean())  # kept, the highest too
    assert f"{(every == 0).mean():.0%} of the groups are exactly 0" in figure.layout.xaxis.title.text


def test_surface_curve_marks_the_present_setting_where_predict_puts_it():
    surface = [SurfacePoint(w, w, 0.9 - w / 2, 0.85 - w / 2, 0.95 - w / 2) for w in (0.0, 0.5, 0.95)]
    figure = figures.surface_curve(surface, "accuracy", sparsity=0.25, dense=0.9, exact=[(0.5, 0.6)], retrained=[(0.5, 0.88)])
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["predicted here"].y[0] == pytest.approx(predict(surface, 0.25)[0]) == pytest.approx(0.775)
    assert tuple(by_name["exact"].y) == (0.6,)
    assert tuple(by_name["retrained"].y) == (0.88,)


def test_history_puts_phases_end_to_end(tmp_path):
    snapshots = [Snapshot("dense", 5, loss=1.0), Snapshot("dense", 10, loss=0.5), Snapshot("penalty", 4, loss=0.7)]
    assert figures.phase_starts(snapshots) == {"dense": 0, "penalty": 10}
    assert list(figures.history(snapshots, "accuracy").data[0].x) == [5, 10, 14]
    run = runs.Run(make_run(tmp_path))
    assert figures.history(run.snapshots, run.metric).data[3].y[-1] == pytest.approx(0.885)


def test_long_curves_are_means_within_a_phase():
    points = [(step, float(step % 2), "dense" if step < 600 else "penalty") for step in range(1000)]
    found = figures._thinned(points, most=100)
    assert len(found) == 100
    assert all(value == 0.5 for _, value, _ in found)
    assert found[-1][0] == 999 and found[59][2] == "dense" and found[60][2] == "penalty"
    assert figures._thinned(points[:100], most=100) == points[:100]


def test_figures_load_neither_torch_nor_transformers():
    code = "import sys, prune_core.figures; sys.exit(bool({'torch', 'transformers', 'streamlit'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
