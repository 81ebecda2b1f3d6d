"""What cutting one matrix or one layer alone costs: the exact dev score over a grid of shares, kept with the run.

The same operation as the real cut: thresholds for one scope key, 0 for all others, scored by the same Bench.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from prune_core import InputError, files
from prune_core.cutting.answers import Sensitivity
from prune_core.cutting.masks import by_scope, mask_at, thresholds_for
from prune_core.evaluation.bench import Bench
from prune_core.execution import native
from prune_core.models.devices import CPU
from prune_core.runs.run import Run

SHARES = (0.25, 0.5, 0.75, 0.9)


def sensitivity(
    run: Run, stage: str, scopes: Sequence[str] = ("layer", "matrix"), shares: Sequence[float] = SHARES,
    source: str | None = None, threads: int = 0, device: torch.device = CPU,
) -> Iterator[tuple[int, int, Sensitivity]]:
    """(done, total, point) of every scope key and share; each is written as it comes, what is there is not done again.

    Raises InputError for an unknown scope, a share out of range, or where weights or data are missing.
    """
    for share in shares:
        if not 0 < share < 1:
            raise InputError(f"share {share:g} is out of range; needed: more than 0 and less than 1")
    if unknown := [scope for scope in scopes if scope not in ("layer", "type", "matrix")]:
        raise InputError(f"scope {unknown[0]!r} is none of layer, type, matrix")
    norms, layout = run.norms(run.saved(stage)), run.layout
    wanted = [(scope, key, share)
              for scope in scopes for key in by_scope(layout, scope) for share in sorted(set(shares))]
    known = {(p.scope, p.key, p.share): p for p in run.sensitivity(stage)}
    bench = None
    for done, (scope, key, share) in enumerate(wanted, 1):
        if (scope, key, share) not in known:
            if bench is None:
                torch.set_num_threads(threads or os.cpu_count() or 1)
                native.build()
                bench = Bench(run, stage, source, device)
            threshold = thresholds_for(norms, layout, share, scope)[key]
            mask = mask_at(norms, layout, dict.fromkeys(by_scope(layout, scope), 0.0) | {key: threshold}, scope)
            *_, last = bench.stream(mask)
            score = last.final
            point = Sensitivity(scope, key, share, threshold, mask.sparsity,
                                score.scores[run.metric], score.low, score.high, score.examples)
            files.append_sealed(run.answers.sensitivity_file(stage), vars(point))
            known[scope, key, share] = point
        yield done, len(wanted), known[scope, key, share]
