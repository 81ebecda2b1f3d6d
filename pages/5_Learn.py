"""Learn: block pruning in eight steps, each with one thing to do, one to see, and a question.

Needs no trained model, but for the fourth, the seventh and the eighth step.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import streamlit as st

from pages.learn import bits, sentence
from pages.learn.parts import do_and_see, draw, numbers, question, real_run
from pages.shared import loaders, processes, widgets
from pages.shared.processes import Failed
from prune_core.cutting.blocks import BlockShape
from prune_core.files import DATA
from prune_core.methods.table import METHODS
from prune_core.runs.run import Run
from prune_core.showing import figures, lesson
from prune_core.showing.lesson import EXAMPLES
from prune_core.tasks.glue_folders import FOLDERS

SHAPES = {"1x1": "single weights", "4x1": "strips: columns of 4", "1x4": "strips: rows of 4", "4x4": "tiles of 4 x 4",
          "allx1": "whole columns"}
BEFORE = "sst2-minilm-64x1"  # the recorded run whose penalty phase ships with its norms, step by step
MEASURED = DATA / "shapes.json"  # python -m prune_core shapes --to data/shapes.json


def main() -> None:
    widgets.page("Learn")
    st.title("Learn block pruning", anchor=False)
    titles = [f"{number}. {title}" for number, (title, *_) in enumerate(STEPS, 1)]
    now = st.segmented_control("Step", titles, default=titles[0], required=True, key="step", bind="query-params",
                               label_visibility="collapsed")
    at = titles.index(now) + 1
    _, minutes, step = STEPS[at - 1]
    st.header(now, anchor=False)
    st.caption(f"About {minutes} minutes; all {len(STEPS)} steps: {sum(minutes for _, minutes, _ in STEPS)}.")
    step()
    with st.container(horizontal=True):
        st.button("Back", icon=":material/arrow_back:", disabled=at == 1, on_click=go, args=(titles[at - 2],))
        st.button("Next", icon=":material/arrow_forward:", type="primary", disabled=at == len(STEPS), on_click=go,
                  args=(titles[at % len(STEPS)],))


def go(to: str) -> None:
    st.session_state["step"] = to


# ---------------------------------------------------------------- the steps


def blocks() -> None:
    st.markdown("A trained layer is a matrix: a table of numbers, called *weights*. Pruning sets some of them to zero. "
                "A **block** is a small rectangle of weights that is cut or kept as one. A block's size is measured by "
                "its **norm**: the square root of the sum of its squared weights. The blocks with the smallest norms "
                "go first.")
    do_and_see("choose a shape, and drag the share of blocks cut.",
               "which blocks go, and how much of the squared weights is kept.")
    left, right = st.container(key="halves").columns([1, 2])
    with left:
        shape = st.radio("Blocks are", list(SHAPES), format_func=SHAPES.get, index=1, key="shape")
        share = st.slider("Share of blocks cut", 0, 90, 50, 5, format="%d%%", key="share") / 100
    matrix = lesson.cut_matrix(lesson.small_matrix(), BlockShape.parse(shape), share)
    with right:
        draw(figures.small_matrix(matrix.weight, matrix.kept, BlockShape.parse(shape)), "matrix",
              "A matrix of 16 rows and 24 columns; blocks that are cut are pale")
    numbers(Blocks=f"{matrix.norms.size}", Weights_in_each=f"{matrix.size}", Sparsity=f"{matrix.sparsity:.0%}",
            Share_of_squared_weights_kept=f"{matrix.energy:.1%}")
    st.caption("Colours: the darker a weight, the smaller it is; a block in the pale colour of the page is cut, as on "
               "Explore. *Sparsity* is the share of weights that are zero. *Share of squared weights kept* is what is "
               "left of the sum of all squared weights. The matrix holds random numbers, some pieces of columns larger "
               "than others, as in trained layers.")
    question("At the same sparsity, single weights keep the most. Why would anyone cut larger blocks?",
             "Because a computer multiplies rows of numbers at once. Zeros that lie anywhere have to be looked up one "
             "by one, which costs more than it saves; zeros in whole strips can be skipped without looking. "
             "Step 5 measures that on this machine.")
    real_run("The blocks of a real encoder, 64x1, on Explore", BEFORE, at="dense")


def penalty() -> None:
    st.markdown("To cut blocks without much harm, training first makes the unneeded ones small. It minimises the error "
                "**plus** a price for the norm of every block: **error + λ × sum of norms**. This is the *group "
                "Lasso*. λ (lambda) sets the price. After each training step, every norm is shortened by a fixed "
                "amount, and stops at zero: the *proximal step*.")
    do_and_see("raise λ.", "the block that the task barely needs reaches zero, exactly; the other one shrinks.")
    lam = st.slider("λ", 0.0, 1.2, 0.1, 0.05, key="lambda")
    path = lesson.two_groups(lam)
    draw(figures.paths({"needed: wants norm 1": path[:, 0], "barely needed: wants norm 0.25": path[:, 1]},
                        "training step", "norm"), "two", "The norms of two blocks over the training steps")
    numbers(Needed_block_ends_at=f"{path[-1, 0]:.2f}", Barely_needed_block_ends_at=f"{path[-1, 1]:.2f}")
    question("Both blocks pay the same price. What is unfair about that?",
             f"The needed block pays too: at λ = {lam:g} it ends at {path[-1, 0]:.2f} instead of 1. "
             "The price that removes one block harms the other. The next step fixes that.")
    real_run("Loss, penalty and zero weights of a real training", BEFORE,
             view="Training history")


def reweight() -> None:
    st.markdown("**Reweighting** lets small blocks pay more and large ones less. Every now and then, at a *milestone*, "
                "each block gets a factor of its own: **γ = 1 / (norm + ε)**, with a small ε. From then on it pays "
                "λ × γ × norm. A block that has become small is pushed on to zero; a large one is left almost alone.")
    do_and_see("move λ.", "twelve blocks, of which only the first four matter. Which of the two methods finds them?")
    lam = st.select_slider("λ", [0.03, 0.05, 0.1, 0.2, 0.3, 0.5], 0.1, key="lambda to recover")
    plain, reweighted = lesson.recover(lam, False), lesson.recover(lam, True)
    draw(figures.recovered({"true": plain.truth, "plain": plain.found, "reweighted": reweighted.found}), "bars",
          "Norms of twelve blocks: the truth, found by plain group Lasso, found with reweighting")
    rows = ["blocks kept", "kept or cut wrongly", "blocks that matter shrank by", "error on new data"]
    columns = {name: [f"{method.kept}", f"{method.wrong}", f"{method.shrunk:.0%}", f"{method.error:.1%}"]
               for name, method in (("plain", plain), ("reweighted", reweighted))}
    st.dataframe(pd.DataFrame({"": rows, **columns}), hide_index=True)
    st.caption(f"Computed now: {EXAMPLES} noisy examples, four rounds of training; the factors are refreshed after "
               "each round, with ε = 0.1. The error is given as a share of the target's variance.")
    question("Move λ to 0.5. What happens to reweighting there?",
             "It cuts blocks that matter: once a needed block has become small, its price rises, and nothing brings it "
             "back. Reweighting decides earlier and more sharply, for better and for worse. So λ must rise slowly; "
             "Prunescope steers it so that the share of zero blocks follows a straight line.")
    real_run("A real reweighting, step by step: press Play on Explore", BEFORE, at="penalty-1.5x")


def structure() -> None:
    st.markdown("A zero saves time only if the computer can skip it **without looking**. "
                "So the pattern of the zeros matters more than their number.")
    do_and_see("measure it here.", "the same share of zeros, in single weights, in tiles, in strips.")
    if not loaders.read_only() and st.button("Measure on this machine, about 15 s", icon=":material/timer:",
                                             help="Best while nothing else runs."):
        try:
            with st.spinner("Timing four products in turn …", show_time=True):
                st.session_state["shapes"] = processes.shapes()
        except Failed as error:
            st.error(widgets.plain(str(error)), icon=":material/error:")
    timed = st.session_state.get("shapes") or json.loads(MEASURED.read_text(encoding="utf-8"))
    bars = [(row["pattern"], row["speedup"], row["spread"], row["ms"]) for row in timed["patterns"]]
    draw(figures.patterns(bars), "patterns", "Speedup over the dense product, for single weights, tiles and strips")
    where = "just now, here" if "shapes" in st.session_state else f"on {timed['machine']['cpu']}"
    st.caption(f"Measured {widgets.plain(where)}, {timed['threads']} threads: a {timed['m']} x {timed['n']} matrix "
               f"with {timed['sparsity']:.0%} zeros, times {timed['tokens']:,} tokens. "
               "Dense: torch. Single weights: torch's sparse matrix. Tiles and strips: what Prunescope runs.")
    question("With 80% zeros, only a fifth of the work is left. "
             "Why is even the best pattern not always five times as fast?",
             "Reading the inputs and writing the results still takes time, and the list of what is kept has to be read "
             "too. In a whole model, attention and normalisation are not pruned at all. Yet on Explore and Speed a "
             "pruned model can be *more* than proportionally faster than dense: there the dense model runs on torch, "
             "the pruned one on Prunescope's own kernels, so two programs are compared and not only two patterns.")
    real_run("A real model: predicted and measured speedup, on Speed", "sst2-minilm-64x1-surgeon",
             "pages/4_Speed.py")


def faults() -> None:
    st.markdown("The published code of this method works, and yet it has three faults that anyone could make. "
                "Each is an experiment here.")
    do_and_see("choose a fault and move its slider.",
               "that nothing stops and nothing looks wrong, and yet the method does not do what it says.")
    names = {"never refreshed": _never_refreshed, "detached": _detached, "cancelled by Adam": _cancelled}
    which = st.segmented_control("Fault", list(names), default="never refreshed", required=True, key="fault")
    names[which]()
    real_run("The method without these faults: milestones, and zeros that are exact", BEFORE,
             view="Training history")


def _never_refreshed() -> None:
    st.markdown("**Milestones that are never reached.** γ was to be refreshed after epochs 4, 8, 12 and 16; "
                "many of the scripts train for three or four epochs.")
    epochs = st.slider("Epochs of training", 2, 20, 3, key="epochs")
    start = np.array([0.5, 0.3, 0.2, 0.12])
    path = lesson.reweighted_norms(epochs, start)
    draw(figures.paths({f"block of norm {norm:g}": path[:, at] for at, norm in enumerate(start)}, "epoch", "norm"),
          "epochs drawn", "Norms of four blocks over the epochs")
    reached = lesson.refreshes(epochs)
    numbers(Milestones_reached=", ".join(map(str, reached)) or "none",
            Blocks_at_zero=f"{int((path[-1] == 0).sum())} of {len(start)}")
    st.caption("The penalty alone, no task: λ = 0.002, one step an epoch.")
    question("With three epochs, is this still reweighted?",
             "No: every block pays a price that was fixed before training. It is a weighted group Lasso, with weights "
             "from the start. Prunescope spreads nine milestones over whatever time a run has.")


def _detached() -> None:
    st.markdown("**A penalty that trains nothing.** In some modes the blocks were copied out of the weights before "
                "their norms were taken. A copy has no connection to the weights: the penalty appears in the printed "
                "loss, and changes nothing.")
    lam = st.select_slider("λ", [0.0, 0.01, 0.1, 1.0], 0.1, key="lambda detached")
    connected, copied = lesson.adam_against_proximal(lam)[0], lesson.adam_against_proximal(0.0)[0]
    draw(figures.paths({"connected": connected, "copied: as if λ were 0": copied}, "training step", "norm of a block"),
          "copied", "The norm of a block with the penalty connected and with it copied")
    numbers(Connected_ends_at=f"{connected[-1]:.4f}", Copied_ends_at=f"{copied[-1]:.4f}")
    question("How would you notice?",
             "Not from the loss, which looks right. Ask for the gradient of the penalty, or set λ a thousand times "
             "higher and see whether anything changes. The tests of Prunescope do the first.")


def _cancelled() -> None:
    st.markdown("**A penalty that Adam cancels.** Adam divides each gradient by its usual size. So a weight moves "
                "by about the *learning rate* in a step, however high λ is. Over a whole short training that makes "
                "0.005, while weights are about 0.04.")
    power = st.slider("λ", 0, 4, 2, key="power", format="10^%d")
    inside, proximal = lesson.adam_against_proximal(10.0**power)
    draw(figures.paths({"in the loss, under Adam": inside, "as a proximal step after it": proximal},
                        "training step", "norm of a block"),
          "divided", "The norm of a block with the penalty in the loss and as a proximal step")
    numbers(In_the_loss_ends_at=f"{inside[-1]:.3f}", Proximal_ends_at=f"{proximal[-1]:.3f}",
            It_began_at=f"{inside[0]:.3f}")
    st.caption("Computed now: one block of 64 weights around 0.04, learning rate 2·10⁻⁵, 234 steps, "
               "as in three epochs of a small task.")
    question("Why does the proximal step not have this fault?",
             "It comes after the optimizer and acts on the norm itself: nothing divides it. And where it would pass "
             "zero it stops there, so that zeros are exact.")


def breaks() -> None:
    st.markdown("How far can one go? These are recorded runs, each retrained after the cut. **Compression** 5x means "
                "that a fifth of the weights in the pruned matrices is left. The dotted line is what always giving the "
                "most frequent answer scores: a model on that line has learned nothing.")
    do_and_see("change the task.", "how far each line stays above the dotted one, and where one comes down to it.")
    shipped = [entry.run for entry in loaders.listed() if entry.run and entry.run.recorded and entry.run.points]
    if not shipped:
        st.info("The recorded runs are not there: they ship in data/recorded.")
        return
    tasks = list(dict.fromkeys(run.task for run in shipped))
    first = "mrpc" if "mrpc" in tasks else tasks[0]  # there the lines do meet
    task = st.segmented_control("Task", tasks, default=first, required=True, key="task that breaks",
                                format_func=lambda task: FOLDERS.get(task, task))
    runs = [run for run in shipped if run.task == task]
    lines = {run.name: [(1.0, run.dense_score), *((p["compression_encoder"], p["score_retrained"]) for p in run.points)]
             for run in runs}
    draw(figures.until_it_breaks(lines, runs[0].metric, runs[0].majority_score), "breaks",
         "Dev score over compression of the recorded runs of a task, with the score of the most frequent answer")
    st.markdown("  \n".join(f"`{run.name}`: {how_made(run)}." for run in runs))
    st.caption("Scores are on the whole dev set, measured when the runs were recorded.")
    question("RTE has 277 dev sentences. How sure can one be of a difference of two points there?",
             "Not at all: the 95% interval of such a score is about six points to either side. A single run on a small "
             "task shows nothing; several seeds, and their spread, show a little. "
             "**Compare** says when a difference is more than the spread.")
    for run in runs:
        real_run(f"{widgets.plain(run.name)} on Explore", run.name)


def how_made(run: Run) -> str:
    """The run's method in a sentence: '64x1 blocks; surgeon: cuts block after block, …; retrained after the dense …'"""
    config = run.config
    taught = (f"retrained to give the dense model's answers (distilled, {config.distill:.0%} of the loss)"
              if config.taught else "retrained on the labels alone")
    return f"blocks of {config.block}; {config.method}: {METHODS[config.method].words}; {taught}"


# Title, minutes for a person who reads, tries and answers the question, and what is shown
STEPS = (("Blocks", 5, blocks), ("The penalty", 4, penalty), ("Reweighting", 6, reweight),
         ("A sentence", 8, sentence.show), ("Speed", 5, structure), ("Three faults", 9, faults),
         ("Where it breaks", 6, breaks), ("Fewer bits", 12, bits.show))

main()
