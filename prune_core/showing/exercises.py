"""The lesson's exercises. Each answer is computed from what the picture of its step is drawn from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from prune_core.cutting.blocks import BlockShape
from prune_core.files import DATA
from prune_core.precision.formats import Format
from prune_core.runs import best, places, shelf
from prune_core.runs.run import Run
from prune_core.showing import bits, lesson
from prune_core.tasks.glue_folders import FOLDERS

SHAPES = {"1x1": "single weights", "4x1": "strips: columns of 4", "1x4": "strips: rows of 4", "4x4": "tiles of 4 x 4",
          "allx1": "whole columns"}
TO_RECOVER = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5)  # λ of the third step
STARTS = np.array([0.5, 0.3, 0.2, 0.12])  # norms of the first fault
SENTENCES = ("not half as bad as I had feared", "I would not say that this was a bad film", "a warm and funny film",
             "the plot is thin, but what a cast", "I slept through most of it")
TAUGHT = "sst2-minilm-64x1"  # the recorded run that ships with its dense weights
FIRST_TASK = "mrpc"  # there the lines do meet
ROW = 3  # of the matrix that bits are shown on


@dataclass(frozen=True, eq=False)
class Known:
    """What the pictures are drawn from, where it is not computed from numbers of their own."""

    runs: Sequence[Run]  # those that ship, with results
    sentences: Mapping | None = None  # what `predict` says of SENTENCES; None: not asked
    shapes: Mapping = field(default_factory=lambda: json.loads((DATA / "shapes.json").read_text(encoding="utf-8")))

    @cached_property
    def weight(self) -> np.ndarray | None:
        """(m, n) a real matrix; None where the recorded weights are not there."""
        return bits.real_matrix(places.RECORDED / TAUGHT / "weights" / "dense.safetensors")

    def of(self, task: str) -> list[Run]:
        """The recorded runs of a task."""
        return [run for run in self.runs if run.task == task]


def recorded() -> list[Run]:
    """The recorded runs that have results."""
    return [entry.run for entry in shelf.listing(places.RECORDED) if entry.run and entry.run.points]


@dataclass(frozen=True)
class Exercise:
    """A question on the picture of a step. `compute` gives the answer, '' where it cannot be known."""

    step: int
    asked: str
    compute: Callable[[Known], str]

    def answer(self, known: Known) -> str:
        """In words, with its numbers; says so where the recorded runs or the model's answers are missing."""
        return self.compute(known) or "It cannot be computed here: what the picture is drawn from is missing."


# ---------------------------------------------------------------- 1: blocks


def _strips(known: Known) -> str:
    cut = lesson.cut_matrix(lesson.small_matrix(), BlockShape.parse("4x1"), 0.5)
    rows, cols = cut.norms.shape
    return (f"{rows} rows of strips, {cols} in each: {cut.norms.size} strips of {cut.size} weights. "
            f"{int((~cut.kept).sum())} of them are cut.")


def _by_shape(known: Known) -> str:
    kept = {words: lesson.cut_matrix(lesson.small_matrix(), BlockShape.parse(shape), 0.5).energy
            for shape, words in SHAPES.items()}
    order = sorted(kept, key=kept.get, reverse=True)
    return "; ".join(f"{words} {kept[words]:.1%}" for words in order) + (
        ". The larger the blocks, the more large weights go along with small ones.")


# ---------------------------------------------------------------- 2: the penalty


def _first_zero(known: Known) -> str:
    for lam in np.arange(0, 1.21, 0.05):
        path = lesson.two_groups(float(lam))
        if path[-1, 1] == 0:
            return (f"At λ = {lam:.2f}. The needed block then ends at {path[-1, 0]:.2f} instead of 1: removing the one "
                    f"costs the other {1 - path[-1, 0]:.0%} of its norm.")
    return ""


def _where_it_ends(known: Known) -> str:
    needed, barely = lesson.two_groups(0.1)[-1]
    return (f"At {barely:.2f} and {needed:.2f}: each ends λ below the norm that the task wants, max(0, wanted − λ). "
            "Both lose the same amount, which is little for the one and much for the other.")


# ---------------------------------------------------------------- 3: reweighting


def _wrongly_kept(known: Known) -> str:
    plain, reweighted = lesson.recover(0.1, False), lesson.recover(0.1, True)
    count = [int(((one.found > 0) & (one.truth == 0)).sum()) for one in (plain, reweighted)]
    return (f"Plain keeps {count[0]} of the {int((plain.truth == 0).sum())} that do not matter, reweighted {count[1]}. "
            f"The blocks that matter shrank by {plain.shrunk:.0%} and by {reweighted.shrunk:.0%}.")


