"""The whole encoder in one pass, by every path that this processor can run: the numbers of the masked dense model."""

from __future__ import annotations

import copy
import platform

import numpy as np
import pytest
import tiny
import torch

from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.dev_score import apply_mask_
from prune_core.execution import native, paths, whole
from prune_core.execution.compact import CompactLinear
from prune_core.execution.whole import Whole, small_model
from prune_core.models import encoders

RUNNABLE = [path for own in paths.PATHS.values() for path in own if not paths.why_not(path)]
FAR = {"fp32": 3e-6, "bf16": 0.03, "int8": 0.1}  # of the largest hidden value; a wrong path is off by 0.3 and more
SHAPES = ("16x1", "8x1", "1x16", "4x4", "1x1", "32x1", "16x16", "1x32")
LENGTHS = (40, 3, 17, 32, 1, 8, 33)
pytestmark = pytest.mark.skipif(not RUNNABLE, reason=f"kernels: {native.why_not()}")


def forget() -> None:
    """What was found out about compiler and processor."""
    for function in (native._loaded, paths.why_not, paths.timed, paths.flags, paths._permission):
        function.cache_clear()


@pytest.fixture
def fresh():
    forget()
    yield
    forget()


def case(architecture: str, shape: str, seed: int = 0, share: float = 0.6, **more):
    """(encoder, mask of rows, columns, heads and neurons that are gone, masked dense model in float64)."""
    model = tiny.model(architecture, seed, **more).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that do something
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    encoder = encoders.describe(architecture, model, None)
    layout, random = encoder.layout(BlockShape.parse(shape)), np.random.default_rng(seed)
    kept = {}
    for matrix in layout.matrices:
        down, across = layout.block.grid(matrix.m, matrix.n)
        kept[matrix.name] = (random.random((down, across)) < share) * (random.random((down, 1)) < 0.8)
        if matrix.type == "value" and down > 1:
            kept[matrix.name][: down // 2] = False
    mask, dense = BlockMask(layout, kept), copy.deepcopy(model).double()
    apply_mask_({name: dense.get_submodule(name).weight for name in encoder.linears}, mask)
    return encoder, mask, dense


def batch(lengths=LENGTHS, seed: int = 0, padding: int = 0) -> dict[str, torch.Tensor]:
    draw, lengths = torch.Generator().manual_seed(seed), torch.tensor(lengths)
    ids = torch.randint(5, len(tiny.VOCABULARY), (len(lengths), int(lengths.max())), generator=draw)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    ids[mask == 0] = padding
    return {"input_ids": ids, "attention_mask": mask}


def hidden(model, inputs, every: bool = True) -> torch.Tensor:
    """Last hidden states of all tokens that are no padding; `every`: of the last layer too."""
    base = model.base_model
    if isinstance(base, Whole) and every:
        base.encoder.first_only = 0
    with torch.inference_mode():
        return base(**inputs).last_hidden_state[inputs["attention_mask"].bool()]


def far(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("path", RUNNABLE)
@pytest.mark.parametrize("architecture", [one for one in tiny.ARCHITECTURES if one != "deberta-v2"])
def test_hidden_states_are_those_of_the_masked_model(architecture, path):
    for seed, shape in enumerate(SHAPES):
        encoder, mask, dense = case(architecture, shape, seed)
        small, inputs = small_model(encoder.model, mask, path.split()[0], path), batch()
        assert (small.choice.path, small.choice.why) == (path, "") and isinstance(small.base_model, Whole)
        assert far(hidden(small, inputs), hidden(dense, inputs)) < FAR[path.split()[0]], shape


@pytest.mark.parametrize("path", RUNNABLE)
def test_the_head_gets_what_it_reads(path):
    for architecture in tiny.ARCHITECTURES:
        encoder, mask, dense = case(architecture, "16x1")
        small, inputs = small_model(encoder.model, mask, path.split()[0], path), batch()
        with torch.inference_mode():
            got, wanted = small(**inputs).logits, dense(**inputs).logits
        assert far(got, wanted) < 2 * FAR[path.split()[0]]
        if isinstance(small.base_model, Whole):
            assert small.base_model.encoder.first_only, architecture


@pytest.mark.parametrize("path", RUNNABLE)
def test_the_same_bits_for_any_threads_and_any_company(path):
    encoder, mask, _ = case("bert", "16x1", 3)
    small, inputs = small_model(encoder.model, mask, path.split()[0], path), batch(LENGTHS * 3)
    for every in (False, True):
        small.base_model.encoder.first_only = 1
        one = hidden_of(small, inputs, every, 1)
        assert all(torch.equal(hidden_of(small, inputs, every, threads), one) for threads in (2, 3, 7))
        alone = [hidden_of(small, {name: each[at : at + 1, :n] for name, each in inputs.items()}, every, 2)
                 for at, n in enumerate(LENGTHS * 3)]
        assert torch.equal(torch.cat(alone), one)


def hidden_of(small, inputs, every: bool, threads: int) -> torch.Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        small.base_model.encoder.first_only = int(not every)
        with torch.inference_mode():
            out = small.base_model(**inputs).last_hidden_state
        return out[inputs["attention_mask"].bool()] if every else out[:, 0]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("path", RUNNABLE)
def test_first_tokens_alone_are_those_of_all(path):
    encoder, mask, _ = case("roberta", "8x1", 5)
    small, inputs = small_model(encoder.model, mask, path.split()[0], path), batch(LENGTHS * 9)
    assert torch.equal(hidden_of(small, inputs, False, 2),
                       hidden_of(small, inputs, True, 2)[inputs["attention_mask"].sum(1).cumsum(0).roll(1) * (
                           torch.arange(len(LENGTHS) * 9) > 0)])


@pytest.mark.parametrize("path", RUNNABLE)
def test_kept_columns_around_the_steps_and_nothing_at_all(path):
    """Strips of 0, 1, 2, ... columns: what a step takes together is filled up with nothing."""
    model = tiny.model("bert", hidden_size=96, intermediate_size=160, num_attention_heads=3).eval()
    encoder = encoders.describe("bert", model, None)
    layout = encoder.layout(BlockShape(32, 1))
    for count in (0, 1, 2, 3, 5, 31, 33, 63, 64, 65, 96):
        kept = {m.name: np.broadcast_to(np.arange(m.n) < count, layout.block.grid(m.m, m.n)).copy()
                for m in layout.matrices}
        for name in kept:
            kept[name][-1] = False
        mask, dense = BlockMask(layout, kept), copy.deepcopy(model).double()
        apply_mask_({name: dense.get_submodule(name).weight for name in encoder.linears}, mask)
        inputs = batch((37, 2))
        got = hidden(small_model(model, mask, path.split()[0], path), inputs)
        assert far(got, hidden(dense, inputs)) < FAR[path.split()[0]], count


@pytest.mark.parametrize("path", RUNNABLE)
@pytest.mark.parametrize("depth", [1, 5, 16, 33, 64])
def test_heads_of_any_depth_and_sentences_of_any_length(path, depth):
    model = tiny.model("bert", hidden_size=2 * depth, max_position_embeddings=150).eval()
    encoder = encoders.describe("bert", model, None)
    layout = encoder.layout(BlockShape(1, 1))
    mask = BlockMask(layout, {m.name: np.ones(layout.block.grid(m.m, m.n), bool) for m in layout.matrices})
    small, dense = small_model(model, mask, path.split()[0], path), copy.deepcopy(model).double()
    for lengths in ((1,), (2, 1), (15, 16, 17), (31, 32, 33), (127, 1, 130), tuple(range(1, 40))):
        assert far(hidden(small, batch(lengths)), hidden(dense, batch(lengths))) < 2 * FAR[path.split()[0]], lengths


@pytest.mark.parametrize("word", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_activations(word):
    for path in RUNNABLE:
        encoder, mask, dense = case("albert" if word == "gelu_new" else "bert", "16x1", hidden_act=word)
        small = small_model(encoder.model, mask, path.split()[0], path)
        assert isinstance(small.base_model, Whole)
        assert far(hidden(small, batch()), hidden(dense, batch())) < FAR[path.split()[0]]


def test_what_the_pass_does_not_know_runs_by_modules_and_says_so():
    for architecture, more, word in (("deberta-v2", {}, "deberta-v2"), ("bert", {"hidden_act": "silu"}, "activation")):
        for path in RUNNABLE:
            encoder, mask, dense = case(architecture, "16x1", **more)
            small, inputs = small_model(encoder.model, mask, path.split()[0], path), batch()
            assert word in small.choice.why and "module" in small.choice.path
            assert small.choice.dtype == path.split()[0]
            with torch.inference_mode():
                assert far(small(**inputs).logits, dense(**inputs).logits) < FAR[path.split()[0]]


@pytest.mark.parametrize("path", RUNNABLE)
def test_a_layer_alone_takes_rows_and_gives_rows(path):
    for m, n, block in ((64, 48, "16x1"), (48, 40, "8x1"), (32, 64, "1x16"), (3, 5, "3x1"), (200, 100, "100x1")):
        draw, shape = torch.Generator().manual_seed(m), BlockShape.parse(block)
        weight, bias = torch.randn(m, n, generator=draw) / n**0.5, torch.randn(m, generator=draw)
        kept = np.random.default_rng(n).random(shape.grid(m, n)) < 0.6
        layer = CompactLinear(weight, bias, kept, shape, gelu=True, path=path)
        masked = (weight * torch.from_numpy(shape.expand(kept, m, n))).double()
        for tokens in (0, 1, 5, 33, 250):
            x = torch.randn(tokens, n + 3, generator=draw)[:, 2:-1]
            wanted = torch.nn.functional.gelu(x.double() @ masked.T + bias)
            assert torch.allclose(layer(x).double(), wanted, atol=FAR[path.split()[0]], rtol=0), (m, n, tokens)


def test_more_than_logits_is_answered_by_modules():
    encoder, mask, dense = case("bert", "16x1")
    small, inputs = small_model(encoder.model, mask), batch()
    with torch.inference_mode():
        got, wanted = (each(**inputs, output_hidden_states=True).hidden_states for each in (small, dense))
    here = inputs["attention_mask"].bool()
    assert len(got) == len(wanted) and all(far(a[here], b[here]) < 1e-5 for a, b in zip(got, wanted, strict=True))


def test_padding_on_the_left_is_answered_right():
    encoder, mask, dense = case("bert", "16x1")
    inputs = {name: each.flip(1) for name, each in batch((5, 9)).items()}
    with torch.inference_mode():
        assert far(small_model(encoder.model, mask)(**inputs).logits, dense(**inputs).logits) < 1e-5


def test_ids_beyond_the_tables_are_refused():
    encoder, mask, _ = case("bert", "16x1")
    with torch.inference_mode(), pytest.raises(IndexError, match="words 10 to 999; the table has"):
        small_model(encoder.model, mask)(input_ids=torch.tensor([[10, 999]]))


def test_the_model_stays_as_it_is():
    encoder, mask, _ = case("bert", "16x1")
    encoder.model.train()
    before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    small = small_model(encoder.model, mask)
    assert not small.training and encoder.model.training and not isinstance(encoder.model.base_model, Whole)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.model.state_dict().items())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="builds for x86-64")
@pytest.mark.parametrize("flags", [("-mavx2", "-mfma"), ()])
def test_fp32_on_plainer_processors(flags, fresh, monkeypatch):
    monkeypatch.setattr(native, "_FLAGS", ("-O2", "-std=c++17", "-shared", "-fPIC", "-fopenmp", *flags))
    for seed, shape in enumerate(("16x1", "1x16", "4x4")):
        encoder, mask, dense = case("mpnet", shape, seed)
        small = small_model(encoder.model, mask)
        assert small.choice.path == "fp32"
        assert far(hidden(small, batch()), hidden(dense, batch())) < FAR["fp32"]


@pytest.mark.parametrize("path", [path for path in RUNNABLE if path != "fp32"])
def test_bf16_and_int8_are_about_as_near_to_float64_as_torch(path):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4}
    encoder, mask, dense = case("bert", "16x1", 2, share=0.9, **sizes)
    inputs = batch()
    wanted = hidden(dense, inputs)
    halved = copy.deepcopy(dense).bfloat16()
    rms = [float((hidden(each, inputs).double() - wanted).norm() / wanted.norm())
           for each in (small_model(encoder.model, mask, path.split()[0], path), halved)]
    assert rms[0] < rms[1] * (1.0 if path.startswith("bf16") else 12.0)


