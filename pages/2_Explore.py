"""Explore: drag a threshold over a run's block norms, and see at once what is cut and what it costs."""

from __future__ import annotations

import streamlit as st

from pages.explore import charts, exact_score, live_map, parts, precision, proposals, rerun, take_away, trade
from pages.explore.view import View, content, current, follows, forget, opening, remember, settle, waits
from pages.shared import loaders, present, widgets
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.tasks.metrics import in_words


def main() -> None:
    widgets.page("Explore")
    proposals.take_over()
    settle()
    with st.sidebar:
        run = chosen_run()
        if run:
            exact_score.ranking(run)
            precision.ask()
            exact_score.exact_settings(run)
        present.switch()
        widgets.image_format()
    present.begin(grows=False)
    if run is None:
        st.title("Explore", anchor=False)
        nothing()
        return
    if not present.on() or not run.with_norms:  # for a room the title says what is cut: it follows the map
        named(run, run.name)
    widgets.warnings(run)
    if not run.with_norms:
        st.info("This run has recorded no block norms yet. Watch it on the **Prune** page, or choose another run.")
        return
    explore(run)
    if not present.on():
        details(run)


def named(run: Run, title: str) -> None:
    """The title, and what the run is of."""
    st.title(widgets.plain(title), anchor=False)
    widgets.said_of_link()
    st.caption(widgets.facts(run) + f" · dense {in_words(run.metric)} {widgets.score(run.dense_score)}")


def heading(run: Run, view: View) -> str:
    """What is looked at, in words, for a room: 'SST-2 accuracy when three quarters of the encoder are cut'."""
    stored = f", the rest in {view.formats.words}" * bool(view.cut.formats)
    return f"{canvas.score_title(run)} {present.cut_words(view.mask.sparsity)}{stored}"


def chosen_run() -> Run | None:
    """The run that the person chose; None where there is none to choose."""
    names = list(dict.fromkeys(entry.name for entry in loaders.listed() if entry.run))
    if not names:
        return None
    widgets.run_of_link(names, lambda: loaders.first(names))
    run = loaders.run(st.selectbox("Run", names, None, key="run", bind="query-params", on_change=forget))
    if run.with_norms and not {"score"} & {*st.session_state, *st.query_params}:
        st.session_state["score"] = opening(run).cut.ranking
    return run


def nothing() -> None:
    """What to do where there is no run."""
    st.info("There are no recorded runs yet. Start one on the **Prune** page.")
    if unreadable := [entry for entry in loaders.listed() if not entry.run]:
        st.warning(f"Folders that hold no run that can be read: {len(unreadable)}. **Home** says why.",
                   icon=":material/error:")


@st.fragment
def explore(run: Run) -> None:
    """The map, what it counts in words, its exact score: only this is run again at once when the hand rests."""
    try:
        view = current(run)
        exact_score.repair_by_itself(run, view)
        if follows():
            st.rerun()
        if wrong := " ".join(filter(None, map(st.session_state.get, ("wrong", "wrong formats")))):
            st.info(wrong, icon=":material/link_off:")
        if present.on():
            named(run, heading(run, view))
        line = st.container(key="exact-line")
        live_map.draw(content(run, view, present.AROUND if present.on() else 0), remember)
        with line:  # after the map, which is drawn meanwhile
            exact_score.exact(run, view)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
        return
    if not present.on():
        exact_score.words(run, view)
    rerun.until_the_map_is_answered()


@st.fragment
def details(run: Run) -> None:
    """The zoomed matrix, and what the open tab shows: only that one is computed and sent.

    Charts take the browser longer than all the rest: they follow the map while one sees them, later where others move
    theirs too.
    """
    with st.container(key="after-the-map"):
        follow(run)


def follow(run: Run) -> None:
    """What stands below the map, for what it said last."""
    drawn = bool(live_map.said()) or st.session_state.get("drawn", False)
    if not drawn:  # what is slow to draw waits until the map says that it stands there: that halves the time to it
        st.skeleton(420)
        rerun.after_the_map(drawn)
        return
    st.session_state["drawn"] = True
    try:
        view = current(run)
    except RunError:  # said above
        return
    if waits():
        st.rerun()  # the map has yet to be told
    place = st.empty()  # always sent, as nothing else takes the last matrix away for certain
    if view.zoom:
        with place.container():
            parts.one_matrix(run, view)
    tabs(run, view)
    rerun.after_the_map(drawn)


def tabs(run: Run, view: View) -> None:
    """The tab that is open; the others are not computed."""
    names = ["Score and speed", "Trade", "Layers and matrices", "Results", "Training history", "Export"]
    both, traded, layers, results, course, away = st.tabs(names, key="view", bind="query-params")
    if both.open:
        with both:
            charts.curves(run, view, exact_score.taken(run, view))
    if traded.open:
        with traded:
            trade.show(run, view)
    if layers.open:
        with layers:
            parts.show(run, view)
    if results.open:
        with results:
            charts.points(run)
            widgets.not_glue(run)
    if course.open:
        with course:
            charts.course(run)
    if away.open:
        with away:
            take_away.show(run, view)


main()
