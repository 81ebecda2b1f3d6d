"""Pure functions: numbers -> plotly figures. Backgrounds are clear, text takes the page's colour: they suit any theme.

Norms are drawn on one perceptually uniform, colour-blind-safe scale (viridis), fixed over a run; what is
cut leaves that scale for a colour of its own. Maps are sent as uint8 codes, to keep pages small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, groupby
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from prune_core.cutting.answers import Sensitivity, SurfacePoint, predict
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask, Norms
from prune_core.runs.snapshots import Snapshot
from prune_core.showing.published import Published

# After Okabe and Ito: told apart by people with any colour vision; the blue is lighter than theirs, for black pages
BLUE, ORANGE, GREEN, PINK, GREY = "#2E86C8", "#E69F00", "#009E73", "#CC79A7", "#8a8f98"
RED = "#D55E00"
CUT_COLOUR = "rgba(140,130,190,0.26)"  # near the page, light or dark, as on the canvas: never the brightest thing
NOTHING, CUT, LOWEST, HIGHEST = 0, 24, 48, 255  # codes of a map: between panels, cut, norm 0, highest norm
CLEAR = "rgba(0,0,0,0)"
Pair = tuple[float, float]
PUBLISHED_SYMBOLS = ("circle-open", "square-open", "triangle-up-open", "cross-open", "hexagon-open",
                     "triangle-down-open", "pentagon-open")

# ---------------------------------------------------------------- maps


def codes(norms, kept, high: float) -> np.ndarray:
    """Norms and bool `kept`, both (a, b) -> uint8 codes (a, b): CUT, or LOWEST (norm 0) to HIGHEST (`high` or more)."""
    shades = LOWEST + np.clip(np.asarray(norms) / high, 0, 1) * (HIGHEST - LOWEST)
    return np.where(kept, np.rint(shades), CUT).astype(np.uint8)


def resample(values, rows: int, cols: int) -> np.ndarray:
    """(a, b) -> (rows, cols): the mean where several values share a cell, repeats where there are fewer."""
    values = np.asarray(values, np.float32)
    for axis, cells in ((0, rows), (1, cols)):
        size = values.shape[axis]
        starts = np.arange(cells) * size // cells
        if size > cells:
            counts = np.diff(np.append(starts, size))
            values = np.add.reduceat(values, starts, axis) / np.expand_dims(counts, 1 - axis)
        else:
            values = np.take(values, starts, axis)
    return values


def raster(norms, kept, high: float, rows: int, cols: int) -> np.ndarray:
    """(a, b) -> codes (rows, cols). A cell is CUT where most of its groups are, else the mean norm of its kept ones."""
    share = resample(kept, rows, cols)
    mean = resample(np.asarray(norms) * kept, rows, cols) / np.maximum(share, 1e-9)
    return codes(mean, share >= 0.5, high)


def _colour_scale() -> list:
    """Colours of the codes: clear, then the cut colour, then viridis."""
    at = [code / HIGHEST for code in (0, (NOTHING + CUT) / 2, (CUT + LOWEST) / 2, HIGHEST)]
    steps = np.linspace(0, 1, 16)
    shades = sample_colorscale("Viridis", list(steps))
    scale = [[at[0], CLEAR], [at[1], CLEAR], [at[1], CUT_COLOUR], [at[2], CUT_COLOUR]]
    places = at[2] + (at[3] - at[2]) * steps
    return scale + [[float(place), shade] for place, shade in zip(places, shades, strict=True)]


def _colour_axis(high: float) -> dict:
    """The colour axis of a map of codes, its bar labelled with norms."""
    shares = (0, 1 / 3, 2 / 3, 1)
    at = [CUT, *(LOWEST + share * (HIGHEST - LOWEST) for share in shares)]
    words = ["cut", "0", *(f"{share * high:.2g}" for share in shares[1:-1]), f"≥ {high:.2g}"]
    bar = dict(orientation="h", thickness=10, len=0.7, x=1, xanchor="right", yref="container", y=0, yanchor="bottom",
               ypad=4, tickangle=0, tickvals=at, ticktext=words, outlinewidth=0,
               title=dict(text="block norm", side="top", font=dict(size=12)))
    return dict(cmin=0, cmax=HIGHEST, colorscale=_colour_scale(), colorbar=bar)


def _clear(figure: go.Figure, height: int, **layout) -> go.Figure:
    """The figure with clear backgrounds, the given height and small margins."""
    margin = dict(l=10, r=10, t=30, b=10) | layout.pop("margin", {})
    return figure.update_layout(paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, height=height, margin=margin, **layout)


def encoder_map(norms: Norms, mask: BlockMask, high: float) -> go.Figure:
    """The whole encoder at a glance: layers down, matrix types across, each panel resampled, with what it has cut."""
    layout = mask.layout
    types = list(dict.fromkeys(m.type for m in layout.matrices))
    layers = sorted({m.layer for m in layout.matrices})
    rows, cols, between, aside = (24 if len(layers) <= 12 else 12), 96, 10, 5
    canvas = np.full((len(layers) * (rows + between), len(types) * (cols + aside) - aside), NOTHING, np.uint8)
    words: dict[str, list] = {"x": [], "y": [], "text": [], "hovertext": []}
    for m in layout.matrices:
        top, left = layers.index(m.layer) * (rows + between) + between, types.index(m.type) * (cols + aside)
        kept = mask.kept[m.name]
        canvas[top:top + rows, left:left + cols] = raster(norms[m.name], kept, high, rows, cols)
        words["x"].append(left - 0.5)
        words["y"].append(top - between / 2 - 0.5)
        words["text"].append(f"{mask.matrix_sparsity(m.name):.1%} cut")
        words["hovertext"].append(f"layer {m.layer} {m.type}: {int(kept.sum()):,} of {kept.size:,} kept")
    figure = go.Figure([
        go.Heatmap(z=canvas, coloraxis="coloraxis", hoverinfo="skip"),
        go.Scatter(**words, mode="text", textposition="middle right", textfont_size=11, hoverinfo="text",
                   cliponaxis=False),
    ])
    bare = dict(showgrid=False, zeroline=False, ticks="", showline=False)
    across = [left * (cols + aside) + cols / 2 for left in range(len(types))]
    down = [at * (rows + between) + between + rows / 2 for at in range(len(layers))]
    figure.update_xaxes(side="top", tickvals=across, ticktext=[_broken(t) for t in types], tickangle=0, **bare)
    figure.update_yaxes(autorange="reversed", tickvals=down, ticktext=[f"layer {layer} " for layer in layers], **bare)
    height = round(canvas.shape[0] * 1.9) + 120
    return _clear(figure, height, coloraxis=_colour_axis(high), showlegend=False, dragmode=False,
                  margin=dict(t=44, b=66))


def _broken(kind: str) -> str:
    return kind.replace(".", ".<br>")


# ---------------------------------------------------------------- curves


def with_legend(figure: go.Figure, height: int, **layout) -> go.Figure:
    """`_clear`, with the legend under the axis: at the top the toolbar would cover it, and its rows squeeze the chart.

    Each row that the legend is expected to take, in a chart of half the page's width, makes the figure higher.
    """
    names = [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]
    widest = 46 + 6.8 * max(map(len, names), default=0)
    rows = -(-len(names) // max(1, int(460 // widest)))
    legend = dict(orientation="h", x=0, xanchor="left", y=0, yref="container", yanchor="bottom", font_size=12)
    margin = dict(t=36, b=50 + 20 * rows) | layout.pop("margin", {})
    return _clear(figure, height + 20 * rows, legend=legend, showlegend=True, margin=margin, **layout)


def _nice(low: float, high: float) -> list[float]:
    """Four to nine round numbers from `low` to `high`, for the ticks of a compression or a speedup."""
    usual = [t for t in (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30) if low <= t <= high]
    if len(usual) >= 4:
        return usual
    for step in (1.0, 0.5, 0.25, 0.2, 0.1, 0.05, 0.02):
        ticks = [round(n * step, 2) for n in range(int(-(-low // step)), int(high // step) + 1)]
        if len(ticks) >= 4:
            return ticks
    return [round(low, 2), round(high, 2)]


def _xy(pairs: Sequence[Sequence[float]]) -> dict:
    """Where a trace goes: the first two numbers of each."""
    return dict(x=[pair[0] for pair in pairs], y=[pair[1] for pair in pairs])


def hover(form: str, beside: str) -> str:
    """What a trace says under the pointer, and `beside` it in a box of its own."""
    return f"{form}<extra>{beside}</extra>"


def score_curve(
    metric: str, *, surface: Sequence[SurfacePoint] = (), others: Mapping[str, Sequence[SurfacePoint]] | None = None,
    here: float | None = None, dense: float | None = None, majority: float | None = None,
    retrained: Mapping[str, Sequence[Pair]] | None = None, exact: Sequence[Pair] = (),
    pins: Mapping[str, Pair] | None = None, published: Sequence[Published] = (),
) -> go.Figure:
    """Dev score over encoder compression: the recorded surface with its 95% band, and marks on it.

    A Pair is (compression, score). `here`: the present sparsity; `others`: name -> a surface in other formats;
    `retrained`: run -> its points; `published`: of others, open marks, never joined with ours.
    """
    figure = go.Figure()
    points = sorted({p.sparsity: p for p in surface if p.sparsity < 1}.values(), key=lambda p: p.sparsity)
    _add_surfaces(figure, points, others or {})
    colours = (GREEN, ORANGE, PINK, BLUE, GREY) * 3
    for (name, pairs), colour in zip((retrained or {}).items(), colours, strict=False):
        figure.add_trace(go.Scatter(
            **_xy(pairs), mode="lines+markers", name=name, line=dict(color=colour, width=1, dash="dot"),
            marker=dict(symbol="star", size=12), hovertemplate=hover("%{x:.2f}x: %{y:.4f}", name)))
    if exact:
        figure.add_trace(go.Scatter(
            **_xy(exact), mode="markers", name="exact", marker=dict(symbol="diamond", size=11, color=PINK),
            hovertemplate=hover("%{x:.2f}x: %{y:.4f}", "exact")))
    shown = [point for point in published if point.score is not None]
    _add_published(figure, shown, lambda point: point.score)
    _add_pins(figure, pins or {}, "%{x:.2f}x: %{y:.3f}")
    present = points and here is not None and here < 1 and (1 / (1 - here), predict(points, here)[0])
    if present:
        _add_here(figure, present, hovertemplate=hover("%{x:.2f}x: %{y:.3f}", "predicted"))
    levels = {words: value for words, value in (("dense", dense), ("majority class", majority)) if value is not None}
    own = [(1 / (1 - p.sparsity), value) for p in points for value in (p.low, p.high)] + [
        *(pair for pairs in (retrained or {}).values() for pair in pairs), *exact, *(pins or {}).values(),
        *((1.0, value) for value in levels.values()), *([present] if present else [])]
    (low, high), heights = _view(figure, own, [(1 / (1 - p.removed), p.score) for p in shown])
    for (words, value), dash in zip(levels.items(), ("dash", "dot"), strict=False):
        add_level(figure, words, value, (low, high), dash)
    compression_axis(figure, low, high)
    score_axis(figure, metric)
    figure.update_yaxes(range=heights)
    return with_legend(figure, 390)


def _view(figure: go.Figure, own: Sequence[Pair], others: Sequence[Pair]) -> tuple[Pair, Pair]:
    """Where both axes begin and end: by `own` points; `others` stretch them a little, and are counted beyond that."""
    own = list(own) or list(others) or [(1.0, 0.0)]
    (left, right), (bottom, top) = ((min(pair[at] for pair in own), max(pair[at] for pair in own)) for at in (0, 1))
    reach = 0.4 * (top - bottom or 0.1)
    near = [(x, y) for x, y in others if left / 1.3 <= x <= 1.3 * right and bottom - reach <= y <= top + reach]
    if outside := len(others) - len(near):
        words = f"{outside} published point{'s lie' if outside > 1 else ' lies'} outside: double-click shows all"
        figure.add_annotation(text=words, xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom",
                              showarrow=False, font=dict(size=11, color=GREY))
    ys = [y for _, y in (*own, *near)]
    margin = 0.07 * (max(ys) - min(ys) or 0.1)
    left, right = spread_out([max(1.0, x) for x, _ in (*own, *near)], 1.06)
    return (left, max(right, 1.2)), (min(ys) - margin, max(ys) + margin)


def add_level(figure: go.Figure, words: str, value: float, ends: Pair, dash: str = "dash") -> None:
    """A grey line across, from end to end, with an entry in the legend."""
    figure.add_trace(go.Scatter(x=list(ends), y=[value, value], mode="lines", name=words,
                                line=dict(color=GREY, width=1.5, dash=dash), hovertemplate=hover("%{y:.3f}", words)))


def _add_surfaces(figure: go.Figure, points: Sequence[SurfacePoint],
                  others: Mapping[str, Sequence[SurfacePoint]]) -> None:
    """The surface of these points, if any, and thin grey lines, each with its own dashes, of those in other formats."""
    if points:
        _add_surface(figure, points)
    for (name, surface), dash in zip(others.items(), ("dash", "dot", "dashdot", "longdash") * 9, strict=False):
        known = sorted({p.sparsity: p for p in surface if p.sparsity < 1}.values(), key=lambda p: p.sparsity)
        figure.add_trace(go.Scatter(
            x=[1 / (1 - p.sparsity) for p in known], y=[p.score for p in known], mode="lines", name=name,
            line=dict(color=GREY, width=1.5, dash=dash), hovertemplate=hover("%{x:.2f}x: %{y:.3f}", name)))


def _add_surface(figure: go.Figure, points: Sequence[SurfacePoint]) -> None:
    """The recorded scores as a line with marks, after the band of their intervals."""
    xs = [1 / (1 - p.sparsity) for p in points]
    figure.add_trace(go.Scatter(
        x=[*xs, *xs[::-1]], y=[p.high for p in points] + [p.low for p in points][::-1], fill="toself", mode="lines",
        line_width=0, fillcolor="rgba(46,134,200,0.25)", name="95% interval", hoverinfo="skip"))
    figure.add_trace(go.Scatter(
        x=xs, y=[p.score for p in points], mode="lines+markers", name="recorded scores", marker_size=5,
        line=dict(color=BLUE, width=2), hovertemplate=hover("%{x:.2f}x: %{y:.3f}", "recorded, not retrained")))


def _add_pins(figure: go.Figure, pins: Mapping[str, Pair], form: str) -> None:
    """Grey squares with their names above them; `form`: of what the pointer is told."""
    for name, pair in pins.items():
        figure.add_trace(go.Scatter(
            **_xy([pair]), mode="markers+text", text=[name], textposition="top center", showlegend=False,
            marker=dict(symbol="square", size=11, color=GREY), hovertemplate=hover(form, "pinned " + name)))


def _add_here(figure: go.Figure, pair: Pair, **more) -> None:
    """The present setting, as it is predicted."""
    figure.add_trace(go.Scatter(
        **_xy([pair]), mode="markers", name="predicted here",
        marker=dict(size=13, color=ORANGE, line=dict(width=2, color="white")), **more))


def _add_published(figure: go.Figure, published: Sequence[Published], value: Callable[[Published], float]) -> None:
    """Open grey marks, a shape for each method; the hover says whose they are and where they were told."""
    for number, method in enumerate(dict.fromkeys(point.method for point in published)):
        mine = [point for point in published if point.method == method]
        symbol = PUBLISHED_SYMBOLS[number % len(PUBLISHED_SYMBOLS)]
        figure.add_trace(go.Scatter(
            x=[1 / (1 - point.removed) for point in mine], y=[value(point) for point in mine], mode="markers",
            text=[_of_others(point) for point in mine], name=f"published: {method}",
            hovertemplate=hover("%{text}", ""), marker=dict(symbol=symbol, size=11, color=GREY, line_width=2)))


def _of_others(point: Published) -> str:
    """What the pointer is told of a published point."""
    dense = f" (dense {point.dense:.3f})" if point.dense else ""
    faster = f"<br>{point.speedup:g}x faster on {point.hardware}" if point.speedup else ""
    return (f"{point.method}, {point.pattern}, {point.model}<br>{point.removed:.0%} removed: {point.score:.3f}"
            f"{dense}{faster}<br>published: {point.source}")


def compression_axis(figure: go.Figure, low: float, high: float, title: str = "compression of the encoder") -> None:
    """A compression or a speedup from `low` to `high`, logarithmic, with round numbers as ticks."""
    ticks = _nice(low, high)
    figure.update_xaxes(title_text=title, type="log", range=[float(np.log10(low)), float(np.log10(high))],
                        tickvals=ticks, ticktext=[f"{t:g}x" for t in ticks], showgrid=False, zeroline=False)


def spread_out(values: Sequence[float], share: float = 1.08) -> tuple[float, float]:
    """(lowest, highest) for a logarithmic axis on which these stand clear of its ends, also where they are one."""
    return min(values) / share, max(values) * share


def score_axis(figure: go.Figure, metric: str) -> None:
    figure.update_yaxes(title_text=f"dev {metric.replace('_', ' ')}", zeroline=False)


def _looks(number: int) -> tuple[str, str]:
    """(colour, dash) of a line among many: all colours first, then the next dash."""
    colours, dashes = (BLUE, ORANGE, GREEN, PINK, GREY), ("solid", "dash", "dot", "dashdot")
    return colours[number % 5], dashes[number // 5 % len(dashes)]


class Compared(NamedTuple):
    """A point of a comparison: where it stands, its standard deviation over the seeds, and what is said of it."""

    x: float
    score: float
    spread: float = 0.0
    label: str = ""  # beside it
    said: str = ""  # under the pointer


def comparison(
    lines: Mapping[str, Sequence[Compared]], metric: str, axis: str, dense: Mapping[str, float] | None = None,
    chosen: Pair | None = None,
) -> go.Figure:
    """Score after retraining over `axis` (a compression or a speedup): name -> its points.

    `dense`: name -> score uncut; `chosen`: the point that is recommended.
    """
    figure = go.Figure()
    symbols = ("circle", "square", "diamond", "triangle-up", "cross")
    ring = _xy([chosen] if chosen else [])
    label = next((f"<b>{point.label}</b>" for points in lines.values() for point in points if _xy([point]) == ring), "")
    for number, (name, points) in enumerate(lines.items()):
        colour, dash = _looks(number % 15)
        spreads = [point.spread for point in points]
        figure.add_trace(go.Scatter(
            **_xy(points), mode="lines+markers+text", name=name,
            text=["" if _xy([point]) == ring else point.label for point in points],
            textposition="top center", textfont_size=11, cliponaxis=False,
            customdata=[f"{point.label} {point.x:.2f}x: {point.score:.4f}{point.said}" for point in points],
            error_y=dict(type="data", array=spreads, visible=any(spreads)),
            line=dict(color=colour, width=2, dash=dash), marker=dict(size=9, symbol=symbols[number % len(symbols)]),
            hovertemplate=hover("%{customdata}", name)))
    low, high = spread_out([point.x for points in lines.values() for point in points] or [1.0, 2.0], 1.12)
    _add_dense(figure, dense or {}, (low, high))
    if chosen:
        figure.add_trace(go.Scatter(
            **ring, mode="markers+text", name="the answer", hoverinfo="skip", text=[label], textposition="top center",
            cliponaxis=False,
            marker=dict(symbol="circle-open", size=22, color=RED, line=dict(width=3, color=RED))))
    if any(point.spread for points in lines.values() for point in points):
        figure.add_trace(go.Scatter(
            x=[None], y=[None], mode="markers", name="bar: ± standard deviation over the seeds",
            marker=dict(symbol="line-ns", size=14, line=dict(width=2, color=GREY))))
    compression_axis(figure, low, high, axis)
    score_axis(figure, metric)
    return with_legend(figure, 430)


def _add_dense(figure: go.Figure, dense: Mapping[str, float], ends: Pair) -> None:
    """The score uncut as a dashed line between these ends: one where all are alike, else one for each, by name."""
    alike: dict[float, list[str]] = {}
    for name, value in dense.items():
        alike.setdefault(round(value, 3), []).append(name)
    dashes = cycle(("dash", "dot", "dashdot", "longdash"))
    for (value, names), dash in zip(alike.items(), dashes, strict=False):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        add_level(figure, "dense" if len(alike) == 1 else f"dense: {names[0]}{more}", value, ends, dash)


def sensitivity_curves(
    points: Sequence[Sensitivity], metric: str, dense: float, names: Mapping[str, str], chosen: str | None = None,
) -> go.Figure:
    """Dev score over the share that is cut of one part alone: a line for each scope key in `names`.

    `names`: key -> what to call it; `chosen` stands out; `dense`: the score uncut.
    """
    figure = go.Figure()
    for number, (key, name) in enumerate(names.items()):
        colour, dash = _looks(number)
        mine = sorted((p for p in points if p.key == key), key=lambda p: p.share)
        figure.add_trace(go.Scatter(
            **_xy([(0, dense), *((p.share, p.score) for p in mine)]), mode="lines+markers", name=name,
            opacity=1 if chosen in (None, key) else 0.35, marker_size=6,
            line=dict(color=colour, dash=dash, width=4 if key == chosen else 1.8),
            hovertemplate=hover("%{x:.0%} cut: %{y:.4f}", name)))
    add_level(figure, "dense", dense, (0, 1))
    figure.update_xaxes(title_text="share of its weights that is cut, nothing else", tickformat=".0%",
                        showgrid=False, zeroline=False)
    score_axis(figure, metric)
    if len(names) > 12:
        return _clear(figure, 400, legend_font_size=10, showlegend=True, margin=dict(t=36))
    return with_legend(figure, 340)


def norms_over_time(labels: Sequence[str], quantiles: np.ndarray, at: int | None = None) -> go.Figure:
    """How the norms of one matrix moved: (snapshots, 5) quantiles 5, 25, 50, 75, 95%; `at`: the snapshot in view."""
    figure = go.Figure()
    xs = list(range(len(labels)))
    for low, high, words, opacity in ((0, 4, "5 – 95% of its blocks", 0.18), (1, 3, "25 – 75%", 0.38)):
        figure.add_trace(go.Scatter(
            x=[*xs, *xs[::-1]], y=[*quantiles[:, high], *quantiles[::-1, low]], fill="toself", mode="lines",
            line_width=0, fillcolor=f"rgba(46,134,200,{opacity})", name=words, hoverinfo="skip"))
    figure.add_trace(go.Scatter(
        x=xs, y=quantiles[:, 2], text=labels, mode="lines+markers", name="median", line=dict(color=BLUE, width=2),
        marker_size=5, hovertemplate=hover("%{text}: %{y:.4g}", "median")))
    if at is not None:
        figure.add_vline(at, line=dict(color=ORANGE, width=1.5, dash="dot"))
    some = [x for x in xs if x % max(1, len(xs) // 6) == 0]
    figure.update_xaxes(tickvals=some, ticktext=[labels[x].replace(" (milestone)", "") for x in some],
                        showgrid=False, zeroline=False, tickangle=30)
    figure.update_yaxes(title_text="block norm", zeroline=False, rangemode="tozero")
    return with_legend(figure, 340)


def speedup_curve(
    lines: Mapping[str, Sequence[tuple[float, float]]], *, here: Pair | None = None,
    measured: Sequence[Pair] = (), pins: Mapping[str, Pair] | None = None, published: Sequence[Published] = (),
    highest: float = 10.0,
) -> go.Figure:
    """Predicted speedup over encoder compression: name -> (compression, speedup) pairs, beside the ideal.

    Marks: the present setting, measured pairs, pinned settings, and what others published, on hardware of their own.
    """
    ideal, form = np.geomspace(1, highest, 40), "%{x:.2f}x smaller: %{y:.2f}x faster"  # a curve, as x is logarithmic
    figure = go.Figure(go.Scatter(x=ideal, y=ideal, mode="lines", name="proportional", hoverinfo="skip",
                                  line=dict(color=GREY, width=1.5, dash="dash")))
    colours, dashes = (BLUE, GREEN, PINK, ORANGE, GREY) * 3, ("solid", "dash", "dot") * 5
    for (name, pairs), colour, dash in zip(lines.items(), colours, dashes, strict=False):
        figure.add_trace(go.Scatter(
            **_xy(pairs), mode="lines+markers", name=name, marker_size=5, hovertemplate=hover(form, name),
            line=dict(color=colour, width=2, dash=dash if len(lines) > 1 else "solid")))
    if measured:
        figure.add_trace(go.Scatter(
            **_xy(measured), mode="markers", name="measured here", hovertemplate=hover(form, "measured"),
            marker=dict(symbol="diamond", size=12, color=PINK)))
    shown = [point for point in published if point.speedup]
    _add_published(figure, shown, lambda point: point.speedup)
    _add_pins(figure, pins or {}, "%{x:.2f}x: %{y:.2f}x")
    if here:
        _add_here(figure, here)
    own = [(1.0, 1.0), (highest, highest), *(pair for pairs in lines.values() for pair in pairs), *measured,
           *(pins or {}).values(), *([here] if here else [])]
    (low, high), (_, top) = _view(figure, own, [(1 / (1 - point.removed), point.speedup) for point in shown])
    add_level(figure, "as fast as dense", 1.0, (low, high), "dot")
    compression_axis(figure, low, high)
    figure.update_yaxes(title_text="speedup over the best dense engine", ticksuffix="x", range=[0, top], zeroline=False)
    return with_legend(figure, 350)


def layer_latency(
    layers: Sequence[tuple[int, float, float]], measured: Sequence[tuple[int, float, float]] = (),
) -> go.Figure:
    """Predicted (layer, dense ms, compact ms) as two bars a layer, and what was measured as a mark on each bar."""
    def of(rows: Sequence[tuple[int, float, float]], at: int) -> dict:
        return dict(x=[f"layer {row[0]}" for row in rows], y=[row[at] for row in rows])

    kinds = (("dense", 1, GREY), ("compact", 2, BLUE))
    figure = go.Figure([go.Bar(
        **of(layers, at), name=f"{kind}, predicted", marker_color=colour, offsetgroup=kind,
        hovertemplate=hover("%{y:.2f} ms", f"{kind}, predicted")) for kind, at, colour in kinds])
    for kind, at, _ in kinds if measured else ():
        symbol = "diamond" if kind == "compact" else "diamond-open"
        figure.add_trace(go.Scatter(
            **of(measured, at), mode="markers", offsetgroup=kind, name=f"{kind}, measured",
            hovertemplate=hover("%{y:.2f} ms", f"{kind}, measured"),
            marker=dict(symbol=symbol, size=11, color=PINK, line=dict(width=2, color=PINK))))
    figure.update_yaxes(title_text="milliseconds", zeroline=False, rangemode="tozero")
    figure.update_xaxes(showgrid=False)
    return with_legend(figure, 330, barmode="group", scattermode="group")


def history(snapshots: Sequence[Snapshot], metric: str) -> go.Figure:
    """Loss, penalty, zero share and dev score over all steps of a run, phases one after the other.

    Long curves are running means.
    """
    starts = phase_starts(snapshots)
    panels = (("training loss", lambda s: s.loss), ("penalty (times λ)", lambda s: s.penalty),
              ("share of zero weights", lambda s: s.zero_share),
              (f"dev {metric.replace('_', ' ')}", lambda s: s.scores and s.scores.get(metric)))
    figure = make_subplots(2, 2, subplot_titles=[name for name, _ in panels],
                           vertical_spacing=0.2, horizontal_spacing=0.12)
    for at, ((_, value), colour) in enumerate(zip(panels, (BLUE, ORANGE, GREEN, PINK), strict=True)):
        points = _thinned([(starts[s.phase] + s.step, value(s), s.phase) for s in snapshots if value(s) is not None])
        row, col = at // 2 + 1, at % 2 + 1
        figure.add_trace(go.Scatter(
            **_xy(points), text=[phase for *_, phase in points], mode="lines+markers" if len(points) < 40 else "lines",
            line=dict(color=colour, width=2), marker_size=5, showlegend=False,
            hovertemplate=hover("%{text}, step %{x}: %{y:.4g}", "")), row, col)
        figure.update_yaxes(showticklabels=bool(points), row=row, col=col)  # no numbers on an axis without data
    for start in list(starts.values())[1:]:
        figure.add_vline(start, line=dict(color=GREY, width=1, dash="dot"))
    figure.update_xaxes(showgrid=False, zeroline=False, matches="x")
    figure.update_yaxes(zeroline=False)
    figure.update_yaxes(tickformat=".0%", row=2, col=1)
    figure.update_xaxes(title_text="step", row=2)
    figure.update_annotations(font_size=13)
    # Room for the toolbar, which would cover a title
    return _clear(figure, 460, margin=dict(t=62))


def residuals(snapshots: Sequence[Snapshot]) -> go.Figure | None:
    """How far ADMM's weights are from what they are drawn to, and how far that moves, over the steps; None without."""
    told, starts = [s for s in snapshots if s.residuals], phase_starts(snapshots)
    if not told:
        return None
    figure = go.Figure()
    for part, name, colour, dash in (("primal", "weights from their target", BLUE, "solid"),
                                     ("dual", "target from the last one", ORANGE, "dash")):
        points = _thinned([(starts[s.phase] + s.step, s.residuals[part], s.phase) for s in told])
        figure.add_trace(go.Scatter(
            **_xy(points), text=[phase for *_, phase in points], name=name, mode="lines",
            line=dict(color=colour, width=2, dash=dash), hovertemplate=hover("%{text}, step %{x}: %{y:.1%}", name)))
    figure.update_yaxes(title_text="of the weights' norm", tickformat=".0%", zeroline=False, rangemode="tozero")
    figure.update_xaxes(title_text="step", showgrid=False, zeroline=False)
    return with_legend(figure, 300)


