"""Exact scores from before: found again for the same weights, sentences and mask, and for no others."""

from __future__ import annotations

import shutil
import sys

import pytest
import tiny

from pages.shared.score_client import Question, ScoreClient
from prune_core.cutting.cuts import Cut
from prune_core.evaluation import exact
from prune_core.runs import known
from prune_core.runs.run import Run

CUT = Cut("global", None, {"all": 0.83})


@pytest.fixture(scope="module")
def scored(tiny_model, tiny_data, tmp_path_factory) -> tuple[Run, dict]:
    """A run, and the exact score of CUT, computed."""
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "scored")
    return run, exact.evaluate(run, "dense", CUT, threads=1)


def found(run: Run, cut: Cut = CUT, data: str | None = None) -> dict | None:
    key, mask = known.key(run, "dense", data, cut.repaired), cut.mask(run.ranking("dense"), run.layout)
    return known.find(run, key, mask, cut.repaired)


def test_what_was_computed_is_found_to_the_last_digit(scored):
    run, told = scored
    assert found(run) == {name: told[name] for name in known.NUMBERS}


def test_another_mask_or_a_repair_is_not_known(scored):
    run, _ = scored
    assert found(run, Cut("global", None, {"all": 0.84})) is None
    assert found(run, Cut("global", None, {"all": 0.83}, repaired=True)) is None


def test_the_same_sentences_elsewhere_are_the_same_and_others_are_not(scored, tiny_data, tmp_path):
    run, told = scored
    again = shutil.copytree(tiny_data, tmp_path / "again")
    assert found(run, data=str(again))["score"] == told["score"]
    task = run.task
    split = tiny.table(tiny.TASKS[task], 24, seed=99)
    tiny.write_split(again, task, "validation", split)
    assert known.key(run, "dense", str(again)) not in (None, known.key(run, "dense", None))
    assert found(run, data=str(again)) is None and found(run, data=str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize("changed", ["weights/dense.safetensors", "checkpoint"])
def test_other_weights_or_another_checkpoint_are_not_known(scored, changed, tiny_model, tmp_path):
    run, _ = scored
    copy = shutil.copytree(run.path, tmp_path / "runs" / run.name)
    if changed == "checkpoint":
        moved = shutil.copytree(tiny_model, tmp_path / "model")
        (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
        (copy / "checkpoint.json").write_text(f'{{"folder": "{moved}"}}')
    else:
        other = next(path for path in (copy / "weights").iterdir() if path.stem != "dense")
        shutil.copyfile(other, copy / changed)
    assert known.key(Run(copy), "dense", None) not in (None, known.key(run, "dense", None))
    assert found(Run(copy)) is None


def test_a_repair_is_of_its_training_sentences_too(scored, tiny_data, tmp_path):
    run, _ = scored
    cut = Cut("global", None, {"all": 0.83}, repaired=True)
    told = exact.evaluate(run, "dense", cut, threads=1)
    again = shutil.copytree(tiny_data, tmp_path / "again")
    assert found(run, cut, str(again))["score"] == told["score"]
    tiny.write_split(again, run.task, "train", tiny.table(tiny.TASKS[run.task], 64, seed=77))
    assert found(run, cut, str(again)) is None, "the same dev sentences, but another repair"
    assert found(run, CUT, str(again)) is not None


def test_a_column_that_is_no_text_breaks_no_page(scored, tiny_data, tmp_path):
    run, _ = scored
    again = shutil.copytree(tiny_data, tmp_path / "again")
    split = tiny.table(tiny.TASKS[run.task], 24, seed=1)
    column = tiny.TASKS[run.task].columns[0]
    tiny.write_split(again, run.task, "validation", split | {column: [text.encode() for text in split[column]]})
    assert known.key(run, "dense", str(again)) is None


def test_a_run_made_anew_under_the_same_name_is_asked_anew(scored, tmp_path):
    run, told = scored
    copy = shutil.copytree(run.path, tmp_path / run.name)
    client, question = ScoreClient([sys.executable, "-c", "input(); input()"]), Question(str(copy), "dense", CUT)
    try:
        assert client.want("me", question).score == told["score"]
        other = next(path for path in (copy / "weights").iterdir() if path.stem != "dense")
        shutil.copyfile(other, copy / "weights" / "dense.safetensors")
        assert client.want("me", question).doing == "waiting"
    finally:
        client.close()


def test_a_page_is_answered_before_any_model_is_loaded(scored):
    run, told = scored
    client = ScoreClient([sys.executable, "-c", "input(); input()"])  # a scoring process that never answers
    try:
        answer = client.want("me", Question(str(run.path), "dense", CUT))
        assert (answer.doing, answer.score, answer.low) == ("done", told["score"], told["low"])
        other = Question(str(run.path), "dense", Cut("global", None, {"all": 0.9}))
        assert client.want("me", other).doing == "waiting"
    finally:
        client.close()
