"""Several processes that train one run: near to one alone, the same bits after kill -9, one line where one dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny
import torch
from several_processes import PLAIN

from prune_core import InputError
from prune_core.models import devices
from prune_core.runs.run import Run
from prune_core.training import loading, placement
from prune_core.training.placement import Placement, check_batch

TESTS = Path(__file__).resolve().parent
ENV = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
FEW = {"dense_steps": 4, "penalty_steps": 6, "retrain_steps": 4, "compressions": [2.0], "moments": 2, "milestones": 1}
CASES = {
    "a last batch of one row": {"train_examples": 33},
    "hidden states": {"distill_hidden": 0.5, "batch_size": 7},
    "mixed sentences": {"mixkd": True, "method": "movement"},
    "one range for all tokens": {"method": "magnitude", "bits": "8;a8-tensor"},
    "the surgeon": {"method": "surgeon"},
    "ranked by the surgeon, learned steps": {"ranking": "surgeon", "bits": "4", "quantizer": "lsq"},
    "ADMM": {"method": "admm"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("several")
    tiny.checkpoint(made / "model", "bert", **PLAIN)
    tiny.data_folder(made / "data", ("sst2",))
    return made


@pytest.fixture(scope="module")
def told(folder) -> dict:
    """As torchrun starts them, which is what accelerate launch does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(TESTS / "several_processes.py")]
    cases = {name: FEW | more for name, more in CASES.items()}
    done = subprocess.run([*command, str(folder), json.dumps(cases)], env=ENV | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_come_within_1e_5_of_one_in_every_step(told, case):
    one = told[case]
    assert one["steps"] >= 6 and one["loss"] < 1e-5 and one["decided"] == 0 and one["scores"] < 1e-12, one
    assert 0 < one["gradients"] < 1e-5 and one["everywhere"][0] == one["everywhere"][1]


# ---------------------------------------------------------------- runs


def started(folder: Path, name: str, *more: str) -> subprocess.Popen:
    command = ["prune", "--model", str(folder / "model"), "--data", str(folder / "data"), "--block", "16x1",
               "--scope", "matrix", "--compression", "2", "--method", "group-lasso", "--dense-steps", "60",
               "--penalty-steps", "300", "--retrain-steps", "60", "--precision", "fp32", "--threads", "1",
               "--preset", "quick", "--run", name, "--runs-dir", str(folder / "runs"), "--json", *more]
    return subprocess.Popen([sys.executable, "-m", "prune_core", *command], env=ENV, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def under_penalty(folder: Path, name: str) -> None:
    """Wait until it is."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        log = folder / "runs" / name / "progress.jsonl"
        if log.exists() and b'"phase":"penalty","step":60' in log.read_bytes():
            return
        time.sleep(0.05)
    raise AssertionError("it does not come to train under the penalty")


def resumed(folder: Path, name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "prune_core", "resume", name, "--runs-dir", str(folder / "runs")],
                          env=ENV, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "bits may differ" not in done.stderr


def contents(run: Run) -> dict:
    """All that a run has recorded, but for the clock."""
    snapshots = [(s.phase, s.step, s.loss, s.penalty, s.lam, s.zero_share, s.scores) for s in run.snapshots]
    norms = {f"{at} {name}": one for at in run.with_norms for name, one in run.norms(at).items()}
    weights = {path.name: path.read_bytes() for path in sorted((run.path / "weights").iterdir())}
    return {"snapshots": snapshots, "norms": norms, "weights": weights}


def assert_equal(one: Run, other: Run) -> None:
    a, b = contents(one), contents(other)
    assert a["snapshots"] == b["snapshots"] and a["weights"] == b["weights"] and a["norms"].keys() == b["norms"].keys()
    assert all(np.array_equal(values, b["norms"][at]) for at, values in a["norms"].items())


@pytest.fixture(scope="module")
def undisturbed(folder) -> Run:
    process = started(folder, "whole", "--processes", "2")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-2000:]
    return Run(folder / "runs" / "whole")


def test_the_run_says_how_it_was_trained(undisturbed):
    about = undisturbed.about["device"]
    assert about["kind"] == "cpu" and about["processes"] == 2 and loading.processes_of(undisturbed) == 2
    assert undisturbed.status == "complete" and loading.device_of(undisturbed) == "cpu"


def test_killed_with_9_it_takes_the_others_along_and_resumes_to_the_same_bits(folder, undisturbed):
    process = started(folder, "killed", "--processes", "2")
    under_penalty(folder, "killed")
    others = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert others and not psutil.wait_procs(others, timeout=20)[1]
    resumed(folder, "killed")
    assert_equal(Run(folder / "runs" / "killed"), undisturbed)


def test_where_another_dies_the_run_ends_in_one_line_and_resumes_to_the_same_bits(folder, undisturbed):
    process = started(folder, "lost", "--processes", "2")
    under_penalty(folder, "lost")
    psutil.Process(process.pid).children()[0].send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    line = [one for one in re.split(r"[\r\n]", err) if one.startswith("error: ")]
    assert process.returncode == 2 and len(line) == 1 and "Traceback" not in err
    assert "number 1: killed by signal 9" in line[0] and "resume lost" in line[0]
    resumed(folder, "lost")
    assert_equal(Run(folder / "runs" / "lost"), undisturbed)


def test_more_processes_than_examples_are_refused_in_one_line_and_none_is_started(folder):
    process = started(folder, "many", "--processes", "200")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and not (folder / "runs" / "many").exists()
    assert err.splitlines()[-1] == ("error: 200 processes, and 16 examples in a batch; needed: at most as many "
                                    "processes as examples")
    with pytest.raises(InputError, match="3 processes, and 2 examples"):
        check_batch(3, 16, 2)
    check_batch(16, 16, 64)


# ---------------------------------------------------------------- one process, and what it is told


@pytest.mark.parametrize(("rows", "count"), [(8, 2), (7, 2), (5, 3), (1, 2)])
def test_shares_are_the_whole_batch_and_weights_sum_to_one(rows, count):
    batch = np.arange(100, 100 + rows)
    shares = [Placement(rank=rank, count=count).share_of(batch) for rank in range(count)]
    counted = [row for mine, part in shares if part for row in mine]
    assert sorted(counted) == list(batch) and sum(part for _, part in shares) == pytest.approx(1.0)
    assert all(len(mine) for mine, _ in shares)


@pytest.mark.parametrize(("device", "processes", "says"), [
    ("cpu", 0, "processes 0 are out of range"), ("cuda:1", 2, "one GPU for each process"),
    ("cuda", 3, "3 processes on device 'cuda', and 2 GPUs"), ("mps", 2, "cannot be shared by 2 processes")])
def test_a_placement_that_there_is_not_is_one_line(monkeypatch, device, processes, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(InputError, match=says), placement.joined(device, processes):
        pass


def test_as_many_processes_as_the_launcher_has_started(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="processes 2, but the launcher has started 4"), placement.joined("cpu", 2):
        pass


def test_a_run_that_goes_on_elsewhere_is_told_so(undisturbed, monkeypatch):
    assert loading.said_elsewhere(undisturbed, Placement(count=2)) == ""
    assert "in 1 processes, not in 2 as before: bits may differ" in loading.said_elsewhere(undisturbed, Placement())
    monkeypatch.setattr(devices, "describe", lambda device: {"kind": "cuda", "name": "a GPU"})
    assert "on cuda, not on cpu as before and" in loading.said_elsewhere(undisturbed, Placement())


def test_a_run_of_a_gpu_does_not_go_on_without_one_by_accident(undisturbed, monkeypatch):
    run = Run(undisturbed.path)
    monkeypatch.setitem(run.about, "device", {"kind": "cuda", "name": "a GPU", "processes": 1})
    monkeypatch.setattr(devices, "there", lambda: ["cpu"])
    with pytest.raises(InputError, match="began on a GPU .*--device cpu to go on there, where bits may differ"):
        loading.device_of(run)
