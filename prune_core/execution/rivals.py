"""Rivals: the dense model in every engine that is installed here, to be timed beside the compact one."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from prune_core import InputError, files
from prune_core.execution import engines
from prune_core.execution.engines import Inputs, forward
from prune_core.latency.profile import RIVALS as NAMES
from prune_core.latency.profile import TORCH

DENSE = TORCH  # always timed: what a speedup "over dense torch" is over
WRITERS = ("onnx", "onnxscript")  # what writes a graph
KEPT, KEPT_BYTES = 8, 2**31  # graphs that stay for the next time, at most

Calls = dict[str, Callable[[], object]]
Runs = dict[str, Callable[[Inputs], object]]


def chosen(asked: str) -> tuple[str, ...]:
    """Names of rivals of 'all', 'none' or a list with commas; DENSE is always among them. Raises InputError."""
    names = [name.strip() for name in asked.split(",")]
    named = {"all": NAMES, "none": ()}.get(asked.strip(), names)
    if unknown := next((name for name in named if name not in NAMES), None):
        raise InputError(f"rival {unknown!r} is unknown; needed: all, none, or some of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name == DENSE or name in named)


def calls(model: nn.Module, inputs: Inputs, names: Sequence[str], folder: Path,
          told: Callable[[str], None] = lambda words: None) -> tuple[Calls, dict[str, str]]:
    """({rival: its call on `inputs`, which has run once}, {rival: why it is left out, one line}): as `opened`."""
    runs, left_out = opened(model, inputs, names, folder, told)
    return {name: functools.partial(run, inputs) for name, run in runs.items()}, left_out


def opened(model: nn.Module, inputs: Inputs, names: Sequence[str], folder: Path,
           told: Callable[[str], None] = lambda words: None) -> tuple[Runs, dict[str, str]]:
    """({rival: a function of inputs, which has run once on these}, {rival: why it is left out, one line}), on as many
    threads as torch has.

    `folder` takes graphs that cannot be kept; `told` hears what comes next. No failure of an engine ends it.
    """
    ready: Runs = {}
    left_out: dict[str, str] = {}
    for name in names:
        engine, dtype = name.split()
        if why := missing(engine):
            left_out[name] = why
            continue
        try:
            if engine != "torch":
                told(f"{name}: writing the dense model as a graph, kept for the next time" if not
                     _place(model, dtype).exists() else f"{name}: reading the dense model's graph")
            run = _run(engine, dtype, model, folder)
            run(inputs)
        except Exception as error:  # noqa: BLE001  whatever an engine says: the others are timed
            left_out[name] = _one_line(error)
            _forget(model, engine, dtype)
        else:
            ready[name] = run
    return ready, left_out


def graph(model: nn.Module, dtype: str, folder: Path) -> Path:
    """The dense model as ONNX, fp32 or with int8 weights: as it was kept, or made now and kept; else in `folder`.

    Good for timing alone: its weights are those of the first model of this shape, as a latency does not depend on
    values. Raises InputError where it is too large for one file.
    """
    place = _place(model, dtype)
    if place.exists():
        with contextlib.suppress(OSError):
            os.utime(place)  # the one used last is deleted last
        return place
    if engines.onnx_bytes(model) > engines.LARGEST:
        raise InputError(f"its weights take {engines.onnx_bytes(model) / 2**30:.1f} GiB, more than one ONNX file holds")
    made = Path(folder) / place.name
    if dtype == "int8":
        engines.quantized(graph(model, "fp32", folder), made)
    else:
        engines.to_onnx(model, made)
    with contextlib.suppress(OSError):
        files.write_whole(place, made.read_bytes())
        _make_room(place.parent)
    return made


def _run(engine: str, dtype: str, model: nn.Module, folder: Path) -> Callable[[Inputs], object]:
    if engine == "torch":  # bf16 as a model of its own: a sixth faster than autocast, which casts weights in every call
        each = copy.deepcopy(model).to(torch.bfloat16) if dtype == "bf16" else model
        return lambda inputs: forward(each, inputs)()
    int8 = dtype == "int8"
    path = graph(model, "int8" if int8 else "fp32", folder)
    return engines.session(engine, path, torch.get_num_threads(), "fp32" if int8 else dtype)


def missing(engine: str) -> str:
    """What is not installed that this engine needs; '' where all is there."""
    needed = () if engine == "torch" else (engine, *WRITERS)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed" if missing else ""


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:160]
    return said if isinstance(error, InputError) else f"{type(error).__name__}: {said}".rstrip(": ")


def _place(model: nn.Module, dtype: str) -> Path:
    """Where the graph of such a model is kept: one file for each shape, whatever its values, and each exporter."""
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    shapes = [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in model.state_dict().items()]
    versions = [metadata.version(name) for name in ("torch", "transformers", *WRITERS)]
    said = json.dumps([type(model).__name__, config, shapes, versions], sort_keys=True, default=str)
    key = hashlib.sha256(said.encode()).hexdigest()[:24]
    return files.cache_folder() / "graphs" / f"{key}-{'int8' if dtype == 'int8' else 'fp32'}.onnx"


def _forget(model: nn.Module, engine: str, dtype: str) -> None:
    """Delete the graph that an engine failed on: it may be damaged, and the next time it is made anew."""
    if engine != "torch":
        with contextlib.suppress(OSError, metadata.PackageNotFoundError):
            path = _place(model, dtype)
            files.writable(path)
            path.unlink(missing_ok=True)


def _make_room(folder: Path) -> None:
    """Delete the graphs that were used longest ago, down to KEPT of them and KEPT_BYTES together."""
    total = 0
    newest = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for number, path in enumerate(newest, 1):
        total += path.stat().st_size
        if number > KEPT or total > KEPT_BYTES:
            path.unlink(missing_ok=True)
