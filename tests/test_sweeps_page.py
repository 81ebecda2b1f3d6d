"""The Sweeps view: how cells stand, what can be done with them, Compare on them, and how fast many are listed."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import psutil
import pytest
from sample_run import make_run
from streamlit.testing.v1 import AppTest

from pages.shared import processes
from prune_core.runs import claims, places, standing, sweeps

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def runs_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(places, "RECORDED", tmp_path / "recorded")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "runs"


@pytest.fixture
def four(runs_dir) -> sweeps.Sweep:
    """A sweep of four cells: complete, interrupted, failed, waiting."""
    sweep = sweeps.grid("mine", {"method": ["surgeon", "magnitude"], "seed": [0, 1]}, task="sst2")
    sweeps.keep(sweep, runs_dir, {"on": "local"})
    done, begun, failed, _ = (cell.run for cell in sweep.cells)
    make_run(runs_dir, done)
    make_run(runs_dir, begun, finish=False, upto=9)
    claims.take(failed, runs_dir).let_go("no room on the disk")
    return sweep


def opened(page: str = "pages/1_Prune.py", **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    app.switch_page(page).run()
    if query.get("view"):
        app.button_group(key="view").set_value(query["view"]).run()
    assert not app.exception, [one.value for one in app.exception]
    return app


def drawn(app: AppTest) -> str:
    """The HTML of the grid."""
    return next(one for one in html_of(app) if "class='cells" in one and "<table" in one)


def html_of(app: AppTest) -> list[str]:
    return [one.proto.body for one in app.get("html")]


def test_cells_stand_in_a_grid_with_a_sign_each(four, runs_dir):
    app = opened(view="Sweeps")
    cells = re.findall(r"class='cell (\w+)'[^>]*>(.)<", drawn(app))
    assert cells == [("complete", "✓"), ("interrupted", "‖"), ("failed", "✕"), ("waiting", "·")]
    assert f"href='?run={four.cells[0].run}'" in drawn(app) and "seed 1" in drawn(app) and "magnitude" in drawn(app)
    assert [one.value for one in app.error] == [f"`{four.cells[2].run}`: no room on the disk"]
    assert "1 of 4 cells complete" in app.get("progress")[0].proto.text
    (button,) = [one for one in app.button if one.key == "resume sweep"]
    assert button.label == "Resume" and not [one for one in app.button if one.key == "cancel sweep"]


def test_resume_starts_the_command_and_cancel_asks_it_to_stop(four, runs_dir, monkeypatch):
    started = []
    monkeypatch.setattr(processes, "launch", lambda args, name, folder: started.append((args, name)))
    app = opened(view="Sweeps")
    next(one for one in app.button if one.key == "resume sweep").click().run()
    assert started == [(["sweep", "--name=mine", f"--runs-dir={runs_dir}", "--json"], "sweep--mine")]
    claim = claims.take(four.cells[3].run, runs_dir)  # as a process at work has one
    app = opened(view="Sweeps")
    assert "1 running" in app.get("progress")[0].proto.text
    next(one for one in app.button if one.key == "cancel sweep").click().run()
    assert sweeps.stopped("mine", runs_dir)
    claim.let_go()


def test_without_a_sweep_it_says_what_to_do(runs_dir):
    app = opened(view="Sweeps")
    assert "There is no sweep yet" in app.info[0].value and "prunescope sweep" in app.info[0].value
    assert [one.label for one in app.button if one.key == "start sweep"] == ["Start"]


def test_the_form_starts_what_it_says(runs_dir, monkeypatch):
    started = []
    monkeypatch.setattr(processes, "launch", lambda args, name, folder: started.append(args))
    app = opened(view="Sweeps")
    app.number_input(key="sweep seeds").set_value(3).run()
    app.text_area(key="sweep more").set_value("distill=0,0.9").run()
    assert app.metric[0].value == "12"
    app.text_area(key="sweep more").set_value("distill=much").run()
    assert "is not a number" in app.error[0].value
    app.text_area(key="sweep more").set_value("distill=0.5").run()
    next(one for one in app.button if one.key == "start sweep").click().run()
    (args,) = started
    assert {"--methods=surgeon,magnitude", "--seeds=3", "--set=distill=0.5", "--name=sweep", "--on=local"} <= set(args)


def test_read_only_it_only_shows(four, runs_dir, monkeypatch):
    monkeypatch.setenv("PRUNESCOPE_READ_ONLY", "1")
    app = opened(view="Sweeps")
    assert "class='cell complete'" in drawn(app) and not [one for one in app.button if "sweep" in (one.key or "")]


def test_compare_opens_on_what_a_sweep_has_so_far(four, runs_dir):
    make_run(runs_dir, "another")
    app = opened("pages/3_Compare.py", cells="mine")
    assert app.multiselect[0].value == [four.cells[0].run]
    assert any("1 of 4 cells have a result" in one.value for one in app.caption)
    make_run(runs_dir, four.cells[3].run)
    app.run()
    assert set(app.multiselect[0].value) == {four.cells[0].run, four.cells[3].run}


def test_ten_thousand_cells_are_listed_in_under_a_second(runs_dir):
    """A quarter of each: complete, interrupted, failed, waiting. The best of three, as other work may be beside it."""
    base = sweeps.grid("many", {"seed": [0]}).cells[0]
    cells = [sweeps.Cell(f"many-{number}", base.config, dict(base.settings) | {"seed": number})
             for number in range(10_000)]
    sweeps.keep(sweeps.Sweep("many", tuple(cells)), runs_dir, {})
    born = psutil.Process().create_time()
    claims.folder_of(runs_dir).mkdir()
    for number in range(0, 10_000, 2):
        (runs_dir / f"many-{number}").mkdir()
        if number % 4 == 0:
            (runs_dir / f"many-{number}" / "result.json").write_text('{"seconds": 3}')
    for number in range(1, 10_000, 4):
        said = {"host": claims.here(), "pid": 1, "created": born, "ended": "it failed"}
        (claims.folder_of(runs_dir) / f"many-{number}.000001").write_text(json.dumps(said))
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        asked = sweeps.kept("many", runs_dir)
        listed = standing.standings([cell["run"] for cell in asked["cells"]], runs_dir)
        assert standing.seconds_left(listed, runs_dir, 2) == 3 * 5000 / 2
        took.append(time.perf_counter() - begun)
    assert standing.counts(listed) == {"complete": 2500, "running": 0, "interrupted": 2500, "failed": 2500,
                                       "waiting": 2500}
    assert min(took) < 1.0, took
    app = opened(view="Sweeps")
    begun = time.perf_counter()
    app.run()
    print(f"listed in {min(took):.2f} s, the page in {time.perf_counter() - begun:.1f} s")
    assert drawn(app).count("class='cell ") == 10_000
