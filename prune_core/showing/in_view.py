"""What a map in a notebook shows of a run: which snapshot, cut where, ranked how; and what can be asked of that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from prune_core import InputError
from prune_core.cutting import cuts, masks
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import SCOPES, BlockMask, by_scope
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch, Profile
from prune_core.machine import machine
from prune_core.precision.formats import parse
from prune_core.runs import settings
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.showing import canvas
from prune_core.showing.canvas import Start

SETTING = Batch(32, 128)  # what the speedup beside a threshold is predicted for, as in the app
SAME = 1e-6  # sparsities of one and the same cut
SPREAD = 6  # snapshots behind a run's colour scale: norms change slowly


@dataclass(frozen=True, eq=False)
class InView:
    """A cut at a snapshot of a run (`at`: its position), and all that follows from it. Raises InputError in use."""

    run: Run
    at: int
    cut: Cut

    @property
    def setting(self) -> Setting:
        return Setting("in view", self.at, self.cut)

    label = property(lambda self: self.run.snapshots[self.at].label)
    stage = property(lambda self: self.run.snapshots[self.at].saved)
    norms = cached_property(lambda self: self.setting.ranking(self.run))
    thresholds = cached_property(lambda self: self.cut.resolved(self.norms, self.run.layout))
    numbers = cached_property(lambda self: self.setting.numbers(self.run))

    @cached_property
    def mask(self) -> BlockMask:
        return masks.mask_at(self.norms, self.run.layout, self.thresholds, self.cut.scope)

    @property
    def score(self) -> tuple[float | None, str]:
        """(score, recorded or predicted) as recorded scores have it; (None, "") where they say nothing."""
        told = self.setting.predicted(self.run, self.mask)
        if told is None:
            return None, ""
        near = (abs(point.sparsity - self.mask.sparsity) < SAME for point in self.setting.surface(self.run) or ())
        return told[0], "recorded" if any(near) else "predicted"

    @property
    def sent(self) -> dict:
        """Which cut of which weights this is, as the browser compares it with its own."""
        return {"run": self.run.name, "moment": self.run.with_norms.index(self.at), "ranking": self.cut.ranking,
                "repaired": self.cut.repaired, "dtype": "fp32", "scope": self.cut.scope, "data": "",
                "thresholds": self.thresholds, "formats": self.cut.formats}

    def words(self, score: float | None, how: str) -> str:
        """All of it in one line, with its score."""
        scored = "" if score is None else f", {canvas.score_title(self.run)} {score:.3f} ({how})"
        return f"{self.run.name}, {self.label}: {100 * self.numbers['sparsity']:.1f}% cut{scored}"

    def shares_norms(self, other: InView) -> bool:
        """Whether both cut the same weights by the same ranking: the browser then needs no others."""
        return (self.at, self.cut.ranking, self.cut.repaired) == (other.at, other.cut.ranking, other.cut.repaired)

    def scale(self, high: float) -> float:
        """The top of its colour scale: `high`, the run's, for norms; of this snapshot for another ranking."""
        return high if self.cut.ranking == "norm" else masks.norm_scale([self.norms])

    def content(self, high: float, profile: Profile | None) -> bytes:
        """What the browser is sent of it: canvas.pack."""
        surfaces = self.run.surfaces(self.stage) if self.stage else {}
        alike = {kind: points for kind, points in surfaces.items()
                 if (kind.ranking, kind.repaired) == (self.cut.ranking, self.cut.repaired)}
        head = canvas.header(self.run, self.at, self.scale(high), Start(self.cut), settings.usual(self.run, self.at),
                             profile, SETTING, alike, mark=profile.elsewhere(machine()) if profile else "")
        kind = f"{self.cut.ranking} {self.cut.repaired}"
        asking = "view.exact() scores it" if self.stage and self.run.has_weights(self.stage) else ""
        head |= {"value": self.cut.ranking, "repaired": self.cut.repaired, "dtype": "fp32", "kind": kind,
                 "asks": self.cut.ranking, "exact": False, "asking": asking}
        return canvas.pack(head, self.norms)


def opened(run: Run, at: str | None = None, cut: object = None) -> InView:
    """What a run is shown at: its best stage cut as it is there, unless other is asked for. Raises InputError."""
    if not run.with_norms:
        raise InputError(f"run {run.name!r} has no block norms yet, so there is nothing to show; needed: a run that "
                         "has begun its first phase")
    first = settings.opening(run, None if at is None else position(run, at))
    view = InView(run, first.at, first.cut)
    return view if cut is None else replace(view, cut=checked(view, cut))


def position(run: Run, label: str) -> int:
    """Where the snapshot of this label lies: 'dense', 'retrain-2x', 'penalty step 120'. Raises InputError."""
    by_label = {run.snapshots[at].label: at for at in run.with_norms}
    if label not in by_label:
        stages = ", ".join(stage for stage in run.stages if stage in by_label) or "none yet"
        raise InputError(f"run {run.name!r} has no snapshot {str(label)[:60]!r}; its stages: {stages}")
    return by_label[label]


