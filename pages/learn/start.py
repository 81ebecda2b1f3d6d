"""Learn, steps 1 to 3: what a block is, the penalty, and why it is reweighted."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.learn import projector
from pages.learn.parts import do_and_see, draw, halves, numbers, question, real_run
from pages.shared import loaders
from prune_core.cutting.blocks import BlockShape
from prune_core.showing import exercises, figures, lesson
from prune_core.showing.exercises import SHAPES, TO_RECOVER
from prune_core.showing.lesson import EXAMPLES, CutMatrix

BEFORE = exercises.TAUGHT  # the recorded run whose penalty phase ships with its norms, step by step


def blocks() -> None:
    words, picture = halves()
    with words:
        st.markdown("A trained layer is a matrix: a table of numbers, called *weights*. *Pruning* sets some of them to "
                    "zero. A **block** is a small rectangle of weights that is cut or kept as one. A block's size is "
                    "measured by its **norm**: the square root of the sum of its squared weights. The blocks with the "
                    "smallest norms go first.")
        do_and_see("choose a shape, and drag the share of blocks cut.",
                   "which blocks go, and how much of the squared weights is kept.")
        shape = st.radio("Blocks are", list(SHAPES), format_func=SHAPES.get, index=1, key="shape", horizontal=True)
        share = st.slider("Share of blocks cut", 0, 90, 50, 5, format="%d%%", key="share") / 100
    matrix = loaders.once(_cut, shape, share)
    with picture:
        draw("matrix", "A matrix of 16 rows and 24 columns; blocks that are cut are pale", _matrix, shape, share)
        numbers(Blocks=f"{matrix.norms.size}", Weights_in_each=f"{matrix.size}", Sparsity=f"{matrix.sparsity:.0%}",
                Share_of_squared_weights_kept=f"{matrix.energy:.1%}")
    st.caption("Colours: the darker a weight, the smaller it is; a block in the pale colour of the page is cut, as on "
               "Explore. *Sparsity* is the share of weights that are zero. *Share of squared weights kept* is what is "
               "left of the sum of all squared weights. The matrix holds random numbers, some pieces of columns larger "
               "than others, as in trained layers.")
    question("At the same sparsity, single weights keep the most. Why would anyone cut larger blocks?",
             "Because a computer multiplies rows of numbers at once. Zeros that lie anywhere have to be looked up one "
             "by one, which costs more than it saves; zeros in whole strips can be skipped without looking. "
             "Step 5 measures that.")
    real_run("The blocks of a real encoder, 64x1, on Explore", BEFORE, at="dense")


def _cut(shape: str, share: float) -> CutMatrix:
    return lesson.cut_matrix(lesson.small_matrix(), BlockShape.parse(shape), share)


def _matrix(shape: str, share: float) -> go.Figure:
    matrix = loaders.once(_cut, shape, share)
    return figures.small_matrix(matrix.weight, matrix.kept, BlockShape.parse(shape))


def penalty() -> None:
    words, picture = halves()
    with words:
        st.markdown("To cut blocks without much harm, training first makes the unneeded ones small. It minimises the "
                    "error **plus** a **penalty**, a price for the norm of every block: **error + λ × sum of norms**. "
                    "This is the *group Lasso*. λ (lambda) sets the price. After each training step, every norm is "
                    "shortened by a fixed amount, and stops at zero: the *proximal step*.")
        do_and_see("raise λ.", "the block that the task barely needs reaches zero, exactly; the other one shrinks.")
        lam = st.slider("λ", 0.0, 1.2, 0.1, 0.05, key="lambda")
    path = loaders.once(lesson.two_groups, lam)
    with picture:
        draw("two", "The norms of two blocks over the training steps", _two, lam)
        numbers(Needed_block_ends_at=f"{path[-1, 0]:.2f}", Barely_needed_block_ends_at=f"{path[-1, 1]:.2f}")
    question("Both blocks pay the same price. What is unfair about that?",
             f"The needed block pays too: at λ = {lam:g} it ends at {path[-1, 0]:.2f} instead of 1. "
             "The price that removes one block harms the other. The next step fixes that.")
    real_run("Loss, penalty and zero weights of a real training", BEFORE, view="Training history")


def _two(lam: float) -> go.Figure:
    path = loaders.once(lesson.two_groups, lam)
    return figures.paths({"needed: wants norm 1": path[:, 0], "barely needed: wants norm 0.25": path[:, 1]},
                         "training step", "norm")


def reweight() -> None:
    words, picture = halves()
    with words:
        st.markdown("**Reweighting** lets small blocks pay more and large ones less. Every now and then, at a "
                    "*milestone*, each block gets a factor of its own: **γ = 1 / (norm + ε)**, with a small ε. From "
                    "then on it pays λ × γ × norm. A block that has become small is pushed on to zero; a large one is "
                    "left almost alone.")
        do_and_see("move λ.", "twelve blocks, of which only the first four matter. Which of the two methods finds "
                              "them?")
        lam = st.select_slider("λ", TO_RECOVER, 0.1, key="lambda to recover")
    plain, reweighted = (loaders.once(lesson.recover, lam, kind) for kind in (False, True))
    with picture:
        draw("bars", "Norms of twelve blocks: the truth, found by plain group Lasso, found with reweighting", _found,
             lam)
    rows = ["blocks kept", "kept or cut wrongly", "blocks that matter shrank by", "error on new data"]
    columns = {name: [f"{method.kept}", f"{method.wrong}", f"{method.shrunk:.0%}", f"{method.error:.1%}"]
               for name, method in (("plain", plain), ("reweighted", reweighted))}
    (words if projector.on() else st).dataframe(pd.DataFrame({"": rows, **columns}), hide_index=True)
    st.caption(f"Computed now: {EXAMPLES} noisy examples, four rounds of training; the factors are refreshed after "
               "each round, with ε = 0.1. The error is given as a share of the target's variance.")
    question("Move λ to 0.5. What happens to reweighting there?",
             "It cuts blocks that matter: once a needed block has become small, its price rises, and nothing brings it "
             "back. Reweighting decides earlier and more sharply, for better and for worse. So λ must rise slowly; "
             "Prunescope steers it so that the share of zero blocks follows a straight line.")
    real_run("A real reweighting, snapshot by snapshot: press Play on Explore", BEFORE, at="penalty-1.5x")


def _found(lam: float) -> go.Figure:
    plain, reweighted = (loaders.once(lesson.recover, lam, kind) for kind in (False, True))
    return figures.recovered({"true": plain.truth, "plain": plain.found, "reweighted": reweighted.found})
