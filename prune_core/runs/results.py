"""What came of a run, told from its snapshots: the dense score, one row per compression, and what to beware of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prune_core.precision.storage import Storage
from prune_core.runs.snapshots import Snapshot
from prune_core.runs.stages import DENSE, Stage

NEAR = 0.02  # above what the most frequent answer scores: a model that has learned nothing may reach it by chance


def dense_score(snapshots: Iterable[Snapshot], metric: str) -> float | None:
    """The dev score of the dense weights; None until they are there."""
    return dense_scores(snapshots).get(metric)


def dense_scores(snapshots: Iterable[Snapshot]) -> dict[str, float]:
    """Metric -> score of the dense weights; {} until they are there."""
    return next((dict(s.scores) for s in snapshots if s.saved == DENSE), {})


def points(snapshots: Iterable[Snapshot], compressions: Sequence[float], metric: str,
           stored: Callable[[Stage], Storage | None] = lambda stage: None) -> list[dict]:
    """One row per compression asked for: what was reached, and both dev scores (None until they are there).

    `bytes` of the whole model and `encoder_bytes` of its prunable matrices, index included, as `stored` has them.
    """
    ends = {s.saved: s for s in snapshots if s.saved}
    rows = []
    for compression in compressions:
        cut, retrained = (ends.get(Stage.of(kind, compression)) for kind in ("penalty", "retrain"))
        end = retrained or cut
        size = end and stored(end.saved)
        unknown = dict.fromkeys(("sparsity", "compression_encoder", "compression_model"))
        rows.append({"compression": compression} | unknown | (dict(end.point) if end else {})
                    | {"bytes": size and size.bytes, "encoder_bytes": size and size.encoder.stored}
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
    return [*near_chance(dense, rows, metric, majority), *notes]


def near_chance(dense: Mapping[str, float], rows: Iterable[Mapping], metric: str, majority: float) -> list[str]:
    """A sentence for the dense weights and for each kind of result that scores about what guessing does; [] if none."""
    told, rows = [], list(rows)
    if (score := dense.get(metric)) is not None and score <= majority + NEAR:
        told.append(f"The dense model is no better than guessing ({score:.3f}; majority class {majority:.3f}).")
    for kind, when in (("thresholded", "before"), ("retrained", "after")):
        ends = [(f"{row['compression']:g}x", row[f"score_{kind}"]) for row in rows]
        near = [(name, f"{score:.3f}") for name, score in ends if score is not None and score <= majority + NEAR]
        if near:
            names, scores = ([part[at] for part in near] for at in (0, 1))
            told.append(f"At {_listed(names)}, {when} retraining, it is no better than guessing "
                        f"({', '.join(scores)}; majority class {majority:.3f}).")
    return told


def _listed(names: Sequence[str]) -> str:
    """'2x, 3x and 5x'"""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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
