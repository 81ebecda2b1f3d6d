"""Learn before a room: large type, nothing that a room does not need, keys to step, Esc to leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import plotly.graph_objects as go
import streamlit as st

from pages.shared import present

STYLE, KEYS = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("projector.css", "keys.js"))
TYPE, SMALL = 22, 16  # pixels of the letters in a chart


on = present.on  # whether Learn is shown to a room now


def switch() -> None:
    """The switch, which the address keeps; before a room, the way out in its place and the keys."""
    st.toggle("Presentation", key="present", bind="query-params",
              help="Large type for a projector. Then: → PageDown Space step on, ← PageUp back, Esc leaves.")
    if not on():
        return
    st.html(f"<style>{STYLE}</style>")
    st.button("End presentation", icon=":material/close_fullscreen:", key="leave-presentation", help="Esc",
              on_click=st.session_state.update, args=({"present": False},))
    st.components.v2.component("prunescope_steps", js=KEYS)(key="again keys")


def enlarged(make: Callable, *asked) -> go.Figure:
    """The chart that `make(*asked)` gives, its letters and lines large enough for the last row."""
    figure = go.Figure(make(*asked))
    many = len(figure.data) > 4  # a long legend would take the picture's place
    figure.update_layout(font_size=TYPE, legend_font_size=SMALL if many else TYPE, height=None)  # the style says it
    figure.update_coloraxes(colorbar=dict(tickfont_size=SMALL, title_font_size=SMALL))
    figure.update_annotations(font_size=SMALL)
    figure.update_xaxes(automargin=True, title_font_size=TYPE, tickfont_size=TYPE)
    figure.update_yaxes(automargin=True, title_font_size=TYPE, tickfont_size=TYPE)
    figure.update_traces(line_width=4, selector=lambda trace: "lines" in (trace.to_plotly_json().get("mode") or ""))
    return figure
