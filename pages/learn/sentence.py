"""Learn, step 4: a real model on a sentence, and the sentences of the dev set that flip first.

The model is asked in the background: the page is never held up, so Next and Back work while it thinks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.learn import parts, projector
from pages.shared import copying, loaders, widgets
from pages.shared.asking import LONGEST, TooMany
from pages.shared.processes import Failed
from prune_core.showing import figures, lesson
from prune_core.showing.exercises import SENTENCES, TAUGHT

ASKING, FLIPPING = 8, 30  # seconds that they take on two idle cores


def show() -> None:
    words, picture = parts.halves()
    with words:
        st.markdown("A **threshold** cuts every block whose norm lies below it. Here it is at work on a real model, "
                    "*MiniLM*, trained to tell positive from negative film reviews (*SST-2*), and **not** retrained "
                    "after the cut: that is why it forgets so soon.")
        parts.do_and_see("type a sentence or choose one, then cut more and more.",
                         "how sure the model is, and where it changes its mind.")
    with words.container(horizontal=True, gap="medium"):
        text = st.text_input("Your sentence, in English", SENTENCES[0], max_chars=LONGEST, key="sentence",
                             width=460).strip()[:LONGEST]
        st.selectbox("or one of these", SENTENCES, index=None, key="ready", placeholder="examples", width=320,
                     on_change=lambda: st.session_state.update(
                         sentence=st.session_state["ready"] or st.session_state["sentence"]))
    if not text:
        st.info("Type a sentence.")
        return
    asked()  # in the same process as this sentence
    with picture:
        try:
            awaited("the model, at ten sparsities", ASKING, loaders.predicted, (TAUGHT, text), how_sure)
        except TooMany as error:
            st.warning(str(error), icon=":material/hourglass_top:")
    first_to_flip()
    parts.question("Why is it harder to keep “not half as bad as I had feared” than “a warm and funny film”?",
                   "In the second, every word alone points to the answer. In the first, words have to be weighed "
                   "against each other: “bad” and “feared” say the opposite of the whole. That takes several layers, "
                   "and fails as soon as one of them no longer does its part.")
    parts.real_run("The same weights on Explore, scored on the whole dev set", TAUGHT,
                   at="dense")


def asked() -> list[Future]:
    """What the model says of the examples, a future for each; [] where too many sentences wait."""
    try:
        return [loaders.predicted(TAUGHT, text) for text in SENTENCES]
    except TooMany:
        return []


def together(futures: list[Future]) -> str:
    """The answers about all examples, as JSON of one prediction; '' where one is missing or failed."""
    if not futures or not all(future.done() and future.exception() is None for future in futures):
        return ""
    answers = [future.result() for future in futures]
    rows = [sum(rows, []) for rows in zip(*(answer["probabilities"] for answer in answers), strict=True)]
    return json.dumps(answers[0] | {"probabilities": rows})


def exercises(step: int) -> None:
    """Those of this step, whose answers are the model's about the examples; they follow when it has answered."""
    futures = asked()
    wait(futures, 0.25)
    done = all(future.done() for future in futures)
    st.fragment(_exercises, run_every=None if done else 1.0)(step, futures, done)


def _exercises(step: int, futures: list[Future], done: bool) -> None:
    if not all(future.done() for future in futures):
        parts.show_exercises(step, parts.known(), "The model is being asked about the examples; the answer follows.")
    elif not done:
        st.rerun()
    else:
        parts.show_exercises(step, parts.known(together(futures)))


def awaited(whom: str, seconds: int, ask: Callable[..., Future], asked: tuple, then: Callable[[dict], None]) -> None:
    """What `then` makes of the answer, or how long it has been waited for; looks again by itself."""
    future = ask(*asked)
    wait([future], 0.25)  # an answer that is there is shown at once
    fragment = st.fragment(_answer, run_every=None if future.done() else 1.0)
    fragment(whom, seconds, future, then, lambda: ask.clear(*asked), future.done(), time.monotonic())


