"""Random walks over the real map: whatever a hand does, card, field, label, bar, what is heard and what Python is told
say the same, and Python cuts the same blocks."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from browsing import CHROMIUM, chromium
from sample_run import make_layout, make_run

from prune_core.cutting import cuts
from prune_core.cutting.answers import predict
from prune_core.cutting.cuts import SurfaceKind
from prune_core.cutting.masks import SCOPES, by_scope, shares_up_to, zero_share
from prune_core.latency.profile import Batch
from prune_core.runs import settings
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.showing.canvas import Start

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

HARNESS = """
const host = document.getElementById("host").attachShadow({ mode: "open" });
host.innerHTML = parts;
const root = host.querySelector(".prunescope"), at = (selector) => root.querySelector(selector);
window.give = (text) => {
  const data = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  draw({ parentElement: host, data, setStateValue: (name, state) => (window.told = state) });
};
window.press = (selector) => at(selector).click();
window.choose = (selector, value) => {
  at(selector).value = value;
  at(selector).dispatchEvent(new Event("change"));
};
window.type = (selector, value) => {
  at(selector).focus();
  at(selector).value = value;
  at(selector).dispatchEvent(new Event("input"));
  at(selector).dispatchEvent(new Event("change"));
};
window.key = (key) => {
  at(".handle").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  at(".handle").dispatchEvent(new KeyboardEvent("keyup", { key, bubbles: true }));
};
window.hear = (told) => document.dispatchEvent(new CustomEvent("prunescope-exact", { detail: told }));
window.seen = () => {
  const { view } = root, text = (selector) => at(selector).textContent, wide = (name) => parseFloat(
    at(`.parts .${name}`).style.width);
  view.teller.now();
  view.paint();
  return { told: window.told, value: view.header.value, words: view.words, sum: text(".sum"),
    card: text("[data-number=sparsity] .value"), score: text("[data-number=score] .value"),
    how: text("[data-number=score] .how"), note: text("[data-number=score] .words"),
    field: at(".share").value, label: at(".share").closest("label").textContent.trim(), norm: at(".norm").value,
    bar: ["zero", "gone", "kept"].map(wide), heard: at(".handle").getAttribute("aria-valuetext"),
    now: at(".handle").getAttribute("aria-valuenow"), kept: Array.from(view.model.kept).join(""),
    keys: [...at(".key").options].map((one) => one.value), pins: view.pins.map((pin) => pin.name),
    zooms: [...at(".zoom").options].map((one) => one.value), late: root.classList.contains("late"),
    high: root.getBoundingClientRect().height };
};
"""


@pytest.fixture(scope="module")
def page():
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        yield page


class Walk:
    """The map over a run, with what Python does on the other side; rankings are made here."""

    def __init__(self, page, run: Run, seed: int):
        self.page, self.run, self.random = page, run, np.random.default_rng(seed)
        self.asked, self.sent = "norm", None
        self.usual = settings.usual(run)
        page.goto("about:blank")
        page.set_content("<div id='host'></div>")
        parts = f"<style>{canvas.part('css')}</style>{canvas.part('html')}"
        page.evaluate("(text) => { window.parts = text }", parts)
        page.add_script_tag(content=f"{canvas.script()}\n{HARNESS}", type="module")
        page.wait_for_function("() => window.seen !== undefined")
        self.give(len(run.with_norms) - 1)

    def ranking(self, number: int) -> tuple[str, dict]:
        """(what is in force at this snapshot, its values): stages have another ranking, others only norms."""
        at = self.run.with_norms[number]
        norms = self.run.norms(at)
        if self.asked == "norm" or not self.run.snapshots[at].saved:
            return "norm", norms
        random = np.random.default_rng(at)
        return self.asked, {name: (values * random.uniform(0.01, 5, values.shape)).astype(np.float32)
                            for name, values in norms.items()}

    def give(self, number: int) -> None:
        """What Python sends for this snapshot."""
        at, (value, norms) = self.run.with_norms[number], self.ranking(number)
        surface = self.run.snapshots[at].surface
        surfaces = {SurfaceKind(): surface} if surface and value == "norm" else {}
        head = canvas.header(self.run, at, 1.0, Start(self.usual), self.usual, None, Batch(), surfaces)
        head |= {"value": value, "repaired": False, "kind": self.asked, "asks": self.asked, "exact": True}
        self.page.evaluate("give", base64.b64encode(canvas.pack(head, norms)).decode())
        self.sent = (number, value)

    def seen(self) -> dict:
        """What stands on the page once Python has answered."""
        seen = self.page.evaluate("seen()")
        number = seen["told"]["moment"]
        if self.sent != (number, self.ranking(number)[0]):
            self.give(number)
            seen = self.page.evaluate("seen()")
        return seen

    def cut(self, seen: dict):
        value, norms = self.ranking(seen["told"]["moment"])
        cut = cuts.in_force(seen["told"]["cut"], self.run.layout, value, norms)
        return cut, norms, cut.mask(norms, self.run.layout)

    def check(self, seen: dict) -> None:
        """Everything that says how much is cut says the same, and Python cuts the same blocks."""
        layout, told = self.run.layout, seen["told"]
        cut, norms, mask = self.cut(seen)
        assert not seen["late"] and seen["value"] == cut.ranking
        kept = np.concatenate([mask.kept[m.name].ravel() for m in layout.matrices])
        assert seen["kept"] == "".join(map(str, kept.astype(int)))
        whole, zeros = mask.sparsity, zero_share(norms, layout)
        shares = shares_up_to(norms, layout, cut.resolved(norms, layout), cut.scope)
        target = "all" if cut.scope == "global" else told["key"]
        mine = whole if target in (None, "all") else shares[target]
        near = {0.05: [(seen["card"], whole), (seen["heard"], mine), (seen["words"], mine)],
                0.005: [(seen["field"], mine), (seen["now"], mine)]}
        for off, pairs in near.items():
            for said, share in pairs:
                assert abs(float(re.match(r"[\d.]+", said)[0]) - 100 * share) <= off + 1e-6, (said, share, seen)
        assert (seen["label"].replace("%", "").strip() == "Sparsity") == (target in (None, "all"))
        assert seen["bar"] == pytest.approx([100 * zeros, 100 * (whole - zeros), 100 * (1 - whole)], abs=1e-3)
        adds = whole - zeros > 1e-9
        assert ("adds nothing" in seen["sum"]) == (zeros > 0 and not adds)
        assert ("already zero" in seen["words"]) <= (zeros > 0)
        assert cuts.parse(cut.text(layout), layout).mask(norms, layout).digest() == mask.digest(), "from the address"
        if cut.share is not None:
            least = min(shares_up_to(norms, layout, dict.fromkeys(shares, 0.0), cut.scope).values())
            group = max(max(layout.group_size(m) for m in parts) / sum(m.m * m.n for m in parts)
                        for parts in by_scope(layout, cut.scope).values())
            assert least - 1e-9 <= cut.share or least == 1
            assert cut.share <= min(shares.values()) + group
        self.check_score(seen, cut, whole)

    def check_score(self, seen: dict, cut, sparsity: float) -> None:
        surface = self.run.snapshots[self.run.with_norms[seen["told"]["moment"]]].surface
        if not surface or cut.ranking != "norm" or cut.scope != "global":
            assert (seen["score"], seen["how"]) == ("–", "") and "exact score comes when you rest" in seen["note"]
            return
        score, low, high = predict(surface, sparsity)
        recorded = any(abs(point.sparsity - sparsity) < 1e-6 for point in surface)
        assert seen["how"] == ("recorded" if recorded else "predicted")
        assert float(seen["score"]) == pytest.approx(score, abs=0.0005 + 1e-9)
        assert seen["note"] == f", {low:.3f} – {high:.3f}"

    # ---- what a hand does

    def act(self, seen: dict) -> str:
        """One random action; its name."""
        random, page = self.random, self.page
        kinds = ["scope", "share", "norm", "drag", "key", "choose", "ranking", "step", "undo", "redo", "reset", "pin",
                 "go", "zoom"]
        kind = str(random.choice(kinds, p=np.array([2, 3, 2, 2, 3, 3, 2, 3, 1, 1, 0.5, 1, 1, 0.5]) / 25))
        pick = lambda many: str(random.choice(many))  # noqa: E731
        if kind == "scope":
            page.evaluate("press", f"[data-scope={pick(SCOPES)}]")
        elif kind == "share":
            self.typed = pick(["-3", "0", "12.5", "33.33", "50", "66.7", "80", "97", "99.9", "100", "250",
                               *(f"{random.uniform(0, 100):.2f}" for _ in range(8))])
            page.evaluate("([selector, value]) => type(selector, value)", [".share", self.typed])
        elif kind == "norm" and seen["norm"] != "":
            page.evaluate("([selector, value]) => type(selector, value)",
                          [".norm", pick(["-1", "0", "0.2", "0.5", "1", "9", "1e39", f"{random.uniform(0, 1):.4f}"])])
        elif kind == "drag":
            box = page.locator("canvas.histogram").bounding_box()
            page.mouse.move(box["x"] + random.uniform(5, box["width"] - 5), box["y"] + 60)
            page.mouse.down()
            page.mouse.move(box["x"] + random.uniform(5, box["width"] - 5), box["y"] + 60, steps=3)
            page.mouse.up()
        elif kind == "key":
            page.evaluate("key", pick(["ArrowRight", "ArrowLeft", "PageUp", "PageDown", "Home", "End"]))
        elif kind == "choose":
            page.evaluate("([selector, value]) => choose(selector, value)", [".key", pick(seen["keys"])])
        elif kind == "zoom":
            page.evaluate("([selector, value]) => choose(selector, value)", [".zoom", pick(seen["zooms"])])
        elif kind == "ranking":
            self.asked = {"norm": "taylor", "taylor": "norm"}[self.asked]
        elif kind == "step":
            page.evaluate("press", pick([".back", ".forward"]))
        elif kind == "go" and seen["pins"]:
            page.evaluate("press", f"[aria-label='Go to pinned setting {pick(seen['pins'])}']")
        elif kind in ("undo", "redo", "reset", "pin"):
            page.evaluate("press", f".{kind}")
        return kind


RUNS = [("16x1", "global", 0), ("allx1", "global", 1), ("16x16", "matrix", 2), ("4x4", "layer", 3)]
ACTIONS = 60


@pytest.mark.parametrize("block, scope, seed", RUNS)
def test_whatever_is_done_everything_says_what_is_cut(page, tmp_path, block, scope, seed):
    run = Run(make_run(tmp_path, layout=make_layout(2, 64, 128, block), scope=scope, moments=3))
    walk = Walk(page, run, seed)
    seen, high = walk.seen(), None
    walk.check(seen)
    done = []
    for _ in range(ACTIONS):
        before, kind = seen, walk.act(seen)
        done.append(kind)
        seen = walk.seen()
        try:
            walk.check(seen)
            moved = before["told"]["cut"] != seen["told"]["cut"]
            if kind in ("scope", "share", "norm", "drag", "key", "reset") and moved:
                page.evaluate("press", ".undo")
                assert walk.seen()["kept"] == before["kept"] and walk.seen()["told"]["cut"] == before["told"]["cut"]
                page.evaluate("press", ".redo")
                assert walk.seen()["told"]["cut"] == seen["told"]["cut"]
            if kind == "share":
                as_typed(walk, seen)
            if kind == "ranking":
                same_shares(walk, before, seen)
            if kind not in ("zoom", "step"):  # a part alone is drawn as high as the whole
                high = high or seen["high"]
                assert seen["high"] == high, "nothing jumps"
        except AssertionError as error:
            raise AssertionError(f"after {done[-6:]} from {before['told']['cut']}: {error}") from error
    assert len(set(done)) >= 12 and not page.problems


def as_typed(walk: Walk, seen: dict) -> None:
    """The field has what was typed, to the nearest blocks; what cannot be had is said."""
    layout, (cut, norms, _) = walk.run.layout, walk.cut(seen)
    typed, parts = float(walk.typed) / 100, by_scope(layout, cut.scope)
    key = None if cut.scope == "global" else seen["told"]["key"]
    zero = zero_share(norms, layout) if key is None else shares_up_to(
        norms, layout, dict.fromkeys(parts, 0.0), cut.scope)[key]
    mine = parts[key] if key else layout.matrices
    groups = [max(layout.group_size(m) for m in some) for some in ([parts[key]] if key else parts.values())]
    wanted = min(0.999, max(zero, typed))
    assert abs(float(seen["field"]) / 100 - wanted) <= sum(groups) / sum(m.m * m.n for m in mine) + 5e-5
    assert ("At most 99.9%" in seen["sum"]) == (typed > 0.999)
    assert ("zero already" in seen["sum"]) == (zero - 5e-5 > typed)


def same_shares(walk: Walk, before: dict, after: dict) -> None:
    """Another ranking cuts the same of every scope key, to a block; and back is where one was."""
    layout = walk.run.layout

    def shares(seen: dict) -> dict:
        cut, norms, _ = walk.cut(seen)
        return shares_up_to(norms, layout, cut.resolved(norms, layout), cut.scope)

    asked = walk.asked
    after_shares = shares(after)
    walk.asked = {"norm": "taylor", "taylor": "norm"}[asked]
    back = walk.seen()
    before_shares = shares(back)
    assert back["kept"] == before["kept"] and back["told"]["cut"] == before["told"]["cut"]
    walk.asked = asked
    assert walk.seen()["kept"] == after["kept"]
    for key, parts in by_scope(layout, before["told"]["cut"]["scope"]).items():
        group = max(layout.group_size(m) for m in parts) / sum(m.m * m.n for m in parts)
        assert abs(before_shares[key] - after_shares[key]) <= group + 1e-9
