"""Presenting: the price, what a report over all runs says, a page before a room, what is copied of it."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
import tiny
from commands import prune_core
from sample_run import make_layout, make_profile, make_run
from test_pages import checked, opened, runs_dir, texts  # noqa: F401
from test_slides import DAY, found, runs  # noqa: F401

from pages.shared import copying, loaders, present
from prune_core import InputError
from prune_core.evaluation import findings, speedup
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch
from prune_core.runs.run import Run
from prune_core.runs.settings import results
from prune_core.showing import figures
from prune_core.showing.report import contents, write
from prune_core.showing.report.finding import Price, Request

COMMAND = re.compile(r"prune_core|python -m|prunescope [a-z]|--[a-z]|\{\"")


@pytest.mark.parametrize(("text", "amount", "currency"), [
    ("0.40 EUR", 0.4, "EUR"), ("$0.4 per hour", 0.4, "$"), ("0,40 €", 0.4, "€"), ("CHF 3/h", 3.0, "CHF")])
def test_a_price_is_read_as_people_type_it(text, amount, currency):
    assert Price.parse(text) == Price(amount, currency) and Price.parse(" ") is None


@pytest.mark.parametrize("text", ["0.40", "EUR", "$0.4 EUR", "-1 EUR", "1,000 EUR", "0 EUR", "1e9 EUR", "9999999 EUR"])
def test_a_price_that_cannot_be_read_is_told_in_one_line(text):
    with pytest.raises(InputError, match="price") as told:
        Request(price=text)
    assert "\n" not in str(told.value)


def test_money_stands_only_where_a_price_and_a_measured_speed_are(runs):  # noqa: F811
    _, some = found(runs)
    dense, compact = 100 / 32 / 3.6, 100 / 2.9 / 32 / 3.6
    told = contents.costs(some[0], "2 EUR")
    assert f"{2 * compact:.2f} EUR instead of {2 * dense:.2f} EUR" in told and "measured" in told
    assert "EUR" not in contents.costs(some[0], "") and "min" in contents.costs(some[0], "")


def test_a_report_over_all_runs_says_why_the_runner_up_and_no_command(runs):  # noqa: F811
    of, some = found(runs)
    for form in (write.html, write.markdown):
        text = form(some[0].run, some, Request(), DAY, of=of)
        text = text.split("<script")[0].split("<template")[0].partition("</style>")[2] or text.replace("\\", "")
        assert "all 2 results of 2 runs" in text and "Runner-up: B, run larger, 2x by group-lasso" in text
        assert "53% more time, 0.2 points lower" in text and "ship with care" in text.lower()
        assert not COMMAND.search(text), COMMAND.search(text)
        assert "What is lost" not in text  # not known: left out
    shown = write.html(some[0].run, some, Request(audience="technical"), DAY, of=of)
    assert "report REPORT.html --task" in shown


def test_several_runs_are_timed_in_one_sitting_and_reported_by_the_command(tiny_model, tiny_data, tmp_path):
    first = tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path / "runs", "first")
    made = tiny.make_run(tiny.settings(tiny_model, tiny_data, seed=1), tmp_path / "runs", "second")
    pairs = [(run, results(run)[0]) for run in (first, made)]
    told = speedup.measure_in_turn(pairs, Batch(4, 16), rivals="none")
    assert [one["run"] for one in told] == ["first", "second"]
    assert told[0]["dense_ms"] == told[1]["dense_ms"], "one dense model for both"
    assert all(one["speedup"] == pytest.approx(one["dense_ms"] / one["compact_ms"]) for one in told)
    known = findings.across(pairs, measured=False)
    assert [one.run.name for one in known] == ["first", "second"] and all(one.flips for one in known)
    done = prune_core("report", tmp_path / "out", f"--runs-dir={tmp_path / 'runs'}", "--task=nothing", "--json")
    assert done.returncode == 2 and "has no results here; needed: --task with one of" in done.stderr
    done = prune_core("report", tmp_path / "out", f"--runs-dir={tmp_path / 'runs'}", f"--task={_subject(first)}",
                      "--to=all", "--no-measure", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["results"] >= 2 and said["verdict"] in ("ship", "ship with care", "do not ship")
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out-slides.html", "out.html", "out.md", "out.pptx"]


def _subject(run: Run) -> str:
    from prune_core.runs import best

    return best.subject(run)


@pytest.mark.parametrize(("share", "words"), [
    (0.0, "before anything is cut"), (0.762, "when three quarters of the encoder are cut"),
    (0.5, "when half of the encoder is cut"), (0.62, "when 62% of the encoder are cut"),
    (1 / 3, "when a third of the encoder is cut")])
def test_a_cut_is_said_in_words(share, words):
    assert present.cut_words(share) == words


@pytest.mark.parametrize("page", ["explore", "compare", "speed"])
def test_a_presented_page_has_a_title_in_words_and_a_way_out(runs_dir, page):  # noqa: F811
    make_run(runs_dir, layout=make_layout(2, 64, 128))
    profile_files.write(make_profile(), loaders.own_profile_file())
    app = checked(opened(page, present="true"))
    title = app.title[0].value
    assert len(app.title) == 1 and "sample" not in title and ("cut" in title or "saved" in title)
    assert not COMMAND.search(texts(app)) and not app.dataframe
    end = next(button for button in app.button if button.label == "End presentation")
    labels = [button.label for button in checked(end.click().run()).button]
    assert "End presentation" not in labels and app.title[0].value != title


def test_tables_and_charts_are_copied_as_the_page_calls_them():
    table = pd.DataFrame({"a": [1.23456, None], "b|c": ["x<y", 12345.6]})
    text = copying.markdown(table, {"a": {"label": "Score"}})
    assert text.splitlines() == ["| Score | b\\|c |", "| --- | --- |", "| 1.235 | x&lt;y |", "| – | 12,346 |"]
    figure = figures.speedup_curve({"predicted": [(1.0, 0.9), (2.0, 1.8)]})
    lines = copying.numbers(figure).splitlines()
    assert "| predicted | 1.0 | 0.9 |".replace("1.0", "1") in lines or "| predicted | 1 | 0.9 |" in lines
