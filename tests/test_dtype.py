"""Scores in another arithmetic than fp32: under keys of their own, told as what they are, never taken for another."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from streamlit.testing.v1 import AppTest
from test_serve import answers, asked

from pages.explore.exact_score import _arithmetic
from pages.shared.score_client import Answer, Question, ScoreClient
from pages.shared.widgets import PRECISIONS
from prune_core import InputError, export
from prune_core.__main__ import main
from prune_core.cutting.cuts import Cut
from prune_core.evaluation import arithmetic, bench, exact, findings
from prune_core.evaluation.bench import Bench
from prune_core.execution import paths, whole
from prune_core.execution.paths import Choice
from prune_core.latency.profile import ASKED
from prune_core.runs import known
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.showing.report import write
from prune_core.showing.report.finding import ReportedSpeed, Request

CUT = Cut("global", None, {"all": 0.8})
ROOT = Path(__file__).resolve().parent.parent
OTHERS = {"bf16": "bf16 avx512", "int8": "int8 vnni", "auto": "int8 vnni"}


def choose(dtype: str, path: str | None = None, formats=None, device=None) -> Choice:
    """As on a machine that runs all three."""
    if paths.check(dtype) == "fp32":
        return Choice("fp32", "fp32", "fp32")
    path = path or OTHERS[dtype]
    return Choice(dtype, path.partition(" ")[0], path)


@pytest.fixture
def machine(monkeypatch):
    """A machine of which every other arithmetic turns the outputs of some sentences around, each of others."""
    def small_model(model, mask, dtype="fp32", path=None, *formats):
        small = whole.small_model(model, mask)
        small.choice = paths.choose(dtype, path)

        def turn(_model, _none, inputs, output):
            number = inputs["input_ids"].sum(1, keepdim=True)  # of a sentence, however it is padded
            turned = {"fp32": number < 0, "bf16": number % 5 == 0, "int8": number % 3 == 0}[small.choice.dtype]
            output.logits = torch.where(turned, -output.logits, output.logits)
            return output

        small.register_forward_hook(turn, with_kwargs=True)
        return small

    monkeypatch.setattr(paths, "choose", choose)
    monkeypatch.setattr(bench, "small_model", small_model)


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


@pytest.fixture
def run(made, tmp_path) -> Run:
    """The same, of which nothing is known."""
    copy = shutil.copytree(made.path, tmp_path / "runs" / "made", ignore=shutil.ignore_patterns("scores", known.FILE))
    return Run(copy)


def score(run: Run, dtype: str = "fp32", **more) -> dict:
    return exact.evaluate(run, "dense", CUT, threads=1, dtype=dtype, **more)


def no_computing(monkeypatch) -> None:
    def stream(*_):
        raise AssertionError("this score is known")

    monkeypatch.setattr(bench, "stream", stream)


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("order", [("fp32", "bf16", "int8"), ("int8", "bf16", "fp32")])
def test_a_score_is_never_taken_for_that_of_another_arithmetic(run, machine, monkeypatch, order):
    told = {dtype: score(run, dtype) for dtype in order}
    assert len({one["score"] for one in told.values()}) == 3
    files = sorted(path.name for path in (run.path / "scores").iterdir())
    assert [name.partition("-")[2].partition("-")[2] for name in files] == ["bf16-avx512.json", "int8-vnni.json", ""]
    mask, key = CUT.mask(run.ranking("dense"), run.layout), known.key(run, "dense", None)
    for dtype in order:
        assert known.find(run, key, mask, path=told[dtype]["executed"]["path"])["score"] == told[dtype]["score"]
    assert known.find(run, key, mask, path="bf16 amx") is None, "other kernels, other bits"
    no_computing(monkeypatch)
    assert [score(run, dtype)["score"] for dtype in order] == [told[dtype]["score"] for dtype in order]
    with pytest.raises(AssertionError, match="known"):
        score(run, "bf16", path="bf16 amx")


def test_fp32_is_kept_as_it_always_was(run, machine):
    told = score(run)
    (file,) = (run.path / "scores").iterdir()
    assert set(json.loads(file.read_bytes())) == {"scores", "low", "high", "examples"}
    (line,) = (run.path / known.FILE).read_text().splitlines()
    assert "path" not in line and "dtype" not in line
    assert (told["dtype"], told["executed"], told["changed"]) == (
        "fp32", {"dtype": "fp32", "path": "fp32", "why": ""}, None)


def test_auto_says_what_it_comes_to_and_shares_its_key(run, machine, monkeypatch):
    seen = []
    told = score(run, "auto", taken=seen.append)
    assert told["dtype"] == "auto" and told["executed"] == {"dtype": "int8", "path": "int8 vnni", "why": ""}
    assert [arithmetic.note(choice) for choice in seen] == ["auto was asked for, int8 (int8 vnni) is taken"]
    no_computing(monkeypatch)
    assert score(run, "int8")["score"] == told["score"]


def test_what_a_model_cannot_run_is_kept_as_what_it_ran(run, machine, monkeypatch):
    """The machine can, this model cannot: that is found as it is made, said, and kept as fp32."""
    usual, why = bench.small_model, "this architecture has no pass of its own"

    def refuses(model, mask, dtype="fp32", path=None, *formats):
        small = usual(model, mask)
        small.choice = Choice(dtype, "fp32", "fp32", why if dtype != "fp32" else "")
        return small

    monkeypatch.setattr(bench, "small_model", refuses)
    seen = []
    told = score(run, "bf16", taken=seen.append, compare=True)
    assert [choice.path for choice in seen] == ["bf16 avx512", "fp32"] and told["changed"] is None
    assert told["executed"] == {"dtype": "fp32", "path": "fp32", "why": why}
    no_computing(monkeypatch)
    assert score(run)["score"] == told["score"]
    with pytest.raises(AssertionError, match="known"):  # nothing stands there as a score in bf16
        score(run, "bf16")


@pytest.mark.parametrize("dtype", ["int4", "FP32", " "])
def test_an_unknown_arithmetic_is_one_line(made, dtype, tmp_path, capsys, monkeypatch):
    where = ["--runs-dir", str(made.path.parent), "--sparsity", "0.5"]
    for command in (["evaluate", "made", *where], ["export", "made", str(tmp_path / "out"), *where]):
        monkeypatch.setattr(sys, "argv", ["prune_core", *command, "--dtype", dtype])
        assert main() == 2
        said = capsys.readouterr().err.strip()
        assert "\n" not in said and "fp32, bf16, int8, auto" in said and repr(dtype) in said
    with pytest.raises(InputError, match="unknown"):
        score(made, dtype)


def test_the_pages_know_the_same_arithmetics():
    assert set(PRECISIONS) == set(ASKED)


# ---------------------------------------------------------------- what it changes


def test_it_is_counted_how_many_answers_are_others(run, machine, monkeypatch):
    told = score(run, "bf16", compare=True)
    there, mask = Bench(run, "dense"), CUT.mask(run.ranking("dense"), run.layout)
    plain, other = there.outputs(mask), there.outputs(mask, dtype="bf16")
    count = int((plain.argmax(1) != other.argmax(1)).sum())
    right = float((plain.argmax(1) == there.dev["validation"].labels).mean())
    assert told["changed"] == {"answers": count, "share": count / 24, "largest": None, "fp32": right} and 0 < count < 24
    no_computing(monkeypatch)
    assert score(run, "bf16")["changed"] == told["changed"], "kept with the score"
    assert score(run)["score"] == right, "and what was computed for it is kept as well"


def test_of_regression_it_is_the_largest_difference(tiny_model, tiny_data, tmp_path, machine):
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data, task="stsb"), tmp_path)
    there, mask = Bench(run, "dense"), CUT.mask(run.ranking("dense"), run.layout)
    changed = score(run, "int8", compare=True)["changed"]
    assert changed["answers"] is changed["share"] is None
    assert changed["largest"] == pytest.approx(np.abs(there.outputs(mask, dtype="int8") - there.outputs(mask)).max())
    assert changed["largest"] > 0


def test_without_another_pass_it_is_told_only_where_both_are_at_hand(run, machine):
    there = Bench(run, "dense")
    assert score(run, "bf16", bench=there)["changed"] is None
    score(run, bench=there)
    assert score(run, "bf16", bench=there)["changed"]["answers"] > 0
    for threshold in np.linspace(0.5, 0.7, bench.KEPT_ANSWERS):  # what a bench keeps of them is bounded
        exact.evaluate(run, "dense", Cut("global", None, {"all": float(threshold)}), threads=1, bench=there, fresh=True)
    assert len(there._answers) <= bench.KEPT_ANSWERS


def test_the_command_says_it_in_words(run, machine, capsys, monkeypatch):
    where = ["evaluate", "made", "--runs-dir", str(run.path.parent), "--threshold", "0.8", "--scope", "global",
             "--phase", "dense", "--threads", "1"]

    def said(*more: str):
        monkeypatch.setattr(sys, "argv", ["prune_core", *where, *more])
        assert main() == 0
        return capsys.readouterr()

    told = json.loads(said("--dtype", "bf16", "--json").out)
    line = said("--dtype", "bf16").out
    assert f"exact dev accuracy in bf16 (bf16 avx512): {told['score']:.4f}, fp32 {told['changed']['fp32']:.4f}" in line
    assert f"{told['changed']['answers']} of 24 answers differ" in line
    assert "note: auto was asked for, int8 (int8 vnni) is taken" in said("--dtype", "auto").err
    assert "accuracy in" not in said().out
    monkeypatch.setattr(paths, "choose", lambda dtype, *more: Choice(dtype, "fp32", "fp32", "no such kernels"))
    ended = said("--dtype", "bf16")
    assert "note: bf16 was asked for, fp32 is taken: no such kernels" in ended.err and "in fp32: " in ended.out


# ---------------------------------------------------------------- the scoring process and its client


def test_the_scoring_process_takes_an_arithmetic(run, machine):
    said = answers(asked(run, 1, dtype="bf16"), asked(run, 2, dtype="auto"), asked(run, 3), asked(run, 4, dtype="int4"))
    results = {line["id"]: line["result"] for line in said if "result" in line}
    assert {number: one["executed"]["path"] for number, one in results.items()} == {
        1: "bf16 avx512", 2: "int8 vnni", 3: "fp32"}
    assert [line["id"] for line in said if "executed" in line] == [2], "said where it is not what was asked for"
    assert results[1]["score"] == score(run, "bf16")["score"] != results[3]["score"]
    (error,) = [line["error"] for line in said if "error" in line]
    assert "'int4' is unknown" in error and "\n" not in error


def test_a_page_finds_what_is_known_by_what_the_process_has_run(run, machine):
    told = score(run, "bf16")
    question = Question(str(run.path), "dense", CUT, dtype="bf16")
    client = ScoreClient([sys.executable, "-c", "input(); input()"])  # a scoring process that never answers
    try:
        assert client.want("me", question).doing == "waiting", "by which path this machine runs it, it has not said"
        client._asked.clear()
        client._executed[str(run.path), "dense", "bf16", CUT.formats] = told["executed"]
        answer = client.want("me", question)
        assert (answer.doing, answer.score, answer.executed) == ("done", told["score"], told["executed"])
        assert client.want("you", Question(str(run.path), "dense", CUT)).doing == "waiting"  # in fp32 it is not known
    finally:
        client.close()


FAKE = """
import json, sys
for line in sys.stdin:
    one = json.loads(line)
    if "run" in one:
        ran = dict(dtype=one["dtype"], path=one["dtype"] + " path", why="")
        result = dict(score=0.5, low=0, high=1, examples=9, executed=ran)
        print(json.dumps(dict(id=one["id"], result=result)), flush=True)
