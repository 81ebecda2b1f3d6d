"""Runs side by side: one table with mean and spread over seeds, in words, and which settings differ."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prune_core.cutting.masks import BYTES as BYTES_EACH
from prune_core.cutting.masks import mask_at
from prune_core.latency.profile import Batch, Profile
from prune_core.methods.table import DISTILLED, METHODS
from prune_core.precision import formats
from prune_core.runs import best
from prune_core.runs.results import NEAR
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.showing.report.recommend import points

COMPRESSIONS = ("compression_encoder", "compression_model")
BYTES = ("bytes", "encoder_bytes")
# May differ between runs that are compared
FREE = {"precision", "threads", "preset", "start_from", "dense_steps", "data"}
Speedup = Callable[[Run, dict], float | None]  # of a run's retrained model at one of its points


@dataclass(frozen=True)
class Row:
    """One method at one compression: its scores over the seeds."""

    method: str  # what tells it from the others: settings, or the name of its only run
    compression: float
    scores: tuple[float, ...]
    compression_encoder: float  # means of what the runs have
    compression_model: float
    dense: float = math.nan  # mean over the same runs
    by: str = ""  # the method's own name
    speedup: float | None = None  # mean over the same runs
    timed: bool = False  # whether it was measured; else it is predicted
    mark: str = ""  # on which machine, where it is predicted for another one
    majority: float = -math.inf  # what the most frequent answer scores
    runs: tuple[str, ...] = ()  # in the order of the scores
    bytes: float | None = None  # of the whole model, index included; mean over the same runs
    encoder_bytes: float | None = None  # of its prunable matrices
    dense_bytes: float = math.nan  # of the whole model in fp32
    dense_encoder_bytes: float = math.nan
    formats: str = ""  # in which the weights were trained, in words; "": fp32

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def score(self) -> float:
        return self.mean

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 with one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0

    @property
    def loss(self) -> float:
        """Points of the score below its own dense model; less than 0 where it scores higher."""
        return 100 * (self.dense - self.mean)

    @property
    def fewer(self) -> float | None:
        """How many times fewer bytes the whole model takes than in fp32."""
        return self.bytes and self.dense_bytes / self.bytes

    @property
    def fewer_encoder(self) -> float | None:
        """The same of its prunable matrices."""
        return self.encoder_bytes and self.dense_encoder_bytes / self.encoder_bytes

    @property
    def stage(self) -> Stage:
        return Stage.of("retrain", self.compression)

    @property
    def kind(self) -> str:
        """How the speedup is known: 'measured', 'predicted', 'predicted on AMD EPYC, not this machine'."""
        return "measured" if self.timed else f"predicted {self.mark}".strip()


def row_of(method: str, compression: float, own: Sequence[tuple[Run, dict]], by: str = "",
           speedup: Speedup = lambda run, point: None, timed: bool = False, mark: str = "") -> Row:
    """One of the same point in every run: (run, point)."""
    points, runs = [point for _, point in own], [run for run, _ in own]
    speedups = [speedup(run, point) for run, point in own]
    dense = [math.nan if run.dense_score is None else run.dense_score for run in runs]
    return Row(method, compression, tuple(p["score_retrained"] for p in points),
               *(statistics.fmean(p[name] for p in points) for name in COMPRESSIONS), statistics.fmean(dense),
               by or method, _mean(speedups), timed, mark, runs[0].majority_score, tuple(run.name for run in runs),
               *(_mean([point.get(name) for point in points]) for name in BYTES),
               *(statistics.fmean(BYTES_EACH * getattr(run.layout, of) for run in runs)
                 for of in ("model_weights", "encoder_weights")), _trained(runs[0], compression))


def _trained(run: Run, compression: float) -> str:
    """The formats in which a run's retrained weights are, in words; '' for fp32."""
    made = formats.parse(run.trained_formats(Stage.of("retrain", compression)))
    return "" if made.plain else made.words


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else statistics.fmean(values)


# ---------------------------------------------------------------- the answer

# What can be made as large as possible: name -> what to call it, and what a row is worth
AIMS: dict[str, tuple[str, Callable[[Row], float]]] = {
    "speedup": ("Speedup", lambda row: row.speedup or 0.0),
    "encoder": ("Encoder compression", lambda row: row.compression_encoder),
    "model": ("Model compression", lambda row: row.compression_model),
    "bytes": ("Fewer bytes", lambda row: row.fewer or 0.0),
    "score": ("Score", lambda row: 10 * row.mean),  # the rule takes a tenth for no difference
}