def _thinned(points: list[tuple[int, float, str]], most: int = 400) -> list[tuple[int, float, str]]:
    """(step, value, phase) of at most about `most` points, so that curves stay readable.

    Each is the mean over equally many neighbours of one phase.
    """
    size = -(-len(points) // most)
    if size <= 1:
        return points
    means = []
    for phase, part in groupby(points, key=lambda point: point[2]):
        part = list(part)
        for start in range(0, len(part), size):
            some = part[start:start + size]
            means.append((some[-1][0], float(np.mean([value for _, value, _ in some])), phase))
    return means


def phase_starts(snapshots: Sequence[Snapshot]) -> Mapping[str, int]:
    """Phase -> the step of the whole run at which it began: the phases before it, end to end."""
    lengths: dict[str, int] = {}
    for snapshot in snapshots:
        lengths[snapshot.phase] = max(lengths.get(snapshot.phase, 0), snapshot.step)
    before = np.cumsum([0, *lengths.values()])
    return {phase: int(start) for phase, start in zip(lengths, before, strict=False)}


# ---------------------------------------------------------------- the lesson


def small_matrix(weight: np.ndarray, kept: np.ndarray, block: BlockShape) -> go.Figure:
    """A matrix (m, n), its weights as colours; blocks not `kept` (groups down, across) in the colour of what is cut."""
    sizes = np.abs(weight)
    high = float(np.quantile(sizes, 0.98))
    figure = go.Figure(go.Heatmap(
        z=codes(sizes, block.expand(kept, *weight.shape), high), customdata=weight, coloraxis="coloraxis", xgap=1,
        ygap=1,
        hovertemplate=hover("row %{y}, column %{x}: %{customdata:.2f}", "")))
    rows, cols = block.sides(*weight.shape)
    edges = dict(type="line", line=dict(color=GREY, width=1))
    for row in range(rows, weight.shape[0], rows):
        figure.add_shape(**edges, x0=-0.5, x1=weight.shape[1] - 0.5, y0=row - 0.5, y1=row - 0.5)
    for col in range(cols, weight.shape[1], cols):
        figure.add_shape(**edges, x0=col - 0.5, x1=col - 0.5, y0=-0.5, y1=weight.shape[0] - 0.5)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor="x")
    axis = _colour_axis(high)
    axis["colorbar"] |= dict(title=dict(text="size of a weight", side="top", font=dict(size=12)))
    return _clear(figure, 430, coloraxis=axis, margin=dict(t=10, b=66, l=0, r=0))


