"""What searches for a mixture of settings measured and found, kept with a run: a killed search goes on from there.

    search-<stage>.jsonl   one sealed line a measured loss: {key, setting, labels, answers, outputs}, or error of one
                           matrix in one of its options: {key, setting, error}
    mixtures.jsonl         one sealed line a mixture found, by name: all that `search --json` tells of it

`key`: the same for the same weights, sentences and ranking; `setting`: its options, matrix by matrix.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from prune_core import InputError, files
from prune_core.cutting.cuts import Cut
from prune_core.runs.run import Run

FILE = "mixtures.jsonl"
Losses = dict[str, float]  # as evaluation/losses.py has them


@dataclass(frozen=True)
class Mixture:
    """A cut of a stage with thresholds and formats of its own for every matrix; `about`: what was told when found."""

    name: str
    stage: str
    cut: Cut
    about: Mapping


def keep_loss(run: Run, stage: str, key: str, setting: str, losses: Losses) -> None:
    """For whoever goes on; where nothing can be written it is measured again."""
    with contextlib.suppress(OSError):
        files.append_sealed(run.later / f"search-{stage}.jsonl", {"key": key, "setting": setting, **losses})


def losses(run: Run, stage: str, key: str) -> dict[str, Losses]:
    """Setting -> its losses, of those measured under this key; lines that a crash tore are left out."""
    known = {}
    for line in _lines(run, f"search-{stage}.jsonl"):
        if line.pop("key", None) == key and isinstance(setting := line.pop("setting", None), str):
            known[setting] = line
    return known


def keep(run: Run, name: str, about: Mapping) -> None:
    """Keep what was found under this name, in place of an older one; where nothing can be written it is only told."""
    with contextlib.suppress(OSError):
        files.append_sealed(run.later / FILE, {"name": name, **about})


def found(run: Run) -> dict[tuple[str, str], Mixture]:
    """(name, stage) -> mixture, the newest of each, in the order in which these were found."""
    mixtures = {}
    for line in _lines(run, FILE):
        with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
            said = line["cut"]
            cut = Cut(said["scope"], None, {str(key): float(value) for key, value in said["thresholds"].items()},
                      said["by"], bool(said["repaired"]), said["formats"])
            key = line["name"], line["phase"]
            mixtures.pop(key, None)  # so that the newest is the last
            mixtures[key] = Mixture(*key, cut, line)
    return mixtures


def named(run: Run, name: str, stage: str | None = None) -> Mixture:
    """The mixture of this name, of this stage or else the newest. Raises InputError."""
    known = found(run)
    fits = [one for one in known.values() if one.name == name and stage in (None, one.stage)]
    if not fits:
        there = ", ".join(f"{one.name} ({one.stage})" for one in known.values()) or "none"
        raise InputError(f"run {run.name!r} has no mixture {name!r}{f' of {stage}' if stage else ''}; it has: {there}; "
                         f"others are found by: python -m prune_core search {run.name} --ratio 8")
    return fits[-1]


def _lines(run: Run, name: str) -> list[dict]:
    return [line for folder in dict.fromkeys((run.path, run.later)) for line in files.read_sealed(folder / name)]
