"""The best result of several runs: what pages open on, and what Compare, Home and Report name. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from prune_core.cutting.answers import GRID, predict
from prune_core.cutting.masks import BYTES
from prune_core.methods.rankings import RANKINGS
from prune_core.methods.table import METHODS
from prune_core.precision.formats import parse
from prune_core.runs.results import NEAR
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage

ALLOWED = 0.01  # of the dense score that a cut may lose, where nobody says otherwise


class Scored(Protocol):
    """What the rule asks of a result: a dev score, and that of the dense model it was made from."""

    score: float
    dense: float


R = TypeVar("R", bound=Scored)


@dataclass(frozen=True, eq=False)
class Result:
    """A retrained stage of a run: its exact dev score, the dense one of the same run, and its size."""

    run: Run
    stage: Stage
    score: float
    dense: float
    compression_encoder: float  # dense / kept weights of the prunable matrices
    compression_model: float  # of the whole model
    encoder_bytes: int | None = None  # of the prunable matrices, index included; None where the norms are not there

    @property
    def formats(self) -> str:
        """Those that its weights were trained in, as precision/formats.py reads them; '' for fp32."""
        return self.run.trained_formats(self.stage)

    @property
    def fewer(self) -> float:
        """How many times fewer bytes the prunable matrices take than in fp32; where none are known, as cut alone."""
        return BYTES * self.run.layout.encoder_weights / self.encoder_bytes if self.encoder_bytes else (
            self.compression_encoder)

    @property
    def useless(self) -> bool:
        """Whether it scores no better than always giving the most frequent answer."""
        return self.score <= self.run.majority_score + NEAR

    @property
    def uncertain(self) -> float | None:
        """Half of the score's 95% interval over the dev examples; None where none was recorded.

        Where it was recorded for fewer examples: narrowed by the root of how many more there are.
        """
        snapshot = self.run.snapshots[self.run.saved(self.stage)]
        if not snapshot.surface or not snapshot.examples:
            return None
        first = min(snapshot.surface, key=lambda point: point.wanted)
        fewer = (snapshot.surface_examples or snapshot.examples) / snapshot.examples
        return (first.high - first.low) / 2 * fewer**0.5


def of(runs: Iterable[Run]) -> list[Result]:
    """Every retrained stage of these runs."""
    return [Result(run, Stage.of("retrain", point["compression"]), point["score_retrained"], run.dense_score,
                   point["compression_encoder"], point["compression_model"], point["encoder_bytes"])
            for run in runs for point in run.points
            if point["score_retrained"] is not None and run.dense_score is not None]


def subject(run: Run) -> str:
    """What its scores are on, 'sst2', 'sst2 on the practice set', 'reviews on reviews.csv': alike for runs to compare.

    GLUE is one, wherever its files lie.
    """
    return (run.task if run.is_glue else f"{run.task} on the practice set" if run.is_practice else
            f"{run.task} on {Path(run.data).name}")


def subjects(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Subject -> its runs with something retrained whose norms were recorded, of one metric; those with most first."""
    found: dict[str, list[Run]] = {}
    for result in of(runs):
        run = result.run
        alike = found.setdefault(subject(run), [])
        if run not in alike and shown(result) and (not alike or alike[0].metric == run.metric):
            alike.append(run)
    return dict(sorted(((name, alike) for name, alike in found.items() if alike), key=lambda one: -len(one[1])))


def shown(result: Result) -> bool:
    """Whether the norms that name its cut were recorded."""
    return result.stage in result.run.stages and result.run.saved(result.stage) in result.run.with_norms


def keeps(result: Scored, allowed: float) -> bool:
    """Whether it scores at most `allowed` below the dense model."""
    return result.dense - result.score <= allowed + 1e-9


def _place(result: Scored, allowed: float, worth: Callable[[Any], float]) -> tuple[float, ...]:
    """Where the rule puts a result, the first lowest. A tenth of what it is worth is no difference: then scores say."""
    if keeps(result, allowed):
        return 0, -round(worth(result), 1), -result.score
    return 1, result.dense - result.score


