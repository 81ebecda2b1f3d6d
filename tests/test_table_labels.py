"""What a table's cells and labels may be: every kind that parquet knows, and numbers that are classes or a score."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from prune_core import InputError
from prune_core.runs.config import PruneConfig
from prune_core.runs.data import data_of, load_for
from prune_core.tasks import glue, parquet_files, table_files

TEXTS = [f"sentence number {row}" for row in range(40)]
HALVES = [row % 2 for row in range(40)]


def parquet(folder: Path, label, text=None) -> Path:
    path = folder / "mine.parquet"
    pq.write_table(pa.table({"text": pa.array(TEXTS) if text is None else text, "label": label}), path)
    return path


def table(folder: Path, labels, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in zip(TEXTS, labels, strict=True))]))
    return path


def refused(path: Path, **more) -> str:
    with pytest.raises(InputError) as raised:
        table_files.read(path, **more)
    told = str(raised.value)
    assert "\n" not in told and path.name in told and len(told) < 400
    return told


# ---------------------------------------------------------------- kinds of parquet


@pytest.mark.parametrize("label, classes", [
    (pa.array(["a", "b"] * 20), ("a", "b")), (pa.array(["a", "b"] * 20).dictionary_encode(), ("a", "b")),
    (pa.array(["a", "b"] * 20, pa.large_string()), ("a", "b")), (pa.array([True, False] * 20), ("0", "1")),
    (pa.array([1, 2] * 20, pa.int8()), ("1", "2")), (pa.array([1, 2] * 20, pa.uint64()), ("1", "2")),
    (pa.array([1.0, 2.0] * 20), ("1", "2")), (pa.array([decimal.Decimal("1.00"), decimal.Decimal("2.00")] * 20),
                                              ("1", "2")),
    (pa.array([datetime.date(2024, 1, 1), datetime.date(2025, 1, 1)] * 20), ("2024-01-01", "2025-01-01")),
    (pa.array([2**53, 2**53 + 1] * 20), (str(2**53), str(2**53 + 1))),
])
def test_labels_of_parquet_become_classes(tmp_path, label, classes):
    data = table_files.read(parquet(tmp_path, label))
    assert data.classes == classes and data.texts == [(text,) for text in TEXTS]
    first = 1 if label.type == pa.bool_() else 0
    assert data.labels.tolist() == [first, 1 - first] * 20


@pytest.mark.parametrize("label, words", [
    (pa.array([[0, 1], [1, 0]] * 20), "'label' holds lists; needed: words or numbers"),
    (pa.array([{"a": 1}, {"a": 2}] * 20), "'label' holds records"),
    (pa.array([b"a", b"b"] * 20), "'label' holds bytes"),
    (pa.array([0, 1, None, 1] * 10), "'label' is empty in row 4 and 9 more"),
    (pa.array([0.5, float("nan")] * 20), "'label' is empty in row 3"),
    (pa.array([True, None] * 20), "'label' is empty in row 3"),
])
def test_labels_that_are_none_are_one_line(tmp_path, label, words):
    assert words in refused(parquet(tmp_path, label))


@pytest.mark.parametrize("text, words", [
    (pa.array([[1]] * 40), "'text' holds lists, not text"), (pa.array([{"a": 1}] * 40), "'text' holds records"),
    (pa.array([b"a"] * 40), "'text' holds bytes"), (pa.array([0] * 40), "'text' holds int64"),
    (pa.array([0.0] * 40), "'text' holds float64"), (pa.array([*TEXTS[1:], None]), "'text' is empty in row 41"),
    (pa.array([datetime.datetime(2024, 1, 1)] * 40), "'text' holds Timestamp"),
])
def test_text_of_parquet_that_is_none_is_one_line(tmp_path, text, words):
    assert words in refused(parquet(tmp_path, pa.array(HALVES), text))


def test_an_index_that_pandas_kept_is_no_column_or_the_column_it_was(tmp_path):
    frame = pd.DataFrame({"text": TEXTS, "label": HALVES}).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "mixed.parquet")
    assert table_files.read(tmp_path / "mixed.parquet").texts == [(text,) for text in frame["text"]]
    frame.set_index("text").to_parquet(tmp_path / "indexed.parquet")
    assert table_files.read(tmp_path / "indexed.parquet").texts == [(text,) for text in frame["text"]]


def test_what_parquet_holds_is_bounded_before_it_is_unpacked(tmp_path, monkeypatch):
    path = parquet(tmp_path, pa.array(HALVES), pa.array(["the same words " * 1000] * 40))
    assert len(table_files.read(path).texts) == 40
    with pytest.raises(InputError, match="MB once unpacked; at most"):
        parquet_files.columns(path, [0, 1], 100)


def test_two_columns_of_one_name(tmp_path):
    twice = pa.Table.from_arrays([pa.array(TEXTS), pa.array(HALVES), pa.array(HALVES)], ["text", "label", "label"])
    pq.write_table(twice, tmp_path / "mine.parquet")
    assert "two columns are called 'label'" in refused(tmp_path / "mine.parquet")


def test_a_name_over_two_lines_makes_no_message_of_two(tmp_path):
    pq.write_table(pa.table({"te\nxt": TEXTS, "mood": HALVES}), tmp_path / "mine.parquet")
    assert "There are: te xt, mood" in refused(tmp_path / "mine.parquet")
    path = tmp_path / "mine.csv"
    path.write_text('text,"la\nbel"\n' + "a,1\nb,0\n" * 20)
    assert "the names in its first line hold line ends" in refused(path)


# ---------------------------------------------------------------- classes or a score


def test_whole_numbers_are_a_score_where_that_is_said(tmp_path):
    path = table(tmp_path, [row * 5 % 101 for row in range(40)])
    told = refused(path)
    assert "has 1 row; needed: at least 2 of each" in told and "if they are a score, give --regression" in told
    data = table_files.read(path, regression=True)
    assert data.classes == () and data.labels.dtype == np.float32 and data.labels[:3].tolist() == [0, 5, 10]
    assert data.note == ""


def test_a_few_whole_numbers_are_classes_and_from_five_on_it_is_said_how_they_are_not(tmp_path):
    for count in (2, 4, 5, 8):
        data = table_files.read(table(tmp_path, [row % count for row in range(40)]))
        assert len(data.classes) == count
        assert data.note == ("" if count < 5 else f"label 'label': as whole numbers these are {count} classes; "
                                                  "if they are a score, give --regression")


@pytest.mark.parametrize("labels, words", [
    (["good", "bad"] * 20, "'label' holds 'good', which is no number; needed with --regression"),
    ([*range(39), "n/a"], "'label' holds 'n/a'"), ([*range(39), "1_000"], "'label' holds '1_000'"),
    ([3] * 40, "every label is '3'"), ([*range(39), "inf"], "not a finite number"),
])
def test_a_score_needs_numbers(tmp_path, labels, words):
    assert words in refused(table(tmp_path, labels), regression=True)


def test_a_yes_or_no_is_no_score(tmp_path):
    assert "holds 'True', which is no number" in refused(parquet(tmp_path, pa.array([True, False] * 20)),
                                                         regression=True)


def test_a_score_is_for_tables(tmp_path):
    for source in ("practice", str(tmp_path), glue.HUB_DATA):
        with pytest.raises(InputError, match="--regression is for labels of a table file"):
            glue.load("sst2", source, regression=True)


def test_a_run_on_a_score_keeps_that_it_is_one(tiny_model, tmp_path):
    from prune_core.evaluation import exact
    from prune_core.runs.settings import cut_of

    texts, labels = tiny.sentences(80, 3)
    path = tmp_path / "stars.csv"
    pd.DataFrame({"text": texts, "label": [50 * label + row % 50 for row, label in enumerate(labels)]}).to_csv(
        path, index=False)
    asked = tiny.settings(tiny_model, path, regression=True, compressions=(2.0,))
    run = tiny.make_run(asked, tmp_path / "runs", "stars")
    assert (run.metric, run.outputs, run.labels) == ("spearman", 1, []) and run.config.regression
    assert exact.evaluate(run, "dense", cut_of(run, 0.0), threads=1)["score"] == run.dense_score
    assert data_of(run, None).task.labels == () == load_for(run.config).task.labels


def test_runs_of_before_there_was_such_a_setting_have_classes():
    settings = PruneConfig().to_json()
    assert settings.pop("regression") is False
    assert PruneConfig.from_json(json.loads(json.dumps(settings))).regression is False


def test_a_run_of_before_on_a_tsv_whose_lines_its_quotes_joined_is_not_mixed_with_other_rows(tiny_model, tmp_path):
    texts, labels = tiny.sentences(60, 3)
    path = tmp_path / "mine.tsv"
    lines = ['"' * (row % 20 == 4) + text + '"' * (row % 20 == 9) + f"\t{labels[row]}"
             for row, text in enumerate(texts)]
    path.write_text("\n".join(["text\tlabel", *lines, ""]))
    run = tiny.make_run(tiny.settings(tiny_model, path, compressions=(2.0,)), tmp_path / "runs", "joined")
    assert len(data_of(run, None).train) == 48
    del run.about["config"]["regression"]
    with pytest.raises(InputError, match="was made when quotes in 'mine.tsv' joined its lines; .* begin a new run"):
        data_of(run, None)


def test_the_note_of_a_table_is_the_runs(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("text\tlabel\n" + "".join(f'"{text}\t{row % 5}\n' for row, text in enumerate(TEXTS)))
    note = glue.load("", str(path)).note
    assert "'mine.tsv': every line was read as a row" in note and "5 classes; if they are a score" in note


# ---------------------------------------------------------------- GLUE, there and back


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "rte", "wnli"])
def test_every_task_of_glue_comes_back_from_tsv_and_csv(glue_folder, tmp_path, name):
    """Byte for byte in the text, as TSV in GLUE's own way and as CSV; its smallest dev set."""
    task = glue.TASKS[name]
    file = min(glue_folder.glob(f"{name}/validation*.parquet"), key=lambda path: path.stat().st_size)
    frame = pd.read_parquet(file)[[*task.columns, "label"]]
    own = not frame[list(task.columns)].apply(lambda texts: texts.str.contains("[\t\n]")).any(axis=None)
    assert own, "a text that GLUE's own TSV cannot hold"
    lines = ["\t".join(frame.columns), *("\t".join(map(str, row)) for row in frame.itertuples(index=False))]
    (tmp_path / "own.tsv").write_bytes("\n".join(lines).encode())
    frame.to_csv(tmp_path / "mine.csv", index=False)
    for path in (tmp_path / "own.tsv", tmp_path / "mine.csv"):
        data = table_files.read(path, task.columns, "label", regression=not task.labels)
        assert data.texts == list(frame[list(task.columns)].itertuples(index=False, name=None))
        assert data.labels.tolist() == pytest.approx(frame["label"].tolist())


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "mnli", "rte"])
def test_every_task_of_glue_comes_back_from_a_tsv_with_quotes(glue_folder, tmp_path, name):
    """Under names of one's own: GLUE's keep the quotes that its files have."""
    task = glue.TASKS[name]
    file = min(glue_folder.glob(f"{name}/validation*.parquet"), key=lambda path: path.stat().st_size)
    frame = pd.read_parquet(file)[[*task.columns, "label"]]
    frame.columns = [*("one", "two")[:len(task.columns)], "label"]
    frame.to_csv(tmp_path / "mine.tsv", sep="\t", index=False)
    data = table_files.read(tmp_path / "mine.tsv", regression=not task.labels)
    assert data.texts == list(frame[list(data.columns)].itertuples(index=False, name=None))


def test_a_column_called_a_score_is_the_label_where_that_is_said(tmp_path):
    rows = "".join(f"a day {at},{at % 5}\n" for at in range(40))
    (tmp_path / "stars.csv").write_text("text,score\n" + rows)
    data = table_files.read(tmp_path / "stars.csv", regression=True)
    assert data.columns == ("text",) and data.classes == () and data.labels.max() == 4.0
    with pytest.raises(InputError, match="give --label NAME, and --regression if 'score' is one"):
        table_files.read(tmp_path / "stars.csv")
