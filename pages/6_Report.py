"""Report: all runs of a task, or up to four settings of one, become a report with the live map in it, and slides."""

from __future__ import annotations

import contextlib
import re
import time
from html import escape

import streamlit as st

from pages.shared import loaders, timings, widgets
from pages.shared.loaders import SETTING
from pages.shared.processes import Failed, Report
from prune_core import InputError
from prune_core.runs import best, settings
from prune_core.runs.best import Result
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.settings import MOST, Setting
from prune_core.showing.report.finding import LIMITS, Price
from prune_core.tasks.metrics import in_words

VERDICTS = {"ship": (":material/check:", "green"), "ship with care": (":material/warning:", "orange"),
            "do not ship": (":material/block:", "red")}
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
AUDIENCES = {"short": "Decision makers (short)", "technical": "Colleagues (technical)"}


def main() -> None:
    widgets.page("Report")
    st.title("Report", anchor=False)
    st.caption("Something to hand out: a recommendation with its rule, sizes, scores with their intervals, measured "
               "speedups, what is lost, and the **live map** with its threshold. As a report that prints on two pages, "
               "and as six slides. All of it works without any connection.")
    known = [entry.run for entry in loaders.listed() if entry.run]
    names = list(dict.fromkeys(run.name for run in known if run.dense_score is not None and run.with_norms))
    if not names:
        st.info("There is no run to report on yet. "
                "Start one on the **Prune** page.")
        return
    subjects = best.subjects(known)
    with st.sidebar:
        of = chosen_kind(subjects, names)
        run = chosen_run(names) if of == ONE else None
        subject = None if run else chosen_subject(subjects)
        first = run or subjects[subject][0]
        data = widgets.data_field(first.data)
    if run:
        widgets.said_of_link()
        st.caption(widgets.facts(run) + f" · dense {in_words(run.metric)} {widgets.score(run.dense_score)}")
        widgets.warnings(run)
    else:
        widgets.not_glue(first)
    try:
        if run:
            another(run)
        ask(run, subject, first, data)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")


ALL, ONE = "All runs of a task", "One run"


def chosen_kind(subjects: dict[str, list[Run]], names: list[str]) -> str:
    """All runs of a task, unless a run was sent here, is in the address, or nothing is retrained yet."""
    if not subjects:
        return ONE
    sent = st.session_state.get("report of") in names
    if sent or "report on" not in st.session_state:
        one = sent or bool(st.query_params.get("run") or st.query_params.get("stage"))
        st.session_state["report on"] = ONE if one else ALL
    return st.segmented_control("Report on", [ALL, ONE], key="report on", required=True,
                                help="Of all runs of a task: the best of all their results within what may be lost, "
                                     "why, and the runner-up.")


def chosen_subject(subjects: dict[str, list[Run]]) -> str:
    """Which task; at first that of the run that all pages open on."""
    names, known = list(subjects), {run.name: run for runs in subjects.values() for run in runs}
    if st.session_state.get("report task") not in names:
        opens = best.subject(known[loaders.first(list(known))])
        st.session_state["report task"] = asked if (asked := st.query_params.get("task")) in names else opens
    return st.selectbox("Task", names, None, key="report task")


def chosen_run(names: list[str]) -> Run:
    """The run that Explore sent with its settings, or that the person chose."""
    dtype = st.session_state.pop("report dtype", None)
    if (sent := st.session_state.pop("report of", None)) in names:
        st.session_state["run"] = sent
        st.session_state["dtype"] = dtype if dtype in widgets.PRECISIONS else "fp32"
        forget()
    else:
        widgets.run_of_link(names, lambda: loaders.first(names))
    return loaders.run(st.selectbox("Run", names, None, key="run", bind="query-params", on_change=forget))


def forget() -> None:
    """Another run has other settings."""
    st.session_state.pop("settings", None)
    st.query_params.pop("stage", None)


def another(run: Run) -> None:
    """Where another run of the task does better: which, and the way to a report on it."""
    known = [entry.run for entry in loaders.listed() if entry.run]
    if result := best.better(run, known, allowed()):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(widgets.plain(best.told(result)), icon=":material/lightbulb:", width="stretch")
            st.button("Report on that run", on_click=take, args=(result,))


