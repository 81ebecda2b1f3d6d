"""Settings: cuts at a snapshot of a run, those that can be chosen, and settings as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prune_core import InputError
from prune_core.cutting import cuts
from prune_core.cutting.answers import GRID, SurfacePoint, predict, predict_mixed
from prune_core.cutting.cuts import Cut, SurfaceKind
from prune_core.cutting.masks import SCOPES, BlockMask, Norms, by_scope, sparsity_of
from prune_core.precision.formats import Format, parse
from prune_core.precision.storage import Storage, counts, storage
from prune_core.runs import best, mixtures
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.stages import DENSE, KINDS, Stage

MOST = 4  # settings in one report
READY = (1.5, 2.0, 3.0)  # compressions that are offered of weights with a recorded surface


@dataclass(frozen=True)
class Setting:
    """A cut at a snapshot of a run: `at` is its position. It can be hashed, so it is a cache key."""

    name: str
    at: int
    cut: Cut

    def mask(self, run: Run) -> BlockMask:
        """What it keeps. Raises InputError."""
        return self.cut.mask(self.ranking(run), run.layout)

    def ranking(self, run: Run) -> Norms:
        """What its thresholds are on: norms of the snapshot, or another ranking recorded for it. Raises InputError."""
        if self.cut.ranking == "norm":
            return run.norms(self.at)
        return run.ranking(run.snapshots[self.at].saved, self.cut.ranking)

    def surface(self, run: Run) -> Sequence[SurfacePoint] | None:
        """The surface recorded for cuts of its kind; None where there is none."""
        saved = run.snapshots[self.at].saved
        return self.cut.predicted_from(run.surfaces(saved)) if saved else None

    def numbers(self, run: Run) -> dict[str, float | None]:
        """Sparsity, both compressions, and the predicted score: None where no surface tells it. Raises InputError.

        A pattern's zeros are among the zeros.
        """
        mask, formats = self.mask(run), parse(self.cut.formats, run.layout)
        predicted = self.predicted(run, mask)
        return counts(mask, formats) | {"predicted_score": predicted and predicted[0]}

    def predicted(self, run: Run, mask: BlockMask) -> tuple[float, float, float] | None:
        """(score, low, high) off the surface of its kind; for several formats off the surfaces of all; else None."""
        saved = run.snapshots[self.at].saved
        return foretold(self.cut, mask, run.surfaces(saved)) if saved else None

    def storage(self, run: Run) -> Storage:
        """The bytes that it takes. Raises InputError."""
        return storage(self.mask(run), parse(self.cut.formats, run.layout), run.embeddings)

    def to_json(self, run: Run) -> dict:
        """As `--settings` takes it, without what goes without saying."""
        cut = self.cut
        said = {"at": run.snapshots[self.at].label, **cut.to_json(),
                "by": cut.ranking if cut.ranking != "norm" else None, "repaired": cut.repaired or None}
        return {key: value for key, value in said.items() if value is not None}


def foretold(cut: Cut, mask: BlockMask,
             surfaces: Mapping[SurfaceKind, Sequence[SurfacePoint]]) -> tuple[float, float, float] | None:
    """(score, low, high) of a cut that keeps `mask`, off these surfaces; None where they do not tell.

    Of several formats as answers.predict_mixed has it. Raises InputError for formats of another layout.
    """
    if surface := cut.predicted_from(surfaces):
        return predict(surface, mask.sparsity)
    plain, formats = replace(cut, formats="").predicted_from(surfaces), parse(cut.formats, mask.layout)
    if plain is None or formats.scope == "global":
        return None
    shares: dict[Format, float] = {}
    of = formats.of(mask.layout)
    for matrix in mask.layout.matrices:
        share = matrix.m * matrix.n / mask.layout.encoder_weights
        shares[of[matrix.name]] = shares.get(of[matrix.name], 0.0) + share
    alone = {one: str(replace(formats, scope="global", weights=(one,))) for one in shares}
    parts = [(share, replace(cut, formats=alone[one]).predicted_from(surfaces)) for one, share in shares.items()]
    return predict_mixed(plain, parts, mask.sparsity)


# ---------------------------------------------------------------- what goes without saying


def usual(run: Run, at: int | None = None) -> Cut:
    """Where the run itself cuts: at a stage of some compression there, else (`at`: position of a snapshot) first.

    What is retrained is as it is: nothing more is cut, there and wherever one steps from it. Each stage in its formats.
    """
    scope = run.config.scope if run.config.scope in SCOPES else "global"
    stage = run.snapshots[at].saved if at is not None else None
    if stage and stage.kind == "retrain":
        return Cut(scope, 0.0, formats=run.trained_formats(stage))
    compression = (stage.compression if stage else None) or run.config.compressions[0]
    share = int(1e4 * sparsity_of(compression) + 1e-9) / 1e4  # never more than the stage has cut
    return Cut(scope, share, formats=run.trained_formats(stage) if stage else "")


def opening(run: Run, at: int | None = None) -> Setting:
    """What a run is opened on: its best stage (best.py), or the snapshot at position `at`; cut as it is there.

    By the ranking that ranks it best. The run has snapshots with norms.
    """
    if at is None:
        stage = best.opening(run)
        at = run.saved(stage) if stage else run.with_norms[-1]
    stage = run.snapshots[at].saved
    return Setting("", at, replace(usual(run, at), ranking=best.ranking(run, stage) if stage else "norm"))


def cut_of(run: Run, share: float | None = None, threshold: float | Mapping[str, float] | None = None,
           scope: str | None = None, ranking: str = "norm", repaired: bool = False, formats: str = "") -> Cut:
    """A cut of this run: a share, one threshold for all scope keys, or one for each. `scope`: by default the run's.

    `formats`: of what stays. Raises InputError where they do not fit the run.
    """
    scope = scope or run.config.scope
    if isinstance(threshold, int | float):
        threshold = dict.fromkeys(by_scope(run.layout, scope), float(threshold))
    return Cut(scope, share, threshold, ranking, repaired, str(parse(formats, run.layout)))


def default_stage(run: Run, share: float | None, weights: bool = True) -> Stage:
    """The most trained stage that is not already sparser than asked; the last one if no share was asked.

    Of those whose `weights` are there, unless only norms are needed. Raises RunError, saying how to get them.
    """
    there = {stage for stage in run.stages if run.has_weights(stage) or not weights}
    stages = [s.saved for s in run.snapshots if s.saved in there
              and (share is None or s.blocks <= share + 0.01 or s.saved == DENSE)]
    if not stages:
        if weights:
            run.weights_file(DENSE)  # raises, and says how to get them
        raise RunError(f"run {run.name!r} has no stage yet")
    return max(stages)


# ---------------------------------------------------------------- what can be chosen


def ends(run: Run) -> dict[Stage, Setting]:
    """The weights of every stage as they are: nothing more cut."""
    nothing = Cut("global", None, (("all", 0.0),))
    return {s.saved: Setting(s.saved, at, replace(nothing, formats=run.trained_formats(s.saved)))
            for at, s in enumerate(run.snapshots) if s.saved and at in run.with_norms}


def results(run: Run) -> list[Setting]:
    """The run's own results: what it retrained, the best first and then its neighbours; else what it cut, else its
    dense weights; at most MOST."""
    known = ends(run)
    if around := [known[stage] for stage in best.around(run, MOST) if stage in known]:
        return around
    for kind in reversed(KINDS):
        if settings := [setting for stage, setting in known.items() if stage.kind == kind]:
            return settings[:MOST]
    return []


def offered(run: Run) -> dict[str, Setting]:
    """By what to call them: the stages, and after each the cuts of its weights that a recorded surface predicts."""
    choices = {}
    for saved, end in ends(run).items():
        choices[saved] = end
        zeros = run.snapshots[end.at].blocks
        whole = [kind for kind, points in run.surfaces(saved).items() if len(points) == len(GRID)]
        for kind, compression in ((kind, c) for kind in whole for c in READY if sparsity_of(c) > zeros + 0.01):
            name = f"{saved}, cut {compression:g}x by {kind.ranking}" + ", repaired" * kind.repaired
            name += "" if kind.scope == "global" else f", each {kind.scope}"
            name += f", {parse(kind.formats).words}" if kind.formats else ""
            cut = Cut(kind.scope, round(sparsity_of(compression), 4), None, kind.ranking, kind.repaired, kind.formats)
            choices[name] = Setting(name, end.at, cut)
    return choices


# ---------------------------------------------------------------- as text


def as_text(settings: Sequence[Setting], run: Run) -> str:
    """As `--settings` takes them: JSON, without what goes without saying."""
    return json.dumps([setting.to_json(run) for setting in settings])


def from_json(text: str, run: Run) -> list[Setting]:
    """The settings of a JSON list of {at, scope, share or thresholds, by, repaired, formats}. Raises InputError."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("--settings is not JSON; needed: "
                         'a list of {"at": ..., "scope": ..., "share": ...}') from None
    if not isinstance(said, list) or not 1 <= len(said) <= MOST or not all(isinstance(one, dict) for one in said):
        raise InputError(f"--settings must be a JSON list of 1 to {MOST} objects")
    return [setting_of(f"setting {letter}", one, run) for letter, one in zip("ABCD", said, strict=False)]


