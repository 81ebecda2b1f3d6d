"""The nine GLUE tasks as one table, and reading them.

Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform", ICLR 2019: tasks and official metrics.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np

from prune_core import InputError
from prune_core.files import DATA
from prune_core.tasks import glue_folders, hub, table_files
from prune_core.tasks.delimited import listed
from prune_core.tasks.hub import load_dataset
from prune_core.tasks.hub_errors import HubError
from prune_core.tasks.labels import by_name, by_number
from prune_core.tasks.table_files import Table

HUB_DATA = "nyu-mll/glue"
PRACTICE = DATA / "practice"
NOT_GLUE = "practice set: synthetic, made for Prunescope, not GLUE"


@dataclass(frozen=True)
class Task:
    """One row of the table. `labels` is empty for regression; `metrics[0]` is the headline score.

    `train_examples` and `dev_examples` are the official sizes; `mean_tokens` per training example
    as MiniLM's tokenizer cuts it, at most 128 (measured on every 1st to 16th; QNLI: by the steps that a run planned);
    `dev_tokens` where dev sentences are longer.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    train_examples: int
    mean_tokens: float | None
    dev: tuple[str, ...] = ("validation",)
    dev_examples: tuple[int, ...] = ()  # of each dev split
    dev_tokens: float | None = None

    @property
    def metric(self) -> str:
        """The name under which the headline score is reported."""
        return self.metrics[0] + ("_matched" if len(self.dev) > 1 else "")

    @property
    def outputs(self) -> int:
        """Outputs of the classification head."""
        return len(self.labels) or 1


_ENTAILS = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
TASKS = {task.name: task for task in (
    Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",), 8551, 11.3,
         dev_examples=(1043,)),
    Task("sst2", ("sentence",), ("negative", "positive"), ("accuracy",), 67349, 13.5, dev_examples=(872,),
         dev_tokens=25.3),
    Task("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy"), 3668, 53.2, dev_examples=(408,)),
    Task("stsb", _PAIR, (), ("spearman", "pearson"), 5749, 27.8, dev_examples=(1500,)),
    Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy"), 363846, 30.5,
         dev_examples=(40430,)),
    Task("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",), 392702, 40.3,
         ("validation_matched", "validation_mismatched"), (9815, 9832)),
    Task("qnli", ("question", "sentence"), _ENTAILS, ("accuracy",), 104743, 50.0, dev_examples=(5463,)),
    Task("rte", _PAIR, _ENTAILS, ("accuracy",), 2490, 67.1, dev_examples=(277,)),
    Task("wnli", _PAIR, ("not_entailment", "entailment"), ("accuracy",), 635, 37.1, dev_examples=(71,)),
)}
PRACTICE_TASK = Task("practice", ("sentence",), ("negative", "positive"), ("accuracy",), 4000, 25.0,
                     dev_examples=(800,))


def task_named(name: str) -> Task:
    """Raises InputError, naming the nine tasks."""
    if name not in TASKS:
        raise InputError(f"task {name!r} is unknown; one of {', '.join(TASKS)}")
    return TASKS[name]


