"""Memory by formula: against numbers counted by hand, what autograd really saves, and real processes."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import footprint, packing
from prune_core.execution.footprint import Asked
from prune_core.execution.whole import Whole, small_model
from prune_core.hardware import memory, sizes
from prune_core.hardware.memory import Way
from prune_core.hardware.sizes import Layer, Sizes
from prune_core.latency.profile import uncut
from prune_core.latency.strips import plan_encoder
from prune_core.latency.work import Batch
from prune_core.models import encoders, skeleton

SMALL = Layer(hidden=32, heads=4, width=32, inner=128)
PLAIN, NONE = Way("plain"), Way("fused", dropout=False)


def test_a_layer_saves_what_was_counted_by_hand():
    """b = 2, s = 16, h = 32, a = 4, f = 128, fp32."""
    assert memory.saved(SMALL, Batch(2, 16), PLAIN) == 98_816
    assert memory.saved(SMALL, Batch(2, 16), NONE) == 32 * 1024 + 8 * 4096 + 4 * 2 * 4 * 16 + 16 * 32 == 66_560
    assert memory.saved(SMALL, Batch(2, 16), Way("fused")) == 98_816  # on a CPU dropout takes the plain way


def test_bert_base_at_the_known_lengths():
    """MiB of twelve layers, 32 sentences of 128 and of 512."""
    base = Layer(768, 12, 768, 3072)
    got = [round(12 * memory.saved(base, Batch(32, length), way) / 2**20)
           for way in (PLAIN, NONE) for length in (128, 512)]
    assert got == [3457, 24195, 2307, 9228]


def test_half_precision_on_a_gpu_is_the_published_form():
    """34 bsh + 5 bass with four times as many neurons, but that autocast keeps both norms' inputs in fp32 and casts
    what goes into query, key and value three times: 4 + 4 bsh more."""
    layer, batch = Layer(64, 2, 64, 256), Batch(3, 8)
    bsh, bass = 3 * 8 * 64, 3 * 2 * 8 * 8
    saved = memory.saved(layer, batch, Way("plain", "bf16", device="cuda"))
    assert saved - 16 * batch.tokens == (34 + 8) * bsh + 5 * bass


@pytest.mark.parametrize(("attention", "dropout", "bf16"), [
    ("plain", True, False), ("plain", False, False), ("fused", False, False), ("plain", True, True),
    ("plain", False, True)])
def test_autograd_saves_what_the_formula_says(attention, dropout, bf16):
    """Two layers less one: what is outside the layers cancels out."""
    counted = [autograd_saves(layers, attention, dropout, bf16) for layers in (2, 3)]
    layer, way = Layer(32, 2, 32, 64), Way(attention, "bf16" if bf16 else "fp32", dropout)
    casts = 2 * (4 * 32 * 32 + 2 * 32 * 64) if bf16 else 0  # of the layer's matrices, which autocast keeps
    assert counted[1] - counted[0] == memory.saved(layer, Batch(3, 24), way) + casts


def autograd_saves(layers: int, attention: str, dropout: bool, bf16: bool) -> int:
    """Bytes that a forward pass leaves for the backward one, each tensor once, parameters not counted."""
    model = tiny.model("bert", num_hidden_layers=layers).train(dropout)
    model.set_attn_implementation("eager" if attention == "plain" else "sdpa")
    model.bert.embeddings.requires_grad_(False)
    ids = torch.ones(3, 24, dtype=torch.long)
    own, kept = {p.data_ptr() for p in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=ids, attention_mask=ids, labels=torch.zeros(3, dtype=torch.long)).loss
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)


def test_sizes_of_a_layout_are_those_of_the_model():
    model = tiny.model("bert")
    encoder = encoders.describe("tiny", model, None)
    got = sizes.of(encoder.layout(BlockShape(16, 1)), 2)
    model.bert.embeddings.requires_grad_(False)
    assert got.weights == sum(p.numel() for p in model.parameters())
    assert got.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert got.layers == (Layer(32, 2, 32, 64),) * 2


def half_gone() -> tuple[torch.nn.Module, BlockMask]:
    """A tiny BERT, and a mask that leaves one of two heads and 48 of 64 neurons in layer 0."""
    model = tiny.model("bert").eval()
    layout = encoders.describe("tiny", model, None).layout(BlockShape(16, 1))
    kept = dict(uncut(layout).kept)
    for matrix in layout.matrices[:6]:
        if matrix.type in ("value", "intermediate"):
            kept[matrix.name] = kept[matrix.name].copy()
            kept[matrix.name][0] = False
    return model, BlockMask(layout, kept)


def test_heads_and_neurons_that_are_gone_take_no_memory():
    model, mask = half_gone()
    encoder = encoders.describe("tiny", model, None)
    dense = sizes.of(encoder.layout(BlockShape(16, 1)), 2)
    small = sizes.smaller(dense, mask, 2)
    assert small.layers == (Layer(32, 1, 16, 48), Layer(32, 2, 32, 64))
    footprint.take_out_(model, mask)
    assert small.weights == sum(p.numel() for p in model.parameters())
    model.train()(input_ids=torch.ones(2, 7, dtype=torch.long)).logits.sum().backward()  # it runs, and trains
    for of in (memory.training, memory.answering):
        assert memory.peak(of(small, Batch(8, 64), PLAIN)) < memory.peak(of(dense, Batch(8, 64), PLAIN))


@pytest.mark.parametrize("path", ["fp32", "bf16 avx512", "int8 vnni"])
def test_packed_bytes_are_those_of_packing(path):
    from prune_core.execution import paths

    if paths.why_not(path):
        pytest.skip(paths.why_not(path))
    model, mask = half_gone()
    random = np.random.default_rng(0)
    mask = BlockMask(mask.layout, {name: kept & (random.random(kept.shape) < 0.5) for name, kept in mask.kept.items()})
    small = small_model(model, mask, path.split()[0], path)
    whole = next(module for module in small.modules() if isinstance(module, Whole))
    takes = packing.blocking(path)
    plans = plan_encoder(mask, 2, takes)
    assert sum(memory.packed(plan, path, takes) for plan in plans.values()) == sum(p.nbytes for p in whole._kept)


def test_the_compact_model_keeps_no_graph():
    """What its biases were made of is gone: a dead neuron's constant moves into the next bias."""
    model, mask = half_gone()
    small = small_model(model, mask)
    whole = next(module for module in small.modules() if isinstance(module, Whole))
    assert not any(t.requires_grad for packed in whole._kept for t in packed.tensors if t is not None)


