"""A run, read from its folder; recorder.py writes it. Needs no torch.

    data/runs/<name>/
      run.json                 what was asked, on what machine: written once, before the first step
      progress.jsonl           append-only: one snapshot a line, each line with its crc32
      norms/000042.safetensors block norms of snapshot 42
      weights/<stage>.safetensors   what training changed, at the end of a phase
      checkpoint.safetensors   everything `resume` needs, replaced as a whole
      status.json              where it is now, for people who watch
      sensitivity-<stage>.jsonl   what cutting one layer or matrix alone costs, where that was asked for
      surface-<stage>.jsonl    more score surfaces, likewise
      activation-<stage>.safetensors   other rankings of the groups, likewise (taylor, loss, surgeon)
      timings.jsonl            what `measure` took, likewise
      result.json              there when the run is complete
      checkpoint/              what it needs of its checkpoint, where it was packed to be moved
      checkpoint.json          where its checkpoint lies now, where it was moved
      lock                     held by the one process that writes

A file other than progress.jsonl is written beside its target, flushed, and renamed over it: a reader
never sees half of one. A line of progress.jsonl that a crash tore has no valid crc and is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from pathlib import Path

import filelock

from prune_core import InputError
from prune_core.cutting.answers import Sensitivity, SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.cutting.cuts import SurfaceKind
from prune_core.cutting.masks import Norms, mask_at, mask_at_sparsity, sparsity_of
from prune_core.precision import formats
from prune_core.precision.storage import Storage, storage
from prune_core.runs import origin, places, results
from prune_core.runs.answers import Answers
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError, one_line, read_json
from prune_core.runs.progress import Progress
from prune_core.runs.snapshots import Snapshot
from prune_core.runs.stages import DENSE, Stage
from prune_core.tasks import table_files


class Run:
    """Who a run is and how it stands: cheap to make, all else is read when asked for. `stage`: a Stage, or its name."""

    def __init__(self, path: Path, known: Mapping | None = None):
        """`known`: what an index has kept of it since it was read (index.py).

        Raises RunError, with the reason, if `path` holds no run that this version can read.
        """
        self.path, self.name, self.known = Path(path), Path(path).name, known or {}
        self.about = about = known["about"] if known else _read_about(self.path)
        try:
            self.task, self.metric, self.data = about["task"]["name"], about["task"]["metric"], about["data"]
            self.created = float(about.get("created", 0))  # seconds since 1970
            if not known:
                self.config, self.layout  # noqa: B018  what cannot be read is said now
                _check(about)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RunError(f"run {self.name!r}: run.json is not valid: {one_line(error)}") from None

    config = cached_property(lambda self: PruneConfig.from_json(self.about["config"]))
    layout = cached_property(lambda self: self.known.get("layout") or Layout.from_json(self.about["layout"]))
    recorded = property(lambda self: self.path.parent == places.RECORDED, doc="Whether it ships: it is read only.")

    @property
    def later(self) -> Path:
        """Where what is asked of it afterwards is written: its own folder, or beside the user's runs if it ships."""
        return places.RUNS / ".scores" / self.name if self.recorded else self.path

    @cached_property
    def source(self) -> Run | None:
        """Of a run that ships: the one beside it that it started from, whose dense weights are its own too."""
        return source_among(self, places.RECORDED) if self.recorded else None

    @cached_property
    def progress(self) -> Progress:
        return Progress(self.path, self.layout, self.metric, self.source and self.source.progress)

    answers = property(lambda self: Answers(self.path, self.later, self.layout, self.source and self.source.answers))

    is_practice = property(lambda self: self.data == "practice", doc="Whether its data is the synthetic practice set.")
    is_own = property(lambda self: table_files.is_own(self.data), doc="Whether trained on a table file of the user's.")
    is_glue = property(lambda self: not self.is_practice and not self.is_own)

    @property
    def labels(self) -> list[str]:
        """Names of the classes; [] for regression."""
        return list(self.about["task"].get("labels", []))

    outputs = property(lambda self: len(self.labels) or 1, doc="Outputs of the classification head.")

    @property
    def heads(self) -> int | None:
        """Attention heads per layer, where a compact model can do without some; None where they must stay."""
        heads = self.about.get("heads", 12 if self.config.model == "minilm" else None)  # runs of before it was recorded
        return heads if isinstance(heads, int) and heads > 0 else None

    embeddings = property(origin.embeddings, doc="(rows, width) of the word table; None where it is not known here.")

    def command(self) -> str:
        """The command line that makes this run again."""
        return self.about.get("command") or f"python -m prune_core prune --task {self.task} --run {self.name}-again"

    @cached_property
    def result(self) -> dict | None:
        """What the run ended with, or None while it has not."""
        path = self.path / "result.json"
        result = read_json(path, self.name) if path.exists() else None
        if not isinstance(result, dict | None):
            raise RunError(f"run {self.name!r}: result.json is not valid")
        return result

    @property
    def status(self) -> str:
        """complete, running, or interrupted (its process is gone; it can be resumed)."""
        if self.known.get("ended") or self.result is not None:
            return "complete"
        return "running" if locked(self.path / "lock") else "interrupted"

    @property
    def now(self) -> dict:
        """The writer's last word on where it is: phase, step, steps, doing, seconds_left ...; {} if none."""
        try:
            said = read_json(self.path / "status.json", self.name)
        except RunError:
            return {}
        return said if isinstance(said, dict) else {}

    # ---- what it recorded: progress.py

    snapshots: list[Snapshot] = property(lambda self: self.progress.snapshots)
    with_norms = property(lambda self: self.known["with_norms"] if self.known else self.progress.with_norms,
                          doc="Positions of snapshots with norms.")
    stages = property(lambda self: self.known["stages"] if self.known else self.progress.stages,
                      doc="Those that are there, as they were reached.")

    def norms(self, at: int) -> Norms:
        return self.progress.norms(at)

    def saved(self, stage: str) -> int:
        return self.progress.saved(stage)

    def trained_formats(self, stage: str) -> str:
        """The formats of a stage's weights, as precision/formats.py reads them: of what is only cut the patterns."""
        return self._formats.get(stage.partition("-")[0], "")

    _formats = cached_property(lambda self: formats.by_kind(
        self.known["formats"] if self.known else str(self.config.formats), self.layout))

    def weights_file(self, stage: str) -> Path:
        return self.progress.weights_file(stage, self.command())

    def has_weights(self, stage: str) -> bool:
        return self.progress.has_weights(stage)

    # ---- what was asked of it afterwards: answers.py

    def rankings(self, stage: str) -> list[str]:
        return self.answers.rankings(stage)

    def ranking(self, stage: str, name: str = "norm") -> Norms:
        """Matrix name -> (groups down, groups across) float32: norms, or another recorded ranking. Raises RunError."""
        return self.norms(self.saved(stage)) if name == "norm" else self.answers.ranking(stage, name)

    def sensitivity(self, stage: str) -> list[Sensitivity]:
        return self.answers.sensitivity(stage)

    def surfaces(self, stage: str) -> dict[SurfaceKind, list[SurfacePoint]]:
        own = self.answers.surfaces(stage, self.snapshots[self.saved(stage)].surface, self.config.scope,
                                    self.trained_formats(stage))
        return own | self.source.surfaces(stage) if stage == DENSE and self.source else own

    # ---- what came of it: results.py

    dense_scores = property(lambda self: self.known["dense_scores"] if self.known else
                            results.dense_scores(self.snapshots), doc="By metric; {} until they are there.")
    dense_score = property(lambda self: self.dense_scores.get(self.metric), doc="None until it is there.")
    majority_score = property(lambda self: self.about["majority_score"], doc="Of always the most frequent answer.")

    stored: Callable[[Stage], Storage | None] = cached_property(lambda self: cache(partial(_stored, self)))
    # stage -> what its weights take as they are, in its trained formats; None where its norms are not here

    points: list[dict] = property(lambda self: self.known["points"] if self.known else results.points(
        self.snapshots, self.config.compressions, self.metric, self.stored))

    @property
    def warnings(self) -> list[str]:
        return results.warnings(self.dense_scores, self.points, self.metric, self.majority_score,
                                self.about.get("notes", []), self.about["task"].get("shares"))


