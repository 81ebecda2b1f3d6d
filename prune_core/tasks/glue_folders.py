"""A task of GLUE in a folder, in any of the layouts that people have; which one it is, is said.

In this order: that of nyu-mll/glue (a README.md that names the files), saved with `save_to_disk`, files named by their
split, GLUE's own download among them. What does not fit is refused whole.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from prune_core import InputError, files
from prune_core.tasks import delimited
from prune_core.tasks.hub import load_dataset
from prune_core.tasks.labels import meant

SPLITS = {"train": ("train",), "validation": ("validation", "dev", "valid", "val"),
          "validation_matched": ("validation_matched", "dev_matched"),
          "validation_mismatched": ("validation_mismatched", "dev_mismatched")}
FORMS = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
FOLDERS = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI",
           "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI"}  # as GLUE's own download calls them
# Text and label in GLUE's own files, where they have other names than on the hub
ORIGINAL = {"mrpc": ("#1 String", "#2 String", "Quality"), "stsb": ("sentence1", "sentence2", "score"),
            "qqp": ("question1", "question2", "is_duplicate"), "mnli": ("sentence1", "sentence2", "gold_label")}
COLA = ("source", "label", "star", "sentence")  # its files have no line of names


@dataclass(frozen=True)
class Wanted:
    """What is looked for: a task's name, its columns of text, its splits, and its classes in order (none: a score)."""

    name: str
    columns: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...]


@contextmanager
def reading(folder: Path, wanted: Wanted, layout: str) -> Iterator[tuple[Mapping, str]]:
    """(split -> rows as `datasets` has them, how they were read: "" for the hub's layout), as long as it is open.

    `layout`: the hub's name for it. Raises InputError, naming what was looked for.
    """
    # A cache of its own: the shared one tells folders apart by their last name only, and would give
    # back old data after a file was changed, or another folder's data.
    with tempfile.TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True) as cache:
        if _readme_names(folder, wanted.name):
            yield _as_on_the_hub(folder, wanted, layout, cache), ""
        else:
            yield _other(folder, wanted, layout)


