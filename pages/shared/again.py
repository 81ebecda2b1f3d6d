"""Has a fragment of a page run again by itself: after the map has come to rest, or while something is waited for.

Streamlit's own `run_every` asks at its pace whether or not it was answered: with many pages open its questions pile up.
"""

from __future__ import annotations

from functools import cache

import streamlit as st

SCRIPT = """
export default function again({ parentElement, data, setTriggerValue }) {
  const here = (parentElement.again ??= {}); // kept at the element: this module may be loaded again
  const run = (after) => {
    clearTimeout(here.timer);
    here.timer = setTimeout(() => setTriggerValue("now", Date.now()), after);
  };
  if ("calm" in data) {
    document.removeEventListener("prunescope-map", here.heard);
    here.heard = (event) => (event.detail.rests ? run(data.calm) : clearTimeout(here.timer));
    document.addEventListener("prunescope-map", here.heard);
    if (!data.drawn && document.prunescopeRests && !here.begun) run((here.begun = 0));
  } else if (data.every) {
    here.waited = true;
    run(data.every);
  } else {
    clearTimeout(here.timer);
    if (here.waited) document.dispatchEvent(new CustomEvent("prunescope-map", { detail: { rests: true } }));
    here.waited = false;
  }
  return () => {
    clearTimeout(here.timer);
    document.removeEventListener("prunescope-map", here.heard);
  };
}
"""


@cache
def _component():
    return st.components.v2.component("prunescope_again", js=SCRIPT)


def after_the_map(calm: int, drawn: bool) -> None:
    """The fragment that this stands in runs again whenever the map rests for `calm` ms, or what was waited for has come.

    `drawn`: it already shows what follows the map; else it runs as soon as the map stands there.
    """
    _show("again after the map", {"calm": calm, "drawn": drawn})


def soon(every: int, number: int) -> None:
    """The fragment that this stands in runs again `every` ms after it was shown; not with 0, which tells what follows the map instead.

    `number`: another one each time, so that the browser sees that it was answered.
    """
    _show("again soon", {"every": every, "number": number})


def _show(key: str, data: dict) -> None:
    _component()(key=key, data=data, on_now_change=_nothing)


def _nothing() -> None:
    """A trigger has to have a callback."""
