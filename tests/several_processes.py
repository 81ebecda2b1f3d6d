"""Trains as one of several processes that torchrun has started, and alone, step by step from the same state; the first
process writes how far they are from each other after every step.

    torchrun --nproc-per-node 2 tests/several_processes.py FOLDER CASES
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import tiny
import torch

from prune_core.runs.snapshots import Snapshot
from prune_core.training import placement
from prune_core.training.loop import Pruning

PLAIN = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}  # each process drops out other units


def snapshots(pruning: Pruning) -> Iterator[Snapshot]:
    return (event for event in pruning if isinstance(event, Snapshot))


def apart(together: Pruning, alone: Pruning) -> dict[str, float]:
    """The largest differences after any step: losses, what was decided, scores; Adam's means of the gradients over the
    largest of them (the weights themselves would say less: where there is no gradient but rounding, Adam makes steps of
    that).
    """
    most = {"steps": 0, "loss": 0.0, "decided": 0.0, "gradients": 0.0, "scores": 0.0}
    for one, other in zip(snapshots(together), snapshots(alone), strict=True):
        pairs = {"loss": [(one.loss, other.loss)], "decided": [(one.zero_share, other.zero_share)],
                 "scores": [((one.scores or {}).get(name), score) for name, score in (other.scores or {}).items()]}
        for what, values in pairs.items():
            most[what] = max([most[what], *(abs(a - b) for a, b in values if b is not None)])
        most["steps"] += one.loss is not None and not one.saved
        if alone.at_rest:
            ours, (theirs, numbers) = together.state()[0], alone.state()
            means = [name for name in theirs if name.startswith("adam.exp_avg.")]
            far = max((float((ours[name] - theirs[name]).abs().max()) for name in means), default=0.0)
            size = max((float(theirs[name].abs().max()) for name in means), default=1.0)
            most["gradients"] = max(most["gradients"], far / size)
            together.restore_(theirs, numbers)
        together._kept.update(alone._kept)
    return most


def main(folder: Path, cases: dict[str, dict]) -> None:
    made = {}
    with placement.joined("cpu") as placed:
        for name, settings in cases.items():
            asked = tiny.settings(folder / "model", folder / "data", **settings)
            together = tiny.pruning(asked, placed=placed)
            told = apart(together, tiny.pruning(asked))
            made[name] = told | {"everywhere": placed.whole([told])}
    if placed.main:
        (folder / "told.json").write_text(json.dumps(made))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
