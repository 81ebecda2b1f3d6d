"""The picture of the trade: what every setting that was tried takes, against what it scores exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from prune_core import InputError
from prune_core.cutting.answers import GRID, predict
from prune_core.cutting.blocks import Layout
from prune_core.cutting.cuts import Cut
from prune_core.precision import formats
from prune_core.runs import settings
from prune_core.runs import tried as kept
from prune_core.runs.run import Run
from prune_core.runs.stages import DENSE
from prune_core.runs.tried import Tried
from prune_core.showing import figures
from prune_core.showing.figures import BLUE, GREEN, GREY, ORANGE, PINK, RED

AXES = {"bytes": "bytes of the model", "encoder_bytes": "bytes of the encoder", "ms": "predicted latency"}
# Kind -> (symbol, colour, what it is called): told apart by shape as well as by colour
LOOKS = {"blocks": ("circle", BLUE, "blocks alone, fp32"), "bits": ("square", ORANGE, "fewer bits"),
         "pattern": ("triangle-up", GREEN, "N:M pattern"), "mixture": ("diamond", PINK, "a format for each part")}
MB = 1e6
SAME = 1e-9  # scores, and sparsities, of one and the same cut
DEEPEST = 0.15  # below the dense score: what is drawn at first


class Dense(NamedTuple):
    """The dense model: its score with the 95% interval, where that was recorded, and its bytes in fp32."""

    score: float
    low: float | None
    high: float | None
    bytes: int
    encoder_bytes: int


@dataclass(frozen=True)
class Point:
    """A setting that was tried, of one stage of a run, or, where `exact` is not set, the one in view as predicted."""

    stage: str
    tried: Tried
    exact: bool = True

    def x(self, by: str) -> float | None:
        """Megabytes, or milliseconds for 32 sentences of 128 tokens."""
        value = getattr(self.tried, by)
        return value if by == "ms" or value is None else value / MB

    def kind(self, layout: Layout) -> str:
        """One of LOOKS."""
        made = _formats(self.tried, layout)
        if len(set(made.weights)) > 1:
            return "mixture"
        return "pattern" if made.weights[0].pattern else "blocks" if made.plain else "bits"

    def words(self, layout: Layout) -> str:
        """'dense, 50.0% zero, by surgeon, 8 bits, repaired'"""
        said = [self.stage, f"{self.tried.sparsity:.1%} zero"]
        said += [f"by {ranking}"] if (ranking := self.tried.cut.get("by") or "norm") != "norm" else []
        said += [made.words] if not (made := _formats(self.tried, layout)).plain else []
        said += [f"in {self.tried.dtype}"] if self.tried.dtype != "fp32" else []
        return ", ".join(said + ["repaired"] * bool(self.tried.cut.get("repaired")))


def _formats(tried: Tried, layout: Layout) -> formats.Formats:
    """What its text names; of a text that this version cannot read, plain."""
    try:
        return formats.parse(str(tried.cut.get("formats") or ""), layout)
    except InputError:
        return formats.Formats()


def points(run: Run, stages: Sequence[str] | None = None) -> list[Point]:
    """What was tried of these stages, of all where none are named; the last where one setting was scored twice.

    And the stages themselves, as the run scored them. The smallest file first.
    """
    found = {}
    for stage in (one for one in run.stages if stages is None or one in stages):
        own = kept.read(run, stage)
        end = end_of(run, stage)
        if end and not any((one.bytes, one.score) == (end.bytes, end.score) for one in own):
            found[stage] = Point(str(stage), end)
        for one in own:
            if not isinstance(one.cut, Mapping):
                continue
            key = (stage, one.search, one.step, one.bytes, one.dtype, repr(sorted(one.cut.items(), key=str)))
            found[key] = Point(str(stage), one)
    return sorted(found.values(), key=lambda point: (point.tried.bytes, -point.tried.score))


def end_of(run: Run, stage: str) -> Tried | None:
    """A stage as it is, with the score that the run took of it; None where that has no interval, or no norms."""
    at, stored = run.saved(stage), run.stored(stage)
    snapshot = run.snapshots[at]
    score = (snapshot.scores or {}).get(run.metric)
    ends = None if stored is None or score is None else _interval(run, stage, score)
    if ends is None:
        return None
    cut = settings.usual(run, at) if stage.kind == "penalty" else Cut("global", 0.0, formats=run.trained_formats(stage))
    return Tried(cut.to_json() | {"by": "norm", "repaired": False, "formats": cut.formats}, score, *ends,
                 snapshot.examples or 0, stored.bytes, stored.encoder.stored, snapshot.point["sparsity"])


def _interval(run: Run, stage: str, score: float) -> tuple[float, float] | None:
    """95% interval of a stage's own score: that of the same point of a surface.

    Where the stage was cut between two points of its own: as wide as theirs there, if they are of as many examples.
    """
    snapshot = run.snapshots[run.saved(stage)]
    share, own = snapshot.blocks, snapshot.surface or ()  # a surface tells what blocks cut, without a pattern
    for kind, surface in run.surfaces(stage).items():
        for point in () if kind.repaired else surface:
            if abs(point.score - score) < SAME and abs(point.sparsity - share) < SAME:
                return point.low, point.high
    if (len(own) < len(GRID) or snapshot.surface_examples != snapshot.examples
            or any(abs(point.sparsity - share) < SAME for point in own)):
        return None
    near, low, high = predict(own, share)
    return score - (near - low), min(1.0, score + (high - near))


def front(given: Sequence[Point], by: str = "bytes") -> list[Point]:
    """Those that no other one beats in both, smallest first."""
    best = kept.pareto([point.tried for point in given], by)
    return [next(point for point in given if point.tried is one) for one in best]


def searches(given: Sequence[Point]) -> dict[str, list[Point]]:
    """Search -> its steps, in order."""
    found: dict[str, list[Point]] = {}
    for point in given:
        if point.tried.search:
            found.setdefault(point.tried.search, []).append(point)
    return {name: sorted(steps, key=lambda point: point.tried.step or 0) for name, steps in found.items()}


def dense_of(run: Run) -> Dense | None:
    """None before the run has a dense score."""
    if run.dense_score is None:
        return None
    layout = run.layout
    same = next((one.tried for one in points(run, [DENSE]) if abs(one.tried.score - run.dense_score) < 1e-9), None)
    return Dense(run.dense_score, same and same.low, same and same.high, 4 * layout.model_weights,
                 4 * layout.encoder_weights)


def rows(given: Sequence[Point], layout: Layout, dense: Dense | None, by: str = "bytes") -> list[dict]:
    """A row of the table for each point, in the same order: what one sees, as numbers."""
    best = front(given, by)
    return [{"on_line": point in best, "setting": point.words(layout), "score": point.tried.score,
             "low": point.tried.low, "high": point.tried.high,
             "points_lost": dense and 100 * (dense.score - point.tried.score), "bytes": point.tried.bytes,
             "fewer_bytes": dense and dense.bytes / point.tried.bytes, "encoder_bytes": point.tried.encoder_bytes,
             "fewer_encoder_bytes": dense and point.tried.encoder_bytes and (
                 dense.encoder_bytes / point.tried.encoder_bytes),
             "sparsity": point.tried.sparsity, "ms": point.tried.ms, "search": point.tried.search or None,
             "step": point.tried.step, "formats": str(point.tried.cut.get("formats") or "")} for point in given]


# ---------------------------------------------------------------- the picture


def figure(given: Sequence[Point], layout: Layout, metric: str, by: str = "bytes", dense: Dense | None = None,
           here: Point | None = None) -> go.Figure:
    """Score over bytes or latency: dots by kind, the Pareto line, each search as a path, the dense model as a line.

    `customdata` of a dot begins with its place in `given`; `here`: the setting in view, ringed.
    """
    drawn = go.Figure()
    shown = [point for point in given if point.x(by) is not None]
    xs = [point.x(by) for point in (*shown, *([here] if here and here.x(by) is not None else []))]
    if dense and by != "ms":
        xs.append(getattr(dense, by) / MB)
    low, high = figures.spread_out(xs or [1.0, 2.0], 1.12)
    if dense:
        _add_dense(drawn, dense, (low, high))
    best = front(shown, by)
    drawn.add_trace(go.Scatter(
        x=[point.x(by) for point in best], y=[point.tried.score for point in best], mode="lines", hoverinfo="skip",
        name="best for their size" if by != "ms" else "best for their speed",
        line=dict(color=GREY, width=2.5, shape="hv")))
    _add_searches(drawn, shown, by)
    for kind, (symbol, colour, words) in LOOKS.items():
        mine = [(at, point) for at, point in enumerate(given)
                if point.x(by) is not None and point.kind(layout) == kind]
        if mine:
            drawn.add_trace(_dots(mine, layout, by, best, dense, name=words, marker=dict(
                symbol=symbol, size=11, color=colour, line=dict(width=1, color="white"))))
    if here and here.x(by) is not None:
        words = "in view" if here.exact else "in view, predicted"
        drawn.add_trace(go.Scatter(
            x=[here.x(by)], y=[here.tried.score], mode="markers", name=words, hoverinfo="skip",
            marker=dict(symbol="circle-open", size=22, color=RED, line_width=3)))
    _size_axis(drawn, by, low, high)
    figures.score_axis(drawn, metric)
    _score_range(drawn, [point.tried.score for point in shown], dense)
    return figures.with_legend(drawn, 460, clickmode="event+select", dragmode=False, hovermode="closest")


def _dots(mine: Sequence[tuple[int, Point]], layout: Layout, by: str, best: Sequence[Point], dense: Dense | None,
          **more) -> go.Scatter:
    """Dots of one kind. Those on the line have their 95% interval drawn; the pointer is told that of all."""
    ends = [(point.tried.high - point.tried.score, point.tried.score - point.tried.low) if point in best else (0, 0)
            for _, point in mine]
    unit = "%{x:.2f} ms" if by == "ms" else "%{x:.2f} MB"
    return go.Scatter(
        x=[point.x(by) for _, point in mine], y=[point.tried.score for _, point in mine], mode="markers",
        customdata=[[at, *_told(point, layout, dense)] for at, point in mine],
        error_y=dict(type="data", symmetric=False, array=[up for up, _ in ends], arrayminus=[down for _, down in ends],
                     thickness=1, width=3, color=GREY),
        hovertemplate=figures.hover(f"%{{customdata[1]}}<br>{unit}: %{{y:.4f}}%{{customdata[2]}}", ""), **more)


def _told(point: Point, layout: Layout, dense: Dense | None) -> tuple[str, str]:
    """What the pointer is told: the setting, then its interval and how much smaller it is."""
    one = point.tried
    fewer = f"<br>{dense.bytes / one.bytes:.1f}x fewer bytes than fp32" if dense else ""
    if dense and one.encoder_bytes:
        fewer += f", encoder {dense.encoder_bytes / one.encoder_bytes:.1f}x"
    step = f"<br>{one.search}, step {one.step}" if one.search and one.step is not None else ""
    return point.words(layout), f" (95%: {one.low:.3f} – {one.high:.3f}){fewer}{step}"


def _add_dense(drawn: go.Figure, dense: Dense, ends: tuple[float, float]) -> None:
    """The dense score across, with the band of its interval."""
    if dense.low is not None:
        drawn.add_trace(go.Scatter(
            x=[*ends, *ends[::-1]], y=[dense.low, dense.low, dense.high, dense.high], fill="toself", mode="lines",
            line_width=0, fillcolor="rgba(138,143,152,0.18)", name="dense, 95% interval", hoverinfo="skip"))
    figures.add_level(drawn, "dense, fp32", dense.score, ends)


def _add_searches(drawn: go.Figure, shown: Sequence[Point], by: str) -> None:
    """Each search as a path through its steps, in their order, with an arrow at its end."""
    for (name, steps), dash in zip(searches(shown).items(), ("dot", "dashdot", "dash", "longdash") * 9, strict=False):
        drawn.add_trace(go.Scatter(
            x=[point.x(by) for point in steps], y=[point.tried.score for point in steps], mode="lines+markers",
            name=name, line=dict(color=PINK, width=1.5, dash=dash), hoverinfo="skip",
            marker=dict(symbol="arrow", size=[0] * (len(steps) - 1) + [13], angleref="previous", color=PINK)))


def _size_axis(drawn: go.Figure, by: str, low: float, high: float) -> None:
    """Logarithmic, with round numbers."""
    ticks = [value * 10.0**power for power in range(-3, 5) for value in (1, 1.5, 2, 3, 4, 5, 7)]
    ticks = [round(tick, 4) for tick in ticks if low <= tick <= high]
    title = "predicted ms for 32 sentences of 128 tokens" if by == "ms" else f"{AXES[by]}, MB"
    drawn.update_xaxes(title_text=title, type="log", range=[float(np.log10(low)), float(np.log10(high))],
                       tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks], showgrid=False, zeroline=False)


def _score_range(drawn: go.Figure, scores: Sequence[float], dense: Dense | None) -> None:
    """From DEEPEST below the dense model, as settings that score at random would flatten all others; they are counted.
    """
    top = max([*scores, *([dense.high or dense.score] if dense else [])], default=1.0)
    floor = dense.score - DEEPEST if dense else min(scores, default=0.0)
    if below := sum(score < floor for score in scores):
        words = f"{below} setting{'s lie' if below > 1 else ' lies'} below: double-click shows all"
        drawn.add_annotation(text=words, xref="paper", yref="paper", x=0, y=0, xanchor="left", yanchor="bottom",
                             showarrow=False, font=dict(size=11, color=GREY))
    bottom = max(floor, min([*scores, *([dense.low or dense.score] if dense else [])], default=0.0))
    margin = 0.06 * (top - bottom or 0.1)
    drawn.update_yaxes(range=[bottom - margin, top + margin])
