"""Learn: which step is shown, the way to the next, and what stands under every step."""

from __future__ import annotations

import streamlit as st

from pages.learn import bits, breaks, faults, hand_outs, parts, projector, sentence, speed, start
from prune_core.showing.course import STEPS, Step

SHOWN = dict(zip((step.number for step in STEPS), (
    start.blocks, start.penalty, start.reweight, sentence.show, speed.show, faults.show, breaks.show, bits.show),
    strict=True))
NAMES = {step.name: step for step in STEPS}
# Beside each name by the style, as the names themselves stand in links
MINUTES = " ".join(f'.st-key-step button:nth-of-type({step.number}) p::after {{content: " {step.minutes} min"; '
                   "opacity: 0.75; font-size: 0.85em}" for step in STEPS)


def show() -> None:
    """The whole page, below what sets it up."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if not st.session_state.get("present"):
            st.title("Learn block pruning", anchor=False, width="content")
            st.space("stretch")
        projector.switch()
    now = st.segmented_control("Step", list(NAMES), default=next(iter(NAMES)), required=True, key="step", wrap=True,
                               bind="query-params", label_visibility="collapsed")
    st.html(f"<style>{MINUTES}</style>")
    step = NAMES[now]
    st.header(step.name, anchor=False)
    if not projector.on():
        st.caption(f"About {step.minutes} minutes; all {len(STEPS)} steps: {sum(one.minutes for one in STEPS)}.")
    SHOWN[step.number]()
    if step.number == 4:
        sentence.exercises(step.number)
    else:
        parts.show_exercises(step.number, parts.known())
    parts.show_words(step.number)
    _walk(step)
    hand_outs.offer()


def _walk(step: Step) -> None:
    with st.container(horizontal=True, key="walk"):
        st.button("Back", icon=":material/arrow_back:", key="step-back", disabled=step.number == 1, on_click=_go,
                  args=(STEPS[step.number - 2].name,))
        st.button("Next", icon=":material/arrow_forward:", type="primary", key="step-on",
                  disabled=step.number == len(STEPS), on_click=_go, args=(STEPS[step.number % len(STEPS)].name,))


def _go(to: str) -> None:
    st.session_state["step"] = to
