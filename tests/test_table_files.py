"""Your own data: what is read, how it is split, and one clear line for everything that can be wrong with a file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from prune_core import InputError
from prune_core.evaluation import exact
from prune_core.evaluation.bench import Bench
from prune_core.runs import places
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of
from prune_core.tasks import table_files
from prune_core.tasks.glue import TASKS
from prune_core.tasks.table_files import SUFFIXES

ROWS = [(f"sentence number {row}", ("good", "bad", "so so")[row % 3]) for row in range(60)]


def csv(folder: Path, text: str | bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(folder: Path, rows=ROWS, header: str = "text,label", name: str = "mine.csv") -> Path:
    return csv(folder, "\n".join([header, *(",".join(map(str, row)) for row in rows)]), name)


def test_text_and_label_are_found_and_classes_are_named(tmp_path):
    data = table_files.read(table(tmp_path))
    assert data.columns == ("text",) and data.classes == ("bad", "good", "so so")
    assert data.texts[0] == ("sentence number 0",) and data.labels[:3].tolist() == [1, 0, 2]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same(tmp_path, suffix):
    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    path = tmp_path / f"mine{suffix}"
    {".csv": lambda: frame.to_csv(path, index=False), ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
     ".parquet": lambda: frame.to_parquet(path)}[suffix]()
    data, plain = table_files.read(path), table_files.read(table(tmp_path, name="plain.csv"))
    assert data.texts == plain.texts and data.labels.tolist() == plain.labels.tolist() and data.classes == plain.classes


def test_a_mark_of_byte_order_and_quoted_lines_do_no_harm(tmp_path):
    text = "\ufefftext,label\n" + "".join(f'"two\nlines, ""{row}""",{row % 2}\n' for row in range(30))
    data = table_files.read(csv(tmp_path, text.encode("utf-8")))
    assert data.texts[3] == ('two\nlines, "3"',) and data.classes == ("0", "1")


def test_words_that_pandas_takes_for_missing_are_text(tmp_path):
    rows = [("NA" if row % 2 else "null", ("None", "n/a")[row % 2]) for row in range(30)]
    data = table_files.read(table(tmp_path, rows))
    assert set(data.texts) == {("NA",), ("null",)} and data.classes == ("None", "n/a")


def test_pairs_named_columns_and_numbers_as_labels(tmp_path):
    rows = [(row, f"a {row}", f"b {row}", row % 2, row / 7) for row in range(1, 41)]
    path = table(tmp_path, rows, "id,one,two,label,grade")
    data = table_files.read(path, ("one", "two"), "label")
    assert data.texts[0] == ("a 1", "b 1") and data.classes == ("0", "1")
    graded = table_files.read(path, ("one",), "grade")
    assert graded.classes == () and graded.labels.dtype == np.float32 and graded.labels[6] == 1.0


def test_ten_comes_after_nine(tmp_path):
    data = table_files.read(table(tmp_path, [(f"t {row}", row % 11) for row in range(66)]))
    assert data.classes == tuple(map(str, range(11)))


def test_the_split_is_the_seeds_and_holds_every_class(tmp_path):
    data = table_files.read(table(tmp_path))
    train, dev = data.split(3)
    assert sorted([*train, *dev]) == list(range(60)) and len(dev) == 12
    assert set(data.labels[dev]) == set(data.labels[train]) == {0, 1, 2}
    assert data.split(3)[1].tolist() == dev.tolist() != data.split(4)[1].tolist()


MANY = [(f"t {row}", row % 2) for row in range(40)]


@pytest.mark.parametrize("text, columns, label, words", [
    (b"", (), "", "nothing in it"),
    (b"text,label\n", (), "", "no rows below the names"),
    (b"text\n" + b"a\n" * 30, (), "", "one column, 'text'"),
    (b"text;label\n" + b"a;1\n" * 30, (), "", "one column, 'text;label'"),
    (b"text,label\na,b\nwell, yes,c\n", (), "", "line 3 has 3 cells, the first one 2"),
    (b'text,label\n"a,b\n', (), "", "cannot be read as csv"),
    (b"text,label\n" + b"caf\xe9,1\n" * 30, (), "", "not UTF-8"),
    (b"\x50\x4b\x03\x04\x00\xff\xfe zip", (), "", "a workbook or an archive"),
    (b"text,label,label\n" + b"a,1,2\n" * 30, (), "", "two columns are called 'label'"),
    ("\n".join(["sentence,grade", *("a,1" for _ in range(30))]), (), "", "which column is the label"),
    ("\n".join(["a,b,c,label", *("x,y,z,1" for _ in range(30))]), (), "", "which column is the text"),
    ("\n".join(["text,label", *(f"a,{r % 2}" for r in range(30))]), ("words",), "",
     "column 'words' is missing; there are: text, label"),
    ("\n".join(["text,label", *(f"a,{r % 2}" for r in range(30))]), (), "class", "column 'class' is missing"),
    ("\n".join(["text,label", *(f"a,{r % 2}" for r in range(30))]), ("text", "label"), "label",
     "another one for the label"),
    ("\n".join(["a,b,c,label", *(f"x,y,z,{r % 2}" for r in range(30))]), ("a", "b", "c"), "label",
     "one or two columns of text"),
    ("\n".join(["text,label", *(f"{'' if r == 7 else 'a'},{r % 2}" for r in range(30))]), (), "",
     "column 'text' is empty in row 9"),
    ("\n".join(["text,label", *(f"{'   ' if r > 26 else 'a'},{r % 2}" for r in range(30))]), (), "",
     "empty in row 29 and 2 more"),
    ("\n".join(["text,label", *(f"a,{'' if r == 3 else r % 2}" for r in range(30))]), (), "",
     "column 'label' is empty in row 5"),
    ("\n".join(["text,label", *("a,1" for _ in range(30))]), (), "", "every label is 1"),
    ("\n".join(["text,label", *("a,0.5" for _ in range(30))]), (), "", "every label is '0.5'"),
    ("\n".join(["text,label", *(f"a,{r}" for r in range(200))]), (), "", "200 classes in column 'label'; at most 100"),
    ("\n".join(["text,label", *(f"a,{min(r, 1)}" for r in range(30))]), (), "", "class '0' has 1 row"),
    ("\n".join(["text,label", *(f"a,{r % 2}" for r in range(10))]), (), "", "10 rows; needed: at least 20"),
    ("\n".join(["text,label", *(f"a,{'inf' if r else 0.5}" for r in range(30))]), (), "", "not a finite number"),
])
def test_what_is_wrong_with_a_file_is_one_clear_line(tmp_path, text, columns, label, words):
    with pytest.raises(InputError) as raised:
        table_files.read(csv(tmp_path, text), columns, label)
    told = str(raised.value)
    assert words in told and "mine.csv" in told and "\n" not in told and len(told) < 400


