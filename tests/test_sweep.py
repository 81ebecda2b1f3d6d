"""A sweep carried out here: cells and the sweep killed with -9, stopped, failed; the table is as undisturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import sweeping
from browsing import wait
from sweeping import CELLS

from prune_core.runs import claims, standing, sweeps
from prune_core.runs.run import Run
from prune_core.training.cell import with_parent


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model, tiny_data) -> tuple:
    """What a sweep that nothing happens to prints, and where its runs are."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return sweeping.done(folder, *sweeping.asked(tiny_model, tiny_data), "--at-a-time=2", "--threads=1"), folder


def test_every_cell_is_a_run_of_its_own_and_is_never_run_again(undisturbed, tiny_model, tiny_data):
    told, folder = undisturbed
    assert [cell["run"] for cell in told["cells"]] == CELLS and told["seconds"] > 0
    for cell in told["cells"]:
        run = Run(folder / cell["run"])
        assert cell["status"] == run.status == "complete" and cell["points"] == run.points
        assert run.command().startswith("python -m prune_core prune ") or "prune_core prune" in run.command()
        assert (run.config.threads, cell["settings"]["task"]) == (1, "sst2")
    assert not list(claims.folder_of(folder).iterdir())
    before = {run: (folder / run / "result.json").stat().st_mtime_ns for run in CELLS}
    again = sweeping.done(folder, *sweeping.asked(tiny_model, tiny_data))
    looked = sweeping.done(folder, "--name=sweep", "--look")
    assert sweeping.table(again) == sweeping.table(told) == sweeping.table(looked)
    assert before == {run: (folder / run / "result.json").stat().st_mtime_ns for run in CELLS}


def test_killed_and_stopped_it_comes_to_the_same_table(undisturbed, tiny_model, tiny_data, tmp_path):
    begun = sweeping.start(tmp_path, *sweeping.asked(tiny_model, tiny_data), "--at-a-time=2", "--threads=1")
    victim = sweeping.in_the_middle(tmp_path)
    sweeping.kill(sweeping.process_of(victim, tmp_path))  # it is taken up again by the sweep itself
    sweeping.in_the_middle(tmp_path)
    left = [sweeping.process_of(run, tmp_path) for run in sweeping.at_work(tmp_path)]
    begun.kill()
    begun.wait()
    wait("its cells have ended with it", lambda: not any(one.is_running() and one.status() != "zombie" for one in left))
    wait("none of them runs", lambda: "running" not in {one.state for one in standing.standings(CELLS, tmp_path)})

    begun = sweeping.start(tmp_path, "--name=sweep", "--threads=1")
    sweeping.in_the_middle(tmp_path)
    asked = time.monotonic()
    begun.send_signal(signal.SIGINT)
    code, _, err = sweeping.ended(begun)
    assert code == 130 and "go on with: python -m prune_core sweep --name sweep" in err.splitlines()[-1]
    assert time.monotonic() - asked < 120
    assert {one.state for one in standing.standings(CELLS, tmp_path)} <= {"complete", "interrupted", "waiting"}
    told = sweeping.done(tmp_path, "--name=sweep")
    assert sweeping.table(told) == sweeping.table(undisturbed[0])


