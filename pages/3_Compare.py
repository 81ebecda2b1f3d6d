"""Compare: which result to take, the runs side by side, score against what they save, and in plain sentences."""

from __future__ import annotations

import contextlib
import io
import time

import pandas as pd
import streamlit as st

from pages.shared import copying, loaders, present, timings, widgets
from pages.shared.loaders import SETTING
from pages.shared.processes import Failed
from pages.shared.widgets import download
from prune_core.cutting.masks import BlockMask, mask_at
from prune_core.latency import apart
from prune_core.runs import best
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.showing import canvas, compare, figures
from prune_core.showing.compare import AIMS, Row
from prune_core.showing.figures import Compared
from prune_core.showing.report.recommend import points
from prune_core.tasks.metrics import in_words

AXES = {"encoder": "compression of the encoder", "model": "compression of the whole model",
        "fewer": "bytes of the model", "fewer_encoder": "bytes of the encoder", "speedup": "predicted speedup",
        "measured": "measured speedup"}
TITLES = AXES | {"fewer": "times fewer bytes of the whole model than in fp32",
                 "fewer_encoder": "times fewer bytes of the encoder than in fp32"}
SWEEP = 60  # runs of a sweep that are taken at once; norms of each are read
SECONDS = 40  # that one measurement takes, about


def main() -> None:
    widgets.page("Compare")
    if not present.on():
        st.title("Compare", anchor=False)
    named: dict[str, Run | None] = {}
    for entry in loaders.listed():
        named.setdefault(entry.name, entry.run)  # of two runs of one name it is one's own that opens
    done = [run for run in named.values() if run and any(p["score_retrained"] is not None for p in run.points)]
    if not done:
        st.info("No run has been retrained yet. Start one on the **Prune** page.")
        return
    with st.sidebar:
        runs = chosen(done)
        present.switch()
        widgets.image_format()
    present.begin()
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
    """The runs of one task that the person chose; before that the task of the run that all pages open on, twelve runs.
    """
    tasks = list(dict.fromkeys(run.task for run in done))
    first = first_task(done)
    task = st.selectbox("Task", tasks, tasks.index(first), key="task", bind="query-params")
    names = list(dict.fromkeys(run.name for run in done if run.task == task))
    asked = of_sweep(names)
    key = f"runs of {task}" + f" in a sweep, {len(asked)}" * bool(asked)  # as more come, they are taken too
    picked = st.multiselect("Runs", names, asked or names[:12], key=key)
    return [loaders.run(name) for name in picked]


def first_task(done: list[Run]) -> str:
    """The task to open on: of the sweep that the address names, else of the run that all pages open on."""
    if name := st.query_params.get("cells"):
        with contextlib.suppress(RunError):
            cells = {cell["run"] for cell in loaders.sweep(name)["cells"]}
            if of_it := [run.task for run in done if run.name in cells]:
                return of_it[0]
    return loaders.run(loaders.first(list(dict.fromkeys(run.name for run in done)))).task


def of_sweep(names: list[str]) -> list[str]:
    """The runs of the sweep that the address names, as far as they have come; [] without one."""
    name = st.query_params.get("cells")
    if not name:
        return []
    try:
        cells = {cell["run"] for cell in loaders.sweep(name)["cells"]}
    except RunError as error:
        st.caption(widgets.plain(str(error)))
        return []
    known, code = [one for one in names if one in cells], widgets.code(name)
    st.caption(f"Of sweep {code}: {len(known)} of {len(cells)} cells have a result"
               + (f"; the first {SWEEP} are taken." if len(known) > SWEEP else "."))
    return known[:SWEEP]


