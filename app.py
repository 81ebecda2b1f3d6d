"""Home: what Prunescope is, the recorded runs, where to start."""

from __future__ import annotations

import streamlit as st

from pages.home import ahead, trash
from pages.shared import loaders, widgets
from prune_core.runs.run import Run
from prune_core.runs.shelf import Listed


def main() -> None:
    widgets.page("Home")
    st.title("Prunescope", anchor=False)
    st.markdown(
        "Make a language model smaller and faster by removing the weights it needs least, and see what that costs. "
        "Prunescope prunes encoders such as BERT and MiniLM block by block and records every block as it shrinks. Then "
        "drag a threshold: what is cut, the speedup and the score on the task follow at once.")
    ways_in()
    if not loaders.read_only():
        trash.undo()
    listed = loaders.listed()
    mine = [entry for entry in listed if entry.path.parent == loaders.runs_dir()]
    shipped = [entry for entry in listed if entry.path.parent != loaders.runs_dir()]
    show("Your runs", mine,
         "You have no runs yet. Start one on the **Prune** page.")
    show("Example runs", shipped, "This copy has no example runs. Your own runs appear above as soon as they start.")
    if not loaders.read_only():
        trash.show()
    ahead.score()


def ways_in() -> None:
    """The buttons to where one can start."""
    with st.container(horizontal=True):
        if st.button("Explore an example run", type="primary", icon=":material/grid_on:"):
            st.switch_page("pages/2_Explore.py")
        if not loaders.read_only() and st.button("Prune an encoder", icon=":material/content_cut:"):
            st.switch_page("pages/1_Prune.py")
        if st.button("Learn the idea", icon=":material/school:"):
            st.switch_page("pages/5_Learn.py")
        if st.button("Make a report", icon=":material/description:"):
            st.switch_page("pages/6_Report.py")


def show(title: str, listed: list[Listed], empty: str) -> None:
    """A heading and a card per run; `empty` says what to do where there is none."""
    st.header(title, anchor=False)
    if not listed:
        st.info(empty)
    for entry in listed:
        with st.container(border=True, gap="xsmall"):
            if entry.run:
                card(entry)
            else:
                unreadable(entry)


def card(entry: Listed) -> None:
    """One run: its name and status, what was pruned, its scores, and the ways to it and into the trash."""
    run, status = entry.run, entry.status
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{widgets.plain(run.name)}**", width="content")
        widgets.badge(status)
        if run.is_practice:
            st.badge("not GLUE", icon=":material/science:", color="orange",
                     help="Scores are on the synthetic practice set.")
        if run.warnings:
            st.badge("note", icon=":material/warning:", color="orange", help=widgets.plain(" · ".join(run.warnings)))
        st.space("stretch")
        if status != "complete":
            label = "Resume" if status != "running" and not loaders.read_only() else "Watch"
            st.page_link("pages/1_Prune.py", label=label, icon=":material/monitoring:", query_params={"run": run.name})
        if run.with_norms:
            st.page_link("pages/2_Explore.py", label="Explore", icon=":material/grid_on:",
                         query_params={"run": run.name})
        if not run.recorded and not loaders.read_only():
            trash.button(entry)
    st.caption(widgets.facts(run))
    st.markdown(scores(run))


def scores(run: Run) -> str:
    """One line: the dense score, and the retrained one at each encoder compression."""
    done = [p for p in run.points if p["score_retrained"] is not None]
    retrained = " · ".join(f"{p['compression']:g}x **{widgets.score(p['score_retrained'])}**" for p in done)
    metric = run.metric.replace("_", " ").capitalize()
    if run.dense_score is None:
        return f"{metric}: no score yet"
    return (f"{metric}: dense **{widgets.score(run.dense_score)}**, "
            + (f"retrained at {retrained}" if done else "nothing retrained yet"))


def unreadable(entry: Listed) -> None:
    """A folder that holds no run that can be read: its name and the reason."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{widgets.plain(entry.name)}**", width="content")
        widgets.badge(entry.status)
        if entry.path.parent == loaders.runs_dir() and not loaders.read_only():
            st.space("stretch")
            trash.button(entry)
    st.caption(widgets.plain(entry.reason))


main()
