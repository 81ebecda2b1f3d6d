"""Learn, step 5: why the pattern of the zeros matters, measured."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from pages.learn.parts import do_and_see, draw, halves, known, question, real_run
from pages.shared import loaders, processes, widgets
from pages.shared.processes import Failed
from prune_core.showing import figures
from prune_core.showing.exercises import Known


def show() -> None:
    words, picture = halves()
    with words:
        st.markdown("A zero saves time only if the computer can skip it **without looking**. "
                    "So the pattern of the zeros matters more than their number.")
        do_and_see("measure it, or read what was measured." if loaders.read_only() else "measure it here.",
                   "the same share of zeros, in single weights, in tiles, in strips.")
        if not loaders.read_only() and st.button("Measure on this machine, about 15 s", icon=":material/timer:",
                                                 help="Best while nothing else runs."):
            try:
                with st.spinner("Timing four products in turn …", show_time=True):
                    st.session_state["shapes"] = processes.shapes()
            except Failed as error:
                st.error(widgets.plain(str(error)), icon=":material/error:")
    timed = known().shapes
    with picture:
        draw("patterns", "Speedup over the dense product, for single weights, tiles and strips", _patterns, known())
    where = "just now, here" if "shapes" in st.session_state else f"on {timed['machine']['cpu']}"
    st.caption(f"Measured {widgets.plain(where)}, {timed['threads']} threads: a {timed['m']} x {timed['n']} matrix "
               f"with {timed['sparsity']:.0%} zeros, times {timed['tokens']:,} tokens. "
               "*Speedup*: how many times as fast as dense. Dense: torch. Single weights: torch's sparse matrix. Tiles "
               "and strips: what Prunescope runs. A thin line is the middle half of the timings.")
    question(f"With {timed['sparsity']:.0%} zeros, only {1 - timed['sparsity']:.0%} of the work is left. "
             f"Why is even the best pattern not always {1 / (1 - timed['sparsity']):.2g} times as fast?",
             "Reading the inputs and writing the results still takes time, and the list of what is kept has to be read "
             "too. In a whole model, attention and normalisation are not pruned at all. Yet on Explore and Speed a "
             "pruned model can be *more* than proportionally faster than dense: there the dense model runs on torch, "
             "the pruned one on Prunescope's own kernels, so two programs are compared and not only two patterns.")
    real_run("A real model: predicted and measured speedup, on Speed", "sst2-minilm-64x1-surgeon",
             "pages/4_Speed.py")


def _patterns(known: Known) -> go.Figure:
    return figures.patterns([(row["pattern"], row["speedup"], row["spread"], row["ms"])
                             for row in known.shapes["patterns"]])
