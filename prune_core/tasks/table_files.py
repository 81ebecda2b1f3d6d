"""Your own data: a CSV, TSV or parquet file with one or two columns of text and a label, as a task like any other.

Every fifth row is the dev set, drawn with a seed, class by class. What is wrong with a file is told in one line:
what is there, what is needed, and where.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import islice
from pathlib import Path

import numpy as np

from prune_core import InputError, files
from prune_core.tasks import delimited, parquet_files

SUFFIXES = (".csv", ".tsv", ".parquet")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
MARKED = {"\t": "tabs: call it .tsv", ";": "semicolons: save it with commas", "|": "bars: save it with commas",
          ",": "commas: call it .csv"}
SCORES = ("score", "similarity", "rating", "stars")  # what a label that is a score may be called
COUNTERS = re.compile(r"|id|idx|index|unnamed: \d+([._]\d+)*|level_\d+|__index_level_\d+__")  # that only count the rows
SPLITS = ("split", "set", "fold", "partition")  # columns that say which rows are for training: never text, not used
PLAIN = (str, int, float, Decimal, date)  # what a label may be
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
LIKE_A_NUMBER = re.compile(r"[+-]?\d[\d.,'\s]*%?")  # as people write numbers, which no program reads as such
ARCHIVES = {b"PK\x03\x04": "a workbook or an archive", b"\xd0\xcf\x11\xe0": "a workbook", b"\x1f\x8b": "compressed",
            b"PAR1": "parquet: call it .parquet"}
LIKE_A_SCORE = 5  # whole numbers that may be a score: from so many on it is said how to say so
LABELS = ("label", "labels", "class", "category", "target", "y")  # what a label's column is called where nobody says so
DEV_SHARE = 0.2
MOST_CLASSES, LEAST_ROWS, LEAST_OF_CLASS, MOST_BYTES = 100, 20, 2, 500_000_000


@dataclass(frozen=True)
class Table:
    """A file that was read and checked.

    `texts`: rows of one or two strings; `labels`: class numbers or floats; `classes`: their names, () for regression;
    `note`: how it was read, where that was to be decided.
    """

    name: str
    columns: tuple[str, ...]
    texts: list[tuple[str, ...]]
    labels: np.ndarray
    classes: tuple[str, ...]
    note: str = ""

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(train rows, dev rows), ascending: the same for the same seed, every class in both."""
        from sklearn.model_selection import train_test_split

        rows, alike = np.arange(len(self.labels)), self.labels if self.classes else None
        size = max(round(DEV_SHARE * len(rows)), len(self.classes))
        train, dev = train_test_split(rows, test_size=size, random_state=seed % 2**32, stratify=alike)
        for number in range(len(self.classes)):  # a class of very few rows may be all on one side
            own = np.flatnonzero(self.labels == number)
            if not np.isin(own, dev).any():
                dev = np.append(dev, own[0])
            elif np.isin(own, dev).all():
                dev = dev[dev != own[0]]
        train = np.setdiff1d(rows, dev)
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
    return _names(Path(path))


def read(path: str | Path, columns: Sequence[str] = (), label: str = "", regression: bool = False) -> Table:
    """Read and check a file. Raises InputError.

    `columns`: of the text, one or two; `label`: its column; both are guessed where they are not given.
    `regression`: labels are a score, whole numbers too.
    """
    path, guessed = Path(path), not columns
    where, there = f"{path.name!r}", _names(path)
    columns, label = _named(path, there, tuple(columns), label, where, regression)
    cells, note = _columns(path, there, (*columns, label), where)
    for name, values in cells.items():
        _no_gaps(name, values, where)
    for name in columns:
        if strange := _others(cells[name], str):
            raise InputError(f"{where}: column {name!r} holds {strange}, not text; name the columns of the text")
    if len(cells[label]) < LEAST_ROWS:
        raise InputError(f"{where}: {len(cells[label])} rows; needed: at least {LEAST_ROWS}, "
                         "to train on some and score on others")
    labels, classes, more = _labels(cells[label], label, where, regression)
    texts = list(zip(*(cells[name] for name in columns), strict=True))
    return Table(task_name(path), columns, texts, labels, classes, "; ".join(filter(None, (
        f"{where}: {note}" if note else "", _used(there, columns, label, guessed), more, _alike(classes, label)))))


