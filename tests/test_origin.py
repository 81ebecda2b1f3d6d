"""A run and its checkpoint: changed, moved, gone, or carried along to another machine."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

from prune_core import InputError, export
from prune_core.cutting.cuts import Cut
from prune_core.evaluation import weights
from prune_core.evaluation.exact import evaluate
from prune_core.runs import archive, places, shelf
from prune_core.runs.config import rooted
from prune_core.runs.data import data_of
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.training import session

CUT = Cut("matrix", 0.4)


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def table(tmp_path) -> Path:
    texts, labels = tiny.sentences(60, 3)
    lines = [f"{text},{('bad', 'good')[label]}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "own.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return tmp_path / "own.csv"


@pytest.fixture
def run(model, table, tmp_path) -> Run:
    session.start(tiny.settings(model, table), tmp_path / "runs", "one", "command", tiny.silent)
    return Run(tmp_path / "runs" / "one")


def score(run: Run) -> float:
    return evaluate(run, "retrain-3x", CUT, fresh=True)["score"]


def refused(call, kind: type[Exception] = RunError) -> str:
    with pytest.raises(kind) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- the folder changes


def other_weights(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][3] += 0.5
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def other_config(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))


def other_tokenizer(model: Path) -> None:
    said = json.loads((model / "tokenizer.json").read_text())
    vocabulary = said["model"]["vocab"]
    vocabulary["fine"], vocabulary["dull"] = vocabulary["dull"], vocabulary["fine"]
    (model / "tokenizer.json").write_text(json.dumps(said))


@pytest.mark.parametrize("change,part", [(other_weights, "frozen tensors"), (other_config, "config.json"),
                                         (other_tokenizer, "tokenizer")])
def test_a_checkpoint_that_has_changed_is_never_mixed_in(run, model, change, part):
    score(run)
    change(model)
    for call in (score, lambda run: weights.encoder_of(run, "dense", 2), lambda run: export.take(run, "dense", CUT)):
        assert f"has changed since the run was made ({part})" in refused(lambda call=call: call(run))


@pytest.mark.parametrize("change", [
    lambda model: (model / "README.md").write_text("new"),
    lambda model: (model / "eval_results.txt").write_text("accuracy = 0.9"),
    lambda model: (model / "config.json").write_text(json.dumps(
        json.loads((model / "config.json").read_text()) | {"transformers_version": "4.1", "dtype": "float16"})),
    lambda model: (model / "training_args.bin").write_bytes(b"x")])
def test_what_does_not_change_the_model_may_change(run, model, change):
    before = score(run)
    change(model)
    assert score(run) == before


def test_one_that_is_trained_on_in_place_is_told_by_a_run_that_took_no_checkpoint_yet(run, model):
    """Before its first checkpoint a run begins again from the folder: all of its tensors must be as they were."""
    assert refused(lambda: resumed_anew(run, model)).count("(tensors)") == 1


def resumed_anew(run: Run, model: Path) -> None:
    (run.path / "result.json").unlink()
    (run.path / "checkpoint.safetensors").unlink(missing_ok=True)
    tensors = load_file(model / "model.safetensors")
    tensors["bert.encoder.layer.0.output.dense.weight"] += 0.1
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    session.resume(Run(run.path), tiny.silent)


def test_another_checkpoint_in_its_place(run, model, tmp_path):
    shutil.rmtree(model)
    tiny.checkpoint(model, seed=9)
    assert "has changed" in refused(lambda: score(run))


# ---------------------------------------------------------------- the folder moves


def test_a_checkpoint_that_is_gone_or_moved(run, model, tmp_path):
    before = score(run)
    moved = model.rename(tmp_path / "elsewhere")
    assert "is not there; if it was moved: python -m prune_core relocate one FOLDER" in refused(lambda: score(run))
    tiny.checkpoint(tmp_path / "another", seed=9)
    assert "is not the checkpoint of run 'one'" in refused(lambda: weights.relocate(run, tmp_path / "another"))
    assert weights.relocate(run, moved) == str(moved) and score(run) == before
    assert refused(lambda: weights.relocate(run, tmp_path / "nothing"), InputError)


def test_runs_of_before_digests_were_kept_are_read_and_not_relocated(run, tmp_path):
    about = {key: value for key, value in run.about.items() if key not in ("checkpoint", "commit", "loading")}
    (run.path / "run.json").write_text(json.dumps(about))
    old = Run(run.path)
    assert score(old) and "before digests were kept" in refused(lambda: weights.relocate(old, tmp_path))


def test_relative_paths_are_kept_whole(model, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = replace(tiny.settings(Path("model"), Path("own.csv")))
    session.start(asked, tmp_path / "runs", "one", "command", tiny.silent)
    monkeypatch.chdir("/")
    run = Run(tmp_path / "runs" / "one")
    assert (run.config.model, run.data) == (str(model), str(table)) and score(run)


def test_only_what_is_on_the_disk_becomes_a_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    config = tiny.settings(Path("~/m"), Path("nyu-mll/glue"))
    assert (rooted(config).model, rooted(config).data) == (str(tmp_path / "m"), "nyu-mll/glue")
    assert rooted(replace(config, model="minilm")).model == "minilm"


# ---------------------------------------------------------------- to another machine


@pytest.fixture
def packed(run, tmp_path) -> Path:
    archive.write(run, tmp_path / "one.zip", lambda folder: weights.write_checkpoint(run, folder))
    return tmp_path / "one.zip"


def test_a_packed_run_needs_neither_checkpoint_nor_table_where_it_goes(run, packed, model, table, tmp_path):
    before = score(run)
    model.rename(tmp_path / "gone")
    table.unlink()
    archive.read(packed, tmp_path / "there", "two")
    there = shelf.find("two", tmp_path / "there")
    assert score(there) == before and there.stages == run.stages and there.about["name"] == "two"
    taken = export.take(there, "retrain-3x", CUT)
    export.hf(taken, tmp_path / "model-to-go")
    assert evaluate(there, "dense", replace(CUT, repaired=True))["score"]
    assert weights.checkpoint_of(there, 2)  # with no stage asked for


def test_it_carries_no_trained_tensor_twice_and_nothing_of_this_machine(run, packed):
    with zipfile.ZipFile(packed) as file:
        names = {name.removeprefix("one/") for name in file.namelist()}
    assert {"run.json", "weights/dense.safetensors", "checkpoint/config.json", "data/own.csv"} <= names
    assert not {"lock", "status.json", "checkpoint.safetensors"} & names


def test_a_run_that_was_unpacked_is_packed_again_with_the_table_that_it_carries(run, packed, table, tmp_path):
    archive.read(packed, tmp_path / "there", "two")
    table.write_text("text,label\nanother,0\n")  # of the same name, where it goes
    there = shelf.find("two", tmp_path / "there")
    assert score(there)
    archive.write(there, tmp_path / "two.zip", None)
    with zipfile.ZipFile(tmp_path / "two.zip") as file:
        assert file.namelist().count("two/data/own.csv") == 1 and b"another,0" not in file.read("two/data/own.csv")


def test_a_run_is_not_packed_without_its_table_or_with_another(run, table, tmp_path):
    before = table.read_bytes()
    table.write_text("text,label\nanother,0\n")
    assert "has changed since" in refused(lambda: archive.write(run, tmp_path / "x.zip", None))
    table.unlink()
    assert "put the table back" in refused(lambda: archive.write(run, tmp_path / "x.zip", None))
    assert "give --data FILE" in refused(lambda: score(run))
    for name in ("elsewhere", "own"):
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / f"{name}.csv").write_bytes(before)
    assert data_of(run, str(tmp_path / "moved" / "own.csv")).main_dev
    assert "called 'own.csv' as it was" in refused(lambda: data_of(run, str(tmp_path / "moved" / "elsewhere.csv")),
                                                   InputError)


def test_what_is_there_is_not_written_over(run, packed, tmp_path):
    assert "is there already" in refused(lambda: archive.write(run, packed, None), InputError)
    assert "there is a run 'one' already" in refused(lambda: archive.read(packed, tmp_path / "runs"), InputError)


@pytest.mark.parametrize("names", [["one/run.json", "../evil"], ["/evil"], ["one/run.json", "two/run.json"], ["x"], []])
def test_no_file_leads_out_of_its_folder(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        for name in names:
            file.writestr(name, "{}")
    refused(lambda: archive.read(tmp_path / "bad.zip", tmp_path / "there"), InputError)
    assert not (tmp_path / "evil").exists() and not list((tmp_path / "there").glob("*"))


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"PK" + bytes(500)])
def test_a_damaged_file_is_one_line(packed, tmp_path, damage):
    packed.write_bytes(damage(packed.read_bytes()))
    assert "needed: a file that pack wrote" in refused(lambda: archive.read(packed, tmp_path / "there"), InputError)
    assert not (tmp_path / "there").exists() or not list((tmp_path / "there").iterdir())


def test_a_recorded_run_takes_its_checkpoint_along_with_its_weights(run, model, table, tmp_path, monkeypatch):
    from prune_core.runs import pack

    monkeypatch.setattr(places, "RECORDED", tmp_path / "recorded")
    monkeypatch.setattr(pack, "PROJECT", tmp_path)
    answer = pack.pack(run, "ships", ["retrain-3x"], "own.csv", weights.write_weights,
                       lambda folder: weights.write_checkpoint(run, folder))
    before = score(run)
    model.rename(tmp_path / "gone")
    there = Run(tmp_path / "recorded" / "ships")
    assert answer["run"] == "ships"
    assert evaluate(there, "retrain-3x", CUT, str(table))["score"] == before
