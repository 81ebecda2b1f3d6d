"""Explore with number formats: links, pins, words, the table of parts; in the page alone and in a real browser."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date

import pytest
from sample_run import make_layout, make_profile, make_run
from test_pages import checked, opened, sent, texts

from prune_core import files, machine
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.latency import executed, profile_files
from prune_core.latency.profile import Batch
from prune_core.precision.formats import parse
from prune_core.precision.storage import kept_weights, storage
from prune_core.runs import places
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.showing import canvas
from prune_core.showing.report import write
from prune_core.showing.report.finding import Finding, ReportedScore, Request


@pytest.fixture
def runs_dir(tmp_path, monkeypatch):
    """An empty runs folder that the app uses, with no shipped runs beside it."""
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(places, "RECORDED", tmp_path / "recorded")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(profile_files, "shipped", list)
    return tmp_path / "runs"


def counted(run: Run, share: float, text: str) -> tuple[str, float]:
    """(the encoder's bytes as the page says them, the share of zero weights) of a cut of the dense stage."""
    mask, formats = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, share), parse(text, run.layout)
    kept = sum(kept_weights(m, mask, formats.of(run.layout)[m.name])[0] for m in run.layout.matrices)
    stored = storage(mask, formats, run.embeddings).encoder.stored
    return f"{stored / 1e3:.1f} kB" if stored < 1e6 else f"{stored / 1e6:.1f} MB", 1 - kept / run.layout.encoder_weights


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize("text", ["8", "4/2:4;a8", "layer:8,4", "2:4", "ternary;a8-tensor"])
def test_a_link_says_the_formats_and_the_page_counts_them(runs_dir, text):
    run = Run(make_run(runs_dir))
    app = opened("explore", at="dense", cut="global@0.5", formats=text, pin="dense~global@0.3~f=4")
    said, zero = counted(run, 0.5, text)
    assert f"take {said} of" in texts(app) and f"at dense, sparsity {zero:.1%}" in texts(app)
    start = sent(app)["start"]
    assert start["cut"]["formats"] == text == str(parse(text))
    (pin,) = start["pins"]
    bytes_, share = counted(run, 0.3, "4")
    assert pin["cut"]["formats"] == "4" and pin["numbers"]["sparsity"] == pytest.approx(share)
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.3)
    assert pin["numbers"]["encoderBytes"] == storage(mask, parse("4")).encoder.stored
    assert pin["numbers"]["bytes"] == storage(mask, parse("4")).bytes and pin["numbers"]["score"] is None


def test_without_formats_nothing_is_said_of_them(runs_dir):
    make_run(runs_dir)
    app = opened("explore", at="dense", cut="global@0.5", formats="32")
    assert sent(app)["start"]["cut"]["formats"] == "" and "Stored: the prunable matrices" in texts(app)
    assert "read back as floats" not in texts(app) and "Repair moves" not in texts(app)


@pytest.mark.parametrize("text, said", [
    ("7.5", "bits '7.5' are none that weights can have"), ("layer:8,8,8", "3 formats for 2 of scope 'layer'"),
    ("8;a9", "is none of a8"), ("2:5", "not divisible into groups of 5"),
    ("<b>x</b>", "are none that weights can have")])
def test_formats_in_a_link_that_do_not_fit_are_said_in_a_line(runs_dir, text, said):
    make_run(runs_dir)
    app = opened("explore", at="dense", cut="global@0.5", formats=text)
    assert "number formats are not shown" in texts(app) and said in texts(app)
    assert sent(app)["start"]["cut"]["formats"] == "" and sent(app)["start"]["cut"]["share"] == 0.5


def test_embeddings_of_unknown_size_are_not_stored_in_8_bits(runs_dir, monkeypatch):
    make_run(runs_dir)
    monkeypatch.setattr(Run, "embeddings", None)
    app = opened("explore", at="dense", cut="global@0.5", formats="8;e8")
    assert "whose size is not known here" in texts(app) and sent(app)["start"]["cut"]["formats"] == ""
    assert sent(app)["bytes"]["embeddings"] is None


@pytest.mark.parametrize("pin", ["dense~global@0.3~f=7.5", "dense~global@0.3~f=layer:8"])
def test_a_pin_with_wrong_formats_is_left_out(runs_dir, pin):
    make_run(runs_dir)
    assert sent(opened("explore", at="dense", pin=pin))["start"]["pins"] == []


def test_patterns_that_do_not_fit_the_blocks_say_why(runs_dir):
    make_run(runs_dir, layout=make_layout(2, 64, 128, "1x3" if 64 % 3 == 0 else "1x2"))
    patterns = sent(opened("explore", at="dense"))["patterns"]
    assert list(patterns) == list(canvas.PATTERNS) and patterns["2:4"] == ""
    assert "contradict each other" in patterns["1:4"]


