"""The licence of everything that requirements.txt pins, as each package tells its own."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from prune_core import InputError
from prune_core.files import PROJECT

REQUIREMENTS = PROJECT / "requirements.txt"


def licences(path: Path = REQUIREMENTS) -> list[dict[str, str]]:
    """{package, version, licence} of every line; what is not installed here says so. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    # What begins with a dash is an option: -e, the project itself
    names = [line.partition("#")[0].partition("==") for line in lines if not line.startswith("-")]
    return [_of(name.strip(), version.strip()) for name, _, version in names if name.strip()]


def _of(name: str, version: str) -> dict[str, str]:
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return {"package": name, "version": version, "licence": "not installed here"}
    classified = [one.rpartition(" :: ")[2] for one in about.get_all("Classifier") or []
                  if one.startswith("License ::")]
    first = (about.get("License") or "").strip().partition("\n")[0][:80]
    told = about.get("License-Expression") or ", ".join(classified) or first or "told in its files only"
    return {"package": name, "version": about["Version"], "licence": told}
