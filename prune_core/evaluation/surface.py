"""More score surfaces than a run records by itself: for other scopes, other scores of the groups, with and without repair. Kept with the run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from prune_core import files
from prune_core.cutting.answers import GRID, Kind, SurfacePoint
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.rank import rank
from prune_core.execution import native
from prune_core.methods.rankings import RANKINGS
from prune_core.methods.table import METHODS
from prune_core.runs.run import Run


def repaired(run: Run) -> Iterator[tuple[int, int, Kind, SurfacePoint]]:
    """`surfaces` of what could be kept of the dense weights without training, repaired: cut by norm and, where the run was
    ranked so that matrices compare, by that ranking."""
    kinds = [Kind("norm", run.config.scope, True)]
    for name in dict.fromkeys((METHODS[run.config.method].ranking, run.config.ranking)):
        if name and RANKINGS[name].compares_matrices:
            if name not in run.ranked("dense"):
                list(rank(run, "dense", [name], threads=run.config.threads))
            kinds.append(Kind(name, "global", True))
    yield from surfaces(run, "dense", kinds, threads=run.config.threads)


def surfaces(run: Run, phase: str, kinds: Sequence[Kind], source: str | None = None, threads: int = 0) -> Iterator[tuple[int, int, Kind, SurfacePoint]]:
    """(done, total, kind, point) for every kind and sparsity; each is written as it comes, and what is there is not computed again.

    Raises InputError for an unknown scope, a score that was not recorded, or where weights or data are missing.
    """
    ranks = {kind.by: run.ranks(phase, kind.by) for kind in kinds}
    known = {kind: {p.wanted: p for p in points} for kind, points in run.surfaces(phase).items()}
    bench, done, total = None, 0, len(kinds) * len(GRID)
    for kind in kinds:
        for wanted in GRID:
            mask = mask_at_sparsity(ranks[kind.by], run.layout, wanted, kind.scope)
            if (point := known.get(kind, {}).get(wanted)) is None:
                if bench is None:
                    torch.set_num_threads(threads or os.cpu_count() or 1)
                    native.library()
                    bench = Bench(run, phase, source)
                *_, last = bench.stream(mask, repaired=kind.repaired)
                point = SurfacePoint(wanted, mask.sparsity, last.score, last.low, last.high)
                files.append_sealed(run.surfaces_file(phase), vars(kind) | vars(point))
            done += 1
            yield done, total, kind, point
