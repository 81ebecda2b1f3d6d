"""What was asked of a run after it was made, and is kept: rankings, sensitivities, surfaces, timings."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from prune_core import files
from prune_core.cutting.answers import Sensitivity, SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.cutting.cuts import SurfaceKind
from prune_core.cutting.masks import Norms
from prune_core.methods import rankings
from prune_core.runs.places import RunError, one_line
from prune_core.runs.stages import DENSE


@dataclass(frozen=True)
class Answers:
    """These answers, read from both folders; where a run ships with the project, new ones lie beside the user's runs.

    `stage`: dense, penalty-2x, retrain-2x ...
    """

    own: Path  # the run's folder
    later: Path  # where new answers are written: the same, unless the run ships
    layout: Layout
    source: Answers | None = None  # of the run that it ships beside and whose dense weights it shares

    def ranking_file(self, stage: str, name: str) -> Path:
        """Where another ranking than the norms is written."""
        return self.later / f"{name}-{stage}.safetensors"

    def ranking_path(self, stage: str, name: str) -> Path | None:
        """Where it is to be read; None where it was not recorded."""
        paths = (self.own / f"{name}-{stage}.safetensors", self.ranking_file(stage, name))
        path = next((path for path in paths if path.exists()), None)
        return self.source.ranking_path(stage, name) if path is None and self._shared(stage) else path

    def rankings(self, stage: str) -> list[str]:
        """What a threshold may be on: 'norm', and the other rankings that were recorded for the stage."""
        return ["norm", *(name for name in rankings.recordable() if self.ranking_path(stage, name))]

    def ranking(self, stage: str, name: str) -> Norms:
        """Another ranking than the norm: matrix name -> (groups down, groups across) float32. Raises RunError."""
        run, path = self.own.name, self.ranking_path(stage, name)
        if path is None:
            raise RunError(f"run {run!r} has no score {name!r} of {stage}; it has: {', '.join(self.rankings(stage))}; "
                           f"others are made by: python -m prune_core score {run}")
        try:
            with safe_open(path, framework="np") as file:
                return {m.name: file.get_tensor(m.name) for m in self.layout.matrices}
        except (SafetensorError, OSError) as error:
            raise RunError(f"run {run!r}: score {name!r} of {stage} cannot be read: {one_line(error)}") from None

    def sensitivity_file(self, stage: str) -> Path:
        """Where what cutting one layer or matrix alone costs is written."""
        return self.later / f"sensitivity-{stage}.jsonl"

    def sensitivity(self, stage: str) -> list[Sensitivity]:
        """What cutting one layer or matrix alone costs: each point once; lines that a crash tore are left out."""
        shared = self.source.sensitivity(stage) if self._shared(stage) else []
        points = {(point.scope, point.key, point.share): point for point in shared}
        for line in self._lines(f"sensitivity-{stage}.jsonl"):
            with contextlib.suppress(TypeError):
                point = Sensitivity(**line)
                points[point.scope, point.key, point.share] = point
        return list(points.values())

    def surfaces_file(self, stage: str) -> Path:
        """Where more surfaces than the run's own are written."""
        return self.later / f"surface-{stage}.jsonl"

    def surfaces(self, stage: str, own: Sequence[SurfacePoint] | None, scope: str,
                 formats: str = "") -> dict[SurfaceKind, list[SurfacePoint]]:
        """Every recorded surface, whole or begun: the run's `own` (by norm, of this `scope`, of weights trained in
        these `formats`), then those asked for."""
        surfaces: dict[SurfaceKind, dict[float, SurfacePoint]] = {}
        if own:
            surfaces[SurfaceKind("norm", scope, False, formats)] = {point.wanted: point for point in own}
        for line in self._lines(f"surface-{stage}.jsonl"):
            with contextlib.suppress(TypeError, KeyError):
                kind = SurfaceKind(line.pop("by"), line.pop("scope"), line.pop("repaired"), line.pop("formats", ""))
                point = SurfacePoint(**line)
                surfaces.setdefault(kind, {}).setdefault(point.wanted, point)
        return {kind: [points[wanted] for wanted in sorted(points)] for kind, points in surfaces.items()}

    @property
    def timings_file(self) -> Path:
        """Where what `measure` took is written."""
        return self.later / "timings.jsonl"

    def timings(self) -> list[dict]:
        """Everything that was measured of the run, oldest first: `measure`'s answers, with the machine."""
        return self._lines("timings.jsonl")

    def _shared(self, stage: str) -> bool:
        return stage == DENSE and self.source is not None

    def _lines(self, name: str) -> list[dict]:
        """Lines of a file that ships with the run, then of the user's own for it."""
        paths = dict.fromkeys((self.own / name, self.later / name))
        return [line for path in paths for line in files.read_sealed(path)]
