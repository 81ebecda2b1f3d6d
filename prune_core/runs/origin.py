"""Where a run's checkpoint is read from: its own copy, the folder that it was moved to, or what it was made of."""

from __future__ import annotations

from pathlib import Path

from prune_core.runs.places import read_json
from prune_core.runs.run import Run


def carried(run: Run) -> Path | None:
    """The copy in its own folder, as a run that was packed to be moved has one: without what its stages keep."""
    copy = run.path / "checkpoint"
    return copy if (copy / "config.json").is_file() else None


def moved_file(run: Run) -> Path:
    """Says where its checkpoint lies now, once `relocate` was told."""
    return run.later / "checkpoint.json"


def checkpoint(run: Run) -> str:
    """What to load: a folder, a hub name, or minilm. Raises RunError."""
    if copy := carried(run):
        return str(copy)
    said = read_json(moved_file(run), run.name) if moved_file(run).exists() else None
    return said["folder"] if isinstance(said, dict) and isinstance(said.get("folder"), str) else run.config.model
