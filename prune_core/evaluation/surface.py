"""More score surfaces than a run records by itself: other scopes, rankings and formats, with and without repair."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from prune_core import files
from prune_core.cutting.answers import GRID, SurfacePoint
from prune_core.cutting.cuts import SurfaceKind
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.rank import rank
from prune_core.execution import native
from prune_core.methods.rankings import RANKINGS
from prune_core.methods.table import METHODS
from prune_core.models.devices import CPU
from prune_core.precision.formats import parse
from prune_core.runs.run import Run
from prune_core.runs.stages import DENSE

Steps = Iterator[tuple[int, int, SurfaceKind, SurfacePoint]]  # done, of how many, what was scored


def repaired(run: Run, device: torch.device = CPU) -> Steps:
    """`surfaces` of what the dense weights keep without training, repaired.

    Cut by norm and, where the run was ranked so that matrices compare, by that ranking with one threshold for all.
    """
    kinds = [SurfaceKind("norm", run.config.scope, True)]
    for name in dict.fromkeys((METHODS[run.config.method].ranking, run.config.ranking)):
        if name and RANKINGS[name].compares_matrices:
            if name not in run.rankings(DENSE):
                list(rank(run, DENSE, [name], threads=run.config.threads, device=device))
            kinds.append(SurfaceKind(name, "global", True))
    yield from surfaces(run, DENSE, kinds, threads=run.config.threads, device=device)


def surfaces(run: Run, stage: str, kinds: Sequence[SurfaceKind], source: str | None = None, threads: int = 0,
             device: torch.device = CPU) -> Steps:
    """Every kind at every sparsity of GRID; each is written as it comes, and what is there is not computed again.

    Sparsities are those of the blocks, without a pattern's zeros. Raises InputError for an unknown scope, a ranking
    that was not recorded, formats that do not fit, or where weights or data are missing.
    """
    formats = {kind: parse(kind.formats, run.layout) for kind in kinds}
    rankings = {kind.ranking: run.ranking(stage, kind.ranking) for kind in kinds}
    known = {kind: {p.wanted: p for p in points} for kind, points in run.surfaces(stage).items()}
    bench, done, total = None, 0, len(kinds) * len(GRID)
    for kind in kinds:
        for wanted in GRID:
            mask = mask_at_sparsity(rankings[kind.ranking], run.layout, wanted, kind.scope)
            if (point := known.get(kind, {}).get(wanted)) is None:
                if bench is None:
                    torch.set_num_threads(threads or os.cpu_count() or 1)
                    native.build()
                    bench = Bench(run, stage, source, device)
                *_, last = bench.stream(mask, repaired=kind.repaired, formats=formats[kind])
                point = SurfacePoint(wanted, mask.sparsity, last.score, last.low, last.high)
                files.append_sealed(run.answers.surfaces_file(stage), kind.to_json() | vars(point))
            done += 1
            yield done, total, kind, point