def test_speedups_are_of_what_executes_the_formats(runs_dir):
    run = Run(make_run(runs_dir))
    profile = make_profile()
    profile = replace(profile, paths={name: replace(path, slower=False) for name, path in profile.paths.items()})
    files.cache_folder().mkdir(parents=True)
    profile_files.write(profile, profile_files.own_file(machine.machine(), os.cpu_count() or 1))
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.5)
    for text, words in (("8", "read back as floats"), ("8;a8", "executes the stored integers"), ("2:4", "not time")):
        said = texts(opened("explore", at="dense", cut="global@0.5", formats=text))
        taken = executed.path_of(profile, parse(text), "auto", mask, Batch(32, 128), run.heads)
        assert words in said and f"for {taken.dtype}, the fastest there" in said


def test_the_table_of_parts_has_bits_and_bytes(runs_dir):
    run = Run(make_run(runs_dir))
    app = opened("explore", at="dense", cut="global@0.5", formats="layer:8,4/2:4", view="Layers and matrices")
    (table,) = [frame.value for frame in app.dataframe if "Bits" in frame.value]
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.5)
    matrices = storage(mask, parse("layer:8,4/2:4")).matrices
    assert list(table["Bits"]) == ["8", "4/2:4"]
    assert list(table["MB"]) == pytest.approx([sum(matrices[m.name].stored for m in run.layout.matrices
                                                   if m.layer == layer) / 1e6 for layer in (0, 1)])


def test_a_report_has_the_formats_in_its_map(tmp_path):
    run = Run(make_run(tmp_path))
    setting = Setting("one", run.saved("dense"), Cut("global", 0.5, formats="8/2:4"))
    score = ReportedScore(0.8, 0.7, 0.9, 100, True)
    finding = Finding(setting, setting.mask(run), score, None, None, "no weights")
    page = write.html(run, [finding], Request(), date(2026, 1, 1))
    assert '"formats":"8/2:4"' in page and "function storageOf" in page and "class Bits" in page


# ---------------------------------------------------------------- repair by itself


def says(app, cut: dict, **more):
    """The page run again, as when the map has said that this is cut."""
    cut = {"scope": "global", "share": None, "thresholds": {"all": 0.4}} | cut
    said = {"run": "sample", "cut": cut, "number": 1} | more
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pages.explore.live_map.said", lambda: said)
        return checked(app.run())


@pytest.fixture
def weighty(runs_dir, monkeypatch) -> Run:
    """A run whose stages have weights, as far as it is asked."""
    monkeypatch.setattr(Run, "has_weights", lambda run, stage: True)
    return Run(make_run(runs_dir))


def switch(app):
    return next(one for one in app.toggle if one.key == "repair")


def test_the_first_bits_that_are_chosen_switch_repair_on(weighty):
    app = says(opened("explore", at="dense", cut="global@0.5"), {"formats": ""})
    assert not switch(app).value
    app = says(app, {"formats": "4"})
    assert switch(app).value and "Repair was switched on: it makes up for rounding" in texts(app)
    assert sent(app)["repaired"] is True
    switch(app).set_value(False)
    app = says(app, {"formats": "4"})
    assert not switch(app).value and "Rounded as it stands" in texts(app)
    app = says(says(app, {"formats": ""}), {"formats": "8"})
    assert not switch(app).value and "Repair was switched on" not in texts(app)


def test_repair_stays_as_a_hand_has_set_it(weighty):
    app = opened("explore", at="dense", cut="global@0.5")
    for value in (True, False):
        app = checked(switch(app).set_value(value).run())
    assert not switch(says(app, {"formats": "4"})).value


def test_repair_stays_as_the_link_says(weighty):
    app = opened("explore", at="dense", cut="global@0.5", formats="8")
    assert not switch(app).value and "Rounded as it stands" in texts(app)
    assert not switch(says(app, {"formats": "4"})).value


def test_what_was_trained_in_its_bits_is_not_repaired(weighty, monkeypatch):
    monkeypatch.setattr(Run, "trained_formats", lambda run, stage: "8" if stage.startswith("retrain") else "")
    app = opened("explore", at="retrain-2x")
    assert sent(app)["start"]["cut"]["formats"] == "8" and not switch(app).value
    at = Run(weighty.path)
    moment = at.with_norms.index(at.saved("retrain-2x"))
    app = says(app, {"formats": "8"}, moment=moment)
    assert "retrain-2x, sparsity" in texts(app) and not switch(app).value
    assert switch(says(app, {"formats": "4"}, moment=moment)).value
