"""Everything that trains, on a second device: equal to the last bit, nothing mixed, nothing fetched inside a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent
FEW = {"dense_steps": 2, "penalty_steps": 4, "retrain_steps": 2, "compressions": [2.0], "moments": 2, "milestones": 1}
CASES = {
    "group Lasso": {}, "in the loss, with hidden states": {"penalty": "in-loss", "distill_hidden": 0.5},
    "dynamic, with mixed sentences": {"control": "dynamic", "mixkd": True},
    "movement, tuned embeddings": {"method": "movement", "train_embeddings": True, "dropout": True},
    "ADMM with a pattern": {"method": "admm", "pattern": "2:4"},
    "the surgeon, learned steps, a pattern": {"method": "surgeon", "bits": "4", "quantizer": "lsq", "pattern": "2:4"},
    "ADMM in closed form, of scores": {"method": "admm-closed", "task": "stsb"},
    "ranked by the surgeon, all in few bits": {"ranking": "surgeon", "bits": "4", "activation_bits": 8,
                                              "embedding_bits": 8},
    "magnitude, clusters": {"method": "magnitude", "bits": "clusters-3"},
    "iterative": {"bits": "3", "quantizer": "iterative", "retrain_steps": 8},
}


def on_both(folder: Path, cases: dict) -> dict:
    done = subprocess.run([sys.executable, str(TESTS / "second_device.py"), str(folder), json.dumps(cases)],
                          env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
                          capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    return on_both(tmp_path_factory.mktemp("second"), {name: FEW | more for name, more in CASES.items()})


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_another_device_is_the_same_to_the_last_bit(told, case):
    assert "error" not in told[case], told[case]["error"]
    assert told[case]["same"] and told[case]["snapshots"] > 5


@pytest.mark.parametrize("case", CASES)
def test_of_a_step_only_its_loss_is_fetched(told, case):
    """And by transformers, once for each forward pass, whether there is padding."""
    passes = 1 + 1 * ("hidden" in case) + 2 * ("mixed" in case)
    usual = json.dumps({"_local_scalar_dense": 1 + passes})
    for kind, fetched in told[case]["fetched"].items():
        least = min(fetched, key=lambda one: sum(json.loads(one).values()))
        if kind == "dense":
            assert fetched == {json.dumps({"_local_scalar_dense": 2}): FEW["dense_steps"]}
        elif kind == "retrain" and "clusters" not in case and "iterative" not in case:  # which count on the processor
            assert least == usual and len(fetched) == 1


def test_what_is_asked_of_a_run_gets_the_same_answers_on_another_device(told):
    """Up to rounding: the pass over the compact model is the processor's alone."""
    asked = told["asked"]
    assert {name: value for name, value in asked.items() if value > (0.05 if "True, 8;a8" in name else 2e-5)} == {}
    assert len(asked) == 19


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_run_on_a_gpu_comes_near_that_of_the_processor(tmp_path, tiny_model, tiny_data):
    import tiny

    from prune_core.models import devices
    from prune_core.runs.snapshots import Snapshot

    ends = []
    for device in (devices.CPU, devices.pick("cuda")):
        pruning = tiny.pruning(tiny.settings(tiny_model, tiny_data, dropout=False))
        pruning.encoder.model.to(device)
        ends.append([event.loss for event in pruning if isinstance(event, Snapshot) and event.loss is not None])
    assert ends[0][:6] == pytest.approx(ends[1][:6], abs=1e-2)
