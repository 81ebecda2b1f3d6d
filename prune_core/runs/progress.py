"""What a run has recorded so far, read from its folder: progress.jsonl, norms/, weights/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from prune_core import files
from prune_core.cutting.answers import SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import Norms
from prune_core.runs.places import RunError, one_line
from prune_core.runs.snapshots import Snapshot
from prune_core.runs.stages import DENSE, Stage

HIDDEN = {"norms", "weights"}  # fields of a Snapshot that do not go into its line
_KNOWN = {f.name for f in fields(Snapshot)} - HIDDEN
_SIZES = ("sparsity", "compression_encoder", "compression_model")


class Progress:
    """The snapshots of a run, with the norms and weights of some. Lines are read once, norms whenever asked for."""

    def __init__(self, folder: Path, layout: Layout, metric: str, source: Progress | None = None):
        """`metric`: the one of the task's scores that every stage must have; `source`: of the run that it ships beside
        and whose dense weights it shares.
        """
        self.folder, self.name, self.layout, self.metric, self.source = folder, folder.name, layout, metric, source

    @cached_property
    def snapshots(self) -> list[Snapshot]:
        """All snapshots in order, without their norms. What a resume undid is left out. Raises RunError."""
        lines = self.lines
        try:
            return [_snapshot_of(line, self.metric) for line in lines]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"run {self.name!r}: progress.jsonl is not valid: {one_line(error)}") from None

    @cached_property
    def lines(self) -> list[dict]:
        """What progress.jsonl says, line by line; torn ones are left out. Raises RunError."""
        kept: list[dict] = []
        try:
            content = (self.folder / "progress.jsonl").read_bytes()
        except FileNotFoundError:
            return kept
        except OSError as error:
            raise RunError(f"run {self.name!r}: progress.jsonl cannot be read: {error.strerror or error}") from None
        for line in filter(None, map(files.unsealed, content.split(b"\n"))):
            number = line.get("resume", line.get("i")) if isinstance(line, dict) else None
            if type(number) is not int or number < 0:
                raise RunError(f"run {self.name!r}: progress.jsonl has a line without a number of its own: "
                               f"{str(line)[:80]!r}")
            if "resume" in line:
                kept = [one for one in kept if one["i"] < number]
            else:
                kept.append(line)
        return kept

    @cached_property
    def with_norms(self) -> list[int]:
        """Positions in `snapshots` of those whose block norms were recorded."""
        return [at for at, line in enumerate(self.lines) if line.get("norms")]

    def norms(self, at: int) -> Norms:
        """Block norms of snapshot `at`: matrix name -> (groups down, groups across), float32. Raises RunError."""
        if self.source and self.snapshots[at].saved == DENSE:  # there they are float32, beside the weights
            return self.source.norms(self.source.saved(DENSE))
        path = self.folder / "norms" / f"{self.lines[at]['i']:06d}.safetensors"
        try:
            with safe_open(path, framework="np") as file:
                norms = {m.name: _norms_of(file, m.name) for m in self.layout.matrices}
        except (SafetensorError, OSError) as error:
            raise RunError(f"run {self.name!r}: norms of snapshot {at} cannot be read: {one_line(error)}") from None
        for matrix in self.layout.matrices:
            if norms[matrix.name].shape != self.layout.block.grid(matrix.m, matrix.n):
                raise RunError(f"run {self.name!r}: norms of snapshot {at} do not fit {matrix.name}")
        return norms

    def saved(self, stage: str) -> int:
        """Position of the snapshot that saved the weights of `stage`. Raises RunError."""
        for at, snapshot in enumerate(self.snapshots):
            if snapshot.saved == stage:
                return at
        have = ", ".join(self.stages) or "none yet"
        raise RunError(f"run {self.name!r} has no stage {stage!r}; it has: {have}")

    @property
    def stages(self) -> list[Stage]:
        """dense, penalty-2x, retrain-2x ...: those that are there, as they were reached."""
        return [s.saved for s in self.snapshots if s.saved]

    def has_weights(self, stage: str) -> bool:
        """Whether the weights of a stage are there, so that exact scores of its cuts can be had."""
        return self._weights(stage) is not None

    def _weights(self, stage: str) -> Path | None:
        path = self.folder / "weights" / f"{stage}.safetensors"
        if not path.exists() and stage == DENSE and self.source:
            return self.source._weights(stage)
        return path if path.exists() else None

    def weights_file(self, stage: str, command: str) -> Path:
        """The weights of a stage. Raises RunError where they are not there, with the `command` that makes them."""
        self.saved(stage)
        if path := self._weights(stage):
            return path
        there = ", ".join(one for one in self.stages if self.has_weights(one)) or "none"
        raise RunError(f"run {self.name!r} ships without the weights of {stage!r} (with: {there}); to get them, "
                       f"run: {command}")


def _snapshot_of(line: Mapping, metric: str) -> Snapshot:
    """Raises KeyError, TypeError or ValueError where the line is of no snapshot."""
    if not isinstance(line["phase"], str) or type(line["step"]) is not int:
        raise ValueError(f"phase {str(line['phase'])[:40]!r}, step {str(line['step'])[:40]!r}")
    if (saved := line.get("saved")) is not None:
        saved = Stage(saved)
        numbers = [line["scores"][metric], *(line["point"][name] for name in _SIZES)]
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"{saved} has a score or a size that is no number")
    values = {key: value for key, value in line.items() if key in _KNOWN}
    if saved:
        values["saved"] = saved
    if "surface" in values:
        values["surface"] = [SurfacePoint(**point) for point in values["surface"]]
    return Snapshot(**values)


def _norms_of(file, name: str) -> np.ndarray:
    """Norms as recorded (float32), or as packed for shipping: integers times the matrix's scale."""
    values = file.get_tensor(name)
    if values.dtype == np.float32:
        return values
    return values.astype(np.float32) * file.get_tensor(name + ".scale")
