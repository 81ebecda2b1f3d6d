"""The index of runs: it lists what the folders hold, reads only what changed, and is made anew when it is damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from sample_run import make_run

from prune_core import files
from prune_core.cutting.masks import mask_at
from prune_core.runs import index, shelf
from prune_core.runs.index import Index
from prune_core.runs.shelf import Listed

LISTED = ("name", "task", "metric", "data", "created", "config", "layout", "heads", "labels", "is_practice", "is_own",
          "recorded", "status", "result", "dense_score", "points", "stages", "with_norms", "warnings",
          "majority_score", "embeddings")


@pytest.fixture
def runs(tmp_path, none_recorded) -> Path:
    """Complete, interrupted, without norms, and no run at all; one that ships."""
    folder = tmp_path / "runs"
    make_run(folder, "whole")
    make_run(folder, "begun", finish=False, upto=9)
    make_run(folder, "empty", finish=False, upto=0)
    make_run(none_recorded, "shipped", compression=3.0)
    (folder / "nothing").mkdir()
    for path in folder.glob("*/*.json*"):  # quiet for longer than a minute
        os.utime(path, (1e9, 1e9))
    return folder


def told(listed: list[Listed]) -> list[tuple]:
    """All that lists show."""
    return [(one.name, one.path, one.status, one.reason, one.run and [getattr(one.run, name) for name in LISTED])
            for one in listed]


def test_it_lists_what_the_folders_hold_read_or_kept(runs):
    expected = told(shelf.listing(runs))
    assert len(expected) == 5
    assert told(index.listing(runs)) == expected and (runs / index.FILE).exists()
    kept = index.listing(runs)
    assert told(kept) == expected
    run = next(one.run for one in kept if one.name == "whole")
    assert run.known and mask_at(run.norms(run.saved("retrain-2x")), run.layout, 0.0).sparsity > 0.4
    assert run.snapshots == shelf.find("whole", runs).snapshots  # what lists do not show is read when asked for


def test_only_what_has_changed_is_read(runs, monkeypatch):
    mine = Index(runs)
    mine.listing()
    read = []
    monkeypatch.setattr(shelf, "read", lambda path, real=shelf.read: read.append(path.name) or real(path))
    assert len(mine.listing()) == 5 and len(Index(runs).listing()) == 5 and read == []
    make_run(runs, "new")
    shutil.rmtree(runs / "begun")
    about = json.loads((runs / "empty" / "run.json").read_bytes())
    files.write_json(runs / "empty" / "run.json", about | {"data": "practice"})
    listed = {one.name: one for one in mine.listing()}
    assert sorted(read) == ["empty", "new"] and set(listed) == {"whole", "new", "empty", "nothing", "shipped"}
    assert listed["empty"].run.is_practice
    assert told(mine.listing()) == told(shelf.listing(runs))


def test_a_run_at_work_is_seen_as_it_is_and_not_kept(runs):
    make_run(runs, "working", finish=False, upto=9)
    listed = {one.name: one for one in index.listing(runs)}
    assert listed["working"].status == "interrupted"
    assert str(runs / "begun") in (text := (runs / index.FILE).read_text()) and str(runs / "working") not in text
    files.write_json(runs / "working" / "result.json", {"seconds": 1.0})
    listed = {one.name: one for one in index.listing(runs)}
    assert listed["working"].status == "complete" and listed["working"].run.result == {"seconds": 1.0}


@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(), lambda path: path.write_bytes(b""), lambda path: path.write_bytes(os.urandom(4000)),
    lambda path: path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2]),
    lambda path: path.write_bytes(path.read_bytes().replace(b"whole", b"hole!")),
    lambda path: path.write_bytes(files.sealed({"index": 0}) + path.read_bytes()),
    lambda path: path.write_bytes(files.sealed(index.HEAD) + files.sealed({"path": str(path.parent / "whole")}))],
    ids=["gone", "empty", "noise", "half", "changed", "another version", "lacking"])
def test_a_damaged_index_is_made_anew(runs, damage):
    expected = told(index.listing(runs))
    damage(runs / index.FILE)
    assert told(index.listing(runs)) == expected == told(index.listing(runs))


def test_it_does_not_grow_without_end(runs):
    mine = Index(runs)
    for number in range(150):
        os.utime(runs / "whole" / "result.json", (1e9 + number, 1e9 + number))
        mine.listing()
    lines = len(files.read_sealed(runs / index.FILE))
    assert 5 <= lines <= 120 and told(Index(runs).listing()) == told(shelf.listing(runs))


def test_where_nothing_can_be_written_it_lists_all_the_same(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_protected", {runs.resolve()})
    assert told(index.listing(runs)) == told(shelf.listing(runs)) and not (runs / index.FILE).exists()
    assert [one.name for one in index.listing(tmp_path / "nowhere")] == ["shipped"]
    assert not (tmp_path / "nowhere").exists()


def test_what_is_read_is_told(runs):
    seen = []
    Index(runs).listing(lambda done, total: seen.append((done, total)))
    assert seen == [(number, 5) for number in range(5)]
