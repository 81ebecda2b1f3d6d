"""What progress.jsonl and norms/ say: lines, snapshots, norms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from prune_core.cutting.answers import SurfacePoint
from prune_core.runs.snapshots import Snapshot

HIDDEN = {"norms", "weights"}  # fields of a Snapshot that do not go into its line
_SAVED = re.compile(r"dense|(penalty|retrain)-[0-9.e+]+x")  # a file name too


def snapshot_of(line: Mapping, metric: str) -> Snapshot:
    """Raises KeyError, TypeError or ValueError where the line is of no snapshot."""
    if not isinstance(line["phase"], str) or type(line["step"]) is not int:
        raise ValueError(f"phase {str(line['phase'])[:40]!r}, step {str(line['step'])[:40]!r}")
    if (saved := line.get("saved")) is not None:
        if not isinstance(saved, str) or not _SAVED.fullmatch(saved):
            raise ValueError(f"saved {str(saved)[:40]!r} is no end of a phase")
        numbers = [line["scores"][metric], *(line["point"][name] for name in ("sparsity", "compression_encoder", "compression_model"))]
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"{saved} has a score or a size that is no number")
    known = {f.name for f in fields(Snapshot)} - HIDDEN
    values = {key: value for key, value in line.items() if key in known}
    if "surface" in values:
        values["surface"] = [SurfacePoint(**point) for point in values["surface"]]
    return Snapshot(**values)


def norms_of(file, name: str) -> np.ndarray:
    """Norms as recorded (float32), or as packed for shipping: integers times the matrix's scale."""
    values = file.get_tensor(name)
    if values.dtype == np.float32:
        return values
    return values.astype(np.float32) * file.get_tensor(name + ".scale")
