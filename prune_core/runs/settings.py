"""Settings of a run that can be chosen, and settings as text.

They are what a report is asked for, by a page or by `--settings`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prune_core import InputError
from prune_core.cutting import cuts
from prune_core.cutting.answers import GRID, SurfacePoint, predict
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import SCOPES, BlockMask, Norms, sparsity_of
from prune_core.runs.run import Run

MOST = 4  # at once
READY = (1.5, 2.0, 3.0)  # compressions that are offered of weights with a recorded surface


def ends(run: Run) -> dict[str, Setting]:
    """The weights of every stage as they are: nothing more cut."""
    return {s.saved: Setting(s.saved, at, "global", None, {"all": 0.0})
            for at, s in enumerate(run.snapshots) if s.saved and at in run.with_norms}


def results(run: Run) -> list[Setting]:
    """The run's own results: what it retrained, else what it cut, else its dense weights; at most MOST."""
    known = ends(run)
    for phase in ("retrain-", "penalty-", "dense"):
        if settings := [one for name, one in known.items() if name.startswith(phase)]:
            return settings[:MOST]
    return []


def offered(run: Run) -> dict[str, Setting]:
    """By what to call them: the stages, and after each the cuts of its weights that a recorded surface predicts."""
    settings = {}
    for saved, end in ends(run).items():
        settings[saved] = end
        zeros = run.snapshots[end.at].point["sparsity"]
        whole = [kind for kind, points in run.surfaces(saved).items() if len(points) == len(GRID)]
        for kind, compression in ((kind, c) for kind in whole for c in READY if sparsity_of(c) > zeros + 0.01):
            name = f"{saved}, cut {compression:g}x by {kind.by}" + ", repaired" * kind.repaired
            name += "" if kind.scope == "global" else f", each {kind.scope}"
            share = round(sparsity_of(compression), 4)
            settings[name] = Setting(name, end.at, kind.scope, share, None, kind.by, kind.repaired)
    return settings


def as_text(settings: Sequence[Setting], run: Run) -> str:
    """As `--settings` takes them: JSON, without what goes without saying."""
    said = ({"at": run.snapshots[one.at].label, "scope": one.scope, "share": one.share,
             "thresholds": one.thresholds and dict(one.thresholds),
             "by": one.by if one.by != "norm" else None, "repaired": one.repaired or None} for one in settings)
    return json.dumps([{name: value for name, value in one.items() if value is not None} for one in said])


def from_json(text: str, run: Run) -> list[Setting]:
    """The settings that `--settings` names: a JSON list of {at, scope, share or thresholds, by, repaired}.

    Raises InputError.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        needed = '{"at": ..., "scope": ..., "share": ...}'
        raise InputError(f"--settings is not JSON; needed: a list of {needed}") from None
    if not isinstance(said, list) or not 1 <= len(said) <= MOST or not all(isinstance(one, dict) for one in said):
        raise InputError(f"--settings must be a JSON list of 1 to {MOST} objects")
    return [_setting(f"setting {letter}", one, run) for letter, one in zip("ABCD", said, strict=False)]


def _setting(name: str, said: Mapping, run: Run) -> Setting:
    by_label = {run.snapshots[at].label: at for at in run.with_norms}
    at = by_label.get(said["at"]) if isinstance(said.get("at"), str) else None
    if at is None:
        ends = ", ".join(run.saved_names) or "none"
        raise InputError(f"{name}: at {str(said.get('at'))[:60]!r} is no recorded moment of run {run.name!r}; "
                         f"ends of its phases: {ends}")
    cut = cuts.from_json({"scope": said.get("scope", "global"), "share": said.get("share"),
                          "thresholds": said.get("thresholds")}, run.layout)
    if cut is None:
        raise InputError(f"{name}: needed: a scope (global, layer, type, matrix), and a share from 0 up to 1 "
                         "or a threshold for each scope key")
    by, repaired = said.get("by", "norm"), said.get("repaired", False)
    known = run.rankings(run.snapshots[at].saved) if run.snapshots[at].saved else ["norm"]
    if by not in known or not isinstance(repaired, bool):
        raise InputError(f"{name}: by {str(by)[:40]!r} and repaired {str(repaired)[:20]!r}; "
                         f"needed: one of {', '.join(known)}, and true or false")
    return Setting(name, at, cut.scope, cut.share, cut.thresholds, by, repaired)


@dataclass(frozen=True)
class Setting:
    """A cut at the snapshot at position `at`: `share` of every scope key, or `thresholds` (scope key -> number)."""

    name: str
    at: int
    scope: str
    share: float | None
    thresholds: Mapping[str, float] | None = None
    by: str = "norm"
    repaired: bool = False

    def mask(self, run: Run) -> BlockMask:
        """What it keeps. Raises InputError."""
        return self.cut.mask(self.norms(run), run.layout)

    def norms(self, run: Run) -> Norms:
        """What its thresholds are on: norms of the snapshot, or another ranking of it. Raises InputError."""
        return run.norms(self.at) if self.by == "norm" else run.ranking(run.snapshots[self.at].saved, self.by)

    @property
    def cut(self) -> Cut:
        return Cut(self.scope, self.share, self.thresholds)

    def surface(self, run: Run) -> Sequence[SurfacePoint] | None:
        """The surface recorded for cuts of its kind; None where there is none."""
        saved = run.snapshots[self.at].saved
        surfaces = run.surfaces(saved) if saved else {}
        return self.cut.predicted_from({kind.scope: points for kind, points in surfaces.items()
                                        if (kind.by, kind.repaired) == (self.by, self.repaired)})

    def numbers(self, run: Run) -> dict[str, float | None]:
        """Sparsity, both compressions, and the predicted score: None where no surface holds for cuts of this kind."""
        mask, surface = self.mask(run), self.surface(run)
        return {"sparsity": mask.sparsity, "compression_encoder": mask.compression_encoder,
                "compression_model": mask.compression_model,
                "predicted_score": predict(surface, mask.sparsity)[0] if surface else None}


def usual(run: Run) -> Cut:
    """Where the run itself cuts first."""
    scope = run.config.scope if run.config.scope in SCOPES else "global"
    return Cut(scope, round(sparsity_of(run.config.compressions[0]), 4))
