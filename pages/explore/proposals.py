"""Propose: for a loss, a speedup or a compression the best of several cuts, each scored exactly while one watches."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import streamlit as st

from pages.explore import rerun
from pages.explore.view import View, precision, send, waits
from pages.shared import jobs, loaders, widgets
from pages.shared.score_client import Question
from prune_core import InputError
from prune_core.latency.profile import PLAIN
from prune_core.runs import proposal
from prune_core.runs.proposal import Aim, Candidate, Proposal, Search, Step
from prune_core.runs.run import Run
from prune_core.tasks.metrics import in_words

REPAIR = 1.0  # seconds of a repair before each score
HELP = ("Several ways to cut are tried: by every ranking that was recorded, with one threshold or the same share of "
        "each matrix, and with shares by recorded sensitivities. Exact scores decide between them.")
AIMS = {"loss": "loses at most", "speedup": "is faster by at least", "compression": "is smaller by at least"}
FIELDS = {"loss": ("points below dense", 0.0, 100.0, 1.0, 0.5), "speedup": ("times", 1.05, 100.0, 2.0, 0.25),
          "compression": ("times", 1.05, 100.0, 2.0, 0.25)}  # what is counted, least, most, usual, step


@dataclass
class Asked:
    """A search for a proposal: on its way, ended, or refused."""

    run: str  # folder
    stage: str
    data: str
    dtype: str = "auto"  # that its speedups are for
    search: Search | None = None
    step: Step | None = None
    candidates: list[Candidate] = field(default_factory=list)
    proposal: Proposal | None = None
    error: str = ""
    start: float = field(default_factory=time.monotonic)

    def take(self, result: dict, dense: float) -> None:
        """One more exact score: on to the next candidate, or to the end."""
        self.candidates.append(proposal.answered(self.step.candidate, result, dense))
        try:
            self.step = self.search.send(result)
        except StopIteration as ended:
            self.step, self.proposal = None, ended.value


def show(run: Run, view: View) -> None:
    """What is wanted, the button that searches, and what was found for the weights in view."""
    stage = view.snapshot.saved
    if not stage or not run.has_weights(stage):
        st.caption("A cut is proposed from exact scores. They take weights, which are "
                   + (f"not included for {widgets.plain(stage)}." if stage else "kept for stages only."))
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        aims = [aim for aim in AIMS if aim != "speedup" or loaders.usual_profile()]
        aim = st.segmented_control("Find the cut that", aims, default="loss", format_func=AIMS.get, required=True,
                                   key="aim", help=HELP)
        unit, least, most, usual, step = FIELDS[aim]
        value = st.number_input(unit, least, most, usual, step, format="%.2f", key=f"aimed {aim}", width=150)
        wanted = Aim(**{aim: value / 100 if aim == "loss" else value})
        asked = _asked(run, stage)
        if asked and asked.step:
            st.button("Cancel", icon=":material/close:", key="cancel proposal", on_click=_cancel)
        else:
            about = widgets.duration(jobs.seconds_of(run, stage, proposal.usual(run, stage, wanted),
                                                     REPAIR * view.cut.repaired))
            st.button(f"Propose, about {about}", icon=":material/auto_fix_high:", key="propose", on_click=_ask,
                      args=(run, stage, wanted, view.cut.repaired))
    if asked:
        _course(run, stage)


def take_over() -> None:
    """Have the map take the best cut of a search that has ended. Before the sidebar shows what blocks are ranked by."""
    if best := st.session_state.pop("proposed", None):
        use(best)


def use(candidate: Candidate) -> None:
    """Have the map take this cut over, and its ranking and repair with it; it can be undone there."""
    cut = candidate.cut
    if "score" in st.session_state or cut.ranking != "norm":
        st.session_state["score"] = cut.ranking
    st.session_state["repair"] = cut.repaired
    send(cut)


def _asked(run: Run, stage: str) -> Asked | None:
    """The search that this session made last, if it was for these weights."""
    asked = st.session_state.get("proposal")
    return asked if asked and (asked.run, asked.stage) == (str(run.path), stage) else None


def _ask(run: Run, stage: str, aim: Aim, repaired: bool) -> None:
    asked = st.session_state["proposal"] = Asked(str(run.path), stage, widgets.data(), precision())
    try:
        asked.search = proposal.search(run, stage, aim, loaders.usual_profile(), repaired, asked.dtype)
        asked.step = next(asked.search)
    except InputError as error:
        asked.error = str(error)


def _cancel() -> None:
    st.session_state.pop("proposal", None)
    loaders.score_client().leave(_who())


def _who() -> str:
    """Not the session itself, whose map asks beside it."""
    return f"{widgets.session()} proposal"


@st.fragment
def _course(run: Run, stage: str) -> None:
    """How the search stands: candidates with their scores as they come. Runs again until it has ended."""
    if waits():
        st.rerun()  # a cut was taken over: the map and the sidebar stand outside this fragment
    asked, client = _asked(run, stage), loaders.score_client()
    if asked is None:
        return
    answer = None
    while asked.step:
        answer = client.want(_who(), Question(asked.run, asked.stage, asked.step.candidate.cut, asked.data))
        if answer.doing == "failed":
            asked.error, asked.step = answer.error, None
        elif answer.doing != "done":
            break
        else:
            asked.take(answer.result, run.dense_score)
            if asked.proposal and asked.proposal.best:
                st.session_state["proposed"] = asked.proposal.best
                st.rerun()
    if asked.error:
        st.error(widgets.plain(asked.error), icon=":material/error:")
    elif asked.proposal:
        st.markdown(f"**{widgets.plain(asked.proposal.words())}**")
    else:
        _progress(asked, answer, client.ahead(Question(asked.run, asked.stage, asked.step.candidate.cut, asked.data)))
    _table(run, asked)
    rerun.soon(400 * (1 + client.waiting()) if asked.step else 0, "proposal")


def _progress(asked: Asked, answer, ahead: int) -> None:
    """Which candidate is being scored, how far that is, and how long all of it may still take."""
    step, part = asked.step, answer.done / answer.total if answer.doing == "scoring" and answer.total else 0.0
    doing = {"waiting": f"{ahead} before it" if ahead else "starting", "loading": "loading weights and data, once",
             "scoring": f"{answer.score or 0:.3f} so far"}.get(answer.doing, answer.doing)
    gone = step.done + part
    left = (time.monotonic() - asked.start) / gone * (step.total - gone) if gone > 0.2 else None
    st.progress(min(1.0, gone / step.total), f"Cut {step.done + 1} of at most {step.total}: "
                f"{widgets.plain(step.candidate.how)}, {step.candidate.sparsity:.1%} zero: {doing}"
                + (f", at most {widgets.duration(left)} left" if left else ""))


def _table(run: Run, asked: Asked) -> None:
    """A row for each candidate that has its exact score, with a button that sends it to the map."""
    if not asked.candidates:
        return
    widths, best = (4.2, 1, 1.2, 2, 1.2, 1), asked.proposal and asked.proposal.best
    names = ("Cut", "Zero", "Speedup", f"Exact {in_words(run.metric)}", "Loss", "")
    for place, name in zip(st.columns(widths), names, strict=True):
        place.caption(name)
    for number, one in enumerate(asked.candidates):
        how, zero, faster, score, loss, button = st.columns(widths, vertical_alignment="center")
        how.markdown(widgets.plain(one.how) + (" :material/star:" if one is best or one == best else ""))
        zero.markdown(f"{one.sparsity:.1%}")
        faster.markdown(widgets.plain(f"{widgets.times(one.speedup)} {one.fast.on if one.fast else ''}".strip()))
        score.markdown(f"{one.score:.4f} ({one.low:.3f} – {one.high:.3f})")
        loss.markdown(f"{100 * one.loss:+.1f} points".replace("-", "−"))
        button.button("Use", key=f"use {number}", on_click=use, args=(one,), type="tertiary")
    ran = sorted({one.fast.dtype for one in asked.candidates if one.fast})
    how = ", ".join(ran) or asked.dtype
    how = f"the fastest precision ({how})" if asked.dtype == "auto" else how
    st.caption(f"Speedups are predicted, in {how}, over the best dense engine; scores are exact in {PLAIN}. "
               "Intervals are at 95%; losses are below dense.")
