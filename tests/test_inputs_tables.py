"""The tables and folders of ../shared/inputs, as people have them: each is read whole, or refused in one line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from prune_core import InputError
from prune_core.tasks import glue, table_files

ROWS = 160
GOOD = ("good", "great", "lovely", "fine", "warm", "superb")  # every second sentence has one of them

READ = {  # file -> names of its classes, and how to read it where that must be said
    "rev.csv": ("neg", "pos"), "pairs.csv": ("neg", "pos"), "tweets.csv": ("0", "1"), "long.csv": ("0", "1"),
    "glue_like.tsv": ("0", "1"), "glue_like2.tsv": ("0", "1"), "utf16.csv": ("0", "1"), "na.csv": ("N/A", "no"),
    "category.parquet": ("neg", "pos"), "category_text.parquet": ("neg", "pos"), "bools.parquet": ("0", "1"),
    "int64.parquet": ("0", "1"),
}
REFUSED = {
    "semicolon.csv": "one column, 'text;label'; .* separated by semicolons: save it with commas",
    "latin1.csv": "line 2, byte .* is not UTF-8; save the file as UTF-8",
    "quoted_inside.csv": "line 7 goes on with ' - said one,1' after a quote that closes",
    "stars.csv": "which column is the label.* give --label NAME, and --regression if 'score' is one",
}


def good(text: str) -> bool:
    return any(word.strip('"') in GOOD for word in text.split())


@pytest.mark.parametrize("name", READ)
def test_a_table_is_read_whole(inputs, name):
    """Every row, and beside every text its own label."""
    data = table_files.read(inputs / name)
    assert len(data.texts) == len(data.labels) == ROWS and data.classes == READ[name]
    second = data.labels if data.classes != ("N/A", "no") else 1 - data.labels  # there N/A is the good one
    if name != "na.csv":  # two of its sentences are "null" and "NA"
        assert [good(text[0]) for text in data.texts] == second.astype(bool).tolist()
    else:
        assert [text for text in data.texts if text[0] in ("null", "NA")] == [("null",), ("NA",)]


@pytest.mark.parametrize("name", ["glue_like.tsv", "glue_like2.tsv"])
def test_every_line_of_a_tsv_without_quotes_is_a_row(inputs, name):
    lines = (inputs / name).read_text(encoding="utf-8").splitlines()[1:]
    data = table_files.read(inputs / name)
    assert [f"{text}\t{label}" for (text,), label in zip(data.texts, data.labels, strict=True)] == lines
    assert "every line was read as a row, and quotes as text" in data.note


def test_a_long_cell_is_read_whole(inputs):
    assert max(len(text) for text, in table_files.read(inputs / "long.csv").texts) > csv.field_size_limit()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_told_in_one_line(inputs, name):
    with pytest.raises(InputError, match=REFUSED[name]) as raised:
        table_files.read(inputs / name)
    assert "\n" not in str(raised.value) and name in str(raised.value)


def test_whole_numbers_that_are_a_score_are_told_how_to_be_one(inputs):
    with pytest.raises(InputError, match="101 classes; if they are a score, give --regression"):
        table_files.read(inputs / "stars.csv", label="score")
    five = table_files.read(inputs / "stars5.csv", label="score")
    assert five.classes == ("1", "2", "3", "4", "5")
    assert "5 classes; if they are a score, give --regression" in five.note
    for name, least, most in (("stars.csv", 0, 100), ("stars5.csv", 1, 5)):
        data = table_files.read(inputs / name, label="score", regression=True)
        assert data.classes == () and (data.labels.min(), data.labels.max()) == (least, most) and data.note == ""


def test_a_score_with_fractions_is_one_without_a_word(inputs):
    data = table_files.read(inputs / "sim.csv", ("a", "b"), "score")
    assert data.columns == ("a", "b") and data.classes == () and data.note == ""
    guessed = table_files.read(inputs / "sim.csv", label="score")
    assert guessed.columns == ("a", "b") and guessed.note == "columns 'a' and 'b' were taken as a pair of texts"


@pytest.mark.parametrize("folder, note", [
    ("plain", "sst2: read by the names of its files"), ("saved", "sst2: read as saved by save_to_disk"),
    ("original", "SST-2: read as GLUE's own TSV files, never quoted")])
def test_a_folder_of_glue_is_read_in_whatever_layout(inputs, folder, note):
    home = next(path for path in (inputs / folder).iterdir())
    for path in (inputs / folder, home):
        data = glue.load("sst2", str(path))
        assert (len(data.train), len(data.main_dev), data.note) == (ROWS, 40, note)
        assert [good(text) for text, in data.train.texts] == data.train.labels.astype(bool).tolist()
        assert list(data.main_dev.texts) == list(data.train.texts)[:40]
    with pytest.raises(InputError, match="holds no task 'rte'|is of task 'sst2'"):
        glue.load("rte", str(inputs / folder))


def test_no_table_of_the_folder_is_forgotten(inputs):
    there = {path.name for path in Path(inputs).iterdir() if path.suffix in table_files.SUFFIXES}
    assert there == {*READ, *REFUSED, "stars5.csv", "sim.csv"}
