"""Explore: the picture of the trade, every setting that was tried as a dot; a click opens it on the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import streamlit as st

from pages.explore.view import View, send, waits
from pages.shared import copying, jobs, widgets
from pages.shared.widgets import download
from prune_core import InputError
from prune_core.cutting import cuts
from prune_core.cutting.cuts import Cut
from prune_core.precision.storage import storage
from prune_core.runs import mixtures
from prune_core.runs import tried as kept
from prune_core.runs.mixtures import Mixture
from prune_core.runs.run import Run
from prune_core.runs.tried import Tried
from prune_core.showing import trade
from prune_core.showing.trade import AXES, Point
from prune_core.tasks.metrics import in_words

SEARCH = 600.0  # seconds of a search on two cores, about
NOTHING = ("No other setting of this run was tried yet. **Drag the threshold**, or set bits beside it: every exact "
           "score that is taken is kept here as a dot. Or have the best mixture searched for.")


def show(run: Run, view: View) -> None:
    """The picture with its axis, the table beneath it, and the search."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        by = st.segmented_control("Against", list(AXES), default="encoder_bytes", format_func=AXES.get, required=True,
                                  key="trade axis", wrap=True)
        stages = st.segmented_control("Weights", ["all", "in view"], default="all", required=True, key="trade stages",
                                      format_func={"all": "of all stages", "in view": f"of {view.label}"}.get)
    given = trade.points(run, None if stages == "all" else [view.snapshot.saved or ""])
    if given:
        picture(run, view, given, by)
    if not any(kept.read(run, stage) for stage in run.stages):
        st.info(NOTHING, icon=":material/scatter_plot:")
    search(run, view)
    if waits():
        st.rerun()


def picture(run: Run, view: View, given: list[Point], by: str) -> None:
    """The dots, then the same as a table; either opens a setting."""
    dense, number = trade.dense_of(run), st.session_state.get("trade opened", 0)
    drawn = trade.figure(given, run.layout, run.metric, by, dense, here(run, view, given))
    st.caption("Each dot is an exact score. **Click one to open it on the map above.** The line joins the settings "
               "that no other one beats in both; its dots have their 95% interval.")
    dots, listed = f"trade {number}", f"trade table {number}"
    copying.chart(drawn, key=dots, on_select=partial(chosen, run, given, dots),
                  selection_mode="points", alt="Dev score over bytes or latency of every setting tried")
    if by == "ms":
        without = sum(point.tried.ms is None for point in given)
        st.caption("Latency is predicted for the arithmetic that executes it: formats of weights alone, and patterns, "
                   "save bytes and no time." + (f" For {without} of {len(given)} none was predicted." * bool(without)))
    table = pd.DataFrame(trade.rows(given, run.layout, dense, by))
    copying.table(as_read(table), key=listed, placeholder="–", selection_mode="single-row",
                  on_select=partial(chosen, run, given, listed), column_config=columns(run.metric))
    st.caption("Bytes: what a packed file takes, index, scales and header included, against fp32: of the whole model, "
               "embeddings too, and of the encoder's prunable matrices alone. Choose a row to open it.")
    download("Settings tried (CSV)", table, f"{run.name}-trade.csv")


def chosen(run: Run, given: Sequence[Point], key: str) -> None:
    """A dot was clicked, or a row chosen: the map takes it over. Both are then drawn anew, with nothing chosen."""
    selection = st.session_state[key]["selection"]
    dots = [dot["customdata"][0] for dot in selection.get("points") or () if dot.get("customdata")]
    at = next((int(at) for at in (*dots, *(selection.get("rows") or ()))), None)
    if at is not None and 0 <= at < len(given):
        st.session_state["trade opened"] = st.session_state.get("trade opened", 0) + 1
        open_(run, given[at].stage, cut_of(run, given[at].tried))


def open_(run: Run, stage: str, cut: Cut | None) -> None:
    """Have the map show this setting: its stage, cut, ranking, repair and formats; it can be undone there.

    Before the page is drawn: the sidebar follows.
    """
    if cut is None or stage not in run.stages:
        st.toast("This setting is of another layout and cannot be opened here.", icon=":material/link_off:")
        return
    if "score" in st.session_state or cut.ranking != "norm":
        st.session_state["score"] = cut.ranking
    st.session_state["repair"] = cut.repaired
    send(cut, run.with_norms.index(run.saved(stage)))


def cut_of(run: Run, tried: Tried) -> Cut | None:
    """The cut that was tried; None where it does not fit this run."""
    cut = cuts.from_json(tried.cut, run.layout)
    return cut and replace(cut, ranking=tried.cut.get("by") or "norm", repaired=tried.cut.get("repaired") is True,
                           formats=str(tried.cut.get("formats") or ""))


