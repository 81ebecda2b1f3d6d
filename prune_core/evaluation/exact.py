"""The exact dev score of a cut of a run's weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask, mask_at
from prune_core.evaluation import arithmetic, trials
from prune_core.evaluation.arithmetic import Answers
from prune_core.evaluation.bench import Bench, Doing, quiet
from prune_core.evaluation.dev_score import DevScore, Running
from prune_core.execution import native, paths
from prune_core.execution.paths import Choice
from prune_core.models.devices import CPU
from prune_core.precision.formats import Formats, parse
from prune_core.precision.storage import counts, storage
from prune_core.runs.run import Run


# long: a score is asked for in many ways, and told with all that it is of
def evaluate(run: Run, stage: str, cut: Cut, source: str | None = None, threads: int = 0,
             report: Callable[[Running], None] = lambda running: None, fresh: bool = False,
             bench: Bench | None = None, doing: Doing = quiet, dtype: str = "fp32", path: str | None = None,
             taken: Callable[[Choice], None] = lambda choice: None, compare: bool = False,
             device: torch.device = CPU) -> dict:
    """The exact dev score of a cut of a stage, on the run's dev examples: what `evaluate --json` prints.

    What stays is stored in the formats of the cut, and scored so; bytes are those of the model, and of its prunable
    matrices. In the arithmetic `dtype`, by `path` where that is forced; `taken` is told what really runs, before.
    `compare`: also how many answers are others than in fp32, which takes a second pass; else only if it takes none.
    `report` gets every running score, `doing` what else takes time; both may raise to stop. `fresh` does not look
    whether the answer is known; `bench`: weights and data that are loaded already. Seconds count from when both are
    loaded. Raises InputError.
    """
    formats = parse(cut.formats, run.layout)
    device = bench.device if bench else device
    choice = paths.choose(dtype, path, formats, device)
    taken(choice)
    ranking = run.ranking(stage, cut.ranking)
    thresholds = cut.resolved(ranking, run.layout)
    mask = mask_at(ranking, run.layout, thresholds, cut.scope)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    bench = bench or Bench(run, stage, source, device)
    native.build()  # built, where that is still to be done, before the clock starts
    start, first = time.perf_counter(), None
    for running in bench.stream(mask, fresh, cut.repaired, doing, dtype, path, formats):
        first = first or time.perf_counter() - start
        if (ran := bench.choice(dtype, path, formats)) != choice:  # this model cannot run what the machine can
            taken(choice := ran)
        report(running)
    score, seconds = running.final, time.perf_counter() - start
    changed = _changed(bench, mask, cut.repaired, score, doing, (dtype, path), formats, compare)
    alike = len(set(thresholds.values())) == 1
    stored = storage(mask, formats, tuple(bench.encoder.model.get_input_embeddings().weight.shape))
    trials.keep(run, stage, replace(cut, formats=str(formats)), mask, score, stored, choice)
    return {"run": run.name, "phase": str(stage), "scope": cut.scope, "data": run.data, "by": cut.ranking,
            "repaired": cut.repaired, "formats": str(formats), "dtype": dtype, "executed": arithmetic.executed(choice),
            **counts(mask, formats), **stored.to_json(),
            "threshold": next(iter(thresholds.values())) if alike else thresholds,
            "metric": run.metric, "score": score.scores[run.metric], "low": score.low, "high": score.high,
            "scores": dict(score.scores), "examples": score.examples, "changed": changed,
            "seconds_to_first": first, "seconds": seconds}


def _changed(bench: Bench, mask: BlockMask, repaired: bool, score: DevScore, doing: Doing,
             asked: tuple[str, str | None], formats: Formats, compute: bool) -> dict | None:
    """What arithmetic.changed tells of `score`, in the dtype and by the path `asked` for, and the score in `fp32`.

    None in fp32, and where it takes another pass and is not to `compute` one. Kept with the score.
    """
    choice = bench.choice(*asked, formats)
    if choice.dtype == "fp32" or score.changed:
        return score.changed and dict(score.changed)

    def answers(dtype: str, path: str | None = None) -> Answers | None:
        if compute and bench.answers(mask, repaired, bench.choice(dtype, path, formats), formats) is None:
            for running in bench.stream(mask, True, repaired, doing, dtype, path, formats):
                doing("comparing with fp32", running.done, running.total)
        return bench.answers(mask, repaired, bench.choice(dtype, path, formats), formats)

    there, plain = answers(*asked), answers("fp32")
    if there is None or plain is None:
        return None
    told = arithmetic.changed(bench.task, there, plain, bench.dev)
    bench.keep(mask, repaired, choice, replace(score, changed=told), formats)
    return told
