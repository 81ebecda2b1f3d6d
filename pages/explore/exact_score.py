"""What a cut costs: predicted from the recorded surface, exact a moment later."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from pages.explore import bits, known, precision, rerun
from pages.explore.view import View, ask_of_sidebar, go, wanted
from pages.shared import jobs, loaders, widgets
from pages.shared.score_client import Answer, Question, ScoreClient
from pages.shared.widgets import PRECISIONS, data
from prune_core.cutting.answers import GRID
from prune_core.cutting.masks import zero_share
from prune_core.methods.rankings import RANKINGS
from prune_core.precision.formats import parse
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.tasks.metrics import in_words

DATA_ADVICE = "; give --data "  # of a command; here there is a field for it
RANKING_SECONDS = 60.0  # that the other rankings of a stage take together, about


def words(run: Run, view: View) -> None:
    """What Python counts for the present cut, in words: where the predicted numbers are from, and how sure they are."""
    mask = view.mask
    kept, blocks = (sum(int(f(v)) for v in mask.kept.values()) for f in (lambda v: v.sum(), lambda v: v.size))
    zeros = zero_share(view.norms, run.layout)
    counted = (f"{kept:,} of {blocks:,} blocks are kept at {widgets.plain(view.label)}, sparsity {view.sparsity:.1%}. "
               "Compression = original ÷ remaining weights, once for the prunable matrices (encoder) and once for the "
               "whole model, embeddings included.")
    trained = f"Training has set {zeros:.1%} of the weights to exactly zero." if zeros > 0.001 else ""
    more = view.sparsity - mask.sparsity
    pattern = f"The pattern leaves out {more:.1%} of the prunable weights, the cut blocks the rest." if more else ""
    stored = widgets.plain(bits.words(view.formats, bits.stored(run, view.cut, mask)))
    sentences = (counted, pattern, trained, stored, _ranking_words(view), _score_words(run, view),
                 precision.words(run, view))
    st.caption(" ".join(sentence for sentence in sentences if sentence))
    precision.not_calibrated()
    if repair_helps(run, view):
        offer_repair()
    elif view.cut.repaired and bits.rounded(view.formats) and st.session_state.get("repair by") == "itself":
        st.markdown(":material/healing: Repair was switched on: it makes up for rounding.")
    if _unrecorded(view):
        record_scores(run, view)


def _unrecorded(view: View) -> bool:
    """Whether no score is predicted for want of a surface, and not for thresholds of its own that the cut has."""
    even = view.cut.scope == "global" or view.cut.share is not None
    return not view.surfaces or even and view.foreseen is None and bool(view.cut.formats)


def repair_helps(run: Run, view: View) -> bool:
    """Whether what is in view is rounded, or thinned out by a pattern, after training and not repaired."""
    stage, formats = view.snapshot.saved, view.cut.formats
    return bool(stage and bits.rounded(view.formats) and not view.cut.repaired
                and run.has_weights(stage) and formats != run.trained_formats(stage))


def repair_by_itself(run: Run, view: View) -> None:
    """Switch repair on when formats are chosen that it makes up for, once in a session.

    Not where somebody has decided: by the switch, or with a link, a pin or another setting that has these formats.
    """
    if "repair by" in st.session_state or not repair_helps(run, view):
        return
    _, start, at = st.session_state["start"]
    link = start.cut.formats not in ("", bits.usual(run, at)) or "repair" in st.query_params
    sent = (st.session_state.get("command") or {}).get("cut") or {}
    decided = link or "repair" in wanted() or sent.get("formats") == view.cut.formats
    st.session_state["repair by"] = "other" if decided else "itself"
    if not decided:
        ask_of_sidebar(repair=True)


def _repair_by_hand() -> None:
    """The switch stays as somebody has set it, whatever was asked of it a moment ago."""
    st.session_state["repair by"] = "hand"
    wanted().pop("repair", None)


def offer_repair() -> None:
    """That repair makes up for rounding, and the button that switches it on."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="repair-helps"):
        st.markdown(":material/healing: Rounded as it stands. Repair moves what stays to make up for it, without "
                    "training.", width="content")
        st.button("Repair", key="repair now", type="tertiary", on_click=ask_of_sidebar, kwargs={"repair": True})


