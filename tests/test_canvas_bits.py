"""Formats, patterns, bytes and what is predicted of them: the browser's counting against prune_core's, in Chromium."""

from __future__ import annotations

import base64
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from browsing import CHROMIUM, chromium
from sample_run import make_layout, make_norms, make_profile, make_run

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import SCOPES, BlockMask, by_scope, mask_at
from prune_core.latency import executed
from prune_core.latency.profile import ASKED, Profile
from prune_core.latency.work import Batch
from prune_core.precision import formats as fm
from prune_core.precision.storage import kept_weights, storage
from prune_core.runs import settings
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.showing.canvas import Start

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SETTING = Batch(8, 32)
EMBEDDINGS = (1000, 64)


@pytest.fixture(scope="module")
def page():
    with chromium() as browser:
        page = browser.new_page()
        page.goto("about:blank")
        page.add_script_tag(content=canvas.script((*canvas.COUNTING, "format", "thresholds", "score", "bits")) + """
        function load(text) {
          const {header, norms} = unpack(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
          window.model = makeModel(header, norms);
        }
        const attempt = (action) => { try { return action(); } catch (error) { return null; } };""")
        yield page


def make(folder, block: str, seed: int = 0, hidden: int = 64) -> tuple[Run, dict[str, np.ndarray]]:
    """A run of this block shape, and norms of its shape of which whole strips are zero."""
    run = Run(make_run(folder, layout=make_layout(2, hidden, 2 * hidden, block)))
    norms, random = make_norms(run.layout, seed), np.random.default_rng(seed)
    return run, {name: values * (random.random((len(values), 1)) > 0.2) for name, values in norms.items()}


def load(page, run: Run, norms, profile: Profile | None = None, dtype: str = "auto", **more) -> None:
    head = canvas.header(run, run.saved("dense"), 1.0, Start(settings.usual(run)), settings.usual(run), profile,
                         SETTING, dtype=dtype, **more)
    head["bytes"] |= {"embeddings": EMBEDDINGS}
    page.evaluate("load", base64.b64encode(canvas.pack(head, norms)).decode())


def replace_norms(page, norms) -> None:
    raw = canvas.norms_bytes(list(norms), norms)
    page.evaluate("""text => { const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                     model.norms.set(new Float32Array(raw.buffer)); model.sorted.clear(); }""",
                  base64.b64encode(raw).decode())


# ---------------------------------------------------------------- text

NUMBERS = ["32", "16", *map(str, range(2, 9)), "ternary", "binary", *(f"clusters-{bits}" for bits in range(2, 9))]
TEXTS = ["", "32", " 8 ", "8;a8", "8;a8-tensor;e8", "32;e8", "2:4", "4/2:4;a8", "16/1:2", "layer:8,4/2:4", "32/2:4",
         "layer:8,8", "type:8,4,3,2,ternary,binary", "matrix:" + ",".join(["8", "clusters-3", "2:4"] * 4),
         "layer:8,4;a8", ";a8", ";e8;a8-tensor", "global:8", "layer:32,32", "layer:32,32;e8", " 4 ;a8"]
WRONG = ["7.5", "1", "9", "clusters-1", "clusters-9", "8/", "8/4:4", "8/0:4", "2:65", "8,8", "rows:8,8", ";a8", "8;a4",
         "8;", "8;e8;", "8;a8;a8", "8;a8;a8-tensor", "8;e8;a8;e8", "layer:", "8/2:4/2:4", "02:4", "toString", "8 /2:4",
         "x" * 100]


@pytest.mark.parametrize("text", TEXTS + [f"{number}{pattern}" for number in NUMBERS for pattern in ("", "/2:4")])
def test_a_text_is_read_and_written_as_the_core_does(page, text):
    read = fm.parse(text)
    there = page.evaluate("text => parseFormats(text)", text)
    assert there["scope"] == read.scope and there["activations"] == read.activations
    assert there["embeddings"] == read.embeddings
    for one, format in zip(there["weights"], read.weights, strict=True):
        assert (one["kind"], one["bits"]) == (format.kind, format.bits)
        assert one["pattern"] == (format.pattern and vars(format.pattern))
        assert page.evaluate("one => [topOf(one), executable(one), formatWords(one), formatText(one)]", one) == [
            format.top, format.executable, format.words, str(format)]
    assert page.evaluate("one => [formatsText(one), plainFormats(one), formatsWords(one)]", there) == [
        str(read), read.plain, read.words]
    assert page.evaluate("one => executedAs(one)", there) == executed.executed_as(read)


@pytest.mark.parametrize("text", WRONG)
def test_what_the_core_refuses_the_browser_refuses(page, text):
    try:
        said = str(fm.parse(text))
    except InputError:
        said = None
    assert page.evaluate("text => attempt(() => formatsText(parseFormats(text)))", text) == said


