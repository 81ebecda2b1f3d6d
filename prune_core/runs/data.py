"""The sentences that a run trains and scores on: read as its config says, and never others in their place."""

from __future__ import annotations

from pathlib import Path

from prune_core import InputError
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.tasks import delimited, glue, table_files
from prune_core.tasks.glue import TaskData, load


def load_for(config: PruneConfig, source: str | None = None) -> TaskData:
    """What a run of this config trains and scores on: from `source`, else from where the config has it.

    Raises InputError.
    """
    return load(config.task, source or config.data, columns=config.columns, label=config.label, seed=config.seed,
                regression=config.regression)


def place_of(run: Run) -> str:
    """Where a run's data is: of a table the copy that came along from another machine, else where it was."""
    copy = run.path / "data" / Path(run.data).name
    return str(copy) if run.is_own and copy.is_file() else run.data


def check_data(run: Run, source: str | None = None) -> None:
    """Raises RunError where a table file is no longer what the run was trained on.

    Its rows would change sides between train and dev.
    """
    path, known = source or place_of(run), run.about.get("data_digest")
    if known and table_files.is_own(path) and (now := table_files.digest(path)) and now != known:
        raise RunError(f"{Path(path).name!r} has changed since run {run.name!r} was made; put back what it was, "
                       "or begin a new run")
    config = run.config
    old = "regression" not in run.about["config"]  # then quotes were taken off every TSV, and rows went with them
    if old and path.lower().endswith(".tsv") and Path(path).is_file():
        if delimited.UNQUOTED in table_files.read(path, config.columns, config.label).note:
            raise RunError(f"run {run.name!r} was made when quotes in {Path(path).name!r} joined its lines; now every "
                           "line is a row, so begin a new run")


def why_not(data: TaskData) -> str:
    """Of the practice set that came instead of what was asked, why, in brackets; else ''."""
    why, instead, _ = data.note.partition(", so this is not ")
    return f" ({why})" if instead else ""


def data_of(run: Run, source: str | None) -> TaskData:
    """The data of a run's task: from `source`, else from where the run had it.

    Raises InputError, and never gives the practice set instead.
    """
    if run.is_practice and source in (None, "practice"):
        return glue.load(run.config.task, "practice")
    check_data(run, source)
    if run.is_own and not source and not Path(place_of(run)).exists():
        raise RunError(f"run {run.name!r}: its table {run.data!r} is not there; put it back, or give --data FILE, "
                       "where it lies now")
    data = load_for(run.config, source or place_of(run))
    if data.task.name != run.task:
        needed = (f"--data FILE, called {Path(run.data).name!r} as it was" if run.is_own else
                  "--data FOLDER in the layout of nyu-mll/glue")
        raise InputError(f"run {run.name!r} needs {run.task}, which is not at {source or run.data} now{why_not(data)}; "
                         f"give {needed}")
    return data