def _too_far(known: Known) -> str:
    for lam in TO_RECOVER:
        one = lesson.recover(lam, True)
        if gone := int(((one.found == 0) & (one.truth > 0)).sum()):
            return (f"From λ = {lam:g} on: {gone} of the {int((one.truth > 0).sum())} is gone, and nothing brings it "
                    f"back. The error on new data is then {one.error:.1%}, at λ = 0.1 it is "
                    f"{lesson.recover(0.1, True).error:.1%}.")
    return "At none of them."


# ---------------------------------------------------------------- 4: a sentence


def _answers(known: Known) -> list[tuple[str, np.ndarray]]:
    """(sentence, (sparsities, answers)) of those that the model was asked about."""
    if not known.sentences:
        return []
    sure = np.array(known.sentences["probabilities"])
    return [(text, sure[:, at]) for at, text in enumerate(SENTENCES[:sure.shape[1]])]


def _changes_first(known: Known) -> str:
    told = []
    for text, sure in _answers(known):
        at = lesson.changes_at(known.sentences["sparsities"], sure)
        told.append((9.0 if at is None else at, f"“{text}” " + ("never" if at is None else f"at {at:.0%}")))
    return "; ".join(words for _, words in sorted(told, key=lambda one: one[0])) + "." if told else ""


def _stops_reading(known: Known) -> str:
    if not (answers := _answers(known)):
        return ""
    last = np.array([sure[-1] for _, sure in answers])  # (sentences, answers) at the highest sparsity
    apart, labels = np.ptp(last[:, 0]), known.sentences["labels"]
    said = {labels[int(one.argmax())] for one in last}
    return (f"At {known.sentences['sparsities'][-1]:.0%} cut it says {' or '.join(sorted(said))} to all {len(last)}, "
            f"and its confidence differs by {apart:.1%} at most: " + (
                "it has stopped reading." if apart < 0.05 else "it still reads a little."))


# ---------------------------------------------------------------- 5: speed


def _bars(known: Known) -> Mapping[str, float]:
    return {row["pattern"]: row["speedup"] for row in known.shapes["patterns"]}


def _in_proportion(known: Known) -> str:
    fair, speedups = 1 / (1 - known.shapes["sparsity"]), _bars(known)
    ranked = sorted((name for name in speedups if name != "dense"), key=speedups.get, reverse=True)
    return f"{fair:.2g} times. Measured: " + "; ".join(
        f"{name} {speedups[name]:.2f}x, {speedups[name] / fair:.0%} of that" for name in ranked) + "."


def _single_weights(known: Known) -> str:
    rows = {row["pattern"]: row["ms"] for row in known.shapes["patterns"]}
    if not {"dense", "single weights"} <= set(rows):
        return ""
    dense, single = rows["dense"], rows["single weights"]
    sparsity = known.shapes["sparsity"]
    return (f"{single:.1f} ms instead of {dense:.1f} ms. If its time fell with the number of kept weights, it would "
            f"draw level at {1 - (1 - sparsity) * dense / single:.0%} zeros.")


# ---------------------------------------------------------------- 6: three faults


def _first_refresh(known: Known) -> str:
    needed = next(epochs for epochs in range(1, 21) if lesson.refreshes(epochs))
    zero = next((epochs for epochs in range(1, 21) if (lesson.reweighted_norms(epochs, STARTS)[-1] == 0).any()), None)
    return (f"{needed} epochs. " + ("No block reaches zero within 20." if zero is None else
                                   f"The first block reaches zero after {zero}."))


def _adam(known: Known) -> str:
    told = []
    for power in (1, 4):
        inside, proximal = lesson.adam_against_proximal(10.0**power)
        lost, step = (1 - path[-1] / path[0] for path in (inside, proximal))
        told.append(f"at λ = {10**power:,} in the loss {lost:.1%} of the norm, as a proximal step {step:.1%}")
    return "It loses " + "; ".join(told) + "."


# ---------------------------------------------------------------- 7: where it breaks


