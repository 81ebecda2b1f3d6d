"""What came of a run, told from its snapshots: the dense score, one row per compression, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prune_core.runs.snapshots import Snapshot
from prune_core.runs.stages import DENSE, Stage


def dense_score(snapshots: Iterable[Snapshot], metric: str) -> float | None:
    """The dev score of the dense weights; None until they are there."""
    return dense_scores(snapshots).get(metric)


def dense_scores(snapshots: Iterable[Snapshot]) -> dict[str, float]:
    """Metric -> score of the dense weights; {} until they are there."""
    return next((dict(s.scores) for s in snapshots if s.saved == DENSE), {})


def points(snapshots: Iterable[Snapshot], compressions: Sequence[float], metric: str) -> list[dict]:
    """One row per compression asked for: what was reached, and both dev scores (None until they are there)."""
    ends = {s.saved: s for s in snapshots if s.saved}
    rows = []
    for compression in compressions:
        cut, retrained = (ends.get(Stage.of(kind, compression)) for kind in ("penalty", "retrain"))
        reached = (retrained or cut).point if retrained or cut else {}
        unknown = dict.fromkeys(("sparsity", "compression_encoder", "compression_model"))
        rows.append({"compression": compression} | unknown | dict(reached)
                    | {"score_thresholded": cut.scores[metric] if cut else None,
                       "score_retrained": retrained.scores[metric] if retrained else None})
    return rows


def warnings(dense: Mapping[str, float], rows: Iterable[Mapping], metric: str, majority: float, notes: list[str],
             shares: Sequence[float] | None = None) -> list[str]:
    """What someone who reads the scores must know: labels that seem swapped, else ends near the majority class; notes.

    `dense`: all scores of the dense weights, {} until they are there; `rows` as told above; `majority`: what always
    giving the most frequent answer scores; `shares`: of each class in the dev set.
    """
    if why := swapped(dense, metric, majority, shares):
        return [why, *notes]
    ends = [("dense", dense.get(metric)), *((f"{row['compression']:g}x {kind}", row[f"score_{kind}"])
                                            for row in rows for kind in ("thresholded", "retrained"))]
    near = [f"{name} {score:.3f}" for name, score in ends if score is not None and score <= majority + 0.02]
    words = f"near what the majority class scores ({metric} {majority:.3f}), so collapsed or close to it: "
    return [words + ", ".join(near)] * bool(near) + list(notes)


def swapped(dense: Mapping[str, float], metric: str, majority: float, shares: Sequence[float] | None) -> str:
    """'' or, where the dense model scores far below what any constant answer would, that its labels may be swapped.

    Far below: under 0.6 of the accuracy of the rarest class as the only answer; a correlation under -0.2.
    """
    if metric.startswith("accuracy") and shares is None:  # a run of before they were recorded
        shares = (majority, 1 - majority)
    name, limit = next(((name, -0.2) for name in ("matthews_correlation", "spearman") if name in dense), (None, 0.0))
    if name is None and shares:
        name = next((name for name in dense if name.startswith("accuracy")), None)
        limit = 0.6 * min(shares)
    if name is None or dense[name] >= limit:
        return ""
    return (f"far below chance ({name} {dense[name]:.3f}), so the labels may be swapped: check that those of the "
            "checkpoint and of the data stand in one order")