def setting_of(name: str, said: Mapping, run: Run) -> Setting:
    """The setting that one such object names, or {mixture}: one that a search found. Raises InputError."""
    if isinstance(said.get("mixture"), str):
        mixture = mixtures.named(run, said["mixture"], said.get("at"))
        return Setting(name, run.saved(mixture.stage), mixture.cut)
    by_label = {run.snapshots[at].label: at for at in run.with_norms}
    at = by_label.get(said["at"]) if isinstance(said.get("at"), str) else None
    if at is None:
        known = ", ".join(run.stages) or "none"
        raise InputError(f"{name}: at {str(said.get('at'))[:60]!r} is no recorded snapshot of run {run.name!r}; "
                         f"its stages: {known}")
    given = {"scope": said.get("scope", "global"), "share": said.get("share"), "thresholds": said.get("thresholds")}
    formats = said.get("formats", "")
    if not isinstance(formats, str):
        raise InputError(f"{name}: formats {str(formats)[:40]!r} are no text; needed: as 'evaluate --json' prints them")
    cut = cuts.from_json(given, run.layout)
    if cut is None:
        raise InputError(f"{name}: needed: a scope (global, layer, type, matrix), and a share from 0 up to 1 "
                         "or a threshold for each scope key")
    ranking, repaired = said.get("by", "norm"), said.get("repaired", False)
    known = run.rankings(run.snapshots[at].saved) if run.snapshots[at].saved else ["norm"]
    if ranking not in known or not isinstance(repaired, bool):
        raise InputError(f"{name}: by {str(ranking)[:40]!r} and repaired {str(repaired)[:20]!r}; "
                         f"needed: one of {', '.join(known)}, and true or false")
    formats = str(parse(formats, run.layout))
    return Setting(name, at, Cut(cut.scope, cut.share, cut.thresholds, ranking, repaired, formats))
