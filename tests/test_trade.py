"""The picture of the trade: which settings it holds, which are best, what a dot says, and what a click opens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
from sample_run import make_run
from test_pages import checked, opened, runs_dir, texts  # noqa: F401  a fixture and what reads a page

from pages.explore import trade as page
from prune_core.cutting.cuts import Cut
from prune_core.precision import formats
from prune_core.precision.storage import storage
from prune_core.runs import shelf
from prune_core.runs import tried as kept
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.runs.tried import Tried
from prune_core.showing import trade


def setting(run: Run, share: float, score: float, text: str = "", stage: str = "dense", **more) -> Tried:
    """As an exact score of this cut is kept."""
    cut = Cut("global", share, formats=text)
    mask = cut.mask(run.norms(run.saved(stage)), run.layout)
    stored = storage(mask, formats.parse(text, run.layout))
    said = cut.to_json() | {"by": "norm", "repaired": False, "formats": text}
    return Tried(said, score, score - 0.02, score + 0.02, 872, stored.bytes, stored.encoder.stored, mask.sparsity,
                 **more)


@pytest.fixture
def run(tmp_path) -> Run:
    """A run on which seven settings were tried, three of them by a search."""
    made = Run(make_run(tmp_path / "runs", "tried"))
    each = ",".join(["8", "4"] * (len(made.layout.matrices) // 2))
    for one in (setting(made, 0.0, 0.9), setting(made, 0.5, 0.85), setting(made, 0.5, 0.84, "8", ms=12.0),
                setting(made, 0.0, 0.88, "4/2:4", ms=11.0),
                setting(made, 0.0, 0.895, "8", search="at 8x", step=0),
                setting(made, 0.0, 0.89, f"matrix:{each}", search="at 8x", step=1),
                setting(made, 0.0, 0.86, "4", search="at 8x", step=2)):
        kept.keep(made, "dense", one)
    return Run(made.path)


def test_every_setting_is_a_point_of_its_kind(run):
    given = trade.points(run)
    kinds = {point.words(run.layout): point.kind(run.layout) for point in given}
    assert kinds == {
        "dense, 0.0% zero": "blocks", "dense, 50.0% zero": "blocks", "dense, 50.0% zero, 8 bits": "bits",
        "dense, 0.0% zero, 4 bits, 2:4": "pattern", "dense, 0.0% zero, 8 bits": "bits",
        "dense, 0.0% zero, a format for each matrix": "mixture", "dense, 0.0% zero, 4 bits": "bits"}
    assert [point.tried.bytes for point in given] == sorted(point.tried.bytes for point in given)
    assert trade.points(run, ["retrain-2x"]) == []


def test_the_line_holds_what_no_other_beats_in_both(run):
    given = trade.points(run)
    line = trade.front(given)
    for point in given:
        beaten = any(other.tried.bytes <= point.tried.bytes and other.tried.score > point.tried.score
                     or other.tried.bytes < point.tried.bytes and other.tried.score >= point.tried.score
                     for other in given)
        assert (point in line) == (not beaten)
    assert [point.tried.ms for point in trade.front(given, "ms")] == [11.0]
    assert [point.tried.step for point in trade.searches(given)["at 8x"]] == [0, 1, 2]


def test_the_picture_holds_the_dots_the_path_and_the_dense_model(run):
    given, dense = trade.points(run), trade.dense_of(run)
    assert (dense.score, dense.low, dense.high) == (run.dense_score, *(pytest.approx(run.dense_score + d)
                                                                      for d in (-0.02, 0.02)))
    assert dense.bytes == 4 * run.layout.model_weights
    here = replace(given[0], exact=False)
    drawn = trade.figure(given, run.layout, run.metric, "encoder_bytes", dense, here)
    traces = {trace.name: trace for trace in drawn.data}
    assert {"dense, 95% interval", "dense, fp32", "best for their size", "at 8x", "in view, predicted",
            "blocks alone, fp32", "fewer bits", "N:M pattern", "a format for each part"} == set(traces)
    dots = [dot for trace in drawn.data if trace.customdata is not None for dot in trace.customdata]
    assert sorted(dot[0] for dot in dots) == list(range(len(given)))
    for at, words, told in dots:
        assert words == given[at].words(run.layout) and f"{given[at].tried.low:.3f}" in told
    path = traces["at 8x"]
    assert list(path.y) == [0.895, 0.89, 0.86]
    assert list(path.x) == [point.tried.encoder_bytes / 1e6 for point in trade.searches(given)["at 8x"]]
    shown = trade.figure(given, run.layout, run.metric, "ms", dense)
    assert sum(len(trace.x) for trace in shown.data if trace.customdata is not None) == 2


def test_what_scores_at_random_does_not_flatten_the_rest(run):
    kept.keep(run, "dense", setting(run, 0.9, 0.5))
    drawn = trade.figure(trade.points(run), run.layout, run.metric, "bytes", trade.dense_of(run))
    assert drawn.layout.yaxis.range[0] > 0.7
    assert "1 setting lies below" in drawn.layout.annotations[0].text


def test_rows_say_the_same_as_the_dots(run):
    given, dense = trade.points(run), trade.dense_of(run)
    for point, row in zip(given, trade.rows(given, run.layout, dense), strict=True):
        assert row["on_line"] == (point in trade.front(given)) and row["score"] == point.tried.score
        assert row["fewer_bytes"] == pytest.approx(4 * run.layout.model_weights / point.tried.bytes)
        assert row["points_lost"] == pytest.approx(100 * (dense.score - point.tried.score))


def test_stages_as_the_run_scored_them_are_points_too():
    run = shelf.find("sst2-minilm-64x1-surgeon")
    for row in run.points:
        stage = Stage.of("retrain", row["compression"])
        end = trade.end_of(run, stage)
        assert (end.score, end.bytes, end.sparsity) == (row["score_retrained"], row["bytes"], row["sparsity"])
        assert end.low < end.score < end.high
        assert any(point.stage == stage and point.tried.bytes == end.bytes for point in trade.points(run))
    assert trade.dense_of(shelf.find("sst2-minilm-64x1")).low is not None


@pytest.mark.parametrize("more", [{"bits": "4", "pattern": "2:4"}, {"bits": "8"}])
def test_stages_trained_in_formats_are_points_too(tiny_model, tiny_data, tmp_path, more):
    """A surface counts blocks alone, a stage its pattern as well; a penalty stage is cut between two points."""
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data, surface_examples=1000, **more), tmp_path, "few")
    shown = {point.stage: point.tried for point in trade.points(run)}
    assert {"penalty-1.5x", "penalty-3x", "retrain-1.5x", "retrain-3x"} <= shown.keys()
    for stage in run.stages:
        snapshot, end = run.snapshots[run.saved(stage)], trade.end_of(run, stage)
        assert (end.score, end.sparsity) == (snapshot.scores[run.metric], snapshot.point["sparsity"])
        assert end.low < end.score < end.high <= 1 and end.cut["formats"] == run.trained_formats(stage)
    fewer = tiny.make_run(tiny.settings(tiny_model, tiny_data, surface_examples=12, bits="8"), tmp_path, "fewer")
    between = next(one for one in fewer.stages if one == "penalty-3x")
    assert trade.end_of(fewer, between) is None  # its surface is of fewer sentences


def test_damaged_or_foreign_settings_are_left_out_or_plain(run):
    kept.keep(run, "dense", replace(setting(run, 0.0, 0.5), cut={"scope": "global", "formats": "9 bits"}))
    kept.keep(run, "dense", replace(setting(run, 0.0, 0.4), cut="nonsense"))
    given = trade.points(run)
    assert len(given) == 8
    odd = next(point for point in given if point.tried.score == 0.5)
    assert odd.kind(run.layout) == "blocks" and page.cut_of(run, odd.tried) is None
    assert trade.figure(given, run.layout, run.metric).data


def test_a_setting_is_opened_with_all_that_it_has(run):
    one = setting(run, 0.5, 0.8, "8;a8")
    one = replace(one, cut=dict(one.cut) | {"by": "surgeon", "repaired": True})
    cut = page.cut_of(run, one)
    assert (cut.share, cut.ranking, cut.repaired, cut.formats) == (0.5, "surgeon", True, "8;a8")


def test_explore_shows_the_trade_and_says_what_to_do_before(runs_dir):  # noqa: F811
    made = Run(make_run(runs_dir, "tried"))
    app = opened("explore", run="tried", at="dense", view="Trade")
    assert "Drag the threshold" in texts(app) and not app.get("plotly_chart")
    for text, score in (("", 0.85), ("4/2:4", 0.8)):
        kept.keep(made, "dense", setting(made, 0.5, score, text))
    app = opened("explore", run="tried", at="dense", view="Trade")
    assert len(app.get("plotly_chart")) == 1 and len(app.dataframe) == 1
    table = app.dataframe[0].value
    assert table["score"].tolist() == [0.8, 0.85] and table["line"].tolist() == ["★", "★"]
    app.segmented_control(key="trade stages").set_value("in view").run()
    app.segmented_control(key="trade axis").set_value("ms").run()
    assert "save bytes and no time. For 2 of 2 none was predicted" in texts(checked(app))


def test_a_click_on_a_dot_or_a_row_sends_the_setting_to_the_map(run, monkeypatch):
    given, sent, state = trade.points(run), [], {}
    monkeypatch.setattr(page.st, "session_state", state)
    monkeypatch.setattr(page, "send", lambda cut, moment: sent.append((cut, moment)))
    state |= {"dots": {"selection": {"points": [{"curve_number": 0}, {"customdata": [2, "words", ""]}]}},
              "rows": {"selection": {"rows": [0], "columns": []}}, "none": {"selection": {"points": []}}}
    for key in ("dots", "rows", "none"):
        page.chosen(run, given, key)
    assert [cut for cut, _ in sent] == [page.cut_of(run, given[at].tried) for at in (2, 0)]
    assert {moment for _, moment in sent} == {run.with_norms.index(run.saved("dense"))}
    assert state["trade opened"] == 2 and state["repair"] is False