def _names(path: Path) -> list[str]:
    """The names of the columns, as the first line or the parquet file has them. Raises InputError."""
    where, suffix = f"{path.name!r}", path.suffix.lower()
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that the system does not take
        there = False
    if suffix in SUFFIXES and path.is_dir():
        raise InputError(f"data {str(path)[:200]!r} is a folder; needed: one file; write its parts into one")
    if not there:
        raise InputError(f"data {str(path)[:200]!r} is not there; needed: a file ending in {', '.join(SUFFIXES)}")
    if suffix not in SUFFIXES:
        raise InputError(f"{where} ends in {suffix or 'nothing'!r}; needed: a file ending in {', '.join(SUFFIXES)}")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{where}: {path.stat().st_size / 1e6:,.0f} MB; at most {MOST_BYTES / 1e6:,.0f} are read")
    _refuse_another_kind(path, where)
    with _one_line(path):
        there = parquet_files.names(path) if suffix == ".parquet" else delimited.names(path, SEPARATORS[suffix])
    if not there:
        raise InputError(f"{where}: nothing in it; needed: a first line with the names of the columns, then rows")
    there = [name.strip() for name in there]
    if mark := re.fullmatch(r"sep=.?", there[0]):
        raise InputError(f"{where}: its first line, {mark[0]!r}, is for a spreadsheet only; take that line out, and "
                         "separate cells by commas (CSV) or tabs (TSV)")
    if suffix != ".parquet" and there[0].startswith(("{", "[{")):
        raise InputError(f"{where}: its first line is JSON, no names of columns; save it as CSV or parquet")
    if len(there) < 2:
        others = [words for mark, words in MARKED.items() if mark in there[0] and SEPARATORS.get(suffix) != mark]
        advice = f"; it seems to be separated by {others[0]}" if others else ""
        raise InputError(f"{where}: one column, {there[0][:60]!r}; needed: a column of text and one of labels "
                         f"(CSV: separated by commas, TSV: by tabs){advice}")
    if twice := {name for name in there if there.count(name) > 1}:
        raise InputError(f"{where}: two columns are called {sorted(twice)[0]!r}; needed: a name of its own for each")
    return there


def _refuse_another_kind(path: Path, where: str) -> None:
    """Raises InputError for what is something else than its name says."""
    if files.is_pointer(path):
        raise InputError(f"{where} {files.POINTER}")
    if path.suffix.lower() == ".parquet":
        return
    with open(path, "rb") as file:
        begins = file.read(32)
    if is_a := next((words for mark, words in ARCHIVES.items() if begins.startswith(mark)), ""):
        raise InputError(f"{where} is {is_a}; needed: the table itself, as CSV or TSV in UTF-8, or as parquet")


