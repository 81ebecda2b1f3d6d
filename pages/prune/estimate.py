"""How long a run will take, told before it starts: counted, or by the pace of a run that this machine has done."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from pages.shared import loaders
from prune_core.runs import estimate as core
from prune_core.runs.config import PruneConfig
from prune_core.runs.estimate import LOADING, Size, Work
from prune_core.runs.outlook import outlook
from prune_core.runs.schedule import NOMINAL_FLOPS
from prune_core.runs.shelf import Listed
from prune_core.tasks import table_files


@dataclass(frozen=True)
class Estimate:
    """What the run does, its seconds from Start to its end (None: known once it runs), and where they are from.

    `outlook`: why it will learn nothing, where that is known.
    """

    work: Work | None
    seconds: float | None
    source: str
    outlook: str = ""


def estimate(config: PruneConfig, listed: list[Listed]) -> Estimate:
    """The estimate for this configuration, given the runs there are. The run's own status goes on from it."""
    size = _size(config)
    if size is None:
        return Estimate(None, None, "This model's size is not known before its config.json is here: the time left is "
                                    "shown once the run has started.")
    work = core.work(config, size)
    if known := core.measured(config, task_of(config), listed):
        step_seconds, name = known
        work = work.at(step_seconds)
        source = f"by {step_seconds:.2f} s a step, measured on this machine in run {name}."
    else:
        source = (f"on two idle cores at {NOMINAL_FLOPS / 1e9:.0f} GFLOP/s; other work beside it adds to that. After "
                  "one run of this task: by this machine's own pace.")
    return Estimate(work, LOADING + work.seconds, "Scoring included, " + source, outlook(config))


def task_of(config: PruneConfig) -> str:
    """What the run's task will be called."""
    return ("practice" if config.data == "practice" else
            table_files.task_name(config.data) if table_files.is_own(config.data) else config.task)


def _size(config: PruneConfig) -> Size | None:
    if not table_files.is_own(config.data):
        return _size_of(config)
    rows = loaders.own_table(config.data, config.columns, config.label, config.regression)
    return core.size_of_table(config, rows.rows, rows.characters)


@st.cache_data(ttl=60, max_entries=50, show_spinner=False)
def _size_of(config: PruneConfig) -> Size | None:
    return core.size_of(config)
