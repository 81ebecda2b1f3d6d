"""The exact score of any cut of a finished run, against one made by plain loops."""

from __future__ import annotations

import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from prune_core import InputError
from prune_core.evaluation import exact
from prune_core.models import encoders
from prune_core.runs import places
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of, default_stage
from prune_core.tasks import glue, hub


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    """A complete run, 16x1 in every matrix alike, at 1.5x and 3x."""
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


@pytest.fixture
def copied(made, tmp_path) -> Run:
    """One that may be damaged."""
    return Run(shutil.copytree(made.path, tmp_path / "copied", ignore=shutil.ignore_patterns("scores")))


def looped_score(run: Run, stage: str, keep) -> tuple[float, float]:
    """(accuracy, share of zeros) with every 16x1 group zeroed for which keep(matrix, norm) is false."""
    encoder, data = encoders.load(run.config.model, 2), glue.load(run.task, run.data)
    tensors = load_file(run.path / "weights" / f"{stage}.safetensors")
    with torch.no_grad():
        for name, parameter in encoder.trainable().items():
            parameter.copy_(tensors[name])
        for matrix in encoder.matrices:
            weight = encoder.weights[matrix.name]
            for i in range(0, matrix.m, 16):
                for j in range(matrix.n):
                    if not keep(matrix, float(weight[i : i + 16, j].norm())):
                        weight[i : i + 16, j] = 0.0
        encoder.model.eval()
        right = sum(int(encoder.model(**encoder.tokenizer(*text, return_tensors="pt")).logits.argmax()) == label
                    for text, label in zip(data.main_dev.texts, data.main_dev.labels, strict=True))
    zero = sum(int((w == 0).sum()) for w in encoder.weights.values()) / sum(w.numel() for w in encoder.weights.values())
    return right / len(data.main_dev), zero


# ---------------------------------------------------------------- exact scores


def test_a_threshold_cuts_and_scores_as_plain_loops_do(made):
    answer = exact.evaluate(made, "dense", cut_of(made, None, 0.8, scope="global"), threads=1)
    score, zero = looped_score(made, "dense", lambda matrix, norm: norm > 0.8)
    assert 0.1 < zero < 0.9
    assert (answer["score"], answer["threshold"], answer["examples"]) == (score, 0.8, 24)
    assert answer["sparsity"] == pytest.approx(zero, abs=1e-12)
    assert answer["compression_encoder"] == pytest.approx(1 / (1 - zero), rel=1e-12)


def test_a_threshold_per_layer_cuts_each_at_its_own(made):
    cut = cut_of(made, None, {"layer 0": 0.0, "layer 1": 0.9}, scope="layer")
    answer = exact.evaluate(made, "dense", cut, threads=1)
    score, zero = looped_score(made, "dense", lambda matrix, norm: norm > (0.0, 0.9)[matrix.layer])
    assert answer["score"] == score and answer["sparsity"] == pytest.approx(zero, abs=1e-12)
    assert answer["threshold"] == {"layer 0": 0.0, "layer 1": 0.9}


def test_a_sparsity_cuts_that_share_of_every_matrix_as_the_run_does(made):
    answer = exact.evaluate(made, "dense", cut_of(made, 0.25), threads=1)
    assert (answer["scope"], answer["sparsity"]) == ("matrix", 0.25)
    assert set(answer["threshold"]) == {m.name for m in made.layout.matrices}
    score, zero = looped_score(made, "dense", lambda matrix, norm: norm > answer["threshold"][matrix.name] * (1 + 1e-6))
    assert answer["score"] == score and zero == 0.25


@pytest.mark.parametrize("name, sparsity", [
    ("dense", 0.0), ("penalty-1.5x", 1 / 3), ("penalty-3x", 2 / 3), ("retrain-1.5x", 1 / 3), ("retrain-3x", 2 / 3)])
def test_at_its_own_point_a_stage_scores_what_was_recorded(made, name, sparsity):
    end = made.snapshots[made.saved(name)]
    answer = exact.evaluate(made, name, cut_of(made, sparsity), threads=1)
    assert answer["score"] == end.scores["accuracy"]
    assert all(answer[key] == end.point[key] for key in ("sparsity", "compression_encoder", "compression_model"))


def test_the_surface_and_the_exact_score_agree_where_both_have_all_examples(tiny_model, tiny_data, tmp_path):
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data, surface_examples=None, compressions=(2.0,)), tmp_path)
    for point in run.snapshots[run.saved("dense")].surface[::5]:
        assert exact.evaluate(run, "dense", cut_of(run, point.wanted), threads=1)["score"] == point.score


@pytest.mark.parametrize("sparsity, stage", [
    (None, "retrain-3x"), (0.9, "retrain-3x"), (0.7, "retrain-3x"), (0.5, "retrain-1.5x"),
    (0.1, "dense"), (0.0, "dense")])
def test_without_a_stage_it_is_the_most_trained_that_is_not_sparser(made, sparsity, stage):
    assert default_stage(made, sparsity) == stage


# ---------------------------------------------------------------- never computed twice


def no_computing(monkeypatch):
    def stream(*_):
        raise AssertionError("this score is known")

    monkeypatch.setattr("prune_core.evaluation.bench.stream", stream)