def paths(
    lines: Mapping[str, np.ndarray], along: str, what: str, xs: Sequence[float] | None = None,
    here: float | None = None,
) -> go.Figure:
    """Lines by name over steps, or over `xs`; a mark at `here`. `along`, `what`: titles of the axes."""
    figure = go.Figure()
    colours, dashes = (BLUE, ORANGE, GREEN, PINK), ("solid", "dash", "longdash", "dashdot")  # dotted: only what is here
    for (name, values), colour, dash in zip(lines.items(), colours, dashes, strict=False):
        figure.add_trace(go.Scatter(
            x=list(range(len(values))) if xs is None else list(xs), y=[float(v) for v in values], name=name,
            mode="lines", line=dict(color=colour, width=3, dash=dash), hovertemplate=hover("%{y:.3f}", name)))
    if here is not None:
        figure.add_vline(here, name=f"chosen {along}", showlegend=True, line=dict(color=GREY, width=2, dash="dot"))
    shares = {} if xs is None else {"tickformat": ".0%"}
    figure.update_xaxes(title_text=along, showgrid=False, zeroline=False, **shares)
    figure.update_yaxes(title_text=what, rangemode="tozero")
    return with_legend(figure, 320)


def recovered(lines: Mapping[str, np.ndarray]) -> go.Figure:
    """Norms of groups side by side: name -> (groups,)."""
    figure = go.Figure()
    for (name, norms), colour in zip(lines.items(), (GREY, ORANGE, BLUE), strict=True):
        figure.add_trace(go.Bar(
            x=list(range(1, len(norms) + 1)), y=[float(v) for v in norms], name=name, marker_color=colour,
            hovertemplate=hover("block %{x}: %{y:.3f}", name)))
    figure.update_xaxes(title_text="block", dtick=1, showgrid=False)
    figure.update_yaxes(title_text="norm")
    return with_legend(figure, 320, barmode="group")


