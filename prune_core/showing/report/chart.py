"""The report's chart, score over size: where everything stands in an SVG. The template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prune_core.cutting.answers import SurfacePoint
from prune_core.precision.formats import parse
from prune_core.precision.storage import storage
from prune_core.runs.run import Run
from prune_core.showing.report.finding import Finding
from prune_core.showing.report.over import Over

WIDE, TALL, LEFT, BOTTOM = 640, 250, 46, 34


# long: what one pair of scales puts in its place
def places(run: Run, findings: Sequence[Finding], best: int, of: Over | None = None) -> dict:
    """What the template draws: places in an SVG of WIDE x TALL. The surface is the one behind the setting at `best`.

    Of a report over all runs there is none, but a dot for each other result.

    Where some settings are in fewer bits, over bytes of the encoder, index included; there is no surface over these.
    """
    bits = any(finding.setting.cut.formats for finding in findings)
    surface = () if bits or of else findings[best].setting.surface(run) or ()
    surface = sorted((p for p in surface if p.sparsity < 1), key=lambda p: p.sparsity)
    compressions = [_smaller(finding, bits) for finding in findings]
    most = max((c for c in compressions if c < float("inf")), default=2.0)
    right = min(50.0 if bits else 20.0, max(2.0, 1.25 * most))
    surface = [p for p in surface if 1 / (1 - p.sparsity) <= right * 1.001]
    shown = {(finding.run, finding.run.snapshots[finding.setting.at].saved) for finding in findings} if of else set()
    others = [(result.fewer if bits else result.compression_encoder, result.score)
              for result in (of.results if of else ()) if (result.run, result.stage) not in shown]
    low, high, floor = _span(run, findings, surface)

    def x(compression: float) -> float:
        return LEFT + (WIDE - LEFT - 16) * float(np.log(compression) / np.log(right))

    def y(score: float) -> float:
        return 10 + (TALL - BOTTOM - 10) * (high - min(high, max(low, score))) / (high - low)

    def place(point: SurfacePoint, score: float) -> str:
        return f"{x(1 / (1 - point.sparsity)):.1f},{y(score):.1f}"

    def mark(letter: str, finding: Finding, recommended: bool) -> dict:
        score = finding.score
        low, high = (None if end is None else y(end) for end in (score.low, score.high))
        return {"letter": letter, "x": x(min(right, _smaller(finding, bits))), "y": y(score.value),
                "exact": score.exact, "best": recommended, "low": low, "high": high}

    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / s <= 7)
    return {
        "wide": WIDE, "tall": TALL, "left": LEFT, "floor": TALL - BOTTOM,
        "dense_y": y(run.dense_score), "majority_y": y(run.majority_score) if floor else None,
        "line": " ".join(place(p, p.score) for p in surface),
        "band": " ".join([place(p, p.high) for p in surface] + [place(p, p.low) for p in reversed(surface)]),
        "x": [(f"{c:g}x", x(c)) for c in (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50) if c <= right],
        "axis": "times fewer bytes of the encoder than in fp32" if bits else "encoder compression",
        "y": [(f"{v:.2f}", y(v)) for v in np.arange(np.ceil(low / step), high / step) * step],
        "others": [(x(smaller), y(score)) for smaller, score in others
                   if smaller <= right and low <= score <= high],
        "marks": [mark(letter, finding, at == best)
                  for at, (letter, finding) in enumerate(zip("ABCD", findings, strict=False)) if finding.score]}


def _smaller(finding: Finding, bits: bool) -> float:
    """How many times fewer weights the encoder has, or bytes."""
    if not bits:
        return finding.mask.compression_encoder
    layout = finding.mask.layout
    stored = storage(finding.mask, replace(parse(finding.setting.cut.formats, layout), embeddings=32)).encoder
    return stored.dense / stored.stored


def _span(run: Run, findings: Sequence[Finding], surface: Sequence[SurfacePoint]) -> tuple[float, float, bool]:
    """(lowest, highest score that the chart shows, whether the most frequent answer's is among them)."""
    values = [run.dense_score, *(p.score for p in surface)]
    for score in (finding.score for finding in findings if finding.score):
        values += [score.value] if score.low is None else [score.value, score.low, score.high]
    low, high = min(values), max(values)
    floor = run.majority_score > low - 0.6 * (high - low)  # far below, it would flatten all that is to be seen
    low = min(low, run.majority_score) if floor else low
    return low - 0.08 * (high - low or 0.1), high + 0.12 * (high - low or 0.1), floor
