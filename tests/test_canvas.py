"""The map's own counting, in a real browser, against prune_core: masks, thresholds, scores, latencies, every block."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from browsing import CHROMIUM, chromium
from sample_run import make_layout, make_norms, make_profile, make_run

from prune_core.cutting import cuts
from prune_core.cutting.answers import predict
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import (
    SCOPES,
    BlockMask,
    by_scope,
    mask_at,
    mask_at_sparsity,
    share_giving,
    shares_up_to,
    thresholds_for,
    zero_share,
)
from prune_core.latency.profile import ASKED, PathPrices, Profile
from prune_core.latency.strips import Blocking, Registers
from prune_core.latency.work import PASS, Batch
from prune_core.runs import settings
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.showing.canvas import LEVELS, Start

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SETTING = Batch(8, 32)


@pytest.fixture(scope="module")
def page():
    with chromium() as browser:
        page = browser.new_page()
        page.goto("about:blank")
        page.add_script_tag(content=canvas.script((*canvas.COUNTING, "format", "thresholds", "score")) + """
        function load(text) {
          const {header, norms, frames} = unpack(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
          window.model = makeModel(header, norms);
          window.frames_ = frames && Array.from(frames);
        }""")
        yield page


BLOCKINGS = {"fp32": Blocking(32, 14, 1), "bf16 avx512": Blocking(32, 13, 2), "int8 vnni": Blocking(32, 13, 4),
             "bf16 amx": Blocking(32, 32, 32, 16), "int8 amx": Blocking(32, 32, 64, 16)}
MODULES = ("store", "transpose", "weights", "scatter", "gelu", "panels", "attention", "heads", "norm", "embed", "head",
           "layers", "call", *(f"multiply {vectors}" for vectors in range(1, 5)))  # what format 1 has prices of


def priced(path: str = "") -> Profile:
    """A profile in which every kind of work has a price, so that none can be miscounted unseen: all paths with prices
    of about one size, or this one alone; "module by module": as profiles of format 1 have it."""
    random = np.random.default_rng(3)

    def prices(names) -> dict[str, float]:
        return {name: float(random.uniform(1e-7, 1e-3)) for name in names}

    if path == "module by module":
        return replace(make_profile(), paths={"fp32": PathPrices(prices(MODULES), 0.05, Registers(16, 4))})
    paths = {name: PathPrices(prices(PASS), 0.05, blocking) for name, blocking in BLOCKINGS.items()}
    return replace(make_profile(), paths={path: paths[path]} if path else paths)


def make_other(run: Run, seed: int, zeros: float) -> dict[str, np.ndarray]:
    """Norms of this run's shape."""
    norms, random = make_norms(run.layout, seed), np.random.default_rng(seed)
    for values in norms.values():  # whole strips and columns die, as they do
        values *= random.random((values.shape[0], 1)) > zeros
        values *= random.random(values.shape[1]) > zeros
    return norms


def load(page, block: str, seed: int = 0, zeros: float = 0.0, profile: Profile | None = None, dtype: str = "auto"):
    """A run of this block shape in the browser's counting; (run, norms)."""
    import tempfile
    from pathlib import Path

    layout = make_layout(2, 64, 128, block)
    run = Run(make_run(Path(tempfile.mkdtemp()), layout=layout))
    norms = make_other(run, seed, zeros)
    at = run.saved("dense")
    head = canvas.header(run, at, 1.0, Start(settings.usual(run)), settings.usual(run), profile or priced(),
                         SETTING, dtype=dtype)
    page.evaluate("load", base64.b64encode(canvas.pack(head, norms)).decode())
    return run, norms


def counted(page, run, norms, thresholds, scope) -> tuple[dict, BlockMask]:
    numbers = page.evaluate("cut => numbers(model, cut)", {"scope": scope, "thresholds": thresholds})
    return numbers, mask_at(norms, run.layout, thresholds, scope)


BLOCKS = ["16x1", "64x1", "8x1", "1x16", "16x16", "4x4", "allx1", "1xall", "1x1"]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_threshold_gives_the_numbers_of_the_core(page, block, scope):
    for seed, share, zeros in ((0, 0.3, 0.0), (1, 0.72, 0.2), (2, 0.97, 0.6), (3, 0.0, 0.0)):
        run, norms = load(page, block, seed, zeros)
        thresholds = thresholds_for(norms, run.layout, share, scope)
        numbers, mask = counted(page, run, norms, thresholds, scope)
        assert numbers["kept"] == sum(int(v.sum()) for v in mask.kept.values())
        assert numbers["groups"] == sum(v.size for v in mask.kept.values())
        assert numbers["sparsity"] == pytest.approx(mask.sparsity, abs=1e-15)
        assert numbers["model"] == pytest.approx(mask.compression_model, rel=1e-14)
        if mask.kept_weights:
            assert numbers["encoder"] == pytest.approx(mask.compression_encoder, rel=1e-14)
        if scope == "global":
            score = predict(run.snapshots[run.saved("dense")].surface, mask.sparsity)
            assert [numbers[k] for k in ("score", "low", "high")] == pytest.approx(score, rel=1e-12)
        else:
            assert "score" not in numbers, "no surface was recorded for such cuts"
        assert numbers["speedup"] == pytest.approx(priced().speedup(mask, SETTING, run.heads), rel=1e-9)
        assert numbers["path"] == priced().path_of("auto", mask, SETTING, run.heads).path


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("path", [*BLOCKINGS, "module by module"])
def test_every_path_is_counted_as_the_core_counts_it(page, path, block):
    profile = priced(path)
    dtype = path.split()[0] if path in BLOCKINGS else "fp32"
    for seed, share, zeros in ((0, 0.3, 0.0), (1, 0.72, 0.2), (2, 0.97, 0.6)):
        run, norms = load(page, block, seed, zeros, profile, dtype)
        numbers, mask = counted(page, run, norms, thresholds_for(norms, run.layout, share, "global"), "global")
        assert numbers["speedup"] == pytest.approx(profile.speedup(mask, SETTING, run.heads, dtype), rel=1e-9)


@pytest.mark.parametrize("dtype", ASKED)
def test_the_browser_takes_the_path_that_the_core_takes(page, dtype):
    profile = make_profile()
    run, norms = load(page, "16x1", 1, 0.2, profile, dtype)
    numbers, mask = counted(page, run, norms, thresholds_for(norms, run.layout, 0.5, "global"), "global")
    assert numbers["path"] == profile.path_of(dtype, mask, SETTING, run.heads).path
    assert numbers["speedup"] == pytest.approx(profile.speedup(mask, SETTING, run.heads, dtype), rel=1e-9)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_share_gives_the_thresholds_of_the_core(page, block, scope):
    for seed, zeros in ((4, 0.0), (5, 0.4)):
        run, norms = load(page, block, seed, zeros)
        for share in (0.0, 0.125, 0.3333, 0.5, 0.875, 0.999):
            thresholds = page.evaluate("([scope, share]) => thresholdsFor(model, scope, share)", [scope, share])
            assert thresholds == pytest.approx(thresholds_for(norms, run.layout, share, scope), abs=0)


@pytest.mark.parametrize("block", ["16x1", "allx1", "4x4"])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_sparsity_is_reached_where_some_parts_have_more_zeros_than_others(page, block, scope):
    run, norms = load(page, block, 6, 0.35)
    zeros = shares_up_to(norms, run.layout, dict.fromkeys(by_scope(run.layout, scope), 0.0), scope)
    assert page.evaluate("scope => zeroShares(model, scope)", scope) == zeros
    whole = zero_share(norms, run.layout)
    for wanted in (whole + 0.01, (whole + max(zeros.values())) / 2, min(0.99, max(zeros.values()) + 0.05)):
        here = page.evaluate("([scope, wanted]) => shareGiving(model, scope, wanted)", [scope, wanted])
        there = share_giving(norms, run.layout, wanted, scope)
        groups = sum(max(map(run.layout.group_size, parts)) for parts in by_scope(run.layout, scope).values())
        for share in (here, there):
            reached = mask_at_sparsity(norms, run.layout, share, scope).sparsity
            assert abs(reached - wanted) <= groups / run.layout.encoder_weights


@pytest.mark.parametrize("block", ["16x1", "allx1", "4x4"])
@pytest.mark.parametrize("scope", SCOPES)
def test_thresholds_on_another_ranking_cut_the_same_shares_on_both_sides(page, block, scope):
    """Set on one ranking, cut by another, and back."""
    run, norms = load(page, block, 8, 0.2)
    keys, random = list(by_scope(run.layout, scope)), np.random.default_rng(1)
    given = {key: float(np.float32(random.uniform(0, 0.9))) for key in keys}
    page.evaluate("model.header.value = 'norm'")
    cut = page.evaluate("cut => complete(model, cut)", {"scope": scope, "thresholds": given})
    assert cut["thresholds"] == given and cut["shares"] == shares_up_to(norms, run.layout, given, scope)
    load(page, block, 9, 0.1)  # other values of the same groups
    other = make_other(run, 9, 0.1)
    page.evaluate("model.header.value = 'other'")
    now = page.evaluate("cut => complete(model, cut)", cut)
    told = page.evaluate("cut => briefly(model, cut)", now)
    assert told["ranking"] == "norm" and told["shares"] == cut["shares"]
    there = cuts.in_force(told, run.layout, "other", other)
    assert dict(there.thresholds) == now["thresholds"] != given and there.ranking == "other"
    load(page, block, 8, 0.2)
    page.evaluate("model.header.value = 'norm'")
    assert page.evaluate("cut => complete(model, cut)", now)["thresholds"] == given
    assert dict(cuts.in_force(told, run.layout, "norm", norms).thresholds) == pytest.approx(given, rel=1e-7)


@pytest.mark.parametrize("told", [{}, {"shares": {"all": 2}}, {"shares": {"all": "x"}}, {"shares": {"rows": 0.5}},
                                  {"shares": [1]}, {"shares": {"all": float("nan")}}])
def test_shares_that_are_none_are_refused(told):
    layout = make_layout()
    said = {"scope": "global", "share": None, "thresholds": {"all": 0.5}, "ranking": "taylor", **told}
    assert cuts.in_force(said, layout, "norm", make_norms(layout)) is None


@pytest.mark.parametrize("heads", [None, 2, 4])
def test_heads_that_die_are_taken_out_as_the_core_takes_them(page, heads):
    run, norms = load(page, "16x1", 7, 0.3)
    run.about["heads"] = heads
    page.evaluate("heads => { model.header.heads = heads }", run.heads)
    thresholds = thresholds_for(norms, run.layout, 0.8, "global")
    numbers, mask = counted(page, run, norms, thresholds, "global")
    assert numbers["speedup"] == pytest.approx(priced().speedup(mask, SETTING, run.heads), rel=1e-9)


def test_frames_are_near_the_norms_and_zeros_stay_zeros(page, tmp_path):
    run = Run(make_run(tmp_path))
    frames, scale = canvas.frames(run)
    head = canvas.header(run, run.with_norms[0], 1.0, Start(settings.usual(run)), settings.usual(run), None, SETTING)
    blob = canvas.pack(head, run.norms(run.with_norms[0]), frames, {"frames": {"scale": scale}})
    page.evaluate("load", base64.b64encode(blob).decode())
    there = np.array(page.evaluate("frames_")).reshape(frames.shape)
    for row, at in zip(there, run.with_norms, strict=True):
        norms = np.concatenate([v.ravel() for v in run.norms(at).values()])
        assert np.abs(row / LEVELS * scale - norms).max() <= scale / LEVELS * 1.001
        assert ((row == 0) == (norms == 0)).all()
        assert (row == 0).mean() == pytest.approx(zero_share(run.norms(at), run.layout), abs=1e-12)


def test_what_the_browser_has_is_not_sent_again(page, tmp_path):
    run = Run(make_run(tmp_path))
    at, usual = run.with_norms[0], settings.usual(run)
    head, norms = canvas.header(run, at, 1.0, Start(usual), usual, None, SETTING), run.norms(at)

    def unpacked(blob: bytes) -> dict:
        return page.evaluate("""(text) => { const message = unpack(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
            return { ...message, header: Boolean(message.header),
                     norms: message.norms?.length ?? 0, frames: message.frames && Array.from(message.frames) }; }""",
                             base64.b64encode(blob).decode())

    whole, present = canvas.pack(head, norms), {"present": True}
    first = unpacked(whole)
    assert first == {"id": first["id"], "header": True, "norms": canvas.groups(run.layout), "now": {}, "frames": None}
    again = canvas.pack(head, norms, None, present, [first["id"]])
    assert len(again) < 100
    assert unpacked(again) == {"id": first["id"], "header": False, "norms": 0, "now": present, "frames": None}
    frames, scale = canvas.frames(run)
    frames_sent = unpacked(canvas.pack(head, norms, frames, {"frames": {"scale": scale}}, [first["id"]]))
    assert frames_sent["norms"] == 0 and frames_sent["frames"] == frames.ravel().tolist()
    name = next(iter(norms))
    for about, values in ((head | {"high": 2.0}, norms), (head, norms | {name: norms[name] * 2})):
        other = canvas.pack(about, values, None, present, [first["id"]])
        assert len(other) > len(whole)  # anything else than what is there is sent whole
        assert unpacked(other)["id"] != first["id"]


def test_a_cut_is_predicted_from_the_surface_of_its_own_kind(page):
    run, _ = load(page, "16x1")
    points = run.snapshots[run.saved("dense")].surface
    page.evaluate("""points => { model.header.surfaces = {
                       global: points, layer: points.map(([x, s, l, h]) => [x, s / 2, l / 2, h / 2])} }""",
                  [[p.sparsity, p.score, p.low, p.high] for p in points])
    count = "cut => numbers(model, {...cut, thresholds: thresholdsFor(model, cut.scope, 0.5)})"
    whole, alike, own = (page.evaluate(count, cut) for cut in (
        {"scope": "global", "share": None}, {"scope": "layer", "share": 0.5}, {"scope": "layer", "share": None}))
    assert alike["score"] == pytest.approx(predict(points, alike["sparsity"])[0] / 2)
    assert "score" not in own, "no score of another cut"
    assert whole["score"] == pytest.approx(predict(points, whole["sparsity"])[0])


# ---------------------------------------------------------------- what is known of a score

HEADER = {"surfaces": {"global": [[0.2, 0.9, 0.88, 0.92], [0.4, 0.8, 0.78, 0.82]]}, "usual": {"scope": "global"},
          "exact": True}
EVEN, OWN = {"scope": "global", "share": 0.3}, {"scope": "layer", "share": None}


@pytest.mark.parametrize("header, cut, sparsity, told, how, score, words", [
    ({}, EVEN, 0.3, None, "predicted", 0.85, ", 0.830 – 0.870"),
    ({}, EVEN, 0.4000001, None, "recorded", 0.8, ", 0.780 – 0.820"),
    ({}, EVEN, 0.3, {"doing": "scoring", "score": 0.8, "low": 0.7, "high": 0.9, "done": 96, "total": 872},
     "so far", 0.8, ", 0.700 – 0.900, 96 of 872 examples"),
    ({}, EVEN, 0.3, {"doing": "done", "score": 0.86, "low": 0.84, "high": 0.88}, "exact", 0.86, ", 0.840 – 0.880"),
    ({}, EVEN, 0.3, {"doing": "done", "score": 0.86, "low": 0.84, "high": 0.88, "arithmetic": "bf16"}, "exact", 0.86,
     ", bf16, 0.840 – 0.880"),
    ({}, EVEN, 0.3, {"doing": "failed", "score": None}, "predicted", 0.85, ", 0.830 – 0.870; recorded 0.900 at 20.0%"),
    ({"exact": False}, EVEN, 0.39, None, "predicted", 0.805, ", 0.785 – 0.825; recorded 0.800 at 40.0%"),
    ({}, OWN, 0.3, None, None, None, "no prediction for such a cut; the exact score comes when you rest"),
    ({"exact": False}, OWN, 0.39, None, None, None,
     "no prediction for such a cut; one threshold for all: recorded 0.800 at 40.0%"),
    ({"surfaces": {}}, EVEN, 0.3, None, None, None, "no score was recorded here; the exact score comes when you rest"),
    ({"surfaces": {}, "exact": False}, EVEN, 0.3, None, None, None,
     "no score was recorded here; no exact score here")])
def test_the_card_says_how_a_score_is_known(page, header, cut, sparsity, told, how, score, words):
    said = page.evaluate("""([header, cut, sparsity, told]) => {
        const even = alike(header, cut) ? scoreAt(header.surfaces[cut.scope], sparsity) : {};
        return known(header, cut, { sparsity, cut: sparsity, ...even }, told); }""",
                         [HEADER | header, cut, sparsity, told])
    assert (said["how"], said["words"]) == (how, words)
    assert said.get("score") == (None if score is None else pytest.approx(score, abs=1e-6))


def test_an_exact_score_is_found_only_for_the_very_cut_it_is_of(page):
    cut = {"run": "one", "moment": 2, "ranking": "norm", "repaired": False, "scope": "layer",
           "thresholds": {"layer 1": 0.1, "layer 0": 0.30000001192092896}}
    page.evaluate("told => { window.answers = new Answers(); answers.hear(told) }",
                  cut | {"data": "", "doing": "done", "score": 0.8})

    def found(**other) -> bool:
        return page.evaluate("cut => Boolean(answers.of(cut))", cut | other)

    assert found() and found(thresholds={"layer 0": 0.3, "layer 1": 0.1}), "the same as float32, in any order"
    assert found(dtype="fp32"), "which goes without saying"
    others = {"run": "two", "moment": 1, "ranking": "taylor", "repaired": True, "dtype": "bf16", "scope": "type",
              "thresholds": {"layer 0": 0.3001, "layer 1": 0.1}}
    assert not any(found(**{name: value}) for name, value in others.items())
    running = cut | {"moment": 3, "data": "", "doing": "scoring", "score": 0.7}
    page.evaluate("told => answers.hear(told)", running)
    assert found() and found(moment=3)
    page.evaluate("told => answers.hear(told)", running | {"moment": 4})
    assert found() and not found(moment=3), "what was only so far is not kept when the hand has gone on"
    page.evaluate("told => answers.hear(told)", running | {"data": "elsewhere"})
    assert not found(), "other data, other scores"


# ---------------------------------------------------------------- the address


@pytest.mark.parametrize("given", [Cut("global", 0.5), Cut("matrix", 0.3333), Cut("global", None, {"all": 0.38290212}),
                                   Cut("layer", None, {"layer 0": 0.0, "layer 1": 0.71})])
def test_a_cut_comes_back_from_the_address_and_from_json(given):
    layout = make_layout()
    assert cuts.parse(given.text(layout), layout) == given
    assert cuts.from_json(json.loads(json.dumps(given.to_json())), layout) == given


@pytest.mark.parametrize("text", ["", "global", "global@1", "global@-1", "global@x", "global@nan",
                                  "rows@0.5", "layer:0.1", "layer:0.1,x", "layer:0.1,-2",
                                  "layer:0.1,inf", "global:", "layer:0.1,0.2,0.3", "@", ":::"])
def test_what_is_no_cut_is_refused(text):
    assert cuts.parse(text, make_layout()) is None


def test_a_cut_masks_as_the_core_does():
    layout = make_layout()
    norms = make_norms(layout)
    mask = mask_at(norms, layout, thresholds_for(norms, layout, 0.4, "type"), "type")
    assert Cut("type", 0.4).mask(norms, layout).digest() == mask.digest()
    assert Cut("global", None, {"all": 0.5}).mask(norms, layout).digest() == mask_at(norms, layout, 0.5).digest()
