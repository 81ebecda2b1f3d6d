"""Learn's eighth step: what a bit costs, the order of pruning and rounding, what an index costs, equal bytes.

Numbers, computed when they are asked for, by the quantizers and the storage that everything else uses; and their
charts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.cutting.masks import BYTES, BlockMask
from prune_core.precision import quantizers, storage
from prune_core.precision.formats import Format, Pattern
from prune_core.precision.storage import Parts
from prune_core.showing.figures import BLUE, GREEN, GREY, ORANGE, PINK, hover, with_legend

FORMAT_NAMES = ("8", "7", "6", "5", "4", "3", "2", "ternary", "binary")
MIXED = ("32", "16", "8", "4", "3", "2")
EXAMPLE_ROW = np.array([3, -1, 2, -5, 0.5, 0.5, 0.4, -0.6])
STRIPS, REAL = BlockShape.parse("64x1"), "bert.encoder.layer.0.attention.self.query"


@dataclass(frozen=True)
class Rounded:
    """A row (n,) in few bits. `levels`: the values that a weight can have, lowest first."""

    values: np.ndarray
    levels: np.ndarray
    scale: float
    error: float  # squared, as a share of the squared weights


def real_matrix(weights: Path, name: str = REAL) -> np.ndarray | None:
    """(m, n) of a recorded run's safetensors file in bf16; None where the file or the matrix is not there."""
    try:
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            about = json.loads(file.read(size))[f"{name}.weight"]
            start, end = about["data_offsets"]
            file.seek(8 + size + start)
            bits = np.frombuffer(file.read(end - start), "<u2")
    except (OSError, KeyError, ValueError):
        return None
    return (bits.astype(np.uint32) << 16).view(np.float32).reshape(about["shape"]) if about["dtype"] == "BF16" else None


def rounded(row: np.ndarray, name: str, least_squares: bool) -> Rounded:
    """A row (n,) in a format, its scale from the largest weight, or with the least squared error that was found.

    Of ternary and binary the second is their own rule: the mean magnitude of the weights that do not become zero.
    """
    weight, format = np.asarray(row, np.float64)[None], Format.parse(name)
    if not least_squares:
        scales = quantizers.full_scale(weight, format.top)
    elif format.kind == "levels" and format.bits >= 8:  # whose own rule is the largest weight
        scales = quantizers.interval(weight, format.top, quantizers.full_scale(weight, format.top))
    else:
        scales = quantizers.scales_for(weight, format)
    codes = (quantizers.codes_at(weight, scales, format.top) if format.kind == "ternary" and not least_squares
             else quantizers.round_to(weight, format, scales))
    values = (codes * scales[:, None])[0]
    levels = np.arange(-format.top, format.top + 1) * scales[0]
    return Rounded(values, levels[levels != 0] if format.kind == "binary" else levels, float(scales[0]),
                   float(((weight[0] - values) ** 2).sum() / (weight**2).sum()))


def rows_of(seed: int) -> np.ndarray:
    """(8,) a row for the experiment on the order: the example first, then random ones."""
    return EXAMPLE_ROW if seed == 0 else np.round(np.random.default_rng(seed).normal(size=8), 1)


def both_orders(row: np.ndarray, bits: int, pattern: Pattern, zero_is_a_level: bool) -> tuple[np.ndarray, np.ndarray]:
    """(pruned then rounded, rounded then pruned), each (n,).

    Zero is a level: scale by the largest weight, which a pattern always keeps. Not: levels evenly from the least to the
    largest weight, of which none need be zero.
    """
    if zero_is_a_level:
        first, step = 0.0, np.abs(row).max() / (2 ** (bits - 1) - 1)
    else:
        first, step = row.min(), (row.max() - row.min()) / (2**bits - 1)

    def round_all(weight: np.ndarray) -> np.ndarray:
        return first + step * np.rint((weight - first) / step) + 0.0  # no -0.0

    def prune(weight: np.ndarray) -> np.ndarray:
        sizes = np.abs(weight)[None].round(9)  # equal levels are equal
        return np.where(quantizers.keep_pattern(sizes, pattern)[0], weight, 0.0)

    return round_all(prune(row)), prune(round_all(row))


def stored(name: str, m: int = 384, n: int = 384, kept: np.ndarray | None = None) -> Parts:
    """Bytes of one matrix in a format such as '4/2:4'; `kept` (m / 64, n) of strips of 64, else nothing is cut."""
    block = BlockShape.parse("1x1") if kept is None else STRIPS
    matrix = Matrix("one", 0, "query", m, n)
    mask = BlockMask(Layout((matrix,), block, m * n), {"one": np.ones((m, n), bool) if kept is None else kept})
    return storage.parts(matrix, mask, Format.parse(name))


def removed(parts: Parts, index: bool) -> float:
    """Share of the fp32 bytes that is saved, counting values, and on request their index; scales come on top."""
    return 1 - (parts.values + parts.index * index) / parts.dense


@dataclass(frozen=True)
class Mixture:
    """A matrix in strips and a format that takes about the wanted bytes: what is cut, what it takes, what is lost."""

    format: str
    cut: float  # share of the strips
    bytes: int
    error: float  # squared, as a share of the squared weights


