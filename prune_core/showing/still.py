"""The map as a still picture: what a saved notebook keeps where nothing runs."""

from __future__ import annotations

import base64
import io

import numpy as np

from prune_core.latency.strips import layers_of
from prune_core.showing import figures
from prune_core.showing.in_view import InView

WIDE, HIGH, GAP, LEFT, TOP = 104, 40, 6, 34, 52  # pixels: of a matrix, between them, and for words
VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
WIDGET = "application/vnd.jupyter.widget-view+json"
INK, PAPER, CUT = (27, 36, 48), (255, 255, 255), (220, 215, 240)


def bundle(view: InView, high: float, words: str, model: str) -> dict:
    """What a cell keeps of a widget's `model`: the widget, and beside it the picture for where none runs."""
    return {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": model}, "image/png": png(view, high, words),
            "text/plain": words}


def png(view: InView, high: float, words: str) -> str:
    """A picture of every matrix, a row for each layer, under these `words`. Cut blocks are pale, as on the live map.

    As base64, as notebooks keep it; `high`: the top of the run's colour scale.
    """
    from PIL import Image, ImageDraw, ImageFont

    layers = layers_of(view.run.layout)
    columns = max(map(len, layers))
    size = LEFT + columns * (WIDE + GAP), TOP + len(layers) * (HIGH + GAP) + GAP
    picture, shades = Image.new("RGB", size, PAPER), _shades()
    top = view.scale(high)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    draw.text((GAP, GAP), words, INK, font)
    for row, parts in enumerate(layers):
        y = TOP + row * (HIGH + GAP)
        draw.text((GAP, y + HIGH // 3), str(row), INK, font)
        for column, matrix in enumerate(parts.values()):
            x = LEFT + column * (WIDE + GAP)
            if not row:
                draw.text((x, TOP - 18), matrix.type.replace("attention.", "att. "), INK, ImageFont.load_default(11))
            codes = figures.raster(view.norms[matrix.name], view.mask.kept[matrix.name], top, HIGH, WIDE)
            picture.paste(Image.fromarray(shades[codes]), (x, y))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def _shades() -> np.ndarray:
    """(256, 3) uint8: the colour of each of figures.codes."""
    stops = np.array([tuple(bytes.fromhex(one)) for one in VIRIDIS], float)
    place = np.clip((np.arange(256) - figures.LOWEST) / (figures.HIGHEST - figures.LOWEST), 0, 1) * (len(stops) - 1)
    shades = np.stack([np.interp(place, np.arange(len(stops)), stops[:, c]) for c in range(3)], axis=1)
    shades[figures.CUT] = CUT
    return np.rint(shades).astype(np.uint8)
