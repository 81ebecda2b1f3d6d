"""Presentation: a page for a room. A title in words, larger type, no controls that only who works with it needs.

One mechanism for all pages: `switch()` in the sidebar, `begin()` at the top, `on()` to leave out what a room has no use
for, and `desk(name)` around controls that keep what they say while a room does not see them. It is in the address
(`present=true`), and Esc or the button at the top ends it.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent
ROOM, ESCAPE = ((HERE / name).read_text(encoding="utf-8") for name in ("present.css", "escape.js"))
GROWS = "@media (min-width: 1700px) and (min-height: 950px) {[data-testid=stMainBlockContainer] {zoom: 1.45}}"
AROUND = 232  # pixels of the screen that stand over and under the map's panels on Explore
SHARES = {1 / 4: "a quarter", 1 / 3: "a third", 1 / 2: "half", 2 / 3: "two thirds", 3 / 4: "three quarters",
          4 / 5: "four fifths", 9 / 10: "nine tenths"}


def on() -> bool:
    """Whether the page is shown to a room: as the switch says, before it is there as the address does."""
    return bool(st.session_state.get("present", st.query_params.get("present") == "true"))


def switch() -> None:
    """The switch in the sidebar."""
    st.toggle("Presentation", key="present", bind="query-params",
              help="For a room: hides the controls and enlarges the type. Esc ends it.")


def desk(name: str) -> object:
    """A container for what only who sits before it needs."""
    return st.container(key=f"desk-{name}")


def begin(grows: bool = True) -> None:
    """What a presented page looks like, and the way back: a button that stays in sight at the top, and the key Esc.

    `grows`: whether all of it is larger on a large screen; not where a page fits itself to the screen.
    """
    if not on():
        return
    st.html(f"<style>{ROOM}{GROWS if grows else ''}</style>")
    st.button("End presentation", icon=":material/close_fullscreen:", key="end-presentation", help="Esc",
              on_click=st.session_state.update, args=({"present": False},))
    st.components.v2.component("prunescope_escape", js=ESCAPE)(key="again escape")


def share_words(share: float, within: float = 0.013) -> str:
    """A share as one says it: 'three quarters', '62%'; '' for nothing."""
    if share < 0.0005:
        return ""
    near = min(SHARES, key=lambda known: abs(known - share))
    return SHARES[near] if abs(near - share) <= within else f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def cut_words(share: float) -> str:
    """'when three quarters of the encoder are cut'."""
    words = share_words(share)
    plural = words.endswith("s") or words.endswith("%")
    return f"when {words} of the encoder {'are' if plural else 'is'} cut" if words else "before anything is cut"
