"""A sweep: many runs, a cell each, of a grid or a list; what is asked of them and what they are called. No torch.

    data/runs/.sweeps/NAME.json      what was asked, so that it can be shown and taken up again
    data/runs/.sweeps/NAME.stop      there while it is asked to stop

The folders of its runs are the truth: a cell is done where its run is complete, however it came to be.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import get_type_hints

from prune_core import InputError, files
from prune_core.methods import table
from prune_core.runs import places
from prune_core.runs.command_line import text_of
from prune_core.runs.config import OPTIONS, OUTSIDE, PruneConfig, preset, rooted
from prune_core.runs.places import RunError, one_line, read_json
from prune_core.tasks import table_files

AXES = ("task", "method", "block", "compression", "seed")  # they stand in every cell's name, in this order
MOST = 100_000  # cells
DENSE = ("model", "revision", "task", "data", "columns", "label", "regression", "seed", "dense_steps", "dense_epochs",
         "dense_budget", "dense_lr", "batch_size", "max_length", "weight_decay", "warmup", "train_examples",
         "train_embeddings", "allow_unknown", "start_from")  # settings by which fine-tuned weights are what they are
_FIELDS = {option.replace("-", "_"): field for field, option in OPTIONS.items()}  # as options call settings
_HINTS = get_type_hints(PruneConfig)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep. `settings`: what tells it from the others, and what every list of cells shows."""

    run: str
    config: PruneConfig
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Sweep:
    name: str
    cells: tuple[Cell, ...]

    @cached_property
    def needs(self) -> dict[str, str]:
        """Run -> the cell whose dense weights it starts from, of those that start from one."""
        runs = {cell.run for cell in self.cells}
        return {cell.run: cell.config.start_from for cell in self.cells if cell.config.start_from in runs}


def grid(name: str, axes: Mapping[str, Sequence] | None = None, cells: Iterable[Mapping] = (),
         dense_once: bool = False, **settings: object) -> Sweep:
    """A sweep over all combinations of the axes' values, and over the `cells` that are listed; all with `settings`.

    Settings go by the names of `prune`'s options, methods also as `compare` calls their variants. A compression may be
    a list: then one run has them all. `dense_once`: cells that fine-tune alike start from the first one's dense
    weights. Raises InputError.
    """
    places.check_name(name)
    axes = {_known(axis): values for axis, values in (axes or {}).items()}
    for axis, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputError(f"axis {axis!r} is {str(values)[:40]!r}; needed: a list of at least one value")
    shared = {_known(key): one for key, one in settings.items()}
    said = [shared | dict(zip(axes, one, strict=True)) for one in product(*axes.values())] if axes else []
    said += [shared | {_known(key): one for key, one in cell.items()} for cell in cells]
    if not 1 <= len(said) <= MOST:
        raise InputError(f"sweep {name!r} has {len(said)} cells; needed: 1 to {MOST:,}, by a grid's axes or listed")
    return _named(name, [_config(one) for one in said], _shown(said), dense_once)


def of_configs(name: str, planned: Iterable[tuple[str, PruneConfig]]) -> Sweep:
    """A sweep of runs that have their names already."""
    return Sweep(places.check_name(name), tuple(Cell(run, config, _told(config)) for run, config in planned))


# ---------------------------------------------------------------- what settings mean


def _known(key: str) -> str:
    """A setting as options call it, with _ for -. Raises InputError."""
    name = key.replace("-", "_")
    if name not in _FIELDS:
        raise InputError(f"setting {key!r} is unknown to a sweep; one of {', '.join(sorted(_FIELDS))}")
    return name


def value(key: str, text: str) -> object:
    """What is typed for a setting, as it is kept: '0.9' -> 0.9, '1.5+3' -> [1.5, 3.0]. Raises InputError."""
    hint, parts = _HINTS[_FIELDS[_known(key)]], [part.strip() for part in text.split("+")]
    kinds = {bool, int, float} & set(getattr(hint, "__args__", (hint,)))
    try:
        if _known(key) == "compression":
            return [float(part.removesuffix("x")) for part in parts] if len(parts) > 1 else float(
                text.strip().removesuffix("x"))
        if _known(key) == "text":
            return parts
        if bool in kinds and text.strip().lower() in ("true", "false", "yes", "no"):
            return text.strip().lower() in ("true", "yes")
        if bool in kinds:
            raise ValueError
        return int(text) if int in kinds else float(text) if float in kinds else text.strip()
    except ValueError:
        kind = "true or false" if bool in kinds else "a whole number" if int in kinds else "a number"
        raise InputError(f"{key} {text[:40]!r} is not {kind}") from None


