"""A run that is trained in a notebook: paused, stopped, taken up again, and what it refuses, in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny

from prune_core import InputError, prune
from prune_core.runs.run import Run
from prune_core.training import session


@pytest.fixture(scope="module")
def asked(tiny_model, tiny_data):
    return tiny.settings(tiny_model, tiny_data)


def test_a_stopped_training_goes_on_to_the_numbers_of_one_that_never_stopped(asked, tmp_path):
    view, seen = prune(asked, run="a", runs_dir=tmp_path), []
    view.training.pause()
    view.observe(lambda change: seen.append(change["new"]), "_training")
    again = prune(asked, run="a", runs_dir=tmp_path)  # the cell is run again: another map of the same training
    assert again.training is view.training and again.training.alive
    with pytest.raises(InputError, match="run 'a' is being trained in this kernel"):
        prune(asked, run="b", runs_dir=tmp_path)
    view.training.stop()
    with pytest.raises(InputError, match="run 'a' was stopped; the same prune"):
        view.training.wait()
    view = prune(asked, run="a", runs_dir=tmp_path)
    result = view.training.wait()
    whole = session.start(asked, tmp_path, "whole", "a test", tiny.silent)
    assert [p["score_retrained"] for p in result["points"]] == [p["score_retrained"] for p in whole["points"]]
    assert view.at == "retrain-3x" and view.run.with_norms == Run(tmp_path / "a").with_norms
    assert view._training["ended"] and view._training["words"].startswith("Complete: dense")
    with pytest.raises(InputError, match="run 'a' is there with other settings"):
        prune(replace(asked, seed=3), run="a", runs_dir=tmp_path)


def test_the_practice_set_never_stands_in_for_what_was_asked(tiny_model, tmp_path, no_hub):
    with pytest.raises(InputError, match='give data=FOLDER.*or data="practice" to train on that'):
        prune(model=str(tiny_model), task="rte", preset="quick", run="q", runs_dir=tmp_path)


@pytest.mark.parametrize(("settings", "words"), [
    ({"tsk": "sst2"}, "setting 'tsk' is unknown; needed: one of"), ({"task": "nope"}, "task 'nope' is unknown"),
    ({"method": "zzz"}, "method 'zzz' is unknown; one of"), ({"data": "/nowhere"}, "data '/nowhere' is not a folder")])
def test_what_cannot_be_trained_is_one_line(settings, words, tiny_model, tmp_path):
    with pytest.raises(InputError, match=words) as raised:
        prune(model=str(tiny_model), run="q", runs_dir=tmp_path, **settings)
    assert "\n" not in str(raised.value) and not (tmp_path / "q").exists()