def record_scores(run: Run, view: View) -> None:
    """The button that has scores recorded for cuts like the one in view, where its weights are there."""
    stage, cut = view.snapshot.saved, view.cut
    if stage and run.has_weights(stage):
        repaired = ", repaired" * cut.repaired
        missing = bits.missing(view.cut, view.formats, run.layout, view.surfaces)
        seconds = jobs.seconds_of(run, stage, len(GRID) * len(missing), of_repair=2.0 if cut.repaired else 0.0)
        options = (f"--by={cut.ranking}", f"--scope={cut.scope}", f"--repair={'yes' if cut.repaired else 'no'}",
                   f"--bits={','.join(one or '32' for one in missing)}")
        stored = f" in {' and '.join(parse(one).words for one in missing)}" * any(missing)
        jobs.job(f"surface {run.name} {stage} {options}", f"Record scores of such cuts{stored}{repaired}", seconds,
                 jobs.command(run, stage, "surface", *options),
                 f"Exact scores of {stage} at {len(GRID)} sparsities, from which any other is then predicted.")


def _ranking_words(view: View) -> str:
    """That blocks are ranked by another ranking than the one that was chosen, which was not recorded here."""
    chosen = st.session_state.get("score") or "norm"
    return "" if chosen == view.cut.ranking else (
        f"Blocks are ranked by the **{RANKINGS[view.cut.ranking].label}** here: {RANKINGS[chosen].label} was not "
        f"recorded for {widgets.plain(view.label)}.")


def _score_words(run: Run, view: View) -> str:
    """Where the score beside the map is from."""
    if said := view.foreseen:
        metric, stage = in_words(run.metric), view.snapshot.saved
        told = (f"The **recorded** {metric}, {said.score:.3f}, is of this very cut of {stage}" if said.how == "recorded"
                else f"The **predicted** {metric}, {said.score:.3f}, is estimated from recorded scores at nearby cuts "
                     f"of {stage}")
        stored = _stored_words(view)
        repaired = ", repaired after cutting" if st.session_state.get("repair") else ""
        further = " further" if stage.kind == "retrain" else ""
        plain = "" if view.dtype == "fp32" else " It is of fp32 arithmetic."
        return (f"{told}{stored}{repaired}, without{further} retraining: 95% interval {said.low:.3f} – {said.high:.3f},"
                f" {scope_words(view.cut.scope)}.{plain}")
    if alike := [kind for kind in view.surfaces if kind.formats == view.cut.formats]:
        scopes = " or ".join(scope_words(kind.scope) for kind in alike)
        return f"Scores were recorded only for cuts with {scopes}: none is predicted for yours."
    if view.surfaces and view.formats.scope != "global":
        return "No score is predicted: that takes scores recorded in each of these formats, and in fp32."
    if view.surfaces and view.cut.formats:
        return f"No score is predicted: none was recorded in {widgets.plain(view.formats.words)}."
    return "No score is predicted here: no scores were recorded for such cuts of this snapshot."


def _stored_words(view: View) -> str:
    """', in 8 bits, 2:4', and of several formats from what they are predicted; '' for fp32."""
    if not view.cut.formats:
        return ""
    mixed = "" if view.surface else ", each by its share of the weights"
    return f", in {widgets.plain(view.formats.words)}{mixed}"


def scope_words(scope: str) -> str:
    """What shares one threshold, or one share, in cuts of this scope."""
    return "one threshold for the whole encoder" if scope == "global" else f"the same share of each {scope}"


