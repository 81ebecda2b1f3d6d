"""Where runs lie and what they may be called."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prune_core import InputError
from prune_core.files import DATA

FORMAT = 1
RUNS, RECORDED = DATA / "runs", DATA / "recorded"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RunError(InputError):
    """A run folder that cannot be used, in one line: which, and why."""


def check_name(name: str) -> str:
    """The name itself, if it is one folder name without dots or slashes. Raises RunError."""
    if not _NAME.fullmatch(name):
        raise RunError(f"run name {name[:80]!r} is not usable; needed: up to 64 letters, digits, - and _ "
                       "(no / and no .)")
    return name


def read_json(path: Path, name: str):
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"run {name!r}: {path.name} is missing; this folder holds no run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"run {name!r}: {path.name} cannot be read: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
