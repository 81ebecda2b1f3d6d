"""What this runs on: the processor, and the versions that numbers can depend on."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from prune_core import __version__


def machine() -> dict:
    """What this runs on: processor, cores, memory in bytes, system."""
    import psutil

    cpu = platform.processor() or platform.machine()
    try:
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()).group(1).strip()
    except (OSError, AttributeError):
        pass
    memory, system = psutil.virtual_memory().total, platform.system()
    return {"cpu": cpu, "cores": os.cpu_count(), "memory": memory, "system": system, "arch": platform.machine()}


def versions() -> dict:
    """Versions of Prunescope, Python and the libraries that numbers can depend on."""
    names = ("torch", "transformers", "datasets", "safetensors", "numpy", "scikit-learn", "scipy")
    return {"prunescope": __version__, "python": platform.python_version()} | {n: metadata.version(n) for n in names}
