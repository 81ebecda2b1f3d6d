"""The cut to make for a loss, a speedup or a compression: runs/proposal.py searches, exact scores decide."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from prune_core.evaluation import exact
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.speedup import usual_profile
from prune_core.execution import paths
from prune_core.models.devices import CPU
from prune_core.runs import proposal
from prune_core.runs.proposal import Aim, Candidate, Proposal
from prune_core.runs.run import Run


def propose(run: Run, stage: str, aim: Aim, repaired: bool = False, source: str | None = None,
            threads: int = 0, dtype: str = "auto",
            device: torch.device = CPU) -> Iterator[tuple[int, int, Candidate | Proposal]]:
    """(done, of at most how many, candidate with its exact score) as they come; at last (done, done, Proposal).

    Scores are in fp32, speedups for the arithmetic `dtype`. Raises InputError where weights or data are missing or no
    cut reaches the aim, saying what can be reached.
    """
    search = proposal.search(run, stage, aim, usual_profile(), repaired, paths.check(dtype))
    step, bench = next(search), Bench(run, stage, source, device)
    while True:
        candidate = step.candidate
        answer = exact.evaluate(run, stage, candidate.cut, threads=threads, bench=bench)
        yield step.done + 1, step.total, proposal.answered(candidate, answer, run.dense_score)
        try:
            step = search.send(answer)
        except StopIteration as ended:
            yield step.done + 1, step.done + 1, ended.value
            return
