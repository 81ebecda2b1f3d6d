"""The short forms of `python -m tests.stress`, and properties that must hold for any input (hypothesis)."""

from __future__ import annotations

import json
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_run import make_layout, make_run

from prune_core import InputError, files
from prune_core.cutting import cuts
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.cuts import Cut
from prune_core.latency.profile import Profile
from prune_core.runs import places, shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run
from prune_core.runs.settings import from_json
from prune_core.showing.report import write
from prune_core.tasks import table_files
from prune_core.tasks.table_files import SUFFIXES

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = make_layout()
ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
quickly = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("what", ["faults", "load", "load --page Learn", "memory", "input"])
def test_the_short_form_holds(what):
    done = subprocess.run([sys.executable, "-m", "tests.stress", *what.split(), "--short", "--json"], cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=3000)
    rows = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else []
    wrong = [f"{row['what']}: {row['figure']:g} {row['unit']}; {row.get('needed', '')}"
             for row in rows if not row["ok"]]
    if not rows or done.returncode:
        pytest.fail("\n".join([*wrong, done.stderr[-3000:]]), pytrace=False)


def fine(call) -> None:
    """It is read, or refused in one line."""
    try:
        call()
    except InputError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 600


@given(st.text())
@quickly
def test_any_text_is_a_cut_of_this_layout_or_none(text):
    cut = cuts.parse(text, LAYOUT)
    assert cut is None or cuts.parse(cut.text(LAYOUT), LAYOUT) is not None


@given(st.sampled_from(["global", "layer", "type", "matrix"]), st.floats(0, 0.999, allow_subnormal=False))
@quickly
def test_a_share_survives_the_address(scope, share):
    cut = cuts.parse(Cut(scope, share).text(LAYOUT), LAYOUT)
    assert cut.scope == scope and cut.share == pytest.approx(share, rel=1e-9, abs=1e-300)


@given(ANYTHING)
@quickly
def test_anything_a_browser_says_is_a_cut_or_none(said):
    cuts.from_json(said, LAYOUT)


@given(st.text() | st.from_regex(r"[0-9a-z]{0,6}x[0-9a-z]{0,6}", fullmatch=True))
@quickly
def test_any_text_is_a_block_shape_or_told(text):
    fine(lambda: BlockShape.parse(text).grid(64, 128))


@given(st.dictionaries(st.sampled_from([*PruneConfig().to_json(), "x"]), ANYTHING))
@quickly
def test_any_settings_are_read_or_told(data):
    fine(lambda: PruneConfig.from_json(data))


@given(ANYTHING)
@quickly
def test_any_profile_is_read_or_told(data):
    fine(lambda: Profile.from_json(data))


@given(st.text() | ANYTHING.map(lambda one: json.dumps(one)))
@quickly
def test_any_settings_of_a_report_are_read_or_told(whole_run, text):
    fine(lambda: from_json(text, whole_run))


@given(st.binary(max_size=400) | st.text(alphabet=string.printable, max_size=400).map(str.encode),
       st.sampled_from(SUFFIXES))
@quickly
def test_any_table_is_read_or_told(content, suffix):
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(content)
        file.flush()
        fine(lambda: table_files.read(file.name))


@given(st.lists(ANYTHING, max_size=4), st.binary(max_size=60))
@quickly
def test_any_lines_of_progress_are_read_or_told(whole_run, lines, torn):
    """Sealed as ours are, whatever they say; and bytes between them."""
    path = whole_run.path / "progress.jsonl"
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"".join(files.sealed(line) for line in lines) + torn)
        run = Run(whole_run.path)
        fine(lambda: (run.snapshots, run.points, run.warnings, run.dense_score, run.with_norms))
        with mock.patch.object(places, "RECORDED", path.parent):  # where no runs lie
            assert [run.name for run in shelf.listing(path.parent.parent) if run.run and run.name == "beside"]
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder, "beside")
    return Run(make_run(folder, "whole"))


@given(st.text(min_size=1))
@quickly
def test_what_stands_in_a_markdown_cell_stays_text(text):
    cell = write._cell(text)
    assert not {"<", ">", "\n"} & set(cell)
    assert not cell.replace("\\\\", "").replace("\\|", "").count("|")
