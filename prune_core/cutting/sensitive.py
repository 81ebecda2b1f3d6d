"""Which part of an encoder is the most sensitive and which the least, said from recorded answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prune_core.cutting.answers import Sensitivity

ROBUST = 0.02  # of the score may be lost by what is called robust


def extremes(points: Sequence[Sensitivity], dense: float) -> tuple[float, tuple[str, float], tuple[str, float]]:
    """(share, (key, loss) of the part that loses most at it, (key, loss) of the one that loses least).

    The share is the recorded one nearest to a half of what is not zero yet. `points`: of one kind of part; `dense`: the
    score with nothing more cut.
    """
    zero = min(point.sparsity for point in points)  # where training has emptied half, cutting half changes nothing
    share = min({point.share for point in points}, key=lambda share: (abs(share - (1 + zero) / 2), share))
    losses = {point.key: dense - point.score for point in points if point.share == share}
    over_all = {key: (loss, sum(dense - point.score for point in points if point.key == key))
                for key, loss in losses.items()}  # parts that lose alike there are told apart by the other shares
    most, least = max(losses, key=over_all.get), min(losses, key=over_all.get)
    return share, (most, losses[most]), (least, losses[least])


def sentence(points: Sequence[Sensitivity], dense: float, names: Mapping[str, str], kind: str) -> str:
    """Most and least sensitive part of this kind (layer, matrix, type) in words, and how that was found."""
    share, (most, worst), (least, best) = extremes(points, dense)
    cut = "half" if share == 0.5 else f"{share:.0%}"
    *others, last = [f"{share:.0%}".removesuffix("%") for share in sorted({point.share for point in points})]
    shares = f"{', '.join(others)} and {last}%" if others else f"{last}%"
    return (f"**Most sensitive: {names[most]}**: cutting {cut} of it alone {_costs(worst)}. "
            f"**Least: {names[least]}**: {_costs(best)}. Found by cutting each {kind} alone at {shares} "
            f"and scoring all {points[0].examples:,} dev sentences.")


def _costs(loss: float) -> str:
    points = round(100 * loss, 1)
    return "costs nothing" if not points else f"costs {points:.1f} points" if points > 0 else f"gains {-points:.1f}"


def verdict(points: Sequence[Sensitivity], dense: float | None) -> str:
    """'robust up to 50%: −0.2 at 25%, −1.9 at 90%', in points, for one part; 'not recorded' without points."""
    if not points:
        return "not recorded"
    curve = sorted(points, key=lambda point: point.share)
    worst = max(dense - point.score for point in curve)
    half = max((dense - point.score for point in curve if point.share <= 0.5), default=worst)
    word = "sensitive" if half > ROBUST else "robust" if worst <= ROBUST else "robust up to 50%"
    losses = ", ".join(f"{100 * (point.score - dense):+.1f} at {point.share:.0%}" for point in curve)
    return f"{word}: {losses.replace('-', '−')}"