def test_the_peak_of_a_small_batch_is_at_the_end_of_the_backward_pass():
    encoder = Sizes((Layer(768, 12, 768, 3072),) * 12, 592_130, 23_837_184)
    parts = memory.training(encoder, Batch(1, 16), NONE)
    assert parts["activations"] == 0 and parts["gradients"] == 4 * encoder.trained
    large = memory.training(encoder, Batch(32, 128), NONE)
    assert large["activations"] > 4 * encoder.trained > large["gradients"]


def test_a_teacher_and_a_methods_copies_come_on_top():
    encoder = Sizes((Layer(64, 1, 64, 256),) * 2, 100, 1000)
    plain = memory.training(encoder, Batch(4, 16), NONE)
    for way, part, more in (
            (Way("fused", dropout=False, teacher="outputs"), "teacher", 4 * encoder.weights),
            (Way("fused", dropout=False, teacher="hidden"), "teacher", 4 * encoder.weights + 4 * 3 * 4 * 16 * 64),
            (Way("fused", dropout=False, copies=2), "method", 8 * 2 * (4 * 64 * 64 + 2 * 64 * 256))):
        parts = memory.training(encoder, Batch(4, 16), way)
        assert parts[part] == more and sum(parts.values()) - sum(plain.values()) == more


def test_the_longest_that_fits():
    assert memory.longest(10, [16, 32, 64], lambda length: length / 4) == 32
    assert memory.longest(1, [16, 32], lambda length: length / 4) is None


# ---------------------------------------------------------------- real processes


@pytest.mark.parametrize("asked", [
    Asked("dense", 8, 128), Asked("dense", 8, 128, training=True, attention="plain"), Asked("compact", 8, 128)],
    ids=["answering", "training", "compact"])
def test_a_fresh_process_takes_what_was_predicted(asked):
    """MiniLM; within a tenth, as everywhere (python -m tests.bench memory measures the whole grid)."""
    made = skeleton.of("minilm")
    encoder, batch, way = made.sizes(), Batch(asked.batch, asked.length), Way(asked.attention)
    random = np.random.default_rng(0)
    mask = BlockMask(made.layout(), {m.name: random.random(made.layout().block.grid(m.m, m.n)) < 0.3
                                     for m in made.layout().matrices})
    if asked.kind == "compact":
        asked, parts = footprint.with_mask(asked, mask), memory.compact(encoder, mask, made.heads, batch)
    else:
        parts = (memory.training if asked.training else memory.answering)(encoder, batch, way)
    measured = footprint.measure(made.config, asked)
    assert memory.peak(parts) == pytest.approx(measured["mb"], rel=0.1)
    assert measured["libraries_mb"] > 50


def test_what_is_not_there_is_one_line(monkeypatch):
    config = skeleton.of("2x64").config
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device 'cuda' is not there"):
            footprint.measure(config, Asked("dense", 1, 8, device="cuda"))
    monkeypatch.setenv("PYTHONHOME", "nowhere")  # so that the process does not start
    with pytest.raises(InputError, match="^it cannot be measured: "):
        footprint.measure(config, Asked("dense", 1, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: the allocator's peak is not measured")
def test_the_allocators_peak_on_a_gpu():
    made = skeleton.of("6x384")
    way = Way("fused", dropout=False, device="cuda")
    measured = footprint.measure(made.config, Asked("dense", 32, 128, training=True, dropout=False, device="cuda"))
    assert memory.peak(memory.training(made.sizes(), Batch(32, 128), way)) == pytest.approx(measured["mb"], rel=0.1)


@pytest.mark.parametrize(("name", "why"), [
    ("0x768", "no size that BERT's build has"), ("12x100", "a multiple of 64"), ("!", "neither minilm, nor a folder")])
def test_a_model_that_is_none(name, why):
    with pytest.raises(InputError, match=why) as caught:
        skeleton.of(name)
    assert "\n" not in str(caught.value)


def test_a_size_is_made_without_its_weights():
    base = skeleton.of("12x768")
    assert (base.weights, base.heads, base.positions) == (109_483_778, 12, 512)
    with pytest.raises(InputError, match="length 513 is more than model '12x768' has positions for; needed: at most 512"
                       ):
        base.check_length(513)
