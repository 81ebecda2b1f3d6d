"""Records other rankings of a run's groups than their norms."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from prune_core import files
from prune_core.cutting.masks import Norms
from prune_core.evaluation.bench import Bench
from prune_core.methods import rankings
from prune_core.models.devices import CPU
from prune_core.runs.places import RunError
from prune_core.runs.run import Run


def rank(run: Run, stage: str, names: Sequence[str], source: str | None = None,
         threads: int = 0, device: torch.device = CPU) -> Iterator[tuple[str, Path]]:
    """Record these rankings of a stage's groups: (name, file) as each is done. Raises InputError."""
    from safetensors.numpy import save

    for name in names:
        rankings.check_recordable(name)  # a wrong name is told before the work
    norms = run.norms(run.saved(stage))
    torch.set_num_threads(threads or os.cpu_count() or 1)
    bench = Bench(run, stage, source, device)
    for name in names:
        ranking = told_from_zero(rankings.named(name, bench.grams(), bench.train).of(bench.encoder, run.layout), norms)
        path = run.answers.ranking_file(stage, name)
        try:
            files.write_whole(path, save(ranking))
        except OSError as error:
            raise RunError(f"scores cannot be written to {str(path)!r}: {error.strerror or error}") from None
        yield name, path


def told_from_zero(ranking: Norms, norms: Norms) -> dict[str, np.ndarray]:
    """The same, with the least positive number where a group counts for nothing and is not zero.

    So only what is zero already ranks 0, by any ranking.
    """
    return {name: np.where((values <= 0) & (norms[name] > 0), np.finfo(np.float32).tiny, values).astype(np.float32)
            for name, values in ranking.items()}
