"""Figures against numbers counted here: codes, rasters, what a map and a curve carry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_run import make_layout, make_norms, make_run

from prune_core.cutting import masks
from prune_core.cutting.answers import Sensitivity, SurfacePoint, predict
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.runs.run import Run
from prune_core.runs.snapshots import Snapshot
from prune_core.showing import figures, published
from prune_core.showing.figures import CUT, HIGHEST, LOWEST

ROOT = Path(__file__).resolve().parent.parent


def test_codes_by_hand():
    norms, kept = np.array([[0.0, 0.5], [1.0, 9.0]]), np.array([[False, True], [True, True]])
    middle = LOWEST + (HIGHEST - LOWEST) / 2
    expected = [[CUT, round(middle)], [HIGHEST, HIGHEST]]
    codes = figures.codes(norms, kept, high=1.0)
    assert codes.dtype == np.uint8
    assert abs(codes.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("shape", "cells"),
                         [((6, 40), (3, 10)), ((2, 5), (4, 10)), ((7, 11), (3, 4)), ((1, 384), (24, 96))])
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
    image = figures.raster(norms, kept, 1.0, 1, 2)
    assert image[0, 0] == CUT  # one of three is kept
    assert image[0, 1] == HIGHEST  # two of three: the mean of what is kept, 1.0


def test_norm_scale_is_the_highest_quantile_and_never_zero():
    low, high = {"a": np.full(1000, 0.5)}, {"a": np.linspace(0, 1, 1001)}
    assert masks.norm_scale([low, high]) == pytest.approx(0.995)
    assert masks.norm_scale([{"a": np.zeros(4)}]) == 1.0
    assert masks.norm_scale([]) == 1.0


def test_encoder_map_is_small_and_says_what_each_matrix_has_cut():
    layout = make_layout(layers=6, hidden=384, inner=1536, block="64x1")
    norms = make_norms(layout)
    mask = mask_at_sparsity(norms, layout, 0.6)
    figure = figures.encoder_map(norms, mask, 1.0)
    assert figure.data[0].z.dtype == np.uint8
    assert len(figure.to_json()) < 250_000
    assert list(figure.data[1].text) == [f"{1 - mask.kept[m.name].mean():.1%} cut" for m in layout.matrices]


def test_score_curve_marks_the_present_setting_where_predict_puts_it():
    surface = [SurfacePoint(w, w, 0.9 - w / 2, 0.85 - w / 2, 0.95 - w / 2) for w in (0.0, 0.5, 0.95)]
    figure = figures.score_curve("accuracy", surface=surface, here=0.25, dense=0.9,
                                 exact=[(2.0, 0.6)], retrained={"retrained": [(2.0, 0.88)]}, pins={"A": (1.5, 0.7)})
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["predicted here"].y[0] == pytest.approx(predict(surface, 0.25)[0]) == pytest.approx(0.775)
    assert by_name["predicted here"].x[0] == pytest.approx(4 / 3) and by_name["recorded scores"].x[1] == 2.0
    assert tuple(by_name["exact"].y) == (0.6,) and tuple(by_name["retrained"].y) == (0.88,)
    assert [trace.text for trace in figure.data if trace.text] == [("A",)]


def test_published_points_are_open_marks_that_say_whose_they_are():
    points = published.of("sst2", "accuracy")
    assert len(points) >= 5
    assert all(0 < p.removed < 1 and 0.3 < p.score < 1 for p in published.points())
    assert all(p.source and p.evidence in ("code", "readme") for p in published.points())
    for figure, mine in ((figures.score_curve("accuracy", published=points), points),
                         (figures.speedup_curve({}, published=points), [p for p in points if p.speedup])):
        drawn = [trace for trace in figure.data if (trace.name or "").startswith("published: ")]
        assert sum(len(trace.x) for trace in drawn) == len(mine)
        assert all(trace.marker.symbol.endswith("-open") for trace in drawn)
        assert all("published: " in words for trace in drawn for words in trace.text)
    assert not published.of("sst2", "f1")


def test_published_points_do_not_squeeze_the_own_ones():
    surface = [SurfacePoint(w, w, 0.9 - w / 10, 0.89 - w / 10, 0.91 - w / 10) for w in (0.0, 0.5)]
    points = published.of("sst2", "accuracy")
    figure = figures.score_curve("accuracy", surface=surface, dense=0.9, published=points)
    alone = figures.score_curve("accuracy", surface=surface, dense=0.9)
    (low, high), (own_low, own_high) = figure.layout.yaxis.range, alone.layout.yaxis.range
    assert own_high - own_low > 0.55 * (high - low) and 10**figure.layout.xaxis.range[1] < 3
    inside = [p for p in points if low <= p.score <= high
              and 10**figure.layout.xaxis.range[0] <= 1 / (1 - p.removed) <= 10**figure.layout.xaxis.range[1]]
    (said,) = [note.text for note in figure.layout.annotations]
    assert said == f"{len(points) - len(inside)} published points lie outside: double-click shows all"
    assert not alone.layout.annotations
    assert figure.layout.height > alone.layout.height  # the legend takes no room from the chart


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.2), (1.9, 2.9), (2.0, 2.1), (1.0, 21.0), (3.0, 9.0), (1.05, 1.3)])
def test_an_axis_has_several_round_ticks(low, high):
    ticks = figures._nice(low, high)
    assert 4 <= len(ticks) <= 11 and all(low <= tick <= high for tick in ticks) and ticks == sorted(set(ticks))


def test_a_comparison_has_a_legend_for_every_line_and_says_what_each_point_is():
    lines = {"one": [figures.Compared(1.9, 0.89, 0.004, "2x", "<br>a processor, today")],
             "two": [figures.Compared(2.8, 0.88, 0.0, "3x")]}
    figure = figures.comparison(lines, "accuracy", "measured speedup", {"one": 0.9, "two": 0.9}, (2.8, 0.88))
    names = [trace.name for trace in figure.data]
    assert names == ["one", "two", "dense", "the answer", "bar: ± standard deviation over the seeds"]
    assert figure.layout.showlegend and all(trace.showlegend is None for trace in figure.data)
    assert [tuple(trace.text) for trace in figure.data if trace.text] == [("2x",), ("",), ("<b>3x</b>",)]
    assert "a processor, today" in figure.data[0].customdata[0] and len(figure.layout.xaxis.tickvals) >= 4
    other = figures.comparison(lines, "accuracy", "x", {"one": 0.9, "two": 0.8})
    assert [trace.name for trace in other.data][2:4] == ["dense: one", "dense: two"]
    single = figures.comparison({"one": lines["two"]}, "accuracy", "x", {"one": 0.9})
    assert len(single.layout.xaxis.tickvals) >= 4 and single.layout.showlegend


def test_no_legend_or_title_lies_under_the_toolbar():
    """It takes 30 pixels at the top: charts begin below it, and legends stand under the axis."""
    made = [figures.score_curve("accuracy", dense=0.9), figures.speedup_curve({"a": [(1.0, 1.0)]}),
            figures.history([Snapshot("dense", 5, loss=1.0)], "accuracy"),
            figures.recovered(dict.fromkeys("abc", [1.0])),
            figures.until_it_breaks({"a": [(1.5, 0.9)]}, "accuracy", 0.5), figures.layer_latency([(0, 2.0, 1.0)])]
    assert all(figure.layout.margin.t >= 34 for figure in made) and made[2].layout.margin.t >= 60
    assert all(figure.layout.legend.yanchor == "bottom" and figure.layout.legend.y == 0
               for figure in made if figure.layout.showlegend)


def test_sensitivity_curves_start_at_the_dense_score():
    points = [Sensitivity("layer", f"layer {at}", share, 0.1, 0.0, 0.9 - share * at / 10, 0.0, 1.0, 10)
              for at in (0, 1) for share in (0.9, 0.5)]
    figure = figures.sensitivity_curves(points, "accuracy", 0.9,
                                        {"layer 0": "layer 0", "layer 1": "layer 1"}, "layer 1")
    assert tuple(figure.data[1].x) == (0, 0.5, 0.9) and figure.data[1].y == pytest.approx((0.9, 0.85, 0.81))
    assert figure.data[0].opacity < figure.data[1].opacity


def test_norms_over_time_draws_its_quantiles():
    quantiles = np.arange(15.0).reshape(3, 5)
    figure = figures.norms_over_time(["a", "b", "c"], quantiles, 1)
    assert tuple(figure.data[2].y) == (2.0, 7.0, 12.0)
    assert tuple(figure.data[0].y) == (4.0, 9.0, 14.0, 10.0, 5.0, 0.0)


def test_history_puts_phases_end_to_end(tmp_path):
    snapshots = [Snapshot("dense", 5, loss=1.0), Snapshot("dense", 10, loss=0.5), Snapshot("penalty", 4, loss=0.7)]
    assert figures.phase_starts(snapshots) == {"dense": 0, "penalty": 10}
    assert list(figures.history(snapshots, "accuracy").data[0].x) == [5, 10, 14]
    run = Run(make_run(tmp_path))
    assert figures.history(run.snapshots, run.metric).data[3].y[-1] == pytest.approx(0.885)


def test_long_curves_are_means_within_a_phase():
    points = [(step, float(step % 2), "dense" if step < 600 else "penalty") for step in range(1000)]
    thinned = figures._thinned(points, most=100)
    assert len(thinned) == 100
    assert all(value == 0.5 for _, value, _ in thinned)
    assert thinned[-1][0] == 999 and thinned[59][2] == "dense" and thinned[60][2] == "penalty"
    assert figures._thinned(points[:100], most=100) == points[:100]


def test_figures_load_neither_torch_nor_transformers():
    code = ("import sys, prune_core.showing.figures; "
            "sys.exit(bool({'torch', 'transformers', 'streamlit'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