@contextmanager
def _one_line(path: Path):
    """Turn what a file that cannot be read raises into one line; pyarrow has a dozen kinds."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path.name!r} cannot be read as {path.suffix.lower()[1:]}: "
                         f"{' '.join(str(error).split())[:160]}") from None


def _columns(path: Path, there: list[str], wanted: Sequence[str], where: str) -> tuple[dict[str, list], str]:
    """(name -> values of all rows: strings, or what parquet holds, None for a gap; how it was read, if that was to be
    decided). Raises InputError."""
    suffix, at = path.suffix.lower(), [there.index(name) for name in wanted]
    with _one_line(path):
        if suffix == ".parquet":
            columns, note = parquet_files.columns(path, at, 4 * MOST_BYTES), ""
        else:
            rows, note = delimited.rows(path, SEPARATORS[suffix], there, at, at[-1])
            columns = list(zip(*rows, strict=True))
    if not columns or not len(columns[0]):
        raise InputError(f"{where}: no rows below the names of the columns")
    return dict(zip(wanted, map(list, columns), strict=True)), note


def _named(path: Path, there: list[str], columns: tuple[str, ...], label: str,
           where: str, score: bool) -> tuple[tuple[str, ...], str]:
    """The columns of text and of the label, as given or guessed. Raises InputError.

    A label is guessed by its name (what is called a score only where labels are said to be one: `score`), the text as
    all that is left if that is one column or two.
    """
    listed = delimited.listed(there, 300)
    for name in (*columns, *([label] if label else [])):
        if name not in there:
            raise InputError(f"{where}: column {name!r} is missing; there are: {listed}")
    if not label:
        usual = LABELS + SCORES * score
        known = [name for name in there if name.lower() in usual and name not in columns]
        if len(known) != 1:
            row = "Its first line looks like a row, not like names of columns. " if _no_names(path, there) else ""
            more = next((f", and --regression if {name!r} is one" for name in there if name.lower() in SCORES), "")
            raise InputError(f"{where}: which column is the label? {row}There are: {listed}; give --label NAME"
                             f"{more * (not score)}")
        (label,) = known
    if not columns:
        columns = tuple(name for name in there if name != label and name.lower() not in SPLITS
                        and not COUNTERS.fullmatch(name.lower()))
        if not 1 <= len(columns) <= 2:
            raise InputError(f"{where}: which column is the text? There are: {listed}; "
                             "give --text NAME, or NAME,NAME for pairs")
    if len(columns) > 2 or label in columns or len(set(columns)) < len(columns):
        raise InputError(f"{where}: text {', '.join(columns)} and label {label!r}; "
                         "needed: one or two columns of text, and another one for the label")
    return columns, label


def _used(there: list[str], columns: tuple[str, ...], label: str, guessed: bool) -> str:
    """What is to be said of the columns: a pair that was guessed, a split that is not used."""
    pair = " and ".join(map(repr, columns))
    said = [f"columns {pair} were taken as a pair of texts"] if guessed and len(columns) > 1 else []
    said += [f"column {name!r} is not used: every fifth row is the dev set, drawn from the seed" for name in there
             if name.lower() in SPLITS and name not in (*columns, label)]
    return "; ".join(said)


def _no_names(path: Path, there: list[str]) -> bool:
    """Whether what stands for a name comes again below it, as a label does."""
    if path.suffix.lower() == ".parquet":
        return False
    first = islice(delimited.plain(path, SEPARATORS[path.suffix.lower()]), 1, 200)
    return any(set(there) & {cell.strip() for cell in record.cells} for record in first)


def _no_gaps(name: str, values: list, where: str) -> None:
    """Raises InputError naming the first empty cell, as a spreadsheet counts rows."""
    empty = [row for row, value in enumerate(values)
             if value is None or (isinstance(value, str) and not value.strip())]
    if empty:
        more = f" and {len(empty) - 1:,} more" if len(empty) > 1 else ""
        raise InputError(f"{where}: column {name!r} is empty in row {empty[0] + 2}{more} (the names are row 1)")


# ---------------------------------------------------------------- labels


def _labels(values: list, label: str, where: str, regression: bool) -> tuple[np.ndarray, tuple[str, ...], str]:
    """(class numbers, class names, a note), or (floats, (), "") where labels have fractions or are said to be a score.

    Raises InputError.
    """
    if strange := _others(values, PLAIN):
        raise InputError(f"{where}: column {label!r} holds {strange}; needed: words or numbers as labels")
    values = [value.strip() if isinstance(value, str) else value for value in values]
    word = next((value for value in values if not _is_number(value) or regression and isinstance(value, bool)), None)
    if word is not None and regression:
        raise InputError(f"{where}: column {label!r} holds {str(word)[:40]!r}, which is no number; "
                         "needed with --regression: a score in every row")
    if word is not None:
        return *_numbered([str(value) for value in values], label, where), ""
    numbers = np.array([float(value) for value in values])
    if not np.isfinite(numbers).all():
        row = int((~np.isfinite(numbers)).argmax())
        raise InputError(f"{where}: column {label!r} has {str(values[row])!r} in row {row + 2}, which is not a finite "
                         "number (the names are row 1); take that row out, or give it a label")
    if (numbers % 1 == 0).all() and not regression:
        whole = [int(value) if str(value).lstrip("+-").isdecimal() else int(float(value)) for value in values]
        count = len(set(whole))
        hint = f"as whole numbers these are {count:,} classes; if they are a score, give --regression"
        return *_numbered(whole, label, where, hint), f"label {label!r}: {hint}" if count >= LIKE_A_SCORE else ""
    if np.ptp(numbers) == 0:
        raise InputError(f"{where}: every label is {values[0]!r}; needed: at least two different ones")
    return numbers.astype(np.float32), (), ""


def _alike(classes: Sequence[str], label: str) -> str:
    """What is to be said of classes that may be one, or numbers in another country's spelling."""
    spelt: dict[str, list[str]] = {}
    for name in classes:
        spelt.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    said = [f"label {label!r}: {' and '.join(map(repr, same[:3]))} are classes of their own, though they differ only "
            "in how they are written" for same in spelt.values() if len(same) > 1][:1]
    words = [name for name in classes if not _is_number(name)]
    if words and all(LIKE_A_NUMBER.fullmatch(name) for name in classes):
        said.append(f"label {label!r}: {words[0]!r} is read as the name of a class; if it is a number, write it with "
                    "digits and a point alone")
    return "; ".join(said)


def _is_number(value) -> bool:
    """Whether a label is a number as people write it: 1_000 and a date are none."""
    return bool(NUMBER.fullmatch(value)) if isinstance(value, str) else not isinstance(value, date)


def _others(values: list, kinds: type | tuple[type, ...]) -> str:
    """What the first value is that is none of these kinds; '' where all are."""
    said = {"ndarray": "lists", "list": "lists", "dict": "records", "int": "int64", "float": "float64"}
    names = (type(value).__name__ for value in values if not isinstance(value, kinds))
    return next((said.get(name, name) for name in names), "")


def _numbered(values: list, label: str, where: str, hint: str = "") -> tuple[np.ndarray, tuple[str, ...]]:
    """(class numbers, class names) of labels that name classes, which are ordered. Raises InputError.

    `hint`: what numbers may be instead.
    """
    names = sorted(set(values))
    also = f"; {hint}" if hint else ""
    if len(names) < 2:
        raise InputError(f"{where}: every label is {names[0]!r}; needed: at least two classes")
    if len(names) > MOST_CLASSES:
        raise InputError(f"{where}: {len(names):,} classes in column {label!r}; at most {MOST_CLASSES}. "
                         f"Is that the label?{also and ' A' + also[3:]}")
    place = {name: number for number, name in enumerate(names)}
    numbered = np.array([place[value] for value in values], np.int64)
    few = int(np.bincount(numbered).argmin())
    if (count := int(np.bincount(numbered)[few])) < LEAST_OF_CLASS:
        raise InputError(f"{where}: class {str(names[few])!r} has {count} row; "
                         f"needed: at least {LEAST_OF_CLASS} of each, to train and to score on{also}")
    return numbered, tuple(map(str, names))
