"""Charts and tables with a small control beside each, which copies them: as a picture, as Markdown.

All pages draw them here. The browser makes the picture of what it shows; where it refuses its clipboard, as over plain
http, it saves a file instead, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.shared import present, widgets

HERE = Path(__file__).parent
ROWS = 300  # of a chart's numbers that are copied at most


@cache
def _component():
    script, style = ((HERE / f"copying.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    return st.components.v2.component("prunescope_copy", html='<div class="copy"></div>', css=style, js=script)


def chart(figure: go.Figure, key: str, alt: str, room: int = 0, **more) -> object:
    """st.plotly_chart with the control under it: a picture of it, and its numbers as a Markdown table.

    `room`: how high it is where the page is presented, in larger type.
    """
    if room and present.on():
        figure.update_layout(height=room, font_size=16)
    with st.container(key=f"copy-{key}", gap="xxsmall"):
        drawn = st.plotly_chart(figure, key=key, config=widgets.chart(), alt=alt, **more)
        control(key, numbers(figure), picture=True)
    return drawn


def table(frame: pd.DataFrame, key: str, column_config: Mapping | None = None, hide_index: bool = True,
          **more) -> object:
    """st.dataframe with the control under it. `key`: of the control, and with `on_select` among `more` of the table."""
    named = {"key": key} if "on_select" in more else {}
    with st.container(key=f"copy-{key}", gap="xxsmall"):
        drawn = st.dataframe(frame, hide_index=hide_index, column_config=column_config, **named, **more)
        control(key, markdown(frame if hide_index else frame.reset_index(), column_config))
    return drawn


def control(key: str, text: str, picture: bool = False) -> None:
    """The control alone, for a table that is drawn otherwise: `text` is its Markdown."""
    _component()(key=f"copied {key}", data={"markdown": text, "picture": picture, "file": key.replace(" ", "-")})


def markdown(frame: pd.DataFrame, column_config: Mapping | None = None) -> str:
    """A table in Markdown, its columns called as the page calls them."""
    heads = [_cell(_label(name, (column_config or {}).get(name))) for name in frame.columns]
    lines = [heads, *([_cell(_words(value)) for value in row] for row in frame.itertuples(index=False))]
    lines.insert(1, ["---"] * len(heads))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _label(name: object, config: object) -> str:
    """What a column is called on the page."""
    said = config if isinstance(config, str) else (config or {}).get("label") if isinstance(config, Mapping) else None
    return str(name) if said is None else said


def numbers(figure: go.Figure) -> str:
    """The points of a chart, a row for each, in Markdown; '' where it has none, as a map of blocks."""
    across, up = (getattr(figure.layout, axis).title.text or axis[0] for axis in ("xaxis", "yaxis"))
    rows = []
    for trace in figure.data:
        if getattr(trace, "x", None) is None or getattr(trace, "y", None) is None or trace.type == "heatmap":
            continue
        if trace.hoverinfo == "skip" and not trace.name:  # a band, a guide
            continue
        rows += [(trace.name or "", x, y) for x, y in zip(trace.x, trace.y, strict=False) if y is not None]
    if not rows:
        return ""
    more = f"\n{len(rows) - ROWS:,} more points are not shown.\n" if len(rows) > ROWS else ""
    return markdown(pd.DataFrame(rows[:ROWS], columns=["", across, up])) + more


def _words(value: object) -> str:
    """A number with four digits, a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return "–"
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float):
        return f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    return str(number)


def _cell(text: str) -> str:
    """Nothing in it ends the cell, or is markup."""
    return " ".join(text.replace("<br>", " ").split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
