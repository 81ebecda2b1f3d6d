"""In which arithmetic a score was taken, in words and as JSON, and what it changes of the answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prune_core.execution.paths import Choice
from prune_core.tasks import metrics
from prune_core.tasks.encoding import Encoded
from prune_core.tasks.glue import Task

Answers = Mapping[str, np.ndarray]  # dev split -> (examples, outputs)


def executed(choice: Choice) -> dict[str, str]:
    """{dtype, path, why} of what really ran: `executed` of `evaluate --json`."""
    return {"dtype": choice.dtype, "path": choice.path, "why": choice.why}


def named(ran: Mapping[str, str]) -> str:
    """'bf16 (bf16 avx512)': an arithmetic with its kernels; 'fp32' alone."""
    return ran["dtype"] if ran["dtype"] == ran["path"] else f"{ran['dtype']} ({ran['path']})"


def note(choice: Choice) -> str:
    """What is taken where that is not what was asked for by name, in one line; '' where it is."""
    if choice.asked == choice.dtype:
        return ""
    why = f": {choice.why}" if choice.why else ""
    return f"{choice.asked} was asked for, {named(executed(choice))} is taken{why}"


def changed(task: Task, answers: Answers, exact: Answers, dev: Mapping[str, Encoded]) -> dict[str, float | int | None]:
    """How far `answers` are from those in fp32, `exact`, over all dev splits: {answers, share, largest, fp32}.

    Of classes how many answers are others, and their share; of regression the largest difference; the headline score
    in fp32.
    """
    main = task.dev[0]
    told = {"answers": None, "share": None, "largest": None,
            "fp32": metrics.score(task, exact[main], dev[main].labels)[task.metrics[0]]}
    if not task.labels:
        return told | {"largest": max(float(np.abs(answers[split] - exact[split]).max(initial=0.0)) for split in exact)}
    others = sum(int((answers[split].argmax(1) != exact[split].argmax(1)).sum()) for split in exact)
    return told | {"answers": others, "share": others / sum(map(len, exact.values()))}
