"""Which setting a report recommends, and by what rule."""

from __future__ import annotations

from collections.abc import Sequence

from prune_core.precision import formats
from prune_core.showing.report.finding import Finding

AS_FAST = 0.05  # of the speedup: less is no difference that one notices


def recommended(dense: float, findings: Sequence[Finding], allowed: float) -> tuple[int | None, str]:
    """(position of the recommended setting, or of the nearest to it, the rule in words); None: no setting has a score.

    Of the settings within `allowed` of the dense model: the fastest where all of these have a speedup, else the
    smallest. Where some are in fewer bits, bytes decide: those within AS_FAST of the fastest count as equally fast.
    Where none is within: the one with the best score.
    """
    scored = [at for at, finding in enumerate(findings) if finding.score]
    if not scored:
        return None, "None of these settings has a score, so none is recommended."
    rule = f"Rule: among the settings whose score is at most {points(allowed)} below the dense model's, "
    within = [at for at in scored if keeps(dense, findings[at], allowed)]
    if not within:
        best = max(scored, key=lambda at: findings[at].score.value)
        return best, (f"No setting keeps within {points(allowed)} of the dense model. The one with the best score is "
                      f"named; it loses {points(dense - findings[best].score.value)}.")
    by_speed = all(findings[at].speed for at in within)
    if any(finding.setting.cut.formats for finding in findings) and all(findings[at].bytes for at in within):
        return _fewest(findings, within, by_speed, rule)
    size = (lambda finding: finding.speed.value) if by_speed else (lambda finding: finding.mask.compression_encoder)
    best = max(within, key=lambda at: (size(findings[at]), findings[at].score.value))
    predicted = by_speed and not all(findings[at].speed.measured for at in within)
    fastest = "the fastest (some speedups are predicted)" if predicted else "the fastest"
    what = fastest if by_speed else "the smallest (not all have a speedup)"
    return best, f"{rule}{what}. {len(within)} of {len(findings)} meet{'s' * (len(within) == 1)} this."


def keeps(dense: float, finding: Finding, allowed: float) -> bool:
    """Whether it loses no more of the dense model's score than is allowed."""
    return finding.score is not None and dense - finding.score.value <= allowed + 1e-9


SHIP, CARE, NOT = "ship", "ship with care", "do not ship"


def verdict(dense: float, majority: float, finding: Finding, allowed: float) -> str:
    """SHIP, CARE or NOT of a setting, by `verdict_rule`."""
    score = finding.score
    if score is None or score.value <= majority or not keeps(dense, finding, allowed):
        return NOT
    return SHIP if score.exact and score.low is not None and dense - score.low <= allowed + 1e-9 else CARE


def verdict_rule(allowed: float) -> str:
    """When it is which, in words."""
    most = points(allowed)
    return (f"Ship: the score is exact, and even the low end of its 95% interval is at most {most} below the dense "
            f"model's. Ship with care: the score is at most {most} below, but its interval is not, or the score is "
            "predicted. Do not ship: it loses more, or is no better than always giving the most frequent answer.")


def advice(dense: float, majority: float, finding: Finding, letter: str, allowed: float) -> tuple[str, str]:
    """(what to do, in a few words; how sure that is, by the score's interval, '' where there is none) of a setting."""
    score, lost = finding.score, dense - finding.score.value
    word = verdict(dense, majority, finding, allowed)
    half = None if score.low is None else (score.high - score.low) / 2
    unsure = half and f"With {score.examples:,} examples the score is uncertain by ±{points(half)}"
    if score.value <= majority:
        return f"Do not ship: {letter} scores no better than always giving the most frequent answer", ""
    if word == NOT:
        told = f"Do not ship: {letter}, the nearest, loses {points(lost)}, more than the {points(allowed)} allowed"
        if half is None:
            return told, ""
        return told, (f"{unsure}, so it may be within after all: score it on more data before you give it up."
                      if dense - score.high <= allowed else "Even the high end of its 95% interval is below that.")
    cut = f"{finding.mask.sparsity:.1%} of the encoder cut" if finding.mask.sparsity else "nothing cut"
    made = formats.parse(finding.setting.cut.formats)
    cut += "" if made.plain else f", {made.words}"
    told = (f"Ship {letter}" + " with care" * (word == CARE) + f": {cut}, "
            + (f"{points(lost)} lost" if round(1000 * lost) > 0 else "nothing lost"))
    if not score.exact:
        return f"{told}, but its score is predicted: test it first", unsure and unsure + "."
    if half is None:
        return told, "No interval of its score is known."
    if word == SHIP:
        return told, "Even the low end of its 95% interval is within that."
    return told, (f"{unsure}, more than the {points(allowed)} allowed: the true loss may exceed it. "
                  "Watch it on your own data.")


def points(share: float) -> str:
    """0.012 -> '1.2 points'"""
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text} point{'s' * (text != '1')}"


def _fewest(findings: Sequence[Finding], within: Sequence[int], by_speed: bool, rule: str) -> tuple[int, str]:
    """Of those as fast as the fastest, of all where not each has a speedup, the one of fewest bytes."""
    fastest = max(findings[at].speed.value for at in within) if by_speed else 0.0
    alike = [at for at in within if not by_speed or findings[at].speed.value >= (1 - AS_FAST) * fastest]
    best = min(alike, key=lambda at: (findings[at].bytes, -findings[at].score.value))
    what = (f"the fewest bytes of those at most {AS_FAST:.0%} slower than the fastest" if by_speed else
            "the fewest bytes (not all have a speedup)")
    return best, f"{rule}{what}. {len(within)} of {len(findings)} meet{'s' * (len(within) == 1)} this."
