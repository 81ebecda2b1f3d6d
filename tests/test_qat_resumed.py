"""Training in few bits, stopped anywhere: residuals of ADMM go on, and a killed process ends as one that never was."""

from __future__ import annotations

import signal

import pytest
import tiny
import torch
from commands import prune_core
from test_loop import KILLED, assert_same, continued
from test_qat import run_of

from prune_core.methods import qat
from prune_core.precision.formats import parse
from prune_core.runs.run import Run


@pytest.mark.parametrize("phase, changes", [
    ("retrain", {"bits": "4", "quantizer": "admm", "retrain_steps": 2 * qat.ROUNDS + 5}),
    ("penalty", {"method": "admm", "pattern": "2:4", "compressions": (1.0,), "penalty_steps": 45, "milestones": 3})])
def test_residuals_are_the_same_after_a_stop_between_two_projections(tiny_model, tiny_data, phase, changes):
    asked, _, snapshots, states = run_of(tiny_model, tiny_data, changes)
    inside = [at for at, one in enumerate(snapshots[:-1])
              if one.phase.startswith(phase) and one.residuals and states[at]]
    between = [at for at in inside if snapshots[at + 1].residuals == snapshots[at].residuals]
    assert len(between) >= 5, "snapshots after which nothing is projected"
    for at in between[1:4]:
        assert_same(continued(asked, states[at], snapshots[: at + 1]), snapshots[at + 1:])


@pytest.mark.parametrize("count, rounds", [(1, 1), (7, 7), (10, 10), (15, 10), (19, 10), (20, 10), (137, 10)])
def test_admm_projects_onto_the_levels_ten_times_in_a_phase(tiny_model, tiny_data, count, rounds, monkeypatch):
    pruning = tiny.pruning(tiny.settings(tiny_model, tiny_data))
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in pruning.encoder.weights.items()}
    one = qat.Quantization(pruning.encoder, pruning.layout, parse("4"), "admm", kept, count)
    done, at = [0], []
    monkeypatch.setattr(one.drawn, "control_", lambda *_: at.append(done[0]))
    for done[0] in range(count):
        one.before_(done[0], None)
    assert len(at) == rounds and at[0] == 0
    apart = {after - before for before, after in zip(at, at[1:], strict=False)}
    assert not apart or max(apart) - min(apart) <= 1, "evenly spaced"


# ---------------------------------------------------------------- real processes


def test_a_run_in_four_bits_killed_with_9_resumes_to_the_same_numbers(tiny_model, tiny_data, tmp_path):
    """In retraining: after a snapshot far from a checkpoint, and while one is written. Steps learned by LSQ go on."""
    asked = ["prune", "--model", tiny_model, "--task", "sst2", "--data", tiny_data, "--block", "16x1", "--compression",
             "2", "--preset", "quick", "--dense-steps", "3", "--penalty-steps", "6", "--retrain-steps", "8",
             "--surface-examples", "4", "--threads", "1", "--precision", "fp32", "--bits", "4", "--quantizer", "lsq",
             "--activation-bits", "8", "--runs-dir"]
    done = prune_core(*asked, tmp_path / "whole", "--run", "one")
    assert done.returncode == 0, done.stderr
    whole = Run(tmp_path / "whole" / "one")
    first = next(at for at, one in enumerate(whole.snapshots) if one.phase.startswith("retrain"))

    def killed(seconds: float, where: str, count: int, *command: object) -> None:
        ended = prune_core(seconds, where, count, *command, first=KILLED)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    killed(0.0, "after", first + 3, *asked, tmp_path / "cut", "--run", "one")
    cut = tmp_path / "cut" / "one"
    assert Run(cut).status == "interrupted" and len(Run(cut).snapshots) == first + 3
    killed(0.0, "checkpoint", first + 5, "resume", "one", "--runs-dir", tmp_path / "cut")
    done = prune_core("resume", "one", "--runs-dir", tmp_path / "cut")
    assert done.returncode == 0, done.stderr
    again = Run(cut)
    assert again.snapshots == whole.snapshots and again.result["points"] == whole.result["points"]
    for stage in ("dense", "penalty-2x", "retrain-2x"):
        files = [run.weights_file(stage).read_bytes() for run in (again, whole)]
        assert files[0] == files[1], stage