def sorted_rows(rows: Sequence[Row], allowed: float = best.ALLOWED, aim: str = "speedup") -> list[Row]:
    """As the rule has them: the answer first.

    For speedups, rows of which none is known come last of those within; where it is known of none, the encoder counts.
    """
    return best.ranked(rows, allowed, AIMS[_possible(rows, aim)][1])


def _possible(rows: Sequence[Row], aim: str) -> str:
    """The aim, or the encoder's compression where speedups are asked for and none is known."""
    return "encoder" if aim == "speedup" and all(row.speedup is None for row in rows) else aim


def answer(rows: Sequence[Row], allowed: float = best.ALLOWED, aim: str = "speedup") -> str:
    """One sentence, without a full stop: which of the rows to take, and what it is like. '' where there is none."""
    if not rows:
        return ""
    row = sorted_rows(rows, allowed, aim)[0]
    alike = {other.method for other in rows if other.by == row.by and other.compression == row.compression}
    name = row.by if len(alike) == 1 or row.by == row.method else f"{row.by} ({row.method})"
    who, score = f"{row.compression:g}x by {name}", f"{row.mean:.3f}"
    score += f" ± {row.spread:.3f} over {len(row.scores)} seeds" if len(row.scores) > 1 else ""
    if best.keeps(row, allowed):
        told = f"Within {points(allowed)} of dense ({row.dense:.3f}): {who}, {score}"
    else:
        told = (f"None is within {points(allowed)} of dense ({row.dense:.3f}): {who} loses least, "
                f"{points(row.loss / 100)}, and scores {score}")
    if row.speedup is not None:
        told += f", {row.speedup:.1f} times as fast ({row.kind})"
    if aim == "model":
        told += f", the whole model {row.compression_model:.2f} times smaller"
    if aim == "bytes" and row.fewer:
        told += f", {row.bytes / 1e6:.1f} MB, {row.fewer:.2f} times fewer bytes than in fp32"
    if row.mean <= row.majority + NEAR:
        told += f"; no better than guessing (majority class {row.majority:.3f})"
    return told


def methods_explained(runs: Sequence[Run]) -> dict[str, str]:
    """Method -> what it does, in a sentence, of all that these runs were made by."""
    rows = [METHODS[name] for name in dict.fromkeys(run.config.method for run in runs)]
    told = {row.name: row.explained or row.words for row in rows}
    return told | ({"distilled": DISTILLED} if any(run.config.taught for run in runs) else {})


def method_of(run: Run, others: Sequence[Run]) -> str:
    """What a run was made by; with a word on distillation where the same method was used with and without it."""
    taught = {other.config.taught for other in others if other.config.method == run.config.method}
    return run.config.method + ", distilled" * (run.config.taught and len(taught) > 1)


# ---------------------------------------------------------------- tables and sentences


def sentences(rows: Sequence[Row], metric: str) -> Iterator[str]:
    """For each compression, the best method beside every other: by how much, and is that more than the seeds spread.

    Where each result is one seed, that is said once, before them.
    """
    alone = len(rows) > 1 and all(len(row.scores) < 2 for row in rows)
    if alone:
        yield "Each result is one seed: small differences may be chance."
    for compression in sorted({row.compression for row in rows}):
        first, *others = sorted((row for row in rows if row.compression == compression), key=lambda row: -row.mean)
        for other in others:
            by, spread = first.mean - other.mean, max(first.spread, other.spread)
            seeds = min(len(first.scores), len(other.scores))
            than = f": {'more' if by > spread else 'not more'} than the spread over {seeds} seeds ({100 * spread:.1f})"
            than = than if seeds > 1 else "" if alone else " (one seed, which may be chance)"
            apart = f"{100 * by:.1f}"
            yield f"At {compression:g}x, " + (
                f"{first.method} and {other.method} are equal{than}." if apart == "0.0" else
                f"{first.method} is {apart} {metric} points above {other.method}{than}.")