@pytest.mark.parametrize("text, scope", [("", "global"), ("8", "global"), ("layer:8,4", "layer"),
                                         ("type:8,4,8,8,8,2:4", "type"), ("matrix:" + ",".join("84" * 6), "type"),
                                         ("matrix:" + ",".join("8" * 11 + "4"), "matrix"), ("layer:8,8;e8", "global")])
def test_formats_of_matrices_are_said_by_the_widest_scope_that_can_say_them(page, tmp_path, text, scope):
    run, norms = make(tmp_path, "16x1")
    load(page, run, norms)
    read = fm.parse(text, run.layout)
    each = page.evaluate("text => readFormats(model.header, text).each.map(formatText)", text)
    assert each == [str(one) for one in read.of(run.layout).values()]
    said = page.evaluate("""text => { const { formats, each } = readFormats(model.header, text);
                            return joined(model.header, each, formats); }""", text)
    assert said["scope"] == scope
    again = fm.parse(page.evaluate("said => formatsText(said)", said), run.layout)
    assert again.of(run.layout) == read.of(run.layout) and again.embeddings == read.embeddings


# ---------------------------------------------------------------- bytes

BLOCKS = ["64x1", "1x64", "16x16", "allx1", "1xall", "1x1", "4x4", "8x2"]


def random_mask(layout: Layout, random: np.random.Generator) -> tuple[dict, BlockMask]:
    """(norms, mask): nothing, all, a few or most blocks of each matrix kept, some strips wholly cut."""
    norms = {}
    for m in layout.matrices:
        shape = layout.block.grid(m.m, m.n)
        share = random.choice([0.0, 0.004, 0.05, 0.3, 0.7, 0.97, 1.0])
        norms[m.name] = np.where(random.random(shape) < share, 1.0, 0.1).astype(np.float32)
        norms[m.name] *= np.where(random.random((shape[0], 1)) < 0.3 * random.integers(2), np.float32(0.1), 1)
    return norms, mask_at(norms, layout, {"all": 0.5}, "global")


def some_formats(layout: Layout, random: np.random.Generator) -> fm.Formats:
    """Of a random scope, patterns where they fit the blocks."""
    scope = str(random.choice(SCOPES))
    fits = [one for one in map(fm.Pattern.parse, ("2:4", "1:4", "1:2", "4:8", "3:8"))
            if one.m <= 8 and fits_layout(one, layout)]
    formats = [fm.Format.parse(str(random.choice(NUMBERS))) for _ in by_scope(layout, scope)]
    formats = [replace(one, pattern=fits[random.integers(len(fits))]) if fits and random.random() < 0.5 else one
               for one in formats]
    return fm.Formats(scope, tuple(formats), str(random.choice(["", "token", "tensor"])), int(random.choice([8, 32])))


def fits_layout(pattern: fm.Pattern, layout: Layout) -> bool:
    try:
        pattern.check(layout)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("block", BLOCKS)
def test_bytes_are_those_of_the_core(page, tmp_path, block):
    run, norms = make(tmp_path, block)
    load(page, run, norms)
    random = np.random.default_rng(BLOCKS.index(block))
    for _ in range(10 if block == "1x1" else 60):
        norms, mask = random_mask(run.layout, random)
        formats = some_formats(run.layout, random).check(run.layout)
        replace_norms(page, norms)
        numbers = page.evaluate("cut => numbers(model, cut)",
                                {"scope": "global", "thresholds": {"all": 0.5}, "formats": str(formats)})
        there = storage(mask, formats, EMBEDDINGS)
        assert {name: numbers[camel(name)] for name in there.to_json()} == there.to_json()
        kept = sum(kept_weights(m, mask, formats.of(run.layout)[m.name])[0] for m in run.layout.matrices)
        assert numbers["weights"] == kept and numbers["cut"] == pytest.approx(mask.sparsity, abs=1e-15)
        assert numbers["sparsity"] == pytest.approx(1 - kept / run.layout.encoder_weights, abs=1e-15)


def camel(name: str) -> str:
    """encoder_bytes -> encoderBytes"""
    first, *more = name.split("_")
    return first + "".join(map(str.capitalize, more))


def test_a_relative_index_counts_gaps_of_every_length(page, tmp_path):
    """One matrix is wide enough for gaps of more than 255 blocks."""
    run, norms = make(tmp_path, "1x1", hidden=64)
    load(page, run, norms)
    random = np.random.default_rng(9)
    for share in (0.0005, 0.002, 0.01, 0.05, 0.2, 0.5):
        for m in run.layout.matrices:
            norms[m.name] = (random.random(norms[m.name].shape) < share).astype(np.float32)
        mask = mask_at(norms, run.layout, {"all": 0.5}, "global")
        replace_norms(page, norms)
        numbers = page.evaluate("numbers(model, {scope: 'global', thresholds: {all: 0.5}, formats: '4'})")
        assert numbers["bytes"] == storage(mask, fm.parse("4")).bytes


