"""Learn, step 7: recorded runs, and how far each can be pruned."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from pages.learn.parts import do_and_see, draw, halves, known, question, real_run
from pages.shared import widgets
from prune_core.methods.table import DISTILLED, METHODS
from prune_core.runs.run import Run
from prune_core.showing import exercises, figures
from prune_core.showing.exercises import Known
from prune_core.tasks.glue_folders import FOLDERS


def show() -> None:
    words, picture = halves()
    with words:
        st.markdown("How far can one go? These are recorded runs, each retrained after the cut. **Compression** 5x "
                    "means that a fifth of the weights in the pruned matrices is left. The dotted line is what always "
                    "giving the most frequent answer scores: a model on that line has learned nothing.")
        do_and_see("change the task.",
                   "how far each line stays above the dotted one, and where one comes down to it.")
    there = known()
    if not there.runs:
        st.info("The recorded runs are not there: they ship in data/recorded.")
        return
    tasks = list(dict.fromkeys(run.task for run in there.runs))
    first = exercises.FIRST_TASK if exercises.FIRST_TASK in tasks else tasks[0]  # there the lines do meet
    with words:
        task = st.segmented_control("Task", tasks, default=first, required=True, key="task that breaks",
                                    format_func=lambda task: FOLDERS.get(task, task))
    runs = there.of(task)
    with picture:
        draw("breaks", "Dev score over compression of the recorded runs of a task, with the score of the most frequent "
                       "answer", _lines, there, task)
    st.markdown("  \n".join(f"`{run.name}`: {how_made(run)}." for run in runs))
    st.caption("Scores are on the whole dev set, measured when the runs were recorded. Each is one training: another "
               "seed gives a score a little higher or lower.")
    question("RTE has 277 dev sentences. How sure can one be of a difference of two points there?",
             "Not at all: the 95% interval of such a score is about six points to either side. A single run on a small "
             "task shows nothing; several seeds, and their spread, show a little. "
             "**Compare** says when a difference is more than the spread.")
    for run in runs:
        real_run(f"{widgets.plain(run.name)} on Explore", run.name)


def _lines(known: Known, task: str) -> go.Figure:
    runs = known.of(task)
    lines = {run.name: [(1.0, run.dense_score), *((p["compression_encoder"], p["score_retrained"]) for p in run.points
                                                  if p["score_retrained"] is not None)] for run in runs}
    return figures.until_it_breaks(lines, runs[0].metric, runs[0].majority_score)


def how_made(run: Run) -> str:
    """'blocks of 64x1, cut by surgeon, which removes the blocks whose loss …; retrained on the labels alone'"""
    config = run.config
    taught = f"distilled, that is, {DISTILLED}" if config.taught else "retrained on the labels alone"
    return f"blocks of {config.block}, cut by **{config.method}**, which {METHODS[config.method].explained}; {taught}"
