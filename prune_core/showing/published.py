"""Points that others published, from data/published.csv: whose, on which model, and where they said so.

None was measured here.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from prune_core.files import DATA

FILE = DATA / "published.csv"


@dataclass(frozen=True)
class Published:
    """One point. `removed`: share of the encoder's weights, as the source counts it; `evidence`: code or readme.

    Scores are from 0 to 1.
    """

    method: str
    pattern: str
    model: str
    task: str
    metric: str  # '' where the source does not say
    removed: float
    score: float
    dense: float | None
    speedup: float | None
    hardware: str
    evidence: str
    source: str


@cache
def points() -> tuple[Published, ...]:
    """All of them, in the order of the file."""
    with open(FILE, encoding="utf-8", newline="") as file:
        return tuple(Published(**{name: _value(name, text) for name, text in row.items()})
                     for row in csv.DictReader(file))


def _value(name: str, text: str) -> str | float | None:
    """A cell of the file: a number, or None where it is empty, in the columns that hold numbers."""
    if name not in ("removed", "score", "dense", "speedup"):
        return text
    return float(text) if text else None


def of(task: str, metric: str) -> list[Published]:
    """Those on this task in this metric, or in one that the source does not name."""
    return [point for point in points() if point.task == task and point.metric in ("", metric)]
