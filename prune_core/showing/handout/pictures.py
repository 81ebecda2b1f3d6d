"""The lesson's pictures for paper, as SVG: read in black and white too, by dashes, hatching and names beside lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from prune_core.cutting.blocks import BlockShape

WIDE, TALL, LEFT, BOTTOM, RIGHT = 340, 170, 34, 28, 74  # a picture, and what its axes and names take of it
INK, QUIET, PALE = "#1b2430", "#59626f", "#e4e6ee"
COLOURS = ("#0063a3", "#b45f00", "#00755a", "#a03d77")  # dark enough for paper
DASHES = ("", "6 3", "2 3", "9 3 2 3")


def _svg(inside: Sequence[str], alt: str, tall: int = TALL) -> str:
    return (f'<svg viewBox="0 0 {WIDE} {tall}" role="img" aria-label="{escape(alt)}">' + "".join(inside) + "</svg>")


def _text(x: float, y: float, words: str, anchor: str = "start", size: float = 9.5, colour: str = QUIET,
          turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{turn}>'
            f"{escape(words)}</text>")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = QUIET, wide: float = 0.7, dash: str = "") -> str:
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{wide}" '
            f'stroke-dasharray="{dash}"/>')


def _round(low: float, high: float, most: int = 5) -> np.ndarray:
    """Round numbers from low to high, at most so many."""
    power = 10.0 ** np.floor(np.log10(high - low))
    steps = (power * share for share in (0.1, 0.2, 0.5, 1, 2))
    step = next(step for step in steps if np.floor(high / step + 1e-9) - np.ceil(low / step - 1e-9) < most)
    return step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) + 0.0  # no -0


def _bar(x: float, y: float, wide: float, tall: float, colour: str) -> str:
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(wide, 0):.1f}" height="{max(tall, 0):.1f}" fill="{colour}" '
            f'stroke="{INK}" stroke-width="0.4"/>')


def matrix(weight: np.ndarray, kept: np.ndarray, block: BlockShape, alt: str) -> str:
    """A matrix (m, n): the darker a weight, the larger; blocks not `kept` (groups down, across) are empty."""
    rows, cols = weight.shape
    size = min((WIDE - 4) / cols, (TALL - 4) / rows)
    shades = np.clip(np.abs(weight) / np.quantile(np.abs(weight), 0.98), 0.08, 1)
    there, parts = block.expand(kept, rows, cols), []
    for row, col in np.argwhere(there):
        light = round(225 - 195 * float(shades[row, col]))
        parts.append(f'<rect x="{2 + col * size:.1f}" y="{2 + row * size:.1f}" width="{size:.1f}" height="{size:.1f}" '
                     f'fill="rgb({light // 2},{round(light * 0.8)},{light})"/>')
    across = 2 + cols * size + 10
    for at, (colour, words) in enumerate((("rgb(15,24,30)", "large"), ("rgb(104,167,209)", "small"), ("#fff", "cut"))):
        parts += [_bar(across, 8 + 18 * at, 10, 10, colour), _text(across + 15, 17 + 18 * at, words)]
    tall, wide = block.sides(rows, cols)
    parts += [_line(2, 2 + row * size, 2 + cols * size, 2 + row * size) for row in range(0, rows + 1, tall)]
    parts += [_line(2 + col * size, 2, 2 + col * size, 2 + rows * size) for col in range(0, cols + 1, wide)]
    return _svg(parts, alt)


# long: two axes, then a line and a name for each series
def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], along: str, what: str, alt: str,
          level: tuple[str, float] | None = None, percent: bool = False) -> str:
    """name -> (xs, ys) as lines, each with its name at its end; `level`: (name, height) of a dotted line across."""
    xs, ys = (np.concatenate([np.asarray(pair[at], float) for pair in series.values()]) for at in (0, 1))
    heights = np.append(ys, level[1]) if level else ys
    low, high = (0.0 if heights.min() >= 0 and heights.min() < 0.5 * heights.max() else heights.min(), heights.max())
    low, high = (low - (0.06 * (high - low) if low else 0), high + 0.06 * ((high - low) or 1))
    right, floor = WIDE - RIGHT, TALL - BOTTOM

    def x(value: float) -> float:
        return LEFT + (right - LEFT) * (value - xs.min()) / ((xs.max() - xs.min()) or 1)

    def y(value: float) -> float:
        return floor - (floor - 8) * (value - low) / (high - low)

    parts = [_line(LEFT, floor, right, floor), _line(LEFT, 8, LEFT, floor)]
    for tick in _round(xs.min(), xs.max()):
        parts.append(_text(x(tick), floor + 11, f"{tick:.0%}" if percent else f"{tick:.3g}", "middle"))
    for tick in _round(low, high):
        parts += [_line(LEFT, y(tick), right, y(tick), PALE), _text(LEFT - 4, y(tick) + 3, f"{tick:.2g}", "end")]
    parts += [_text((LEFT + right) / 2, TALL - 4, along, "middle"), _text(8, floor / 2, what, "middle", turned=True)]
    ends = []
    if level:
        parts.append(_line(LEFT, y(level[1]), right, y(level[1]), INK, 1, "1 3"))
        ends.append((y(level[1]), level[0], INK))
    for (name, (across, up)), colour, dash in zip(series.items(), COLOURS, DASHES, strict=False):
        places = " ".join(f"{x(one):.1f},{y(other):.1f}" for one, other in zip(across, up, strict=True))
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2" '
                     f'stroke-dasharray="{dash}"/>')
        ends.append((y(up[-1]), name, colour))
    return _svg(parts + _named(ends, right + 4), alt)


def _named(ends: Sequence[tuple[float, str, str]], x: float, apart: float = 10.5) -> list[str]:
    """(height, name, colour) of each line's end: its name beside it, in two rows where it is long; none on another."""
    told, last = [], -99.0
    for height, name, colour in sorted(ends):
        words = name.split("|")
        last = max(height + 3 - apart * (len(words) - 1) / 2, last + apart)
        for at, part in enumerate(words):
            told.append(_text(x, last + at * apart, part, size=9, colour=colour))
        last += apart * (len(words) - 1)
    over = max(0.0, last - (TALL - 4))
    return [f'<g transform="translate(0 {-over:.1f})">', *told, "</g>"]


