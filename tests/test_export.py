"""What is taken away: loaded by plain transformers and by ONNX Runtime alone, where nothing can import prune_core."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from commands import prune_core

from prune_core import InputError, export
from prune_core.evaluation import dev_score, exact
from prune_core.evaluation.bench import Bench
from prune_core.execution import engines
from prune_core.precision.storage import header_bytes
from prune_core.runs import advice, data
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of
from prune_core.tasks import glue, metrics
from prune_core.tasks.encoding import Encoded

PLAIN = """
import json, sys
sys.modules["prune_core"] = None  # an import of it fails, though it is installed
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, sentences = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.inference_mode():
    logits = [model(**tokenizer(*texts, return_tensors="pt", truncation=True, max_length=128)).logits[0].tolist()
              for texts in sentences]
print(json.dumps([logits, model.config.id2label]))
"""


@pytest.fixture(scope="module", params=["sst2", "mrpc"])
def made(request, tiny_model, tiny_data, tmp_path_factory) -> Run:
    """A run on single sentences, and one on pairs."""
    settings = tiny.settings(tiny_model, tiny_data, task=request.param)
    return tiny.make_run(settings, tmp_path_factory.mktemp("runs"), "made")


def alone(code: str, *arguments: str, cwd: Path) -> str:
    """What Python prints, isolated from this repository."""
    done = subprocess.run([sys.executable, "-I", "-c", code, *arguments], cwd=cwd,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def dev(run: Run) -> tuple[list[list[str]], Encoded]:
    """(texts, encoded) of the dev set"""
    bench = Bench(run, "dense")
    return [list(texts) for texts in data.data_of(run, None).main_dev.texts], bench.dev["validation"]


@pytest.mark.parametrize("repaired", [False, True])
def test_plain_transformers_give_the_same_outputs_and_score(made, tmp_path, repaired):
    taken = export.take(made, "dense", cut_of(made, 0.5, scope="matrix", repaired=repaired))
    told = export.hf(taken, tmp_path / "model")
    texts, encoded = dev(made)
    logits, labels = json.loads(alone(PLAIN, str(tmp_path / "model"), json.dumps(texts), cwd=tmp_path))
    ours = dev_score.outputs(taken.encoder.model, encoded)
    assert logits == [pytest.approx(row.tolist(), abs=2e-6) for row in ours]
    import numpy as np

    task = glue.task_named(made.task)
    assert told["score"] == metrics.score(task, np.array(logits), encoded.labels)[task.metrics[0]]
    again = exact.evaluate(made, "dense", cut_of(made, 0.5, scope="matrix", repaired=repaired))
    assert (told["score"], told["sparsity"]) == (again["score"], again["sparsity"])
    assert labels == {str(number): label for number, label in enumerate(task.labels)}


def test_the_graph_runs_with_onnxruntime_alone(made, tmp_path):
    taken = export.take(made, "dense", cut_of(made, 0.6, scope="global"))
    export.onnx(taken, tmp_path / "graph")
    texts, encoded = dev(made)
    code = ("import sys, runpy\nfor name in ('torch', 'transformers', 'prune_core'):\n    sys.modules[name] = None\n"
            "folder, *texts = sys.argv[1:]\nsys.argv = [folder, *texts]\nrunpy.run_path(folder + '/run.py')")
    ours = dev_score.outputs(taken.encoder.model, encoded)
    for row in (0, 5):
        answer = json.loads(alone(code, str(tmp_path / "graph"), *texts[row], cwd=tmp_path))
        assert list(answer) == list(glue.task_named(made.task).labels)
        assert list(answer.values()) == pytest.approx(ours[row].tolist(), abs=1e-5)
    assert sum(line.strip() != "" for line in (tmp_path / "graph" / "run.py").read_text().splitlines()) <= 12


def test_sizes_and_card_tell_what_was_counted(made, tmp_path):
    taken = export.take(made, "dense", cut_of(made, 0.5, scope="matrix"))
    told = export.hf(taken, tmp_path / "model")
    layout, mask = made.layout, taken.mask
    assert told["bytes_dense"] == 4 * layout.model_weights
    by_hand = sum(int(mask.kept[m.name].sum()) * layout.group_size(m) for m in layout.matrices)
    without = 4 * (layout.model_weights - layout.encoder_weights + by_hand) + header_bytes(layout)
    assert told["bytes_without_index"] == without < told["bytes"]
    size = sum(p.stat().st_size for p in (tmp_path / "model").iterdir())
    assert told["folder_bytes"] == size > told["weights_bytes"] > told["bytes_dense"]
    card = (tmp_path / "model" / "README.md").read_text()
    for fact in (f"{told['score']:.4f}", f"{mask.compression_encoder:.2f}x", f"{mask.compression_model:.2f}x",
                 f"{made.majority_score:.4f}", made.command()):
        assert fact in card


def test_without_the_data_there_is_a_model_and_no_score(made, tmp_path):
    lost = tmp_path / "nowhere"
    taken = export.take(made, "dense", cut_of(made, 0.5, scope="matrix"), source=str(lost))
    assert export.hf(taken, tmp_path / "model")["score"] is None
    assert "not taken: the task's data was not there" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(InputError, match="nowhere"):
        export.take(made, "dense", cut_of(made, 0.5, scope="matrix", repaired=True), source=str(lost))


def test_nothing_is_overwritten_and_nothing_half_written_stays(made, tmp_path, monkeypatch):
    taken = export.take(made, "dense", cut_of(made, 0.5, scope="matrix"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        export.hf(taken, tmp_path / "model")
    shutil.rmtree(tmp_path / "model")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(taken.encoder.tokenizer, "save_pretrained", full)
    with pytest.raises(InputError, match="No space left"):
        export.hf(taken, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def slow_run(tiny_data, tmp_path) -> Run:
    """Of a RoBERTa with BERTweet's tokenizer, which is written in Python."""
    folder = tiny.checkpoint(tmp_path / "slow", "roberta", pad_token_id=1, vocab_size=len(tiny.VOCABULARY) + 4)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    words = [word for word in tiny.VOCABULARY if word.isalpha()]
    (folder / "vocab.txt").write_text("".join(f"{word} 9\n" for word in words))
    merges = [f"{word[:at]} {word[at]}{'</w>' if at == len(word) - 1 else ''} 9"
              for word in words for at in range(1, len(word))]
    (folder / "bpe.codes").write_text("\n".join(dict.fromkeys(merges)) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertweetTokenizer"}')
    return tiny.make_run(tiny.settings(folder, tiny_data), tmp_path / "runs", "slow")


def test_a_tokenizer_that_has_no_file_for_the_script_is_said_before_anything_is_loaded(slow_run, tmp_path):
    command = ["export", "slow", "--sparsity=0.5", f"--runs-dir={slow_run.path.parent}", "--phase=dense"]
    never = "from prune_core import export\nexport.take = None"
    done = prune_core(*command, "--to=onnx", tmp_path / "graph", first=never)
    assert done.returncode == 2 and "BertweetTokenizer" in done.stderr and "--to hf" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "graph").exists()
    assert prune_core(*command, "--to=hf", tmp_path / "model").returncode == 0