def exact(run: Run, view: View) -> None:
    """The exact dev score of what is in view, which comes by itself."""
    stage = view.snapshot.saved
    if not stage or not run.has_weights(stage):
        known.tell(known.cut_of(run, view), None)
        if not st.session_state.get("present"):
            without_weights(run, stage)
        return
    _row(run, _question(run, view), known.cut_of(run, view))


def without_weights(run: Run, stage: str | None) -> None:
    """Why there is no exact score, a button to a stage that has one, and one that makes the weights."""
    why = ("No exact score for this stage: its weights are not included." if stage else
           "No exact score between stages: weights are kept at stages only (dense, penalty, retrained).")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f":material/fact_check: {why}", width="content")
        if there := jobs.with_weights(run):
            st.button(f"Go to {there}", icon=":material/arrow_forward:", type="tertiary", key="go to weights",
                      on_click=go, args=(run, there))
        if stage:
            jobs.weights(run)


def _question(run: Run, view: View) -> Question:
    """What is asked for the cut in view."""
    cut = replace(view.cut, share=None, thresholds=view.thresholds)
    return Question(str(run.path), view.snapshot.saved or "", cut, data(), view.dtype)


def taken(run: Run, view: View) -> list[tuple[float, float]]:
    """(sparsity, exact score) of every cut of these weights, ranked and repaired alike, scored here on this data in
    this arithmetic."""
    now = _question(run, view)
    kind = now.cut.kind._replace(scope="")
    return [(result["sparsity"], result["score"])
            for question, result in st.session_state.get("exact scores", {}).items()
            if replace(question, cut=now.cut) == now
            and question.cut.kind._replace(scope="") == kind]


@st.fragment
def _row(run: Run, question: Question, cut: dict) -> None:
    """How the answer stands: as high before as after, so that nothing below jumps. Runs again until it is there."""
    client = loaders.score_client()
    refused = client.failed_alike(question)  # the data is not there, say: no other threshold would help
    answer = Answer("failed", error=refused) if refused else client.want(widgets.session(), question)
    if answer.doing == "done":
        st.session_state.setdefault("exact scores", {})[question] = answer.result
    known.tell(cut, answer)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if not st.session_state.get("present") or answer.doing != "failed":  # then the card says enough
            missing, advice, _ = answer.error.partition(DATA_ADVICE)
            st.markdown(_told(run, question, answer, client), width="content",
                        help=widgets.plain(f"No exact score: {missing}.") if advice else None)
        if answer.doing == "failed" and st.button("Try again", icon=":material/refresh:", type="tertiary"):
            client.forget_failures()
            st.rerun()
    rerun.soon(0 if answer.ended else 250 * (1 + client.waiting()))


def _told(run: Run, question: Question, answer: Answer, client: ScoreClient) -> str:
    """The answer in one line: why it failed, the exact score, the score so far, or what is waited for."""
    name = in_words(run.metric)
    if answer.doing == "failed":
        if DATA_ADVICE not in answer.error:
            return f":material/error: **No exact score:** {widgets.plain(answer.error)}"
        where = ", which is not on this machine." if loaders.read_only() else "; name a GLUE folder in the sidebar."
        return f":material/info: Exact scores need the data of {widgets.plain(canvas.task_title(run))}{where}"
    if answer.doing == "done":
        result, repaired = answer.result, ", repaired after cutting" if question.cut.repaired else ""
        stored = _stored_in(run, question)
        return (f":material/fact_check: Exact dev {name}{stored}{repaired}{_arithmetic(question, answer)} "
                f"**{result['score']:.4f}**, 95% interval {result['low']:.3f} – {result['high']:.3f} "
                f"({result['examples']:,} examples, {_took(result['seconds'])})")
    if answer.score is not None:
        so_far = in_words(run.metric, first=True) + _arithmetic(question, answer)
        return (f":material/hourglass_top: {so_far} so far **{answer.score:.3f}**, "
                f"95% interval {answer.low:.3f} – {answer.high:.3f}, {answer.done:,} of {answer.total:,} examples")
    ahead = client.ahead(question)
    doing = {"loading": "loading weights and data, once",
             "waiting": f"{ahead} before it" if ahead else "starting"}.get(answer.doing, answer.doing)
    left = f", about {widgets.duration(answer.seconds_left)} left" if answer.seconds_left else ""
    unit = {"measuring inputs": "sentences", "repairing": "matrices", "quantizing": "matrices"}.get(answer.doing)
    far = f", {answer.done:,} of {answer.total:,} {unit}" if unit and answer.total else ""
    name += _arithmetic(question, answer)
    return f":material/hourglass_top: Exact dev {name}: {widgets.plain(doing)}{far}{left} …"