def _config(said: Mapping[str, object]) -> PruneConfig:
    """The settings of one cell. Raises InputError."""
    said, offered = dict(said), table.variants()
    given = {}
    if (method := said.pop("method", None)) is not None:
        if not isinstance(method, str) or method not in offered | table.METHODS:
            raise InputError(f"method {method!r} is unknown; some of {', '.join(offered)}")
        given |= offered.get(method, {"method": method})
    given |= {_FIELDS[key]: one for key, one in said.items()}
    for field in ("compressions", "columns"):
        if field in given:
            one = given[field]
            given[field] = tuple(one) if isinstance(one, list | tuple) else (one,)
    PruneConfig.from_json({OUTSIDE.get(field, field): one for field, one in given.items()})  # their types
    return rooted(preset(given.pop("preset", PruneConfig.preset), **given))


# ---------------------------------------------------------------- names


def _named(name: str, configs: Sequence[PruneConfig], shown: Sequence[str], dense_once: bool) -> Sweep:
    """Each with the name that its own settings give it, whatever else the sweep has. Raises InputError."""
    runs = [_name(name, config, shown) for config in configs]
    if len(set(runs)) < len(runs):
        again = next(run for run in runs if runs.count(run) > 1)
        raise InputError(f"cell {again!r} of sweep {name!r} is asked for twice; needed: each once")
    if dense_once:
        first: dict[tuple, str] = {}
        for run, config in zip(runs, configs, strict=True):
            first.setdefault(_dense(config), run)
        configs = [config if first[_dense(config)] == run else replace(config, start_from=first[_dense(config)])
                   for run, config in zip(runs, configs, strict=True)]
    return Sweep(name, tuple(Cell(run, config, _told(config, shown))
                             for run, config in zip(runs, configs, strict=True)))


def _dense(config: PruneConfig) -> tuple:
    return tuple(getattr(config, field) for field in DENSE)


def _shown(said: Sequence[Mapping[str, object]]) -> list[str]:
    """The fields by which cells were told from one another, beside those that every name has."""
    keys = dict.fromkeys(key for one in said for key in one if key not in (*AXES, "from", "threads"))
    return [_FIELDS[key] for key in keys if len({repr(one.get(key)) for one in said}) > 1]


def _told(config: PruneConfig, shown: Sequence[str] = ()) -> dict[str, object]:
    """Setting -> value, as JSON has it."""
    told = {"task": _task(config), "method": variant(config), "block": config.block,
            "compression": list(config.compressions), "seed": config.seed}
    others = {OUTSIDE.get(field, field): getattr(config, field) for field in shown}
    return told | {name: list(one) if isinstance(one, tuple) else one for name, one in others.items()}


def variant(config: PruneConfig) -> str:
    """What `compare` calls the method of these settings; its own name where it is none of those offered."""
    own = table.METHODS[config.method]
    for name, settings in (own.variants or {}).items():
        others = {key for one in own.variants.values() for key in one} - set(settings)
        if all(getattr(config, key) == one for key, one in settings.items()) and all(
                getattr(config, key) == getattr(PruneConfig, key) for key in others):
            return name
    return config.method


def _task(config: PruneConfig) -> str:
    return ("practice" if config.data == "practice" else
            table_files.task_name(config.data) if table_files.is_own(config.data) else config.task)


def _name(sweep: str, config: PruneConfig, shown: Sequence[str]) -> str:
    """mine-mrpc-surgeon-64x1-2x-s0, then what is not as usual: it stays when the sweep is asked for more cells."""
    sizes = "-".join(f"{compression:g}x" for compression in config.compressions)
    parts = [sweep, _task(config), variant(config), config.block, sizes, f"s{config.seed}"]
    usual = preset(config.preset, method=config.method)
    for field in shown:
        if (one := getattr(config, field)) != getattr(usual, field):
            words = "+".join(map(str, one)) if isinstance(one, tuple) else text_of(one)
            parts.append(f"{OUTSIDE.get(field, field)}{words}")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(parts)).strip("_-")
    if len(name) > 64:
        name = f"{name[:55].rstrip('-_')}-{zlib.crc32('-'.join(parts).encode()):08x}"
    return name


