"""Memory and several devices as commands and as tabs of Speed; what they say is what the core counts."""

from __future__ import annotations

import json

import pytest
import tiny
from commands import prune_core
from sample_run import make_profile, make_run
from streamlit.testing.v1 import AppTest
from test_pages import checked, metrics, opened, runs_dir, texts  # noqa: F401  a fixture

from prune_core import files, machine
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.hardware import memory, pipelines, sizes
from prune_core.hardware.pipelines import Plan, Question, Stage, Unit
from prune_core.latency import profile_files
from prune_core.latency.work import Batch
from prune_core.showing import plans


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_data):
    """(runs folder with a run 'tiny', file of a latency profile)."""
    folder = tmp_path_factory.mktemp("plans")
    tiny.make_run(tiny.settings(tiny_model, tiny_data), folder / "runs", "tiny")
    profile_files.write(make_profile(), folder / "profile.json")
    return folder / "runs", folder / "profile.json"


def said(*arguments) -> dict:
    done = prune_core(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_of_a_run_by_formula(made):
    told = said("memory", "tiny", f"--runs-dir={made[0]}", "--batch=4", "--length=16", "--sparsity=0.5", "--no-measure")
    assert [row["kind"] for row in told["each"]] == ["dense", "smaller", "compact"] and told["kind"] == "compact"
    assert told["predicted_mb"] == pytest.approx(sum(told["parts"].values())) and told["measured_mb"] is None
    assert told["run"] == "tiny" and told["sparsity"] == pytest.approx(0.5, abs=0.1) and told["longest"] == 32
    trained = said("memory", "tiny", f"--runs-dir={made[0]}", "--training", "--no-measure", "--batch=4", "--length=16")
    assert trained["kind"] == "dense" and {"optimizer", "gradients", "activations"} <= trained["parts"].keys()
    assert trained["teacher"] == "outputs" and trained["parts"]["teacher"] > 0  # as the run trains


def test_memory_of_a_size_is_measured_too():
    told = said("memory", "6x384", "--batch=8", "--length=128", "--limit=1000")
    assert told["measured_mb"] == pytest.approx(told["predicted_mb"], rel=0.1)
    assert told["limit_mb"] == 1000 and told["libraries_mb"] > 50
    assert told["each"][0]["held_mb"] >= 0.9 * told["measured_mb"]  # with what the C library keeps


def test_a_plan_of_a_run(made):
    arguments = ("plan", "tiny", f"--runs-dir={made[0]}", f"--profile={made[1]}", "--batch=8", "--length=16")
    told = said(*arguments, "--devices=2", "--sparsity=0.5")
    assert len(told["stages"]) == 2 == len(told["even"]["stages"])
    assert told["ms"] <= told["even"]["ms"] and 0 < told["utilisation"] <= 1 and 0 <= told["bubble"] < 1
    assert told["tensor"]["balance"] >= 1 and told["measured"] is None
    one = said(*arguments, "--devices=1", "--micro-batches=1")
    assert one["ms"] == pytest.approx(one["one_ms"]) and one["utilisation"] == 1


@pytest.mark.parametrize(("arguments", "why"), [
    (("memory", "nowhere-to-be-found"), "is neither a run nor a model"),
    (("memory", "12x768", "--batch=0"), "batch 0 is out of range"),
    (("memory", "12x768", "--length=513"), "length 513 is more than model '12x768' has positions for"),
    (("memory", "12x768", "--limit=-1"), "limit -1 is out of range"),
    (("memory", "12x768", "--teacher=both"), "teacher 'both' is unknown"),
    (("memory", "12x768", "--attention=flash"), "attention 'flash' is unknown; needed: one of fused, plain"),
    (("memory", "12x768", "--sparsity=1"), "sparsity 1 is out of range"),
    (("memory", "12x768", "--device=tpu"), "device 'tpu'"),
    (("plan", "12x768", "--devices=0"), "0 devices; needed: 1 or more"),
    (("plan", "2x64", "--devices=5"), "5 devices for 4 parts of the encoder; needed: 1 to 4"),
    (("plan", "2x64", "--micro-batches=5"), "5 micro-batches do not divide 32 sentences"),
    (("plan", "2x64", "--length=513"), "length 513 is more than model '2x64' has positions for"),
    (("plan", "2x64", "--profile=/nowhere.json"), "latency profile '/nowhere.json' cannot be read"),
])
def test_bad_input_is_one_line(arguments, why, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = prune_core(*arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and why in errors[0], done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- charts


def test_bars_begin_when_their_stage_is_free_and_has_them():
    bars = plans.began([2.0, 3.0], 3)
    assert bars == [(0, 0, 0.0), (1, 0, 2.0), (0, 1, 2.0), (1, 1, 5.0), (0, 2, 4.0), (1, 2, 8.0)]
    plan = Plan(tuple(Stage((Unit(at),), ms, 0, 0, 0) for at, ms in enumerate((2.0, 3.0))), 3)
    figure = plans.pipeline({"Planned": plan})
    drawn = sorted((start, start + x) for bar in figure.data for start, x in zip(bar.base, bar.x, strict=True))
    assert drawn[-1][1] == plan.ms == 11 and len(drawn) == 6


def test_the_curve_of_memory_has_its_limit_and_what_was_measured():
    figure = plans.memory_curve({"dense": [(16, 100.0), (512, 5000.0)]}, 25_000, 16, {"dense": (16, 104.0)})
    names = [trace.name for trace in figure.data]
    assert names == ["as it is", "as it is, measured", "limit, 25 GB"]
    assert list(figure.data[2].y) == [25_000, 25_000] and figure.layout.yaxis.type == "log"


# ---------------------------------------------------------------- tabs of Speed


@pytest.fixture
def speed(runs_dir) -> AppTest:  # noqa: F811
    """A page that shows a run, in a profile of this machine."""
    make_run(runs_dir, "one")
    files.cache_folder().mkdir(parents=True, exist_ok=True)
    profile_files.write(make_profile(), profile_files.own_file(machine.machine(), machine.machine()["cores"]))
    return runs_dir


def chosen(app: AppTest, runs) -> tuple:
    """(run, mask) that the page shows."""
    from prune_core.runs.run import Run

    run = Run(runs / "one")
    share = app.slider(key="sparsity").value / 100
    return run, mask_at_sparsity(run.norms(run.saved(app.selectbox(key="phase").value)), run.layout, share,
                                 run.config.scope)


def test_memory_on_speed_says_what_fits(speed):
    app = opened("speed", run="one", view="Memory")
    run, mask = chosen(app, speed)
    dense = sizes.of(run.layout, run.heads, run.outputs)
    wanted = memory.LIBRARIES + memory.peak(memory.compact(dense, mask, run.heads, Batch(32, 128)))
    figure = json.loads(app.get("plotly_chart")[-1].proto.spec)
    curve = {trace["name"]: trace for trace in figure["data"]}
    assert {"as it is", "heads and neurons taken out", "compact, our pass"} <= curve.keys()
    assert plans.size(wanted) in curve["compact, our pass"]["customdata"]
    assert f"fits into {plans.size(round(machine.machine()['memory'] / 1e9, 1) * 1000)}." in texts(app)
    checked(app.number_input(key="memory limit").set_value(0.1).run())
    assert "as it is at no length shown" in texts(app)
    training = opened("speed", run="one", view="Memory", doing="Training")
    assert "What training cuts is zero, and still there" in texts(training)


def test_several_devices_on_speed(speed):
    app = opened("speed", run="one", view="Several devices")
    run, mask = chosen(app, speed)
    question = Question(mask, run.heads, Batch(32, 128), 2)
    plan, even = pipelines.plans(question, make_profile(), sizes.of(run.layout, run.heads, run.outputs))
    shown = metrics(app)
    assert shown["Planned"] == f"{plan.ms:,.1f} ms" and shown["Even split"] == f"{even.ms:,.1f} ms"
    assert shown["Devices work"] == f"{plan.utilisation:.0%}"
    assert "On one machine a pipeline saves memory for each process, not time." in texts(app)