def _least_lost(known: Known) -> str:
    results = [one for one in best.of(known.of(FIRST_TASK)) if abs(one.compression_encoder - 3) < 0.1]
    if not results:
        return ""
    one = max(results, key=lambda one: one.score)
    return (f"{one.run.name}: {one.score:.3f}, {100 * (one.dense - one.score):.1f} points below its dense model. "
            f"The others: " + ", ".join(f"{other.score:.3f}" for other in sorted(results, key=lambda o: -o.score)[1:])
            + f". Always the most frequent answer: {one.run.majority_score:.3f}.")


def _learned_nothing(known: Known) -> str:
    told = []
    for task in dict.fromkeys(run.task for run in known.runs):
        lost = [one for one in best.of(known.of(task)) if one.score <= one.run.majority_score]
        if lost:
            least = min(one.compression_encoder for one in lost)
            told.append(f"{FOLDERS.get(task, task)} from {least:.1f}x ({len(lost)} of {len(best.of(known.of(task)))} "
                        "results on or below the line)")
    return "; ".join(told) + "." if told else ("No result lies on or below the line." if known.runs else "")


# ---------------------------------------------------------------- 8: fewer bits


def _levels(known: Known) -> str:
    return ", ".join(f"{Format.parse(name).words}: {len(bits.rounded(_row(known), name, True).levels)}"
                     for name in ("8", "4", "3", "2")) + ". One level is always zero."


def _row(known: Known) -> np.ndarray:
    weight = lesson.small_matrix() if known.weight is None else known.weight
    return weight[ROW].astype(float)


def _a_bit_less(known: Known) -> str:
    errors = {name: bits.rounded(_row(known), name, True).error for name in ("8", "7", "6", "5", "4", "3", "2")}
    pairs = list(zip(errors, list(errors)[1:], strict=False))
    steps = ", ".join(f"{high} → {low}: {errors[low] / errors[high]:.1f}" for high, low in pairs)
    return f"By this factor: {steps}. In 4 bits the error is {errors['4']:.2%} of the squared weights."


def _with_index(known: Known) -> str:
    parts = bits.bits_of(bits.stored("4/2:4"))
    return (f"{parts['values']:.0f} bits for the values and {parts['index']:.0f} for where they stand, "
            f"{parts['values'] + parts['index']:.0f} instead of 32: {bits.removed(bits.stored('4/2:4'), True):.1%} of "
            f"the bytes are saved, not {bits.removed(bits.stored('4/2:4'), False):.1%}.")


EXERCISES = (
    Exercise(1, "The matrix has 16 rows and 24 columns. How many strips of 4 x 1 is it divided into, and how many "
                "go at 50%?", _strips),
    Exercise(1, "At 50%, which shape keeps most of the squared weights, and which least? Guess, then try all five.",
             _by_shape),
    Exercise(2, "At λ = 0.1, where do the two lines end? Write it as a formula.", _where_it_ends),
    Exercise(2, "What is the lowest λ at which the barely needed block is exactly zero, and what has the other one "
                "lost by then?", _first_zero),
    Exercise(3, "At λ = 0.1: how many of the eight blocks that do not matter does each method keep?", _wrongly_kept),
    Exercise(3, "From which λ on does reweighting cut a block that matters?", _too_far),
    Exercise(4, "Which of the five examples changes its answer first, and where do the others?", _changes_first),
    Exercise(4, "What does the model say to the five examples when nearly everything is cut?", _stops_reading),
    Exercise(5, "80% are zero. How fast would it be if time fell with the work, and what is measured?", _in_proportion),
    Exercise(5, "Single weights: how many milliseconds, against how many dense? How many zeros would they need to draw "
                "level?", _single_weights),
    Exercise(6, "How many epochs must a training have before γ is refreshed once, and before a block is zero?",
             _first_refresh),
    Exercise(6, "Adam: what share of its norm does the block lose at λ = 10 and at λ = 10,000?", _adam),
    Exercise(7, "MRPC at 3x: which run loses least, and how far is it from the dotted line?", _least_lost),
    Exercise(7, "On which tasks does a line come down to the dotted one, and at which compression?", _learned_nothing),
    Exercise(8, "How many levels are there in 8, 4, 3 and 2 bits?", _levels),
    Exercise(8, "By what factor does the error grow with each bit less?", _a_bit_less),
    Exercise(8, "2:4 in 4 bits: how many bits does a weight of the matrix take, index included?", _with_index),
)


def of_step(step: int) -> tuple[Exercise, ...]:
    """Those of a step, in their order."""
    return tuple(one for one in EXERCISES if one.step == step)
