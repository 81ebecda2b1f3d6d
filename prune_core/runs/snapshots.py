"""What happened in a run: snapshots in order. Numpy only, read by the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prune_core.cutting.answers import SurfacePoint
from prune_core.runs.stages import Stage


@dataclass(frozen=True)
class Snapshot:
    """A recorded moment of a run. `phase`: dense, penalty, or retrain-2x and the like; `step` counts within it.

    `saved` names the stage whose weights were kept here (dense, penalty-2x, retrain-2x), and whose score,
    norms and surface this snapshot then carries. `norms`: matrix name -> (groups down, groups across).
    """

    phase: str
    step: int
    loss: float | None = None
    penalty: float | None = None  # times lambda, as it stands in the objective
    lam: float | None = None  # lambda, mean over scope keys
    zero_share: float | None = None
    residuals: Mapping[str, float] | None = None  # of ADMM over ||W||: primal ||W - Z||, dual ||Z - Z_old||
    milestone: bool = False  # gamma was refreshed here
    scores: Mapping[str, float] | None = None  # every metric of the task
    examples: int | None = None  # dev examples behind `scores`
    surface: Sequence[SurfacePoint] | None = None
    surface_examples: int | None = None
    saved: Stage | None = None
    point: Mapping[str, float] | None = None  # sparsity and both compressions of `saved`, and `blocks` with a pattern
    norms: Mapping[str, np.ndarray] | None = field(default=None, repr=False, compare=False)
    weights: Callable | None = field(default=None, repr=False, compare=False)  # -> tensors of `saved`

    @property
    def blocks(self) -> float:
        """The share of weights that `saved` has cut by blocks: its sparsity, but where a pattern cuts as well."""
        return self.point.get("blocks", self.point["sparsity"])

    @property
    def label(self) -> str:
        """'penalty-2x' where weights were saved, else 'penalty step 120', with a mark where gamma was refreshed."""
        return self.saved or f"{self.phase} step {self.step:,}" + (" (milestone)" if self.milestone else "")


@dataclass(frozen=True)
class Working:
    """Something slow goes on between snapshots; not recorded. `done` of `total` dev evaluations."""

    phase: str
    doing: str
    done: int
    total: int
