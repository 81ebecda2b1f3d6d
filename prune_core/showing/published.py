"""Points that others published, from data/published.csv: whose, on which model, and where they said so. None was measured here."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from prune_core.files import DATA

FILE = DATA / "published.csv"


@dataclass(frozen=True)
class Published:
    """One point. `removed`: share of the encoder's weights, as the source counts it; scores 0 to 1; `evidence`: code or readme."""

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
    numbers = ("removed", "score", "dense", "speedup")
    with open(FILE, encoding="utf-8", newline="") as file:
        return tuple(Published(**{k: (float(v) if v else None) if k in numbers else v for k, v in row.items()}) for row in csv.DictReader(file))


def of(task: str, metric: str) -> list[Published]:
    """Those on this task in this metric, or in one that the source does not name."""
    return [one for one in points() if one.task == task and one.metric in ("", metric)]