def _readme_names(folder: Path, name: str) -> bool:
    """Whether a README.md says which files are those of this task."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return bool(re.search(rf"^[\s-]*config_name:\s*['\"]?{re.escape(name)}['\"]?\s*$", text, re.MULTILINE))


def _as_on_the_hub(folder: Path, wanted: Wanted, layout: str, cache: str) -> Mapping:
    where = f"data folder {str(folder)!r} holds no task {wanted.name!r} in the layout of {layout}: "
    if (folder / wanted.name).is_dir():
        _files(folder / wanted.name, where.removesuffix(": "))
    try:
        return load_dataset(str(folder), wanted.name, cache=cache)
    except Exception as error:  # datasets raises a dozen kinds here
        raise InputError(where + _reason(folder, wanted, error)) from None


def _reason(folder: Path, wanted: Wanted, error: Exception) -> str:
    """Why `datasets` could not read a folder, as its files show it, else in the words of the first cause."""
    from pyarrow import ArrowException, parquet

    for path in sorted((folder / wanted.name).glob("*.parquet")):
        where = f"{wanted.name}/{path.name}"
        try:
            columns, rows = parquet.read_schema(path).names, parquet.read_metadata(path).num_rows
        except (ArrowException, OSError):
            return f"{where} cannot be read as parquet"
        if absent := [c for c in (*wanted.columns, "label") if c not in columns]:
            return f"{where}: column {absent[0]!r} is missing; there are: {delimited.listed(columns)}"
        if not rows:
            return f"{where}: no examples"
    return " ".join(str(error.__cause__ or error).split())[:160]


def _other(folder: Path, wanted: Wanted, layout: str) -> tuple[Mapping, str]:
    """The task in a folder without such a README.md. Raises InputError."""
    where = f"data folder {str(folder)!r}"
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and _short(path.name) == wanted.name]
    if not inside and _short(folder.resolve().name) in FOLDERS:
        if (own := _short(folder.resolve().name)) != wanted.name:
            raise InputError(f"{where} is of task {own!r}, asked: {wanted.name!r}; give --task {own}, "
                             "or the folder above")
    if len(inside) > 1:
        raise InputError(f"{where} has task {wanted.name!r} twice: {' and '.join(path.name for path in inside)}; "
                         "give the folder of one of them")
    home = inside[0] if inside else folder
    for place in (home, home / "data"):  # as a data set of one task is kept on the hub
        if place.is_dir() and (found := _saved(place, wanted, where) or _by_name(place, wanted, where)):
            return found
    files = delimited.listed(sorted(path.name for path in home.iterdir()))
    there = f"{home.name}/ with {files or 'nothing'}" if inside else files
    raise InputError(f"{where} holds no task {wanted.name!r}: neither a README.md that names it (as in {layout}), nor "
                     f"{wanted.name}/ as save_to_disk writes it, nor {wanted.name}/train.* and "
                     f"{wanted.splits[1]}.* (parquet, csv, jsonl), nor {FOLDERS[wanted.name]}/train.tsv; "
                     f"there: {there or 'nothing'}"[:390])


def _short(name: str) -> str:
    """SST-2 -> sst2"""
    return re.sub(r"[^a-z0-9]", "", name.lower())


# ---------------------------------------------------------------- as save_to_disk writes


def _saved(home: Path, wanted: Wanted, where: str) -> tuple[Mapping, str] | None:
    """Splits that `save_to_disk` wrote, together or one by one; None where there are none. Raises InputError."""
    if (home / "state.json").exists() and not (home / "dataset_dict.json").exists():
        raise InputError(f"{where}: {home.name} was saved as one split; needed: {' and '.join(wanted.splits)}, "
                         "in folders of these names")
    named = {split: [home / name for name in SPLITS[split] if (home / name / "state.json").exists()]
             for split in wanted.splits}
    if not (home / "dataset_dict.json").exists() and not any(named.values()):
        return None
    for split, found in named.items():
        if len(found) != 1:
            have = delimited.listed(sorted(path.name for path in home.iterdir() if path.is_dir()))
            raise InputError(f"{where}, task {wanted.name}: split {split!r} is "
                             f"{'there twice' if found else 'missing'}; there are: {have or 'none'}")
    return {split: _saved_split(path, wanted, where) for split, (path,) in named.items()}, (
        f"{home.name}: read as saved by save_to_disk")


def _saved_split(path: Path, wanted: Wanted, where: str):
    import datasets

    said = f"{where}: {path.parent.name}/{path.name}"
    try:
        parts = json.loads((path / "state.json").read_bytes())["_data_files"]
        if absent := [part["filename"] for part in parts if not (path / part["filename"]).exists()]:
            raise InputError(f"{said}/{absent[0]} is missing")
        rows = datasets.load_from_disk(str(path))
    except InputError:
        raise
    except Exception as error:  # datasets raises a dozen kinds here
        cause = " ".join(str(error).split())[:160]
        raise InputError(f"{said} cannot be read as save_to_disk writes: {cause}") from None
    named = rows.info.config_name
    if named in FOLDERS and named != wanted.name:
        raise InputError(f"{said} is of task {named!r}, asked: {wanted.name!r}")
    return rows


# ---------------------------------------------------------------- files named by their split


def _files(home: Path, where: str) -> dict[str, list[Path]]:
    """Name without number and ending -> its files, in order. Raises InputError where some of them are missing."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(home.iterdir()):
        if path.suffix.lower() in FORMS and path.is_file():
            if files.is_pointer(path):
                raise InputError(f"{where}: {home.name}/{path.name} {files.POINTER}")
            numbered = SHARD.fullmatch(path.stem)
            parts.setdefault(numbered[1] if numbered else path.stem, []).append(path)
    for paths in parts.values():
        numbers = [SHARD.fullmatch(path.stem) for path in paths]
        if any(numbers):
            form, count = paths[0].suffix, next(number[3] for number in numbers if number)
            needed = [f"{numbers[0][1]}-{at:05}-of-{count}{form}" for at in range(int(count))] if all(numbers) else []
            have = {path.name for path in paths}
            if absent := [name for name in needed if name not in have]:
                raise InputError(f"{where}: {home.name}/{absent[0]} is missing")
            if len(have) != len(needed):
                raise InputError(f"{where}: {home.name} has files of two kinds: {delimited.listed(sorted(have))}")
    return parts


def _by_name(home: Path, wanted: Wanted, where: str) -> tuple[Mapping, str] | None:
    """Splits in files that are called as they are; None where there are none. Raises InputError."""
    parts = _files(home, where)
    named = {split: [path for name in SPLITS[split] for path in parts.get(name, [])] for split in wanted.splits}
    if not any(named.values()):
        return None
    for split, paths in named.items():
        if not paths:
            raise InputError(f"{where}, task {wanted.name}: split {split!r} is missing; "
                             f"there are: {home.name}/ with {delimited.listed(sorted(parts))}")
        if len(paths) > 1 and not all(SHARD.fullmatch(path.stem) for path in paths):
            raise InputError(f"{where}, task {wanted.name}: split {split!r} is there twice: "
                             f"{' and '.join(path.name for path in paths)[:200]}")
    original = any(path.suffix.lower() == ".tsv" and path.stem.startswith("dev")
                   for paths in named.values() for path in paths)
    note = "read as GLUE's own TSV files, never quoted" if original else "read by the names of its files"
    return {split: _of_files(paths, wanted, where, original) for split, paths in named.items()}, f"{home.name}: {note}"


