"""What came of a run, told from its snapshots: the dense score, one row per compression, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prune_core.runs.snapshots import Snapshot
from prune_core.runs.stages import DENSE, Stage


def dense_score(snapshots: Iterable[Snapshot], metric: str) -> float | None:
    """The dev score of the dense weights; None until they are there."""
    return next((s.scores[metric] for s in snapshots if s.saved == DENSE), None)


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


def warnings(dense: float | None, rows: Iterable[Mapping], metric: str, majority: float, notes: list[str]) -> list[str]:
    """What someone who reads the scores must know: ends near the majority class, then what was noted of the data.

    `dense` and `rows` as told above; `majority`: what always giving the most frequent answer scores.
    """
    ends = [("dense", dense), *((f"{row['compression']:g}x {kind}", row[f"score_{kind}"])
                                for row in rows for kind in ("thresholded", "retrained"))]
    near = [f"{name} {score:.3f}" for name, score in ends if score is not None and score <= majority + 0.02]
    words = f"near what the majority class scores ({metric} {majority:.3f}), so collapsed or close to it: "
    return [words + ", ".join(near)] * bool(near) + list(notes)