def draw(runs: list[Run]) -> None:
    """The answer, then what it rests on: curve, table, sentences, and the settings in which two runs differ."""
    groups = compare.groups(runs)
    profile = loaders.usual_profile()
    guessed = compare.rows_of(groups, predicted, mark=widgets.mark(profile) if profile else "")
    timed = compare.rows_of(groups, measured, timed=True)
    all_timed = all(row.speedup is not None for row in timed)
    heading = st.container()
    allowed, rows = answer(timed if all_timed else guessed)
    if present.on():
        heading.title(widgets.plain(title(runs[0], allowed)), anchor=False)
    else:
        explained(runs)
    chart(runs, rows[0], {"speedup": guessed, "measured": timed})
    if present.on():
        return
    table_of(rows, runs[0].task, allowed, [] if all_timed else timed)
    sentences = list(compare.sentences(compare.rows_of(groups), in_words(runs[0].metric)))
    if sentences:
        st.markdown("**In words**")
        st.markdown("\n".join(f"- {widgets.plain(sentence)}" for sentence in sentences))
    if len(runs) > 1:
        differences(runs)


def title(run: Run, allowed: float) -> str:
    """What is compared, in words, for a room: 'SST-2: what can be saved if 1 point of accuracy may be lost'."""
    return f"{canvas.task_title(run)}: what can be saved if {points(allowed)} of {in_words(run.metric)} may be lost"


def answer(rows: list[Row]) -> tuple[float, list[Row]]:
    """What the person may lose and wants most, and what to take then: (loss allowed, the rows, the answer first)."""
    with st.container(border=True, key="answer"):
        with present.desk("question").container(horizontal=True, gap="medium", vertical_alignment="bottom"):
            lost = st.number_input("Maximum loss (points)", 0.0, 20.0, 100 * best.ALLOWED, 0.5, format="%.1f",
                                   width=190, key="points", bind="query-params",
                                   help="Below the score of the run's own dense model. One point is 0.01 of the score.")
            aim = st.segmented_control("Make the most of", list(AIMS), default="speedup", required=True, key="aim",
                                       format_func=lambda name: AIMS[name][0], bind="query-params", wrap=True)
        allowed = lost / 100
        rows = compare.sorted_rows(rows, allowed, aim)
        st.subheader(widgets.plain(compare.answer(rows, allowed, aim)), anchor=False)
        first = rows[0]
        with present.desk("links").container(horizontal=True, gap="medium"):
            st.page_link("pages/2_Explore.py", label="Explore it", icon=":material/grid_on:",
                         query_params={"run": first.runs[0], "at": first.stage})
            st.page_link("pages/6_Report.py", label="Report on it", icon=":material/description:",
                         query_params={"run": first.runs[0], "stage": first.stage, "allowed": f"{lost:g}"})
        st.caption(told_of(rows))
    return allowed, rows


def told_of(rows: list[Row]) -> str:
    """Where the speedups come from, and how far the scores can be trusted."""
    where = f"{SETTING.words}, over the best dense engine"
    if rows[0].timed:
        told = f"Speedups were measured on this machine: {where}."
    elif any(row.speedup is not None for row in rows):
        told = (f"Speedups are predicted for {widgets.plain(next(iter(loaders.profiles())))}: {where}, "
                "in the fastest precision.")
    else:
        told = "No speedup is known: calibrate this machine on **Speed**. Until then the encoder's compression counts."
    if 0 < (unknown := sum(row.speedup is None for row in rows)) < len(rows):
        told += f" Of {unknown} of these models none is known: their block norms after retraining were not recorded."
    seeds = max(len(row.scores) for row in rows)
    return told + " Scores after retraining" + ("; ± is the standard deviation over the seeds." if seeds > 1 else ".")


def explained(runs: list[Run]) -> None:
    """A sentence for each method that these runs were made by."""
    with st.expander("What these methods do", icon=":material/help:"):
        st.markdown("\n".join(f"- **{name}** {words}." for name, words in compare.methods_explained(runs).items()))