def test_a_folder_that_is_not_empty_is_said_before_anything_is_loaded(made, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for to in ("hf", "onnx"):
        with pytest.raises(InputError, match="is there already"):
            export.ready(made, to, tmp_path)


def test_a_graph_that_no_file_holds_is_said_before_it_is_made(made, tmp_path, monkeypatch):
    taken = export.take(made, "dense", cut_of(made, 0.5, scope="matrix"))
    monkeypatch.setattr(engines, "LARGEST", 20_000)
    monkeypatch.setattr(engines, "to_onnx", None)
    with pytest.raises(InputError, match=r"bytes after the cut, an ONNX file holds 20,000"):
        export.onnx(taken, tmp_path / "graph")


def test_the_command(made, tmp_path):
    command = ["export", "made", "--sparsity=0.5", "--phase=dense", f"--runs-dir={made.path.parent}", "--json"]
    done = prune_core(*command, "--to=hf", tmp_path / "model")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "note: This cut was not retrained, and no stage of this run was at about 2.00x" in done.stderr
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["to"] == "hf" and (Path(told["path"]) / "model.safetensors").exists()
    for wrong, words in ((["--to=zip", str(tmp_path / "x")], "zip"),
                         (["--to=hf", str(tmp_path / "model")], "is there already")):
        done = prune_core(*command, *wrong)
        assert done.returncode == 2 and done.stderr.count("\n") <= 1 and words in done.stderr


def test_a_cut_that_was_not_retrained_is_told_with_what_to_take_instead(made):
    ends = {stage: made.snapshots[made.saved(stage)].scores[made.metric] for stage in made.stages}

    def told(stage: str, share: float) -> str:
        words, better = advice.instead(made, made.snapshots[made.saved(stage)].saved,
                                       cut_of(made, share, scope="matrix").mask(made.ranking(stage), made.layout))
        assert (better is None) == ("scores" not in words) and (better is None or words.count(better.stage) == 1)
        return words

    assert told("penalty-3x", 2 / 3) == told("dense", 0.68) == (
        f"This cut was not retrained: retrain-3x of this run scores {ends['retrain-3x']:.3f}.")
    assert "no stage of this run was at about 10." in told("dense", 0.9)
    assert told("dense", 0.0) == told("retrain-3x", 0.5) == told("retrain-3x", 0.668) == ""
    assert "no stage of this run was at about 10." in told("retrain-3x", 0.9)