def at_equal_bytes(weight: np.ndarray, ratio: float, names: Sequence[str] = MIXED) -> list[Mixture]:
    """For each format the fewest strips of 64 cut, lowest norms first, with which (m, n) weights take dense / `ratio`.

    Bytes count index and scales; nothing is repaired. A format that nothing is left of is not among them.
    """
    norms, found = STRIPS.norms(weight), []
    order = np.argsort(norms, axis=None, kind="stable")

    def kept_at(gone: int) -> np.ndarray:
        kept = np.ones(norms.size, bool)
        kept[order[:gone]] = False
        return kept.reshape(norms.shape)

    for name in names:
        low, high = 0, norms.size  # the bytes fall as more is cut, but for a step of the index
        while low < high:
            middle = (low + high) // 2
            fits = stored(name, *weight.shape, kept_at(middle)).stored * ratio <= BYTES * weight.size
            low, high = (low, middle) if fits else (middle + 1, high)
        kept = kept_at(low)
        parts = stored(name, *weight.shape, kept)
        if parts.stored * ratio > BYTES * weight.size or not kept.any():
            continue
        rest = (weight * STRIPS.expand(kept, *weight.shape)).astype(np.float32)
        values = quantizers.quantize(rest, Format.parse(name), STRIPS.expand(kept, *weight.shape)).values
        found.append(Mixture(name, low / norms.size, parts.stored,
                             float(((weight - values) ** 2).sum() / (weight**2).sum())))
    return found


# ---------------------------------------------------------------- their charts


def staircase(row: np.ndarray, one: Rounded) -> go.Figure:
    """The weights of a row (n,), smallest first, and the level that each is rounded to."""
    order = np.argsort(row, kind="stable")
    xs = list(range(1, len(row) + 1))
    figure = go.Figure()
    if len(one.levels) <= 31:
        for level in one.levels:
            figure.add_hline(float(level), line=dict(color=GREY, width=0.6), layer="below")
    figure.add_trace(go.Scatter(
        x=xs, y=row[order], name="weight", mode="markers" if len(row) <= 60 else "lines",
        marker=dict(color=BLUE, size=9), line=dict(color=BLUE, width=3), hovertemplate=hover("%{y:.4f}", "weight")))
    figure.add_trace(go.Scatter(
        x=xs, y=one.values[order], name="rounded to a level", mode="lines",
        line=dict(color=ORANGE, width=3, shape="hvh"), hovertemplate=hover("%{y:.4f}", "rounded")))
    if len(one.levels) <= 31:
        figure.add_trace(go.Scatter(x=[None], y=[None], name="level", mode="lines", line=dict(color=GREY, width=1)))
    figure.update_xaxes(title_text="weights of the row, smallest first", showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="value", showgrid=False, zeroline=False)
    return with_legend(figure, 360)


def orders(row: np.ndarray, first: np.ndarray, second: np.ndarray) -> go.Figure:
    """A row (n,), and what both orders make of it: where they agree the marks lie on one another."""
    xs = list(range(1, len(row) + 1))
    figure = go.Figure(go.Bar(x=xs, y=row, name="weight", marker_color="rgba(138,143,152,0.45)",
                              hovertemplate=hover("%{y:.2f}", "weight")))
    for name, values, symbol, size, colour, edge in (("pruned, then rounded", first, "square", 12, BLUE, 0),
                                                     ("rounded, then pruned", second, "diamond-open", 19, ORANGE, 3)):
        figure.add_trace(go.Scatter(x=xs, y=values, name=name, mode="markers", hovertemplate=hover("%{y:.3f}", name),
                                    marker=dict(symbol=symbol, size=size, color=colour, line_width=edge)))
    figure.update_xaxes(title_text="place in the row", dtick=1, showgrid=False)
    figure.update_yaxes(title_text="value", zeroline=True, zerolinecolor=GREY)
    return with_legend(figure, 340)


def bits_of(parts: Parts) -> dict[str, float]:
    """What a weight of the matrix takes on average, in bits: for values, index, scales."""
    return {name: 8 * BYTES * size / parts.dense for name, size in
            (("values", parts.values), ("index", parts.index), ("scales", parts.scales))}


def stacked(rows: Mapping[str, Parts]) -> go.Figure:
    """Bits for each weight of the matrix, of values, index and scales, a bar for each name."""
    each = {name: bits_of(parts) for name, parts in rows.items()}
    figure = go.Figure([go.Bar(
        y=list(each), x=[one[part] for one in each.values()], name=part, orientation="h",
        marker=dict(color=colour, pattern=dict(shape=shape, fillmode="overlay")),
        hovertemplate=hover("%{x:.2f} bits", part))
        for part, colour, shape in (("values", BLUE, ""), ("index", ORANGE, "/"), ("scales", GREEN, "x"))])
    figure.update_xaxes(title_text="bits for each weight of the matrix; fp32 has 32", showgrid=False)
    figure.update_yaxes(autorange="reversed", type="category")
    return with_legend(figure, 110 + 34 * len(each), barmode="stack")


def equal_bytes(mixtures: Sequence[Mixture]) -> go.Figure:
    """The squared weights that each mixture loses, and how much of the strips it cuts."""
    figure = go.Figure(go.Bar(
        x=[one.error for one in mixtures], y=[Format.parse(one.format).words for one in mixtures], orientation="h",
        marker_color=PINK, text=[f"{one.error:.1%} lost, {one.cut:.0%} of the strips cut" for one in mixtures],
        textposition="outside", cliponaxis=False, hovertemplate=hover("%{x:.2%} of the squared weights", "%{y}")))
    figure.update_xaxes(title_text="share of the squared weights that is lost", tickformat=".0%",
                        range=[0, 1.5 * max((one.error for one in mixtures), default=1.0)])
    figure.update_yaxes(autorange="reversed", type="category")
    return with_legend(figure, 90 + 40 * len(mixtures)).update_layout(showlegend=False)
