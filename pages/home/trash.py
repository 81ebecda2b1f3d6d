"""Deleting runs from Home: it asks, it can be undone, and what was deleted can be looked through."""

from __future__ import annotations

import time

import streamlit as st

from pages.shared import loaders, widgets
from prune_core.runs import trash
from prune_core.runs.places import RunError
from prune_core.runs.shelf import Listed
from prune_core.runs.trash import Deleted


def button(one: Listed) -> None:
    """The way into the trash, for a run of one's own."""
    running = one.status == "running"
    if st.button("Delete", icon=":material/delete:", type="tertiary", key=f"delete {one.name}", disabled=running,
                 help="It is being written: cancel it on Prune first." if running else "Into the trash; it can be put back."):
        ask(one.name)


@st.dialog("Move to the trash?")
def ask(name: str) -> None:
    st.markdown(f"**{widgets.plain(name)}** leaves the list. Undo puts it back; until the trash is emptied, nothing is lost.")
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
    if last and last.key in {one.key for one in trash.deleted(loaders.runs_dir())}:
        with st.container(horizontal=True, vertical_alignment="center", border=True):
            st.markdown(f":material/delete: **{widgets.plain(last.name)}** is in the trash.", width="content")
            st.button("Undo", icon=":material/undo:", on_click=put_back, args=(last.key,))


def put_back(key: str) -> None:
    """Restore one; its name may have been taken since."""
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
    known = trash.deleted(loaders.runs_dir())
    if not known:
        return
    with st.expander(f"Trash ({len(known)})", icon=":material/delete:"):
        for one in known:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{widgets.plain(one.name)}**", width="content")
                ago = widgets.duration(max(0.0, time.time() - one.when))
                st.caption(f"{one.size / 1e6:,.1f} MB, deleted {ago} ago", width="content")
                st.space("stretch")
                st.button("Put back", icon=":material/undo:", type="tertiary", key=f"back {one.key}", on_click=put_back, args=(one.key,))
                with st.popover("Delete for good", type="tertiary", key=f"for good {one.key}"):
                    st.markdown("This cannot be undone.")
                    st.button("Delete for good", type="primary", key=f"erase {one.key}", on_click=erase, args=(one.key,))