def as_csv(rows: Sequence[Row], allowed: float = best.ALLOWED) -> str:
    """One line for each row, with the score of every seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "by", "compression", *COMPRESSIONS, "mean", "spread", "dense", "points_lost", "within",
                     "speedup", "speedup_is", *BYTES, "formats", "seeds", "scores"])
    for row in rows:
        numbers = (f"{getattr(row, name):.4f}" for name in (*COMPRESSIONS, "mean", "spread", "dense"))
        known = row.speedup is not None
        fast = [f"{row.speedup:.4f}", row.kind] if known else ["", ""]
        sizes = ["" if (size := getattr(row, name)) is None else f"{size:.0f}" for name in BYTES]
        writer.writerow([row.method, row.by, row.compression, *numbers, f"{row.loss:.2f}",
                         "yes" if best.keeps(row, allowed) else "no", *fast, *sizes, row.formats,
                         len(row.scores),
                         " ".join(f"{score:.4f}" for score in row.scores)])
    return text.getvalue()


def as_markdown(rows: Sequence[Row], task: str, metric: str, dense: Sequence[float], told: str = "") -> str:
    """The answer `told`; methods down, compressions across, mean ± spread; then the sentences."""
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    compressions, methods = sorted({row.compression for row in rows}), dict.fromkeys(row.method for row in rows)
    cells = {(row.method, row.compression): f"{row.mean:.3f} ± {row.spread:.3f}" for row in rows}
    lines = [*([f"{told}.", ""] if told else []),
             f"{task}, {metric}: dense {statistics.fmean(dense):.3f}; mean ± standard deviation over seeds", "",
             line(["method", *(f"{c:g}x" for c in compressions)]), "|---" * (len(compressions) + 1) + "|",
             *(line([method, *(cells.get((method, c), "–") for c in compressions)]) for method in methods), "",
             *sentences(rows, metric)]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- which runs belong together


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed (and where they ran)."""

    label: str  # what tells it from the other groups
    runs: tuple[Run, ...]


def groups(chosen: Sequence[Run]) -> list[Group]:
    """The runs by their settings; a group is named by the settings that differ between groups, or by its only run."""
    by_settings: dict[tuple, list[Run]] = {}
    for run in chosen:
        by_settings.setdefault(tuple(_settings(run).items()), []).append(run)
    names = _settings(chosen[0]) if chosen else ()
    differ = [name for name in names if len({repr(_settings(run)[name]) for run in chosen}) > 1]
    made = []
    for alike in by_settings.values():
        settings = _settings(alike[0])
        words = ", ".join(f"{name} {settings[name]}" for name in differ)
        made.append(Group(alike[0].name if len(alike) == 1 else words or alike[0].name, tuple(alike)))
    return made


def _settings(run: Run) -> dict:
    """What a run was asked for, but for the seed and what does not change what it does; tuples can be counted."""
    left_out = FREE | {"seed", "compressions", "surface_examples", "moments"}
    return {name: value for name, value in run.config.settings().items() if name not in left_out}


def differences(one: Run, other: Run) -> list[tuple[str, object, object]]:
    """(setting, of one, of the other) wherever two runs were asked for different things."""
    others = other.config.settings()
    return [(name, value, others[name]) for name, value in one.config.settings().items() if value != others[name]]


def rows_of(chosen: Sequence[Group], speedup: Speedup = lambda run, point: None, timed: bool = False,
            mark: str = "") -> list[Row]:
    """Scores after retraining, group by group and compression by compression.

    `timed`: speedups are measured ones; `mark`: on which machine those that are predicted are, if not on this one.
    """
    made, runs = [], [run for group in chosen for run in group.runs]
    for group in chosen:
        own = [(run, p) for run in group.runs for p in run.points if p["score_retrained"] is not None]
        for compression in sorted({p["compression"] for _, p in own}):
            there = [(run, p) for run, p in own if p["compression"] == compression]
            made.append(row_of(group.label, compression, there, method_of(group.runs[0], runs), speedup, timed,
                               mark))
    return made


def predicted(profile: Profile | None) -> Speedup:
    """What this latency profile predicts of a run's retrained model at a point, in the fastest precision; None where
    norms or it are missing."""
    def speedup(run: Run, point: dict) -> float | None:
        stage = Stage.of("retrain", point["compression"])
        if profile is None or stage not in run.stages or run.saved(stage) not in run.with_norms:
            return None
        mask = mask_at(run.norms(run.saved(stage)), run.layout, 0.0)
        return profile.speedup(mask, Batch(), run.heads)

    return speedup
