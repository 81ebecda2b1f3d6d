"""Which arithmetic this machine can run, by which path, and which of them is the fastest: found at run time, by timing.

A path is a set of kernels for one arithmetic: "bf16 amx" multiplies in bf16 on AMX tiles. What the processor or the
system refuses, or what could not be built, is left out, and why is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from prune_core import InputError, files
from prune_core.execution import native, race
from prune_core.latency.profile import ASKED, dtype_of
from prune_core.models import devices
from prune_core.models.devices import CPU
from prune_core.precision.formats import Formats

PATHS = {"fp32": ("fp32",), "bf16": ("bf16 amx", "bf16 avx512"), "int8": ("int8 amx", "int8 vnni")}
_NEEDED = {  # flags of /proc/cpuinfo: there they stand only where the system saves the registers too
    "fp32": (), "bf16 avx512": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"),
    "int8 vnni": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni"),
    "bf16 amx": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "amx_tile", "amx_bf16"),
    "int8 amx": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"),
}
_TILE_DATA, _ASK_PERMISSION, _ARCH_PRCTL = 18, 0x1023, 158  # of Linux on x86-64
MODULES = "modules"  # torch with the kernels for single matrices, in fp32
FP32 = Formats()
GAIN = 0.97  # of the time of fp32: what is slower than that gains nothing


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


def check_formats(asked: str, path: str | None, formats: Formats) -> None:
    """Raises InputError where int8 arithmetic, asked for or forced, would execute other numbers than these."""
    if "int8" not in (asked, dtype_of(path or "")):
        return
    if formats.activations == "tensor":
        raise InputError("int8 arithmetic gives the activations of each token a scale, not those of each tensor; "
                         "needed: a8 instead of a8-tensor, or dtype fp32")
    if other := next((one for one in formats.weights if one.kind == "clusters"), None):
        raise InputError(f"int8 arithmetic would round {other.words} once more; needed: dtype fp32 or bf16, or levels: "
                         "8 to 2 bits, ternary, binary")


def choose(asked: str, path: str | None = None, formats: Formats = FP32, device: torch.device = CPU) -> Choice:
    """What runs here: the fastest of this arithmetic, as timed on this machine; another where none gains.

    Activations in 8 bits run in int8 where that is asked for, or nothing else (auto), else rounded in fp32, matrix by
    matrix. On a GPU, torch's own products run. Raises InputError for an unknown name, or for a `path` that cannot run
    here.
    """
    check(asked)
    check_formats(asked, path, formats)
    if device.type != "cpu":
        return _on_gpu(asked, path, formats, device)
    if not formats.activations:
        return _fastest(asked, path)
    exact = formats.activations == "token" and all(one.executable for one in formats.weights)
    if "int8" in (asked, dtype_of(path or "")) or asked == "auto" and exact:
        choice = _fastest("int8" if path is None else asked, path)
        if choice.dtype == "int8":
            floats = "" if exact else "weights in more than 8 bits are rounded to them"
            return replace(choice, asked=asked, why="; ".join(filter(None, (choice.why, floats))))
        return Choice(asked, "fp32", MODULES, choice.why)
    return Choice(asked, "fp32", MODULES, "" if asked == "fp32" else "activations in 8 bits are rounded in fp32")


def _on_gpu(asked: str, path: str | None, formats: Formats, device: torch.device) -> Choice:
    if path is not None:
        raise InputError(f"path {path!r} names kernels of processors; needed on {device.type}: no path")
    bf16 = device.type == "cuda" and devices.has_bf16(device) and not formats.activations
    rounded = "activations in 8 bits are rounded in fp32" if formats.activations else ""
    why = {"bf16": rounded or f"{device.type} has none here", "int8": "int8 kernels are those of processors"}
    dtype = "bf16" if bf16 and asked in ("bf16", "auto") else "fp32"
    return Choice(asked, dtype, f"{dtype} on {device.type}", why.get(asked, "") if dtype != asked else "")


def on_gpu(path: str) -> bool:
    """Whether a path is that of a GPU: 'bf16 on cuda'."""
    return " on " in path


def _fastest(asked: str, path: str | None) -> Choice:
    if path is not None:
        return _forced(asked, path)
    if asked == "fp32":
        return Choice(asked, "fp32", "fp32")
    wanted = [p for dtype, own in PATHS.items() for p in own if asked in ("auto", dtype)]
    there = [p for p in wanted if not why_not(p)]
    if not there:
        return Choice(asked, "fp32", "fp32", "; ".join(f"{p}: {why_not(p)}" for p in wanted))
    times = timed()
    best = min(there, key=lambda p: times.get(p, float("inf")))
    if times.get(best, float("inf")) > GAIN * times.get("fp32", float("inf")):
        why = f"{best} was timed here and is not faster than fp32" if asked != "auto" else ""
        return Choice(asked, "fp32", "fp32", why)
    dtype = best.split()[0]
    refused = [p for p in PATHS[dtype] if flags().issuperset(_NEEDED[p]) and why_not(p)]
    return Choice(asked, dtype, best, "; ".join(f"{p}: {why_not(p)}" for p in refused))


def _forced(asked: str, path: str) -> Choice:
    known = [p for own in PATHS.values() for p in own]
    if path not in known:
        raise InputError(f"path {path!r} is unknown; needed: one of {', '.join(known)}")
    if asked not in ("auto", path.split()[0]):
        raise InputError(f"path {path!r} is not for {asked}; needed: one of {', '.join(PATHS[asked])}")
    if why := why_not(path):
        raise InputError(f"path {path!r} does not run here: {why}; needed: leave --path out")
    return Choice(asked, path.split()[0], path)


@functools.cache
def why_not(path: str) -> str:
    """Why this path does not run here, in a few words; '' where it does. Builds its kernels."""
    if platform.machine() not in ("x86_64", "AMD64") and path != "fp32":
        return "it is for x86-64 processors"
    if missing := [flag for flag in _NEEDED[path] if flag not in flags()]:
        return f"the processor lacks {', '.join(missing)}"
    if path.endswith("amx") and (refused := _permission()):
        return refused
    return native.kernels(path)[1]


@functools.cache
def flags() -> frozenset[str]:
    """What the processor can do, by the names of /proc/cpuinfo; empty where there is no such file."""
    try:
        found = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(found[1].split() if found else ())


@functools.cache
def _permission() -> str:
    """Ask the system for the tile registers, once in a process; '' where it grants them, else why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_ARCH_PRCTL, _ASK_PERMISSION, _TILE_DATA) == 0:
        return ""
    return f"the system refuses the tile registers ({os.strerror(ctypes.get_errno())})"


@functools.cache
def timed(again: bool = False) -> Mapping[str, float]:
    """Path -> milliseconds of some matrices, of all paths that run here, on as many threads as torch has now.

    Timed once, for a second, then kept; `again`: now, as calibrating does while the machine is quiet.
    """
    paths = [p for own in PATHS.values() for p in own if not why_not(p)]
    file = files.cache_folder() / f"paths-{native.key(paths)}-{torch.get_num_threads()}t.json"
    with contextlib.suppress(OSError, ValueError):
        if again:
            raise ValueError("what was kept is not asked")
        kept = json.loads(file.read_bytes())
        if set(kept) == set(paths) and all(isinstance(ms, float) for ms in kept.values()):
            return kept
    times = race.run(paths)
    with contextlib.suppress(OSError):
        files.write_json(file, times)
    return times