def source_among(run: Run, folder: Path, data: str | None = None) -> Run | None:
    """The run in `folder` that this one started from, if its dense weights are there and it divides them alike.

    What is kept there of them - norms, rankings, scores - then holds for this run as well. `data`: what its data is
    called there, where it has another name here.
    """
    try:
        source = Run(folder / run.config.start_from) if run.config.start_from not in (None, run.name) else None
    except (RunError, OSError):
        source = None
    if source is None:
        return None
    alike = ((one.layout, one.task, one.labels, name, one.config.model, one.config.dev_examples)
             for one, name in ((run, data or run.data), (source, source.data)))
    return source if len({repr(one) for one in alike}) == 1 and source.has_weights(DENSE) else None


def _stored(run: Run, stage: Stage) -> Storage | None:
    """Of retrained weights what is not zero, of others what the run keeps there at its compression."""
    try:
        norms = run.ranking(stage)
        mask = (mask_at(norms, run.layout, 0.0) if stage.kind == "retrain" else
                mask_at_sparsity(norms, run.layout, sparsity_of(stage.compression or 1.0), run.config.scope))
        return storage(mask, formats.parse(run.trained_formats(stage), run.layout), run.embeddings)
    except InputError:
        return None


def _read_about(path: Path) -> dict:
    """run.json, of a format that this version reads. Raises RunError."""
    about = read_json(path / "run.json", path.name)
    if not isinstance(about, dict) or about.get("format") != places.FORMAT:
        said = about.get("format") if isinstance(about, dict) else None
        raise RunError(f"run {path.name!r} has format {said!r}; this version reads {places.FORMAT}")
    return about


def _check(about: Mapping) -> None:
    """The parts of run.json that are read later. Raises ValueError."""
    kinds = {"task": dict, "data": str, "majority_score": int | float, "notes": list, "command": str, "machine": dict,
             "checkpoint": dict, "commit": str | None}
    for name, kind in kinds.items():
        if not isinstance(about.get(name, kind() if kind in (dict, list, str) else None), kind):
            raise ValueError(f"{name} is {str(about.get(name))[:60]!r}")
    shares = about["task"].get("shares", [])
    if not isinstance(shares, list) or not all(isinstance(share, int | float) for share in shares):
        raise ValueError(f"shares are {str(shares)[:60]!r}; needed: numbers")
    task, texts = about["task"], {"notes": about.get("notes", []), "loading": about.get("loading", [])}
    texts |= {"labels": task.get("labels", []), "columns": task.get("columns", [])}
    for name, values in (texts | {"task": [task["name"], task["metric"]]}).items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"{name} is {str(values)[:60]!r}; needed: text")


def locked(path: Path) -> bool:
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