@dataclass(frozen=True)
class Examples:
    """Texts (one tuple of one or two strings each) and their labels: class numbers, or floats for regression."""

    texts: Sequence[tuple[str, ...]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def some(self, count: int | None) -> Examples:
        """`count` examples spread evenly over the set; all of them for None or a larger count."""
        if count is None or count >= len(self):
            return self
        at = np.linspace(0, len(self) - 1, count).round().astype(int)
        return Examples([self.texts[i] for i in at], self.labels[at])


@dataclass(frozen=True)
class TaskData:
    """What a run trains and scores on.

    `source`: 'practice', the hub's name or the folder; `note`: why, if not as asked.
    """

    task: Task
    source: str
    train: Examples
    dev: dict[str, Examples]
    note: str = ""

    @property
    def main_dev(self) -> Examples:
        """The dev split behind the headline score."""
        return self.dev[self.task.dev[0]]

    def limited(self, train: int | None, dev: int | None) -> TaskData:
        """The same with at most so many examples per split."""
        return replace(self, train=self.train.some(train), dev={name: d.some(dev) for name, d in self.dev.items()})


def load(
    task_name: str, source: str = HUB_DATA, hub_seconds: float = 8.0,
    columns: Sequence[str] = (), label: str = "", seed: int = 0, regression: bool = False,
) -> TaskData:
    """A task from the hub, a local folder in the hub's layout, a table file (table_files.py), or the practice set.

    `columns`, `label`, `seed` and `regression` are for a table file, whose name is then the task's. If the hub gives
    nothing (it has `hub_seconds` to answer) and its local cache neither, this is the practice set, and `note` says
    why. Raises InputError.
    """
    if table_files.is_own(source):
        return _own(table_files.read(source, columns, label, regression), source, seed)
    task = task_named(task_name)
    if regression:
        raise InputError(f"--regression is for labels of a table file ({', '.join(table_files.SUFFIXES)}); "
                         f"data is {source!r}")
    if source == "practice":
        return _practice("")
    if source != HUB_DATA:
        return _from_folder(task, source)
    return _from_hub(task, hub_seconds)


def _from_hub(task: Task, seconds: float) -> TaskData:
    """From the hub or its cache; else what `datasets` may have kept by itself, else the practice set."""
    from pyarrow import ArrowException

    try:
        found = hub.snapshot("dataset", HUB_DATA, None, partial(_wanted, task), partial(_whole, task), seconds)
        splits = {split: sorted(found.folder.glob(f"{task.name}/{split}-*.parquet")) for split in ("train", *task.dev)}
        return _checked(task, HUB_DATA, hub.read_parquet(splits), found.note)
    except HubError as error:
        why = str(error)
    except InputError:
        raise
    except (ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:120]
        why = f"data {HUB_DATA!r}: what the hub gave cannot be read ({said})"
    with contextlib.suppress(Exception):  # as before: each kind means that there is none
        data = _checked(task, HUB_DATA, load_dataset(HUB_DATA, task.name, offline=True))
        return replace(data, note=f"{why}; what `datasets` kept in its cache is used")
    return _practice(f"{why}, so this is not {HUB_DATA} {task.name} but the {NOT_GLUE}; for GLUE give --data FOLDER")


def unavailable(task_name: str, seconds: float = 3.0) -> str:
    """Why a run could not have this task's data from the hub now; '' where it can. Loads no `datasets`.

    The hub has `seconds` to answer. Raises InputError for an unknown task.
    """
    task = task_named(task_name)
    if hub.cached("dataset", HUB_DATA, None, partial(_whole, task)) or hub.kept_by_datasets(HUB_DATA, task.name):
        return ""
    return "" if hub.hub_answers(seconds) else hub.why_silent() or "the hub did not answer"


def _wanted(task: Task, files: Sequence[str]) -> list[str]:
    """What of the repository's files a task is read from. Raises HubError where a split is missing."""
    by_split = {split: [file for file in files if fnmatch(file, f"{task.name}/{split}-*.parquet")]
                for split in ("train", *task.dev)}
    if missing := [split for split, own in by_split.items() if not own]:
        raise HubError(f"data {HUB_DATA!r}: the repository has no {task.name}/{missing[0]}-*.parquet")
    return [file for own in by_split.values() for file in own]


def _whole(task: Task, folder: Path) -> bool:
    """Whether a folder of the cache has every split of the task that is used."""
    return all(any(folder.glob(f"{task.name}/{split}-*.parquet")) for split in ("train", *task.dev))


def _from_folder(task: Task, folder: str) -> TaskData:
    path = Path(folder)
    if not path.is_dir():
        file = f"; a file must end in {', '.join(table_files.SUFFIXES)}" if path.is_file() else ""
        raise InputError(f"data {folder!r} is not a folder; "
                         f"needed: {HUB_DATA}, practice, or a folder in the layout of {HUB_DATA}{file}")
    wanted = glue_folders.Wanted(task.name, task.columns, ("train", *task.dev), task.labels)
    with glue_folders.reading(path, wanted, HUB_DATA) as (splits, note):
        return _checked(task, folder, splits, note)


def _checked(task: Task, source: str, splits, note: str = "") -> TaskData:
    missing = [name for name in ("train", *task.dev) if name not in splits]
    if missing:
        raise InputError(f"data {source!r}, task {task.name}: split {missing[0]!r} is missing; "
                         f"there are: {', '.join(splits)}")
    parts, notes = {}, [note] if note else []
    for name in ("train", *task.dev):
        parts[name], more = _examples(task, splits[name], f"data {source!r}, task {task.name}, split {name}")
        notes += [more] if more and more not in notes else []
    return TaskData(task, source, parts.pop("train"), parts, "; ".join(notes))


def _examples(task: Task, split, where: str) -> tuple[Examples, str]:
    """(a split's texts and labels, what was done to its labels). Raises InputError."""
    absent = [c for c in (*task.columns, "label") if c not in split.column_names]
    if absent:
        raise InputError(f"{where}: column {absent[0]!r} is missing; there are: {listed(split.column_names)}")
    if not len(split):
        raise InputError(f"{where}: no examples")
    try:  # as slices: row by row, 67,000 sentences take a second
        columns = {name: split[name][:] for name in (*task.columns, "label")}
    except Exception as error:  # damaged files: pyarrow and `datasets` raise a dozen kinds here
        raise InputError(f"{where} cannot be read: {' '.join(str(error).split())[:160]}") from None
    for name, values in columns.items():  # `datasets` fills a column that only one split lacks with None
        if all(value is None for value in values):
            raise InputError(f"{where}: column {name!r} is missing or has no values")
    labels, note = _by_their_names(task, columns.pop("label"), split, where)
    return _examples_of(task, list(zip(*columns.values(), strict=True)), labels, where), note


def _by_their_names(task: Task, labels: list, split, where: str) -> tuple[list, str]:
    """(labels in the task's order, what was done to them), where the data names its classes. Raises InputError."""
    names = getattr(split.features.get("label"), "names", None)
    if not names:
        return labels, ""
    at = by_name(names, task.labels) or by_number(names, task.labels)
    if at is None:
        raise InputError(f"{where}: its labels are called {listed(names)}; "
                         f"needed: {', '.join(task.labels) or 'numbers'}, in any order")
    if list(at) == sorted(at):
        return labels, ""
    moved = [at.index(label) if label in at else label for label in labels]
    return moved, f"labels are numbered {listed(names)} in the data; they were put in the task's order"


def _examples_of(task: Task, texts: list[tuple], labels: list, where: str) -> Examples:
    """Check texts and labels. Raises InputError naming the first bad row."""
    for row, text in enumerate(texts):
        if not all(isinstance(part, str) for part in text):
            raise InputError(f"{where}: row {row} has no text in one of {', '.join(task.columns)}")
    try:
        exact = np.array(labels, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: labels must be numbers, got for example {labels[0]!r}") from None
    outside = ~np.isin(exact, np.arange(len(task.labels))) if task.labels else ~np.isfinite(exact)
    if outside.any():
        row = int(outside.argmax())
        span = f"whole numbers from 0 to {len(task.labels) - 1}" if task.labels else "finite numbers"
        raise InputError(f"{where}: label {labels[row]!r} in row {row} is outside the range; needed: {span}")
    return Examples(texts, exact.astype(np.int64 if task.labels else np.float32))


def _own(table: Table, source: str, seed: int) -> TaskData:
    train, dev = (Examples([table.texts[row] for row in rows], table.labels[rows]) for rows in table.split(seed))
    metrics = ("accuracy",) if table.classes else ("spearman", "pearson")
    task = Task(table.name, table.columns, table.classes, metrics, len(train), None)
    twice = len(set(train.texts) & set(dev.texts)) and sum(map(set(train.texts).__contains__, dev.texts))
    both = f"{twice:,} of {len(dev):,} dev rows have a text that training has too: the score flatters" if twice else ""
    return TaskData(task, source, train, {"validation": dev}, "; ".join(filter(None, (table.note, both))))


def _practice(note: str) -> TaskData:
    parts = {}
    for split in ("train", "validation"):
        with open(PRACTICE / f"{split}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        texts, labels = [(row["sentence"],) for row in rows], [int(row["label"]) for row in rows]
        parts[split] = _examples_of(PRACTICE_TASK, texts, labels, f"practice set, split {split}")
    return TaskData(PRACTICE_TASK, "practice", parts["train"], {"validation": parts["validation"]}, note)
