"""Explore's second control in a real browser: bits, bytes at once, the exact score, undo, pins, links, keys."""

from __future__ import annotations

import os
import re
import shutil

import pytest
import tiny
from browsing import CHROMIUM, chromium, playwright, served
from sample_run import make_layout, make_profile, make_run
from test_browser import drag, opened, rested, shown, watched

from prune_core import files, machine
from prune_core.cutting.masks import mask_at
from prune_core.evaluation import exact
from prune_core.latency import profile_files
from prune_core.precision.formats import parse
from prune_core.precision.storage import storage
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
BYTES = "[data-number=encoderBytes] .value"


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("bits") / "runs"


@pytest.fixture(scope="module")
def app(runs_dir, tiny_model, tiny_data):
    """The address of the app, with a run of MiniLM's size, one that has weights, and a latency profile."""
    make_run(runs_dir, "recorded", layout=make_layout(6, 384, 1536, "64x1"))
    tiny.make_run(tiny.settings(tiny_model, tiny_data), runs_dir, "scored")
    built, cache = list(files.cache_folder().glob("*.so")), str(runs_dir.parent / "cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", cache)
        files.cache_folder().mkdir(parents=True)
        for kernels in built:  # those of this machine need no building again
            shutil.copy(kernels, files.cache_folder())
        profile_files.write(make_profile(), profile_files.own_file(machine.machine(), os.cpu_count() or 1))
        with served(runs_dir) as address:
            yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, color_scheme="light")
    yield watched(context)
    context.close()


def size(run: Run, thresholds, formats: str, scope: str = "global") -> str:
    """The encoder's bytes as the card says them, by prune_core."""
    mask = mask_at(run.norms(run.saved("dense")), run.layout, thresholds, scope)
    stored = storage(mask, parse(formats), run.embeddings).encoder.stored
    return f"{stored / 1e3:.1f} kB" if stored < 1e6 else f"{stored / 1e6:.1f} MB"


def choose(page, selector: str, value: str) -> None:
    page.locator(f".bits {selector}").select_option(value)


def expect(page, text: str, selector: str = BYTES) -> None:
    playwright.expect(page.locator(selector)).to_have_text(text)


def test_bits_change_the_bytes_at_once_and_undo_pins_and_links_have_them(app, page, runs_dir):
    run, at = Run(runs_dir / "recorded"), {"all": 0.5}
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global:0.5")
    expect(page, size(run, at, ""))
    seen = page.locator(".prunescope").evaluate("""root => { root.querySelector("[data-bits='8']").click();
        root.view.paint(); return root.querySelector("[data-number=encoderBytes] .value").textContent }""")
    assert seen == size(run, at, "8") != size(run, at, ""), "without a word from the server"
    playwright.expect(page).to_have_url(re.compile("formats=8(&|$)"))
    choose(page, ".pattern", "2:4")
    expect(page, size(run, at, "8/2:4"))
    playwright.expect(page.locator(".sum")).to_contain_text("the pattern leaves out")
    page.get_by_role("button", name="Undo").click()
    expect(page, size(run, at, "8"))
    page.get_by_role("button", name="Pin").click()
    playwright.expect(page.locator(".chip.chosen")).to_contain_text(f"8b, {size(run, at, '8')}")
    page.locator(".bits [data-bits='4']").click()
    choose(page, ".activations", "token")
    expect(page, size(run, at, "4;a8"))
    playwright.expect(page.locator("[data-number=encoderBytes] .against")).to_contain_text(f"A {size(run, at, '8')}, −")
    playwright.expect(page).to_have_url(re.compile("formats=4%3Ba8.*f%3D8"))
    address = page.url
    page.goto("about:blank")
    opened(page, address)
    expect(page, size(run, at, "4;a8"))
    playwright.expect(page.locator(".bits [data-bits='4']")).to_have_attribute("aria-checked", "true")
    page.get_by_role("button", name="Go to pinned setting A").click()
    expect(page, size(run, at, "8"))
    playwright.expect(page.locator(".bits .activations")).to_have_value("")
    page.get_by_role("button", name="Reset", exact=True).click()
    playwright.expect(page.locator(".bits [data-bits='32']")).to_have_attribute("aria-checked", "true")
    assert not page.problems


