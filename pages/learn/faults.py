"""Learn, step 6: three faults of the published code, each as an experiment."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from pages.learn.parts import do_and_see, draw, halves, numbers, question, real_run
from pages.shared import loaders
from prune_core.showing import exercises, figures, lesson
from prune_core.showing.exercises import STARTS


def show() -> None:
    names = {"never refreshed": _never_refreshed, "detached": _detached, "cancelled by Adam": _cancelled}
    words, picture = halves()
    with words:
        st.markdown("The published code of this method works, and yet it has three faults that anyone could make. "
                    "Each is an experiment here.")
        do_and_see("choose a fault and move its slider.",
                   "that nothing stops and nothing looks wrong, and yet the method does not do what it says.")
        which = st.segmented_control("Fault", list(names), default="never refreshed", required=True, key="fault")
    names[which](words, picture)
    real_run("The method without these faults: milestones, and zeros that are exact", exercises.TAUGHT,
             view="Training history")


def _never_refreshed(words, picture) -> None:
    with words:
        st.markdown("**Milestones that are never reached.** γ was to be refreshed after epochs 4, 8, 12 and 16 (an "
                    "*epoch* is one pass over all examples); many of the scripts train for three or four.")
        epochs = st.slider("Epochs of training", 2, 20, 3, key="epochs")
    path, reached = lesson.reweighted_norms(epochs, STARTS), lesson.refreshes(epochs)
    with picture:
        draw("epochs drawn", "Norms of four blocks over the epochs", _norms, epochs)
        numbers(Milestones_reached=", ".join(map(str, reached)) or "none",
                Blocks_at_zero=f"{int((path[-1] == 0).sum())} of {len(STARTS)}")
    st.caption("The penalty alone, no task: λ = 0.002, one step an epoch.")
    question("With three epochs, is this still reweighted?",
             "No: every block pays a price that was fixed before training. It is a weighted group Lasso, with weights "
             "from the start. Prunescope spreads nine milestones over whatever time a run has.")


def _norms(epochs: int) -> go.Figure:
    path = lesson.reweighted_norms(epochs, STARTS)
    return figures.paths({f"block of norm {norm:g}": path[:, at] for at, norm in enumerate(STARTS)}, "epoch", "norm")


def _detached(words, picture) -> None:
    with words:
        st.markdown("**A penalty that trains nothing.** In some modes the blocks were copied out of the weights before "
                    "their norms were taken. A copy has no connection to the weights: the penalty appears in the "
                    "printed loss, and changes nothing.")
        lam = st.select_slider("λ", [0.0, 0.01, 0.1, 1.0], 0.1, key="lambda detached")
    connected, copied = (loaders.once(lesson.adam_against_proximal, one)[0] for one in (lam, 0.0))
    with picture:
        draw("copied", "The norm of a block with the penalty connected and with it copied", _copied, lam)
        numbers(Connected_ends_at=f"{connected[-1]:.4f}", Copied_ends_at=f"{copied[-1]:.4f}")
    question("How would you notice?",
             "Not from the loss, which looks right. Ask for the gradient of the penalty, or set λ a thousand times "
             "higher and see whether anything changes. The tests of Prunescope do the first.")


def _copied(lam: float) -> go.Figure:
    connected, copied = (loaders.once(lesson.adam_against_proximal, one)[0] for one in (lam, 0.0))
    return figures.paths({"connected": connected, "copied: as if λ were 0": copied}, "training step", "norm of a block")


def _cancelled(words, picture) -> None:
    with words:
        st.markdown("**A penalty that Adam cancels.** Adam, the usual way to take training steps, divides each "
                    "*gradient* by its usual size. So a weight moves by about the *learning rate* in a step, however "
                    "high λ is. Over a whole short training that makes 0.005, while weights are about 0.04.")
        power = st.slider("λ", 0, 4, 2, key="power", format="10^%d")
    inside, proximal = loaders.once(lesson.adam_against_proximal, 10.0**power)
    with picture:
        draw("divided", "The norm of a block with the penalty in the loss and as a proximal step", _divided, power)
        numbers(In_the_loss_ends_at=f"{inside[-1]:.3f}", Proximal_ends_at=f"{proximal[-1]:.3f}",
                It_began_at=f"{inside[0]:.3f}")
    st.caption("Computed now: one block of 64 weights around 0.04, learning rate 2·10⁻⁵, 234 steps, "
               "as in three epochs of a small task.")
    question("Why does the proximal step not have this fault?",
             "It comes after the optimizer and acts on the norm itself: nothing divides it. And where it would pass "
             "zero it stops there, so that zeros are exact.")


def _divided(power: int) -> go.Figure:
    inside, proximal = loaders.once(lesson.adam_against_proximal, 10.0**power)
    return figures.paths({"in the loss, under Adam": inside, "as a proximal step after it": proximal},
                         "training step", "norm of a block")
