"""The command line: JSON as promised, progress on stderr, and one clear line for everything that cannot be."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from prune_core import files
from prune_core.__main__ import main
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.evaluation import weights
from prune_core.runs import config, places
from prune_core.runs.recorder import Recorder
from prune_core.runs.run import Run
from prune_core.tasks import glue, hub
from prune_core.training import session
from prune_core.training.session import Interrupted

REPO = Path(__file__).resolve().parent.parent
PRUNE = {"run", "task", "model", "data", "metric", "dense_score", "points",
         "seconds", "seconds_per_step", "penalty_share"}
POINT = {"sparsity", "compression_encoder", "compression_model", "score_thresholded", "score_retrained"}
EVALUATE = {"run", "sparsity", "threshold", "compression_encoder", "compression_model",
            "metric", "score", "examples", "seconds"}
LISTED = {"run", "status", "task", "model", "metric", "dense_score", "points"}


@pytest.fixture
def call(monkeypatch, capfd):
    """Call the command line in this process; (exit code, stdout, stderr)."""
    def called(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["prune_core", *map(str, arguments)])
        code = main()
        return code, *capfd.readouterr()

    return called


@pytest.fixture(scope="module")
def small(tiny_model, tiny_data) -> list[str]:
    """`prune` in a second."""
    return ["prune", "--model", str(tiny_model), "--task", "sst2", "--data", str(tiny_data),
            "--block", "16x1", "--compression", "1.5,3",
            "--preset", "quick", "--dense-steps", "4", "--penalty-steps", "8", "--retrain-steps", "2",
            "--threads", "1", "--precision", "fp32"]


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory) -> Path:
    """A runs folder with one complete run, `done`."""
    folder = tmp_path_factory.mktemp("runs")
    before, sys.argv = sys.argv, ["prune_core", *small, "--run", "done", "--runs-dir", str(folder)]
    try:
        assert main() == 0
    finally:
        sys.argv = before
    return folder


def last_line(out: str) -> dict:
    """The JSON object in the last line; strictly JSON, which has no NaN and no Infinity."""
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    answer = json.loads(out.splitlines()[-1], parse_constant=refuse)
    assert isinstance(answer, dict)
    return answer


# ---------------------------------------------------------------- what works


def test_every_pinned_package_tells_its_licence(tmp_path):
    from prune_core.cli.licences import licences

    named = {one["package"]: one["licence"] for one in licences()}
    assert len(named) > 100 and named["streamlit"] == "Apache-2.0" and "not installed here" not in named.values()
    (tmp_path / "requirements.txt").write_text("# nothing\nno-such-package==1.0  # x\n")
    unknown = {"package": "no-such-package", "version": "1.0", "licence": "not installed here"}
    assert licences(tmp_path / "requirements.txt") == [unknown]


def test_prune_prints_its_json_last_and_its_progress_on_stderr(call, small, tmp_path):
    code, out, err = call(*small, "--run", "one", "--runs-dir", tmp_path, "--json")
    answer = last_line(out)
    assert code == 0 and answer.keys() >= PRUNE
    assert len(out.splitlines()) == 1
    assert (answer["run"], answer["task"], answer["metric"], len(answer["points"])) == ("one", "sst2", "accuracy", 2)
    assert all(point.keys() >= POINT and None not in point.values() for point in answer["points"])
    assert 0 < answer["penalty_share"] < 1 and 0 < answer["seconds_per_step"] < answer["seconds"]
    assert "left" in err and "steps" in err and "error" not in err


def test_prune_without_json_is_for_people(call, small, tmp_path):
    code, out, _ = call(*small, "--runs-dir", tmp_path)
    assert code == 0 and "accuracy dense" in out and "1.5x asked" in out and "3x asked" in out


def test_the_defaults_are_those_of_the_config(call, monkeypatch, tmp_path):
    """No options at all: the embedded default's main job."""
    seen = {}

    def start(asked, runs_dir, name, command, report, agree, _placed):
        seen.update(asked=asked, runs_dir=runs_dir, name=name, command=command)
        return {"run": "x", "data": "d", "metric": "m", "dense_score": 1.0, "points": [],
                "warnings": [], "seconds": 1.0, "seconds_per_step": 1.0, "penalty_share": 0.0}

    monkeypatch.setattr("prune_core.cli.train._record_repaired", lambda *_: None)
    monkeypatch.setattr(session, "start", start)
    assert call("prune")[0] == 0
    assert seen == {"asked": config.preset("standard"), "runs_dir": places.RUNS, "name": None,
                    "command": "python -m prune_core prune"}


