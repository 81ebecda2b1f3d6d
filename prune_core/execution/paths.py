"""Which arithmetic this machine can run, by which path, and which of them is the fastest: found at run time, by timing.

A path is a set of kernels for one arithmetic: "bf16 amx" multiplies in bf16 on AMX tiles. What the processor or the
system refuses, or what could not be built, is left out, and why is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from prune_core import InputError
from prune_core.execution import native
from prune_core.latency.strips import Blocking

DTYPES = ("fp32", "bf16", "int8")
ASKED = (*DTYPES, "auto")
_BLOCKS = {"bf16 amx": Blocking(32, 32, 32, 16), "int8 amx": Blocking(32, 32, 64, 16)}
_STEPS = {"fp32": 1, "bf16 avx512": 2, "int8 vnni": 4}
PATHS = {"fp32": ("fp32",), "bf16": ("bf16 amx", "bf16 avx512"), "int8": ("int8 amx", "int8 vnni")}


@dataclass(frozen=True)
class Choice:
    """What runs when `asked` is asked for: the arithmetic, its path, and, where it is another, why (one line)."""

    asked: str
    dtype: str
    path: str
    why: str = ""


def check(asked: str) -> str:
    """`asked`, one of ASKED. Raises InputError."""
    if asked not in ASKED:
        raise InputError(f"dtype {asked!r} is unknown; needed: one of {', '.join(ASKED)}")
    return asked


def choose(asked: str, path: str | None = None) -> Choice:
    """What runs here: the path that was timed as the fastest of this arithmetic; fp32 where none gains. Raises
    InputError for an unknown name, or for a `path` that cannot run here."""
    check(asked)
    return Choice(asked, "fp32", "fp32", "" if asked in ("fp32", "auto") else f"{asked} does not run here")


def blocking(path: str) -> Blocking:
    """What this path takes together. Only where its kernels could be built."""
    library, _ = native.kernels(path)
    return _BLOCKS.get(path) or Blocking(library.prunescope_tile(), library.prunescope_rows(), _STEPS[path])
