"""What this runs on: the processor, and the versions that numbers can depend on."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from prune_core import __version__

_HAS = {"AMX": {"amx_bf16", "amx_int8"}, "AVX512_BF16": {"avx512_bf16"}, "VNNI": {"avx512_vnni", "avx_vnni"}}  # flags


def machine() -> dict:
    """What this runs on: processor, cores, memory in bytes, system."""
    import psutil

    cpu = _told("model name") or platform.processor() or platform.machine()
    memory, system = psutil.virtual_memory().total, platform.system()
    return {"cpu": cpu, "cores": os.cpu_count(), "memory": memory, "system": system, "arch": platform.machine()}


def processor() -> str:
    """The processor, and which low precision it has: 'AMD EPYC, AVX512_BF16, VNNI, no AMX'.

    By name alone where its flags are not told.
    """
    cpu, flags = machine()["cpu"], set(_told("flags").split())
    if not flags:
        return cpu
    has = [name for name, any_of in _HAS.items() if flags & any_of]
    return ", ".join([cpu, *has, *(["no AMX"] if "AMX" not in has else [])])


def _told(what: str) -> str:
    """The first line of this name in /proc/cpuinfo; '' where there is none."""
    try:
        found = re.search(rf"^{what}\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found.group(1).strip() if found else ""


def versions() -> dict:
    """Versions of Prunescope, Python and the libraries that numbers can depend on."""
    names = ("torch", "transformers", "datasets", "safetensors", "numpy", "scikit-learn", "scipy")
    return {"prunescope": __version__, "python": platform.python_version()} | {n: metadata.version(n) for n in names}
