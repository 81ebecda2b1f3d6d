"""Learn, step 8: fewer bits for each weight, beside fewer weights. Four experiments, one open at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.learn.parts import do_and_see, draw, halves, known, numbers, question, real_run
from pages.shared import copying, loaders
from prune_core.precision.formats import Format, Pattern
from prune_core.showing import bits, lesson
from prune_core.showing.bits import Mixture, Rounded
from prune_core.showing.exercises import Known

SHIPS = "sst2-minilm-64x1-surgeon"  # the recorded run that the links open
RATIOS = (2, 4, 6, 8, 12, 16, 24)
PATTERNS = ("none", "2:4", "1:4", "1:2", "4:8")
KINDS = ("32", "16", *bits.FORMAT_NAMES)


def show() -> None:
    words, picture = halves()
    with words:
        st.markdown("Pruning keeps fewer weights. **Quantization** keeps each of them in fewer bits: a weight may then "
                    "be only one of a few evenly spaced **levels**, a whole number times a **scale**. The two can be "
                    "combined, and their savings multiply.")
    parts = {"What a bit costs": what_a_bit_costs, "Which comes first": which_comes_first,
             "What an index costs": what_an_index_costs, "At equal bytes": at_equal_bytes}
    with words:
        which = st.segmented_control("Experiment", list(parts), default="What a bit costs", required=True,
                                     key="experiment", wrap=True)
    parts[which](words, picture)


def what_a_bit_costs(words, picture) -> None:
    there = known()
    weight = _weight(there)
    with words:
        do_and_see("drag the bits from 8 down, and try both ways to choose the scale.",
                   "the stairs grow coarser, and the error grows about fourfold with each bit that goes.")
        name = st.select_slider("Bits", bits.FORMAT_NAMES, "4", key="bits", format_func=lambda n: Format.parse(n).words)
        least = st.radio("The scale comes from", ["the largest weight", "the least squared error"], 1, key="scale",
                         horizontal=True,
                         help="The second is found by alternating: round with the present scale, then take the scale "
                              "that fits these levels best, until nothing moves.") == "the least squared error"
        at = st.slider("Row of the matrix", 1, len(weight), 4, key="row") - 1
    row = weight[at].astype(float)
    one, other = (loaders.once(_rounded, there, at, name, rule) for rule in (least, not least))
    errors = (other.error, one.error) if least else (one.error, other.error)
    with picture:
        draw("stairs", "The weights of a row, smallest first, and the levels they are rounded to", _stairs, there, at,
             name, least)
        numbers(Levels=f"{len(one.levels)}", Scale=f"{one.scale:.4g}", Error_by_largest_weight=f"{errors[0]:.2%}",
                Error_by_least_squares=f"{errors[1]:.2%}")
    where = ("a query matrix of MiniLM trained on SST-2, from a recorded run" if len(weight) > lesson.ROWS else
             "the matrix of random numbers of step 1")
    st.caption(f"Computed now: a row of {len(row)} weights of {where}. *Error*: the squared differences, as a share of "
               "the squared weights. Each row has a scale of its own; one level is always zero, except in binary. "
               "For ternary and binary the least squared error is their usual rule: the mean size of the weights that "
               "do not become zero.")
    question("Why is the largest weight a good scale at 8 bits, and a bad one at 3?",
             "The largest weight decides how far the levels reach. With 255 levels they are close together all the "
             "same. With 7, one large weight leaves nearly all others on zero and one step beside it. A smaller scale "
             "clips that one weight, and serves all the rest.")
    real_run("The score at 8, 4, 3 or 2 bits: set the bits beside the threshold on Explore", SHIPS)


def _weight(known: Known) -> np.ndarray:
    return lesson.small_matrix() if known.weight is None else known.weight


def _rounded(known: Known, at: int, name: str, least: bool) -> Rounded:
    return bits.rounded(_weight(known)[at].astype(float), name, least)


def _stairs(known: Known, at: int, name: str, least: bool) -> go.Figure:
    return bits.staircase(_weight(known)[at].astype(float), loaders.once(_rounded, known, at, name, least))


def which_comes_first(words, picture) -> None:
    with words:
        do_and_see("choose the levels and the bits, and go through the rows.",
                   "squares and diamonds lie on one another while zero is a level; else pruned weights come back.")
    with words.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        zero = st.segmented_control("Levels", ["zero is one of them", "evenly from least to largest weight"],
                                    default="zero is one of them", required=True, key="levels", wrap=True)
        count = st.select_slider("Bits of a level", range(2, 9), 4, key="order bits", width=200)
        seed = st.select_slider("Row", range(1, 21), 1, key="order row", width=260) - 1
    row = bits.rows_of(seed)
    first, second = bits.both_orders(row, count, Pattern(2, 4), zero == "zero is one of them")
    sizes = [sorted(abs(half)) for half in (*first.reshape(2, 4), *second.reshape(2, 4))]
    same = bool(np.allclose(sizes[:2], sizes[2:]))
    with picture:
        draw("orders", "A row, pruned then rounded, and rounded then pruned", _orders, seed, count,
             zero == "zero is one of them")
        numbers(Zeros_pruned_then_rounded=f"{int((first == 0).sum())} of {len(row)}",
                Zeros_rounded_then_pruned=f"{int((second == 0).sum())} of {len(row)}",
                The_sizes_that_are_kept="the same" if same else "differ")
    st.caption("Pruned 2:4: of every four weights the two largest stay. Both orders use the scale of the whole row. "
               "Where rounding makes two weights of a group equal in size, either may stay: the sizes that are kept "
               "are then the same, and only the place differs.")
    question("Why does the order not matter when zero is a level?",
             "Rounding to levels that are symmetric around zero never changes which of two weights is larger; it can "
             "only make them equal. So both orders keep weights of the same sizes. And a pruned weight, a zero, is on "
             "a level already: rounding leaves it alone. When the levels are laid evenly from the least to the largest "
             "weight, zero usually lies between two of them: what was pruned becomes a small number, "
             "and has to be stored and multiplied again.")
    real_run("Blocks cut and bits set together, on Explore", SHIPS)


def _orders(seed: int, count: int, zero: bool) -> go.Figure:
    return bits.orders(bits.rows_of(seed), *bits.both_orders(bits.rows_of(seed), count, Pattern(2, 4), zero))


def what_an_index_costs(words, picture) -> None:
    with words:
        do_and_see("choose a pattern and a format.",
                   "what is stored beside the values: the index, which says where they stand, and scales.")
    with words.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        pattern = st.segmented_control("Of every M weights keep N", PATTERNS, default="2:4", required=True,
                                       key="pattern")
        name = st.selectbox("Format", KINDS, KINDS.index("4"), key="index bits", width=160,
                            format_func=lambda n: Format.parse(n).words)
    text = name if pattern == "none" else f"{name}/{pattern}"
    chosen = loaders.once(bits.stored, text)
    with picture:
        draw("index", "Bits for each weight: values, index and scales", _index, text, name)
        numbers(Removed_without_index=f"{bits.removed(chosen, False):.2%}",
                Removed_with_index=f"{bits.removed(chosen, True):.2%}",
                With_index_and_scales=f"{1 - chosen.stored / chosen.dense:.2%}")
    rows = {Format.parse(one).words: loaders.once(bits.stored, one)
            for one in dict.fromkeys([text, "8/2:4", "4/2:4", "4/1:4", "8/1:2", "2:4"])}
    table = pd.DataFrame({"Format": list(rows), "Without index": [bits.removed(one, False) for one in rows.values()],
                          "With index": [bits.removed(one, True) for one in rows.values()],
                          "With index and scales": [1 - one.stored / one.dense for one in rows.values()]})
    copying.table(table.map(lambda value: value if isinstance(value, str) else f"{value:.2%}"), key="saved")
    st.caption("Share of the bytes in fp32 that is saved, for a matrix of 384 x 384, counted as Prunescope stores it: "
               "2:4 needs two places of 2 bits for every four weights, one bit for each weight of the matrix. "
               "Embeddings, biases and the head are not in it.")
    question("A paper removes 93% of the encoder with 2:4 and 4 bits. What has it left out?",
             "The index. Half of the weights in 4 bits instead of 32 are 6.25% of the bytes: 93.75% are removed. "
             "But to know which two of four weights were kept takes 2 bits for each kept weight, so 4 bits become 6: "
             "90.6% are removed. Scales come on top, and the rest of the model too. "
             "Ask of every such number what it counts, and of what.")
    real_run("Bytes with their index, for every cut and format, on Explore", SHIPS)


def _index(text: str, name: str) -> go.Figure:
    return bits.stacked({Format.parse(text).words: bits.stored(text), Format.parse(name).words: bits.stored(name),
                         "fp32": bits.stored("32")})


def at_equal_bytes(words, picture) -> None:
    there = known()
    weight = there.weight
    with words:
        do_and_see("choose how many times smaller the matrix must be.",
                   "which mixture of cutting strips and taking bits loses least.")
        if weight is None:
            st.info("The recorded weights are not there: they ship in data/recorded.")
            return
        ratio = st.select_slider("Times fewer bytes than fp32, index and scales included", RATIOS, 8, key="ratio",
                                 format_func=lambda times: f"{times}x")
    best = min(loaders.once(_mixtures, there, ratio), key=lambda one: one.error)
    with picture:
        draw("equal", "The squared weights lost by each mixture of the same bytes", _equal, there, ratio)
        numbers(Bytes_in_fp32=f"{4 * weight.size:,}", Bytes_at_most=f"{4 * weight.size // ratio:,}",
                Loses_least=Format.parse(best.format).words, Of_strips_it_cuts=f"{best.cut:.0%}")
    st.caption("Computed now: a query matrix of MiniLM trained on SST-2, strips of 64 x 1 cut by norm, the rest "
               "rounded to the nearest level. Nothing was trained for it, nothing is repaired. Formats that would take "
               "fewer bytes even with nothing cut are left out.")
    question("By this measure few bits nearly always beat cutting. Why cut blocks at all?",
             "For three reasons. Cut strips are not multiplied, so they save time; 4-bit weights are unpacked before "
             "they are multiplied, and save none here. Training for pruning pushes the norms of whole strips "
             "to zero, and then cutting them loses little: this matrix had no such training. And below about 3 bits "
             "there is hardly anything left to take, while both savings multiply: half of the strips in 8 bits are "
             "8 times smaller, in 4 bits 16 times. The error of the weights is not the score either: "
             "**Explore** scores every mixture exactly.")
    real_run("The trade between bytes and score of a real model, on Explore", SHIPS, view="Trade")


def _mixtures(known: Known, ratio: int) -> tuple[Mixture, ...]:
    return tuple(one for one in bits.at_equal_bytes(known.weight, ratio) if one.cut or one.format == "32")


def _equal(known: Known, ratio: int) -> go.Figure:
    return bits.equal_bytes(loaders.once(_mixtures, known, ratio))
