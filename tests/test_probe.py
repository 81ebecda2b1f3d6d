"""Two sentences through an encoder before training: what passes stays as it was, what fails is said in one line."""

from __future__ import annotations

import re

import pytest
import tiny
import torch

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.execution import compact, engines, native, probe
from prune_core.models import encoders
from prune_core.training import session

BLOCK = BlockShape.parse("8x1")
MOBILEBERT = {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32, "num_feedforward_networks": 2}
ESM = {"mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": False}


def encoder_of(architecture: str, **settings) -> encoders.Encoder:
    """Random weights, biases too."""
    model = tiny.model(architecture, **settings)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw)
                            + (name.endswith("weight") and "norm" in name.lower()))
    return encoders.describe(architecture, model, tiny.tokenizer("distilbert"))


def refused(encoder: encoders.Encoder) -> str:
    with pytest.raises(InputError) as error:
        probe.probe(encoder, BLOCK)
    told = str(error.value)
    assert "\n" not in told and encoder.model.config.model_type in told and "needed:" in told
    return told


@pytest.mark.parametrize("architecture", [*tiny.ARCHITECTURES, "deberta", "camembert", "xlm-roberta"])
def test_what_is_tested_passes_and_stays_as_it_was(architecture):
    encoder = encoder_of(architecture)
    before, training = {name: t.clone() for name, t in encoder.model.state_dict().items()}, encoder.model.training
    drawn = torch.random.get_rng_state()
    probe.probe(encoder, BLOCK)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.model.state_dict().items())
    assert encoder.model.training == training and torch.equal(drawn, torch.random.get_rng_state())
    assert all(p.grad is None for p in encoder.model.parameters())


@pytest.mark.parametrize("architecture, settings", [
    ("mobilebert", MOBILEBERT), ("esm", ESM), ("convbert", {})])
def test_others_pass_whole(architecture, settings):
    probe.probe(encoder_of(architecture, **settings), BLOCK)


def test_everything_that_fails_is_named(monkeypatch):
    """CANINE reads letters, of which its inner layers see every fourth."""
    def fails(*_, **__):
        raise RuntimeError("\x1b[96mit cannot be\n followed\x1b[0m" + 500 * "!")

    monkeypatch.setattr(engines, "to_onnx", fails)
    told = refused(encoder_of("canine"))
    for part in ("hidden states: of shape", "Gram matrices: canine.", "export to ONNX: RuntimeError: it cannot be f"):
        assert part in told
    assert "\x1b" not in told and len(told) < 900
    assert "not among those tested here" in told


def test_without_a_dense_model_nothing_further_is_tried():
    told = refused(encoder_of("mpnet", relative_attention_num_buckets=8))  # transformers counts 32 all the same
    assert "the dense model: IndexError" in told and "compact" not in told and "with these settings" in told


def test_matrices_that_are_part_of_no_output():
    told = refused(encoder_of("albert", num_hidden_groups=3))
    assert "albert_layer_groups.2" in told and "6 in all" in told


def test_a_compact_model_that_is_another_one(monkeypatch):
    monkeypatch.setattr(compact, "_move_constants_", lambda *_: None)
    assert re.search(r"compact differs from masked dense by \d", refused(encoder_of("bert")))


@pytest.mark.skipif(native.library() is None, reason=f"kernels: {native.why_not()}")
def test_sentences_end_to_end_that_give_something_else():
    """A decoder whose layers do not say that they look one way."""
    encoder = encoder_of("roberta", is_decoder=True)
    probe.probe(encoder, BLOCK)
    for module in encoder.model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    assert "compact without padding differs" in refused(encoder)


def test_a_graph_that_is_another_one(monkeypatch):
    whole = engines.session

    def off(*arguments):
        return lambda inputs: whole(*arguments)(inputs) + 0.5

    monkeypatch.setattr(engines, "session", off)
    assert "export to ONNX: the graph differs from masked dense by 0.5" in refused(encoder_of("ernie"))


def test_only_what_will_be_asked_for_must_be_there(monkeypatch):
    encoder = encoder_of("bert")
    monkeypatch.setattr(probe, "mixed", lambda *_: {})
    probe.probe(encoder, BLOCK, mixup=False)
    assert "mixed sentences" in refused(encoder)


def test_no_memory_is_no_matter_of_the_architecture(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(probe, "compact", full)
    with pytest.raises(MemoryError):
        probe.probe(encoder_of("bert"), BLOCK)


def test_a_run_is_refused_before_anything_is_written(tmp_path, tiny_data):
    folder = tiny.checkpoint(tmp_path / "model", "albert", num_hidden_groups=3)
    asked = tiny.settings(folder, tiny_data)
    with pytest.raises(InputError, match="did not pass the probe: gradients"):
        session.start(asked, tmp_path / "runs", "one", "", tiny.silent)
    assert not (tmp_path / "runs" / "one").exists()