def test_standard_is_by_the_surgeon_and_records_what_repair_alone_keeps(call, small, tmp_path):
    """And group Lasso, where one of its settings is given."""
    asked = ["standard" if one == "quick" else one for one in small]
    assert call(*asked, "--run", "cut", "--runs-dir", tmp_path)[0] == 0
    run = Run(tmp_path / "cut")
    whole = {(kind.ranking, kind.scope, kind.repaired)
             for kind, points in run.surfaces("dense").items() if len(points) == 20}
    assert run.config.method == "surgeon" and whole >= {("norm", "global", True), ("surgeon", "global", True)}
    assert call("resume", "cut", "--runs-dir", tmp_path)[0] == 0  # what is there is not recorded twice
    assert len(files.read_sealed(run.answers.surfaces_file("dense"))) == 40
    assert call(*asked, "--run", "plain", "--no-reweighted", "--runs-dir", tmp_path)[0] == 0
    assert Run(tmp_path / "plain").config.method == "group-lasso"


def test_runs_lists_what_there_is(call, folder, none_recorded, tmp_path):
    shutil.copytree(folder / "done", tmp_path / "done")
    (tmp_path / "foreign").mkdir()
    code, out, _ = call("runs", "--runs-dir", tmp_path, "--json")
    done, foreign = last_line(out)["runs"]
    assert code == 0 and done.keys() >= LISTED and (done["run"], done["status"]) == ("done", "complete")
    assert len(done["points"]) == 2 and done["dense_score"] is not None
    assert (foreign["run"], foreign["status"]) == ("foreign", "unreadable")
    assert "run.json is missing" in foreign["reason"]
    text = call("runs", "--runs-dir", tmp_path)[1]
    assert all(word in text for word in ("done", "complete", "foreign", "unreadable"))


def test_runs_of_an_empty_folder(call, none_recorded, tmp_path):
    assert last_line(call("runs", "--runs-dir", tmp_path, "--json")[1]) == {"runs": []}
    assert "no runs" in call("runs", "--runs-dir", tmp_path)[1]


@pytest.mark.parametrize("question", [
    ["--sparsity", "0.5"], ["--threshold", "0.7", "--scope", "global"],
    ["--threshold", '{"layer 0": 0.2, "layer 1": 0.9}', "--scope", "layer", "--phase", "dense"]])
def test_evaluate_prints_its_json_last(call, folder, question):
    code, out, _ = call("evaluate", "done", *question, "--runs-dir", folder, "--json", "--threads", 1)
    answer = last_line(out)
    assert code == 0 and answer.keys() >= EVALUATE and answer["examples"] == 24 and 0 <= answer["score"] <= 1
    assert call("evaluate", "done", *question, "--runs-dir", folder)[1].startswith("done ")


def test_measure_prints_its_json_last(call, folder):
    question = ["measure", "done", "--sparsity", "0.6", "--batch", 2, "--length", 10,
                "--seconds", 0, "--threads", 1, "--runs-dir", folder]
    code, out, err = call(*question, "--rivals", "torch bf16", "--json")
    answer = last_line(out)
    assert code == 0 and answer.keys() >= {
        "dense_ms", "compact_ms", "unpruned_ms", "speedup", "ideal_speedup", "predicted_ms", "dense_spread",
        "compact_spread", "executed", "threads", "batch", "length", "dtype", "engine", "machine", "processor",
        "weights", "rivals_ms", "rivals_left_out", "best_rival", "speedup_over_best", "from_pass", "from_pruning",
        "apart"}
    assert (answer["batch"], answer["length"], answer["threads"], answer["weights"]) == (2, 10, 1, "of the run")
    assert list(answer["rivals_ms"]) == ["torch fp32", "torch bf16"] and "timing 4 in turn on" in err
    told = call(*question, "--rivals", "none")[1]
    assert told.startswith("done ") and "against dense (torch fp32, " in told
    kept = Run(folder / "done").answers.timings()
    assert len(kept) == 2 and kept[0] == answer


