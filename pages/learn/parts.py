"""What every step of Learn is made of: what to do and to see, numbers, a chart, questions, the way to a real run."""

from __future__ import annotations

import json
from collections.abc import Callable

import streamlit as st

from pages.learn import projector
from pages.shared import copying, loaders, widgets
from prune_core.runs import places
from prune_core.showing import exercises, glossary
from prune_core.showing.exercises import Known


def alone() -> bool:
    """Whether this is the app for a class (pages/learn/alone.py), which has no other page."""
    return bool(st.session_state.get("alone"))


def halves() -> tuple:
    """Two places, for words and controls and for the picture: side by side, or under one another in a narrow window."""
    return st.container(key="halves").columns([2, 3], gap="large")


def do_and_see(do: str, see: str) -> None:
    st.markdown(f"**Do:** {do} **See:** {see}")


def question(asked: str, answer: str) -> None:
    """A question, and its answer for who unfolds it."""
    with st.expander(f"Question: {asked}", icon=":material/help:"):
        st.markdown(answer)


def numbers(**values: str) -> None:
    """A row of numbers with their names, which wraps where the window is narrow."""
    with st.container(horizontal=True, gap="large"):
        for name, value in values.items():
            st.metric(name.replace("_", " "), value, width="content")


def draw(key: str, alt: str, make: Callable, *asked) -> None:
    """The chart that `make(*asked)` gives, made once for all who look at the same."""
    if projector.on():
        figure = loaders.once(projector.enlarged, make, *asked)
        st.plotly_chart(figure, key=key, config=widgets.chart(), alt=alt, height="stretch")
    else:
        copying.chart(loaders.once(make, *asked), key=key, alt=alt)


def real_run(words: str, name: str, page: str = "pages/2_Explore.py", **query: str) -> None:
    """A link to where the idea shows itself on a real run; nothing where there is no such run or no such page."""
    if not alone() and any(entry.name == name and entry.run for entry in loaders.listed()):
        st.page_link(page, label=words, icon=":material/arrow_outward:", query_params={"run": name} | query)


# ---------------------------------------------------------------- exercises and words


def known(sentences: str = "") -> Known:
    """What pictures and answers of the lesson are made from; `sentences`: what the model said of the examples, JSON."""
    there = f"{places.RECORDED} {places.RECORDED.stat().st_mtime_ns if places.RECORDED.is_dir() else 0}"
    return loaders.once(_known, there, json.dumps(st.session_state.get("shapes")), sentences)


def _known(there: str, shapes: str, sentences: str) -> Known:
    measured = {} if shapes == "null" else {"shapes": json.loads(shapes)}
    return Known(exercises.recorded(), json.loads(sentences or "null"), **measured)


def show_exercises(step: int, known: Known, waiting: str = "") -> None:
    """The exercises of a step, each answer unfolded on demand; `waiting`: why there is none yet."""
    st.subheader("Exercises", anchor=False)
    for number, one in enumerate(exercises.of_step(step), 1):
        with st.expander(f"{step}.{number} {one.asked}", icon=":material/edit:"):
            if waiting:
                st.info(waiting, icon=":material/hourglass_top:")
            else:
                st.markdown(f"**Answer, computed:** {widgets.plain(loaders.once(one.answer, known))}")


def show_words(step: int) -> None:
    """The words that first stand in this step, and all of them."""
    new = glossary.first_in(step)
    with st.expander(f"New words: {', '.join(word.word for word in new)}", icon=":material/dictionary:"):
        st.markdown("\n".join(f"- **{word.word}**: {word.meaning}" for word in new))
        if st.toggle("All words of the lesson", key=f"all words {step}"):
            rows = [f"| **{word.word}** | {word.meaning} | {word.step} |"
                    for word in sorted(glossary.WORDS, key=lambda word: word.word.lower())]
            st.markdown("\n".join(("| word | meaning | step |", "|---|---|---|", *rows)))
