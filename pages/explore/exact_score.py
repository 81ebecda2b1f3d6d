"""What a cut costs: predicted from the recorded surface, exact a moment later; the run's own points, as tables and files."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from pages.explore import rerun
from pages.explore.view import View
from pages.shared import loaders, widgets
from pages.shared.loaders import SETTING
from pages.shared.score_client import Answer, Question
from pages.shared.widgets import data
from prune_core.cutting.answers import predict
from prune_core.cutting.masks import zero_share
from prune_core.methods.rankings import RANKINGS
from prune_core.runs.run import Run


def words(run: Run, view: View) -> None:
    """What Python counts for the present cut, in words: where the predicted numbers are from, and how sure they are."""
    mask, snapshot = view.mask, view.snapshot
    kept, blocks = (sum(int(f(v)) for v in mask.kept.values()) for f in (lambda v: v.sum(), lambda v: v.size))
    zeros = zero_share(view.norms, run.layout)
    said = (f"{kept:,} of {blocks:,} blocks are kept at {widgets.plain(view.label)}, sparsity {mask.sparsity:.1%}. Compression is dense / kept weights: of "
            "the prunable matrices (encoder), and of the whole model, embeddings included. ")
    if zeros > 0.001:
        said += f"Training has brought {zeros:.1%} to exactly zero. "
    if view.surface:
        _, low, high = predict(view.surface, mask.sparsity)
        repaired = ", repaired after cutting" if st.session_state.get("repair") else ""
        said += (f"The {run.metric.replace('_', ' ')} is **predicted from the recorded surface** of {snapshot.saved}{repaired}, without "
                 f"retraining: 95% interval {low:.3f} – {high:.3f}, {scope_words(view)}.")
    elif view.surfaces:
        said += (f"Surfaces were recorded here for cuts alike for {' or '.join(kind.scope for kind in view.surfaces)}: the dimmed score is what such a cut of the same sparsity "
                 "would have.")
    else:
        said += "No score is predicted here: no surface was recorded for such cuts at this moment (`python -m prune_core surface`)."
    if profile := next(iter(loaders.profiles().items()), None):
        said += (f" The speedup is **predicted** for {profile[0].removeprefix('this machine (').removesuffix(')')}, {SETTING.batch} sentences of "
                 f"{SETTING.length} tokens, compact against dense torch, median error {profile[1].error:.0%}; **Speed** has more.")
    else:
        said += " No speedup is predicted: **Speed** can calibrate this machine."
    st.caption(said)


def scope_words(view: View) -> str:
    """What shared one threshold when the surface was recorded."""
    return "one threshold for the whole encoder" if view.cut.scope == "global" else f"the same share of each {view.cut.scope}"


def exact(run: Run, view: View) -> None:
    """The exact dev score of what is in view, which comes by itself."""
    snapshot = view.snapshot
    if not snapshot.saved or not (run.path / "weights" / f"{snapshot.saved}.safetensors").exists():
        why = "Weights are kept at the ends of phases only: choose one of them" if not snapshot.saved else (
            f"This copy ships without the weights of {snapshot.saved}. Make them with {widgets.code(run.command())}")
        st.caption(f":material/fact_check: No exact score here. {why}.")
        return
    _row(run, _question(run, view))


def _question(run: Run, view: View) -> Question:
    """What is asked for the cut in view."""
    return Question(str(run.path), view.snapshot.saved or "", replace(view.cut, share=None, thresholds=view.thresholds), data())


def taken(run: Run, view: View) -> list[tuple[float, float]]:
    """(sparsity, exact score) of every cut of these weights, ranked and repaired alike, that was scored in this session."""
    asked = _question(run, view)
    return [(one["sparsity"], one["score"]) for q, one in st.session_state.get("exact scores", {}).items()
            if (q.run, q.stage) == (asked.run, asked.stage) and q.cut.kind._replace(scope="") == asked.cut.kind._replace(scope="")]


@st.fragment
def _row(run: Run, question: Question) -> None:
    """How the answer stands: as high before as after, so that nothing below it jumps. Runs again by itself until it is there."""
    asker = loaders.asker()
    refused = asker.failed_alike(question)  # the data is not there, say: no other threshold would find it
    answer = Answer("failed", error=refused) if refused else asker.want(widgets.session(), question)
    if answer.doing == "done":
        st.session_state.setdefault("exact scores", {})[question] = answer.result
    name = run.metric.replace("_", " ")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if answer.doing == "failed":
            why, _, advice = answer.error.partition("; give --data ")  # a command's advice; here there is a field for it
            st.markdown(f":material/error: **No exact score:** {widgets.plain(why)}" + (". Say in the sidebar where it is." if advice else ""), width="content")
            if st.button("Try again", icon=":material/refresh:", type="tertiary"):
                asker.forget_failures()
                st.rerun()
        elif answer.doing == "done":
            found = answer.result
            repaired = ", repaired after cutting" if question.cut.repaired else ""
            st.markdown(f":material/fact_check: Exact dev {name}{repaired} **{found['score']:.4f}**, 95% interval {found['low']:.3f} – {found['high']:.3f} "
                        f"({found['examples']:,} examples, {_took(found['seconds'])})", width="content")
        elif answer.score is not None:
            st.markdown(f":material/hourglass_top: {name.capitalize()} so far **{answer.score:.3f}**, 95% interval {answer.low:.3f} – "
                        f"{answer.high:.3f}, {answer.done:,} of {answer.total:,} examples", width="content")
        else:
            ahead = asker.ahead(question)
            words = {"loading": "loading weights and data, once"}.get(answer.doing, f"{ahead} before it" if ahead else "starting")
            st.markdown(f":material/hourglass_top: Exact dev {name}: {words} …", width="content")
    rerun.soon(0 if answer.ended else 250 * (1 + asker.waiting()))


def ranking(run: Run) -> None:
    """What the thresholds are on, asked for in the sidebar, where more than norms was recorded."""
    kinds = list(dict.fromkeys(kind for phase in run.stages for kind in run.rankings(phase)))
    if len(kinds) > 1:
        st.selectbox("Rank blocks by", kinds, format_func=lambda kind: RANKINGS[kind].label, key="score", bind="query-params",
                     help="What the thresholds and the colours are on. Others than the norm are recorded for some moments only "
                          "(`python -m prune_core score`); elsewhere it is the norm.")


def exact_settings(run: Run) -> None:
    """How exact scores are taken, asked for in the sidebar: repaired or not, and where the task's data is."""
    st.toggle("Repair after cutting", key="repair", bind="query-params", help="Moves the weights that are kept to where the outputs of every matrix "
              "are nearest to those before the cut: in closed form from 1,024 training sentences, no training. Exact scores only.")
    widgets.data_field(run.data, on_change=loaders.asker().forget_failures)


def _took(seconds: float) -> str:
    """'0.9 s', or that it was not computed now."""
    return f"{seconds:.1f} s" if seconds >= 0.02 else "known from before"
