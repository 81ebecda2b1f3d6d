"""The scoring process where something goes wrong: in a pause, at its start, between two of its lives."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import pytest
import tiny

from pages.shared.score_client import FIRST_START, Question, ScoreClient, Start
from prune_core.cutting.cuts import Cut
from prune_core.evaluation import serve
from prune_core.evaluation.serve import Cores, ScoringProcess
from prune_core.methods.repair import Collector
from prune_core.runs.run import Run

PATIENCE = 100.0  # seconds


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


def idle(made: Run, monkeypatch, until) -> bool:
    """Whether a second question is answered after a pause that lasts until this holds."""
    monkeypatch.setattr(serve, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(Cores, "left", lambda self: os.cpu_count())
    said: list[dict] = []
    scoring = ScoringProcess(said.append, threads=1)
    worker = threading.Thread(target=scoring.work, daemon=True)
    worker.start()
    question = {"run": str(made.path), "phase": "dense", "scope": "global", "threshold": 0.83}
    scoring._waiting.put(question | {"id": 1})
    end = time.monotonic() + PATIENCE
    while not until(scoring) and worker.is_alive():
        assert time.monotonic() < end
        time.sleep(0.02)
    scoring.take([json.dumps(question | {"id": 2})])
    worker.join(PATIENCE)
    return any(line["id"] == 2 and "result" in line for line in said)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_fails_in_a_pause_ends_no_process_and_is_tried_once(made, monkeypatch):
    tried: list[int] = []

    def add(self, inputs):
        tried.append(1)
        raise RuntimeError("no memory left")

    monkeypatch.setattr(Collector, "add", add)
    pauses = iter(range(10))
    assert idle(made, monkeypatch, lambda scoring: tried and next(pauses) == 9) and len(tried) == 1


def test_nothing_large_is_measured_unasked(made, monkeypatch):
    looked: list[int] = []
    monkeypatch.setattr(serve, "PREPARED_BYTES", 1000)
    monkeypatch.setattr(Collector, "add", lambda self, inputs: pytest.fail("measured"))
    prepare = ScoringProcess._prepare
    monkeypatch.setattr(ScoringProcess, "_prepare", lambda self: looked.append(prepare(self)))
    assert idle(made, monkeypatch, lambda scoring: scoring._benches and looked)


# Fails at once where the threshold is 0, never answers at 1, ends at 2 without a word
FAKE = """
import json, sys
for line in sys.stdin:
    one = json.loads(line)
    if "cancel" in one:
        print(json.dumps({"id": one["cancel"], "cancelled": True}), flush=True)
    elif one["threshold"]["all"] == 0:
        print(json.dumps({"id": one["id"], "error": "no data"}), flush=True)
    elif one["threshold"]["all"] == 2:
        sys.exit(3)
"""


def question(threshold: float) -> Question:
    return Question("r", "dense", Cut("global", None, (("all", threshold),)))


@pytest.fixture
def client(tmp_path):
    (tmp_path / "scoring.py").write_text(FAKE)
    made = ScoreClient((sys.executable, str(tmp_path / "scoring.py")))
    made._start = Start(tmp_path / "first-score.json")
    yield made
    made.close()


def wait(holds) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("given_up", [False, True])
def test_a_start_without_a_score_says_nothing_of_the_next_one(client, given_up):
    """Else a folder that was given an hour later would make the next start take two minutes, it is said."""
    assert client.want("me", question(float(given_up))).seconds_left > FIRST_START - 2
    if given_up:
        client.leave("me")
    wait(lambda: client._start.left(time.monotonic()) is None)
    assert not client._start._file.exists()


def test_what_an_ended_process_was_asked_has_failed_though_another_has_begun(client, monkeypatch):
    """The new one may be started before the reader of the old one has seen its end."""
    held, read = threading.Event(), ScoreClient._read
    monkeypatch.setattr(ScoreClient, "_read", lambda self, process: (held.wait(PATIENCE), read(self, process)))
    client.want("me", question(2))
    first = client._process
    first.wait(60)
    client.want("you", question(1))
    assert client._process is not first
    held.set()
    wait(lambda: client.want("me", question(2)).doing == "failed")
    assert client.want("you", question(1)).doing == "waiting"


def test_what_was_known_before_holds_up_no_other_question(client, monkeypatch):
    """It is asked all the same, later, for the weights to be loaded; a newer question does not wait for it."""
    sent, send = [], ScoreClient._send
    known = {"score": 0.9, "low": 0.8, "high": 1.0, "examples": 872}
    monkeypatch.setattr("pages.shared.score_client.known_before",
                        lambda one, ran: known if one in (question(1), question(5)) else None)
    monkeypatch.setattr(ScoreClient, "_send", lambda self, line: sent.append(line) or send(self, line))
    assert client.want("me", question(1)).doing == "done" and not sent  # the page comes first
    client.want("me", question(3))
    assert client.want("me", question(5)).doing == "done"  # a process is there now: it is asked at once
    asked = [line["id"] for line in sent if "run" in line]
    assert len(asked) == 2
    client.want("me", question(7))
    assert {"cancel": asked[1]} in sent and client.want("me", question(1)).doing == "done"