def take(result: Result) -> None:
    """Another run, with its own settings."""
    forget()
    st.session_state["run"] = result.run.name


def allowed() -> float:
    """The largest loss allowed, as a share: as the person, or the address, last said."""
    try:
        asked = float(st.session_state.get("allowed", st.query_params.get("allowed", 100 * best.ALLOWED)))
    except ValueError:
        return best.ALLOWED
    return asked / 100 if 0 <= asked <= 50 else best.ALLOWED


def offered(run: Run) -> dict[str, Setting]:
    """What can be chosen: what Explore sent here, then what was recorded."""
    name, sent = st.session_state.get("report settings") or ("", [])
    explored = {f"Explore: {setting.name}": setting for setting in sent} if name == run.name else {}
    return explored | settings.offered(run)


def ask(run: Run | None, subject: str | None, first: Run, data: str) -> None:
    """The questions, and what comes of them. `run`: that the report is of; None for all runs of `subject`."""
    known = offered(run) if run else {}
    chosen = chosen_settings(run, known) if run else []
    title = st.text_input("Title", key="title", max_chars=LIMITS["title"], placeholder="How small can it be?",
                          persist_state="session")
    left, right = widgets.beside()
    with left:
        audience = st.segmented_control("For", list(AUDIENCES), default="short", format_func=AUDIENCES.get,
                                        required=True, key="audience")
        price = asked_price()
    with right:
        lost = st.number_input("Maximum loss (points)", 0.0, 50.0, 1.0, 0.5, format="%.1f", bind="query-params",
                               key="allowed", help="The recommendation is the fastest setting that loses no more. "
                                                   "One point is 0.01 of the score.")
    words = st.text_area("Your own words", key="words", max_chars=LIMITS["words"], persist_state="session", height=120,
                         placeholder="Why this was asked, what it is for, what you advise. "
                                     "Shown under the title, as your words.")
    measure = not loaders.read_only() and st.toggle(
        "Measure the speedups", True, key="measure for the report",
        help="All settings and every dense engine that is installed, of torch, ONNX Runtime and OpenVINO, are timed "
             f"now, in one sitting, on this machine: {how_long(first)}, longer while other programs run. Without this "
             "they are predicted.")
    dtype = precision()
    text = settings.as_text([known[name] for name in chosen], run) if run else ""
    request = (run.name if run else subject, text, title, audience, words, lost / 100, data, measure, dtype, price)
    if run is None:
        considered(subject, measure)
    if st.button("Make the report", type="primary", icon=":material/description:",
                 disabled=bool(run and not chosen) or price is None):
        make(request)
    made = st.session_state.get("made report")
    if made and (made[0][0], bool(made[0][1])) == (request[0], bool(text)):
        show(request[0], made, request)
    elif run and not chosen:
        st.info("Choose at least one setting.")


def asked_price() -> str | None:
    """What an hour of the machine costs, as it was typed; '' for nothing, None for what cannot be read."""
    price = st.text_input("Price of this machine per hour", key="price", max_chars=40, persist_state="session",
                          placeholder="for example 0.40 EUR", help="With it the report says what a million sentences "
                          "cost, dense and pruned, from the measured speeds. Empty: nothing is said of money.")
    try:
        Price.parse(price)
    except InputError as error:
        st.caption(f":material/error: {widgets.plain(str(error))}")
        return None
    return price.strip()


def considered(subject: str, measure: bool) -> None:
    """How many results there are, and what happens to them."""
    runs = best.subjects(entry.run for entry in loaders.listed() if entry.run)[subject]
    count = sum(map(best.shown, best.of(runs)))
    st.caption(f"{count} results of {len(runs)} run{'s' * (len(runs) > 1)} are compared by one rule; the first "
               f"{min(MOST, count)} are scored exactly, where their weights and the data are here"
               + (", and timed in one sitting." if measure else "; their speedups are predicted."))


