"""Learn, for who teaches: the handout and the teacher's sheet, made here and downloaded."""

from __future__ import annotations

from concurrent.futures import wait
from datetime import date

import streamlit as st

from pages.learn import parts, projector, sentence
from pages.shared import widgets
from prune_core import InputError
from prune_core.showing import handout
from prune_core.showing.handout import paper

LONGEST = 120  # seconds that the model's answers are waited for


def offer() -> None:
    """A place to make both and take them; nothing before a room, and nothing for students."""
    if parts.alone() or projector.on():
        return
    with st.expander("For a class: a handout of two pages, and the teacher's sheet", icon=":material/print:"):
        st.markdown("The **handout** has the pictures and exercises of all steps, the **teacher's sheet** a plan for "
                    "45 minutes, the answers, and what students ask. Both print on A4; every number is computed now.")
        if st.button(f"Make both, about {sentence.ASKING} s", icon=":material/draw:"):
            with st.spinner("Asking the model about the examples, then drawing …", show_time=True):
                st.session_state["hand outs"] = _made()
        if made := st.session_state.get("hand outs"):
            _give(*made)


def _made() -> tuple[dict[str, tuple[bytes, str]], str]:
    """(file -> its content and kind, what is missing in it)."""
    futures = sentence.asked()
    wait(futures, LONGEST)
    said = sentence.together(futures)
    known, made = parts.known(said), date.today()
    pages = {"handout": handout.students(known, made), "teachers-sheet": handout.teacher(known, made)}
    files = {f"{name}.html": (html.encode(), "text/html") for name, html in pages.items()}
    missing = "" if said else "The model could not be asked: step 4 has no picture and no answers. "
    if paper.browser():
        try:
            files |= {f"{name}.pdf": (paper.pdf(html), "application/pdf") for name, html in pages.items()}
        except InputError as error:
            missing += str(error)
    return files, missing


def _give(files: dict[str, tuple[bytes, str]], missing: str) -> None:
    if missing:
        st.warning(widgets.plain(missing), icon=":material/warning:")
    with st.container(horizontal=True):
        for name, (content, kind) in files.items():
            words = "Handout" if name.startswith("handout") else "Teacher's sheet"
            st.download_button(f"{words} ({name.rpartition('.')[2].upper()})", content, f"block-pruning-{name}", kind,
                               icon=":material/download:", on_click="ignore")
    st.caption("The HTML opens in any browser, without a connection; print it from there.")
