"""Trains as one of several processes that torchrun has started, and alone; the first writes what came of both.

    torchrun --nproc-per-node 2 tests/several_processes.py FOLDER CASES
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tiny
import torch

from prune_core.runs.snapshots import Snapshot
from prune_core.training import placement

PLAIN = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}  # each process drops out other units


def told(asked, **more) -> list[dict]:
    """Of every snapshot its losses and what was decided: which groups are zero, scores, and all weights."""
    found = []
    for event in tiny.pruning(asked, **more):
        if isinstance(event, Snapshot):
            weights = event.weights() if event.weights else {}
            found.append({"loss": event.loss, "zero": event.zero_share, "lam": event.lam, "scores": event.scores,
                          "weights": {name: one.clone() for name, one in weights.items()}})
    return found


def apart(ones: list[dict], others: list[dict]) -> dict:
    """How far two runs are from each other: losses, the share of zero groups, weights."""
    assert len(ones) == len(others)
    pairs = list(zip(ones, others, strict=True))
    losses = [abs(a["loss"] - b["loss"]) for a, b in pairs if a["loss"] is not None]
    zeros = [abs(a["zero"] - b["zero"]) for a, b in pairs if a["zero"] is not None]
    weights = [float((a["weights"][name] - b["weights"][name]).abs().max()) for a, b in pairs for name in a["weights"]]
    return {"steps": len(losses), "loss": max(losses), "zero": max(zeros, default=0.0), "weights": max(weights),
            "scores": all(a["scores"] == b["scores"] for a, b in pairs)}


def main(folder: Path, cases: dict[str, dict]) -> None:
    made = {}
    with placement.joined("cpu") as placed:
        for name, settings in cases.items():
            asked = tiny.settings(folder / "model", folder / "data", **settings)
            together = told(asked, placed=placed)
            same = placed.whole([float(sum(one.double().sum() for one in together[-1]["weights"].values()))])
            if placed.main:
                made[name] = apart(together, told(asked)) | {"same everywhere": len(set(same)) == 1}
    if placed.main:
        (folder / "told.json").write_text(json.dumps(made))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
