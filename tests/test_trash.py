"""Deleting a run can be undone, and spares one that is written now, one that ships, and all outside the runs folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import prune_core
from sample_run import make_run

from prune_core.runs import shelf, trash
from prune_core.runs.places import RunError
from prune_core.runs.recorder import Recorder
from prune_core.runs.run import Run


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*")) if file.is_file() and file.name != "lock"}


def test_a_deleted_run_comes_back_as_it_was(tmp_path):
    path = make_run(tmp_path, "one")
    before = contents(path)
    gone = trash.delete("one", tmp_path)
    assert not path.exists()
    assert [listed.name for listed in shelf.listing(tmp_path) if listed.path.parent == tmp_path] == []
    assert trash.deleted(tmp_path) == [gone] and gone.size >= sum(map(len, before.values()))
    assert trash.restore(gone.key, tmp_path) == "one" and contents(path) == before and trash.deleted(tmp_path) == []


def test_the_last_of_a_name_comes_back_first_and_beside_a_new_one(tmp_path):
    for number in range(2):
        make_run(tmp_path, "one", steps=10 * (number + 1))
        trash.delete("one", tmp_path)
    make_run(tmp_path, "one", steps=30)
    assert trash.restore("one", tmp_path) == "one-2" and Run(tmp_path / "one-2").config.dense_steps == 20
    assert trash.restore("one", tmp_path) == "one-3" and Run(tmp_path / "one").config.dense_steps == 30


def test_a_run_that_is_written_stays(tmp_path):
    path = make_run(tmp_path, "one", finish=False, upto=4)
    with Recorder(path, 4), pytest.raises(RunError, match="being written; cancel it first"):
        trash.delete("one", tmp_path)
    assert Run(path).status == "interrupted"
    trash.delete("one", tmp_path)
    with pytest.raises(RunError, match="'one' is gone"):  # who waited to write it finds nothing, and leaves nothing
        Recorder.reopen(path)
    assert not path.exists()


def test_a_folder_without_a_run_can_go_too(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert trash.restore(trash.delete("broken", tmp_path).key, tmp_path) == "broken"


@pytest.mark.parametrize("name", ["", ".", "..", ".trash", "../outside", "a/b", "/etc", "nowhere",
                                  "x\0y", "x" * 300, "file", "link"])
def test_nothing_else_is_touched(tmp_path, name):
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "file").write_text("no folder")
    (folder / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(RunError) as told:
        trash.delete(name, folder)
    assert "\n" not in str(told.value) and (tmp_path / "outside").is_dir()
    assert (folder / "file").exists() and (folder / "link").is_symlink()


def test_what_ships_stays(tmp_path, none_recorded):
    path = make_run(none_recorded, "shipped")
    for folder in (tmp_path, none_recorded):
        with pytest.raises(RunError, match="ships with the project"):
            trash.delete("shipped", folder)
    assert path.is_dir()


def test_erasing_is_for_good_and_only_in_the_trash(tmp_path):
    make_run(tmp_path, "one")
    with pytest.raises(RunError, match="no deleted run"):
        trash.erase("one", tmp_path)
    with pytest.raises(RunError, match="no deleted run"):
        trash.erase("../one", tmp_path)
    key = trash.delete("one", tmp_path).key
    trash.erase(key, tmp_path)
    with pytest.raises(RunError, match="there are: none"):
        trash.restore(key, tmp_path)


def test_a_folder_that_cannot_be_changed_is_told(tmp_path, monkeypatch):
    make_run(tmp_path, "one")

    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(RunError, match="Read-only file system"):
        trash.delete("one", tmp_path)
    monkeypatch.undo()
    key = trash.delete("one", tmp_path).key
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(RunError, match="cannot be put back"):
        trash.restore(key, tmp_path)


def test_the_commands_ask_and_undo(tmp_path):
    make_run(tmp_path, "one")

    def said(*arguments, keys="n\n"):
        return prune_core(*arguments, f"--runs-dir={tmp_path}", "--json", keys=keys)

    assert said("delete", "one").returncode == 2 and (tmp_path / "one").is_dir()
    key = json.loads(said("delete", "one", keys="y\n").stdout.splitlines()[-1])["key"]
    assert [one["key"] for one in json.loads(said("restore").stdout)["deleted"]] == [key]
    assert json.loads(said("restore", key).stdout) == {"run": "one"} and (tmp_path / "one").is_dir()
    assert said("delete", "one", "--yes").returncode == 0 and said("restore", "one", "--erase", "--yes").returncode == 0
    assert json.loads(said("restore").stdout)["deleted"] == []