def engines(rows: Sequence[tuple[str, float, str]], compact_ms: float) -> go.Figure:
    """Milliseconds of all that was timed, the fastest first: (name, ms, 'dense', 'unpruned' or 'compact')."""
    rows = sorted(rows, key=lambda row: row[1])
    looks = {"dense": (GREY, "", "dense engines"), "unpruned": (ORANGE, "/", "our pass, nothing cut"),
             "compact": (BLUE, "", "our pass, compact")}
    figure = go.Figure()
    for kind, (colour, pattern, said) in looks.items():
        some = [row for row in rows if row[2] == kind]
        figure.add_trace(go.Bar(
            x=[ms for _, ms, _ in some], y=[name for name, *_ in some], orientation="h", name=said,
            marker=dict(color=colour, pattern_shape=pattern), textposition="outside", cliponaxis=False,
            text=[f"{ms:,.1f} ms" + f", {ms / compact_ms:.1f}x" * (kind != "compact") for _, ms, _ in some],
            hovertemplate=hover("%{x:.2f} ms", "%{y}")))
    figure.update_xaxes(title_text="milliseconds a batch (median), and how many times those of compact",
                        range=[0, 1.25 * max((ms for _, ms, _ in rows), default=1.0)])
    figure.update_yaxes(categoryorder="array", categoryarray=[name for name, *_ in rows][::-1], automargin=True)
    return with_legend(figure, 90 + 30 * len(rows), barmode="overlay", bargap=0.3)


