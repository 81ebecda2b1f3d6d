"""Which setting a report recommends, and by what rule."""

from __future__ import annotations

from collections.abc import Sequence

from prune_core.showing.report.finding import Finding


def recommended(dense: float, findings: Sequence[Finding], allowed: float) -> tuple[int | None, str]:
    """(position of the recommended setting, or of the nearest to it, the rule in words); None: no setting has a score.

    Of the settings within `allowed` of the uncut model: the fastest where all of these have a speedup, else the
    smallest. Where none is within: the one with the best score.
    """
    scored = [at for at, finding in enumerate(findings) if finding.score]
    if not scored:
        return None, "None of these settings has a score, so none is recommended."
    rule = f"Rule: among the settings whose score is at most {points(allowed)} below the uncut model's, "
    within = [at for at in scored if keeps(dense, findings[at], allowed)]
    if not within:
        best = max(scored, key=lambda at: findings[at].score.value)
        return best, (f"No setting keeps within {points(allowed)} of the uncut model. The one with the best score is "
                      f"named; it loses {points(dense - findings[best].score.value)}.")
    by_speed = all(findings[at].speed for at in within)
    size = (lambda finding: finding.speed.value) if by_speed else (lambda finding: finding.mask.compression_encoder)
    best = max(within, key=lambda at: (size(findings[at]), findings[at].score.value))
    predicted = by_speed and not all(findings[at].speed.measured for at in within)
    fastest = "the fastest (some speedups are predicted)" if predicted else "the fastest"
    what = fastest if by_speed else "the smallest (not all have a speedup)"
    return best, f"{rule}{what}. {len(within)} of {len(findings)} meet{'s' * (len(within) == 1)} this."


def keeps(dense: float, finding: Finding, allowed: float) -> bool:
    """Whether it loses no more of the uncut model's score than is allowed."""
    return finding.score is not None and dense - finding.score.value <= allowed + 1e-9


def points(share: float) -> str:
    """0.012 -> '1.2 points'"""
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text} point{'s' * (text != '1')}"