def chart(runs: list[Run], first: Row, known: dict[str, list[Row]]) -> None:
    """Score over what the person chose; `first` is marked. `known`: rows with each kind of speedup."""
    with present.desk("axis"):
        axis = st.segmented_control("Horizontal axis", list(AXES), default="encoder", format_func=AXES.get,
                                    required=True, key="axis", bind="query-params", wrap=True)
    if axis == "measured" and not present.on():
        measure_what_is_missing(runs)
    rows = known.get(axis, known["speedup"])
    lines: dict[str, list[Compared]] = {}
    marked = None
    for row in rows:
        x = getattr(row, "speedup" if axis in known else axis if axis.startswith("fewer") else f"compression_{axis}")
        if x is None:
            continue
        said = said_of(row) if axis == "measured" else ""
        lines.setdefault(row.method, []).append(Compared(x, row.mean, row.spread, f"{row.compression:g}x", said))
        if (row.method, row.compression) == (first.method, first.compression):
            marked = (x, row.mean)
    if not lines:
        st.info("Predicted speedups need a latency profile: calibrate this machine on **Speed**." if axis == "speedup"
                else "Bytes are counted from block norms, which were not recorded after retraining." if "fewer" in axis
                else "Nothing was measured on this machine yet.")
        return
    dense = {run.name: run.dense_score for run in runs if run.dense_score is not None}
    ordered = {name: sorted(points) for name, points in lines.items()}
    copying.chart(figures.comparison(ordered, runs[0].metric, TITLES[axis], dense, marked), key="compared",
                  alt="Dev score after retraining over compression or speedup, a line for each group of runs", room=470)
    if axis == "measured" and not present.on():
        reasons(runs)


def said_of(row: Row) -> str:
    """Where and when a row was measured, for the pointer."""
    last = timings.timing(loaders.run(row.runs[0]), row.stage) or {"machine": {}}
    when = time.strftime(", %-d %B %Y", time.localtime(last["when"])) if last.get("when") else ""
    return f"<br>{last['machine'].get('cpu', '')}{when}"


def reasons(runs: list[Run]) -> None:
    """Why what was measured is far from what is predicted, as far as that is known."""
    profile, told = loaders.usual_profile(), []
    for run, p in [(one, p) for one in runs for p in one.points if profile and has_norms(one, p)]:
        last = timings.timing(run, Stage.of("retrain", p["compression"]))
        if not last:
            continue
        foretold = apart.foretold(last, cut_of(run, p), profile, run.heads)
        if why := apart.why(last, foretold, profile, run.layout):
            told.append(f"- {widgets.plain(f'{run.name} at ' + format(p['compression'], 'g'))}x: {widgets.plain(why)}")
    if told:
        with st.expander("Why measured and predicted differ", icon=":material/help:", expanded=len(told) <= 2):
            st.markdown("\n".join(told))


def table_of(rows: list[Row], task: str, allowed: float, timed: list[Row]) -> None:
    """A row for each group of runs and compression, the answer first, and their CSV."""
    clocked = {(row.method, row.compression): row.speedup for row in timed}
    table = pd.DataFrame([{
        "Answer": "★" if at == 0 else "", "Method": row.by, "Target": row.compression,
        "Within": "yes" if best.keeps(row, allowed) else "no", "Score": row.mean, "Loss": row.loss,
        "Speedup": row.speedup, "Measured": clocked.get((row.method, row.compression)),
        "Encoder": row.compression_encoder, "Model": row.compression_model, "Formats": row.formats or None,
        "MB": row.bytes and row.bytes / 1e6, "Fewer": row.fewer, "Fewer, encoder": row.fewer_encoder,
        "Runs": row.method,
        "Spread": row.spread if len(row.scores) > 1 else None, "Seeds": len(row.scores)}
        for at, row in enumerate(rows)])
    if all(len(row.scores) == 1 for row in rows):
        table = table.drop(columns=["Spread", "Seeds"])
    if not any(row.formats for row in rows):
        table = table.drop(columns="Formats")
    if not any(value is not None for value in clocked.values()):
        table = table.drop(columns="Measured")
    number, kind, mark = st.column_config.NumberColumn, "measured" if rows[0].timed else "predicted", rows[0].mark
    mark = mark.replace("%", "%%")
    methods = compare.methods_explained([loaders.run(name) for row in rows for name in row.runs])
    copying.table(table, key="comparison", placeholder="–", column_config={
        "Answer": st.column_config.TextColumn("", width=36, help="★: the answer above."),
        "Method": st.column_config.TextColumn(help=" ".join(f"{name}: {words}." for name, words in methods.items())),
        "Target": number("Target", format="%.3gx", help="The encoder compression that was asked for."),
        "Within": st.column_config.TextColumn("Within?", help="Whether it loses no more than the maximum above."),
        "Score": number(format="%.3f", help="After retraining; the mean over the seeds."),
        "Loss": number("Points lost", format="%.1f", help="Against its own dense model; below zero: it scores higher."),
        "Speedup": number(f"Speedup, {kind}", format=f"%.1fx {mark}".strip()),
        "Measured": number("Measured", format="%.1fx"),
        "Encoder": number(format="%.2fx", help="Dense / kept weights of the prunable matrices."),
        "Model": number(format="%.2fx", help="Dense / kept weights of the whole model."),
        "Formats": st.column_config.TextColumn(help="In which the weights were trained; – is fp32."),
        "MB": number(format="%.1f", help="Of the whole model as a packed file: values, index, scales and all else."),
        "Fewer": number("Fewer bytes, model", format="%.2fx", help="Of the whole model, embeddings too, than in fp32."),
        "Fewer, encoder": number("Fewer bytes, encoder", format="%.2fx",
                                 help="Fewer bytes of the prunable matrices alone than in fp32, index included."),
        "Spread": number(format="%.3f", help="Standard deviation over the seeds.")})
    download("Comparison (CSV)", pd.read_csv(io.StringIO(compare.as_csv(rows, allowed))), f"{task}-compared.csv")


