"""The search on a real encoder, a tiny one: its losses against the plain model, kill and resume, bad input."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from commands import prune_core
from sample_run import make_profile

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BYTES
from prune_core.evaluation import dev_score, exact, limits, losses, search
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.limits import Target
from prune_core.evaluation.matrices import Matrices
from prune_core.evaluation.search import Wanted
from prune_core.execution.exchange import Exchange
from prune_core.latency.profile import uncut
from prune_core.models import encoders
from prune_core.precision import mixture
from prune_core.precision.formats import Format, parse
from prune_core.precision.storage import storage
from prune_core.runs import mixtures, tried
from prune_core.runs.run import Run
from prune_core.runs.settings import from_json
from prune_core.tasks import encoding, glue, metrics
from prune_core.tasks.glue import TASKS

FEW = Wanted(shares=(0.5,), patterns=("2:4",), bits=("8", "4"), sentences=16)


@pytest.fixture
def made(tiny_model, tiny_data, tmp_path) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data, compressions=(2.0,)), tmp_path, "made")


def found(run: Run, target: Target, stage: str = "dense", wanted: Wanted = FEW) -> dict:
    """What the search ends in; all steps before say how far it is."""
    *steps, (_, _, answer) = search.search(run, stage, target, wanted, threads=1)
    assert all(isinstance(what, str) and done <= total for done, total, what in steps)
    return answer


def lasting(answer: dict) -> dict:
    """Without what hangs on the moment."""
    return {name: value for name, value in answer.items() if name not in ("seconds", "measured")}


# ---------------------------------------------------------------- outputs with other weights


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_exchanged_weights_give_what_the_model_with_them_gives(architecture, tmp_path):
    encoder = encoders.load(str(tiny.checkpoint(tmp_path / architecture, architecture)), 2, 0, False)
    layout = encoder.layout(BlockShape.parse("16x1"))
    data = glue.load("sst2", str(tiny.data_folder(tmp_path / "data", ("sst2",))))
    sentences = encoding.encode(data.main_dev, encoder.tokenizer, 32)
    exchange, random = Exchange(encoder.model, layout, sentences), torch.Generator().manual_seed(0)
    plain = dev_score.outputs(encoder.model, sentences)
    near = exchange.near({})
    assert np.allclose(exchange.outputs({}).numpy(), plain, atol=2e-5)
    for name, linear in encoder.linears.items():
        weight, bias = linear.weight.detach(), linear.bias.detach()
        other = weight * torch.randint(0, 2, weight.shape, generator=random) * 1.5, bias + 0.1
        fast = exchange.outputs({name: other}, near)
        assert torch.equal(fast, exchange.outputs({name: other}))  # from there on, or the whole
        before = weight.clone(), bias.clone()
        with torch.no_grad():
            linear.weight.copy_(other[0]), linear.bias.copy_(other[1])
            slow = dev_score.outputs(encoder.model, sentences)
            linear.weight.copy_(before[0]), linear.bias.copy_(before[1])
        assert np.allclose(fast.numpy(), slow, atol=2e-5) and not np.allclose(slow, plain, atol=1e-4), name
    assert np.allclose(exchange.outputs({}, near).numpy(), plain, atol=2e-5)


# ---------------------------------------------------------------- losses


def test_held_out_sentences_are_none_that_a_repair_sees():
    texts = [(str(i),) for i in range(5000)]
    train = glue.Examples(texts, np.arange(5000) % 2)
    some, other, note = losses.held_out(train, 512)
    repair = {one for one, in train.some(losses.GRAM_SENTENCES).texts}
    assert len(some) == len(other) == 512 and not note and not repair & {one for one, in (*some.texts, *other.texts)}
    assert not {one for one, in some.texts} & {one for one, in other.texts}
    assert [int(one) % 2 for one, in some.texts] == some.labels.tolist()
    few, others, note = losses.held_out(glue.Examples(texts[:64], np.zeros(64, int)), 512)
    assert len(few) == len(others) == 32 and "64 training sentences" in note
    phrases = [("one two",) if i % 2 else (" ".join(["word"] * 18),) for i in range(9000)]
    some, *_ = losses.held_out(glue.Examples(phrases, np.zeros(9000, int)), 200)
    assert sum(len(one) > 10 for one, in some.texts) == pytest.approx(180, abs=8)  # 9 of 10 words stand in long ones


def test_losses_are_those_of_the_outputs(made):
    bench = Bench(made, "dense")
    data = glue.load("sst2", made.data)
    matrices = Matrices(bench, b"")
    held_out = losses.HeldOut(matrices, data.train)
    layout, plain = made.layout, Format.parse("32")
    none, fp32 = uncut(layout), dict.fromkeys((m.name for m in layout.matrices), plain)
    said = held_out.loss("plain", none, fp32)
    encoded = encoding.encode(data.train, bench.encoder.tokenizer, bench.encoder.max_length(made.config.max_length))
    logits = dev_score.outputs(bench.encoder.model, encoded).astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert said["labels"] == pytest.approx(-np.log(chances[np.arange(len(logits)), data.train.labels]).mean(), rel=1e-4)
    assert abs(said["answers"]) < 1e-9 and abs(said["outputs"]) < 1e-9
    four = held_out.loss("four", none, two := dict.fromkeys(fp32, Format.parse("2")))
    other = held_out._exchange.outputs(matrices.of(none, two)).numpy().astype(np.float64)
    apart = (other[:, 1] - other[:, 0]) - (logits[:, 1] - logits[:, 0])
    assert four["outputs"] == pytest.approx((apart**2).mean() / 4, rel=1e-3) and four["answers"] > 1e-4
    again = losses.HeldOut(matrices, data.train)
    assert again.known("four") == four and again.known("other") is None
    assert losses.HeldOut(Matrices(bench, b"another ranking"), data.train).known("four") is None


# ---------------------------------------------------------------- the search


def test_what_it_finds_is_within_the_limit_and_scored_exactly(made):
    answer = found(made, Target(ratio=8))
    (kept,) = mixtures.found(made).values()
    assert (kept.name, kept.stage) == ("8x", "dense")
    mask, formats = kept.cut.mask(made.norms(made.saved("dense")), made.layout), parse(
        kept.cut.formats, made.layout)
    stored = storage(mask, formats)
    assert stored.to_json() == {name: answer[name] for name in stored.to_json()}
    assert answer["ratio"] == BYTES * made.layout.encoder_weights / stored.encoder.stored >= 8
    real = exact.evaluate(made, "dense", kept.cut, threads=1, fresh=True)
    assert (real["score"], real["low"], real["high"]) == (answer["score"], answer["low"], answer["high"])
    assert real["encoder_bytes"] == answer["encoder_bytes"]
    assert set(answer["setting"]) == {m.name for m in made.layout.matrices}
    first = answer["uniforms"][0]
    assert answer["uniform"] == first["setting"] and first["second_loss"] == min(
        one["second_loss"] for one in answer["uniforms"])
    assert all(one["encoder_bytes"] <= BYTES * made.layout.encoder_weights / 8 for one in answer["uniforms"])
    assert "ours" in answer["order"] and "2206.15014" in answer["order"] and answer["seconds"] > 0
    assert answer["difference"]["difference"] == pytest.approx(answer["score"] - answer["uniform_score"], abs=1e-9)
    assert ("does not beat" in answer["words"]) == (answer["difference"]["low"] <= 0)


def test_other_sentences_decide_and_a_uniform_setting_never_has_less_loss(made):
    for ratio in (5, 8, 10.5):
        answer = found(made, Target(ratio=ratio))
        seconds = [one["second_loss"] for one in answer["candidates"]]
        assert seconds == sorted(seconds) and answer["second_loss"] == seconds[0]
        assert answer["chosen"] == answer["candidates"][0]["what"] and len(answer["uniforms"]) == 3
        assert all(answer["second_loss"] <= one["second_loss"] for one in answer["uniforms"])
        whats = [one["what"] for one in answer["candidates"]]
        assert len(set(whats)) == len(whats) > 3 and {one["setting"] for one in answer["uniforms"]} <= set(whats)
        assert min(one["loss"] for one in answer["candidates"]) <= min(one["loss"] for one in answer["uniforms"])
        if answer["chosen"] == answer["uniform"]:
            assert answer["difference"]["difference"] == 0 and "it is that setting" in answer["words"]
            assert answer["score"] == answer["uniform_score"] and answer["encoder_bytes"] == answer["uniforms"][0][
                "encoder_bytes"]


def test_errors_are_those_of_the_outputs(made):
    bench = Bench(made, "dense")
    matrices = Matrices(bench, b"")
    table = mixture.table(made.layout, made.ranking("dense", "norm"), (0.5,), ("2:4",), ("8", "4"))
    list(matrices.measure(table))
    matrix, gram = made.layout.matrices[1], bench.grams()[made.layout.matrices[1].name]
    own = bench.encoder.linears[matrix.name].weight.detach().double()
    products = gram.centred().double()
    setting = (0, table.options[1].index(mixture.Option(0.5, Format.parse("4"))), *[0] * (len(table.options) - 2))
    there = matrices.of(table.mask(setting), {n: o.format for n, o in table.at(setting).items()})[matrix.name][0]
    off = own - there.double()
    real = torch.trace(off @ products @ off.T) / torch.trace(own @ products @ own.T)
    assert matrices.errors(table)[1][setting[1]] == pytest.approx(float(real), rel=1e-3) and 0 < real < 1
    again = Matrices(bench, b"")
    assert again.errors(table) == matrices.errors(table)  # kept


def test_its_steps_are_kept_as_tried_settings(made):
    answer = found(made, Target(ratio=8))
    steps = [one for one in tried.read(made, "dense") if one.search == "8x"]
    assert [one.step for one in steps] == [one["step"] for one in answer["path"]] and len(steps) > 2
    sizes = [one.bytes for one in steps[:-1]]
    assert steps[0].step == 0 and sizes == sorted(sizes, reverse=True)
    assert steps[-1].bytes == answer["bytes"] and steps[-1].score == answer["score"]
    for one in steps[:: len(steps) - 1]:
        cut = search.Cut("matrix", None, one.cut["thresholds"], one.cut["by"], one.cut["repaired"], one.cut["formats"])
        real = exact.evaluate(made, "dense", cut, threads=1, fresh=True)
        assert (real["score"], real["bytes"], real["sparsity"]) == (one.score, one.bytes, one.sparsity)


def test_killed_and_asked_again_it_ends_where_it_would_have(made, tmp_path, tiny_model, tiny_data):
    other = tiny.make_run(tiny.settings(tiny_model, tiny_data, compressions=(2.0,)), tmp_path / "other", "made")
    whole = found(other, Target(ratio=8))
    for stopped in (3, 20, 70):
        steps = search.search(made, "dense", Target(ratio=8), FEW, threads=1)
        for _ in range(stopped):
            next(steps)
        steps.close()  # as if it was killed
    path = made.later / "search-dense.jsonl"
    with open(path, "ab") as file:
        file.write(b'{"key":"torn')
    before = len(path.read_bytes().splitlines())
    again = found(made, Target(ratio=8))
    assert lasting(again) == lasting(whole) and again["measured"] < whole["measured"]
    assert whole["measured"] == whole["asked"]  # uniform settings and the other sentences count as well
    assert before > 60
    once_more = found(made, Target(ratio=8))
    assert lasting(once_more) == lasting(whole) and once_more["measured"] == 0


def test_a_second_limit_takes_less(made):
    """What matrices do alone is known by then."""
    first, path = found(made, Target(ratio=6)), made.later / "search-dense.jsonl"
    lines, doing, grown = len(path.read_bytes().splitlines()), "", Counter()
    for _, _, what in search.search(made, "dense", Target(ratio=9), FEW, threads=1):
        now = len(path.read_bytes().splitlines())
        grown[doing] += now - lines
        lines, doing = now, what if isinstance(what, str) else ""
    second = mixtures.named(made, "9x").about
    assert grown["one at a time"] == 0 and grown["swaps"] > 0 and second["measured"] < first["measured"]
    assert grown["errors of every matrix"] <= len(made.layout.matrices)  # of the uniform setting that it starts from
    assert second["encoder_bytes"] <= first["encoder_bytes"]
    assert {one.name for one in mixtures.found(made).values()} == {"6x", "9x"}


def test_bytes_of_the_model_and_a_stage_that_is_cut_already(made):
    dense = found(made, Target(bytes=38_000))
    assert dense["bytes"] <= 38_000 and dense["name"] == "38000-bytes"
    cut = found(made, Target(ratio=8), "retrain-2x")
    assert cut["ratio"] >= 8 and mixtures.named(made, "8x").stage == "retrain-2x"


def test_a_predicted_speedup_chooses_blocks_alone(made, monkeypatch):
    with pytest.raises(InputError, match="never calibrated"):
        monkeypatch.setattr(limits, "usual_profile", lambda: None)
        found(made, Target(speedup=1.2))
    profile = make_profile()
    monkeypatch.setattr(limits, "usual_profile", lambda: profile)
    with pytest.raises(InputError, match="speedup 1000 cannot be reached with these settings; the largest is"):
        found(made, Target(speedup=1000))
    most = float(str(pytest.raises(InputError, found, made, Target(speedup=1000)).value).rsplit(" ", 1)[1])
    answer = found(made, Target(speedup=most * 0.9))
    assert answer["predicted_speedup"] >= most * 0.9 and answer["cut"]["formats"] == ""
    assert "no time" in answer["speed_note"] and answer["path"]


# ---------------------------------------------------------------- the command


def test_the_command_and_what_opens_its_mixture(made, tmp_path):
    runs = f"--runs-dir={made.path.parent}"
    options = ("--ratio=8", "--shares=0.5", "--patterns=none", "--bits=8,4", "--sentences=16", "--threads=1", "--json")
    done = prune_core("search", "made", runs, *options)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["ratio"] >= 8 and {"setting", "bytes", "score", "uniform_score", "steps", "seconds"} <= answer.keys()
    assert "left" in done.stderr and "note: only" in done.stderr
    done = prune_core("evaluate", "made", runs, "--mixture=8x", "--json")
    real = json.loads(done.stdout.splitlines()[-1])
    assert (real["score"], real["bytes"], real["formats"]) == (answer["score"], answer["bytes"],
                                                              answer["cut"]["formats"])
    done = prune_core("export", "made", tmp_path / "out", runs, "--mixture=8x", "--to=packed", "--json")
    assert done.returncode == 0, done.stderr
    (packed,) = (tmp_path / "out").glob("*.safetensors")
    assert packed.stat().st_size == answer["bytes"]
    (setting,) = from_json('[{"mixture": "8x"}]', Run(made.path))
    assert setting.cut == mixtures.named(made, "8x").cut
    for words, more in (("one of the two", ("--mixture=8x", "--sparsity=0.5")), ("no mixture '9x'", ("--mixture=9x",))):
        done = prune_core("evaluate", "made", runs, *more)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_usual_patterns_that_do_not_fit_are_left_out_and_named_ones_refused(tiny_model, tiny_data, tmp_path):
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data, block="1x2", compressions=(2.0,)), tmp_path, "narrow")
    options = ("search", run.name, f"--runs-dir={tmp_path}", "--ratio=6", "--shares=0.5", "--bits=8,4",
               "--sentences=16", "--threads=1", "--json")
    done = prune_core(*options)
    assert done.returncode == 0 and "note: without 1:4, as nothing was said of patterns" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["patterns"] == ["2:4"]
    done = prune_core(*options, "--patterns=1:4")
    assert done.returncode == 2 and "pattern 1:4 and block 1x2 contradict" in done.stderr and not done.stdout


@pytest.mark.parametrize("options, words", [
    (("--ratio=0.5",), "more than 1"), (("--ratio=nan",), "out of range"),
    ((), "one of --ratio, --bytes and --speedup"),
    (("--ratio=8", "--bytes=9"), "--ratio and --bytes"), (("--ratio=10000",), "the largest is"),
    (("--bytes=10",), "the least is"), (("--speedup=2",), "calibrate"), (("--ratio=8", "--phase=dance"), "dance"),
    (("--ratio=8", "--by=taylor"), "taylor"), (("--ratio=8", "--bits=9"), "bits '9'"),
    (("--ratio=8", "--sentences=0"), "sentences 0"), (("--ratio=8", "--data=nowhere"), "nowhere")])
def test_bad_input_is_one_line(made, options, words):
    done = prune_core("search", "made", f"--runs-dir={made.path.parent}", *options)
    assert done.returncode == 2 and words in done.stderr and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_ctrl_c_says_how_to_go_on(made, monkeypatch):
    from prune_core.cli import search as command

    def steps():
        yield 0, 10, "one at a time"
        raise KeyboardInterrupt

    with pytest.raises(command.Interrupted, match="same command"):
        command._last(steps())


# ---------------------------------------------------------------- the paired difference


def test_a_paired_difference_by_hand():
    task, labels = TASKS["sst2"], np.array([0, 1] * 50)
    right = np.stack([1 - labels, labels], 1).astype(np.float32)
    wrong_once = right.copy()
    wrong_once[:10] = 1 - wrong_once[:10]
    apart, low, high = metrics.paired(task, right, wrong_once, labels)
    assert apart == pytest.approx(0.1) and 0.03 < low < 0.06 < 0.14 < high < 0.18  # 0.1 +- 1.96 sqrt(.09 / 100)
    assert metrics.paired(task, right, right, labels) == (0, 0, 0)


@pytest.mark.parametrize("name", ["mrpc", "cola", "stsb"])
def test_a_paired_difference_of_other_metrics(name):
    task, random = TASKS[name], np.random.default_rng(0)
    labels = random.integers(0, 2, 400) if task.labels else random.uniform(0, 5, 400)
    truth = np.stack([1 - labels, labels], 1) if task.labels else labels[:, None]
    good, bad = (truth + random.normal(0, spread, truth.shape) for spread in (0.5, 1.5))
    apart, low, high = metrics.paired(task, good, bad, labels)
    real = [metrics.score(task, one, labels)[task.metrics[0]] for one in (good, bad)]
    assert apart == pytest.approx(real[0] - real[1]) and 0 < low < apart < high