# ---------------------------------------------------------------- as a file


def folder_of(runs_dir: Path) -> Path:
    return Path(runs_dir) / ".sweeps"


def from_toml(content: str, what: str, name: str | None = None) -> Sweep:
    """The sweep that a TOML file asks for: name, dense_once, [settings], [grid], [[cell]]. Raises InputError."""
    import tomllib

    try:
        said = tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{what} is no TOML: {one_line(error)}") from None
    kinds = {"name": str, "dense_once": bool, "settings": dict, "grid": dict, "cell": list}
    for key, one in said.items():
        if key not in kinds or not isinstance(one, kinds[key]) or (
                key == "cell" and not all(isinstance(cell, dict) for cell in one)):
            raise InputError(f"{what} has {key!r} {str(one)[:40]!r}; needed: name, dense_once, [settings], [grid], "
                             "[[cell]]")
    settings = said.get("settings", {})
    if taken := {"name", "axes", "cells", "dense_once"} & set(settings):
        raise InputError(f"setting {taken.pop()!r} is unknown to a sweep")
    return grid(name or said.get("name") or "sweep", said.get("grid", {}), said.get("cell", []),
                said.get("dense_once", False), **settings)


def keep(sweep: Sweep, runs_dir: Path, how: Mapping[str, object]) -> None:
    """Write down what is asked and `how` it is carried out, and that it is not to stop. Raises InputError."""
    base = sweep.cells[0].config.to_json()
    cells = [{"run": cell.run, "settings": dict(cell.settings),
              "changes": {name: one for name, one in cell.config.to_json().items() if one != base[name]}}
             for cell in sweep.cells]
    asked = {"format": 1, "name": sweep.name, "created": time.time(), "how": dict(how), "base": base, "cells": cells}
    path = folder_of(runs_dir) / f"{sweep.name}.json"
    try:
        files.write_whole(path, json.dumps(asked, separators=(",", ":")).encode())
        path.with_suffix(".stop").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"sweep {sweep.name!r} cannot be written in {runs_dir}: {error.strerror or error}") from None


def kept(name: str, runs_dir: Path) -> dict:
    """What was asked of a sweep: name, created, how, base, cells of {run, settings, changes}. Raises RunError."""
    path = folder_of(runs_dir) / f"{places.check_name(name)}.json"
    if not path.is_file():
        known = ", ".join(names(runs_dir)) or "none"
        raise RunError(f"no sweep {name!r} in {runs_dir}; there are: {known}")
    asked = read_json(path, name)
    try:
        rows = [(str(cell["run"]), dict(cell["settings"]), dict(cell["changes"])) for cell in asked["cells"]]
        if not rows or not isinstance(asked["base"], dict) or not isinstance(asked["how"], dict):
            raise ValueError("it has no cells")
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"sweep {name!r}: {path.name} is not valid: {one_line(error)}") from None
    return asked


def read(name: str, runs_dir: Path) -> tuple[Sweep, dict]:
    """A sweep that was started before, and how it was carried out. Raises RunError."""
    asked = kept(name, runs_dir)
    cells = [Cell(cell["run"], PruneConfig.from_json(asked["base"] | cell["changes"]), cell["settings"])
             for cell in asked["cells"]]
    return Sweep(name, tuple(cells)), asked["how"]


def names(runs_dir: Path) -> list[str]:
    """The sweeps of a runs folder, the one that was started last first."""
    found = [path for path in folder_of(runs_dir).glob("*.json") if not path.name.startswith(".")]
    return [path.stem for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def stop(name: str, runs_dir: Path) -> None:
    """Ask a sweep to stop, wherever it is carried out; all its cells can be resumed. Raises OSError."""
    files.write_whole(folder_of(runs_dir) / f"{places.check_name(name)}.stop", b"")


def stopped(name: str, runs_dir: Path) -> bool:
    """Whether it was asked to stop."""
    return (folder_of(runs_dir) / f"{name}.stop").exists()
