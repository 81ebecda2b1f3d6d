"""Presenting in a real browser: three pages on one screen, Esc, charts copied and, where that is refused, saved."""

from __future__ import annotations

import io

import pytest
from browsing import CHROMIUM, playwright
from PIL import Image
from test_browser import DRAWN, app, browser, page, profiles, runs_dir, still  # noqa: F401

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
ESSENTIALS = {"Explore?run=recorded&at=dense&present=true": ".prunescope canvas, .prunescope .card",
              "Compare?present=true": "[data-testid=stPlotlyChart], h3",
              "Speed?run=recorded&present=true": "[data-testid=stPlotlyChart], [data-testid=stMetric]"}


@pytest.mark.parametrize("path", ESSENTIALS)
def test_a_presented_page_fits_the_screen_and_ends_with_esc(app, page, path):  # noqa: F811
    for width, height in ((1280, 720), (1920, 1080)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{app}/{path}")
        if path.startswith("Explore"):
            page.wait_for_selector(DRAWN)
        else:
            page.wait_for_selector(".js-plotly-plot .main-svg")
        still(page)
        page.wait_for_timeout(500)
        lowest = max(box["y"] + box["height"] for one in page.locator(ESSENTIALS[path]).all()
                     if (box := one.bounding_box()))  # locators see into the map's shadow
        assert 200 < lowest <= height, (width, lowest)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    title = page.get_by_role("heading", level=1)
    assert "recorded" not in title.inner_text() and ("cut" in title.inner_text() or "saved" in title.inner_text())
    page.keyboard.press("Escape")
    playwright.expect(page.get_by_role("button", name="End presentation")).to_have_count(0)
    playwright.expect(page.get_by_test_id("stSidebar")).to_be_visible()
    assert not page.problems


def test_a_chart_is_copied_as_a_picture_and_as_numbers_else_saved(app, page):  # noqa: F811
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{app}/Speed?run=recorded")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    still(page)
    page.get_by_role("button", name="Copy numbers").first.click()
    playwright.expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("|  | compression of the encoder |")
    page.get_by_role("button", name="Copy picture").first.click()
    playwright.expect(page.get_by_text("Copied")).to_be_visible()
    picture = page.evaluate("""async () => { const [item] = await navigator.clipboard.read();
        return [...new Uint8Array(await (await item.getType("image/png")).arrayBuffer())]; }""")
    image = Image.open(io.BytesIO(bytes(picture))).convert("RGB")
    assert image.width > 600 and len(image.getcolors(1 << 22)) > 20, "a chart is drawn on it"
    page.evaluate("() => { navigator.clipboard.write = () => Promise.reject(new Error('refused')); }")
    with page.expect_download() as given:
        page.get_by_role("button", name="Copy picture").first.click()
    assert given.value.suggested_filename == "curve.png"
    playwright.expect(page.get_by_text("Saved as a file")).to_be_visible()
    assert not page.problems
