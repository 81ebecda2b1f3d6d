"""What people call a table: spreadsheets' leavings, other kinds of files, labels that nearly agree, rows twice."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prune_core import InputError
from prune_core.tasks import glue, table_files

TEXTS = [f"sentence number {row}" for row in range(40)]


def table(folder: Path, labels, head: str = "text,label", texts=TEXTS, before: str = "") -> Path:
    path = folder / "mine.csv"
    rows = [f'{text},"{label}"' for text, label in zip(texts, labels, strict=True)]
    path.write_text(before + "\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        table_files.read(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    return str(raised.value)


def turn(*labels: str) -> list[str]:
    return [labels[row % len(labels)] for row in range(len(TEXTS))]


@pytest.mark.parametrize("mark", ["sep=,", "sep=;", "sep="])
def test_a_spreadsheets_own_first_line_is_named(tmp_path, mark):
    told = refused(table(tmp_path, turn("a", "b"), before=f"{mark}\n"))
    assert "is for a spreadsheet only; take that line out" in told


@pytest.mark.parametrize("content,words", [
    (b"PK\x03\x04" + b"x" * 50, "a workbook or an archive"), (b"\xd0\xcf\x11\xe0" + b"x" * 50, "a workbook"),
    (gzip.compress(b"text,label\na,b\n", mtime=0), "compressed"), (b"PAR1" + b"x" * 50, "call it .parquet"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:5\nsize 9\n", "git lfs pull"),
    (b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n', "first line is JSON"),
])
def test_what_is_no_table_is_called_what_it_is(tmp_path, content, words):
    (tmp_path / "mine.csv").write_bytes(content)
    assert words in refused(tmp_path / "mine.csv")


def test_a_pointer_instead_of_parquet(tmp_path):
    (tmp_path / "mine.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refused(tmp_path / "mine.parquet")


def test_a_folder_of_parts_is_one(tmp_path):
    (tmp_path / "mine.parquet").mkdir()
    assert "is a folder; needed: one file" in refused(tmp_path / "mine.parquet")


@pytest.mark.parametrize("labels,words", [
    (("neg", "pos", "Neg"), "'Neg' and 'neg' are classes of their own"), (("True", "TRUE", "no"), "'TRUE' and 'True'"),
    (("n\u00e9g", "ne\u0301g", "pos"), "differ only in how they are written"), (("so  so", "so so", "x"), "'so  so'"),
])
def test_classes_that_may_be_one_are_told(tmp_path, labels, words):
    data = table_files.read(table(tmp_path, turn(*labels)))
    assert len(data.classes) == 3 and words in data.note


@pytest.mark.parametrize("labels", [("0,5", "1,5"), ("1,000", "2,000"), ("40%", "60%"), ("1.5", "2,5")])
def test_numbers_in_another_spelling_are_classes_and_that_is_told(tmp_path, labels):
    data = table_files.read(table(tmp_path, turn(*labels)))
    assert data.classes == labels and "is read as the name of a class; if it is a number" in data.note


@pytest.mark.parametrize("labels", [("neg", "pos"), ("v1.0", "v2.0"), ("0", "1"), ("0.5", "1.5")])
def test_labels_that_leave_no_doubt_are_not_mentioned(tmp_path, labels):
    assert table_files.read(table(tmp_path, turn(*labels))).note == ""


def test_a_label_that_is_no_number_is_named_with_its_row(tmp_path):
    labels = turn("0.0", "1.0")
    labels[7] = "nan"
    assert "'nan' in row 9, which is not a finite number" in refused(table(tmp_path, labels))


@pytest.mark.parametrize("name", ["split", "Fold", "set"])
def test_a_column_of_splits_is_no_text_and_that_it_is_not_used_is_told(tmp_path, name):
    frame = pd.DataFrame({"text": TEXTS, "label": turn("a", "b"), name: turn("train", "test")})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    for columns in ((), ("text",)):
        data = table_files.read(tmp_path / "mine.csv", columns)
        assert data.columns == ("text",) and f"column {name!r} is not used: every fifth row" in data.note
    assert table_files.read(tmp_path / "mine.csv", ("text", name)).columns == ("text", name)


def test_counters_of_tables_saved_again_and_again_are_no_text(tmp_path):
    frame = pd.DataFrame({"text": TEXTS, "label": turn("a", "b")})
    for _ in range(3):
        frame.to_csv(tmp_path / "mine.csv")
        frame = pd.read_csv(tmp_path / "mine.csv")
    assert "Unnamed: 0.1" in table_files.names(tmp_path / "mine.csv")
    data = table_files.read(tmp_path / "mine.csv")
    assert data.columns == ("text",) and data.note == ""


@pytest.mark.parametrize("rare", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_a_class_of_two_rows_is_in_train_and_dev(tmp_path, rare, seed):
    texts = [f"sentence number {row}" for row in range(200)]
    labels = ["rare" if row in range(50, 50 + rare) else "usual" for row in range(200)]
    data = table_files.read(table(tmp_path, labels, texts=texts))
    train, dev = data.split(seed)
    assert {*data.labels[train]} == {*data.labels[dev]} == {0, 1}
    assert np.array_equal(np.sort([*train, *dev]), np.arange(200)) and 40 <= len(dev) <= 41


def test_rows_that_stand_in_train_and_dev_are_told(tmp_path):
    twice = glue.load("", str(table(tmp_path, turn("a", "b"), texts=TEXTS[:10] * 4)))
    assert "of 8 dev rows have a text that training has too" in twice.note
    assert glue.load("", str(table(tmp_path, turn("a", "b")))).note == ""
