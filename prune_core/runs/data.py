"""The sentences that a run trains and scores on: read as its config says, and never others in their place."""

from __future__ import annotations

from prune_core import InputError
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run
from prune_core.tasks import glue
from prune_core.tasks.glue import TaskData, load


def load_for(config: PruneConfig, source: str | None = None) -> TaskData:
    """What a run of this config trains and scores on, from `source` or from where the config has it. Raises InputError."""
    return load(config.task, source or config.data, columns=config.columns, label=config.label, seed=config.seed)


def data_of(run: Run, source: str | None) -> TaskData:
    """The data of a run's task: from `source`, else from where the run had it. Raises InputError, never the practice set instead."""
    if run.is_practice and source in (None, "practice"):
        return glue.load(run.config.task, "practice")
    run.check_data(source)
    data = load_for(run.config, source or run.data)
    if data.task.name != run.task:
        raise InputError(f"run {run.name!r} needs {run.task}, which is not at {source or run.data} now; give --data FOLDER "
                         "in the layout of nyu-mll/glue")
    return data