def _stored_in(run: Run, question: Question) -> str:
    """', in 8 bits, 2:4 (post-training)': in which formats it was scored; '' for fp32."""
    text = question.cut.formats
    if not text:
        return ""
    how = "as trained" if text == run.trained_formats(question.stage) else "post-training"
    return f", in {widgets.plain(parse(text).words)} ({how})"


def _arithmetic(question: Question, answer: Answer) -> str:
    """' in bf16': what the score is taken in, where another than fp32 was asked for; and why it is not that."""
    if question.dtype == "fp32":
        return ""
    ran = answer.executed or {"dtype": question.dtype, "why": ""}
    instead = f" instead of {question.dtype}" if question.dtype not in (ran["dtype"], "auto") else ""
    why = f" ({widgets.plain(ran['why'])})" if instead and ran["why"] else ""
    return f" in {ran['dtype']}{instead}{why}"


def ranking(run: Run) -> None:
    """What the thresholds are on, asked for in the sidebar; disabled, with the reason, where there are only norms."""
    names = list(dict.fromkeys(name for stage in run.stages for name in run.rankings(stage))) or ["norm"]
    only = len(names) == 1
    why = ("Only the norms of the blocks were recorded for this run, so there is nothing else to rank by." if only else
           "What thresholds and colours go by. Rankings other than the norm are recorded for some stages only; "
           "elsewhere it is the norm.")
    if st.session_state.get("score", names[0]) not in names:
        del st.session_state["score"]
    st.selectbox("Rank blocks by", names, format_func=lambda name: RANKINGS[name].label, key="score",
                 bind="query-params", disabled=only, help=why)
    at = st.query_params.get("at")
    stage = at if at in run.stages else jobs.with_weights(run)
    if stage and run.has_weights(stage) and run.rankings(stage) == ["norm"]:
        jobs.job(f"score {run.name} {stage}", f"Record other rankings of {stage}", jobs.LOADING + RANKING_SECONDS,
                 jobs.command(run, stage, "score"), "What else blocks can be ranked by: the inputs that they meet, "
                                                    "gradients, least squares, the surgeon.", "tertiary")


def exact_settings(run: Run) -> None:
    """How exact scores are taken, asked for in the sidebar: repaired or not, in which arithmetic, on which data."""
    st.toggle("Repair after cutting", key="repair", bind="query-params", on_change=_repair_by_hand,
              help="Adjusts the kept weights so that each matrix's output stays as close as possible to what it was. "
                   "Least squares on 1,024 training sentences, no training.")
    _dtype()
    widgets.data_field(run.data, on_change=loaders.score_client().forget_failures)


def _dtype() -> None:
    """In which arithmetic exact scores are taken; a link that names none of them is as one that names nothing."""
    if st.session_state.get("score dtype", "fp32") not in PRECISIONS:
        del st.session_state["score dtype"]
    st.segmented_control("Exact score in", PRECISIONS, default="fp32", key="score dtype", required=True,
                         bind="query-params",
                         help="The arithmetic in which the pruned model is scored: in **bf16** and **int8** a few "
                              "answers change. Each is kept apart; what is recorded and predicted is fp32. **auto** "
                              "takes what is fastest here.")


def _took(seconds: float) -> str:
    """'0.9 s', or that it was not computed now."""
    return f"{seconds:.1f} s" if seconds >= 0.02 else "cached"