def _of_files(paths: list[Path], wanted: Wanted, where: str, original: bool):
    """One split, whose rows are in these files. Raises InputError."""
    import datasets
    import pyarrow

    parts = []
    for path in paths:
        said = f"{where}: {path.parent.name}/{path.name}"
        try:
            parts.append(_of_file(path, wanted, said, original))
        except InputError as error:
            raise InputError(str(error) if str(error).startswith(where) else f"{said}: {error}"[:390]) from None
        except Exception as error:  # pyarrow and datasets raise a dozen kinds here
            raise InputError(f"{said} cannot be read as {path.suffix[1:].lower()}: "
                             f"{' '.join(str(error).split())[:120]}") from None
    try:
        return datasets.Dataset(pyarrow.concat_tables(parts))
    except pyarrow.ArrowException:
        raise InputError(f"{where}: the files of {paths[0].parent.name}/{SHARD.fullmatch(paths[0].stem)[1]} have "
                         "columns of different kinds") from None


def _of_file(path: Path, wanted: Wanted, said: str, original: bool):
    """Its columns as a table of Arrow."""
    import pyarrow
    from pyarrow import parquet

    form = path.suffix.lower()
    if form == ".parquet":
        with parquet.ParquetFile(path) as file:
            return file.read()
    if form in (".jsonl", ".json"):
        rows = _of_json(path, wanted, said)
    elif form == ".tsv" and original:
        rows = _original(path, wanted, said)
    else:
        separator = "," if form == ".csv" else "\t"
        head = delimited.names(path, separator)
        at = _places(head, wanted, said)
        rows = enumerate(delimited.rows(path, separator, head, at, at[-1])[0], 2)
    columns: dict[str, list] = {name: [] for name in (*wanted.columns, "label")}
    number = _numbering(wanted.labels, said)
    for line, (*texts, label) in rows:
        for name, text in zip(wanted.columns, texts, strict=True):
            columns[name].append(text)
        columns["label"].append(number(label, line))
    return pyarrow.table(columns)


def _places(head: Sequence[str], wanted: Wanted, said: str) -> list[int]:
    """Where the text and the label stand, by the hub's names or GLUE's own. Raises InputError."""
    hub = (*wanted.columns, "label")
    for names in (hub, ORIGINAL.get(wanted.name, hub)):
        if set(names) <= set(head):
            return [list(head).index(name) for name in names]
    needed = ORIGINAL.get(wanted.name, hub)
    absent = next(name for name in needed if name not in head)
    raise InputError(f"{said}: column {absent!r} is missing; there are: {delimited.listed(head)}")


def _original(path: Path, wanted: Wanted, said: str) -> Iterator[tuple[int, Sequence]]:
    """(line, its text and label) of a file of GLUE's own download: tabs, no quotes, every line a row.

    Raises InputError.
    """
    rows = delimited.plain(path, "\t")
    first = next(rows, None)
    if first is None:
        raise InputError(f"{said}: nothing in it")
    unnamed = wanted.name == "cola" and not {"sentence", "label"} <= set(first.cells)
    if unnamed and len(first.cells) != len(COLA):
        raise InputError(f"{said}: {len(first.cells)} columns; needed: {', '.join(COLA)}")
    at = _places(COLA if unnamed else first.cells, wanted, said)
    for record in chain([first] if unnamed else [], rows):
        if len(record.cells) != len(first.cells):
            raise InputError(f"{said}: line {record.line} has {len(record.cells)} cells, the first one "
                             f"{len(first.cells)}; mend that line, or leave it out")
        yield record.line, [record.cells[place] for place in at]


def _of_json(path: Path, wanted: Wanted, said: str) -> Iterator[tuple[int, Sequence]]:
    """(line or place, text and label) of a file with an object in every line, or a list of them. Raises InputError."""
    names, listed = (*wanted.columns, "label"), path.read_bytes()[:1] == b"["
    rows = enumerate(json.loads(path.read_text(encoding="utf-8")), 1) if listed else (
        (number, _parsed(line, f"{said}: line {number}")) for number, line in enumerate(delimited.lines(path), 1)
        if line.strip())
    for number, row in rows:
        absent = [name for name in names if name not in row] if isinstance(row, dict) else ["an object"]
        if absent:
            raise InputError(f"{said}: line {number} lacks {absent[0]!r}; needed: {', '.join(names)}")
        yield number, [row[name] for name in names]


def _parsed(line: str, said: str):
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{said} is no JSON") from None


# ---------------------------------------------------------------- labels


def _numbering(labels: Sequence[str], said: str) -> Callable[[object, int], float]:
    """(label of a text file, its line) -> its number: names are in the task's order; raises InputError."""
    place = {meant(label): float(number) for number, label in enumerate(labels)}

    def number(value: object, line: int) -> float:
        try:
            known = place.get(meant(value)) if isinstance(value, str) else None
            return float(value) if known is None else known
        except (TypeError, ValueError):
            needed = f"one of {', '.join(labels)}, or its number" if labels else "a number"
            raise InputError(f"{said}: label {str(value)[:40]!r} in line {line}; needed: {needed}") from None

    return number