"""


def test_the_question_is_put_with_its_arithmetic_and_the_path_is_learnt():
    client = ScoreClient([sys.executable, "-c", FAKE])
    question = Question("r", "dense", CUT, dtype="int8")
    try:
        while not (answer := client.want("me", question)).ended:
            pass
        ran = client._executed["r", "dense", "int8", CUT.formats]
        assert answer.executed["dtype"] == "int8" and ran["path"] == "int8 path"
    finally:
        client.close()


@pytest.mark.parametrize("dtype, executed, words", [
    ("fp32", {"dtype": "fp32", "path": "fp32", "why": ""}, ""),
    ("bf16", None, " in bf16"),
    ("bf16", {"dtype": "bf16", "path": "bf16 amx", "why": ""}, " in bf16"),
    ("auto", {"dtype": "int8", "path": "int8 vnni", "why": ""}, " in int8"),
    ("bf16", {"dtype": "fp32", "path": "fp32", "why": "no kernels"}, " in fp32 instead of bf16 (no kernels)")])
def test_explore_says_the_arithmetic_of_a_score(dtype, executed, words):
    assert _arithmetic(Question("r", "dense", CUT, dtype=dtype), Answer(executed=executed)) == words


# ---------------------------------------------------------------- the report and the card


def test_a_report_says_in_which_arithmetic_its_numbers_are(run, machine, monkeypatch):
    timing = {"threads": 2, "machine": {"cpu": "a processor"}, "rivals_ms": {"torch fp32": 30.0, "torch bf16": 25.0},
              "compact_ms": 10.0, "best_rival": "torch bf16", "speedup_over_best": 2.5, "load": None,
              "executed": {"dtype": "bf16", "path": "bf16 avx512", "why": ""}}
    timed = []
    monkeypatch.setattr(findings, "measure_in_turn", lambda *_, dtype, **more: timed.append(dtype) or [timing])
    settings = [Setting("a", run.saved("dense"), CUT)]
    (one,) = findings.find(run, settings, dtype="bf16")
    assert timed == ["bf16"] and one.score.value == score(run, "bf16")["score"]
    assert one.score.arithmetic == one.speed.arithmetic == "bf16 (bf16 avx512)"
    after, before = (Bench(run, "dense").outputs(one.mask, dtype=dtype).argmax(1) for dtype in ("bf16", "fp32"))
    assert one.flips.changed >= (after != before).any()
    request = Request(audience="technical", dtype="bf16")
    for form in (write.html, write.markdown):
        text = form(run, [one], request, date(2026, 11, 21)).replace("\\", "")
        assert "Exact scores are in bf16 (bf16 avx512). Measured speedups are in bf16 (bf16 avx512)." in text
        assert "compact model in bf16 (bf16 avx512) against the dense one in torch bf16" in text
        assert "all examples, in bf16 (bf16 avx512)" in text
        assert text.count("--dtype bf16") == 1 + (form is write.markdown)
    plain = findings.Finding(settings[0], one.mask, findings.exact(run, settings[0], one.mask, _benches(run))[0],
                             ReportedSpeed(2.0, findings.BATCH, 2, "a processor", 20.0, 10.0), None, "none")
    assert "bf16" not in write.markdown(run, [plain], Request(audience="technical"), date(2026, 11, 21))


def _benches(run: Run):
    return findings._Benches(run, None)


def test_the_live_map_of_a_report_shows_its_score_as_what_it_is(run, machine):
    setting = Setting("a", run.saved("dense"), CUT)
    mask = setting.mask(run)
    for dtype, said in (("bf16", "bf16"), ("fp32", None)):
        told = findings.exact(run, setting, mask, _benches(run), dtype)[0]
        header = write._header(run, findings.Finding(setting, mask, told, None, None), None, dtype)
        (answer,) = header["answers"]
        assert (header["dtype"], answer["dtype"], answer["arithmetic"]) == (dtype, dtype, said)


def test_the_card_says_in_which_arithmetic_its_score_is(run, machine, tmp_path):
    tensors = []
    for dtype, words in (("bf16", "in bf16 (bf16 avx512) |"), ("fp32", "in fp32 |")):
        seen = []
        told = export.hf(export.take(run, "dense", CUT, dtype=dtype, taken=seen.append), tmp_path / dtype)
        assert told["dtype"] == dtype and told["score"] == score(run, dtype)["score"] and len(seen) == 1
        card = (tmp_path / dtype / "README.md").read_text()
        assert f"{told['score']:.4f}" in card and words in card
        tensors.append((tmp_path / dtype / "model.safetensors").read_bytes())
    assert tensors[0] == tensors[1]


# ---------------------------------------------------------------- Explore


class Client:
    """Answers at once, and keeps what it was asked."""

    def __init__(self):
        self.asked: list[Question] = []

    def want(self, who: str, question: Question) -> Answer:
        self.asked.append(question)
        ran = {"dtype": question.dtype, "path": question.dtype, "why": ""}
        result = {"score": 0.75, "low": 0.5, "high": 0.9, "examples": 24, "seconds": 0.1, "sparsity": 0.3,
                  "executed": ran}
        return Answer("done", 24, 24, 0.75, 0.5, 0.9, result, executed=ran)

    def waiting(self) -> int:
        return 0

    def failed_alike(self, question: Question) -> str:
        return ""

    def leave(self, who: str) -> None:
        pass

    def forget_failures(self) -> None:
        pass


def explored(run: Run, monkeypatch, **address: str) -> tuple[AppTest, Client]:
    """Explore on this run, opened by a link."""
    from pages.shared import loaders

    client = Client()
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(run.path.parent))
    monkeypatch.setattr(loaders, "score_client", lambda: client)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    for name, value in ({"run": run.name, "at": "dense", "cut": "matrix@0.3"} | address).items():
        app.query_params[name] = value
    app.session_state["drawn"] = True
    app.run()
    app.switch_page("pages/2_Explore.py").run()
    assert not app.exception, app.exception
    return app, client


def test_explore_asks_in_fp32_until_another_precision_is_chosen_for_it(run, monkeypatch):
    app, client = explored(run, monkeypatch)
    assert client.asked[-1].dtype == "fp32"
    app.session_state["dtype"] = "bf16"  # the precision of the speedup
    app.run()
    assert client.asked[-1].dtype == "fp32", "the exact score stays what it is"
    choice = app.button_group(key="score dtype")
    assert [one.content for one in choice.proto.options] == ["auto", "fp32", "bf16", "int8"]


def test_a_link_asks_for_its_arithmetic_and_the_sentence_says_it(run, monkeypatch):
    app, client = explored(run, monkeypatch, **{"score dtype": "bf16"})
    assert client.asked[-1].dtype == "bf16"
    assert any("accuracy in bf16 **0.7500**" in one.value for one in app.markdown)
    assert any("fp32 arithmetic" in one.value for one in app.caption)
    _, other = explored(run, monkeypatch, **{"score dtype": "nonsense"})
    assert other.asked[-1].dtype == "fp32"
