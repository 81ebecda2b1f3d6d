"""A task's folder in every layout that people have: read whole and with the hub's classes, or one line says why not."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import tiny

from prune_core import InputError
from prune_core.tasks import glue
from prune_core.tasks.glue import TASKS

# GLUE's own files: folder, names of the columns (CoLA: none), where text and label stand, how its labels are spelt
OWN = {
    "cola": ("CoLA", "", (3, 1), ("0", "1")),
    "sst2": ("SST-2", "sentence\tlabel", (0, 1), ("0", "1")),
    "mrpc": ("MRPC", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", (3, 4, 0), ("0", "1")),
    "stsb": ("STS-B", "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
             (7, 8, 9), ()),
    "qqp": ("QQP", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", (3, 4, 5), ("0", "1")),
    "mnli": ("MNLI", "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
             "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label", (8, 9, 11),
             ("entailment", "neutral", "contradiction")),
    "qnli": ("QNLI", "index\tquestion\tsentence\tlabel", (1, 2, 3), ("entailment", "not_entailment")),
    "rte": ("RTE", "index\tsentence1\tsentence2\tlabel", (1, 2, 3), ("entailment", "not_entailment")),
    "wnli": ("WNLI", "index\tsentence1\tsentence2\tlabel", (1, 2, 3), ("0", "1")),
}
DEV = {"validation": "dev", "validation_matched": "dev_matched", "validation_mismatched": "dev_mismatched"}


def rows_of(name: str, count: int, seed: int) -> list[tuple]:
    """(text or texts, label) with quotes where they hurt: one opens here, another closes lines later."""
    task = TASKS[name]
    table = tiny.table(task, count, seed)
    texts = [list(row) for row in zip(*(table[column] for column in task.columns), strict=True)]
    texts[3][0], texts[6][0], texts[9][-1] = f'"{texts[3][0]}', f'{texts[6][0]}"', f'"{texts[9][-1]}" \x85 he said'
    return [(*text, label) for text, label in zip(texts, table["label"], strict=True)]


def own_file(name: str, rows: list[tuple]) -> str:
    """A file as GLUE's download has it."""
    _, head, at, spelt = OWN[name]
    lines = [head] if head else []
    for *texts, label in rows:
        cells = ["x"] * (head.count("\t") + 1 if head else 4)
        for place, value in zip(at, [*texts, spelt[label] if spelt else f"{label:.3f}"], strict=True):
            cells[place] = value
        lines.append("\t".join(cells))
    return "\n".join([*lines, ""])


def own_layout(folder: Path, name: str, home: str = "") -> dict[str, list[tuple]]:
    """Writes the task as GLUE's download has it; split -> its rows."""
    (folder / (home or OWN[name][0])).mkdir(parents=True, exist_ok=True)
    splits = {split: rows_of(name, 40 if split == "train" else 24, seed)
              for seed, split in enumerate(("train", *TASKS[name].dev))}
    for split, rows in splits.items():
        path = folder / (home or OWN[name][0]) / f"{DEV.get(split, split)}.tsv"
        path.write_bytes(own_file(name, rows).encode())
    return splits


def same(data, splits: dict[str, list[tuple]]) -> None:
    for split, rows in splits.items():
        examples = data.train if split == "train" else data.dev[split]
        assert list(examples.texts) == [row[:-1] for row in rows]
        assert examples.labels.tolist() == pytest.approx([row[-1] for row in rows])
        assert examples.labels.dtype == (np.int64 if data.task.labels else np.float32)


def refused(folder, task: str = "sst2") -> str:
    with pytest.raises(InputError) as raised:
        glue.load(task, str(folder))
    told = str(raised.value)
    assert "\n" not in told and len(told) < 600 and str(folder) in told
    return told


# ---------------------------------------------------------------- GLUE's own download


@pytest.mark.parametrize("name", OWN)
def test_glues_own_files_are_read_line_by_line_with_the_hubs_classes(tmp_path, name):
    splits = own_layout(tmp_path, name)
    data = glue.load(name, str(tmp_path))
    same(data, splits)
    assert data.task is TASKS[name] and data.source == str(tmp_path)
    assert data.note == f"{OWN[name][0]}: read as GLUE's own TSV files, never quoted"
    same(glue.load(name, str(tmp_path / OWN[name][0])), splits)


@pytest.mark.parametrize("home", ["sst2", "sst-2", "SST2"])
def test_the_folder_may_be_spelt_otherwise(tmp_path, home):
    splits = own_layout(tmp_path, "sst2", home)
    same(glue.load("sst2", str(tmp_path)), splits)


