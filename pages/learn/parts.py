"""What every step of Learn is made of: what to do and to see, numbers, a chart, a question, the way to a real run."""

from __future__ import annotations

import streamlit as st

from pages.shared import loaders, widgets


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


def draw(figure, key: str, alt: str) -> None:
    st.plotly_chart(figure, key=key, config=widgets.chart(), alt=alt)


def real_run(words: str, name: str, page: str = "pages/2_Explore.py", **query: str) -> None:
    """A link to where the idea shows itself on a real run; nothing where this copy has no such run."""
    if any(entry.name == name and entry.run for entry in loaders.listed()):
        st.page_link(page, label=words, icon=":material/arrow_outward:", query_params={"run": name} | query)