@pytest.mark.parametrize("options, said", [
    (["--dtype", "fp16"], "fp32, bf16, int8, auto"), (["--rivals", "tensorrt fp16"], "'tensorrt fp16' is unknown"),
    (["--engine", "openvino", "--rivals", "all"], "belong to engine torch"),
    (["--engine", "openvino", "--dtype", "int8"], "not known here")])
def test_measure_refuses_at_once_what_it_cannot_do(call, folder, options, said):
    question = ["measure", "done", "--sparsity", "0.6", "--batch", 2, "--length", 10, "--runs-dir", folder]
    assert said in refused(call, *question, *options)


def test_predict_is_how_sure_the_masked_model_is(call, folder):
    """The sentence through the model with the mask multiplied in, by hand."""
    code, out, _ = call("predict", "done", "the film was lovely", "--sparsities", "0,0.5",
                        "--runs-dir", folder, "--json")
    answer = last_line(out)
    run = Run(folder / "done")
    encoder = weights.encoder_of(run, "dense", 2)
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.5, run.config.scope)
    with torch.no_grad():
        for name, weight in encoder.weights.items():
            weight *= torch.from_numpy(run.layout.block.expand(mask.kept[name], *weight.shape))
        logits = encoder.model.eval()(**encoder.tokenizer("the film was lovely", return_tensors="pt")).logits
    assert code == 0 and answer["labels"] == ["negative", "positive"] and answer["sparsities"] == [0.0, mask.sparsity]
    assert answer["probabilities"][1][0] == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-5)
    assert "2 sentences; needed for sst2: 1" in refused(call, "predict", "done", "one", "two", "--runs-dir", folder)
    wrong = refused(call, "predict", "done", "one", "--sparsities", "x", "--runs-dir", folder)
    assert "sparsity 'x' is not a number" in wrong


def test_shapes_times_every_pattern_and_keeps_it(call, tmp_path):
    code, out, _ = call("shapes", "--seconds", 0, "--threads", 1, "--to", tmp_path / "shapes.json", "--json")
    answer = last_line(out)
    assert code == 0 and [one["block"] for one in answer["patterns"]] == [None, "1x1", "16x16", "64x1"]
    assert json.loads((tmp_path / "shapes.json").read_text()) == answer
    assert all(one["ms"] > 0 for one in answer["patterns"])
    assert "out of range" in refused(call, "shapes", "--sparsity", "1.5")