@pytest.mark.parametrize("name, line, words", [
    ("sst2", "one\ttwo\t1", "SST-2/train.tsv: line 42 has 3 cells, the first one 2"),
    ("sst2", "half a line", "SST-2/train.tsv: line 42 has 1 cells"),
    ("cola", "x\t1\tsentence", "CoLA/train.tsv: line 41 has 3 cells, the first one 4"),
    ("rte", "9\ta\tb\tunknown", "label 'unknown' in line 42; needed: one of entailment, not_entailment"),
    ("mnli", "\t".join(["x"] * 11 + ["-"]), "label '-' in line 42; needed: one of entailment, neutral, contradiction"),
    ("stsb", "\t".join(["x"] * 10), "label 'x' in line 42; needed: a number"),
    ("sst2", "hidden\t-1", "label -1.0 in row 40 is outside the range"),
    ("qqp", "1\t2\t3\ta\tb\t2", "outside the range; needed: whole numbers from 0 to 1"),
])
def test_a_bad_line_is_refused_with_its_number(tmp_path, name, line, words):
    own_layout(tmp_path, name)
    with open(tmp_path / OWN[name][0] / "train.tsv", "a", encoding="utf-8") as file:
        file.write(line + "\n")
    assert words in refused(tmp_path, name)


def test_what_is_missing_of_glues_own_files_is_named(tmp_path):
    own_layout(tmp_path, "mnli")
    (tmp_path / "MNLI" / "dev_mismatched.tsv").unlink()
    assert "split 'validation_mismatched' is missing; there are: MNLI/ with dev_matched, train" in refused(
        tmp_path, "mnli")
    (tmp_path / "MRPC").mkdir()
    (tmp_path / "MRPC" / "msr_paraphrase_train.txt").write_text("x")
    assert "MRPC/train.tsv; there: MRPC/ with msr_paraphrase_train.txt" in refused(tmp_path, "mrpc")
    own_layout(tmp_path, "sst2")
    (tmp_path / "SST-2" / "dev.tsv").write_text("index\tsentence\n0\ta film\n")
    assert "SST-2/dev.tsv: column 'label' is missing; there are: index, sentence" in refused(tmp_path)


def test_the_folder_of_another_task_and_a_task_that_is_there_twice(tmp_path):
    own_layout(tmp_path, "rte")
    assert "is of task 'rte', asked: 'wnli'" in refused(tmp_path / "RTE", "wnli")  # they have the same columns
    own_layout(tmp_path, "rte", "rte")
    assert "has task 'rte' twice: RTE and rte" in refused(tmp_path, "rte")


# ---------------------------------------------------------------- files named by their split


FORMS = {
    "parquet": lambda frame, path: frame.to_parquet(path), "csv": lambda frame, path: frame.to_csv(path, index=False),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "json": lambda frame, path: frame.to_json(path, orient="records"),
    "tsv": lambda frame, path: frame.to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["sst2", "mnli", "stsb"])
def test_files_without_a_readme_are_read_by_their_names(tmp_path, name, form, inside):
    home = tmp_path / name
    home.mkdir()
    splits = {split: rows_of(name, 30, seed) for seed, split in enumerate(("train", *TASKS[name].dev))}
    for split, rows in splits.items():
        FORMS[form](pd.DataFrame(rows, columns=[*TASKS[name].columns, "label"]), home / f"{split}.{form}")
    data = glue.load(name, str(home if inside else tmp_path))
    same(data, splits)
    assert data.note == f"{name}: read by the names of its files"


def test_a_clone_of_one_tasks_data_set_is_read(tmp_path):
    rows = rows_of("sst2", 30, 0)
    (tmp_path / "sst2" / "data").mkdir(parents=True)
    (tmp_path / "sst2" / "README.md").write_text("# SST-2\n\nconfig_name: default\n")
    for split in ("train", "validation"):
        pd.DataFrame(rows, columns=["sentence", "label"]).to_parquet(
            tmp_path / "sst2" / "data" / f"{split}-00000-of-00001.parquet")
    for folder in (tmp_path, tmp_path / "sst2"):
        same(glue.load("sst2", str(folder)), {"train": rows, "validation": rows})


