"""Has a fragment of a page run again by itself: after the map has come to rest, or while something is waited for.

Streamlit's own `run_every` asks at its pace whether or not it was answered: with many pages open its questions pile up.
And what a fragment sends can be lost where another question comes just as it ends (`AppSession` then ignores what its
old runner still says), so each question is asked again, later and later, until it is answered: what stands here stands
last in its fragment.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import streamlit as st

from pages.explore import live_map
from pages.shared import loaders, widgets

SECONDS = 5.0  # after which a hand no longer counts as moving a map

SCRIPT = Path(__file__).with_name("rerun.js").read_text(encoding="utf-8")


@cache
def _component():
    return st.components.v2.component("prunescope_again", js=SCRIPT)


def until_the_map_is_answered() -> None:
    """The fragment that this ends has answered what the map said last."""
    _show("map", {"answered": live_map.number(), "calm": _calm()})


def after_the_map(drawn: bool) -> None:
    """The fragment that this ends runs again when the map has rested a while, or what was waited for has come.

    It does so only while one sees its place, the container of the key "after-the-map".
    `drawn`: it already shows what follows the map; else it runs as soon as the map stands there.
    """
    _show("after the map", {"answered": live_map.number(), "drawn": drawn})


def soon(every: int, name: str = "soon") -> None:
    """The fragment that this ends runs again `every` ms after it was shown; each such fragment has a `name`.

    0: it does not, and what follows the map is told.
    """
    _show("soon", {"every": every}, name)


def _calm() -> int:
    """Milliseconds for which a map rests before charts follow it: 0 for one person, up to 2,000 where many move theirs.

    All of them share one Python.
    """
    now, hands = time.monotonic(), loaders.hands()
    hands[widgets.session()] = now
    for session in [session for session, at in list(hands.items()) if now - at > SECONDS]:
        hands.pop(session, None)
    return min(2000, 250 * (len(hands) - 1))


def _show(of: str, data: dict, name: str = "") -> None:
    number = time.monotonic_ns() // 1000  # another one each time: the browser is to see that it was answered
    _component()(key=f"again {name or of}", data=data | {"of": of, "number": number}, on_now_change=_nothing)


def _nothing() -> None:
    """A trigger has to have a callback."""
