"""Number formats and patterns as text: what is said comes back, what contradicts itself is one clear line."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import by_scope
from prune_core.precision import formats
from prune_core.precision.formats import PLAIN, Format, Formats, Pattern, chosen, parse

LAYOUT = tiny.layout("4x1", ((8, 16),) * 4, 1000)
PATTERNS = st.none() | st.sampled_from(["2:4", "1:4", "1:2", "4:8", "3:16"]).map(Pattern.parse)
NUMBERS = st.sampled_from(["32", "16", "8", "7", "4", "3", "2", "ternary", "binary", "clusters-4", "clusters-2"])
ONE = st.builds(lambda number, pattern: Format(*formats._BITS[number], pattern), NUMBERS, PATTERNS)


@st.composite
def some(draw) -> Formats:
    scope = draw(st.sampled_from(("global", "layer", "type", "matrix")))
    count = len(by_scope(LAYOUT, scope))
    return Formats(scope, tuple(draw(st.lists(ONE, min_size=count, max_size=count))),
                   draw(st.sampled_from(("", "token", "tensor"))), draw(st.sampled_from((8, 32))))


@given(some())
def test_what_is_said_comes_back(one):
    again = parse(str(one), LAYOUT)
    assert again == (Formats() if one.plain else one) and str(again) == str(one)
    assert again.of(LAYOUT) == one.of(LAYOUT) and parse(str(one.shortest(LAYOUT))).of(LAYOUT) == one.of(LAYOUT)
    assert one.words and all(each.words for each in one.weights)


@given(st.text(max_size=30) | st.text("0123456789:,;/ae-clusterbinyxm", max_size=20))
def test_any_text_is_formats_or_one_line(text):
    try:
        parse(text, LAYOUT)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    try:
        one = Format.parse(text)
    except InputError:
        return
    assert Format.parse(str(one)) == one


@pytest.mark.parametrize("text, kind, bits, top, pattern", [
    ("8", "levels", 8, 127, None), ("4/2:4", "levels", 4, 7, "2:4"), ("2:4", "float", 32, 0, "2:4"),
    ("3", "levels", 3, 3, None), ("2", "levels", 2, 1, None), ("ternary", "ternary", 2, 1, None),
    ("binary", "binary", 1, 1, None), ("clusters-4/1:4", "clusters", 4, 15, "1:4"), ("16", "float", 16, 0, None)])
def test_a_format_by_hand(text, kind, bits, top, pattern):
    one = Format.parse(text)
    assert (one.kind, one.bits, one.top, one.pattern and str(one.pattern)) == (kind, bits, top, pattern)
    assert str(one) == text and one.executable == (kind in ("levels", "ternary", "binary"))


def test_formats_of_a_model_by_hand():
    made = parse("layer:8,4/2:4,ternary,2:4;a8;e8", LAYOUT)
    assert [str(one) for one in made.of(LAYOUT).values()] == ["8", "4/2:4", "ternary", "2:4"]
    assert (made.activations, made.embeddings) == ("token", 8)
    assert made.words == "a format for each layer, activations 8 bits, embeddings 8 bits"
    assert [str(one) for one in parse("type:8,4", LAYOUT).of(LAYOUT).values()] == ["8", "4", "8", "4"]
    assert parse("") == parse(" 32 ") == Formats() and parse("").plain and str(parse("32")) == ""
    assert parse(";a8-tensor") == parse("32;a8-tensor") == Formats(activations="tensor")
    assert Formats.of_each(LAYOUT, {m.name: PLAIN for m in LAYOUT.matrices}).plain
    assert str(Formats.of_each(LAYOUT, {"m1": Format.parse("8")})) == "matrix:32,8,32,32"


def test_options_by_hand():
    assert str(chosen("8", "2:4", 8, 8, LAYOUT)) == "8/2:4;a8;e8"
    assert str(chosen(None, "1:4", None, None)) == "1:4" and str(chosen(None, None, None, None)) == ""
    assert str(chosen("type:8,4", "2:4", 8, 32, LAYOUT, "tensor")) == "type:8/2:4,4/2:4;a8-tensor"
    assert str(chosen("8/2:4", "2:4", None, None)) == "8/2:4"


@pytest.mark.parametrize("given_, words", [
    (("0", None, None, None), "bits '0' are none"), (("9", None, None, None), "8 to 2, ternary, binary"),
    (("8.5", None, None, None), "bits '8.5'"), (("clusters-9", None, None, None), "clusters-8 to clusters-2"),
    (("8,4", None, None, None), "'layer:', 'type:', 'matrix:'"), (("layer:8,4", None, None, None), "2 formats for 4"),
    (("8/", None, None, None), "pattern ''"), (("8;a9", None, None, None), "'a9' is none of a8"),
    (("8;a8;a8-tensor", None, None, None), "both of a8, a8-tensor"), (("8;e8;e8", None, None, None), "twice"),
    ((None, "5:4", None, None), "N from 1 to M - 1"), ((None, "4:4", None, None), "pattern '4:4'"),
    ((None, "0:4", None, None), "pattern '0:4'"), ((None, "2:65", None, None), "M up to 64"),
    ((None, "2-4", None, None), "for example 2:4"), ((None, "2:5", None, None), "16 inputs, not divisible into groups"),
    (("8/1:4", "2:4", None, None), "which name another"), ((None, None, 4, None), "activation bits 4"),
    (("8", None, None, 4), "embedding bits 4 are out of range; needed: 8 or 32")])
def test_bad_input_is_one_clear_line(given_, words):
    with pytest.raises(InputError, match=words) as raised:
        chosen(*given_, LAYOUT)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("block, pattern, fits", [
    ("4x1", "2:4", True), ("1x4", "2:4", True), ("1x8", "2:4", True), ("1x16", "2:4", True), ("4x2", "2:4", True),
    ("1x2", "1:4", False), ("allxall", "2:4", True), ("1x2", "2:8", True), ("1x4", "2:8", False),
    ("1x8", "4:16", False)])
def test_a_block_and_a_pattern_that_contradict_each_other(block, pattern, fits):
    layout = tiny.layout(block, ((8, 16),) * 2, 1000)
    assert formats.fits_block(Pattern.parse(pattern), BlockShape.parse(block)) == fits
    if fits:
        assert chosen("8", pattern, None, None, layout).weights[0].pattern == Pattern.parse(pattern)
    else:
        with pytest.raises(InputError, match=f"pattern {pattern} and block {block} contradict each other") as raised:
            chosen("8", pattern, None, None, layout)
        fit = {"1:4": "one column or a multiple of 4,", "2:8": "one column, 2 or a multiple of 8,",
               "4:16": "one column, 2, 4 or a multiple of 16,"}[pattern]
        assert f"needed: blocks of {fit} or no pattern" in str(raised.value)
