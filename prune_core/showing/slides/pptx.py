"""The slides as PowerPoint: text as text, charts as pictures, notes with the rule and the source of each number."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.shapes import MSO_SHAPE
from pptx.enum.text import MSO_ANCHOR
from pptx.util import Inches, Pt

from prune_core.runs.run import Run
from prune_core.showing.report import chart
from prune_core.showing.report.finding import Finding, Request
from prune_core.showing.report.over import Over
from prune_core.showing.slides import pictures
from prune_core.showing.slides.story import Figure, Slide, story

WIDE, TALL, SIDE = 13.333, 7.5, 0.7  # inches
FONT, LEADING, ROOMY = "Arial", 1.22, 1.12  # lines a line takes; how much wider Arial is taken than Pillow's own font
GAP = 6.0  # points under each of several lines
COLOURS = {"ship": "00664F", "ship with care": "7A5200", "do not ship": "8A3A00"}
INK, QUIET, ACCENT, TINT = "1B2430", "59626F", "0063A3", "EEF5FB"
NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Box(NamedTuple):
    """Where something stands, in inches."""

    x: float
    y: float
    w: float
    h: float


def pptx(run: Run, findings: Sequence[Finding], request: Request, made: date, of: Over | None = None) -> bytes:
    """Raises InputError."""
    slides, said = story(run, findings, request, made, of)
    at = next((at for at, row in enumerate(said["rows"]) if row is said["best"]), 0)
    best, deck = findings[at], Presentation()
    deck.slide_width, deck.slide_height = Inches(WIDE), Inches(TALL)
    deck.core_properties.title, deck.core_properties.author = _clean(said["title"]), "Prunescope"
    for number, slide in enumerate(slides, 1):
        page = deck.slides.add_slide(deck.slide_layouts[5])  # "Title Only": a title that outlines and readers find
        _around(page, slide, f"{said['model']} on {said['of']} · {said['made']} · Prunescope", number, len(slides))
        box = Box(SIDE, 1.95, WIDE - 2 * SIDE, TALL - 1.95 - 0.75)
        if slide.kind == "map":
            _picture(page, pictures.blocks(best.run or run, best), "Block norms of all matrices",
                     box._replace(y=2.75, h=3.95))
            _text(page, slide.lines, box._replace(h=0.7), 16, QUIET)
        elif slide.kind == "trade":
            _picture(page, pictures.trade(chart.places(run, findings, at, of)), "Score over size, with the settings",
                     box._replace(w=6.6, h=3.4))
            _text(page, slide.lines, Box(SIDE, 5.5, 6.6, 0.8), 13, QUIET)
            _table(page, said, Box(7.5, 1.95, WIDE - SIDE - 7.5, 4.7))
        else:
            _words(page, slide, said["verdict"], box)
        page.notes_slide.notes_text_frame.text = _clean("\n".join(slide.notes))
    content = io.BytesIO()
    deck.save(content)
    return content.getvalue()


def _around(page: object, slide: Slide, footer: str, number: int, count: int) -> None:
    """Step, title and footer."""
    _text(page, [slide.step], Box(SIDE, 0.3, 8.0, 0.4), 15, ACCENT, bold=True)
    shape, box = page.shapes.title, Box(SIDE, 0.7, WIDE - 2 * SIDE, 1.2)
    if slide.kind == "recommendation":  # the word stands at its left
        box = Box(SIDE + 2.9, 0.7, WIDE - 2 * SIDE - 2.9, 1.2)
    _fill(shape, [slide.title], box, 30, INK, bold=True)
    _text(page, [footer], Box(SIDE, TALL - 0.55, 10.0, 0.35), 11, QUIET)
    _text(page, [f"{number} / {count}"], Box(WIDE - SIDE - 1.0, TALL - 0.55, 1.0, 0.35), 11, QUIET)


def _words(page: object, slide: Slide, verdict: str, box: Box) -> None:
    """Figures, lines, and the verdict where there is one."""
    tall = 1.5 if slide.figures else 0.0
    first = slide.kind == "recommendation"
    if first:
        badge = page.shapes.add_shape(MSO_SHAPE.ROUNDED_RECTANGLE, *map(Inches, Box(SIDE, 0.95, 2.7, 0.7)))
        badge.fill.solid()
        badge.fill.fore_color.rgb = RGBColor.from_string(COLOURS[verdict])
        badge.line.fill.background()
        _fill(badge, [verdict.upper()], Box(SIDE, 0.95, 2.7, 0.7), 18, "FFFFFF", bold=True)
    if slide.figures:
        _figures(page, slide.figures, box._replace(y=box.y if first else box.y + box.h - tall, h=tall))
    lines = box._replace(y=box.y + (tall + 0.2) * first, h=box.h - tall - 0.2 * bool(tall))
    _text(page, slide.lines, lines, 20, INK, bullets=slide.kind != "question")


def _figures(page: object, figures: Sequence[Figure], box: Box) -> None:
    """Cards side by side, each with a number in large type."""
    wide = (box.w - 0.2 * (len(figures) - 1)) / len(figures)
    for at, figure in enumerate(figures):
        card = Box(box.x + at * (wide + 0.2), box.y, wide, box.h)
        shape = page.shapes.add_shape(MSO_SHAPE.RECTANGLE, *map(Inches, card))
        shape.fill.solid()
        shape.fill.fore_color.rgb = RGBColor.from_string(TINT)
        shape.line.fill.background()
        shape.shadow.inherit = False
        frame = _frame(shape)
        for words, size, colour, bold in ((figure.label, 13, QUIET, False), (figure.value, 28, INK, True),
                                          (figure.under, 12, QUIET, False)):
            size = fitting([words], wide - 0.2, size * LEADING * (2 if size < 20 else 1) / 72, size)
            _run(frame, words, size, colour, bold)


def _table(page: object, said: dict, box: Box) -> None:
    """The settings, a row each, as text that can be edited."""
    heads = ("", "Setting", said["metric"].capitalize(), "Points", "MB", "Speedup")
    rows = [(row["letter"], "; ".join(filter(None, (row["cut"], row["by"], row["formats"]))),
             f"{row['score'].value:.3f}" + " predicted" * (not row["score"].exact) if row["score"] else "–",
             f"{100 * row['loss']:+.1f}".replace("-", "−") if row["score"] else "–", f"{row['mb']:.1f}",
             f"{row['speed'].value:.2f}x" if row["speed"] else "–") for row in said["rows"]]
    wide = (0.35, box.w - 0.35 - 0.95 - 0.75 - 0.65 - 0.95, 0.95, 0.75, 0.65, 0.95)
    size, heights = 12.5, [box.h + 1]
    while size > 8 and sum(heights) > box.h:
        size -= 0.5
        heights = [size * LEADING / 72 * max(map(lines_of, row, (w - 0.02 for w in wide), [size] * len(row))) + 0.14
                   for row in (heads, *rows)]
    table = page.shapes.add_table(len(rows) + 1, len(heads), *map(Inches, box._replace(h=sum(heights)))).table
    for column, width in zip(table.columns, wide, strict=True):
        column.width = Inches(width)
    for at, (cells, height) in enumerate(zip([heads, *rows], heights, strict=True)):
        table.rows[at].height = Inches(height)  # no row is higher than its text: then it would move the next
        for cell, words in zip(table.rows[at].cells, cells, strict=True):
            cell.margin_left = cell.margin_right = Inches(0.06)
            cell.margin_top = cell.margin_bottom = Inches(0.04)
            _run(cell.text_frame, words, size, "FFFFFF" if at == 0 else INK, at == 0)


def _picture(page: object, picture: bytes, alt: str, box: Box) -> None:
    """As large as it fits, in the middle of the box."""
    wide, tall = pictures.size(picture)
    scale = min(box.w / wide, box.h / tall)
    w, h = wide * scale, tall * scale
    shape = page.shapes.add_picture(io.BytesIO(picture), *map(Inches, (box.x + (box.w - w) / 2, box.y, w, h)))
    shape._element.nvPicPr.cNvPr.set("descr", alt)


def _text(page: object, lines: Sequence[str], box: Box, size: float, colour: str, bold: bool = False,
          bullets: bool = False) -> None:
    _fill(page.shapes.add_textbox(*map(Inches, box)), lines, box, size, colour, bold, bullets)


def _fill(shape: object, lines: Sequence[str], box: Box, size: float, colour: str, bold: bool = False,
          bullets: bool = False) -> None:
    """Lines of text in a shape, in type as large as fits, at most `size` points."""
    shape.left, shape.top, shape.width, shape.height = map(Inches, box)
    frame, lines = _frame(shape), [f"•  {line}" if bullets else line for line in lines]
    gap = GAP if bullets else 0.0
    size = fitting(lines, box.w, box.h - len(lines) * gap / 72, size)
    for line in lines:
        _run(frame, line, size, colour, bold, gap)


def _frame(shape: object) -> object:
    """Its text frame, empty, without margins, from the top."""
    frame = shape.text_frame
    frame.word_wrap, frame.vertical_anchor = True, MSO_ANCHOR.TOP
    frame.margin_left = frame.margin_right = Inches(0.08)
    frame.margin_top = frame.margin_bottom = 0
    return frame


def _run(frame: object, words: str, size: float, colour: str, bold: bool, gap: float = 0.0) -> None:
    """One more paragraph."""
    first = frame.paragraphs[0]
    paragraph = first if not first.runs and len(frame.paragraphs) == 1 else frame.add_paragraph()
    paragraph.space_after = Pt(gap)
    run = paragraph.add_run()
    run.text, run.font.size, run.font.bold, run.font.name = _clean(words), Pt(size), bold, FONT
    run.font.color.rgb = RGBColor.from_string(colour)


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return NOT_XML.sub("", text)


# ---------------------------------------------------------------- how large text is, as no office program is asked


def fitting(lines: Sequence[str], wide: float, tall: float, size: float) -> float:
    """The largest type, in points, of at most `size`, in which these lines fit a box of so many inches; least 8."""
    while size > 8 and sum(lines_of(line, wide, size) for line in lines) * size * LEADING / 72 > tall:
        size -= 0.5
    return size


def lines_of(text: str, wide: float, size: float) -> int:
    """How many lines a text takes that wraps at spaces, in so many inches, margins among them."""
    measure, room = pictures.font(size / pictures.SCALE), 72 * (wide - 0.16)
    count, used = 1, 0.0
    for word in _clean(text).split(" "):
        width = ROOMY * measure.getlength(f"{word} ")
        if used and used + width > room:
            count, used = count + 1, 0.0
        used += width
        while used > room:  # a word that is longer than the line is broken
            count, used = count + 1, used - room
    return count
