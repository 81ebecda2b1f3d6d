"""Compare: runs side by side, score against what they save, with the spread over seeds, and in plain sentences."""

from __future__ import annotations

import statistics

import pandas as pd
import streamlit as st

from pages.shared import loaders, widgets
from pages.shared.loaders import SETTING
from pages.shared.processes import Failed
from pages.shared.widgets import download
from prune_core.cutting.masks import mask_at
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.showing import compare, figures
from prune_core.showing.compare import Group, Row

AXES = {"encoder": "compression of the encoder", "model": "compression of the whole model",
        "speedup": "predicted speedup", "measured": "measured speedup"}
SECONDS = 15  # that one measurement takes, about


def main() -> None:
    widgets.page("Compare")
    st.title("Compare", anchor=False)
    st.caption("Scores after retraining. Runs that differ only in their seed are one line: "
               "its mean, with the standard deviation over the seeds.")
    done = [entry.run for entry in loaders.listed()
            if entry.run and any(p["score_retrained"] is not None for p in entry.run.points)]
    if not done:
        st.info("No run has been retrained yet. Start one on the **Prune** page.")
        return
    with st.sidebar:
        runs = chosen(done)
        widgets.image_format()
    if not runs:
        st.info("Choose runs in the sidebar.")
        return
    for run in runs:
        widgets.not_glue(run)
    try:
        draw(runs)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")


def chosen(done: list[Run]) -> list[Run]:
    """The runs of one task that the person chose; the first twelve before that."""
    tasks = list(dict.fromkeys(run.task for run in done))
    task = st.selectbox("Task", tasks, key="task", bind="query-params")
    names = list(dict.fromkeys(run.name for run in done if run.task == task))
    picked = st.multiselect("Runs", names, names[:12], key=f"runs of {task}")
    return [loaders.run(name) for name in picked]


def draw(runs: list[Run]) -> None:
    """Curve, table, sentences, and the settings in which two runs differ."""
    groups = compare.groups(runs)
    axis = st.segmented_control("Horizontal axis", list(AXES), default="encoder", format_func=AXES.get, required=True,
                                key="axis", bind="query-params")
    if axis == "speedup" and not loaders.usual_profile():
        st.info("Predicted speedups need a latency profile: calibrate this machine on **Speed**.")
        return
    if axis == "measured":
        measure_what_is_missing(runs)
    metric = runs[0].metric
    lines = {group.label: line for group in groups if (line := points(group, axis))}
    if not lines:
        return
    dense = {run.name: run.dense_score for run in runs if run.dense_score is not None}
    st.plotly_chart(figures.comparison(lines, metric, AXES[axis], dense), key="compared", config=widgets.chart(),
                    alt="Dev score after retraining over compression or speedup, a line for each group of runs")
    rows = compare.rows_of(groups)
    table_of(rows, runs[0].task)
    sentences = list(compare.sentences(rows, metric.replace("_", " ")))
    if sentences:
        st.markdown("**In words**")
        st.markdown("\n".join(f"- {widgets.plain(sentence)}" for sentence in sentences))
    if len(runs) > 1:
        differences(runs)


def table_of(rows: list[Row], task: str) -> None:
    """A row for each group of runs and compression, and their CSV."""
    table = pd.DataFrame([{"Runs": row.method, "Compression": row.compression, "Encoder": row.compression_encoder,
                           "Mean": row.mean, "Spread": row.spread if len(row.scores) > 1 else None,
                           "Seeds": len(row.scores)} for row in rows])
    three, times = st.column_config.NumberColumn(format="%.3f"), st.column_config.NumberColumn(format="%.2fx")
    target = st.column_config.NumberColumn("Target", format="%.3gx")
    st.dataframe(table, hide_index=True, placeholder="–",
                 column_config={"Mean": three, "Spread": three, "Encoder": times, "Compression": target})
    download("Comparison (CSV)", table, f"{task}-compared.csv")


def points(group: Group, axis: str) -> list[tuple[float, float, float]]:
    """(x, mean score, spread) of a group, compression by compression."""
    made = []
    for row in compare.rows_of([group]):
        if axis in ("encoder", "model"):
            made.append((getattr(row, f"compression_{axis}"), row.mean, row.spread))
            continue
        speedup = {"speedup": predicted, "measured": measured}[axis]
        own = [(run, p) for run in group.runs for p in run.points if p["compression"] == row.compression]
        xs = [x for run, p in own if (x := speedup(run, p)) is not None]
        if xs:
            made.append((statistics.fmean(xs), row.mean, row.spread))
    return sorted(made)


def predicted(run: Run, point: dict) -> float | None:
    """The speedup of the retrained model at a point, by the usual profile; None where its norms are not there."""
    if not has_norms(run, point):
        return None
    norms = loaders.norms(run, run.saved(Stage.of("retrain", point["compression"])))
    return loaders.usual_profile().speedup(mask_at(norms, run.layout, 0.0), SETTING, run.heads)


def measured(run: Run, point: dict) -> float | None:
    """The same as it was last timed on this machine, dense and compact in turn; None where it was not."""
    return loaders.timed(run, Stage.of("retrain", point["compression"]))


def measure_what_is_missing(runs: list[Run]) -> None:
    """The button that times every retrained model which was not timed here yet."""
    left = [(run, p) for run in runs for p in run.points
            if p["score_retrained"] is not None and has_norms(run, p) and measured(run, p) is None]
    if not left or loaders.read_only():
        return
    st.info(f"{len(left)} of these models {'has' if len(left) == 1 else 'have'} not been timed on this machine yet: "
            f"dense and compact in turn, {SETTING.batch} sentences of {SETTING.length} tokens.")
    if st.button(f"Measure {len(left)} now", icon=":material/timer:",
                 help=f"About {widgets.duration(SECONDS * len(left))}; best while nothing else runs."):
        measure(left)


def measure(left: list[tuple[Run, dict]]) -> None:
    """Time these points one after the other; then draw the page anew."""
    bar = st.progress(0.0)
    try:
        for done, (run, p) in enumerate(left):
            rest = widgets.duration(SECONDS * (len(left) - done))
            bar.progress(done / len(left), f"{run.name} at {p['compression']:g}x, {rest} left")
            stage = Stage.of("retrain", p["compression"])
            loaders.measured(run, stage, run.config.scope, p["sparsity"], SETTING)
    except Failed as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
        return
    st.rerun()


def has_norms(run: Run, point: dict) -> bool:
    """Whether the norms that name the cut were recorded."""
    stage = Stage.of("retrain", point["compression"])
    return stage in run.stages and run.saved(stage) in run.with_norms


def differences(runs: list[Run]) -> None:
    """The settings in which two runs differ."""
    st.markdown("**How the settings differ**")
    left, right = st.columns(2)
    by_name = {run.name: run for run in runs}
    names = list(by_name)
    first = left.selectbox("Between", names, 0, key="first")
    second = right.selectbox("and", names, 1, key="second")
    rows = [(name, str(a), str(b)) for name, a, b in compare.differences(by_name[first], by_name[second])]
    if rows:
        heads = ["Setting", first, second if second != first else f"{second} "]
        st.dataframe(pd.DataFrame(rows, columns=heads), hide_index=True)
    else:
        st.caption("In none.")


main()
