"""The command line that makes a run: an option for every setting that has one. What the app and sweeps start."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from prune_core import InputError
from prune_core.runs.config import OPTIONS, PruneConfig, preset


def arguments(config: PruneConfig, name: str, runs_dir: Path) -> list[str]:
    """The command line after `python -m prune_core` that makes this run: an option for every setting that has one.

    Raises InputError for a setting that is not its preset's and cannot be said.
    """
    said = {field: value for field in OPTIONS if _needed(field, value := getattr(config, field))}
    made = preset(**{"name" if field == "preset" else field: value for field, value in said.items()})
    for field in fields(config):
        value, instead = getattr(config, field.name), getattr(made, field.name)
        if value != instead:
            raise InputError(f"{field.name} {value} cannot be told to a new run, which takes {instead} "
                             f"from preset {config.preset!r}: there is no option for it")
    options = [_option(OPTIONS[field], value) for field, value in said.items()]
    return ["prune", *options, f"--run={name}", f"--runs-dir={runs_dir}", "--json"]


def _needed(field: str, value: object) -> bool:
    """Whether an option must say it: None and what is empty are meant without one, a flag only where it differs."""
    return value != getattr(PruneConfig, field) if isinstance(value, bool) else value not in (None, "", ())


def _option(option: str, value: object) -> str:
    """--mixkd or --no-spare, --compression=1.5,2, --seed=0"""
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option}=" + ",".join(map(text_of, value if isinstance(value, tuple) else (value,)))


def text_of(value: object) -> str:
    """A number as a person writes it, with every digit that it has: 2 and not 2.0."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)