def here(run: Run, view: View, given: list[Point]) -> Point | None:
    """The setting in view: as it was tried, else with its exact score, else where that is predicted; None: not known.
    """
    stage, cut = view.snapshot.saved, view.cut
    try:
        stored = storage(view.mask, view.formats, run.embeddings)
    except InputError:  # the size of the word table is not known, say
        return None
    of = (stage, stored.bytes, stored.encoder.stored, cut.formats, cut.repaired, view.dtype)
    for point in given:
        one = point.tried
        said = str(one.cut.get("formats") or ""), bool(one.cut.get("repaired"))
        if of == (point.stage, one.bytes, one.encoder_bytes, *said, one.dtype):
            return point
    exact, foreseen = known_now(run, view), view.foreseen
    if not stage or not (exact or foreseen):
        return None
    score = (exact["score"], exact["low"], exact["high"]) if exact else (foreseen.score, foreseen.low, foreseen.high)
    return Point(stage, Tried({"formats": cut.formats}, *score, 0, stored.bytes, stored.encoder.stored, view.sparsity),
                 exact=bool(exact))


def known_now(run: Run, view: View) -> dict | None:
    """The exact score of the setting in view, where it has come in this session."""
    cut = replace(view.cut, share=None, thresholds=tuple(view.thresholds.items()))
    return next((result for question, result in st.session_state.get("exact scores", {}).items()
                 if (question.run, question.stage, question.cut, question.dtype)
                 == (str(run.path), view.snapshot.saved, cut, view.dtype)), None)


def as_read(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that one reads, as one reads them."""
    return pd.DataFrame({
        "line": table["on_line"].map({True: "★", False: ""}), "setting": table["setting"], "score": table["score"],
        "interval": [f"{low:.3f} – {high:.3f}" for low, high in zip(table["low"], table["high"], strict=True)],
        "lost": table["points_lost"], "mb": table["bytes"] / trade.MB, "fewer": table["fewer_bytes"],
        "encoder_mb": table["encoder_bytes"] / trade.MB, "fewer_encoder": table["fewer_encoder_bytes"],
        "ms": table["ms"], "search": [f"{name}, {step:g}" if name and step == step else name or None
                                      for name, step in zip(table["search"], table["step"].astype(float), strict=True)]
    }).dropna(axis="columns", how="all")


def columns(metric: str) -> dict:
    """How they are called and written."""
    number = st.column_config.NumberColumn
    return {"line": st.column_config.TextColumn("", width=36, help="★: no other one beats it in both."),
            "setting": st.column_config.TextColumn("Setting", width="large"),
            "score": number(in_words(metric, first=True), format="%.4f"), "interval": "95% interval",
            "lost": number("Points lost", format="%.1f", help="Against the dense model."),
            "mb": number("MB, model", format="%.2f"), "fewer": number("Fewer, model", format="%.1fx"),
            "encoder_mb": number("MB, encoder", format="%.3f"),
            "fewer_encoder": number("Fewer, encoder", format="%.1fx"),
            "ms": number("ms, predicted", format="%.1f"), "search": "Search, step"}


def search(run: Run, view: View) -> None:
    """The button that starts a search for a mixture of formats; its result, to be opened."""
    stage = view.snapshot.saved
    if not stage or not run.has_weights(stage):
        st.caption("A mixture is searched for by exact scores, which take weights: "
                   + ("those of this stage are not included." if stage else "they are kept for stages only."))
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        ratio = st.number_input("Times fewer bytes of the encoder", 1.5, 64.0, 8.0, 0.5, format="%.1f", width=230,
                                key="search ratio", help="Than in fp32, index and scales included.")
        jobs.job(f"search {run.name} {stage} {ratio:g}", "Search for the best mixture", SEARCH,
                 jobs.command(run, stage, "search", f"--ratio={ratio:g}"),
                 f"Tries formats, patterns and shares of blocks for each matrix of {stage}, by the loss on training "
                 "sentences; what it ends with is scored exactly, beside the best setting that is the same for all. "
                 "It goes on where it was stopped.")
    for one in mixtures.found(run).values():
        if one.stage == stage:
            result(run, one)


def result(run: Run, one: Mixture) -> None:
    """What a search ended with, beside the best uniform setting, and the button that opens it."""
    about = one.about
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(widgets.plain(
            f"{one.name}: {in_words(run.metric)} {about['score']:.4f} ({about['low']:.3f} – {about['high']:.3f}), the "
            f"encoder {about['ratio']:.2f} times fewer bytes than in fp32, the model {about['bytes'] / trade.MB:.1f} "
            f"MB. {about['words'][:1].upper()}{about['words'][1:]}"), width="content",
            help=widgets.plain(about.get("order", "")) or None)
        st.button("Open it on the map", icon=":material/grid_on:", key=f"open mixture {one.name}", on_click=open_,
                  args=(run, one.stage, one.cut), type="tertiary")
