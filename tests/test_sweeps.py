"""What a sweep asks for: cells of grids, lists and TOML, their names, what they start from; bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune_core import InputError
from prune_core.methods import table
from prune_core.runs import standing, sweeps
from prune_core.runs.config import PruneConfig, preset
from prune_core.runs.standing import Standing
from prune_core.training import sweep as training


def test_a_grid_is_every_combination():
    sweep = sweeps.grid("mine", {"method": ["surgeon", "reweighted"], "compression": [2, [1.5, 3]], "seed": [0, 7]},
                        task="mrpc", preset="quick", block="16x16")
    assert [cell.run for cell in sweep.cells][:5] == [
        "mine-mrpc-surgeon-16x16-2x-s0", "mine-mrpc-surgeon-16x16-2x-s7", "mine-mrpc-surgeon-16x16-1_5x-3x-s0",
        "mine-mrpc-surgeon-16x16-1_5x-3x-s7", "mine-mrpc-reweighted-16x16-2x-s0"]
    last = sweep.cells[-1]
    assert last.config == preset("quick", task="mrpc", method="group-lasso", block="16x16", compressions=(1.5, 3),
                                 seed=7)
    assert last.settings == {"task": "mrpc", "method": "reweighted", "block": "16x16", "compression": [1.5, 3.0],
                             "seed": 7}


def test_a_name_stays_when_the_sweep_is_asked_for_more():
    few = sweeps.grid("mine", {"seed": [0, 1]}, method="magnitude")
    more = sweeps.grid("mine", {"seed": [0, 1, 2], "distill": [0.9, 0.5]}, method="magnitude")
    assert {cell.run for cell in few.cells} < {cell.run for cell in more.cells}
    assert "mine-sst2-magnitude-64x1-2x-s2-distill0_5" in {cell.run for cell in more.cells}
    assert more.cells[1].settings["distill"] == 0.5


def test_names_are_usable_and_apart_even_where_they_are_long():
    sweep = sweeps.grid("s" * 40, {"penalty-lr": [1e-4, 2.5e-4, 3e-4], "data": ["practice", "a/b"]}, method="in-loss")
    runs = [cell.run for cell in sweep.cells]
    assert len(set(runs)) == 6 and all(len(run) <= 64 for run in runs)


@pytest.mark.parametrize("name", table.variants())
def test_every_variant_is_called_by_its_name(name):
    (cell,) = sweeps.grid("one", {"method": [name]}).cells
    assert cell.settings["method"] == name
    assert {key: getattr(cell.config, key) for key in table.variants()[name]} == table.variants()[name]


def test_fine_tuned_once_for_those_that_would_be_alike():
    sweep = sweeps.grid("mine", {"task": ["rte", "mrpc"], "method": ["magnitude", "movement"], "seed": [0, 1]},
                        dense_once=True)
    sources = {cell.run: cell.config.start_from for cell in sweep.cells}
    assert [run for run, source in sources.items() if source is None] == [
        f"mine-{task}-magnitude-64x1-2x-s{seed}" for task in ("rte", "mrpc") for seed in (0, 1)]
    assert sources["mine-mrpc-movement-64x1-2x-s1"] == "mine-mrpc-magnitude-64x1-2x-s1"
    assert sweep.needs == {run: source for run, source in sources.items() if source}


TOML = """
name = "of-a-file"
[settings]
task = "rte"
preset = "quick"
[grid]
method = ["magnitude"]
compression = [2, [1.5, 3]]
[[cell]]
method = "admm"
seed = 3
"""


def test_a_toml_file_has_a_grid_and_a_list():
    sweep = sweeps.from_toml(TOML, "a.toml")
    assert sweep.name == "of-a-file" and [cell.run for cell in sweep.cells] == [
        "of-a-file-rte-magnitude-64x1-2x-s0", "of-a-file-rte-magnitude-64x1-1_5x-3x-s0",
        "of-a-file-rte-admm-64x1-2x-s3"]
    assert all(cell.config.preset == "quick" for cell in sweep.cells)


@pytest.mark.parametrize("content, words", [
    ("[grid", "is no TOML"), ("grid = 3", "has 'grid'"), ("[grids]\na = 1", "has 'grids'"),
    ("[grid]\nmethod = 'admm'", "axis 'method' is 'admm'"), ("[grid]\nseed = []", "at least one value"),
    ("[grid]\nspeed = [1]", "setting 'speed' is unknown"), ("[grid]\nseed = ['x']", "seed 'x' is no int"),
    ("[grid]\nmethod = ['best']", "method 'best' is unknown"), ("[grid]\nseed = [0, 0]", "asked for twice"),
    ("[settings]\nname = 'x'\n[grid]\nseed = [0]", "setting 'name' is unknown"), ("name = 'x'", "has 0 cells"),
    ("[[cell]]\ndistill = 7.0", "distill 7.0 is out of range"), ("cell = [1]", "has 'cell'"),
    ("[settings]\npreset = 'best'\n[grid]\nseed=[0]", "preset 'best'"), ("name = 'a/b'\n[grid]\nseed=[0]", "run name")])
def test_bad_files_are_told_in_one_line(content, words):
    with pytest.raises(InputError, match=words) as error:
        sweeps.from_toml(content, "a.toml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key, text, value", [
    ("compression", "2x", 2.0), ("compression", "1.5+3", [1.5, 3.0]), ("seed", "3", 3), ("distill", "0", 0.0),
    ("dense-steps", "40", 40), ("mixkd", "true", True), ("dropout", "no", False), ("text", "a+b", ["a", "b"]),
    ("from", "one-run", "one-run"), ("lambda", "0.5", 0.5), ("score", "norm", "norm")])
def test_what_is_typed_is_read_by_the_kind_of_setting(key, text, value):
    assert sweeps.value(key, text) == value


@pytest.mark.parametrize("key, text, words", [
    ("seed", "1.5", "not a whole number"), ("distill", "much", "not a number"), ("mixkd", "maybe", "true or false"),
    ("compression", "two", "not a number"), ("speed", "1", "unknown to a sweep")])
def test_what_is_typed_wrongly_is_told(key, text, words):
    with pytest.raises(InputError, match=words):
        sweeps.value(key, text)


def test_what_is_kept_is_read_back(tmp_path):
    sweep = sweeps.grid("mine", {"method": ["surgeon", "admm-nm"], "seed": [0, 1]}, dense_once=True, task="rte")
    sweeps.keep(sweep, tmp_path, {"on": "ray", "threads": 2})
    assert sweeps.read("mine", tmp_path) == (sweep, {"on": "ray", "threads": 2}) and sweeps.names(tmp_path) == ["mine"]
    sweeps.stop("mine", tmp_path)
    assert sweeps.stopped("mine", tmp_path)
    sweeps.keep(sweep, tmp_path, {})
    assert not sweeps.stopped("mine", tmp_path)
    with pytest.raises(InputError, match="no sweep 'other' .* there are: mine"):
        sweeps.kept("other", tmp_path)
    for content in ("[]", "{", '{"cells": []}', '{"cells": [{"run": "x"}]}'):
        (tmp_path / ".sweeps" / "mine.json").write_text(content)
        with pytest.raises(InputError, match="mine") as error:
            sweeps.kept("mine", tmp_path)
        assert "\n" not in str(error.value)


def test_time_left_by_hand(tmp_path):
    def cell(number: int, state: str, **now) -> Standing:
        return Standing(f"c{number}", state, now=now or None)

    for number, seconds in ((0, 100), (1, 200)):
        (tmp_path / f"c{number}").mkdir()
        (tmp_path / f"c{number}" / "result.json").write_text(json.dumps({"seconds": seconds}))
    cells = [cell(0, "complete"), cell(1, "complete"), cell(2, "running", seconds_left=30.0), cell(3, "waiting"),
             cell(4, "interrupted"), cell(5, "failed"), cell(6, "running")]
    assert standing.seconds_left(cells, tmp_path, 2) == (30 + 3 * 150) / 2  # one that has said nothing yet takes it all
    assert standing.seconds_left(cells[2:3], tmp_path, 2) == 30
    assert standing.seconds_left(cells[3:4], tmp_path, 2) is None
    assert standing.seconds_left(cells[:2], tmp_path, 2) == 0
    assert standing.counts(cells) == {"complete": 2, "running": 2, "interrupted": 1, "failed": 1, "waiting": 1}


@pytest.mark.parametrize("changes, words", [
    ({"at_a_time": 0}, "--at-a-time 0"), ({"on": "moon"}, "--on 'moon' is unknown"), ({"retries": -1}, "-1 retries"),
    ({"device": "cuda:9"}, "cuda:9"),
    ({"on": "ray", "at_a_time": 2}, "--at-a-time is for --on local"), ({"gpus": 99}, "99 GPUs are asked for each")])
def test_what_cannot_be_carried_out_is_refused_before_any_work(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        training.run(sweeps.grid("one", {"seed": [0]}), tmp_path, **changes)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_a_cell_that_was_made_otherwise_is_refused(tmp_path):
    sweep = sweeps.grid("one", {"seed": [0]})
    folder = tmp_path / sweep.cells[0].run
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"config": PruneConfig(method="surgeon", distill=0.5).to_json()}))
    with pytest.raises(InputError, match="was made with distill 0.5, asked: 0.9; remove it, or give .* --name"):
        training.check(sweep, Path(tmp_path))
