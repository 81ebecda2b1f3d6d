"""The map's own counting, in a real browser, against prune_core: masks, thresholds, scores, latencies, every block."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from browsing import CHROMIUM, chromium
from sample_run import make_layout, make_norms, make_profile, make_run

from prune_core.cutting import cuts
from prune_core.cutting.answers import predict
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import SCOPES, BlockMask, mask_at, thresholds_for, zero_share
from prune_core.latency.profile import Batch, Profile
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
        page.add_script_tag(content=canvas.script(canvas.COUNTING) + """
        function load(text) {
          const {header, norms, frames} = unpack(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
          window.model = makeModel(header, norms);
          window.frames_ = frames && Array.from(frames);
        }""")
        yield page


def priced() -> Profile:
    """A profile in which every kind of work has a price, so that none can be miscounted unseen."""
    plain, random = make_profile(), np.random.default_rng(3)
    names = {f"multiply {v}" for v in range(1, 5)} | plain.compact.keys()
    from dataclasses import replace
    return replace(plain, compact={name: float(random.uniform(1e-7, 1e-3)) for name in names})


def load(page, block: str, seed: int = 0, zeros: float = 0.0):
    """A run of this block shape in the browser's counting; (run, norms)."""
    import tempfile
    from pathlib import Path

    layout = make_layout(2, 64, 128, block)
    run = Run(make_run(Path(tempfile.mkdtemp()), layout=layout))
    norms = make_norms(layout, seed)
    random = np.random.default_rng(seed)
    for values in norms.values():  # whole strips and columns die, as they do
        values *= random.random((values.shape[0], 1)) > zeros
        values *= random.random(values.shape[1]) > zeros
    at = run.saved("dense")
    head = canvas.header(run, at, 1.0, Start(settings.usual(run)), settings.usual(run), priced(), SETTING)
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


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_share_gives_the_thresholds_of_the_core(page, block, scope):
    for seed, zeros in ((4, 0.0), (5, 0.4)):
        run, norms = load(page, block, seed, zeros)
        for share in (0.0, 0.125, 0.3333, 0.5, 0.875, 0.999):
            thresholds = page.evaluate("([scope, share]) => thresholdsFor(model, scope, share)", [scope, share])
            assert thresholds == pytest.approx(thresholds_for(norms, run.layout, share, scope), abs=0)


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