def _answer(whom: str, seconds: int, future: Future, then: Callable[[dict], None], forget: Callable[[], None],
            done: bool, since: float) -> None:
    if not future.done():
        st.info(f"Asking {whom}: {time.monotonic() - since:.0f} s so far; about {seconds} s on two idle cores, more "
                "beside other work. You can go on meanwhile.", icon=":material/hourglass_top:")
        return
    if not done:
        st.rerun()  # the page is drawn anew, and looks no more
    try:
        then(future.result())
    except Failed as error:
        forget()  # so that it is asked again
        why, _, advice = str(error).partition("; give --data ")
        if parts.alone():  # what failed may name a folder of this machine
            why, advice = "The model could not be asked. Choose another step, or try again.", ""
        st.error(widgets.plain(why) + (". Say above where it is." if advice else ""), icon=":material/error:")


def how_sure(answer: dict) -> None:
    """What the model says of the sentence, at the sparsity that is chosen and over all of them."""
    sparsities, sure = answer["sparsities"], np.array(answer["probabilities"])[:, 0]
    step = st.select_slider("Sparsity", range(len(sparsities)), 0, format_func=lambda at: f"{sparsities[at]:.0%}",
                            key="cut the sentence")
    best = int(sure[step].argmax())
    changes = lesson.changes_at(sparsities, sure)
    parts.numbers(The_model_says=answer["labels"][best], Confidence=f"{sure[step, best]:.0%}",
                  It_changes_its_mind_at="never" if changes is None else f"{changes:.0%}")
    parts.draw("sure", "The probability of each answer over the sparsity", _lines, json.dumps(answer), step)
    scopes = {"global": "one threshold for the whole encoder", "matrix": "the same share of every matrix"}
    shared = scopes.get(answer["scope"], f"a threshold for each {answer['scope']}")
    st.caption(f"Computed now: the dense weights of the recorded run `{TAUGHT}`, {shared}.")


def _lines(answer: str, step: int) -> go.Figure:
    told = json.loads(answer)
    sparsities, sure = told["sparsities"], np.array(told["probabilities"])[:, 0]
    lines = {label: sure[:, at] for at, label in enumerate(told["labels"])}
    return figures.paths(lines, "sparsity", "probability", xs=sparsities, here=sparsities[step])


def first_to_flip() -> None:
    """Of the dev set itself, where the data is on this machine."""
    shown = parts.alone() or projector.on()  # to others: no folder of this machine stands there
    if shown and not Path(widgets.data() or "nowhere").is_dir():
        return
    st.markdown("**Which sentences of the dev set flip first?** The *dev set* is sentences with known answers that are "
                "kept apart from training. Cut a little, then more: a sentence flips when it was answered correctly "
                "and stays wrong from then on.")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        folder = (widgets.data() if shown else
                  widgets.data_field("in the layout of nyu-mll/glue", "Folder with GLUE", width=360))
        if st.button(f"Show them, about {FLIPPING} s", icon=":material/flip:", help="The whole dev set, six times."):
            st.session_state["flips"] = folder
    if st.session_state.get("flips") == folder:
        awaited("the model about every sentence of the dev set", FLIPPING, loaders.flips, (TAUGHT, folder), flipped)


def flipped(flips: dict) -> None:
    """The sentences, and how many of all."""
    rows = [{"from": flip["sparsity"], "sentence": " / ".join(flip["texts"]), "was, rightly": flip["before"],
             "is": flip["after"], "sure before": flip["sure"]} for flip in flips["first"]]
    percent = {"format": "percent"}
    copying.table(pd.DataFrame(rows), key="flipped", column_config={
        "from": st.column_config.NumberColumn("Flips from", **percent),
        "sentence": st.column_config.TextColumn("Sentence", width="large"),
        "was, rightly": "Correct label", "is": "New answer",
        "sure before": st.column_config.NumberColumn("Confidence before", **percent)})
    counts = zip(flips["sparsities"], flips["lost"], flips["won"], strict=True)
    st.caption(f"Computed now, dense weights, no retraining. Of {flips['examples']:,} sentences: "
               + "; ".join(f"at {share:.0%}, {lost} became wrong and {won} right" for share, lost, won in counts) + ".")