def predicted(run: Run, point: dict) -> float | None:
    """The speedup of the retrained model at a point, by the usual profile; None where it or its norms are not there."""
    if not has_norms(run, point) or not (profile := loaders.usual_profile()):
        return None
    return profile.speedup(cut_of(run, point), SETTING, run.heads)


def cut_of(run: Run, point: dict) -> BlockMask:
    """The mask of the retrained model at a point."""
    return mask_at(loaders.norms(run, run.saved(Stage.of("retrain", point["compression"]))), run.layout, 0.0)


def measured(run: Run, point: dict) -> float | None:
    """The same as it was last timed on this machine, dense and compact in turn; None where it was not."""
    return timings.timed(run, Stage.of("retrain", point["compression"]))


def measure_what_is_missing(runs: list[Run]) -> None:
    """The button that times every retrained model which was not timed here yet."""
    if took := st.session_state.pop("measuring took", None):
        st.success(took, icon=":material/timer:")
    left = [(run, p) for run in runs for p in run.points
            if p["score_retrained"] is not None and has_norms(run, p) and measured(run, p) is None]
    if not left or loaders.read_only():
        return
    st.info(f"{len(left)} of these models {'has' if len(left) == 1 else 'have'} not been timed on this machine yet: "
            f"dense and compact in turn, {SETTING.batch} sentences of {SETTING.length} tokens.")
    if st.button(f"Measure {len(left)} now, about {widgets.duration(SECONDS * len(left))}", icon=":material/timer:",
                 help="Best while nothing else runs; on a busy machine it takes two or three times as long."):
        measure(left)


def measure(left: list[tuple[Run, dict]]) -> None:
    """Time these points one after the other; then draw the page anew."""
    bar, start = st.progress(0.0), time.monotonic()
    try:
        for done, (run, p) in enumerate(left):
            each = (time.monotonic() - start) / done if done else SECONDS
            rest = widgets.duration(each * (len(left) - done))
            bar.progress(done / len(left), f"{run.name} at {p['compression']:g}x, about {rest} left")
            stage = Stage.of("retrain", p["compression"])
            timings.measured(run, stage, run.config.scope, p["sparsity"], SETTING)
    except Failed as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
        return
    took = widgets.duration(time.monotonic() - start)
    st.session_state["measuring took"] = f"Measured {len(left)} model{'s' * (len(left) > 1)} in {took}."
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
        copying.table(pd.DataFrame(rows, columns=heads), key="differences")
    else:
        st.caption("In none.")


main()
