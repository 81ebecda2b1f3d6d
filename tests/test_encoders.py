"""Checkpoints of every architecture, and everything that is no checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import islice

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.models import checkpoints, encoders
from prune_core.models.checkpoints import _EMBEDDED_SHA256
from prune_core.models.encoders import TYPES
from prune_core.runs.snapshots import Snapshot

SIDES = {"intermediate": (tiny.INNER, tiny.HIDDEN), "output": (tiny.HIDDEN, tiny.INNER)}


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def folder(request, tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("model") / request.param, request.param)


def test_all_six_types_are_found_in_every_layer_with_their_sides(folder):
    encoder = encoders.load(str(folder), 2)
    layers = 1 if folder.name == "albert" else tiny.LAYERS  # ALBERT shares one layer: it counts once
    assert [(m.layer, m.type) for m in encoder.matrices] == [(layer, kind) for layer in range(layers) for kind in TYPES]
    for matrix in encoder.matrices:
        assert (matrix.m, matrix.n) == SIDES.get(matrix.type, (tiny.HIDDEN, tiny.HIDDEN)), matrix.name
        assert encoder.weights[matrix.name].shape == (matrix.m, matrix.n)


def test_the_weights_are_those_of_the_checkpoint(folder):
    encoder, saved = encoders.load(str(folder), 2), load_file(folder / "model.safetensors")
    for name, weight in encoder.weights.items():
        assert torch.equal(weight, saved[f"{name}.weight"])


def test_nothing_else_in_the_encoder_is_a_large_linear_layer(folder):
    """Every matrix of an encoder layer is prunable, but for the factored embeddings and the head."""
    encoder = encoders.load(str(folder), 2)
    inside = [name for name, module in encoder.model.named_modules()
              if isinstance(module, torch.nn.Linear) and (".layer." in name or "albert_layers" in name)]
    assert set(inside) == set(encoder.linears)


def test_the_model_weights_are_all_its_parameters(folder):
    encoder = encoders.load(str(folder), 2)
    by_hand = sum(p.numel() for p in {id(p): p for p in encoder.model.parameters()}.values())
    assert encoder.layout(BlockShape.parse("16x1")).model_weights == by_hand


def test_embeddings_are_frozen_unless_asked_for(folder):
    frozen, trained = encoders.load(str(folder), 2), encoders.load(str(folder), 2, train_embeddings=True)
    assert not any(p.requires_grad for p in frozen.embeddings.parameters())
    assert len(trained.trainable()) > len(frozen.trainable()) > len(frozen.weights)
    assert all(p.requires_grad for p in trained.model.parameters())


def test_two_steps_of_the_whole_loop(folder, tiny_data):
    """Of every phase: dense, penalty, masked retraining."""
    asked = tiny.settings(folder, tiny_data, task="rte", dense_steps=2, penalty_steps=2, retrain_steps=2,
                          compressions=(2.0,), train_examples=16, dev_examples=6)
    pruning = tiny.pruning(asked)
    snapshots = [event for event in pruning if isinstance(event, Snapshot)]
    assert [s.saved for s in snapshots if s.saved] == ["dense", "penalty-2x", "retrain-2x"]
    assert all(s.loss > 0 for s in snapshots if s.loss is not None)
    zeros = sum(int((w == 0).sum()) for w in pruning.encoder.weights.values())
    assert zeros >= pruning.layout.encoder_weights // 2


def test_every_prunable_weight_takes_part_in_training(folder, tiny_data):
    pruning = tiny.pruning(tiny.settings(folder, tiny_data))
    before = {name: w.detach().clone() for name, w in pruning.encoder.weights.items()}
    list(islice((e for e in pruning if isinstance(e, Snapshot)), 4))
    assert all(not torch.equal(w, before[name]) for name, w in pruning.encoder.weights.items())


# ---------------------------------------------------------------- the embedded checkpoint


@pytest.fixture(scope="module")
def minilm():
    return encoders.load("minilm", 2)


def test_minilm_has_36_matrices_and_10_616_832_prunable_weights(minilm):
    layout = minilm.layout(BlockShape.parse("64x1"))
    assert len(layout.matrices) == 36
    assert layout.encoder_weights == 10_616_832 == 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert {m.layer for m in layout.matrices} == set(range(6))


def test_minilms_weights_are_the_known_file():
    folder = checkpoints._embedded()
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == _EMBEDDED_SHA256


def test_a_minilm_that_is_not_the_known_one_is_refused(monkeypatch):
    monkeypatch.setattr(checkpoints, "_EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(InputError, match="not the known one"):
        encoders.load("minilm", 2)


def test_the_head_is_drawn_from_the_seed(tiny_model):
    heads = [encoders.load(str(tiny_model), 3, seed).model.classifier.weight for seed in (0, 0, 1)]
    assert heads[0].shape == (3, tiny.HIDDEN)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_loading_leaves_the_random_state_alone(tiny_model):
    before = torch.random.get_rng_state()
    encoders.load(str(tiny_model), 3, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------- what is no checkpoint


def refused(name) -> str:
    """The message with which this model is refused: one line."""
    with pytest.raises(InputError) as error:
        encoders.load(str(name), 2)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def copy(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_a_folder_without_config(copy):
    (copy / "config.json").unlink()
    assert "config.json is missing" in refused(copy)


def test_a_config_that_is_no_json(copy):
    (copy / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(copy)


def test_an_empty_folder(tmp_path):
    assert "config.json is missing" in refused(tmp_path)


def test_a_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_pickle_is_never_opened(copy, name):
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    message = refused(copy)
    assert name in message and "pickle" in message and "safetensors" in message
    assert not (copy / "opened").exists()


def test_a_pickle_beside_safetensors_is_not_read(copy):
    (copy / "pytorch_model.bin").write_bytes(b"not a pickle")
    assert len(encoders.load(str(copy), 2).matrices) == 12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(copy, value):
    tensors = load_file(copy / "model.safetensors")
    spoiled = "bert.encoder.layer.1.output.dense.weight"
    tensors[spoiled][3, 4] = value
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert spoiled in refused(copy) and "NaN" in refused(copy)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"\xff" * 64 + b[64:], lambda b: b""])
def test_damaged_safetensors(copy, damage):
    file = copy / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    assert "cannot be loaded" in refused(copy)


def test_a_config_that_only_knows_its_own_code(copy):
    (copy / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    (copy / "evil.py").write_text("open('ran', 'w')")
    assert "own code" in refused(copy) and not (copy / "ran").exists()


def test_a_model_type_that_is_not_known(copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "not-a-transformer"}))
    assert "cannot be loaded" in refused(copy)


def test_a_model_without_prunable_layers_says_so(tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model("gpt2", n_layer=1, n_embd=16, n_head=2,
                                  vocab_size=len(tiny.VOCABULARY), pad_token_id=0)
    with encoders.quiet():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
        tiny.tokenizer("distilbert").save_pretrained(tmp_path)
    assert "query, key, value" in refused(tmp_path)


@pytest.mark.parametrize("name", ["no/such/model/here", "../escape", "a b", ".hidden"])
def test_a_name_that_can_be_no_model(no_hub, name):
    assert "neither minilm, nor a folder, nor a hub name" in refused(name)


def test_an_unknown_name_while_the_hub_is_silent(no_hub):
    message = refused("someone/unknown-model")
    assert "someone/unknown-model" in message and "hub did not answer" in message and "minilm" in message
