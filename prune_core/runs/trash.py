"""Deleting runs: moved aside, never one that is being written, and put back on request.

Renames only, so nothing is half deleted.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import filelock

from prune_core import files
from prune_core.runs import places, shelf
from prune_core.runs.places import RunError

FOLDER = ".trash"
_NAME = re.compile(r"(\d+)-(.+)")


@dataclass(frozen=True)
class Deleted:
    """A folder in the trash. `key` is its name there."""

    key: str
    name: str  # what it was called
    when: float  # seconds since 1970
    path: Path

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file() and not file.is_symlink())


def delete(name: str, runs_dir: Path) -> Deleted:
    """Move a run, or a folder that holds none, into the trash.

    Raises RunError for one that ships, that is being written, or that is not there.
    """
    runs_dir = Path(runs_dir)
    if not name or len(name) > 200 or name.startswith(".") or name != Path(name).name or "\0" in name:
        raise RunError(f"{name[:80]!r} is no name of a run; needed: one folder in {runs_dir}")
    path = runs_dir / name
    if runs_dir.resolve() == places.RECORDED.resolve() or (not path.exists() and (places.RECORDED / name).is_dir()):
        raise RunError(f"run {name[:80]!r} ships with the project and stays")
    if not path.is_dir() or path.is_symlink():
        raise RunError(f"no run {name[:80]!r} in {runs_dir}")
    lock = filelock.FileLock(str(path / "lock"))
    try:
        files.writable(path)
        lock.acquire(timeout=0.5)  # whoever writes it holds this; whoever would begin to waits until it is gone
    except filelock.Timeout:
        raise RunError(f"run {name!r} is being written; cancel it first") from None
    except OSError as error:
        raise RunError(f"run {name!r} cannot be deleted: {error.strerror or error}") from None
    try:
        now = time.time_ns() // 1_000_000
        target = runs_dir / FOLDER / f"{now}-{name}"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        files.sync_folder(runs_dir)
    except OSError as error:
        raise RunError(f"run {name!r} cannot be deleted: {error.strerror or error}") from None
    finally:
        lock.release()
    return Deleted(target.name, name, now / 1000, target)


def deleted(runs_dir: Path) -> list[Deleted]:
    """What lies in the trash, newest first."""
    folder = Path(runs_dir) / FOLDER
    runs = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if (parts := _NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            runs.append(Deleted(path.name, parts[2], int(parts[1]) / 1000, path))
    return sorted(runs, key=lambda one: -one.when)


def restore(key: str, runs_dir: Path) -> str:
    """Put one back under its name, or the next free one; returns that. Raises RunError."""
    one = _find(key, runs_dir)
    there = Path(runs_dir) / one.name
    name = shelf.free_name(one.name, runs_dir) if there.exists() else one.name
    try:
        files.writable(there)
        one.path.rename(Path(runs_dir) / name)
        files.sync_folder(Path(runs_dir))
    except OSError as error:
        raise RunError(f"run {one.name!r} cannot be put back: {error.strerror or error}") from None
    return name


def erase(key: str, runs_dir: Path) -> None:
    """Delete one for good. Raises RunError."""
    one = _find(key, runs_dir)
    try:
        files.writable(one.path)
        shutil.rmtree(one.path)
    except OSError as error:
        raise RunError(f"run {one.name!r} cannot be erased: {error.strerror or error}") from None


def _find(key: str, runs_dir: Path) -> Deleted:
    """By its key, or by the name it had: the one deleted last."""
    known = deleted(runs_dir)
    for one in known:
        if key in (one.key, one.name):
            return one
    raise RunError(f"no deleted run {key[:80]!r}; there are: {', '.join(one.name for one in known) or 'none'}")
