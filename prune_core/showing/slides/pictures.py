"""Pictures for slides that cannot draw for themselves, as PNG: the trade, and the map. No browser is needed."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from prune_core.cutting.masks import norm_scale
from prune_core.runs.run import Run
from prune_core.showing.report.chart import BOTTOM, LEFT
from prune_core.showing.report.finding import Finding

SCALE = 3  # pixels for each unit of the chart
INK, QUIET, LINE, MARK, BLUE, DOT = "#1b2430", "#59626f", "#e6e9ee", "#b3521b", "#2e86c8", "#8a94a3"
CUT = (220, 215, 240)
VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")


def trade(chart: Mapping) -> bytes:
    """The report's chart (chart.py), drawn."""
    picture = Image.new("RGB", (SCALE * chart["wide"], SCALE * chart["tall"]), "white")
    draw, small = ImageDraw.Draw(picture, "RGBA"), font(12)
    right, floor = chart["wide"] - 16, chart["floor"]

    def line(x0: float, y0: float, x1: float, y1: float, colour: str, dash: float = 0.0) -> None:
        count = max(1, int(np.hypot(x1 - x0, y1 - y0) // (2 * dash))) if dash else 1
        for part in range(count):
            ends = [part / count, (part + (0.5 if dash else 1)) / count]
            draw.line([(SCALE * (x0 + (x1 - x0) * t), SCALE * (y0 + (y1 - y0) * t)) for t in ends], colour, SCALE)

    def text(x: float, y: float, words: str, anchor: str, colour: str = QUIET, of: object = small) -> None:
        draw.text((SCALE * x, SCALE * y), words, colour, of, anchor)

    for words, x in chart["x"]:
        line(x, 10, x, floor, LINE)
        text(x, floor + 5, words, "ma")
    for words, y in chart["y"]:
        line(LEFT, y, right, y, LINE)
        text(LEFT - 7, y, words, "rm")
    text((LEFT + chart["wide"]) / 2, chart["tall"] - BOTTOM / 2, chart["axis"], "ma")
    if chart["line"]:
        draw.polygon(_places(chart["band"]), (46, 134, 200, 40))
        draw.line(_places(chart["line"]), BLUE, 2 * SCALE)
    for y, words in ((chart["dense_y"], "dense"), (chart["majority_y"], "always the most frequent answer")):
        if y is not None:
            line(LEFT, y, right, y, INK, 4.0)
            text(right - 2, y - 3, words, "rd")
    for x, y in chart["others"]:
        _disc(draw, x, y, 4, DOT, DOT)
    for mark in chart["marks"]:
        if mark["low"] is not None:
            line(mark["x"], mark["low"], mark["x"], mark["high"], MARK)
        _disc(draw, mark["x"], mark["y"], 9, MARK if mark["exact"] else "white", MARK)
        text(mark["x"], mark["y"], mark["letter"], "mm", "white" if mark["exact"] else MARK, font(11))
    return _png(picture)


def blocks(run: Run, finding: Finding, wide: int = 1680) -> bytes:
    """Every block of every matrix in the colour of its norm, or in that of what is cut: layers down, types across."""
    norms, kept = finding.setting.ranking(run), finding.mask.kept
    layers = sorted({m.layer for m in run.layout.matrices})
    types = list(dict.fromkeys(m.type for m in run.layout.matrices))
    aside, top, between = 120, 44, 14
    cell = (wide - aside) // len(types) - between
    high = max(6, min(110, 560 // len(layers)))
    picture = Image.new("RGB", (wide, top + len(layers) * (high + between // 2)), "white")
    draw, named = ImageDraw.Draw(picture), font(8)
    colours, scale = _palette(), 255 / (norm_scale([norms]) or 1.0)
    for m in run.layout.matrices:
        shades = colours[np.minimum(255, norms[m.name] * scale).astype(np.uint8)]
        shades = np.where(kept[m.name][..., None], shades, np.array(CUT)).astype(np.uint8)
        x, y = aside + types.index(m.type) * (cell + between), top + layers.index(m.layer) * (high + between // 2)
        picture.paste(Image.fromarray(shades).resize((cell, high), Image.Resampling.NEAREST), (x, y))
    for at, kind in enumerate(types):
        draw.text((aside + at * (cell + between) + cell / 2, top - 8), kind, QUIET, named, "md")
    for at, layer in enumerate(layers if high > 20 else ()):
        draw.text((0, top + at * (high + between // 2) + high / 2), f"layer {layer}", QUIET, named, "lm")
    return _png(picture)


def font(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own, alike on every machine, in units of the chart."""
    return ImageFont.load_default(SCALE * size)


def size(picture: bytes) -> tuple[int, int]:
    """(wide, tall) in pixels."""
    return Image.open(io.BytesIO(picture)).size


def _palette() -> np.ndarray:
    """(256, 3): viridis, as on the live map."""
    stops = np.array([[int(one[at:at + 2], 16) for at in (1, 3, 5)] for one in VIRIDIS], float)
    places = np.linspace(0, len(stops) - 1, 256)
    return np.stack([np.interp(places, np.arange(len(stops)), stops[:, c]) for c in range(3)], 1).round()


def _places(text: str) -> list[tuple[float, float]]:
    """'x,y x,y' of an SVG, in pixels."""
    return [tuple(SCALE * float(part) for part in place.split(",")) for place in text.split()]


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: str, edge: str) -> None:
    box = [SCALE * (x - radius), SCALE * (y - radius), SCALE * (x + radius), SCALE * (y + radius)]
    draw.ellipse(box, fill, edge, 2 * SCALE)


def _png(picture: Image.Image) -> bytes:
    made = io.BytesIO()
    picture.save(made, "PNG", optimize=True)
    return made.getvalue()
