"""Exact scores asked for and answered as JSON lines: streamed, cancelled, shared; with a real process and without."""

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
from prune_core.evaluation import dev_score, exact, serve
from prune_core.evaluation.dev_score import Running
from prune_core.evaluation.serve import Cores, ScoringProcess, Teller
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of

PATIENCE = 300.0  # seconds


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


@pytest.fixture
def copied(made, tmp_path) -> Run:
    """The same, with no scores and no Grams kept from before."""
    return tiny.unasked(made, tmp_path / "copied")


def asked(run: Run, number: int, threshold=0.8, **more) -> dict:
    return {"id": number, "run": str(run.path), "phase": "dense", "scope": "global", "threshold": threshold} | more


def answers(*lines: dict | str) -> list[dict]:
    """All that the scoring process says to these lines."""
    said: list[dict] = []
    scoring = ScoringProcess(said.append, threads=1)
    scoring.take([line if isinstance(line, str) else json.dumps(line) for line in lines])
    scoring.work()
    return said


# ---------------------------------------------------------------- the scoring process


def test_an_answer_is_that_of_evaluate_and_runs_up_to_it(made):
    said = answers(asked(made, 7, 0.83))
    assert {line["id"] for line in said} == {7} and said[0] == {"id": 7, "doing": "loading"}
    expected = exact.evaluate(made, "dense", cut_of(made, None, 0.83, scope="global"), threads=1)
    result = said[-1]["result"]
    wanted = {k: v for k, v in expected.items() if not k.startswith("seconds")}
    assert {k: v for k, v in result.items() if not k.startswith("seconds")} == wanted
    assert said[-2]["done"] == said[-2]["total"] == result["examples"] and said[-2]["score"] == result["score"]


