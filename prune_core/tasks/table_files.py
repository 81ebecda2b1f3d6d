"""Your own data: a CSV, TSV or parquet file with one or two columns of text and a label, as a task like any other.

Every fifth row is the dev set, drawn with a seed, class by class. What is wrong with a file is told in one line:
what is there, what is needed, and where.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune_core import InputError

SUFFIXES = (".csv", ".tsv", ".parquet")
LABELS = ("label", "labels", "class", "category", "target", "y")  # what a label's column is called where nobody says so
DEV_SHARE = 0.2
MOST_CLASSES, LEAST_ROWS, LEAST_OF_CLASS, MOST_BYTES = 100, 20, 2, 500_000_000


@dataclass(frozen=True)
class Table:
    """A file that was read and checked.

    `texts`: rows of one or two strings; `labels`: class numbers or floats; `classes`: their names, () for regression.
    """

    name: str
    columns: tuple[str, ...]
    texts: list[tuple[str, ...]]
    labels: np.ndarray
    classes: tuple[str, ...]

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(train rows, dev rows), ascending: the same for the same seed, every class in both."""
        from sklearn.model_selection import train_test_split

        rows, alike = np.arange(len(self.labels)), self.labels if self.classes else None
        size = max(round(DEV_SHARE * len(rows)), len(self.classes))
        train, dev = train_test_split(rows, test_size=size, random_state=seed % 2**32, stratify=alike)
        return np.sort(train), np.sort(dev)


def is_own(source: str) -> bool:
    """Whether a source of data names a table file."""
    return Path(source).suffix.lower() in SUFFIXES


