"""Slides: six of them, offline, by keys, a page each on paper; in PowerPoint nothing off the slide or over another."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace
from datetime import date

import pytest
from browsing import CHROMIUM, chromium
from PIL import Image
from pptx import Presentation
from sample_run import make_layout, make_profile, make_run
from test_report import HOSTILE, hostile

from prune_core.latency.profile import Batch
from prune_core.runs import best
from prune_core.runs.run import Run
from prune_core.showing.report import over
from prune_core.showing.report.finding import Finding, ReportedScore, ReportedSpeed, Request
from prune_core.showing.slides import deck, pptx, story
from prune_core.showing.slides.pptx import LEADING, lines_of

DAY, EMU = date(2026, 11, 26), 914400
KINDS = ["question", "map", "trade", "recommendation", "risk", "next"]
LONG = Request("A title that is as long as it may be, which is very long " * 2, words="Much to say. " * 90,
               price="0.40 EUR")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Run]:
    """Two runs of a task, of MiniLM's size."""
    folder = tmp_path_factory.mktemp("runs")
    return [Run(make_run(folder, name, layout=make_layout(6, 384, 1536, "64x1"), compression=compression))
            for name, compression in (("smaller", 3.0), ("larger", 2.0))]


def found(runs: list[Run], scores=(0.895, 0.893), speeds=(2.9, 1.9)) -> tuple[over.Over, list[Finding]]:
    """What a report over these runs is over, and its findings, by the rule."""
    of = over.over(runs, 0.01)
    some = []
    for (run, setting), score, speed in zip(of.pairs, scores, speeds, strict=True):
        said = ReportedScore(score, score - 0.02, score + 0.02, 872, True)
        fast = ReportedSpeed(speed, Batch(), 2, "a processor", 100.0, 100.0 / speed)
        some.append(Finding(setting, setting.mask(run), said, fast, None, "no weights", 20_000_000, run))
    return of, over.ordered(some, 0.01)[0]


def test_the_story_says_the_reports_numbers_and_what_follows_from_the_verdict(runs):
    of, some = found(runs)
    slides, said = story.story(some[0].run, some, Request(price="0.40 EUR"), DAY, of)
    assert [slide.kind for slide in slides] == KINDS and all(slide.notes for slide in slides)
    assert said["verdict"] == "ship with care"
    words = {slide.kind: " ".join((slide.title, *slide.lines)) for slide in slides}
    values = [figure.value for slide in slides for figure in slide.figures]
    assert {"0.900", "0.895", "2.90x"} <= set(values)
    hours = 100 / 32 / 2.9 / 3.6
    assert f"{60 * hours:.0f} min" in words["recommendation"] and f"{0.4 * hours:.2f} EUR" in words["recommendation"]
    # 872 (0.02 / 0.005)^2 examples halve the interval to what is left of the point
    assert "about 14,000 labelled sentences" in words["next"]
    assert any(note.startswith("Rule: of all 2 results of 2 runs") for note in slides[3].notes)
    assert "best of 2 results" in words["risk"]
    _, worse = found(runs, (0.88, 0.87))
    slides, said = story.story(worse[0].run, worse, Request(), DAY, of)
    assert said["verdict"] == "do not ship" and "If 2 points may be lost" in " ".join(slides[5].lines)
    sure = [replace(one, score=ReportedScore(0.91, 0.905, 0.915, 9000, True)) for one in some]
    assert story.story(sure[0].run, sure, Request(), DAY, of)[1]["verdict"] == "ship"