def test_a_pause_is_used_to_measure_what_a_repair_needs(made, monkeypatch):
    monkeypatch.setattr(serve, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(Cores, "left", lambda self: os.cpu_count())
    said: list[dict] = []
    scoring = ScoringProcess(said.append, threads=1)
    worker = threading.Thread(target=scoring.work)
    worker.start()

    def ask(**more) -> dict:
        scoring._waiting.put(asked(made, len(said), 0.83, **more))
        end = time.monotonic() + PATIENCE
        while not (said and "result" in said[-1]):
            assert time.monotonic() < end
            time.sleep(0.01)
        return said.pop()["result"]

    ask()
    (bench,) = scoring._benches.values()
    end = time.monotonic() + PATIENCE
    while bench.inputs.known is None:  # nobody has asked for a repair
        assert time.monotonic() < end
        time.sleep(0.01)
    repaired = ask(repair=True)
    scoring._waiting.put(None)
    worker.join(PATIENCE)
    assert not any(line.get("doing") == "measuring inputs" for line in said)
    cut = cut_of(made, None, 0.83, scope="global", repaired=True)
    expected = exact.evaluate(made, "dense", cut, threads=1, fresh=True)
    assert repaired["score"] == expected["score"]


def test_as_many_threads_as_others_leave_cores_over(made, monkeypatch):
    clock = {"wall": 0.0, "idle": 0.0, "mine": 0.0}
    monkeypatch.setattr(Cores, "_now", lambda self: tuple(clock.values()))
    cores = Cores(4)

    def pass_(**seconds: float) -> int:
        for name, value in seconds.items():
            clock[name] += value
        return cores.left()

    assert pass_(wall=1, idle=4) == 4
    assert pass_(wall=2, idle=1, mine=6.8) == 4  # what this process uses itself is its own to use
    assert pass_(wall=2, idle=0, mine=4) == 2 and pass_(wall=0.1) == 2  # too short to say
    assert pass_(wall=1, mine=0.2) == 1 and pass_(wall=1, idle=2.6) == 3
    used: list[int] = []
    monkeypatch.setattr(serve.exact, "evaluate", lambda *asked, threads, **more: used.append(threads) or {})
    monkeypatch.setattr(Cores, "left", lambda self: 3)
    for threads in (0, 2):
        scoring = ScoringProcess(lambda said: None, threads)
        scoring.take([json.dumps(asked(made, 1))])
        scoring.work()
    assert used == [3, 2]


def test_weights_are_loaded_once(made):
    said = answers(asked(made, 1, 0.7), asked(made, 2, {"all": 0.9}))
    assert [line["id"] for line in said if line.get("doing") == "loading"] == [1]
    assert said[-1]["result"]["threshold"] == 0.9


def test_what_was_cancelled_is_not_computed(made):
    said = answers(asked(made, 1), {"cancel": 1}, asked(made, 2))
    assert said[0] == {"id": 1, "cancelled": True} and said[-1]["result"]


def test_a_cancellation_stops_a_score_on_its_way(made, monkeypatch):
    monkeypatch.setattr(dev_score, "FIRST", 2)  # so that a tiny set takes several batches
    said: list[dict] = []

    def say(line: dict) -> None:
        said.append(line)
        if "done" in line:
            scoring.take([json.dumps({"cancel": 3})])

    scoring = ScoringProcess(say, threads=1)
    scoring.take([json.dumps(asked(made, 3, 0.6123))])
    scoring.work()
    assert [line.get("done") for line in said] == [None, 2, None] and said[-1] == {"id": 3, "cancelled": True}


def test_a_repair_tells_what_it_does_and_how_far_it_is(copied):
    said = answers(asked(copied, 4, 0.7, repair=True))
    assert "result" in said[-1] and said[-1]["result"]["repaired"]
    for what, total in (("measuring inputs", 64), ("repairing", 12)):
        lines = [line for line in said if line.get("doing") == what]
        assert lines and {line["total"] for line in lines} == {total} and lines[-1]["done"] == total
        assert lines[-1]["seconds_left"] in (0.0, None) and "score" not in lines[0]
    again = answers(asked(copied, 5, 0.75, repair=True))
    assert "measuring inputs" not in [line.get("doing") for line in again], "they are kept on the disk"


def test_a_cancellation_stops_a_repair_on_its_way(copied):
    said: list[dict] = []

    def say(line: dict) -> None:
        said.append(line)
        if line.get("doing") == "measuring inputs":
            scoring.take([json.dumps({"cancel": 3})])

    scoring = ScoringProcess(say, threads=1)
    scoring.take([json.dumps(asked(copied, 3, 0.66, repair=True))])
    scoring.work()
    assert [line.get("doing") for line in said] == ["loading", "measuring inputs", None]
    assert said[-1] == {"id": 3, "cancelled": True}


def test_seconds_left_are_told_from_the_pace_of_what_is_being_done(monkeypatch):
    """Two of ten after 3 s of which the first took all there was before: 8 more at 3 s each."""
    clock, said = iter([0.0, 3.0, 6.0, 10.0, 12.0]), []
    monkeypatch.setattr(serve.time, "monotonic", lambda: next(clock))
    teller = Teller(said.append, 1, set(), lambda: None)
    for done in (1, 2, 3):
        teller.doing("repairing", done, 10)
    teller.running(Running(32, 872, 0.9, 0.8, 0.95))
    teller.running(Running(452, 872, 0.9, 0.8, 0.95))  # 420 in 2 s: the other 420 take as long
    assert [line["seconds_left"] for line in said] == [None, 24.0, 21.0, None, 2.0]
    assert said[-1] == {"id": 1, "done": 452, "total": 872, "seconds_left": 2.0, "score": 0.9, "low": 0.8, "high": 0.95}


@pytest.mark.parametrize("change, words", [
    ({"phase": "penalty-9x"}, "penalty-9x"), ({"run": "/nowhere"}, "nowhere"),
    ({"data": "/no/data"}, "/no/data"), ({"scope": "row"}, "row"),
    ({"threshold": {"all": -1.0}}, "threshold"), ({"threshold": "many"}, "")])
def test_bad_questions_are_answered_in_one_line_and_the_process_goes_on(made, change, words):
    said = answers(asked(made, 1) | change, "no json", "[1, 2]", asked(made, 2))
    errors = [line for line in said if "error" in line]
    assert [line["id"] for line in errors] == [1] and words in errors[0]["error"] and "\n" not in errors[0]["error"]
    assert said[-1]["id"] == 2 and said[-1]["result"]


# ---------------------------------------------------------------- its client

# One that follows orders: answers threshold t after t tenths of a second, and dies at -1
FAKE = """
import json, os, sys, threading, time, queue
cancelled, waiting = set(), queue.Queue()
def read():
    for line in sys.stdin:
        one = json.loads(line)
        cancelled.add(one["cancel"]) if "cancel" in one else waiting.put(one)
    os._exit(0)
threading.Thread(target=read, daemon=True).start()
say = lambda **line: print(json.dumps(line), flush=True)
print("a library says hello", flush=True)
for count in range(1, 100):
    one = waiting.get()
    seconds = one["threshold"]["all"]
    if seconds < 0:
        sys.exit(3)
    end, score = time.monotonic() + seconds, dict(done=5, total=10, score=0.5, low=0.1, high=0.9)
    while time.monotonic() < end and one["id"] not in cancelled:  # 600 s at most
        say(id=one["id"], **score)
        time.sleep(0.02)
    if one["id"] in cancelled:
        say(id=one["id"], cancelled=True)
    else:
        say(id=one["id"], result=dict(score=seconds, low=0, high=1, examples=10, count=count))
"""


@pytest.fixture
def client(tmp_path):
    (tmp_path / "scoring.py").write_text(FAKE)
    made = ScoreClient((sys.executable, str(tmp_path / "scoring.py")))
    yield made
    made.close()


def question(threshold: float, **more) -> Question:
    return Question(**{"run": "r", "stage": "dense", "cut": Cut("global", None, (("all", threshold),))} | more)


def until(client: ScoreClient, who: str, one: Question, holds):
    """The answer for which it holds, asked for over and over."""
    end = time.monotonic() + PATIENCE
    while not holds(answer := client.want(who, one)):
        assert time.monotonic() < end, f"no answer: {answer}"
        time.sleep(0.01)
    return answer


def ended(client: ScoreClient, who: str, one: Question):
    return until(client, who, one, lambda answer: answer.ended)


def test_equal_questions_are_computed_once(client):
    first, second = ended(client, "me", question(0.1)), ended(client, "you", question(0.1))
    assert first == second and first.result["count"] == 1 and first.score == 0.1
    assert ended(client, "me", question(0.0)).result["count"] == 2


def test_a_start_is_said_to_take_as_long_as_the_last_one(tmp_path):
    start = Start(tmp_path / "kept" / "first-score.json")
    assert start.left(50) is None
    start.begin(100)
    assert start.left(103) == FIRST_START - 3 and start.left(1000) == 1  # never nothing: it is still to come
    start.end(112)
    assert start.left(113) is None
    other = Start(tmp_path / "kept" / "first-score.json")
    other.begin(0)
    assert other.left(2) == 10


def test_the_running_score_is_seen(client):
    answer = until(client, "me", question(600), lambda answer: answer.doing == "scoring")
    assert (answer.done, answer.total, answer.score, answer.low, answer.high) == (5, 10, 0.5, 0.1, 0.9)


def test_a_newer_question_cancels_the_older_one(client):
    client.want("me", question(600))
    assert ended(client, "me", question(0.05)).score == 0.05


def test_who_leaves_waits_no_more(client):
    client.want("me", question(600))
    client.want("me too", question(600))
    client.leave("me")
    assert client.waiting() == 1, "another one waits for it"
    client.leave("me too")
    assert client.waiting() == 0 and ended(client, "you", question(0.05)).score == 0.05


def test_what_comes_before_a_score_is_told_with_its_time_left():
    from pages.shared.score_client import Answer, _after

    answer = _after(Answer(), {"doing": "repairing", "done": 12, "total": 36, "seconds_left": 1.5})
    assert (answer.doing, answer.done, answer.total, answer.seconds_left) == ("repairing", 12, 36, 1.5)
    answer = _after(answer, {"done": 32, "total": 872, "score": 0.9, "low": 0.8, "high": 1.0, "seconds_left": None})
    assert (answer.doing, answer.done, answer.score, answer.seconds_left) == ("scoring", 32, 0.9, None)
    known = _after(answer, {"result": {"score": 0.9, "low": 0.8, "high": 1.0, "examples": 872}})
    assert known.ended and _after(known, {"doing": "loading"}) is known


def test_nobody_cancels_what_another_still_wants(client):
    client.want("me", question(2.0))
    client.want("you", question(2.0))
    client.want("me", question(0.05))
    assert client.ahead(question(0.05)) == 1 and client.ahead(question(2.0)) == 0
    assert ended(client, "you", question(2.0)).result["count"] == 1
    assert ended(client, "me", question(0.05)).result["count"] == 2


def test_a_tab_that_was_closed_holds_nobody_up(client, monkeypatch):
    monkeypatch.setattr("pages.shared.score_client.LAPSE", 0.2)
    client.want("gone", question(600))
    time.sleep(0.3)
    assert ended(client, "me", question(0.0)).score == 0.0


def test_a_process_that_dies_is_told_and_started_again(client):
    failed = ended(client, "me", question(-1))
    assert failed.doing == "failed" and "code 3" in failed.error
    assert ended(client, "me", question(0.0)).doing == "done"
    assert client.failed_alike(question(0.3)) == failed.error
    assert not client.failed_alike(question(0.3, data="elsewhere"))
    client.forget_failures()
    assert not client.failed_alike(question(0.3))


def test_a_process_that_cannot_start_is_told():
    answer = ScoreClient(("/no/such/program",)).want("me", question(1))
    assert answer.doing == "failed" and "cannot be started" in answer.error


def test_the_real_process_answers(made, monkeypatch):
    real = ScoreClient()
    try:
        answer = ended(real, "me", Question(str(made.path), "dense", Cut("global", None, (("all", 0.77),))))
        assert answer.doing == "done", answer.error
        expected = exact.evaluate(made, "dense", cut_of(made, None, 0.77, scope="global"), threads=1)
        assert answer.score == expected["score"]
    finally:
        real.close()
