"""Deleting runs from Home: it asks, it can be undone, and what was deleted can be looked through."""

from __future__ import annotations

import time

import streamlit as st

from pages.shared import loaders, widgets
from prune_core.runs import trash
from prune_core.runs.places import RunError
from prune_core.runs.shelf import Listed
from prune_core.runs.trash import Deleted


def button(entry: Listed) -> None:
    """The way into the trash, for a run of one's own."""
    running = entry.status == "running"
    why = "It is being written: cancel it on Prune first." if running else "Into the trash; it can be put back."
    if st.button("Delete", icon=":material/delete:", type="tertiary", key=f"delete {entry.name}", disabled=running,
                 help=why):
        ask(entry.name)


@st.dialog("Move to the trash?")
def ask(name: str) -> None:
    st.markdown(f"**{widgets.plain(name)}** leaves the list. Undo puts it back; "
                "until the trash is emptied, nothing is lost.")
    with st.container(horizontal=True):
        if st.button("Move to the trash", type="primary", icon=":material/delete:", on_click=delete, args=(name,)):
            st.rerun()
        if st.button("Keep it"):
            st.rerun()


def delete(name: str) -> None:
    """Move it; what became of it is told when the page is drawn again."""
    try:
        st.session_state["deleted"] = trash.delete(name, loaders.runs_dir())
    except RunError as error:
        st.session_state["not deleted"] = str(error)


def undo() -> None:
    """What was deleted last in this session, with a button that puts it back; why something could not be."""
    if refused := st.session_state.pop("not deleted", ""):
        st.error(widgets.plain(refused), icon=":material/error:")
    if back := st.session_state.pop("put back", ""):
        st.success(f"**{widgets.plain(back)}** is back.", icon=":material/undo:")
    last: Deleted | None = st.session_state.get("deleted")
    if last and last.key in {run.key for run in trash.deleted(loaders.runs_dir())}:
        with st.container(horizontal=True, vertical_alignment="center", border=True):
            st.markdown(f":material/delete: **{widgets.plain(last.name)}** is in the trash.", width="content")
            st.button("Undo", icon=":material/undo:", on_click=put_back, args=(last.key,))


def put_back(key: str) -> None:
    """Restore a run; its name may have been taken since."""
    try:
        st.session_state["put back"] = trash.restore(key, loaders.runs_dir())
    except RunError as error:
        st.session_state["not deleted"] = str(error)


def erase(key: str) -> None:
    try:
        trash.erase(key, loaders.runs_dir())
    except RunError as error:
        st.session_state["not deleted"] = str(error)


def show() -> None:
    """What lies in the trash, where something does."""
    runs = trash.deleted(loaders.runs_dir())
    if not runs:
        return
    with st.expander(f"Trash ({len(runs)})", icon=":material/delete:"):
        for run in runs:
            row(run)


def row(run: Deleted) -> None:
    """One deleted run: its name, size and age, and the ways back and out."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{widgets.plain(run.name)}**", width="content")
        ago = widgets.duration(max(0.0, time.time() - run.when))
        st.caption(f"{run.size / 1e6:,.1f} MB, deleted {ago} ago", width="content")
        st.space("stretch")
        st.button("Put back", icon=":material/undo:", type="tertiary", key=f"back {run.key}",
                  on_click=put_back, args=(run.key,))
        with st.popover("Delete for good", type="tertiary", key=f"for good {run.key}"):
            st.markdown("This cannot be undone.")
            st.button("Delete for good", type="primary", key=f"erase {run.key}", on_click=erase, args=(run.key,))