def test_spent_seconds_are_those_of_the_layers():
    encoder, mask, _ = case("bert", "16x1")
    small, spent, inputs = small_model(encoder.model, mask), np.zeros(tiny.LAYERS), batch()
    base = small.base_model
    lengths, keep = inputs["attention_mask"].sum(1), inputs["attention_mask"].view(-1).nonzero()[:, 0]
    base.run(lengths, int(lengths.sum()), base._embeddings.inputs(inputs["input_ids"], None, keep), spent=spent)
    assert (spent > 0).all() and spent.sum() < 1
    assert whole.BLOCK % 32 == 0


def test_ids_and_masks_of_other_kinds_are_the_same():
    encoder, mask, _ = case("bert", "16x1")
    small, inputs = small_model(encoder.model, mask), batch()
    with torch.inference_mode():
        wanted = small(**inputs).logits
        for ids, held in ((torch.int32, torch.long), (torch.long, torch.float32), (torch.int16, torch.bool)):
            other = {"input_ids": inputs["input_ids"].to(ids), "attention_mask": inputs["attention_mask"].to(held)}
            assert torch.equal(small(**other, token_type_ids=torch.zeros_like(other["input_ids"])).logits, wanted)
        inputs["attention_mask"] *= 3
        assert torch.equal(small(**inputs).logits, wanted)


@pytest.mark.parametrize("path", [path for path in RUNNABLE if path.startswith("int8")])
def test_what_is_cut_has_no_say_in_the_scales(path):
    encoder, mask, dense = case("bert", "16x1", 4)
    apart = copy.deepcopy(encoder.model)
    with torch.no_grad():
        for name, kept in mask.kept.items():
            weight = apart.get_submodule(name).weight
            weight[~torch.from_numpy(mask.layout.block.expand(kept, *weight.shape))] *= 50
    inputs = batch()
    got = [hidden(small_model(model, mask, "int8", path), inputs) for model in (encoder.model, apart)]
    assert torch.equal(*got) and far(got[0], hidden(dense, inputs)) < FAR["int8"]


def test_no_sentences():
    encoder, mask, _ = case("bert", "16x1")
    for path in RUNNABLE:
        small = small_model(encoder.model, mask, path.split()[0], path)
        for every in (0, 1):
            small.base_model.encoder.first_only = 1 - every
            with torch.inference_mode():
                assert small(input_ids=torch.zeros(0, 7, dtype=torch.long)).logits.shape == (0, 2)
