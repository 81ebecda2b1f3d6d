"""What one sees of Explore in a real browser: the score's card, controls that tell the truth, nothing that jumps."""

from __future__ import annotations

import re

import numpy as np
import pytest
from browsing import CHROMIUM, playwright, wait
from test_browser import DRAWN, app, browser, opened, page, profiles, rested, runs_dir, shown, still  # noqa: F401

from prune_core.cutting import cuts
from prune_core.cutting.masks import mask_at
from prune_core.runs.run import Run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
CARD = "[data-number=score]"


def tops(page) -> dict[str, float]:  # noqa: F811
    """Where the parts of the map stand on the page."""
    return {part: page.locator(f".prunescope {part}").bounding_box()["y"]
            for part in (".numbers", ".parts", ".controls", ".pin", ".histogram", ".map", ".player")}


def known(page) -> str:  # noqa: F811
    return page.locator(f"{CARD} .how").inner_text()


def test_the_score_turns_from_predicted_to_exact_in_place_and_back_with_the_hand(app, page):  # noqa: F811
    opened(page, f"{app}/Explore?run=scored&at=dense&cut=matrix%400.4")
    assert re.fullmatch(r"\S+ accuracy", page.locator(f"{CARD} .title").inner_text())
    before, first = tops(page), known(page)
    assert first in ("predicted", "recorded", "so far", "exact")
    playwright.expect(page.locator("text=/Exact dev accuracy .*examples/")).to_be_visible()
    playwright.expect(page.locator(f"{CARD} .how")).to_have_text("exact")
    assert tops(page) == before, "nothing jumps when it comes"
    said = page.locator("text=/Exact dev accuracy .*examples/").inner_text()
    value = page.locator(f"{CARD} .value").inner_text()
    assert abs(float(re.search(r"accuracy\s+([\d.]+)", said)[1].rstrip(".")) - float(value)) < 0.00051
    page.get_by_role("button", name="Pin").click()
    at_once = """(root) => { const press = (key) => root.querySelector('.handle').dispatchEvent(
        new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
      const how = () => (root.view.paint(), root.querySelector('[data-number=score] .how').textContent);
      press('PageUp');
      const moved = how();
      root.view.commit();
      root.querySelector('.undo').click();
      return [moved, how()]; }"""
    assert page.locator(".prunescope").evaluate(at_once) in (["predicted", "exact"], ["recorded", "exact"])
    assert page.locator(".chip").first.inner_text().endswith(value)


def test_an_uneven_cut_shows_no_score_of_another_cut(app, page):  # noqa: F811
    opened(page, f"{app}/Explore?run=scored&at=dense&cut=matrix%400.4")
    seen = page.locator(".prunescope").evaluate("""(root) => { const key = root.view.controls.at('.key');
        key.value = key.options[1].value;
        key.dispatchEvent(new Event('change'));
        root.view.typeShare(0.7);
        root.view.paint();
        return ['.value', '.words'].map((part) => root.querySelector('[data-number=score] ' + part).textContent); }""")
    assert seen == ["–", "no prediction for such a cut; the exact score comes when you rest"]
    playwright.expect(page.locator(f"{CARD} .how")).to_have_text("exact")
    assert not page.problems


def test_where_no_exact_score_can_come_the_nearest_recorded_one_is_named(app, page, runs_dir):  # noqa: F811
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global%400.37")
    points = Run(runs_dir / "recorded").snapshots[Run(runs_dir / "recorded").saved("dense")].surface
    near = min(points, key=lambda point: abs(point.sparsity - 0.37))
    playwright.expect(page.locator(f"{CARD} .words")).to_contain_text(
        f"recorded {near.score:.3f} at {near.sparsity:.1%}")
    page.locator("input.share").fill("35")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(f"{CARD} .how")).to_have_text("recorded")


def test_what_training_has_zeroed_is_a_part_of_its_own(app, page):  # noqa: F811
    opened(page, f"{app}/Explore?run=recorded&at=retrain-2x&cut=global%400.2")
    assert "cut=global%400.5" in rested(page), "the link has what is cut"
    assert page.locator(".sum").inner_text() == "50.0% already zero; your threshold adds nothing"
    assert page.locator("input.share").input_value() == "50.00" and shown(page)["sparsity"] == "50.0%"
    for _ in range(8):  # back to dense, as far as it goes: there the hand's own 20% holds again
        page.locator(".back").evaluate("(button) => button.click()")
    playwright.expect(page.locator(".when")).to_have_text("dense")
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text("20.0%")
    wait("the link follows", lambda: "at=dense&cut=global%400.2&" in f"{rested(page)}&")
    page.get_by_role("slider", name="Snapshot").focus()
    page.keyboard.press("End")
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text("50.0%")
    wait("the link follows", lambda: "cut=global%400.5&" in f"{rested(page)}&")
    for typed, comes, words in (("10", "50.00", "10.0% cannot be had"), ("100", "99.90", "At most 99.9% can be cut"),
                                ("75", "75.00", "50.0% already zero + 25.0% by your threshold = 75.0%, 25.0% kept")):
        page.locator("input.share").fill(typed)
        page.keyboard.press("Enter")
        playwright.expect(page.locator(".sum")).to_contain_text(words)
        assert page.locator("input.share").input_value() == comes
    page.get_by_role("button", name="Each layer").click()
    page.locator("select.key").select_option("layer 3")
    playwright.expect(page.locator("label", has=page.locator("input.share"))).to_contain_text("Sparsity of layer 3")


