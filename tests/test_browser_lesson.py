"""Learn before a room, and the lesson for a class, in a real browser: keys, what is in view, no faults."""

from __future__ import annotations

import pytest
from browsing import CHROMIUM, PATIENCE, chromium, playwright, served
from stress.load_lesson import lesson

from prune_core.showing.course import STEPS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with served(tmp_path_factory.mktemp("lesson") / "runs") as address:
        yield address


@pytest.fixture(scope="module")
def room():
    """`prunescope lesson`, as a class has it."""
    with lesson() as address:
        yield f"http://{address}"


def opened(browser, address: str, wide: int = 1280, tall: int = 720, scheme: str = "light"):
    """A page in a profile of its own; `problems` collects its errors."""
    context = browser.new_context(viewport={"width": wide, "height": tall}, color_scheme=scheme)
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(address)
    return page


def shown(page, name: str) -> None:
    playwright.expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    if "present=true" in page.url:
        page.wait_for_selector("[data-steps]", state="attached")  # its keys are heard
    page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget], [data-stale=true]')")


def test_keys_walk_through_the_lesson_and_esc_leaves(browser, app):
    page = opened(browser, f"{app}/Learn")
    page.get_by_text("Presentation", exact=True).click()
    page.wait_for_url("**present=true*")
    shown(page, STEPS[0].name)
    for key, name in (("ArrowRight", STEPS[1]), ("PageDown", STEPS[2]), ("PageUp", STEPS[1]), ("Space", STEPS[2])):
        page.keyboard.press(key)
        shown(page, name.name)
    slider = page.get_by_role("slider").first  # keeps its keys while it has the focus
    slider.focus()
    before = slider.get_attribute("aria-valuenow")
    page.keyboard.press("ArrowRight")
    playwright.expect(slider).not_to_have_attribute("aria-valuenow", before)
    shown(page, STEPS[2].name)
    page.mouse.click(640, 700)
    page.keyboard.press("Shift+Space")
    shown(page, STEPS[1].name)
    page.keyboard.press("Escape")
    playwright.expect(page.get_by_role("heading", name="Learn block pruning")).to_be_visible()
    playwright.expect(page.get_by_test_id("stSidebar")).to_be_visible()
    assert "present=true" not in page.url and not page.problems


@pytest.mark.parametrize("wide, tall", [(1280, 720), (1920, 1080)])
def test_the_picture_of_every_step_is_in_view_before_a_room(browser, room, wide, tall):
    page = opened(browser, f"{room}/?present=true", wide, tall)
    for step in STEPS:
        shown(page, step.name)
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.wait_for_timeout(500)  # the chart takes its place's height
        chart = page.locator("[data-testid=stPlotlyChart]").first.bounding_box()
        assert chart["y"] + chart["height"] <= tall and chart["height"] > 0.4 * tall, step.name
        type_ = page.evaluate("parseFloat(getComputedStyle(document.querySelector('[data-testid=stMain] p')).fontSize)")
        assert type_ >= 0.014 * wide and page.evaluate("document.documentElement.scrollWidth") <= wide
        page.keyboard.press("PageDown")
    assert not page.problems


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_fault_in_a_lesson(browser, app, room, scheme):
    from axe_playwright_python.sync_playwright import Axe

    for address, name in ((f"{app}/Learn?present=true&step=2.+The+penalty", "2. The penalty"),
                          (f"{room}/?step=3.+Reweighting", "3. Reweighting"),
                          (f"{room}/?present=true&step=8.+Fewer+bits", "8. Fewer bits")):
        page = opened(browser, address, 1440, 1000, scheme)
        shown(page, name)
        for wide in (1440, 800):
            page.set_viewport_size({"width": wide, "height": 1000})
            page.locator("summary").last.click()  # the words unfold, and fold
            page.wait_for_timeout(1500)  # what is computed anew turns pale for a second
            faults = [f"{wide} {name}: {fault['id']}: {fault['nodes'][0]['html'][:200]}"
                      for fault in Axe().run(page).response["violations"] if fault["impact"] in ("serious", "critical")]
            assert not faults and not page.problems
        page.context.close()


def test_a_class_is_shown_no_other_page(browser, room):
    for path in ("Explore", "5_Learn"):
        page = opened(browser, f"{room}/{path}")
        shown(page, STEPS[0].name)
        assert page.get_by_test_id("stPageLink").count() == 0 and page.get_by_test_id("stSidebar").count() == 0
        page.context.close()


@pytest.mark.parametrize("teacher", [False, True])
def test_the_sheets_open_without_a_connection_and_without_fault(browser, tmp_path, teacher):
    from datetime import date

    from axe_playwright_python.sync_playwright import Axe

    from prune_core.showing import exercises, handout

    made = (handout.teacher if teacher else handout.students)(exercises.Known(exercises.recorded()), date.today())
    (tmp_path / "sheet.html").write_text(made, encoding="utf-8")
    page = opened(browser, f"file://{tmp_path}/sheet.html", 800, 1000)
    faults = [f"{fault['id']}: {fault['nodes'][0]['html'][:200]}" for fault in Axe().run(page).response["violations"]
              if fault["impact"] in ("serious", "critical")]
    assert not faults and not page.problems
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    page.emulate_media(media="print")
    cut = page.evaluate("[...document.querySelectorAll('.page, .step')]"
                        ".filter((part) => part.scrollHeight > part.clientHeight + 1).length")
    assert cut == 0  # nothing of a page is lost below its edge