def test_two_sweeps_over_the_same_cells_share_the_work(undisturbed, tiny_model, tiny_data, tmp_path):
    """As from two machines: each cell is made once, and both tell all of it."""
    both = [sweeping.start(tmp_path, *sweeping.asked(tiny_model, tiny_data), "--at-a-time=1", "--threads=1")
            for _ in range(2)]
    ends = [sweeping.ended(one) for one in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert all(sweeping.table(told) == sweeping.table(undisturbed[0]) for _, told, _ in ends)
    made = [(tmp_path / ".logs" / f"{run}.log").read_text().count('"points"') for run in CELLS]
    assert made == [1, 1, 1]


def test_a_cell_that_fails_hides_no_other_and_is_told(tiny_model, tiny_data, tmp_path):
    (tmp_path / CELLS[0]).mkdir()
    (tmp_path / CELLS[0] / "run.json").write_text("{")
    code, told, err = sweeping.ended(sweeping.start(
        tmp_path, *sweeping.asked(tiny_model, tiny_data, ["reweighted", "magnitude"]), "--dense-once", "--threads=1"))
    first, second = told["cells"]
    assert code == 2 and first["status"] == "failed" and "run.json" in first["error"]
    assert second["status"] == "failed" and f"dense weights of {CELLS[0]}, which failed" in second["error"]
    assert err.splitlines()[-1].startswith("error: 2 of 2 cells failed; ")
    assert standing.standing(CELLS[0], tmp_path).state == "failed"


def test_dense_weights_are_made_once(tiny_model, tiny_data, tmp_path):
    given = sweeping.asked(tiny_model, tiny_data, ["reweighted", "magnitude"])
    told = sweeping.done(tmp_path, *given, "--dense-once", "--at-a-time=2", "--threads=1")
    first, second = (Run(tmp_path / cell["run"]) for cell in told["cells"])
    assert (first.config.start_from, second.config.start_from) == (None, first.name)
    assert first.dense_score == second.dense_score and "dense" not in {one.phase for one in second.snapshots[1:]}


@pytest.mark.parametrize("gone", [False, True])
def test_a_cell_whose_sweep_died_while_it_was_started_does_not_begin(gone):
    """A process that is forked as its parent dies hears nothing of that: it looks once more."""
    def before() -> None:
        with_parent(os.getppid() + gone)

    begun = subprocess.Popen([sys.executable, "-c", "print('begun')"], stdout=subprocess.PIPE, preexec_fn=before)
    out, _ = begun.communicate(timeout=60)
    assert (begun.returncode, out) == ((-signal.SIGKILL, b"") if gone else (0, b"begun\n"))


def test_stopped_from_outside(tiny_model, tiny_data, tmp_path):
    """As the page asks it, wherever the sweep is carried out."""
    given = [*sweeping.asked(tiny_model, tiny_data, ["magnitude"]), "--threads=1", "--give-way"]
    begun = sweeping.start(tmp_path, *given)
    wait("it is at work", lambda: standing.standing(CELLS[1], tmp_path).state == "running")
    wait("it is started", lambda: (tmp_path / ".logs" / f"{CELLS[1]}.json").exists())
    pid = json.loads((tmp_path / ".logs" / f"{CELLS[1]}.json").read_bytes())["pid"]
    assert psutil.Process(pid).nice() >= psutil.Process().nice() + 9 or psutil.Process(pid).nice() == 19
    sweeps.stop("sweep", tmp_path)
    code, _, err = sweeping.ended(begun)
    assert code == 130 and "1 of 1 cells to come" in err and sweeps.stopped("sweep", tmp_path)


@pytest.mark.parametrize("options, words", [
    ([], "nothing is asked for"), (["--name=none"], "no sweep 'none'"), (["--seeds=0"], "0 seeds are out of range"),
    (["--seeds=1", "--set=distill"], "names no value"), (["--seeds=1", "--set=speed=1"], "unknown to a sweep"),
    (["nowhere.toml"], "'nowhere.toml' cannot be read"), (["x.toml", "--seeds=1"], "needed: one of the two"),
    (["--seeds=1", "--on=mars"], "--on 'mars' is unknown"), (["--seeds=1", "--methods=best"], "method 'best'")])
def test_bad_options_are_told_in_one_line(options, words, tmp_path):
    from commands import prune_core

    done = prune_core("sweep", f"--runs-dir={tmp_path}", *options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr


def test_the_view_has_all_cells_and_the_time_left(capsys):
    from prune_core.cli.sweep import Cells

    cells = [standing.Standing("a", "complete"), standing.Standing("b", "running", now={
        "phase": "penalty", "step": 5, "steps": 10, "seconds_left": 65.0}), standing.Standing("c", "waiting")]
    with Cells(3) as view:
        view(cells, 125.0)
        view(cells, 120.0)  # nothing new, where no one looks at a terminal
        view._live = True
        view(cells, 120.0)
        view(cells, 119.0)
    said = capsys.readouterr().err
    assert said.count("1 of 3 cells complete, 1 running; 2 min 05 s left") == 1
    assert "b " in said and "|##########          | penalty, 1 min 05 s left" in said and "\x1b[2F\x1b[J" in said


def test_a_notebook_has_the_same_call(tiny_model, tiny_data, tmp_path):
    from prune_core.training import sweep

    said = dict(model=str(tiny_model), data=str(tiny_data), preset="quick", block="16x1", precision="fp32")
    steps = {name.replace("-", "_"): 4 for name in sweeping.STEPS}
    seen = []
    told = sweep.run(sweeps.grid("book", {"method": ["magnitude"]}, **said, **steps), tmp_path, threads=1,
                     show=lambda cells, left: seen.append([one.state for one in cells]))
    (cell,) = told["cells"]
    assert cell["status"] == "complete" and ["running"] in seen
    assert json.loads((tmp_path / cell["run"] / "result.json").read_bytes())["points"] == cell["points"]
