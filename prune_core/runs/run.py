"""Run directories, read: load, list, find; recorder.py writes them. Needs no torch.

    data/runs/<name>/
      run.json                 what was asked, on what machine: written once, before the first step
      progress.jsonl           append-only: one snapshot a line, each line with its crc32
      norms/000042.safetensors block norms of snapshot 42
      weights/<saved>.safetensors   what training changed, at the end of a phase
      checkpoint.safetensors   everything `resume` needs, replaced as a whole
      status.json              where it is now, for people who watch
      sensitivity-<saved>.jsonl   what cutting one layer or matrix alone costs, where that was asked for
      surface-<saved>.jsonl    more score surfaces, likewise
      activation-<saved>.safetensors   other scores of the groups, likewise (taylor, loss, surgeon)
      timings.jsonl            what `measure` took, likewise
      result.json              there when the run is complete
      lock                     held by the one process that writes

A file other than progress.jsonl is written beside its target, flushed, and renamed over it: a reader
never sees half of one. A line of progress.jsonl that a crash tore has no valid crc and is skipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import filelock
import numpy as np
from safetensors import SafetensorError, safe_open

from prune_core import files
from prune_core.cutting.answers import Kind, Sensitivity, SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.methods import rankings
from prune_core.runs import places
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError, one_line, read_json
from prune_core.runs.progress import norms_of, snapshot_of
from prune_core.runs.schedule import saved_name
from prune_core.runs.snapshots import Snapshot
from prune_core.tasks import table_files



class Run:
    """A run directory, read. Cheap to make; snapshots and norms are read when asked for."""

    def __init__(self, path: Path):
        """Raises RunError, with the reason, if `path` holds no run that this version can read."""
        self.path, self.name = Path(path), Path(path).name
        about = read_json(self.path / "run.json", self.name)
        if not isinstance(about, dict) or about.get("format") != places.FORMAT:
            found = about.get("format") if isinstance(about, dict) else None
            raise RunError(f"run {self.name!r} has format {found!r}; this version reads {places.FORMAT}")
        try:
            self.about = about
            self.config = PruneConfig.from_json(about["config"])
            self.layout = Layout.from_json(about["layout"])
            self.task, self.metric, self.data = about["task"]["name"], about["task"]["metric"], about["data"]
            self.created = float(about.get("created", 0))  # seconds since 1970
            _check(about)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RunError(f"run {self.name!r}: run.json is not valid: {one_line(error)}") from None

    @property
    def recorded(self) -> bool:
        """Whether it shipped with the project (read only)."""
        return self.path.parent == places.RECORDED

    @property
    def later(self) -> Path:
        """Where what is asked of it afterwards is written: its own folder, or beside the user's runs for one that ships."""
        return places.RUNS / ".scores" / self.name if self.recorded else self.path

    @property
    def is_practice(self) -> bool:
        """Whether its data is the synthetic practice set."""
        return self.data == "practice"

    @property
    def is_glue(self) -> bool:
        return not self.is_practice and not self.is_own

    @property
    def is_own(self) -> bool:
        """Whether it was trained on a table file of the user's."""
        return table_files.is_own(self.data)

    def check_data(self, source: str | None = None) -> None:
        """Raises RunError where a table file is no longer what the run was trained on: rows would change sides between train and dev."""
        path, known = source or self.data, self.about.get("data_digest")
        if known and table_files.is_own(path) and (now := table_files.digest(path)) and now != known:
            raise RunError(f"{Path(path).name!r} has changed since run {self.name!r} was made; put back what it was, or begin a new run")

    @property
    def labels(self) -> list[str]:
        """Names of the classes; [] for regression."""
        return list(self.about["task"].get("labels", []))

    @property
    def outputs(self) -> int:
        """Outputs of the classification head."""
        return len(self.labels) or 1

    @cached_property
    def result(self) -> dict | None:
        """What the run ended with, or None while it has not."""
        path = self.path / "result.json"
        found = read_json(path, self.name) if path.exists() else None
        if not isinstance(found, dict | None):
            raise RunError(f"run {self.name!r}: result.json is not valid")
        return found

    @property
    def status(self) -> str:
        """complete, running, or interrupted (its process is gone; it can be resumed)."""
        if self.result is not None:
            return "complete"
        return "running" if _locked(self.path / "lock") else "interrupted"

    @property
    def now(self) -> dict:
        """The writer's last word on where it is: phase, step, steps, doing, seconds_left ...; {} if none."""
        try:
            found = read_json(self.path / "status.json", self.name)
        except RunError:
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def snapshots(self) -> list[Snapshot]:
        """All snapshots in order, without their norms. What a resume undid is left out. Raises RunError."""
        lines = self.lines
        try:
            return [snapshot_of(line, self.metric) for line in lines]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"run {self.name!r}: progress.jsonl is not valid: {one_line(error)}") from None

    @cached_property
    def lines(self) -> list[dict]:
        """What progress.jsonl says, line by line; torn ones are left out. Raises RunError."""
        kept: list[dict] = []
        try:
            content = (self.path / "progress.jsonl").read_bytes()
        except FileNotFoundError:
            return kept
        except OSError as error:
            raise RunError(f"run {self.name!r}: progress.jsonl cannot be read: {error.strerror or error}") from None
        for line in filter(None, map(files.unsealed, content.split(b"\n"))):
            number = line.get("resume", line.get("i")) if isinstance(line, dict) else None
            if type(number) is not int or number < 0:
                raise RunError(f"run {self.name!r}: progress.jsonl has a line without a number of its own: {str(line)[:80]!r}")
            kept = [one for one in kept if one["i"] < number] if "resume" in line else [*kept, line]
        return kept

    @cached_property
    def with_norms(self) -> list[int]:
        """Positions in `snapshots` of those whose block norms were recorded."""
        return [at for at, line in enumerate(self.lines) if line.get("norms")]

    def norms(self, at: int) -> dict[str, np.ndarray]:
        """Block norms of snapshot number `at`: matrix name -> (groups down, groups across), float32. Raises RunError."""
        path = self.path / "norms" / f"{self.lines[at]['i']:06d}.safetensors"
        try:
            with safe_open(path, framework="np") as file:
                norms = {m.name: norms_of(file, m.name) for m in self.layout.matrices}
        except (SafetensorError, OSError) as error:
            raise RunError(f"run {self.name!r}: norms of snapshot {at} cannot be read: {one_line(error)}") from None
        for matrix in self.layout.matrices:
            if norms[matrix.name].shape != self.layout.block.grid(matrix.m, matrix.n):
                raise RunError(f"run {self.name!r}: norms of snapshot {at} do not fit {matrix.name}")
        return norms

    def saved(self, name: str) -> int:
        """Position of the snapshot that saved `name` (dense, penalty-2x, retrain-2x). Raises RunError."""
        for at, snapshot in enumerate(self.snapshots):
            if snapshot.saved == name:
                return at
        have = ", ".join(self.saved_names) or "none yet"
        raise RunError(f"run {self.name!r} has no phase {name!r}; it has: {have}")

    @property
    def saved_names(self) -> list[str]:
        """dense, penalty-2x, retrain-2x ...: the ends of phases this run has, in order."""
        return [s.saved for s in self.snapshots if s.saved]

    def weights_file(self, name: str) -> Path:
        """The weights of a saved phase. Raises RunError, saying how to get them, where they are not there."""
        self.saved(name)
        path = self.path / "weights" / f"{name}.safetensors"
        if path.exists():
            return path
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors"))) or "none"
        raise RunError(
            f"run {self.name!r} ships without the weights of {name!r} (with: {there}); to get them, run: {self.command()}"
        )

    def ranks_file(self, phase: str, kind: str) -> Path:
        """Where other scores of the groups than their norms are written: with the run, or beside the user's runs for one that ships."""
        return self.later / f"{kind}-{phase}.safetensors"

    def ranks_path(self, phase: str, kind: str) -> Path | None:
        """Where they are to be read; None where they were not recorded."""
        return next((path for path in (self.path / f"{kind}-{phase}.safetensors", self.ranks_file(phase, kind)) if path.exists()), None)

    def ranked(self, phase: str) -> list[str]:
        """What a threshold may be on at the end of a phase: 'norm', and the other scores that were recorded for it."""
        return ["norm", *(kind for kind in rankings.recordable() if self.ranks_path(phase, kind))]

    def ranks(self, phase: str, kind: str = "norm") -> dict[str, np.ndarray]:
        """Matrix name -> (groups down, groups across) float32: norms, or another recorded score. Raises RunError."""
        if kind == "norm":
            return self.norms(self.saved(phase))
        path = self.ranks_path(phase, kind)
        if path is None:
            raise RunError(f"run {self.name!r} has no score {kind!r} of {phase}; it has: {', '.join(self.ranked(phase))}; "
                           f"others are made by: python -m prune_core score {self.name}")
        try:
            with safe_open(path, framework="np") as file:
                return {m.name: file.get_tensor(m.name) for m in self.layout.matrices}
        except (SafetensorError, OSError) as error:
            raise RunError(f"run {self.name!r}: score {kind!r} of {phase} cannot be read: {one_line(error)}") from None

    def sensitivity_file(self, phase: str) -> Path:
        """Where what cutting one part alone costs is written: with the run, or beside the user's runs for one that ships."""
        return self.later / f"sensitivity-{phase}.jsonl"

    def sensitivity(self, phase: str) -> list[Sensitivity]:
        """What cutting one layer or matrix alone costs at the end of a phase: each point once; lines that a crash tore are left out."""
        found = {}
        for line in self._beside(f"sensitivity-{phase}.jsonl"):
            with contextlib.suppress(TypeError):
                point = Sensitivity(**line)
                found[point.scope, point.key, point.share] = point
        return list(found.values())

    def surfaces_file(self, phase: str) -> Path:
        """Where more surfaces than the run's own are written, likewise."""
        return self.later / f"surface-{phase}.jsonl"

    def surfaces(self, phase: str) -> dict[Kind, list[SurfacePoint]]:
        """Every recorded surface at the end of a phase: the run's own, and those that were asked for later; whole ones and begun ones."""
        found: dict[Kind, dict[float, SurfacePoint]] = {}
        if own := self.snapshots[self.saved(phase)].surface:
            found[Kind("norm", self.config.scope, False)] = {point.wanted: point for point in own}
        for line in self._beside(f"surface-{phase}.jsonl"):
            with contextlib.suppress(TypeError, KeyError):
                kind = Kind(line.pop("by"), line.pop("scope"), line.pop("repaired"))
                point = SurfacePoint(**line)
                found.setdefault(kind, {}).setdefault(point.wanted, point)
        return {kind: [points[wanted] for wanted in sorted(points)] for kind, points in found.items()}

    @property
    def timings_file(self) -> Path:
        """Where what `measure` took is written, likewise."""
        return self.later / "timings.jsonl"

    def timings(self) -> list[dict]:
        """Everything that was measured of this run, oldest first: `measure`'s answers, with the machine."""
        return self._beside("timings.jsonl")

    def _beside(self, name: str) -> list[dict]:
        """Lines of a file that ships with the run, then of the user's own for it."""
        paths = dict.fromkeys((self.path / name, self.later / name))
        return [line for path in paths for line in files.read_sealed(path)]

    def command(self) -> str:
        """The command line that makes this run again."""
        return self.about.get("command") or f"python -m prune_core prune --task {self.task} --run {self.name}-again"

    @property
    def dense_score(self) -> float | None:
        return next((s.scores[self.metric] for s in self.snapshots if s.saved == "dense"), None)

    @property
    def heads(self) -> int | None:
        """Attention heads per layer, where a compact model can do without some; None where they must stay."""
        heads = self.about.get("heads", 12 if self.config.model == "minilm" else None)  # runs of before it was recorded
        return heads if isinstance(heads, int) and heads > 0 else None

    @property
    def majority_score(self) -> float:
        """What always giving the most frequent answer of the dev set scores."""
        return self.about["majority_score"]

    @property
    def points(self) -> list[dict]:
        """One row per compression asked for: what was reached, and both dev scores (None until they are there)."""
        ends = {s.saved: s for s in self.snapshots if s.saved}
        rows = []
        for compression in self.config.compressions:
            cut, retrained = (ends.get(saved_name(phase, compression)) for phase in ("penalty", "retrain"))
            reached = (retrained or cut).point if retrained or cut else {}
            rows.append({"compression": compression, "sparsity": None, "compression_encoder": None, "compression_model": None}
                        | dict(reached)
                        | {"score_thresholded": cut.scores[self.metric] if cut else None,
                           "score_retrained": retrained.scores[self.metric] if retrained else None})
        return rows

    @property
    def warnings(self) -> list[str]:
        """What someone who reads the scores must know: ends near the majority class, targets missed."""
        ends = [("dense", self.dense_score), *((f"{p['compression']:g}x {kind}", p[f"score_{kind}"])
                                               for p in self.points for kind in ("thresholded", "retrained"))]
        near = [f"{name} {score:.3f}" for name, score in ends if score is not None and score <= self.majority_score + 0.02]
        words = f"near what the majority class scores ({self.metric} {self.majority_score:.3f}), so collapsed or close to it: "
        return [words + ", ".join(near)] * bool(near) + list(self.about.get("notes", []))


def _check(about: Mapping) -> None:
    """The parts of run.json that are read later. Raises ValueError."""
    kinds = {"task": dict, "data": str, "majority_score": int | float, "notes": list, "command": str, "machine": dict}
    for name, kind in kinds.items():
        if not isinstance(about.get(name, kind() if kind in (dict, list, str) else None), kind):
            raise ValueError(f"{name} is {str(about.get(name))[:60]!r}")
    task = about["task"]
    for name, values in (("notes", about.get("notes", [])), ("labels", task.get("labels", [])), ("columns", task.get("columns", [])),
                         ("task", [task["name"], task["metric"]])):
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"{name} is {str(values)[:60]!r}; needed: text")


def _locked(path: Path) -> bool:
    """Whether some process holds the lock; asking takes it for a moment, which writers wait out."""
    if not path.exists():
        return False
    lock = filelock.FileLock(str(path))
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return True
    lock.release()
    return False