def bars(series: Mapping[str, Sequence[float]], along: str, what: str, alt: str) -> str:
    """name -> heights, side by side."""
    floor, count, high = TALL - BOTTOM, len(next(iter(series.values()))), max(map(max, series.values()))
    each = (WIDE - LEFT - 6) / count
    wide, parts = each * 0.8 / len(series), [_line(LEFT, floor, WIDE - 4, floor)]
    for at, ((name, heights), colour) in enumerate(zip(series.items(), ("#b9bec8", *COLOURS[1::-1]), strict=False)):
        for place, height in enumerate(heights):
            tall = (floor - 24) * height / high
            parts.append(_bar(LEFT + place * each + at * wide, floor - tall, wide, tall, colour))
        parts += [_bar(WIDE - 206 + 66 * at, 4, 8, 8, colour), _text(WIDE - 195 + 66 * at, 11.5, name)]
    parts += [_text(LEFT + (place + 0.4) * each, floor + 11, str(place + 1), "middle") for place in range(count)]
    parts += [_text(LEFT - 4, floor - (floor - 24) * share + 3, f"{high * share:.2g}", "end") for share in (0, 0.5, 1)]
    return _svg([*parts, _text((LEFT + WIDE) / 2, TALL - 4, along, "middle"),
                 _text(9, floor / 2, what, "middle", turned=True)], alt)


def rows(values: Mapping[str, float], along: str, alt: str, level: float | None = None) -> str:
    """name -> length, one bar under the other, each with its number; `level`: a dashed line."""
    left, high = 84, max(values.values())
    each, line = (TALL - BOTTOM - 6) / len(values), left + (WIDE - left - 40) * (level or 0) / high
    parts = []
    for at, (name, value) in enumerate(values.items()):
        wide = (WIDE - left - 40) * value / high
        parts += [_bar(left, 4 + at * each, wide, each * 0.7, COLOURS[0] if at else "#b9bec8"),
                  _text(left - 4, 4 + at * each + each * 0.45, name, "end"),
                  _text(max(left + wide, line) + 4, 4 + at * each + each * 0.45, f"{value:.2f}x", colour=INK)]
    if level is not None:
        parts.append(_line(line, 0, line, TALL - BOTTOM, INK, 1, "4 3"))
    return _svg([*parts, _text((left + WIDE) / 2, TALL - 8, along, "middle")], alt)


def stairs(row: np.ndarray, rounded: np.ndarray, levels: np.ndarray, alt: str) -> str:
    """The weights of a row (n,), smallest first, and the level that each is rounded to."""
    order = np.argsort(row, kind="stable")
    low, high, floor = float(row.min()), float(row.max()), TALL - BOTTOM

    def places(values: np.ndarray) -> str:
        xs = LEFT + (WIDE - RIGHT - LEFT) * np.arange(len(values)) / (len(values) - 1)
        ys = floor - (floor - 8) * (values - low) / (high - low)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, np.clip(ys, 2, floor), strict=True))

    ends = [(float(floor - (floor - 8) * (values[order][-1] - low) / (high - low)), name, colour)
            for values, name, colour in ((row, "weight", COLOURS[0]), (rounded, "rounded", COLOURS[1]))]
    heights = [floor - (floor - 8) * (level - low) / (high - low) for level in levels if low <= level <= high]
    parts = [_line(LEFT, height, WIDE - RIGHT, height, PALE) for height in heights]
    parts += [f'<polyline points="{places(values[order])}" fill="none" stroke="{colour}" stroke-width="{wide}"/>'
              for values, colour, wide in ((row, COLOURS[0], 2.4), (rounded, COLOURS[1], 1.6))]
    parts += [_text(LEFT - 4, floor - (floor - 8) * share + 3, f"{low + (high - low) * share:.2g}", "end")
              for share in (0, 0.5, 1)]
    return _svg([*parts, *_named(ends, WIDE - RIGHT + 4),
                 _text((LEFT + WIDE - RIGHT) / 2, TALL - 10, "weights of a row, smallest first", "middle")], alt)
