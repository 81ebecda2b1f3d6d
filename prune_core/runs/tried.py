"""Settings of a run that were scored: what they take and what they score, kept so that the trade can be drawn.

    tried-<stage>.jsonl, one sealed line a setting; a search's steps are those of its name, in order
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from prune_core import files
from prune_core.runs.run import Run


@dataclass(frozen=True)
class Tried:
    """`cut`: {scope, share, thresholds, by, repaired, formats}, by thresholds where keys differ; bytes of the model.

    `ms`: predicted for 32 sentences of 128 tokens, by the path that executes it; None where that was not calibrated.
    """

    cut: Mapping
    score: float
    low: float
    high: float
    examples: int
    bytes: int
    encoder_bytes: int
    sparsity: float  # share of zero weights of the prunable matrices, the pattern's included
    dtype: str = "fp32"  # in which it was scored
    ms: float | None = None
    search: str = ""  # the search that it is a step of
    step: int | None = None


def keep(run: Run, stage: str, tried: Tried) -> None:
    """Once for each setting (and step); where nothing can be written it is not kept."""
    if not any(_same(tried, one) for one in read(run, stage)):
        with contextlib.suppress(OSError):
            files.append_sealed(run.later / f"tried-{stage}.jsonl", asdict(tried))


def read(run: Run, stage: str) -> list[Tried]:
    """In the order in which they were scored; lines that a crash tore are left out."""
    found = []
    for folder in dict.fromkeys((run.path, run.later)):
        for line in files.read_sealed(folder / f"tried-{stage}.jsonl"):
            with contextlib.suppress(TypeError):
                found.append(Tried(**line))
    return found


def pareto(tried: list[Tried], by: str = "bytes") -> list[Tried]:
    """Those that no other one beats in both: smallest first, each better scored than all before. `by`: bytes or ms."""
    best, front = -float("inf"), []
    for one in sorted((t for t in tried if getattr(t, by) is not None), key=lambda t: (getattr(t, by), -t.score)):
        if one.score > best:
            best, front = one.score, [*front, one]
    return front


def _same(one: Tried, other: Tried) -> bool:
    return replace(one, ms=None, low=0, high=0) == replace(other, ms=None, low=0, high=0)
