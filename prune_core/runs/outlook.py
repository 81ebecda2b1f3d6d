"""What a quick run of the embedded model is known to learn: measured once, so that it can be said before the work."""

from __future__ import annotations

from dataclasses import dataclass

from prune_core.runs import estimate
from prune_core.runs.config import PruneConfig, preset
from prune_core.tasks import table_files
from prune_core.tasks.glue import TASKS
from prune_core.tasks.metrics import in_words


@dataclass(frozen=True)
class Outcome:
    """A dense dev score after so many steps, what always giving the most frequent answer scores, and what to do.

    `score` None: the task's data was not at hand, so nothing is known.
    """

    steps: int
    score: float | None
    majority: float
    instead: str


# docs/results.md, "What quick learns", has the commands and the tasks that do learn
INSTEAD = "mnli is a pair task that quick does teach"  # 0.507, where the most frequent answer scores 0.358
NOTHING = {
    "rte": Outcome(131, 0.520, 0.527, "{standard} has 0.567 on average, which may be chance too; " + INSTEAD),
    "wnli": Outcome(80, 0.563, 0.563, "{standard} was not measured there; " + INSTEAD),
    "mrpc": Outcome(165, 0.826, 0.812, "{standard} takes more steps: 460 gave 0.870 (data/recorded/mrpc-minilm-64x1)"),
    "qnli": Outcome(0, None, 0.505, "{standard} takes far more steps; " + INSTEAD),
}


def outlook(config: PruneConfig) -> str:
    """Why a run like this will end at chance, or why that is not known, with what to do; '' where it learns something.

    Of the quick preset with the embedded model as it is; whoever sets the steps knows better.
    """
    if (config.preset, config.model, config.start_from, config.dense_steps) != ("quick", "minilm", None, None):
        return ""
    outcome = NOTHING.get(config.task)
    if outcome is None or config.data == "practice" or table_files.is_own(config.data):
        return ""
    metric = in_words(TASKS[config.task].metric)
    longer = preset("standard", task=config.task, data=config.data, compressions=config.compressions)
    minutes = round((estimate.LOADING + estimate.work(longer, estimate.size_of(longer)).seconds) / 60)
    instead = outcome.instead.format(standard=f"preset standard (about {minutes} min)")
    if outcome.score is None:
        return f"whether quick can teach {config.task} anything was never measured; {instead}"
    little, nothing = f"teaches {config.task} so little that it may be chance", f"cannot teach {config.task} anything"
    teaches = little if outcome.score > outcome.majority else nothing
    return (f"quick {teaches}: {outcome.steps} steps of fine-tuning ended at {metric} {outcome.score:.3f}, and always "
            f"giving the most frequent answer scores {outcome.majority:.3f}; {instead}")
