"""Latency profiles on the disk: read, checked, written; this machine's own, those loaded, those that ship."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prune_core import InputError, files
from prune_core.files import DATA
from prune_core.latency.profile import FORMAT, Profile
from prune_core.machine import machine


def read(path: Path) -> Profile:
    """A profile from its file; `own` where that is where this machine's are. Raises InputError."""
    try:
        profile = Profile.from_json(json.loads(Path(path).read_bytes()))
        return replace(profile, own=Path(path).resolve() == own_file(machine(), _threads(path)).resolve())
    except (OSError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:160]
        raise InputError(f"latency profile {str(path)!r} cannot be read: {why}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def check_writable(path: Path) -> None:
    """Raises InputError where no profile could be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"latency profile cannot be written to {str(path)!r}: {error.strerror or error}") from None


def write(profile: Profile, path: Path) -> None:
    """Replaces the file as a whole. Raises InputError."""
    try:
        files.write_json(Path(path), profile.to_json())
    except OSError as error:
        raise InputError(f"latency profile cannot be written to {str(path)!r}: {error.strerror or error}") from None


def kept_aside(path: Path) -> Path | None:
    """Moves a profile of another format, or what cannot be read, out of the way of a new one: where it is then; None
    where there is nothing to keep. Raises InputError."""
    path = Path(path)
    try:
        found = json.loads(path.read_bytes()).get("format") if path.exists() else FORMAT
    except (OSError, ValueError, AttributeError, RecursionError):
        found = None
    if found == FORMAT:
        return None
    number = next(n for n in range(1, 1000) if not path.with_name(f"{path.name}.before-{n}").exists())
    aside = path.with_name(f"{path.name}.before-{number}")
    try:
        files.writable(path)
        return path.rename(aside)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be kept as {aside.name}: {error.strerror or error}") from None


def shipped() -> list[Path]:
    """Profiles of other machines that came with the project."""
    return sorted((DATA / "profiles").glob("*.json"))


def loaded() -> list[Path]:
    """Profiles of other devices that the user has loaded."""
    return sorted((files.cache_folder() / "profiles").glob("*.json"))


def known(own: Path) -> list[Path]:
    """All profiles in the order in which they are taken: this machine's own, those loaded, those that ship."""
    return [own, *loaded(), *shipped()]


def keep(content: bytes) -> Profile:
    """Keep another device's profile among those that were loaded. Raises InputError where it is none."""
    try:
        profile = Profile.from_json(json.loads(content))
    except (ValueError, RecursionError):
        needed = "what `python -m prune_core calibrate --to FILE` writes"
        raise InputError(f"this is no JSON file; needed: {needed}") from None
    place = files.cache_folder() / "profiles" / f"{_slug(profile.machine)}-{profile.threads}t.json"
    if place.exists() and _created(place) > profile.created:
        raise InputError("a profile of this device that was made later is here already, and stays")
    write(profile, place)
    return profile


def _created(path: Path) -> float:
    """When it was calibrated; 0 where it cannot be read."""
    try:
        return read(path).created
    except InputError:
        return 0.0


def own_file(machine: Mapping, threads: int) -> Path:
    """The file of this machine's profile: another processor has another file, so nothing stale is found."""
    return files.cache_folder() / f"latency-{_slug(machine)}-{threads}t.json"


def _threads(path: Path) -> int:
    """2 of 'latency-amd-epyc-2-2t.json'; 0 of another name."""
    return int(found[1]) if (found := re.search(r"-(\d{1,6})t\.json$", Path(path).name)) else 0


def _slug(machine: Mapping) -> str:
    """'amd-epyc-2' of the processor's name and its cores."""
    return re.sub(r"[^a-z0-9]+", "-", f"{machine.get('cpu', '')} {machine.get('cores', '')}".lower())[:80].strip("-")
