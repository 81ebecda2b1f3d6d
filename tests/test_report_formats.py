"""Reports of settings in fewer bits: what is told of them, which is recommended, and how to get one again."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from sample_run import make_layout, make_run
from test_report import DAY, finding

from prune_core.precision import formats
from prune_core.precision.storage import storage
from prune_core.runs.run import Run
from prune_core.showing.report import chart, recommend, write
from prune_core.showing.report.finding import Finding, Request


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run of MiniLM's size, without weights."""
    return Run(make_run(tmp_path_factory.mktemp("runs"), "sample", layout=make_layout(6, 384, 1536, "64x1")))


def in_formats(run: Run, one: Finding, text: str, **more) -> Finding:
    """The same with these formats."""
    cut = replace(one.setting.cut, formats=text, **more)
    stored = storage(one.mask, formats.parse(text, run.layout))
    return replace(one, setting=replace(one.setting, cut=cut), bytes=stored.bytes)


@pytest.fixture(scope="module")
def some(run) -> list[Finding]:
    """Half of the blocks in fp32, in 8 bits and in 4 bits with a pattern; the last loses too much."""
    half = [finding(run, 0.5, score, speed) for score, speed in ((0.896, 2.0), (0.895, 1.98), (0.87, 2.0))]
    return [in_formats(run, half[0], ""), in_formats(run, half[1], "8", repaired=True),
            in_formats(run, half[2], "4/2:4")]


def test_the_fewest_bytes_of_those_as_fast_are_recommended(some):
    at, rule = recommend.recommended(0.9, some, 0.01)
    assert at == 1 and "the fewest bytes of those at most 5% slower than the fastest. 2 of 3 meet this" in rule
    slower = [some[0], replace(some[1], speed=replace(some[1].speed, value=1.5))]
    assert recommend.recommended(0.9, slower, 0.01)[0] == 0
    unknown = [replace(one, speed=None) for one in some]
    assert recommend.recommended(0.9, unknown, 0.05)[0] == 2
    assert "the fewest bytes (not all have a speedup)" in recommend.recommended(0.9, unknown, 0.05)[1]
    assert "Ship B with care: 50.0% of the encoder cut, 8 bits, 0.5 points lost" in recommend.advice(
        0.9, 0.5, some[1], "B", 0.01)[0]


def test_both_forms_tell_formats_bytes_and_what_they_do_not_save(run, some):
    stored = [storage(one.mask, formats.parse(one.setting.cut.formats, run.layout)) for one in some]
    page, text = (made(run, some, Request(audience="technical"), DAY) for made in (write.html, write.markdown))
    for told in (page, text):
        assert "8 bits, rounded after training" in told and "then repaired" in told
        assert "4 bits, 2:4, rounded after training" in told and "trained in them" not in told
        assert "save bytes, not time" in told
        for one in stored:
            assert f"{one.bytes / 1e6:.1f}" in told and f"{one.without_index / 1e6:.1f}" in told
            assert f"{one.encoder.dense / one.encoder.stored:.2f}x" in told
    for one in (page, text):
        plain = one.replace("&#39;", "'")
        assert "--bits=8 --repair" in plain and "--bits=4 --pattern=2:4" in plain


def test_the_chart_is_over_bytes_where_bits_are_in_play(run, some):
    drawn = chart.places(run, some, 1)
    assert drawn["axis"] == "times fewer bytes of the encoder than in fp32" and not drawn["line"]
    at = {mark["letter"]: mark["x"] for mark in drawn["marks"]}
    assert at["A"] < at["B"] < at["C"]
    assert chart.places(run, some[:1], 0)["axis"] == "encoder compression"


def test_a_report_without_formats_says_nothing_of_them(run):
    for made in (write.html, write.markdown):
        told = made(run, [finding(run, 0.5, 0.895, 2.0)], Request(audience="technical"), DAY).partition("<template")[0]
        assert "--bits" not in told and "Formats" not in told and "without index" not in told.lower()


def test_weights_that_were_trained_in_their_formats_are_told_apart(run, some, monkeypatch):
    monkeypatch.setattr(Run, "trained_formats", lambda self, stage: "8")
    told = write.markdown(run, some, Request(audience="technical"), DAY)
    assert "8 bits, trained in them" in told and "4 bits, 2:4, rounded after training" in told
    assert "--bits=32" in told  # fp32 does not go without saying there


@pytest.mark.parametrize("text", ["", "8", "4/2:4", "2:4", "ternary", "clusters-4", "8;a8", "8;a8-tensor;e8", ";e8",
                                  "layer:8,4/2:4", "matrix:8,16;a8;e8"])
def test_options_say_the_same_formats(text):
    given = formats.parse(text) if not text.startswith(";") else formats.parse("32" + text)
    said = dict(option.removeprefix("--").split("=") for option in formats.as_options(str(given)))
    again = formats.chosen(said.get("bits"), said.get("pattern"),
                           int(said["activation-bits"]) if "activation-bits" in said else None,
                           int(said["embedding-bits"]) if "embedding-bits" in said else None)
    assert str(again) == str(given) and shlex.split(shlex.join(formats.as_options(str(given))))
