"""How the cells of a sweep stand, read from their folders: which are done, which are at work, and how long it takes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune_core.runs import claims
from prune_core.runs.run import locked

STATES = ("complete", "running", "interrupted", "failed", "waiting")
SAMPLE = 100  # complete cells whose times are read, to tell how long the others will take


@dataclass(frozen=True)
class Standing:
    """One cell: its state, one of STATES; of one that failed the error, of one at work where it is."""

    run: str
    state: str
    error: str = ""
    now: Mapping[str, object] | None = None  # status.json of one that is running

    @property
    def share(self) -> float:
        """How much of its steps is done, 0 to 1."""
        if self.state == "complete":
            return 1.0
        return min(1.0, (self.now or {}).get("step", 0) / max(1, (self.now or {}).get("steps", 1)))


def standings(runs: Sequence[str], runs_dir: Path) -> list[Standing]:
    """How each of these cells stands. Ten thousand take less than a second: only what is not done is looked at twice.
    """
    runs_dir = Path(runs_dir)
    try:
        with os.scandir(runs_dir) as entries:
            there = {entry.name for entry in entries}
    except OSError:
        there = set()
    claimed = claims.holders(runs_dir)
    return [_standing(run, f"{runs_dir}/{run}", run in there, claimed.get(run)) for run in runs]


def standing(run: str, runs_dir: Path) -> Standing:
    """How one cell stands."""
    last = claims.holder(run, runs_dir)
    return _standing(run, str(Path(runs_dir) / run), (Path(runs_dir) / run).exists(), last and last.path)


def _standing(run: str, path: str, there: bool, claimed: Path | None) -> Standing:
    if there and os.path.exists(f"{path}/result.json"):
        return Standing(run, "complete")
    last = claims.read(claimed) if claimed else None
    if (last and last.alive()) or (there and locked(Path(path) / "lock")):
        return Standing(run, "running", now=_json(f"{path}/status.json"))
    if last and last.ended:
        return Standing(run, "failed", last.ended)
    return Standing(run, "interrupted") if there else Standing(run, "waiting")


def _json(path: str) -> dict:
    try:
        with open(path, "rb") as file:
            said = json.loads(file.read())
        return said if isinstance(said, dict) else {}
    except (OSError, ValueError):
        return {}


def counts(cells: Iterable[Standing]) -> dict[str, int]:
    """State -> cells, of all states."""
    return dict.fromkeys(STATES, 0) | Counter(cell.state for cell in cells)


def seconds_left(cells: Sequence[Standing], runs_dir: Path, slots: int) -> float | None:
    """Seconds until all are done with `slots` at a time: what those at work say, and for the others what those that
    are done took on average; None while neither is known."""
    running = [cell.now or {} for cell in cells if cell.state == "running"]
    to_come = sum(cell.state in ("waiting", "interrupted") for cell in cells)
    done = [cell.run for cell in cells if cell.state == "complete"]
    sampled = done[::max(1, len(done) // SAMPLE)]
    took = [seconds for run in sampled
            if isinstance(seconds := _json(f"{runs_dir}/{run}/result.json").get("seconds"), int | float)]
    left = [float(now["seconds_left"]) for now in running if isinstance(now.get("seconds_left"), int | float)]
    took = took or [float(now.get("seconds") or 0) + one for now, one in zip(running, left, strict=False)]
    if not took and (to_come or len(left) < len(running)):
        return None
    each = sum(took) / len(took) if took else 0.0
    work = sum(left) + each * (to_come + len(running) - len(left))
    return max([work / max(1, slots), *left])