def test_parquet_that_is_none_and_text_that_is_numbers(tmp_path):
    with pytest.raises(InputError, match="cannot be read as parquet"):
        table_files.read(csv(tmp_path, b"text,label", "mine.parquet"))
    pd.DataFrame({"text": range(30), "label": [0, 1] * 15}).to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="'text' holds int64, not text"):
        table_files.read(tmp_path / "numbers.parquet")
    gaps = pd.DataFrame({"text": [None, *"abcdefghijklmnopqrstuvwxyz"], "label": [0, 1, 2] * 9})
    gaps.to_parquet(tmp_path / "gaps.parquet")
    with pytest.raises(InputError, match="empty in row 2 "):
        table_files.read(tmp_path / "gaps.parquet")


def test_a_file_that_is_not_there_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is not there"):
        table_files.read(tmp_path / "no.csv")
    with pytest.raises(InputError, match="'mine.txt' ends in '.txt'; needed: a file ending in .csv, .tsv, .parquet"):
        table_files.read(table(tmp_path, name="mine.txt"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is a folder; needed: one file"):
        table_files.read(tmp_path / "folder.csv")
    monkeypatch.setattr(table_files, "MOST_BYTES", 10)
    with pytest.raises(InputError, match="at most"):
        table_files.read(table(tmp_path))


@pytest.mark.parametrize("name, task", [
    ("My reviews (1).csv", "My-reviews-1-own"), ("sst2.csv", "sst2-own"), ("été.csv", "t-own"), ("数据.csv", "own")])
def test_the_task_is_called_as_the_file_and_like_none_of_glue(name, task):
    assert table_files.task_name(name) == task and task not in TASKS
    assert places.check_name(f"{task}-64x1-s0")


def test_a_run_on_own_data_from_its_command_to_an_exact_score(tiny_model, tmp_path):
    """Three classes; the columns are kept with the run, so that it is scored and resumed alike."""
    texts, _ = tiny.sentences(90, 3)
    path = tmp_path / "moods.csv"
    moods = [("sad", "glad", "calm")[row % 3] for row in range(90)]
    pd.DataFrame({"words": texts, "note": "x", "mood": moods}).to_csv(path, index=False)
    asked = tiny.settings(tiny_model, path, columns=("words",), label="mood", compressions=(2.0,))
    run = tiny.make_run(asked, tmp_path / "runs", "moods")
    assert (run.task, run.metric, run.outputs) == ("moods-own", "accuracy", 3)
    assert (run.is_own, run.is_glue, run.is_practice) == (True, False, False)
    assert run.about["task"]["labels"] == ["calm", "glad", "sad"]
    assert run.majority_score == pytest.approx(1 / 3, abs=0.02)
    answer = exact.evaluate(run, "dense", cut_of(run, 0.0), threads=1)
    assert answer["score"] == run.dense_score and answer["examples"] == 18
    content = path.read_bytes()
    path.write_bytes(content + b"one more,x,sad\n")  # another split: rows that were trained on would be scored on
    with pytest.raises(InputError, match="'moods.csv' has changed since run 'moods' was made"):
        Bench(run, "dense")
    elsewhere = tmp_path / "copy" / "moods.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(content)
    assert exact.evaluate(run, "dense", cut_of(run, 0.0), str(elsewhere), threads=1)["score"] == run.dense_score
    path.unlink()
    with pytest.raises(InputError, match="is not there"):
        Bench(run, "dense")


def test_the_command_takes_the_columns(tiny_model, tmp_path, capsys, monkeypatch):
    from prune_core.__main__ import main

    path = table(tmp_path, [(row, "a fine film" + " very" * row, row % 2) for row in range(40)], "n,review,stars")
    arguments = ["prune", "--model", str(tiny_model), "--data", str(path),
                 "--text", "review", "--label", "stars",
                 "--block", "16x1", "--preset", "quick",
                 "--dense-steps", "2", "--penalty-steps", "3", "--retrain-steps", "1",
                 "--runs-dir", str(tmp_path / "runs"), "--run", "stars", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["prune_core", *arguments])
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
    assert Run(tmp_path / "runs" / "stars").task == "mine-own"