def patterns(rows: Sequence[tuple[str, float, Sequence[float], float]]) -> go.Figure:
    """Speedups over the dense product: (pattern, speedup, quartiles of its milliseconds, median milliseconds)."""
    speedups = [speedup for _, speedup, _, _ in rows]
    figure = go.Figure(go.Bar(
        x=speedups, y=[name for name, *_ in rows], orientation="h",
        marker_color=[GREY, ORANGE, GREEN, BLUE][: len(rows)],
        text=[f"{speedup:.2f}x" for speedup in speedups], textposition="inside", insidetextanchor="start",
        error_x=dict(type="data", symmetric=False,
                     array=[speedup * (ms / low - 1) for _, speedup, (low, _), ms in rows],
                     arrayminus=[speedup * (1 - ms / high) for _, speedup, (_, high), ms in rows]),
        customdata=[ms for *_, ms in rows], hovertemplate=hover("%{customdata:.3f} ms", "%{y}")))
    figure.add_vline(1.0, line=dict(color=GREY, width=1.5, dash="dash"), annotation_text="as fast as dense",
                     annotation_position="top right", annotation_font_size=12)
    figure.update_xaxes(title_text="speedup over dense (median, quartiles)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return _clear(figure, 300, margin=dict(t=20, r=60))


def until_it_breaks(lines: Mapping[str, Sequence[Pair]], metric: str, majority: float) -> go.Figure:
    """Score over encoder compression, a line for each run, and what the most frequent answer scores."""
    figure = go.Figure()
    colours, dashes = cycle((BLUE, ORANGE, GREEN, PINK)), cycle(("solid", "dash", "longdash", "dashdot"))
    for (name, points), colour, dash in zip(lines.items(), colours, dashes, strict=False):
        figure.add_trace(go.Scatter(
            **_xy(points), name=name, mode="lines+markers", marker_size=9,
            line=dict(color=colour, width=3, dash=dash), hovertemplate=hover("%{x:.2f}x: %{y:.3f}", name)))
    low, high = spread_out([x for points in lines.values() for x, _ in points] or [1.0, 5.0], 1.1)
    add_level(figure, "dotted: always the most frequent answer", majority, (low, high), "dot")
    compression_axis(figure, low, high)
    score_axis(figure, metric)
    return with_legend(figure, 360)
