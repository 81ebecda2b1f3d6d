"""PRUNESCOPE_READ_ONLY: nothing is started, changed or deleted, by a page or by a command; what is shown stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny
from commands import prune_core
from sample_run import make_profile, make_run
from streamlit.testing.v1 import AppTest

from prune_core import files, machine
from prune_core.latency import profile_files
from prune_core.runs import places

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("app.py", *sorted(f"pages/{path.name}" for path in (ROOT / "pages").glob("*.py")))
STARTS = ("Start", "Resume", "Cancel", "Delete", "Measure", "Calibrate", "Undo", "Put back", "Move")


@pytest.fixture
def shown(tmp_path, monkeypatch) -> Path:
    """A runs folder with a complete and an interrupted run, and an app that only shows."""
    make_run(tmp_path / "runs", "done")
    make_run(tmp_path / "runs", "begun", finish=False, upto=9)
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("PRUNESCOPE_READ_ONLY", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "RECORDED", tmp_path / "recorded")
    profile_files.write(make_profile(), profile_files.own_file(machine.machine(), os.cpu_count() or 1))
    return tmp_path / "runs"


def state(folder: Path) -> dict[str, tuple]:
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("run", ["done", "begun"])
def test_no_page_offers_to_start_change_or_delete(shown, page, run):
    before = state(shown)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    app.query_params["run"] = run
    app.session_state["drawn"] = True
    app.run()
    if page != "app.py":
        app.switch_page(page).run()
    assert not app.exception, [one.value for one in app.exception]
    assert not [b.label for b in app.button if b.label.startswith(STARTS)] and not app.get("file_uploader")
    assert not [one for one in app.text_input if one.key == "data"]  # no path of this machine is asked for
    assert any("Read only" in one.value for one in app.caption)
    assert state(shown) == before


@pytest.mark.parametrize("command", [
    ["prune"], ["resume", "begun"], ["delete", "done", "--yes"], ["restore"], ["surface", "done"], ["score", "done"],
    ["sensitivity", "done"], ["search", "done", "--ratio", "8"],
    ["compare", "--task", "rte"], ["sweep", "--seeds", "1"], ["calibrate"], ["pack", "done", "--to", "x"]])
def test_commands_that_change_refuse_in_one_line(shown, command):
    before = state(shown)
    done = prune_core(*command)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "PRUNESCOPE_READ_ONLY" in done.stderr
    assert state(shown) == before


def test_scores_are_computed_but_not_kept(tiny_model, tiny_data, tmp_path, monkeypatch):
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path / "runs", "scored")
    ask = ["evaluate", "scored", "--sparsity=0.37", "--phase=dense", "--json", f"--runs-dir={tmp_path / 'runs'}"]
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(tmp_path / "runs"))
    before = state(run.path)
    said = []
    for value in ("1", ""):
        monkeypatch.setenv("PRUNESCOPE_READ_ONLY", value)
        said.append(json.loads(prune_core(*ask).stdout))
        assert (state(run.path) == before) is bool(value)
    assert said[0]["score"] == said[1]["score"]


def test_a_protected_folder_takes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_protected", set())
    files.protect([tmp_path / "runs"])
    for write in (lambda path: files.write_whole(path, b""), lambda path: files.append_sealed(path, {})):
        with pytest.raises(OSError, match="read-only mode"):
            write(tmp_path / "runs" / "a" / "file")
        write(tmp_path / "elsewhere")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    with pytest.raises(OSError, match="read-only mode"):
        files.write_whole(tmp_path / "link" / "file", b"")
