"""Buttons that start a command as a process of its own: real processes, quick ones."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import tiny
from sample_run import make_run
from streamlit.testing.v1 import AppTest

from pages.shared import jobs, processes
from prune_core.evaluation.weights import write_weights
from prune_core.runs import pack, places
from prune_core.runs.config import preset
from prune_core.runs.run import Run
from prune_core.training import session

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted(path.name for path in places.RECORDED.iterdir() if not path.name.startswith("."))


@pytest.fixture
def runs_dir(tmp_path, monkeypatch) -> Path:
    """An empty runs folder that the app uses, with no shipped runs beside it."""
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(places, "RECORDED", tmp_path / "recorded")
    monkeypatch.setattr(pack, "PROJECT", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "runs"


def page(*arguments: str, seconds: float | None = 30.0) -> AppTest:
    """A page with one such button."""
    code = f"from pages.shared import jobs\njobs.job('key', 'Make it', {seconds}, {list(arguments)})"
    return checked(AppTest.from_string(code, default_timeout=300).run())


def checked(app: AppTest) -> AppTest:
    assert not app.exception, [one.value for one in app.exception]
    return app


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def press(app: AppTest, label: str) -> AppTest:
    return checked(next(button for button in app.button if button.label == label).click().run())


def until(app: AppTest, holds, seconds: float = 300.0) -> AppTest:
    """The page as it is once this holds; patience for a busy machine, no promise."""
    end = time.monotonic() + seconds
    while not holds(checked(app.run())):
        assert time.monotonic() < end, (labels(app), [one.value for one in app.error])
        time.sleep(0.3)
    return app


def test_a_command_runs_by_itself_and_leaves_the_button_as_it_was(runs_dir):
    app = page("runs", "--json", f"--runs-dir={runs_dir}")
    assert labels(app) == ["Make it (about 30 s)"]
    app = until(press(app, "Make it (about 30 s)"), lambda app: labels(app) == ["Make it (about 30 s)"])
    assert not app.error and processes.last_line(jobs._name("key"), runs_dir).endswith("]}")


def test_a_command_that_fails_says_its_one_line_and_can_be_tried_again(runs_dir):
    app = press(page("sensitivity", "nobody", f"--runs-dir={runs_dir}", "--json"), "Make it (about 30 s)")
    app = until(app, lambda app: labels(app) == ["Try again (about 30 s)"])
    assert re.match(r"no run .nobody. in", app.error[0].value.replace("\\", ""))
    assert "Traceback" not in processes.log_file(jobs._name("key"), runs_dir).read_text()
    again = page("runs", "--json", f"--runs-dir={runs_dir}")  # as after a reload: found again by its log
    assert labels(again) == ["Try again (about 30 s)"]
    app = until(press(again, "Try again (about 30 s)"), lambda app: labels(app) == ["Make it (about 30 s)"])
    assert not app.error


def test_cancel_ends_the_process_and_another_page_shows_it_meanwhile(runs_dir):
    app = press(page("calibrate", "--to", str(runs_dir / "profile.json"), "--json"), "Make it (about 30 s)")
    other = page("calibrate", "--json")
    assert labels(other) == labels(app) == ["Cancel"] and len(other.get("progress")) == 1
    process = processes.starting(jobs._name("key"), runs_dir)
    assert labels(press(app, "Cancel")) == ["Make it (about 30 s)"] and not app.error
    process.wait(60)
    assert not (runs_dir / "profile.json").exists()


def test_an_error_that_ends_in_a_brace_is_an_error(tmp_path):
    log = processes.log_file("job", tmp_path)
    log.parent.mkdir()
    log.write_text('error: thresholds are {"all": -1}\n')
    assert processes.failure("job", tmp_path) == 'thresholds are {"all": -1}'


def test_how_far_it_is_comes_from_the_command_or_from_the_time_it_takes():
    assert jobs._how_far(" 42%|####      | 60/144 scores, 03:10 left".strip(), 9.0, 60.0) == (
        0.42, "42%, 60/144 scores, 03:10 left")
    assert jobs._how_far("", 15.0, 60.0) == (0.25, "about 45 s left")
    assert jobs._how_far("", 70.0, 60.0) == (0.95, "70 s so far, soon done")
    assert jobs._how_far("", 7.0, None) == (0.0, "7 s so far")


def test_a_copy_that_only_shows_has_no_button(runs_dir, monkeypatch):
    monkeypatch.setenv("PRUNESCOPE_READ_ONLY", "1")
    app = page("runs", "--json")
    assert labels(app) == [] and app.caption[0].value == "Make it: not in this copy, which only shows."


def test_every_recorded_run_can_be_made_again(tmp_path):
    for run in map(Run, map(places.RECORDED.joinpath, SHIPPED)):
        config = jobs.again(run, "")
        arguments = processes.arguments(config, "again", tmp_path)
        assert f"--task={run.task}" in arguments
        assert config.start_from in (None, "sst2-minilm-64x1")  # whose dense weights ship
        assert config.start_from == (run.config.start_from if run.source else None)


def test_a_run_on_the_practice_set_has_not_the_weights_of_one_on_glue(runs_dir):
    make_run(runs_dir, "glue")
    make_run(runs_dir, "practised", data="practice")
    glue, practised = (Run(runs_dir / name) for name in ("glue", "practised"))
    assert not jobs._alike(practised, glue, jobs.again(glue, ""))
    assert jobs._alike(glue, glue, jobs.again(glue, "/other"))


@pytest.fixture
def shipped(runs_dir, tiny_model, tiny_data, tmp_path) -> tuple[Run, Run]:
    """A run as it was made elsewhere, and as it ships: without its weights."""
    config = preset("quick", model=str(tiny_model), data=str(tiny_data), block="16x1", compressions=(2.0,),
                    dense_steps=4, penalty_steps=6, retrain_steps=2, threads=1, precision="fp32")
    session.start(config, tmp_path / "elsewhere", "tiny", "python -m prune_core prune", tiny.silent)
    made = Run(tmp_path / "elsewhere" / "tiny")
    pack.pack(made, "tiny", [], str(tiny_data), write_weights)
    return made, Run(places.RECORDED / "tiny")


def test_weights_are_made_with_one_press_and_give_the_same_run(shipped, runs_dir):
    made, run = shipped
    app = explore("tiny")
    (label,) = [label for label in labels(app) if label.startswith("Make the weights")]
    assert re.fullmatch(r"Make the weights \(about \d+ (s|min)\)", label)
    app = press(app, label)
    assert "Cancel" in labels(app) and label not in labels(app)
    end = time.monotonic() + 300
    while jobs.state_of("tiny-again") != "complete":
        assert jobs.state_of("tiny-again") != "failed", processes.failure("tiny-again", runs_dir)
        assert time.monotonic() < end
        time.sleep(0.3)
    new = Run(runs_dir / "tiny-again")
    assert new.points == made.points and all(new.has_weights(stage) for stage in made.stages)
    assert not run.has_weights("dense")
    app = explore("tiny")
    assert "Open tiny-again, which has them" in [link.proto.label for link in app.get("page_link")]


def test_sensitivities_are_recorded_with_one_press(runs_dir, tiny_model, tiny_data):
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data), runs_dir, "tiny")
    app = explore("tiny", at="dense", view="Layers and matrices")
    (label,) = [label for label in labels(app) if label.startswith("Record it for each matrix (about")]
    app = until(press(app, label), lambda app: "Cancel" not in labels(app))
    assert len(run.sensitivity("dense")) == 4 * len(run.layout.matrices) and label not in labels(app) and not app.error


def explore(name: str, **query: str) -> AppTest:
    """Explore on this run."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    app.session_state["drawn"] = True  # as the map says in a browser
    for key, value in (query | {"run": name}).items():
        app.query_params[key] = value
    checked(app.run())
    return checked(app.switch_page("pages/2_Explore.py").run())