def checked(view: InView, given: object) -> Cut:
    """A cut as a person gives it: a share of the weights, or a Cut. Raises InputError where it does not fit the run."""
    if isinstance(given, int | float | np.number) and not isinstance(given, bool):
        given = replace(view.cut, share=float(given), thresholds=None)
    if not isinstance(given, Cut):
        raise InputError(f"cut {str(given)[:60]!r} is none; needed: a share of the weights such as 0.5, or a Cut")
    if given.scope not in SCOPES:
        raise InputError(f"scope {given.scope!r} is unknown; one of {', '.join(SCOPES)}")
    if given.share is not None and not 0 <= given.share < 1:
        raise InputError(f"cut {given.share:g} is out of range; needed: a share of the weights from 0 up to 1, "
                         "for example 0.5")
    if given.share is None:
        _check_thresholds(view, given)
    if given.ranking not in (known := rankings(view.run, view.at)):
        raise InputError(f"ranking {given.ranking!r} was not recorded at {view.label!r}; there: {', '.join(known)}")
    return replace(given, formats=str(parse(given.formats, view.run.layout)))


def _check_thresholds(view: InView, cut: Cut) -> None:
    """Raises InputError unless there is a threshold of 0 or more for every scope key."""
    keys, given = list(by_scope(view.run.layout, cut.scope)), dict(cut.thresholds or ())
    missing = [key for key in keys if not isinstance(given.get(key), int | float) or not 0 <= given[key] < np.inf]
    if missing or set(given) - set(keys):
        odd = (missing or sorted(set(given) - set(keys)))[0]
        raise InputError(f"thresholds do not fit scope {cut.scope!r} of run {view.run.name!r}, first at {odd!r}; "
                         f"needed: a number from 0 for each of {len(keys)}: {', '.join(keys[:3])}"
                         f"{' ...' if len(keys) > 3 else ''}")


def turned(view: InView, ranking: str, repaired: bool) -> InView:
    """The same cut ranked and repaired as is wished, as far as that ranking was recorded there."""
    ranking = ranking if ranking in rankings(view.run, view.at) else "norm"
    return replace(view, cut=replace(view.cut, ranking=ranking, repaired=repaired))


def heard(before: InView, said: Mapping, ranking: str, repaired: bool) -> InView:
    """What a hand in a browser has in view now, where that is known to be a part of this run. Raises InputError."""
    number, places = said.get("moment"), before.run.with_norms
    at = places[number] if isinstance(number, int) and 0 <= number < len(places) else before.at
    view = turned(replace(before, at=at), ranking, repaired)
    cut = cuts.in_force(said.get("cut") or {}, before.run.layout, view.cut.ranking, view.norms)
    return replace(view, cut=replace(cut, repaired=repaired, formats=str(parse(cut.formats, before.run.layout)))
                   if cut else view.cut)


def rankings(run: Run, at: int) -> list[str]:
    """What a threshold may be on at this snapshot."""
    saved = run.snapshots[at].saved
    return run.rankings(saved) if saved else ["norm"]


def same(one: Cut, other: Cut) -> bool:
    """Whether a browser means this cut: numbers come back from it as they cut, with no more digits than they need."""
    if replace(one, share=None, thresholds=None) != replace(other, share=None, thresholds=None):
        return False
    if one.share is not None or other.share is not None:
        return one.share == other.share
    mine, its = dict(one.thresholds), dict(other.thresholds)
    return mine.keys() == its.keys() and all(np.float32(mine[key]) == np.float32(its[key]) for key in mine)


def pinned(run: Run, said: Mapping) -> Setting | None:
    """A pin of the browser's as a setting; None where it is none of this run."""
    cut, number = cuts.from_json(said.get("cut") or {}, run.layout), said.get("moment")
    if cut is None or not isinstance(number, int) or not 0 <= number < len(run.with_norms):
        return None
    at, ranking = run.with_norms[number], said.get("ranking", "norm")
    ranking = ranking if ranking in rankings(run, at) else "norm"
    return Setting(str(said.get("name")), at, replace(cut, ranking=ranking, repaired=said.get("repaired") is True))


def profile() -> Profile | None:
    """What speedups are predicted from: this machine's calibration, else one that came along; None where none is."""
    here = machine()
    for path in profile_files.known(profile_files.own_file(here, os.cpu_count() or 1)):
        try:
            return profile_files.read(path)
        except InputError:
            continue
    return None


def colour_scale(run: Run) -> float:
    """The top of a run's colour scale, the same for all its snapshots. Raises RunError."""
    spread = np.linspace(0, len(run.with_norms) - 1, SPREAD).round().astype(int)
    return masks.norm_scale([run.norms(run.with_norms[place]) for place in sorted(set(spread.tolist()))])