def shards(folder: Path, split: str, count: int, missing: tuple[int, ...] = ()) -> list[tuple]:
    rows = rows_of("sst2", 40, 0)
    (folder / "sst2").mkdir(exist_ok=True)
    for number in range(count):
        part = pd.DataFrame(rows[number * 40 // count:(number + 1) * 40 // count], columns=["sentence", "label"])
        if number not in missing:
            part.to_parquet(folder / "sst2" / f"{split}-{number:05}-of-{count:05}.parquet")
    return rows


def test_shards_are_all_read_or_the_missing_one_is_named(tmp_path):
    rows = shards(tmp_path, "train", 3)
    shards(tmp_path, "validation", 1)
    same(glue.load("sst2", str(tmp_path)), {"train": rows, "validation": rows})
    (tmp_path / "sst2" / "train-00001-of-00003.parquet").unlink()
    assert "sst2/train-00001-of-00003.parquet is missing" in refused(tmp_path)
    tiny.write_readme(tmp_path, {"sst2": ("train", "validation")})  # `datasets` would read the two that are there
    assert "sst2/train-00001-of-00003.parquet is missing" in refused(tmp_path)


def test_a_split_that_is_missing_or_there_twice(tmp_path):
    rows = pd.DataFrame(rows_of("sst2", 30, 0), columns=["sentence", "label"])
    (tmp_path / "sst2").mkdir()
    rows.to_csv(tmp_path / "sst2" / "train.csv", index=False)
    assert "split 'validation' is missing; there are: sst2/ with train" in refused(tmp_path)
    rows.to_csv(tmp_path / "sst2" / "validation.csv", index=False)
    rows.to_parquet(tmp_path / "sst2" / "validation.parquet")
    assert "split 'validation' is there twice: validation.csv and validation.parquet" in refused(tmp_path)


@pytest.mark.parametrize("form, content, words", [
    ("parquet", b"no parquet", "sst2/validation.parquet cannot be read as parquet"),
    ("jsonl", b'{"sentence": "a", "label": 1}\n{"sentence": ', "sst2/validation.jsonl: line 2 is no JSON"),
    ("jsonl", b'{"sentence": "a", "label": 1}\n{"sentence": "b"}\n', "line 2 lacks 'label'; needed: sentence, label"),
    ("jsonl", b"[1, 2]", "line 1 lacks 'an object'"),
    ("json", b'[{"sentence": ', "cannot be read as json"),
    ("csv", b"text,label\na,1\n", "sst2/validation.csv: column 'sentence' is missing; there are: text, label"),
    ("csv", b"sentence,label\na,b,1\n", "line 2 has 3 cells"),
    ("csv", b"sentence,label\na,meh\n", "label 'meh' in line 2; needed: one of negative, positive, or its number"),
    ("csv", b"sentence,label\n", "split validation: no examples"),
    ("csv", b'sentence,label\n"a,1\nb,0\nc",1\nd,0\n', "line 2 looks like a row of its own"),
])
def test_a_file_that_does_not_fit_is_one_line(tmp_path, form, content, words):
    (tmp_path / "sst2").mkdir()
    pd.DataFrame(rows_of("sst2", 30, 0), columns=["sentence", "label"]).to_csv(tmp_path / "sst2/train.csv", index=False)
    (tmp_path / "sst2" / f"validation.{form}").write_bytes(content)
    assert words in refused(tmp_path)


def test_labels_in_words_are_the_tasks_however_they_are_spelt(tmp_path):
    (tmp_path / "rte").mkdir()
    spelt = ("Entailment", "not entailment", "entailment", "Not-Entailment")
    rows = [("a", "b", spelt[row % 4]) for row in range(20)]
    for split in ("train", "validation"):
        pd.DataFrame(rows, columns=["sentence1", "sentence2", "label"]).to_csv(
            tmp_path / "rte" / f"{split}.csv", index=False)
    assert glue.load("rte", str(tmp_path)).train.labels.tolist() == [0, 1] * 10


# ---------------------------------------------------------------- saved with save_to_disk, and classes by their names


def saved(path: Path, names: tuple[str, ...] | None = None, labels=(0, 1), splits=("train", "validation")) -> None:
    texts, _ = tiny.sentences(30, 0)
    rows = datasets.Dataset.from_dict({"sentence": texts, "label": [labels[row % len(labels)] for row in range(30)]})
    rows = rows.cast_column("label", datasets.ClassLabel(names=list(names))) if names else rows
    datasets.disable_progress_bars()
    datasets.DatasetDict(dict.fromkeys(splits, rows)).save_to_disk(str(path))


@pytest.mark.parametrize("names", [None, ("negative", "positive"), ("neg", "pos"), ("0", "1"), ("LABEL_0", "LABEL_1")])
def test_what_save_to_disk_wrote_is_read(tmp_path, names):
    saved(tmp_path / "sst2", names)
    for folder in (tmp_path, tmp_path / "sst2"):
        data = glue.load("sst2", str(folder))
        assert data.train.labels.tolist() == [0, 1] * 15 and data.source == str(folder)
        assert data.note == "sst2: read as saved by save_to_disk"


def test_splits_that_were_saved_one_by_one(tmp_path):
    saved(tmp_path / "all", splits=("train", "dev"))
    for split in ("train", "dev"):
        shutil.copytree(tmp_path / "all" / split, tmp_path / "sst2" / split)
    assert len(glue.load("sst2", str(tmp_path)).main_dev) == 30


def test_classes_in_another_order_are_put_in_the_tasks_by_name_and_it_is_said(tmp_path):
    saved(tmp_path / "sst2", ("positive", "negative"))
    data = glue.load("sst2", str(tmp_path))
    assert data.train.labels.tolist() == data.main_dev.labels.tolist() == [1, 0] * 15
    assert "labels are numbered positive, negative in the data; they were put in the task's order" in data.note


def test_three_classes_in_another_order_in_parquet_of_datasets(tmp_path):
    task, named = TASKS["mnli"], ["contradiction", "entailment", "neutral"]
    (tmp_path / "mnli").mkdir()
    for split in ("train", *task.dev):
        columns = tiny.table(task, 30, 1)
        rows = datasets.Dataset.from_dict(columns).cast_column("label", datasets.ClassLabel(names=named))
        rows.to_parquet(str(tmp_path / "mnli" / f"{split}-00000-of-00001.parquet"))
    right = [task.labels.index(named[label]) for label in columns["label"]]
    assert glue.load("mnli", str(tmp_path)).train.labels.tolist() == right
    tiny.write_readme(tmp_path, {"mnli": ("train", *task.dev)})
    data = glue.load("mnli", str(tmp_path))
    assert data.train.labels.tolist() == right and data.note.startswith("labels are numbered contradiction")


@pytest.mark.parametrize("names", [("bad", "good"), ("entailment", "not_entailment"), ("a", "b", "c")])
def test_classes_of_other_names_are_refused(tmp_path, names):
    saved(tmp_path / "sst2", names)
    assert f"its labels are called {', '.join(names)}; needed: negative, positive, in any order" in refused(tmp_path)


def test_hidden_labels_are_refused(tmp_path):
    saved(tmp_path / "sst2", ("negative", "positive"), labels=(-1,))
    assert "label -1 in row 0 is outside the range" in refused(tmp_path)


def test_what_is_missing_of_a_saved_set_is_named(tmp_path):
    saved(tmp_path / "sst2", splits=("train",))
    assert "split 'validation' is missing; there are: train" in refused(tmp_path)
    assert "was saved as one split; needed: train and validation" in refused(tmp_path / "sst2" / "train")
    saved(tmp_path / "two" / "sst2")
    (tmp_path / "two" / "sst2" / "validation" / "data-00000-of-00001.arrow").unlink()
    assert "sst2/validation/data-00000-of-00001.arrow is missing" in refused(tmp_path / "two")
    saved(tmp_path / "three" / "sst2")
    (tmp_path / "three" / "sst2" / "train" / "data-00000-of-00001.arrow").write_bytes(b"half")
    assert "sst2/train cannot be read as save_to_disk writes" in refused(tmp_path / "three")
    saved(tmp_path / "four" / "rte")
    info = tmp_path / "four" / "rte" / "train" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"config_name": "sst2"}))
    assert "is of task 'sst2', asked: 'rte'" in refused(tmp_path / "four", "rte")