def task_name(path: str | Path) -> str:
    """'My reviews.csv' -> 'My-reviews-own': the name of the file, told apart from every task of GLUE."""
    return (re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-_")[:40] + "-own").lstrip("-")


def digest(path: str | Path) -> str:
    """The same text for the same content; '' where there is no such file.

    A run remembers what it was trained on, as another split would mix train and dev.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def names(path: str | Path) -> list[str]:
    """The columns of a file. Raises InputError."""
    return list(_frame(Path(path)).columns)


def read(path: str | Path, columns: Sequence[str] = (), label: str = "") -> Table:
    """Read and check a file. Raises InputError.

    `columns`: of the text, one or two; `label`: its column; both are guessed where they are not given.
    """
    path = Path(path)
    frame = _frame(path)
    where = f"{path.name!r}"
    columns, label = _named(frame, tuple(columns), label, where)
    _no_gaps(frame, (*columns, label), where)
    texts = []
    for name in columns:
        values = frame[name]
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{where}: column {name!r} holds {type(values.iloc[0]).__name__}, not text; "
                             "name the columns of the text")
        texts.append(list(values))
    if len(frame) < LEAST_ROWS:
        raise InputError(f"{where}: {len(frame)} rows; needed: at least {LEAST_ROWS}, "
                         "to train on some and score on others")
    labels, classes = _classes(frame[label], label, where)
    return Table(task_name(path), columns, list(zip(*texts, strict=True)), labels, classes)


def _frame(path: Path):
    """The file as a pandas frame; cells of a CSV as they are written. Raises InputError."""
    import pandas as pd

    where, kind = f"{path.name!r}", path.suffix.lower()
    try:
        there = path.is_file()
    except OSError:  # a name that the system does not take
        there = False
    if not there:
        raise InputError(f"data {str(path)[:200]!r} is not there; needed: a file ending in {', '.join(SUFFIXES)}")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{where}: {path.stat().st_size / 1e6:,.0f} MB; at most {MOST_BYTES / 1e6:,.0f} are read")
    try:
        if kind == ".parquet":
            return _with_names(pd.read_parquet(path), where)
        with open(path, encoding="utf-8-sig", newline="") as file:
            head, rows = _cells(csv.reader(file, delimiter="\t" if kind == ".tsv" else ",", strict=True), where)
        return _with_names(pd.DataFrame(rows, columns=head, dtype=object), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except InputError:
        raise
    except (ValueError, OSError, csv.Error) as error:  # pandas' and pyarrow's errors are ValueErrors or OSErrors
        raise InputError(f"{where} cannot be read as {kind[1:]}: {' '.join(str(error).split())[:160]}") from None


def _cells(reader, where: str) -> tuple[list[str], list[list[str]]]:
    """(names of the columns, rows of as many cells); lines with nothing in them are left out."""
    head = next((line for line in reader if line), [])
    if not head:
        raise InputError(f"{where}: nothing in it; needed: a first line with the names of the columns, then rows")
    if twice := {name for name in head if head.count(name) > 1}:
        raise InputError(f"{where}: two columns are called {sorted(twice)[0]!r}; needed: a name of its own for each")
    rows = []
    for row in reader:
        if row and len(row) != len(head):
            raise InputError(f"{where}: line {reader.line_num} has {len(row)} cells, the first one {len(head)}; "
                             "put text that has the separator in it between double quotes")
        if row:
            rows.append(row)
    return head, rows


def _with_names(frame, where: str):
    names = [str(name).strip() for name in frame.columns]
    frame.columns = names
    if not len(frame):
        raise InputError(f"{where}: no rows below the names of the columns")
    if len(names) < 2:
        raise InputError(f"{where}: one column, {names[0][:60]!r}; "
                         "needed: a column of text and one of labels (CSV: separated by commas, TSV: by tabs)")
    return frame


def _named(frame, columns: tuple[str, ...], label: str, where: str) -> tuple[tuple[str, ...], str]:
    """The columns of text and of the label, as given or guessed. Raises InputError.

    A label is guessed by its name, the text as all that is left if that is one column or two.
    """
    there = list(frame.columns)
    listed = ", ".join(there)[:300]
    for name in (*columns, *([label] if label else [])):
        if name not in there:
            raise InputError(f"{where}: column {name!r} is missing; there are: {listed}")
    if not label:
        known = [name for name in there if name.lower() in LABELS and name not in columns]
        if len(known) != 1:
            raise InputError(f"{where}: which column is the label? There are: {listed}; give --label NAME")
        (label,) = known
    if not columns:
        columns = tuple(name for name in there if name != label and name.lower() not in ("id", "idx", "index"))
        if not 1 <= len(columns) <= 2:
            raise InputError(f"{where}: which column is the text? There are: {listed}; "
                             "give --text NAME, or NAME,NAME for pairs")
    if len(columns) > 2 or label in columns or len(set(columns)) < len(columns):
        raise InputError(f"{where}: text {', '.join(columns)} and label {label!r}; "
                         "needed: one or two columns of text, and another one for the label")
    return columns, label


def _no_gaps(frame, names: Sequence[str], where: str) -> None:
    """Raises InputError naming the first empty cell, as a spreadsheet counts rows."""
    for name in names:
        empty = frame[name].isna() | frame[name].map(lambda value: isinstance(value, str) and not value.strip())
        if empty.any():
            row = int(np.flatnonzero(empty)[0])
            more = f" and {int(empty.sum()) - 1:,} more" if empty.sum() > 1 else ""
            raise InputError(f"{where}: column {name!r} is empty in row {row + 2}{more} (the names are row 1)")


def _classes(column, label: str, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(class numbers, class names), or (floats, ()) where labels are numbers with fractions. Raises InputError."""
    values = [value.strip() if isinstance(value, str) else value for value in column]
    try:
        numbers = np.array(values, np.float64)
    except (TypeError, ValueError):
        return _numbered(values, label, where)
    if not np.isfinite(numbers).all():
        raise InputError(f"{where}: column {label!r} has a label that is not a finite number")
    if (numbers % 1 == 0).all():
        return _numbered([int(number) for number in numbers], label, where)
    if np.ptp(numbers) == 0:
        raise InputError(f"{where}: every label is {values[0]!r}; needed: at least two different ones")
    return numbers.astype(np.float32), ()


def _numbered(values: list, label: str, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(class numbers, class names) of labels that name classes, which are ordered. Raises InputError."""
    names = sorted(set(values))
    if len(names) < 2:
        raise InputError(f"{where}: every label is {names[0]!r}; needed: at least two classes")
    if len(names) > MOST_CLASSES:
        raise InputError(f"{where}: {len(names):,} classes in column {label!r}; at most {MOST_CLASSES}. "
                         "Is that the label?")
    numbered = np.array([names.index(value) for value in values], np.int64)
    few = int(np.bincount(numbered).argmin())
    if (count := int(np.bincount(numbered)[few])) < LEAST_OF_CLASS:
        raise InputError(f"{where}: class {str(names[few])!r} has {count} row; "
                         f"needed: at least {LEAST_OF_CLASS} of each, to train and to score on")
    return numbered, tuple(map(str, names))
