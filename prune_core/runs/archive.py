"""A run as one file, to be moved to another machine: with what of its checkpoint and its table it goes on reading."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from prune_core import InputError, files
from prune_core.runs import origin, places, shelf
from prune_core.runs.data import check_data, place_of
from prune_core.runs.places import RunError
from prune_core.runs.run import Run

SUFFIX = ".zip"
_STAYS = ("lock", "status.json", "checkpoint.safetensors", "checkpoint.json", "scores")  # this machine's
MOST_BYTES = 50_000_000_000  # unpacked


def write(run: Run, path: Path, write_checkpoint: Callable[[Path], object] | None) -> dict:
    """The whole run as a file at `path`. `write_checkpoint` fills a folder with what it needs of its checkpoint.

    The user's own table goes along, as a run cannot be scored on another. Raises InputError.
    """
    if run.result is None:
        raise RunError(f"run {run.name!r} is not complete; resume it first")
    if path.exists():
        raise InputError(f"{str(path)!r} is there already; needed: a new file")
    check_data(run)
    own = Path(place_of(run)) if run.is_own else None
    if own and not own.is_file():
        raise RunError(f"run {run.name!r}: its table {str(own)!r} is not there, so it could not be scored elsewhere; "
                       "put the table back")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prunescope-", dir=path.parent) as folder:
            staged = Path(folder) / path.name
            with zipfile.ZipFile(staged, "w", zipfile.ZIP_STORED) as file:
                for one in _files(run):
                    file.write(one, f"{run.name}/{one.relative_to(run.path).as_posix()}")
                if own and not own.is_relative_to(run.path):
                    file.write(own, f"{run.name}/data/{own.name}")
                if write_checkpoint and not origin.carried(run):
                    made = Path(folder) / "checkpoint"
                    write_checkpoint(made)
                    for one in sorted(made.iterdir()):
                        file.write(one, f"{run.name}/checkpoint/{one.name}")
            staged.replace(path)
    except OSError as error:
        raise InputError(f"the run cannot be written to {str(path)!r}: {error.strerror or error}") from None
    return {"run": run.name, "path": str(path), "bytes": path.stat().st_size}


def _files(run: Run) -> list[Path]:
    """What of a run's folder goes along: not what is this machine's, or half written."""
    paths = (path for path in sorted(run.path.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in paths if path.relative_to(run.path).parts[0] not in _STAYS
            and not any(part.startswith(".") for part in path.relative_to(run.path).parts)]


def read(path: Path, runs_dir: Path, name: str | None = None) -> dict:
    """Put a run that `write` made among the user's runs, under its own name or `name`. Raises InputError."""
    staged = Path(runs_dir) / f".unpacking-{os.getpid()}"
    try:
        with zipfile.ZipFile(path) as file:
            inside = _checked(file, path)
            name = places.check_name(name or inside)
            if shelf.free_name(name, runs_dir) != name:
                raise RunError(f"there is a run {name!r} already; give another with --run")
            staged.mkdir(parents=True)
            file.extractall(staged)
        run = Run(staged / inside)  # raises where it is none that can be read
        files.write_json(run.path / "run.json", run.about | {"name": name})
        (staged / inside).replace(Path(runs_dir) / name)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{str(path)!r} cannot be unpacked: {getattr(error, 'strerror', None) or error}; "
                         "needed: a file that pack wrote") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return {"run": name, "path": str(Path(runs_dir) / name)}


def _checked(file: zipfile.ZipFile, path: Path) -> str:
    """The name of the one folder inside. Raises InputError where there is more, or a name that leads elsewhere."""
    folders = set()
    for one in file.infolist():
        place = PurePosixPath(one.filename)
        link = stat.S_ISLNK(one.external_attr >> 16)
        if place.is_absolute() or ".." in place.parts or "\\" in one.filename or link:
            raise InputError(f"{str(path)!r} holds {one.filename[:80]!r}, which leads elsewhere; it is not unpacked")
        folders.add(place.parts[0] if place.parts else "")
    if len(folders) != 1 or f"{next(iter(folders))}/run.json" not in file.namelist():
        raise InputError(f"{str(path)!r} holds no run; needed: a file that pack wrote")
    if (size := sum(one.file_size for one in file.infolist())) > MOST_BYTES:
        raise InputError(f"{str(path)!r} would take {size / 1e9:,.0f} GB; at most {MOST_BYTES / 1e9:,.0f} are unpacked")
    return places.check_name(folders.pop())
