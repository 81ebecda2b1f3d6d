"""The map as a part of a page: shown, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import streamlit as st

from prune_core.showing import canvas


@cache
def _component():
    return st.components.v2.component("prunescope_map", html=canvas.part("html"), css=canvas.part("css"),
                                      js=canvas.script())


def draw(content: bytes, on_change) -> None:
    """Show the map. What it says is then in st.session_state["map"]["view"]."""
    _component()(key="map", data=content, on_view_change=on_change)


def said() -> Mapping:
    """What the map said last; {} before it said anything."""
    return (st.session_state.get("map") or {}).get("view") or {}


def there() -> list[str]:
    """What of it the browser has already, as canvas.pack calls it."""
    parts = said().get("has")
    return [part for part in parts if isinstance(part, str)] if isinstance(parts, list) else []


def number() -> int:
    """The number of what the map said last; 0 before it said anything."""
    number = said().get("number")
    return number if isinstance(number, int) else 0