@pytest.mark.parametrize("hard", [False, True])
def test_powerpoint_has_the_same_six_with_nothing_off_the_slide_or_over_another(runs, hard):
    of, some = found(runs)
    asked, of = (LONG, None) if hard else (Request(), of)
    some = hostile(runs[0]) if hard else some
    content = pptx.pptx(some[0].run or runs[0], some, asked, DAY, of)
    slides, _ = story.story(some[0].run or runs[0], some, asked, DAY, of)
    made = Presentation(io.BytesIO(content))
    assert len(made.slides) == 6
    for page, slide in zip(made.slides, slides, strict=True):
        assert page.shapes.title.text_frame.text == slide.title
        assert page.notes_slide.notes_text_frame.text.split("\n")[:len(slide.notes)] == list(slide.notes)
        boxes = []
        for shape in page.shapes:
            x, y, w, h = (value / EMU for value in (shape.left, shape.top, shape.width, shape.height))
            assert x >= 0 and y >= 0 and x + w <= 13.34 and y + h <= 7.51, (slide.kind, shape.name)
            boxes.append((x, y, x + w, y + h))
            if shape.has_text_frame:
                tall = sum(lines_of(run.text, w, run.font.size.pt) * run.font.size.pt * LEADING / 72
                           for line in shape.text_frame.paragraphs for run in line.runs)
                assert tall <= h + 0.02, (slide.kind, shape.text_frame.text[:60], tall, h)
        for one, other in itertools.combinations(boxes, 2):
            apart = (one[2] <= other[0] + 0.01 or other[2] <= one[0] + 0.01
                     or one[3] <= other[1] + 0.01 or other[3] <= one[1] + 0.01)
            assert apart, (slide.kind, one, other)
    pictures = [shape.image.blob for page in made.slides for shape in page.shapes if shape.shape_type == 13]
    assert len(pictures) == 2
    for picture in pictures:
        colours = Image.open(io.BytesIO(picture)).convert("RGB").getcolors(1 << 20)
        assert len(colours) > 20, "something is drawn"


def test_the_deck_is_one_file_without_commands_or_html_from_outside(runs):
    content = deck.html(runs[0], hostile(runs[0]), Request(title=HOSTILE[:120], words=HOSTILE), DAY)
    body = content.partition("<template id=")[0]
    assert "<script>alert" not in content and "<img" not in body and "prune_core" not in body
    assert not re.search(r"(src|href)=\"?https?:", content) and body.count('<section class="slide') == 6


pytestmark_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


# long: one browser for all that a deck does
@pytestmark_chromium
def test_the_deck_works_offline_by_keys_and_prints_a_slide_a_page(runs, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    of, some = found(runs)
    (tmp_path / "deck.html").write_text(deck.html(some[0].run, some, Request(), DAY, make_profile(), of), "utf-8")
    with chromium() as browser:
        page = browser.new_context(offline=True, viewport={"width": 1280, "height": 720}).new_page()
        said = []
        page.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{tmp_path}/deck.html")
        shown = page.locator(".slide.shown")
        for key, kind in (("ArrowRight", "map"), ("End", "next"), ("ArrowLeft", "risk"), ("Home", "question"),
                          (" ", "map")):
            page.keyboard.press(key)
            assert kind in shown.get_attribute("class").split() and shown.count() == 1, key
        before = page.locator("[data-number=sparsity] .value").inner_text()
        box = page.locator("canvas.histogram").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 40, steps=5)
        page.mouse.up()
        page.wait_for_timeout(100)
        assert page.locator("[data-number=sparsity] .value").inner_text() != before  # the map is alive
        page.keyboard.press("?")
        assert page.locator("dialog").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("dialog").is_visible()
        for number, width, height in ((2, 1280, 720), (3, 1920, 1080), (4, 800, 450), (5, 1280, 720)):
            page.set_viewport_size({"width": width, "height": height})
            page.evaluate(f"location.hash = '#{number}'")
            page.wait_for_timeout(150)
            over_ = page.evaluate("""() => { const slide = document.querySelector(".slide.shown"),
                foot = slide.querySelector("footer").getBoundingClientRect().top;
                return [...slide.querySelectorAll("li, td, #map, figcaption, .figures div")]
                  .filter((one) => one.getBoundingClientRect().bottom > foot + 1)
                  .map((one) => one.outerHTML.slice(0, 80)); }""")
            assert over_ == [], (number, width)
            faults = Axe().run(page).response["violations"]
            assert not [one["id"] for one in faults if one["impact"] in ("serious", "critical")], number
        printed = page.pdf(prefer_css_page_size=True)
        assert len(re.findall(rb"/Type\s*/Page[^s]", printed)) == 6
        assert said == []


def test_subjects_are_told_apart_and_the_rule_is_the_one_of_all_pages(runs):
    known = best.subjects(runs)
    assert {name: len(alike) for name, alike in known.items()} == {best.subject(runs[0]): 2}
    of = over.over(runs, 0.02)
    assert [result.stage for result in of.results] == [result.stage for result in best.ranked(best.of(runs), 0.02)]
    assert of.within == 2 and over.over(runs, 0.01).within == 0