@pytest.mark.parametrize("page", [(1440, "light"), (800, "dark")], indirect=True)
def test_pins_have_their_place_and_nothing_jumps(app, page):  # noqa: F811
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global%400.3")
    still(page)
    before = tops(page)
    for share in range(31, 39):
        page.get_by_role("button", name="Pin", exact=True).click()
        page.locator("input.share").fill(str(share))
        page.keyboard.press("Enter")
    assert page.locator(".chip:not(.away)").count() == 8 and tops(page) == before
    playwright.expect(page.locator("[data-number=sparsity] .against")).to_contain_text("H 37.0%")
    page.get_by_role("button", name="Go to pinned setting C").click()
    playwright.expect(page.locator("[data-number=sparsity] .against")).to_contain_text("C 32.0%, +0.0")
    for scope in ("Each type", "Each matrix", "Each layer"):
        page.get_by_role("button", name=scope).click()
        assert tops(page) == before, scope
    inside = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert inside and not page.problems


@pytest.mark.parametrize("page", [(1440, "light"), (1440, "dark")], indirect=True)
def test_a_pressed_button_under_the_mouse_can_be_read(app, page):  # noqa: F811
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    for name in ("Whole encoder", "Each layer"):
        button = page.get_by_role("button", name=name)
        button.hover()
        page.wait_for_timeout(100)
        ink, paper = button.evaluate("(one) => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]")
        assert contrast(ink, paper) >= 4.5, (name, ink, paper)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours 'rgb(1, 2, 3)'."""
    def light(colour: str) -> float:
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_presentation_has_a_title_in_words_and_ends_with_esc(app, page):  # noqa: F811
    page.goto(f"{app}/Explore?run=recorded&at=dense&present=true")
    page.wait_for_selector(DRAWN)
    end = page.get_by_role("button", name="End presentation")
    assert end.bounding_box()["y"] < 120
    playwright.expect(page.get_by_role("heading", level=1)).to_have_text(
        "SST-2 accuracy when half of the encoder is cut")
    assert "python -m" not in page.get_by_test_id("stMain").inner_text()
    page.mouse.wheel(0, 600)
    assert end.bounding_box()["y"] < 120, "it stays in sight"
    still(page)
    page.keyboard.press("Escape")
    playwright.expect(page.get_by_test_id("stSidebar")).to_be_visible()
    playwright.expect(end).to_have_count(0)
    assert not page.problems


def test_the_link_of_what_is_in_view_is_copied(app, page):  # noqa: F811
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    page.locator("input.share").fill("42")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Copy link").click()
    playwright.expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert "cut=global%400.42" in page.evaluate("navigator.clipboard.readText()")


def test_a_walk_through_the_app_has_address_caption_and_cards_agree(app, page, runs_dir):  # noqa: F811
    run, random = Run(runs_dir / "recorded"), np.random.default_rng(5)
    opened(page, f"{app}/Explore?run=recorded&at=penalty-2x&cut=global%400.6")
    acts = {
        "forward": lambda: page.get_by_role("button", name="One snapshot on").click(),
        "back": lambda: page.get_by_role("button", name="One snapshot back").click(),
        "layer": lambda: page.get_by_role("button", name="Each layer").click(),
        "whole": lambda: page.get_by_role("button", name="Whole encoder").click(),
        "typed": lambda: (page.locator("input.share").fill(f"{random.uniform(5, 95):.1f}"),
                          page.keyboard.press("Enter")),
        "key": lambda: (page.locator(".handle").focus(), page.keyboard.press("PageUp")),
        "undo": lambda: page.get_by_role("button", name="Undo").click()}
    for name in "forward typed layer typed back back key undo forward whole key typed".split():
        if page.get_by_role("button", name={"forward": "One snapshot on"}.get(name, "Undo")).is_enabled():
            acts[name]()
        agree(page, run, name)


def agree(page, run: Run, after: str) -> None:  # noqa: F811
    """The address gives the mask whose sparsity the cards, the field and the caption say."""
    rested(page)

    def same() -> bool:
        said = dict(part.split("=") for part in page.url.partition("?")[2].split("&"))
        cut = cuts.parse(said["cut"].replace("%40", "@").replace("%3A", ":").replace("%2C", ","), run.layout)
        at = next(at for at in run.with_norms if run.snapshots[at].label == said["at"].replace("+", " "))
        norms = run.norms(at)
        mask = mask_at(norms, run.layout, cut.resolved(norms, run.layout), cut.scope)
        return (shown(page)["sparsity"] == f"{mask.sparsity:.1%}"
                and abs(float(page.locator("input.share").input_value()) - 100 * mask.sparsity) < 0.0051)

    wait(f"all agree after {after}", same)
