"""The device on which all of a run lies: picked once, by its name, and handed on from there.

A tensor is made on the device of what it is used with; nothing is moved inside a step.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch

from prune_core import InputError, machine

CPU = torch.device("cpu")
WORDS = "auto, cpu, cuda, cuda:1 (the second GPU), mps"
_NAME = re.compile(r"(auto|cpu|mps|cuda(?::(\d{1,3}))?)")


def pick(text: str) -> torch.device:
    """The device of this name: auto (a GPU where there is one), cpu, cuda, cuda:1, mps. cuda is the first GPU.

    Raises InputError for another word, and for a device that is not there.
    """
    name = text.strip().lower()
    if not (asked := _NAME.fullmatch(name)):
        raise InputError(f"device {text[:40]!r} is unknown; needed: one of {WORDS}")
    if name == "auto":
        name = [*there()[1:], "cpu"][0]
    elif name.startswith("cuda"):
        name = f"cuda:{int(asked[2] or 0)}"
    if name not in there():
        raise InputError(f"device {text.strip()!r} is not there{_why(name)}; needed: one of auto, {', '.join(there())}")
    return torch.device(name)


def there() -> list[str]:
    """The devices of this machine by name, the processor first, then what `auto` would take."""
    gpus = [f"cuda:{at}" for at in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _why(name: str) -> str:
    """Why there is no such device, as far as torch knows."""
    if name.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None:
        return f": torch {torch.__version__} was built without CUDA"
    if name.startswith("cuda") and not torch.cuda.is_available():
        return ": torch finds no GPU, or no driver for it"
    return f": torch {torch.__version__} was built without it" if not torch.backends.mps.is_built() else ""


def of(module: torch.nn.Module) -> torch.device:
    """Where a model lies; the processor for what has no weights here, as another engine's graph."""
    return next((one.device for one in module.parameters()), CPU)


def moved(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The same on this device; but float64, which not every device has, stays on the processor: it only counts."""
    return {name: one if one.dtype == torch.float64 else one.to(device) for name, one in tensors.items()}


def describe(device: torch.device) -> dict:
    """What a record says of it: {device, kind, name, memory in bytes}."""
    told = {"device": str(device), "kind": device.type}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return told | {"name": about.name, "memory": about.total_memory}
    here = machine.machine()
    return told | {"name": here["cpu"] + (" (mps)" if device.type == "mps" else ""), "memory": here["memory"]}


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Inside, matrices multiply in this precision, bf16 or fp32; weights and sums stay fp32. bf16 needs no scaling."""
    if precision != "bf16":  # a device may have no autocast at all
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def has_bf16(device: torch.device) -> bool:
    """Whether it multiplies bf16 at all; on GPUs before 2020 it is only emulated."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def repeatable(device: torch.device) -> None:
    """From now on the same bits for the same work on a GPU, where torch has kernels that give them; else it warns.

    A run that is taken up ends in the bits of one that was not only so. A processor does it anyway.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it, as torch says
        torch.use_deterministic_algorithms(True, warn_only=True)


def synchronize(device: torch.device) -> None:
    """Wait until all that was asked of it is done; a processor does it at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Spans:
    """Seconds that parts of a step take, without a wait on a GPU: there events are read when the step has ended."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._seconds, self._open = 0.0, []

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """What is inside counts."""
        if not self._cuda:
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            return
        ends = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        ends[0].record()
        yield
        ends[1].record()
        self._open.append(ends)

    def taken(self) -> float:
        """Seconds since this was asked last; what is open must have been waited for."""
        seconds = self._seconds + sum(1e-3 * start.elapsed_time(end) for start, end in self._open)
        self._seconds, self._open = 0.0, []
        return seconds


def milliseconds(device: torch.device, call: Callable[[], object]) -> float:
    """How long a call takes there: by events on a GPU, which leave out nothing that it has asked for."""
    if device.type != "cuda":
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        return 1e3 * (time.perf_counter() - start)
    with torch.cuda.device(device):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
    return start.elapsed_time(end)
