"""Home: the notebooks, each with what one knows at its end, to be opened in Jupyter, VS Code or marimo."""

from __future__ import annotations

import json

import streamlit as st

from pages.shared import widgets
from prune_core.files import PROJECT

NOTEBOOKS = {"lesson": "Teach", "tune": "Tune", "your_own": "Your own model", "compare": "Compare",
             "fewer_bits": "Fewer bits", "results_table": "Results"}  # by what for


def show() -> None:
    """A row for each that came along: what for, what one will know, how long it takes, the file."""
    there = {name: path for name in NOTEBOOKS if (path := PROJECT / "notebooks" / f"{name}.ipynb").is_file()}
    if not there:
        return
    st.header("Notebooks", anchor=False)
    st.markdown("The same live map in Jupyter, VS Code, Colab or marimo: drag it, and Python has the cut; set the cut "
                "in Python, and the map follows.")
    st.code('from prune_core import show\nview = show("sst2-minilm-64x1")', language="python")
    with st.expander("Six notebooks to start from", icon=":material/menu_book:"):
        for name, path in there.items():
            title, know, takes = opening(path.read_bytes())
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{NOTEBOOKS[name]}**: {title}. {know} {takes}", width="stretch")
                st.download_button("Notebook", path.read_bytes(), path.name, "application/x-ipynb+json",
                                   icon=":material/download:", key=f"notebook {name}", on_click="ignore",
                                   help=widgets.plain(f"notebooks/{path.name}"))


def opening(content: bytes) -> tuple[str, str, str]:
    """(title, what one will know, the time it takes) as the first cell of a notebook says them."""
    text = "".join(json.loads(content)["cells"][0]["source"])
    title, know, takes = (" ".join(part.replace("**", "").split()) for part in text.split("\n\n")[:3])
    return title.lstrip("# "), know, takes.partition(". ")[0].partition(";")[0] + "."