# ---------------------------------------------------------------- speed and score


STORED = ["", "2:4", "8", "8;a8", "16", "32;a8", "clusters-4;a8", "layer:8,4/2:4;a8-tensor"]


@pytest.mark.parametrize("slower, dtype, text", list(product(["", "int8"], ASKED, STORED)))
def test_a_speedup_is_of_what_executes_the_format(page, tmp_path, slower, dtype, text):
    profile = make_profile()
    profile = replace(profile, paths={name: replace(path, slower=name.startswith("int8") and slower == "int8")
                                      for name, path in profile.paths.items()})
    run, norms = make(tmp_path, "16x1")
    load(page, run, norms, profile, dtype)
    mask, formats = mask_at(norms, run.layout, {"all": 0.5}, "global"), fm.parse(text, run.layout)
    cut = {"scope": "global", "thresholds": {"all": 0.5}, "formats": text}
    numbers = page.evaluate("cut => numbers(model, cut)", cut)
    taken = executed.path_of(profile, formats, dtype, mask, SETTING, run.heads)
    assert (numbers["path"], numbers["why"]) == (taken.path, taken.why)
    assert numbers["speedup"] == pytest.approx(
        executed.speedup(profile, formats, dtype, mask, SETTING, run.heads), rel=1e-9)


def test_weights_alone_in_few_bits_run_as_floats_and_with_activations_in_int8():
    profile = make_profile()
    profile = replace(profile, paths={name: replace(path, slower=False) for name, path in profile.paths.items()})

    def arithmetics(text: str, dtype: str = "auto") -> tuple[set[str], str]:
        names, why = executed.candidates(profile, executed.executed_as(fm.parse(text)), dtype)
        return {name.partition(" ")[0] for name in names}, why

    every = {name.partition(" ")[0] for name in profile.paths}
    assert every >= {"fp32", "int8"}, "else nothing is tested here"
    assert arithmetics("") == arithmetics("2:4") == arithmetics("32;e8") == (every, "")
    assert arithmetics("8") == arithmetics("8/2:4") == arithmetics("clusters-4;a8") == (every - {"int8"}, "")
    assert arithmetics("8;a8") == arithmetics("layer:8,4/2:4;a8") == ({"int8"}, "")
    assert arithmetics("8;a8-tensor") == (every - {"int8"}, "")  # int8 arithmetic has a scale for each token
    assert arithmetics("8;a8", "fp32") == ({"fp32"}, "")
    assert arithmetics("8", "int8") == (every - {"int8"}, "weights in these formats run as floats")


def test_mixed_formats_are_predicted_from_the_surfaces_of_each(page, tmp_path):
    run, norms = make(tmp_path, "16x1")
    load(page, run, norms)
    surface = {"": [0.9, 0.8], "8;a8": [0.87, 0.74], "4;a8": [0.6, 0.5]}
    page.evaluate("""surface => { model.header.surfaces = Object.fromEntries(Object.entries(surface).map(
        ([text, [from, to]]) => [surfaceName("global", text),
                                 [[0, from, from - 0.1, from + 0.1], [0.8, to, to - 0.1, to + 0.1]]])) }""", surface)
    count = "text => { const n = numbers(model, {scope: 'global', share: 0.4, formats: text, " \
            "thresholds: thresholdsFor(model, 'global', 0.4)}); return [n.cut, n.score, n.low, n.high, n.how] }"
    eights = {m.name for m in run.layout.matrices if m.type in ("query", "output")}
    text = str(fm.Formats.of_each(run.layout, {m.name: fm.Format.parse("8" if m.name in eights else "4")
                                               for m in run.layout.matrices}, activations="token"))
    cut, score, low, high, how = page.evaluate(count, text)
    share = sum(m.m * m.n for m in run.layout.matrices if m.name in eights) / run.layout.encoder_weights
    at = {text: one[0] + (one[1] - one[0]) * cut / 0.8 for text, one in surface.items()}
    wanted = at[""] - share * (at[""] - at["8;a8"]) - (1 - share) * (at[""] - at["4;a8"])
    assert (score, low, high) == pytest.approx((wanted, wanted - 0.1, wanted + 0.1)) and how == "predicted"
    assert page.evaluate(count, "8;a8")[1] == pytest.approx(at["8;a8"])
    assert page.evaluate(count, text.replace("4", "3"))[1:] == [None] * 4, "no surface of 3 bits"
    assert page.evaluate(count, "4")[1:] == [None] * 4, "none without activations in 8 bits"