def test_calibrate_says_at_once_that_it_cannot_write(call, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refused(call, "calibrate", "--to", tmp_path / "file" / "p.json")


def test_exact_scores_are_shown_as_they_come(call, folder):
    code, out, err = call("evaluate", "done", "--sparsity", "0.5", "--runs-dir", folder,
                          "--exact", "--json", "--threads", 1)
    assert code == 0 and "24 of 24" in err and "95% interval" in err and last_line(out)["seconds_to_first"] > 0


def test_nothing_kept_is_still_json(call, folder):
    answer = last_line(call("evaluate", "done", "--threshold", "1e9", "--runs-dir", folder, "--json")[1])
    assert (answer["sparsity"], answer["compression_encoder"]) == (1.0, None)
    assert math.isfinite(answer["compression_model"])


def test_resume_prints_what_prune_printed(call, folder):
    code, out, _ = call("resume", "done", "--runs-dir", folder, "--json")
    assert code == 0 and last_line(out) == Run(folder / "done").result and last_line(out).keys() >= PRUNE


def test_an_interrupted_run_says_how_to_go_on_and_does(call, small, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise Interrupted("run 'half' stopped in dense; go on with: python -m prune_core resume half")

    monkeypatch.setattr(session, "start", stop)
    code, out, err = call(*small, "--run", "half", "--runs-dir", tmp_path)
    assert (code, out) == (130, "")
    assert err == "error: run 'half' stopped in dense; go on with: python -m prune_core resume half\n"


def test_scores_on_the_practice_set_say_that_it_is_not_glue(call, small, tmp_path, none_recorded, monkeypatch):
    practice = glue.load("sst2", "practice").limited(64, 16)
    monkeypatch.setattr(glue, "_practice", lambda note: glue.replace(practice, note=note))
    arguments = ["practice" if a == small[6] else a for a in small] + ["--allow-unknown"]
    assert "not GLUE" in call(*arguments, "--run", "p", "--runs-dir", tmp_path)[1]
    assert "not GLUE" in call("runs", "--runs-dir", tmp_path)[1]
    assert "not GLUE" in call("evaluate", "p", "--sparsity", "0.5", "--runs-dir", tmp_path)[1]
    assert last_line(call("runs", "--runs-dir", tmp_path, "--json")[1])["runs"][0]["data"] == "practice"


def test_without_hub_and_folder_it_is_the_practice_set_and_says_so(call, small, tmp_path, no_hub, monkeypatch):
    practice = glue.load("sst2", "practice").limited(64, 16)
    monkeypatch.setattr(hub, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError()))
    monkeypatch.setattr(glue, "_practice", lambda note: glue.replace(practice, note=note))
    arguments = ["nyu-mll/glue" if a == small[6] else a for a in small] + ["--allow-unknown"]
    message = refused(call, *arguments, "--run", "p", "--runs-dir", tmp_path)  # a script that named its task
    assert all(words in message for words in ("hub did not answer", "--data FOLDER", "--practice"))
    assert not (tmp_path / "p").exists()
    code, out, err = call(*arguments, "--practice", "--run", "p", "--runs-dir", tmp_path, "--json")
    assert code == 0 and last_line(out)["data"] == "practice"
    assert "not GLUE" in err.splitlines()[0] and err.count("not GLUE") == 1  # before training
    assert any("hub did not answer" in note and "not GLUE" in note for note in last_line(out)["warnings"])


def test_the_module_runs_as_a_process(folder, none_recorded):
    command = [sys.executable, "-m", "prune_core", "runs", "--runs-dir", str(folder), "--json"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and last_line(done.stdout)["runs"][0]["run"] == "done"


def test_bad_input_to_a_process_is_one_line_and_code_2(tmp_path):
    command = [sys.executable, "-m", "prune_core", "prune", "--task", "sst3", "--runs-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# ---------------------------------------------------------------- what cannot be


def refused(call, *arguments) -> str:
    """The one line with which this is refused: no traceback, nothing on stdout, exit code 2."""
    code, out, err = call(*arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and out == "" and len(errors) == 1, err
    assert "Traceback" not in err and err.splitlines()[-1] == errors[0]
    return errors[0]


def swapped(small: list[str], tmp_path, **options) -> list[str]:
    """`small` with other values for some options, recorded into tmp_path."""
    arguments = [*small, "--run", "bad", "--runs-dir", str(tmp_path / "runs"), "--json"]
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if option in arguments:
            arguments[arguments.index(option) + 1] = str(value)
        else:
            arguments += [option, str(value)]
    return arguments


@pytest.mark.parametrize("options, named", [
    ({"task": "sst3"}, "'sst3' is unknown; one of cola"),
    ({"model": "someone/unknown"}, "someone/unknown"),
    ({"model": "not a name"}, "not a name"),
    ({"block": "64x1"}, "64x1"),
    ({"block": "5x1"}, "not divisible"),
    ({"block": "cube"}, "ROWSxCOLS"),
    ({"compression": "0.5"}, "compression 0.5"),
    ({"compression": "2,nan"}, "compression nan"),
    ({"compression": "two"}, "compression 'two'"),
    ({"preset": "slow"}, "quick, standard, full"),
    ({"scope": "row"}, "global, layer, type, matrix"),
    ({"penalty": "none"}, "proximal, in-loss"),
    ({"precision": "fp8"}, "auto, bf16, fp32"),
    ({"lambda": "-1"}, "lambda"),
    ({"threads": "-3"}, "threads"),
    ({"seed": "-1"}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"data": "no/such/folder"}, "is not a folder"),
    ({"run": "a/b"}, "run name 'a/b'"),
    ({"run": ".."}, "run name '..'"),
    ({"run": "a.b"}, "run name 'a.b'"),
    ({"run": ""}, "run name ''"),
    ({"dense_steps": "0"}, "dense_steps"),
], ids=str)
def test_bad_settings(call, small, tmp_path, no_hub, options, named):
    assert named in refused(call, *swapped(small, tmp_path, **options))
    assert not (tmp_path / "runs").exists()


def test_a_block_larger_than_the_matrices_names_blocks_that_fit(call, small, tmp_path):
    message = refused(call, *swapped(small, tmp_path, block="128x1"))
    assert "larger than" in message and "32x32" in message and "16x1" in message


def a_copy(tiny_model, tmp_path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _pickle(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.0.attention.self.query.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _torn(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize("damage, named", [
    (_no_config, "config.json is missing"), (_pickle, "is a pickle"), (_nan, "query.weight has NaN"),
    (_torn, "cannot be loaded")])
def test_bad_checkpoints(call, small, tiny_model, tmp_path, damage, named):
    model = a_copy(tiny_model, tmp_path)
    damage(model)
    assert named in refused(call, *swapped(small, tmp_path, model=model))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("columns, named", [
    ({"text": ["x"], "label": [0]}, "column 'sentence' is missing"), ({"sentence": ["x"]}, "column 'label' is missing"),
    ({"sentence": ["x"], "label": [2], "idx": [0]}, "label 2"),
    ({"sentence": ["x"], "label": [-1], "idx": [0]}, "label -1"),
    ({"sentence": [], "label": [], "idx": []}, "no examples")], ids=["text", "label", "above", "below", "empty"])
def test_bad_data(call, small, tmp_path, columns, named):
    (tmp_path / "data").mkdir()
    data = tiny.spoiled(tmp_path / "data", columns)
    assert named in refused(call, *swapped(small, tmp_path, data=data))
    assert not (tmp_path / "runs").exists()


def test_a_runs_folder_that_cannot_be_written(call, small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for runs_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "cannot be written" in refused(call, *swapped(small, tmp_path, runs_dir=runs_dir))
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_name_that_is_taken(call, small, folder, tmp_path):
    before = (folder / "done" / "progress.jsonl").read_bytes()
    message = refused(call, *swapped(small, tmp_path, run="done", runs_dir=folder))
    assert "'done' exists" in message and "resume" in message
    assert (folder / "done" / "progress.jsonl").read_bytes() == before


@pytest.mark.parametrize("arguments, named", [
    (["measure", "done"], "either --sparsity or --threshold"),
    (["measure", "done", "--sparsity", "0.5", "--length", "47"], "at most 46"),
    (["measure", "done", "--sparsity", "0.5", "--batch", "0"], "batch 0"),
    (["measure", "done", "--sparsity", "0.5", "--engine", "gpu"], "torch, onnxruntime, openvino"),
    (["measure", "done", "--sparsity", "0.5", "--dtype", "int4"], "fp32, bf16"),
    (["measure", "done", "--sparsity", "0.5", "--profile", "none.json"], "latency profile 'none.json' cannot be read"),
    (["evaluate", "done"], "either --sparsity or --threshold"),
    (["evaluate", "done", "--sparsity", "0.5", "--threshold", "1"], "either --sparsity or --threshold"),
    (["evaluate", "done", "--sparsity", "1.5"], "sparsity 1.5"),
    (["evaluate", "done", "--sparsity", "half"], "valid number"),
    (["evaluate", "done", "--threshold", "-1"], "threshold"),
    (["evaluate", "done", "--threshold", "NaN"], "threshold"),
    (["evaluate", "done", "--threshold", "{}"], "missing"),
    (["evaluate", "done", "--threshold", "[1]"], "neither a number"),
    (["evaluate", "done", "--sparsity", "0.5", "--phase", "retrain-7x"], "it has: dense"),
    (["evaluate", "done", "--sparsity", "0.5", "--scope", "row"], "global, layer"),
    (["evaluate", "nobody", "--sparsity", "0.5"], "no run 'nobody'"),
    (["evaluate", "../done", "--sparsity", "0.5"], "run name"),
    (["resume", "nobody"], "no run 'nobody'"),
    (["resume", "a/b"], "run name"),
    (["resume"], "RUN"),
    (["pack", "done", "--to", "a.b"], "run name"),
    (["fly"], "fly"),
    (["prune", "--speed", "9"], "--speed"),
])
def test_bad_questions(call, folder, arguments, named):
    where = [] if arguments[0] in ("fly", "prune") else ["--runs-dir", str(folder)]
    assert named.lower() in refused(call, *arguments, *where).lower()


def test_resuming_a_run_that_another_process_writes(call, folder, tmp_path):
    about = {k: v for k, v in Run(folder / "done").about.items() if k not in ("name", "created")}
    with Recorder.create(tmp_path, "busy", about):
        assert "another process" in refused(call, "resume", "busy", "--runs-dir", tmp_path)


def test_no_space_left(call, small, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_whole", _full)
    assert "No space left on device" in refused(call, *swapped(small, tmp_path))


def _full(path, content):
    raise OSError(28, "No space left on device")
