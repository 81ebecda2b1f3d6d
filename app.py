"""Home: what Prunescope is, the recorded runs, where to start."""

from __future__ import annotations

import streamlit as st

from pages.home import ahead, best_results, notebooks, trash
from pages.shared import loaders, widgets
from prune_core.runs import results
from prune_core.runs.run import Run
from prune_core.runs.shelf import Listed
from prune_core.tasks.metrics import in_words


def main() -> None:
    widgets.page("Home")
    st.title("Prunescope", anchor=False)
    st.markdown(
        "Make a language model smaller and faster by removing the weights it needs least, and see what that costs. "
        "Prunescope prunes encoders such as BERT and MiniLM block by block and records every block as it shrinks. Then "
        "drag a threshold: what is cut, the speedup and the score on the task follow at once.")
    if not loaders.read_only():
        trash.undo()
    listed = loaders.listed()
    here = loaders.runs_dir()
    mine = [entry for entry in listed if entry.path.parent == here]
    shipped = [entry for entry in listed if entry.path.parent != here]
    doors()
    best_results.table([entry.run for entry in listed if entry.run])
    show("Your runs", mine,
         "You have no runs yet. Start one on the **Prune** page.")
    show("Example runs", shipped, "This copy has no example runs. Your own runs appear above as soon as they start.")
    notebooks.show()
    if not loaders.read_only():
        trash.show()
    ahead.score()


DOORS = (  # what for, in a sentence, where
    ("Teach", ":material/school:", "Eight short steps on block pruning, each with something to try and numbers that "
     "are computed as you watch.", "Open the lesson", "pages/5_Learn.py"),
    ("Tune", ":material/tune:", "Drag a threshold over a real model, and see its size, speed and score follow at once.",
     "Explore the best run", "pages/2_Explore.py"),
    ("Present", ":material/co_present:", "Make a report of two pages: a recommendation, its reasons and a live map, in "
     "one file that works offline.", "Make a report", "pages/6_Report.py"),
)


CARDS = 20  # runs that are shown at once


def doors() -> None:
    """Three ways in, side by side; one under the other where the window is narrow."""
    with st.container(horizontal=True, gap="small", key="doors"):
        for name, icon, words, label, page in DOORS:
            with st.container(border=True, width=330, height="stretch", gap="small"):
                st.markdown(f"{icon} **{name}**")
                st.markdown(words)
                st.space("stretch")
                if st.button(label, type="primary" if name == "Tune" else "secondary", key=f"door {name}"):
                    st.switch_page(page)


def show(title: str, listed: list[Listed], empty: str) -> None:
    """A heading and a card per run; `empty` says what to do where there is none."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.header(title, anchor=False, width="content")
        if title == "Your runs" and not loaders.read_only():
            st.page_link("pages/1_Prune.py", label="Prune an encoder", icon=":material/content_cut:")
    if not listed:
        st.info(empty)
    found, key = wanted(title, listed), f"shown of {title}"
    shown = st.session_state.get(key, CARDS)
    for entry in found[:shown]:
        with st.container(border=True, gap="xsmall"):
            if entry.run:
                card(entry)
            else:
                unreadable(entry)
    if shown < len(found):
        st.button(f"Show {min(CARDS, len(found) - shown)} more of {len(found):,}", icon=":material/expand_more:",
                  key=f"more {title}", on_click=st.session_state.update, args=({key: shown + CARDS},))


def wanted(title: str, listed: list[Listed]) -> list[Listed]:
    """Those whose names have what is typed, where there are too many to look through; one can type there."""
    if len(listed) <= CARDS:
        return listed
    typed = st.text_input(f"Find among {len(listed):,}", key=f"find {title}", placeholder="Part of a name",
                          icon=":material/search:", width=360).strip().lower()
    found = [entry for entry in listed if typed in entry.name.lower()]
    if not found:
        st.caption("No name has that in it.")
    return found


def card(entry: Listed) -> None:
    """One run: its name and status, what was pruned, its scores, and the ways to it and into the trash."""
    run, status = entry.run, entry.status
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{widgets.plain(run.name)}**", width="content")
        widgets.badge(status)
        if run.is_practice:
            st.badge("not GLUE", icon=":material/science:", color="orange",
                     help="Scores are on the synthetic practice set.")
        notes(run)
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
    if told := best_results.words(run):
        st.markdown(told)
    st.caption(scores(run))


def notes(run: Run) -> None:
    """Badges for what one must know who reads its scores; the whole of it where the pointer rests."""
    near = results.near_chance(run.dense_scores, run.points, run.metric, run.majority_score)
    near = [warning for warning in run.warnings if warning in near]
    for label, said in (("near chance", near), ("note", [one for one in run.warnings if one not in near])):
        if said:
            st.badge(label, icon=":material/warning:", color="orange", help=widgets.plain(" ".join(said)))


def scores(run: Run) -> str:
    """One line: the dense score, and the retrained one at each encoder compression."""
    done = [p for p in run.points if p["score_retrained"] is not None]
    retrained = " · ".join(f"{p['compression']:g}x **{widgets.score(p['score_retrained'])}**" for p in done)
    metric = in_words(run.metric, first=True)
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
