"""Which answers a cut changes: the dev sentences that are lost, those that are won, and where each flips first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from prune_core import InputError
from prune_core.cutting.answers import Flip, Flips
from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.evaluation.bench import Bench
from prune_core.models.devices import CPU
from prune_core.precision.formats import parse
from prune_core.runs.run import Run

SHOWN = 5  # sentences of each kind


class UncutAnswers:
    """The answers of the uncut, fine-tuned model on the main dev split, asked once."""

    def __init__(self, bench: Bench):
        """`bench`: the run's dense weights."""
        layout = bench.run.layout
        nothing = BlockMask(layout, {m.name: np.ones(layout.block.grid(m.m, m.n), bool) for m in layout.matrices})
        self.task, self.examples = bench.task, bench.examples
        self.outputs = bench.outputs(nothing)

    def against(self, after: np.ndarray, sparsity: float) -> Flips:
        """What changed where the answers are `after`: (examples, outputs)."""
        if not self.task.labels:
            moved = np.abs(after[:, 0] - self.outputs[:, 0])
            worst = np.argsort(-moved, kind="stable")[:SHOWN]
            return Flips(len(moved), int((moved > 0.5).sum()), None, None,
                         tuple(self.flip(int(i), after, sparsity) for i in worst))
        was, now, truth = self.outputs.argmax(1), after.argmax(1), np.asarray(self.examples.labels)
        lost, won = (was == truth) & (now != truth), (was != truth) & (now == truth)
        order = np.flatnonzero(lost)[np.argsort(-self.sure[lost], kind="stable")]
        return Flips(len(truth), int((was != now).sum()), int(lost.sum()), int(won.sum()),
                     tuple(self.flip(int(i), after, sparsity) for i in order[:SHOWN]))

    @property
    def sure(self) -> np.ndarray:
        """(examples,) probability of the answer that the uncut model gave."""
        odds = np.exp(self.outputs - self.outputs.max(1, keepdims=True))
        return odds.max(1) / odds.sum(1)

    def flip(self, i: int, after: np.ndarray, sparsity: float) -> Flip:
        """Example i, answered otherwise at this sparsity."""
        labels = self.task.labels
        name = (lambda row: labels[int(row.argmax())]) if labels else (lambda row: f"{float(row[0]):.2f}")
        truth = labels[int(self.examples.labels[i])] if labels else f"{float(self.examples.labels[i]):.2f}"
        sure = float(self.sure[i]) if labels else None
        return Flip(tuple(self.examples.texts[i]), truth, name(self.outputs[i]), name(after[i]), sure, sparsity)


def first(
    run: Run, sparsities: Sequence[float], scope: str | None = None, by: str = "norm", repaired: bool = False,
    source: str | None = None, formats: str = "", device: torch.device = CPU,
) -> dict:
    """The dense weights cut more and more, the rest in `formats`: which right answers turn wrong first, and stay so.

    What `flips --json` prints. Raises InputError.
    """
    if not sparsities or sorted(set(sparsities)) != list(sparsities):
        raise InputError(f"sparsities {', '.join(f'{s:g}' for s in sparsities) or 'none'}; needed: one or more, rising")
    stored, bench = parse(formats, run.layout), Bench(run, "dense", source, device)
    if not bench.task.labels:
        raise InputError(f"run {run.name!r} gives numbers, not classes: no answer flips")
    known, ranking, scope = UncutAnswers(bench), run.ranking("dense", by), scope or run.config.scope
    truth = np.asarray(known.examples.labels)
    right, steps = known.outputs.argmax(1) == truth, []
    for sparsity in sparsities:
        mask = mask_at_sparsity(ranking, run.layout, sparsity, scope)
        steps.append((mask.sparsity, bench.outputs(mask, repaired, formats=stored)))
    wrong = np.stack([outputs.argmax(1) != truth for _, outputs in steps])  # (sparsities, examples)
    for_good = np.flip(np.logical_and.accumulate(np.flip(wrong, 0), 0), 0)  # wrong here and at all that follow
    at = np.where(right & for_good.any(0), for_good.argmax(0), len(steps))
    order = [int(i) for i in np.lexsort((-known.sure, at)) if at[i] < len(steps)]
    told = [known.flip(i, steps[at[i]][1], steps[at[i]][0]) for i in order[:2 * SHOWN]]
    return {
        "run": run.name, "scope": scope, "by": by, "repaired": repaired, "formats": str(stored),
        "examples": len(truth), "right_before": int(right.sum()), "sparsities": [reached for reached, _ in steps],
        "lost": [int((right & row).sum()) for row in wrong], "won": [int((~right & ~row).sum()) for row in wrong],
        "first": [vars(flip) for flip in told]}
