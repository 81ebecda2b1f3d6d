"""Runs side by side: one table with mean and spread over seeds, in words, and which settings differ."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prune_core.runs.run import Run

COMPRESSIONS = ("compression_encoder", "compression_model")
# May differ between runs that are compared
FREE = {"precision", "threads", "preset", "start_from", "dense_steps", "data"}


@dataclass(frozen=True)
class Row:
    """One method at one compression: its scores over the seeds."""

    method: str
    compression: float
    scores: tuple[float, ...]
    compression_encoder: float  # means of what the runs have
    compression_model: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 with one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def row_of(method: str, compression: float, points: Sequence[dict]) -> Row:
    """One of the same point in every run."""
    return Row(method, compression, tuple(p["score_retrained"] for p in points),
               *(statistics.fmean(p[name] for p in points) for name in COMPRESSIONS))


def sentences(rows: Sequence[Row], metric: str) -> Iterator[str]:
    """For each compression, the best method beside every other: by how much, and is that more than the seeds spread.

    Where each result is one seed, that is said once, before them.
    """
    alone = len(rows) > 1 and all(len(row.scores) < 2 for row in rows)
    if alone:
        yield "Each result is one seed: small differences may be chance."
    for compression in sorted({row.compression for row in rows}):
        best, *others = sorted((row for row in rows if row.compression == compression), key=lambda row: -row.mean)
        for other in others:
            by, spread = best.mean - other.mean, max(best.spread, other.spread)
            seeds = min(len(best.scores), len(other.scores))
            than = f": {'more' if by > spread else 'not more'} than the spread over {seeds} seeds ({100 * spread:.1f})"
            than = than if seeds > 1 else "" if alone else " (one seed, which may be chance)"
            points = f"{100 * by:.1f}"
            yield f"At {compression:g}x, " + (
                f"{best.method} and {other.method} are equal{than}." if points == "0.0" else
                f"{best.method} is {points} {metric} points above {other.method}{than}.")


def as_csv(rows: Sequence[Row]) -> str:
    """One line for each row, with the score of every seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "compression", *COMPRESSIONS, "mean", "spread", "seeds", "scores"])
    for row in rows:
        numbers = (f"{getattr(row, name):.4f}" for name in (*COMPRESSIONS, "mean", "spread"))
        writer.writerow([row.method, row.compression, *numbers, len(row.scores),
                         " ".join(f"{score:.4f}" for score in row.scores)])
    return text.getvalue()


def as_markdown(rows: Sequence[Row], task: str, metric: str, dense: Sequence[float]) -> str:
    """Methods down, compressions across, mean ± spread; then the sentences."""
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    compressions, methods = sorted({row.compression for row in rows}), dict.fromkeys(row.method for row in rows)
    cells = {(row.method, row.compression): f"{row.mean:.3f} ± {row.spread:.3f}" for row in rows}
    lines = [f"{task}, {metric}: dense {statistics.fmean(dense):.3f}; mean ± standard deviation over seeds", "",
             line(["method", *(f"{c:g}x" for c in compressions)]), "|---" * (len(compressions) + 1) + "|",
             *(line([method, *(cells.get((method, c), "–") for c in compressions)]) for method in methods), "",
             *sentences(rows, metric)]
    return "\n".join(lines) + "\n"


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


def rows_of(chosen: Sequence[Group]) -> list[Row]:
    """Scores after retraining, group by group and compression by compression."""
    made = []
    for group in chosen:
        all_points = [p for run in group.runs for p in run.points]
        for compression in sorted({p["compression"] for p in all_points}):
            points = [p for p in all_points if p["compression"] == compression and p["score_retrained"] is not None]
            if points:
                made.append(row_of(group.label, compression, points))
    return made