def asked(run: Run, sparsity: float = 0.25, stage: str = "dense", **settings) -> dict:
    return exact.evaluate(run, stage, cut_of(run, sparsity), threads=1, **settings)


def test_a_score_that_is_known_is_not_computed_again(copied, monkeypatch):
    first = asked(copied)
    assert len(list((copied.path / "scores").iterdir())) == 1
    no_computing(monkeypatch)
    times = {"seconds", "seconds_to_first"}
    again = {k: v for k, v in asked(copied).items() if k not in times}
    assert again == {k: v for k, v in first.items() if k not in times}


@pytest.mark.parametrize("other", ["mask", "stage", "weights", "embeddings", "data", "fresh"])
def test_what_determines_a_score_is_in_its_key(copied, tiny_model, tiny_data, tmp_path, monkeypatch, other):
    asked(copied)
    no_computing(monkeypatch)
    source, file = None, copied.path / "weights" / "dense.safetensors"
    if other == "weights":
        tensors = load_file(file)
        tensors["classifier.bias"] += 1e-3
        save_file(tensors, file)
    elif other == "embeddings":
        model = tiny.checkpoint(tmp_path / "other", seed=7)
        del copied.about["checkpoint"]  # as in runs of before it was kept: today another checkpoint is refused
        monkeypatch.setattr(encoders, "load", lambda name, *rest, load=encoders.load, **more: load(str(model), *rest))
    elif other == "data":
        source = str(tiny.data_folder(tmp_path / "data", ("sst2",), dev=23))
    with pytest.raises(AssertionError, match="is known"):
        asked(copied, 0.5 if other == "mask" else 0.25, "penalty-1.5x" if other == "stage" else "dense",
              source=source, fresh=other == "fresh")


def test_a_damaged_score_is_computed_again(copied):
    first = asked(copied)
    (file,) = (copied.path / "scores").iterdir()
    for content in (b"", b"[1]", b'{"scores": 3}', b"{}"):
        file.write_bytes(content)
        assert asked(copied)["score"] == first["score"]


def test_scores_of_a_run_that_ships_are_kept_elsewhere(copied, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "RECORDED", copied.path.parent)
    monkeypatch.setattr(places, "RUNS", tmp_path / "own")
    asked(Run(copied.path))
    assert not (copied.path / "scores").exists() and len(list((tmp_path / "own" / ".scores" / "copied").iterdir())) == 1


def test_running_scores_are_reported_and_end_at_the_score(copied):
    seen = []
    answer = asked(copied, report=seen.append)
    assert seen[-1].final.scores == answer["scores"] and answer["seconds_to_first"] <= answer["seconds"]


# ---------------------------------------------------------------- what cannot be answered


@pytest.mark.parametrize("cut, reason", [
    ({"share": 1.0}, "sparsity 1.0"), ({"share": -0.5}, "sparsity"),
    ({"threshold": -1.0}, "threshold"), ({"threshold": float("nan")}, "threshold"),
    ({"threshold": {"layer 0": 1.0}, "scope": "layer"}, "missing"),
    ({"share": 0.5, "scope": "row"}, "global, layer"),
    ({"share": 0.5, "stage": "retrain-9x"}, "it has: dense, penalty-1.5x")])
def test_a_bad_question_is_one_line(made, cut, reason):
    with pytest.raises(InputError, match=reason):
        exact.evaluate(made, cut.pop("stage", "dense"), cut_of(made, **cut))


def test_weights_that_are_gone_are_told_with_the_command(copied):
    shutil.rmtree(copied.path / "weights")
    with pytest.raises(RunError, match="ships without the weights of 'dense'.*python -m prune_core prune"):
        exact.evaluate(copied, default_stage(copied, 0.5), cut_of(copied, 0.5))


@pytest.mark.parametrize("damage, reason", [
    (lambda t: t.pop("classifier.weight"), "do not fit"),
    (lambda t: t.update({"classifier.weight": torch.zeros(5, 5)}), "do not fit"),
    (lambda t: t["classifier.weight"].fill_(float("nan")), "NaN")])
def test_weights_that_do_not_fit_are_told(copied, damage, reason):
    file = copied.path / "weights" / "dense.safetensors"
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    with pytest.raises(RunError, match=reason):
        exact.evaluate(copied, "dense", cut_of(copied, 0.0))


def test_weights_that_are_no_safetensors_are_told(copied):
    (copied.path / "weights" / "dense.safetensors").write_bytes(b"\x05")
    with pytest.raises(RunError, match="'dense' do not fit"):
        exact.evaluate(copied, "dense", cut_of(copied, 0.0))


def test_data_that_is_gone_is_told_and_never_replaced(made, tmp_path, no_hub, monkeypatch):
    monkeypatch.setattr(hub, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(InputError, match="is not a folder"):
        exact.evaluate(made, default_stage(made, 0.5), cut_of(made, 0.5), str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="needs sst2"):
        exact.evaluate(made, default_stage(made, 0.5), cut_of(made, 0.5), "nyu-mll/glue")
    with pytest.raises(InputError, match="needs sst2"):
        exact.evaluate(made, default_stage(made, 0.5), cut_of(made, 0.5), "practice")