def test_a_part_gets_bits_of_its_own_by_a_click_in_the_map(app, page, runs_dir):
    run = Run(runs_dir / "recorded")
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global:0.5&formats=8")
    choose(page, ".bits-for", "layer")
    box = page.locator("canvas.map").bounding_box()
    page.mouse.click(box["x"] + 120, box["y"] + 52 + 28 + 75)  # the query of layer 1
    playwright.expect(page.locator(".bits .bits-key")).to_have_value("layer 1")
    page.locator(".bits [data-bits='4']").click()
    expect(page, size(run, {"all": 0.5}, "layer:8,4,8,8,8,8"))
    playwright.expect(page).to_have_url(re.compile("formats=layer%3A8%2C4%2C8%2C8%2C8%2C8"))
    drag(page, 0.4, 0.6)
    assert "formats=layer" in rested(page), "thresholds and bits are set apart from each other"
    page.mouse.click(box["x"] + 120, box["y"] + 52 + 28 + 75)
    playwright.expect(page.locator("select.zoom")).not_to_have_value("")
    choose(page, ".bits-for", "global")
    page.locator(".bits [data-bits='ternary']").click()
    playwright.expect(page).to_have_url(re.compile("formats=ternary"))
    assert not page.problems


def test_bits_are_chosen_with_the_keyboard_alone(app, page):
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    page.locator(".bits [data-bits='32']").focus()
    for key, chosen in (("ArrowRight", "16"), ("ArrowRight", "8"), ("ArrowLeft", "16"), ("End", "binary"),
                        ("Home", "32")):
        page.keyboard.press(key)
        button = page.locator(f".bits [data-bits='{chosen}']")
        playwright.expect(button).to_have_attribute("aria-checked", "true")
        playwright.expect(button).to_be_focused()
    page.keyboard.press("Tab")
    playwright.expect(page.locator(".bits .bits-more")).to_be_focused()
    rested(page)
    assert not page.problems


@pytest.mark.parametrize("text", ["8", "4"])
def test_the_exact_score_of_what_is_stored_in_few_bits_comes_by_itself(app, page, runs_dir, text):
    run = Run(runs_dir / "scored")
    opened(page, f"{app}/Explore?run=scored&at=dense&cut=global@0.4&formats={text}")
    card = page.locator("[data-number=score]")
    playwright.expect(card).to_have_attribute("data-how", "exact")
    said = re.compile(rf"Exact dev accuracy, in {text} bits \(post-training\)")
    playwright.expect(page.get_by_text(said)).to_be_visible()
    wanted = exact.evaluate(run, "dense", cut_of(run, 0.4, formats=text))["score"]
    assert shown(page)["score"] == f"{wanted:.3f}"
    playwright.expect(page.get_by_text("Rounded as it stands")).to_be_visible()
    page.get_by_role("button", name="Repair", exact=True).click()
    playwright.expect(page.get_by_text(re.compile(r"in \d bits \(post-training\), repaired"))).to_be_visible()
    playwright.expect(page.get_by_text("Rounded as it stands")).to_have_count(0)
    assert not page.problems


def test_repair_is_switched_on_with_the_first_bits_and_stays_as_a_hand_sets_it(app, page):
    opened(page, f"{app}/Explore?run=scored&at=dense&cut=global@0.4")
    page.locator(".bits [data-bits='4']").click()
    line = page.get_by_text("Repair was switched on: it makes up for rounding")
    playwright.expect(line).to_be_visible()
    playwright.expect(page.get_by_text(re.compile(r"in 4 bits \(post-training\), repaired"))).to_be_visible()
    playwright.expect(page).to_have_url(re.compile("repair=true"))
    page.get_by_text("Repair after cutting").click()
    playwright.expect(page.get_by_text("Rounded as it stands")).to_be_visible()
    page.locator(".bits [data-bits='8']").click()
    playwright.expect(page.get_by_text(re.compile(r"in 8 bits \(post-training\)"))).to_be_visible()
    playwright.expect(line).to_have_count(0)
    assert not page.problems
