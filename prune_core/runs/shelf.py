"""All runs: list them, find one, find a free name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from prune_core.runs import places
from prune_core.runs.places import RunError, check_name, one_line
from prune_core.runs.run import Run


@dataclass(frozen=True)
class Listed:
    """One folder in a runs folder: a run, or the reason why it cannot be read."""

    name: str
    path: Path
    run: Run | None
    reason: str = ""

    @property
    def status(self) -> str:
        return self.run.status if self.run else "unreadable"


def listing(runs_dir: Path = places.RUNS) -> list[Listed]:
    """The user's runs, newest first, then those that ship. One that cannot be read hides no other.

    Every folder is read; index.py has the same at once where there are many.
    """
    listed = []
    for folder in dict.fromkeys((Path(runs_dir), places.RECORDED)):
        if folder.is_dir():
            paths = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
            listed += sorted(map(read, paths), key=order)
    return listed


def read(path: Path) -> Listed:
    """What a folder holds."""
    try:
        run = Run(path)
        run.points, run.status, run.dense_score, run.warnings  # noqa: B018  what every list shows must be readable too
        return Listed(path.name, path, run)
    except (RunError, OSError) as error:
        return Listed(path.name, path, None, one_line(error))
    except Exception as error:  # a damaged file must not hide the other runs
        return Listed(path.name, path, None, f"run {path.name!r} is damaged: {one_line(error)}")


def order(listed: Listed) -> tuple:
    """Newest first, what cannot be read last."""
    return (listed.run is None, -(listed.run.created if listed.run else 0), listed.name)


def find(name: str, runs_dir: Path = places.RUNS) -> Run:
    """The run of this name: the user's own first, then those that ship. Raises RunError."""
    return Run(folder(name, runs_dir))


def folder(name: str, runs_dir: Path = places.RUNS) -> Path:
    """Where the run of this name is. Raises RunError."""
    check_name(name)
    for place in (Path(runs_dir), places.RECORDED):
        if (place / name).is_dir():
            return place / name
    names = [path.name for place in (Path(runs_dir), places.RECORDED) if place.is_dir()
             for path in sorted(place.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    known = ", ".join(names[:20]) + f" and {len(names) - 20} more" * (len(names) > 20) or "none"
    raise RunError(f"no run {name!r} in {runs_dir} or among the recorded ones; there are: {known}")


def free_name(wanted: str, runs_dir: Path = places.RUNS) -> str:
    """`wanted`, or `wanted-2`, `wanted-3` ... where it is taken."""
    wanted = re.sub(r"[^A-Za-z0-9_-]+", "-", wanted).strip("-")[:56] or "run"
    number, name = 1, wanted
    while (Path(runs_dir) / name).exists() or (places.RECORDED / name).exists():
        number += 1
        name = f"{wanted}-{number}"
    return name
