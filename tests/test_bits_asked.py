"""What stays in few bits, asked for: as questions to the scoring process, as settings, on the command line."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import pytest
import tiny

from pages.shared.score_client import Question, ScoreClient
from prune_core import InputError
from prune_core.__main__ import main
from prune_core.cutting.cuts import Cut
from prune_core.evaluation import exact, serve
from prune_core.precision.formats import parse
from prune_core.precision.storage import storage
from prune_core.runs import settings
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting

CUT = Cut("matrix", 0.3)


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


@pytest.fixture
def copied(made, tmp_path) -> Run:
    """The same, with no scores and no Grams kept from before."""
    return tiny.unasked(made, tmp_path / "copied")


# ---------------------------------------------------------------- asked for


def ask(run: Run, number: int, **more) -> dict:
    return {"id": number, "run": str(run.path), "phase": "dense", "scope": "global", "threshold": 0.8} | more


def answers(*lines: dict, say=None) -> list[dict]:
    """All that the scoring process says; `say` is told of each line as it comes."""
    said: list[dict] = []

    def told(line: dict) -> None:
        said.append(line)
        if say:
            say(scoring, line)

    scoring = serve.ScoringProcess(told, 1)
    scoring.take([json.dumps(line) for line in lines])
    scoring.work()
    return said


def test_a_question_with_formats_is_answered_as_evaluate_does(made):
    said = answers(ask(made, 1, formats="4/2:4", repair=True), ask(made, 2, formats="5:4"), ask(made, 3, formats="8"))
    cut = settings.cut_of(made, None, 0.8, "global", repaired=True, formats="4/2:4")
    expected = exact.evaluate(made, "dense", cut, threads=1)
    results = {line["id"]: line["result"] for line in said if "result" in line}
    assert results[1]["score"] == expected["score"] and results[1]["bytes"] == expected["bytes"]
    assert [line["error"] for line in said if "error" in line and line["id"] == 2][0].count("\n") == 0
    assert results[3]["formats"] == "8"
    steps = [line for line in said if line["id"] == 1 and line.get("doing") == "quantizing"]
    assert [(line["done"], line["total"]) for line in steps] == [(at, 12) for at in range(1, 13)]
    assert steps[-1]["seconds_left"] == 0.0


def test_a_question_is_cancelled_while_it_is_quantized(copied):
    def stop(scoring, line: dict) -> None:
        if (line["id"], line.get("doing"), line.get("done")) == (1, "quantizing", 3):
            scoring.take([json.dumps({"cancel": line["id"]})])

    said = answers(ask(copied, 1, formats="4", repair=True), ask(copied, 2, formats="4"), say=stop)
    mine = [line for line in said if line["id"] == 1]
    assert mine[-1] == {"id": 1, "cancelled": True} and mine[-2]["done"] == 3
    assert not list((copied.path / "scores").glob("*-moved-*.json")), "nothing half done is kept"
    assert said[-1]["result"]["formats"] == "4"
    again = answers(ask(copied, 3, formats="4", repair=True))
    assert "result" in again[-1]


def test_a_process_that_is_killed_while_it_quantizes_is_asked_again(copied):
    client = ScoreClient([sys.executable, "-m", "prune_core", "serve", "--threads", "1"])
    cut = Cut("global", None, {"all": 0.8}, repaired=True, formats="4")
    question, end = Question(str(copied.path), "dense", cut), time.monotonic() + 300
    try:
        while (answer := client.want("me", question)).doing in ("waiting", "loading"):
            assert time.monotonic() < end
            time.sleep(0.01)
        client._process.kill()
        while not (answer := client.want("me", question)).ended:
            assert time.monotonic() < end
            time.sleep(0.02)
        if answer.doing == "failed":  # else it was quicker than the kill
            client.want("me", question, again=True)
        while not (answer := client.want("me", question)).ended:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert answer.doing == "done" and answer.result["formats"] == "4"
    finally:
        client.close()
    assert answer.score == exact.evaluate(copied, "dense", cut, threads=1)["score"]


def test_a_page_knows_a_score_in_formats_before_any_model_is_loaded(made):
    cut = Cut("global", None, {"all": 0.8}, formats="4;a8")
    told = exact.evaluate(made, "dense", cut, threads=1)
    client = ScoreClient([sys.executable, "-c", "input(); input()"])  # a scoring process that never answers
    try:
        answer = client.want("me", Question(str(made.path), "dense", cut))
        assert (answer.doing, answer.score) == ("done", told["score"])
        assert answer.result.items() >= {name: told[name] for name in ("bytes", "sparsity", "formats")}.items()
        other = replace(cut, formats="3;a8")
        assert client.want("me", Question(str(made.path), "dense", other)).doing == "waiting"
    finally:
        client.close()


# ---------------------------------------------------------------- settings and the command line


def test_settings_carry_formats_and_refuse_wrong_ones(made):
    setting = Setting("setting A", made.saved("dense"), replace(CUT, formats="layer:8,4/2:4;a8"))
    text = settings.as_text([setting], made)
    assert settings.from_json(text, made) == [setting]
    assert setting.storage(made).bytes == storage(setting.mask(made), parse(setting.cut.formats, made.layout)).bytes
    for wrong, why in (("9", "none that weights can have"), (8, "no text"), ("layer:8", "1 formats"),
                       ("2:5", "32 inputs")):
        said = json.loads(text)
        said[0]["formats"] = wrong
        with pytest.raises(InputError, match=why) as error:
            settings.from_json(json.dumps(said), made)
        assert "\n" not in str(error.value)
    assert settings.usual(made, made.saved("retrain-1.5x")).formats == ""


def test_a_retrained_stage_is_taken_in_the_formats_that_it_was_trained_in(made, monkeypatch):
    monkeypatch.setattr(Run, "trained_formats", lambda self, stage: "8" if stage.startswith("retrain-") else "")
    at = made.saved("retrain-1.5x")
    assert settings.usual(made, at).formats == settings.ends(made)[made.snapshots[at].saved].cut.formats == "8"
    assert settings.usual(made, made.saved("dense")).formats == ""


@pytest.fixture
def call(made, monkeypatch, capfd):
    def called(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["prune_core", "evaluate", "made", "--runs-dir", str(made.path.parent),
                                          "--threads", "1", *map(str, arguments)])
        return main(), *capfd.readouterr()

    return called


def test_evaluate_in_few_bits(call, made):
    code, out, _ = call("--bits", "4", "--pattern", "2:4", "--activation-bits", 8, "--embedding-bits", 8, "--repair",
                        "--phase", "dense", "--json")
    told = json.loads(out.splitlines()[-1])
    assert code == 0 and told["formats"] == "4/2:4;a8;e8" and told["sparsity"] == pytest.approx(0.5)
    assert told["bytes_without_index"] < told["bytes"] < told["bytes_dense"]
    code, out, _ = call("--bits", "layer:8,4", "--sparsity", 0.3, "--phase", "dense")
    assert code == 0 and "in a format for each layer" in out and "x fewer than in fp32, index included" in out
    code, out, _ = call("--sparsity", 0.3, "--phase", "dense")
    assert code == 0 and "bytes" not in out


@pytest.mark.parametrize("wrong, why", [
    (("--bits", "9"), "none that weights can have"), (("--bits", "4", "--pattern", "5:4"), "not N:M"),
    (("--bits", "8", "--activation-bits", "4"), "activation bits 4"), (("--pattern", "2:5"), "32 inputs"),
    (("--embedding-bits", "4"), "embedding bits 4"), (("--bits", "clusters-4", "--dtype", "int8"), "once more"),
    ((), "either --sparsity or --threshold"), (("--bits", "layer:8,8,8"), "3 formats")])
def test_what_is_wrong_is_told_in_one_line(call, wrong, why):
    code, out, error = call("--phase", "dense", *wrong)
    assert code == 2 and why in error and len(error.strip().splitlines()) == 1 and not out


def test_surfaces_of_several_formats_and_flips(made, monkeypatch, capfd):
    def called(*arguments) -> dict:
        monkeypatch.setattr(sys, "argv", ["prune_core", arguments[0], "made", "--runs-dir", str(made.path.parent),
                                          *arguments[1:], "--json"])
        assert main() == 0
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    told = called("surface", "--bits", "8,2:4", "--scope", "matrix", "--repair", "no", "--threads", "1")
    assert [point["formats"] for point in told["points"]] == ["8"] * 20 + ["2:4"] * 20
    kinds = {kind.formats: points for kind, points in Run(made.path).surfaces("dense").items()}
    assert len(kinds["8"]) == len(kinds["2:4"]) == 20
    assert called("flips", "--sparsities", "0.3", "--bits", "4", "--pattern", "2:4")["formats"] == "4/2:4"
