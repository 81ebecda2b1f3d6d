"""What to say before a cut is handed out that was not retrained."""

from __future__ import annotations

from math import log

from prune_core.cutting.masks import BlockMask
from prune_core.runs import best
from prune_core.runs.best import Result
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage

ABOUT = log(1.15)  # compressions that differ by less are about the same


def retrained(run: Run, compression: float) -> Result | None:
    """The retrained stage of about this encoder compression; None where there is none."""
    near = {result: abs(log(result.compression_encoder / compression)) for result in best.of([run])}
    nearest = min(near, key=near.get, default=None)
    return nearest if nearest is not None and near[nearest] <= ABOUT else None


def instead(run: Run, stage: Stage, mask: BlockMask) -> tuple[str, Result | None]:
    """(one line, the retrained stage to hand out instead or None); ('', None) where the cut was retrained or is none.

    A retrained stage that is cut further than it was retrained for counts as not retrained.
    """
    compression = mask.compression_encoder
    own = stage.compression if stage.kind == "retrain" else 1.0
    if compression == float("inf") or log(compression / own) <= ABOUT / 2:
        return "", None
    better = retrained(run, compression)
    if better is None:
        return ("This cut was not retrained, and no stage of this run was at about "
                f"{compression:.2f}x: retraining usually wins back points."), None
    return f"This cut was not retrained: {better.stage} of this run scores {better.score:.3f}.", better