def test_a_pointer_of_git_lfs_in_place_of_a_split(tmp_path):
    tiny.data_folder(tmp_path, ("sst2",))
    (tmp_path / "sst2" / "train-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "parquet cannot be read, it is only a pointer of Git LFS" in refused(tmp_path)


def test_text_that_is_damaged_in_the_middle_is_one_line(tmp_path):
    saved(tmp_path / "sst2")
    file = tmp_path / "sst2" / "validation" / "data-00000-of-00001.arrow"
    text = glue.load("sst2", str(tmp_path)).main_dev.texts[5][0].encode()
    file.write_bytes(file.read_bytes().replace(text, b"\xff" * len(text)))
    assert "split validation cannot be read" in refused(tmp_path)


def test_where_nothing_fits_it_is_said_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    told = refused(tmp_path, "rte")
    assert all(part in told for part in ("holds no task 'rte'", "README.md", "save_to_disk", "rte/train.*",
                                         "RTE/train.tsv", "there: notes.txt"))
    (tmp_path / "rte").mkdir()
    assert "there: rte/ with nothing" in refused(tmp_path, "rte")
    with pytest.raises(InputError, match="is not a folder; .* a file must end in .csv"):
        glue.load("rte", str(tmp_path / "notes.txt"))


# ---------------------------------------------------------------- a run on it


def test_a_run_on_glues_own_files_is_scored_again(tiny_model, tmp_path):
    from prune_core.evaluation import exact
    from prune_core.runs.settings import cut_of

    own_layout(tmp_path / "glue", "sst2")
    run = tiny.make_run(tiny.settings(tiny_model, tmp_path / "glue", compressions=(2.0,)), tmp_path / "runs", "own")
    assert run.is_glue and run.data == str(tmp_path / "glue")
    assert "SST-2: read as GLUE's own TSV files, never quoted" in run.about["notes"]
    assert exact.evaluate(run, "dense", cut_of(run, 0.0), threads=1)["score"] == run.dense_score
