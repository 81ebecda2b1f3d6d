"""Charts of what may not fit: memory over the length of sentences, and the stages of a pipeline in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prune_core.hardware.pipelines import Plan
from prune_core.showing.figures import BLUE, CLEAR, GREEN, GREY, ORANGE, PINK, RED, Pair, hover, with_legend

LOOKS = {"dense": (GREY, "solid"), "smaller": (GREEN, "dash"), "compact": (BLUE, "solid")}
NAMES = {"dense": "as it is", "smaller": "heads and neurons taken out", "compact": "compact, our pass"}


def size(mb: float) -> str:
    """'164 MB', '2.7 GB'."""
    return f"{mb:,.0f} MB" if mb < 1000 else f"{mb / 1000:,.1f} GB".replace(".0 GB", " GB")


def memory_curve(lines: Mapping[str, Sequence[Pair]], limit: float, here: int,
                 measured: Mapping[str, Pair] | None = None) -> go.Figure:
    """Megabytes over tokens of a sentence: kind -> (length, MB) pairs, the device's `limit` as a line, the chosen
    length `here`, and what was measured as marks. Both axes are logarithmic: a limit far above stays in sight."""
    figure = go.Figure()
    for kind, pairs in lines.items():
        colour, dash = LOOKS[kind]
        figure.add_trace(go.Scatter(
            x=[x for x, _ in pairs], y=[y for _, y in pairs], mode="lines+markers", name=NAMES[kind], marker_size=5,
            line=dict(color=colour, width=2, dash=dash), customdata=[size(y) for _, y in pairs],
            hovertemplate=hover("%{x} tokens: %{customdata}", NAMES[kind])))
    for kind, (x, y) in (measured or {}).items():
        figure.add_trace(go.Scatter(
            x=[x], y=[y], mode="markers", name=f"{NAMES[kind]}, measured", customdata=[size(y)],
            marker=dict(symbol="diamond" if kind == "compact" else "diamond-open", size=11, color=PINK,
                        line=dict(width=2, color=PINK)), hovertemplate=hover("%{x} tokens: %{customdata}", "measured")))
    lengths = sorted({x for pairs in lines.values() for x, _ in pairs})
    figure.add_trace(go.Scatter(
        x=[lengths[0], lengths[-1]], y=[limit, limit], mode="lines", name=f"limit, {size(limit)}",
        line=dict(color=RED, width=2, dash="dashdot"), hovertemplate=hover(size(limit), "limit")))
    figure.add_vline(here, line=dict(color=ORANGE, width=1.5, dash="dot"))
    most = max([limit, *(y for pairs in lines.values() for _, y in pairs)])
    least = min(y for pairs in lines.values() for _, y in pairs)
    ticks = [part * 10**power for power in range(1, 8) for part in (1, 2, 5)]
    ticks = [tick for tick in ticks if least / 2 <= tick <= 2 * most]
    figure.update_yaxes(type="log", tickvals=ticks, ticktext=[size(tick) for tick in ticks], zeroline=False,
                        title_text="memory of the process")
    figure.update_xaxes(type="log", tickvals=lengths, ticktext=[str(x) for x in lengths], showgrid=False,
                        title_text="tokens of a sentence")
    return with_legend(figure, 400)


def pipeline(plans: Mapping[str, Plan]) -> go.Figure:
    """Each plan as rows of stages over milliseconds, a bar for each micro-batch: gaps are devices that wait."""
    stages = max(len(plan.stages) for plan in plans.values())
    titles = [f"{name}: {plan.ms:,.1f} ms, {plan.micro_batches} micro-batches" for name, plan in plans.items()]
    figure = make_subplots(len(plans), 1, shared_xaxes=True, subplot_titles=titles,
                           vertical_spacing=0.16 / max(1, stages / 4))
    for row, (name, plan) in enumerate(plans.items(), 1):
        bars = began(plan.times, plan.micro_batches)
        for parity, colour, pattern in ((0, BLUE, ""), (1, ORANGE, "/")):
            some = [(stage, start, plan.times[stage], at) for stage, at, start in bars if at % 2 == parity]
            figure.add_trace(go.Bar(
                y=[f"stage {stage}" for stage, *_ in some], base=[start for _, start, *_ in some],
                x=[ms for _, _, ms, _ in some], orientation="h", name=("odd", "even")[parity] + " micro-batches",
                showlegend=row == 1,
                marker=dict(color=colour, pattern_shape=pattern, line=dict(width=0.5, color=CLEAR)),
                customdata=[[plan.stages[stage].words, at + 1, start] for stage, start, _, at in some],
                hovertemplate=hover("%{customdata[0]}<br>micro-batch %{customdata[1]}: %{x:.2f} ms from "
                                    "%{customdata[2]:.2f} ms on", name)), row, 1)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title_text="milliseconds", row=len(plans), col=1)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    return with_legend(figure, 110 + len(plans) * (40 + 26 * stages), barmode="overlay", bargap=0.25)


def began(times: Sequence[float], micro_batches: int) -> list[tuple[int, int, float]]:
    """(stage, micro-batch, millisecond at which it begins there): when the stage is free and has it."""
    free, bars = [0.0] * len(times), []
    for at in range(micro_batches):
        came = 0.0
        for stage, ms in enumerate(times):
            start = max(came, free[stage])
            bars.append((stage, at, start))
            came = free[stage] = start + ms
    return bars
