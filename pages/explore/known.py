"""Tells the map in the browser how the exact score of a cut stands, and of which cut it is: no norms are sent again."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import streamlit as st

from pages.explore.view import View
from pages.shared import widgets
from pages.shared.score_client import Answer
from prune_core.runs.run import Run

SCRIPT = Path(__file__).with_name("known.js").read_text(encoding="utf-8")


@cache
def _component():
    return st.components.v2.component("prunescope_exact", js=SCRIPT)


def cut_of(run: Run, view: View) -> dict:
    """Which cut of which weights is in view, as the browser compares it with its own."""
    return {"run": run.name, "moment": run.with_norms.index(view.at), "ranking": view.cut.ranking,
            "repaired": view.cut.repaired, "dtype": view.dtype, "scope": view.cut.scope,
            "thresholds": dict(view.thresholds), "formats": view.cut.formats, "data": widgets.data()}


def tell(cut: dict, answer: Answer | None) -> None:
    """How the exact score of this cut stands; None: none can come."""
    said = {"doing": "none"} if answer is None else {
        name: getattr(answer, name) for name in ("doing", "score", "low", "high", "done", "total")}
    if answer and cut["dtype"] != "fp32":  # else it goes without saying
        said["arithmetic"] = answer.executed["dtype"] if answer.executed else cut["dtype"]
    _component()(key="exact told", data=cut | said)