def size(results: Iterable[Any]) -> Callable[[Any], float]:
    """What results are worth where nothing else is said: the compression of the encoder, or, where any of them was
    trained in fewer bits or with a pattern, how many times fewer bytes it takes than in fp32."""
    return attrgetter("fewer" if any(result.formats for result in results) else "compression_encoder")


def ranked(results: Iterable[R], allowed: float = ALLOWED, worth: Callable[[Any], float] | None = None) -> list[R]:
    """The rule: those within `allowed` of their dense score first, by what they are worth (`size`), then by score.

    After them the others, those that lose least first.
    """
    results = list(results)
    worth = worth or size(results)
    return sorted(results, key=lambda result: _place(result, allowed, worth))


def best(results: Iterable[R], allowed: float = ALLOWED, worth: Callable[[Any], float] | None = None) -> R | None:
    """The first by the rule: where none is within, the one that loses least. None of none."""
    return next(iter(ranked(results, allowed, worth)), None)


def better(run: Run, runs: Iterable[Run], allowed: float = ALLOWED) -> Result | None:
    """The best result of other runs of the same task, data and metric, where the rule puts it before all of `run`'s."""
    own, rivals = of([run]), of(other for other in runs if other.name != run.name
                                and (other.task, other.data, other.metric) == (run.task, run.data, run.metric))
    worth = size([*own, *rivals])
    mine, first = best(own, allowed, worth), best(rivals, allowed, worth)
    if first is None or (mine and _place(mine, allowed, worth) <= _place(first, allowed, worth)):
        return None
    return first


def told(result: Result | None) -> str:
    """'Another run does better: NAME, 3x by group-lasso in 4 bits, ..., 0.883 of 0.900 dense.' '' for none."""
    if result is None:
        return ""
    run = result.run
    few = f" in {parse(result.formats).words}, {fewer_words(result)}" if result.formats else ""
    return (f"Another run does better: {run.name}, {result.stage.compression:g}x by {run.config.method}{few}, "
            f"{result.score:.3f} of {result.dense:.3f} dense.")


def fewer_words(result: Result) -> str:
    """'the encoder in 7.9x fewer bytes than in fp32'"""
    return f"the encoder in {result.fewer:.1f}x fewer bytes than in fp32"


def around(run: Run, most: int = 4) -> list[Stage]:
    """The best retrained stage, then its neighbours, the nearest in compression first; [] where nothing is retrained.

    What a report sets side by side.
    """
    stages = [result.stage for result in of([run])]
    if (first := best(of([run]))) is None:
        return []
    return sorted(stages, key=lambda stage: abs(np.log(stage.compression / first.stage.compression)))[:most]


def opening(run: Run) -> Stage | None:
    """The stage to open a run on: its best result whose weights and norms are there, else one without its weights.

    Where nothing is retrained: the last stage there is; None before the first.
    """
    shown = {run.snapshots[at].saved for at in run.with_norms} - {None}
    results = [result for result in of([run]) if result.stage in shown]
    with_weights = [result for result in results if run.has_weights(result.stage)]
    if chosen := best(with_weights or results):
        return chosen.stage
    return max((stage for stage in shown if run.has_weights(stage)), default=max(shown, default=None))


def ranking(run: Run, stage: str) -> str:
    """What ranks the blocks of a stage best, of what was recorded: the highest mean score over the recorded cuts.

    Without recorded scores of the same kind of cut for two rankings: what the run itself was ranked by; else the norm.
    """
    known = run.rankings(stage)
    means: dict[str, float] = {}
    for kind, points in run.surfaces(stage).items():
        if len(points) == len(GRID) and not kind.repaired and kind.ranking in known:
            mean = float(np.mean([predict(points, sparsity)[0] for sparsity in GRID]))
            means[kind.ranking] = max(mean, means.get(kind.ranking, -1.0))
    if len(means) > 1:
        return max(means, key=means.get)
    own = METHODS[run.config.method].ranking or run.config.ranking
    return own if own in known and RANKINGS[own].compares_matrices else "norm"