def how_long(run: Run) -> str:
    """What measuring takes: exporting the dense graphs, then every engine a few times, as the usual profile has it."""
    profile = loaders.usual_profile()
    return f"about {widgets.duration(timings.seconds(run, SETTING, profile))}" if profile else "about a minute"


def precision() -> str:
    """The arithmetic of scores and speedups, as the person or the address says; fp32 before that."""
    if st.session_state.get("dtype", "fp32") not in widgets.PRECISIONS:
        del st.session_state["dtype"]
    return st.segmented_control("Precision", widgets.PRECISIONS, default="fp32", key="dtype", required=True,
                                bind="query-params",
                                help="The arithmetic of the pruned model, for exact scores and speedups; **auto** "
                                     "takes what is fastest here. Predictions of scores are fp32.")


def chosen_settings(run: Run, known: dict[str, Setting]) -> list[str]:
    """The settings that the person chose, by name; at first those from Explore, else the best result and neighbours."""
    if "settings" not in st.session_state or not set(st.session_state["settings"]) <= set(known):
        sent = [name for name in known if name.startswith("Explore: ")]
        own = [setting.name for setting in settings.results(run)]
        if (stage := st.query_params.get("stage")) in known:  # Compare asks for a report on it
            sent, own = [], [stage, *(name for name in own if name != stage)][:MOST]
        st.session_state["settings"] = sent or own
    return st.multiselect("Settings (up to 4)", list(known), key="settings", max_selections=MOST,
                          placeholder="one or more", help="Add others from **Explore**: set the threshold, pin what "
                                                          "you want to compare, then **Export**, **Report**.")


def make(request: tuple) -> None:
    """Have it made by a process of its own, and keep it for this session."""
    start, place = time.monotonic(), st.empty()
    with place.container():
        bar = st.progress(0.0, "Loading …")
        # Pressing it begins the page anew, which ends the process
        st.button("Cancel", icon=":material/close:", type="tertiary")
    try:
        making = Report(loaders.runs_dir(), *request)
        with contextlib.closing(iter(making)) as steps:
            for done, total, doing in steps:
                left = (time.monotonic() - start) * (total - done) / done if done else None
                rest = f", about {widgets.duration(left)} left" if left and left > 2 else " …"
                bar.progress(done / total, widgets.plain(doing) + rest)
        files = {"html": making.html, "md": making.markdown, "slides": making.slides, "pptx": making.pptx}
        st.session_state["made report"] = (request, files, making.told)
    except (Failed, InputError) as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
    place.empty()


def show(name: str, made: tuple, request: tuple) -> None:
    """The downloads, then the report itself."""
    made_of, files, told = made
    if made_of != request:
        st.caption(":material/info: This report was made before you changed something above.")
    name = re.sub(r"[^\w.-]+", "-", name)
    with st.container(horizontal=True, gap="small"):
        for label, kind, file, mime in (
                ("HTML", "html", f"{name}-report.html", "text/html"),
                ("Markdown", "md", f"{name}-report.md", "text/markdown"),
                ("Slides", "slides", f"{name}-slides.html", "text/html"),
                ("PowerPoint", "pptx", f"{name}-slides.pptx", PPTX)):
            size = f" ({len(files[kind]) / 1e6:.1f} MB)" * (kind in ("html", "slides"))
            st.download_button(f"{label}{size}", files[kind], file, mime, key=f"download {kind}", on_click="ignore",
                               icon=":material/download:", type="primary" if kind == "html" else "secondary")
    icon, colour = VERDICTS[told["verdict"]]
    st.badge(told["verdict"], icon=icon, color=colour)
    st.markdown(f"**{widgets.plain(told['advice'])}.** {widgets.plain(told['sure'])}")
    st.caption(f"{widgets.plain(told['rule'])} To print it, open the file in a browser; slides "
               "are moved by the arrow keys, ? lists the others.")
    # In a frame of its own origin: scripts in it reach nothing of this page
    st.iframe('<iframe title="The report" sandbox="allow-scripts allow-downloads" '
              f'style="width: 100%; height: 98vh; border: 0" srcdoc="{escape(files["html"])}"></iframe>',
              height=900, alt="The report")


main()
