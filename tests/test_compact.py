"""Executing only what is kept: the numbers of the masked dense model, for every shape, architecture and way to run."""

from __future__ import annotations

import copy
import platform

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.dev_score import apply_mask_
from prune_core.execution import compact, native, unpadded
from prune_core.execution.compact import CompactLinear
from prune_core.execution.native import _FLAGS
from prune_core.latency.strips import Live
from prune_core.models import encoders
from prune_core.models.encoders import Encoder

needs_compiler = pytest.mark.skipif(native.library() is None, reason=f"kernels: {native.why_not()}")
SHAPES = [(64, 48, "16x1"), (128, 96, "64x1"), (48, 40, "8x1"), (48, 40, "24x1"), (32, 64, "1x16"),
          (32, 64, "1xall"), (96, 64, "allx1"), (64, 64, "16x16"), (64, 64, "4x4"), (64, 64, "1x1"),
          (200, 100, "100x1"), (40, 60, "5x3"), (64, 64, "2x32"), (3, 5, "3x1")]
X86 = platform.machine() in ("x86_64", "AMD64")
BUILDS = {"this processor": _FLAGS} | ({
    "avx2": ("-O3", "-std=c++17", "-shared", "-fPIC", "-mavx2", "-mfma", "-fopenmp"),
    "sse": ("-O2", "-std=c++17", "-shared", "-fPIC", "-fopenmp")} if X86 else {})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def forget_build() -> None:
    """The next call looks for a compiler anew."""
    native._loaded.cache_clear()
    native.library.cache_clear()
    native.registers.cache_clear()


@pytest.fixture(params=[*BUILDS, "stock torch"])
def way(request, monkeypatch):
    """The kernels as built for this processor, for plain ones, and their absence."""
    forget_build()
    if request.param == "stock torch":
        monkeypatch.setattr(native, "compiler", lambda: None)
    else:
        monkeypatch.setattr(native, "_FLAGS", BUILDS[request.param])
        if native.library() is None:
            pytest.skip(native.why_not())
    yield request.param
    forget_build()


def layer_and_twin(m: int, n: int, block: str, share: float, seed: int = 0, **settings):
    """A compact layer of random weights and groups, and the plain function that it must equal."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    shape = BlockShape.parse(block)
    weight, bias = torch.randn(m, n, generator=generator) / n**0.5, torch.randn(m, generator=generator)
    kept = random.random(shape.grid(m, n)) < share
    live = Live(random.random(m) < 0.8, random.random(n) < 0.8)
    layer = CompactLinear(weight, bias, kept, shape, live, **settings)
    rows, cols = torch.from_numpy(live.rows), torch.from_numpy(live.cols)
    masked = weight * torch.from_numpy(np.kron(kept, np.ones((m // kept.shape[0], n // kept.shape[1]), bool)))

    def twin(x):
        return F.linear(x, masked[rows][:, cols], bias[rows])

    return layer, (lambda x: F.gelu(twin(x))) if settings.get("gelu") else twin


@pytest.mark.parametrize("gelu", [False, True])
def test_a_layer_equals_the_masked_dense_one(way, gelu):
    """Odd shapes, shares from nothing to all, rests of every length."""
    for seed, (m, n, block) in enumerate(SHAPES):
        for share in (0.0, 0.3, 0.7, 1.0):
            layer, twin = layer_and_twin(m, n, block, share, seed, gelu=gelu)
            for tokens in (0, 1, 2, 5, 6, 13, 25, 250):
                x = torch.randn(tokens, layer.in_features)
                assert layer(x).shape == (tokens, layer.out_features)
                torch.testing.assert_close(
                    layer(x), twin(x), rtol=1e-5, atol=1e-5,
                    msg=lambda why: f"{m}x{n} {block} {share} {tokens}: {why}")  # noqa: B023


def test_inputs_that_are_views_of_others_and_of_more_axes(way):
    layer, twin = layer_and_twin(64, 48, "16x1", 0.5)
    wide = torch.randn(3, 7, layer.in_features + 9)
    for x in (wide[..., 4:-5], wide[1, :, : layer.in_features], wide[..., 9:].double(),
              wide[0].T.contiguous().T[:, 9:]):
        torch.testing.assert_close(layer(x), twin(x.float()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gelu", [False, True])
def test_a_layer_whose_live_rows_have_no_group_gives_its_bias(way, gelu):
    weight, bias = torch.randn(8, 8), torch.randn(8)
    layer = CompactLinear(weight, bias, np.array([[False, False], [True, True]]), BlockShape.parse("4x4"),
                          Live(np.arange(8) < 4, np.ones(8, bool)), gelu)
    for _ in range(20):
        torch.full((7, 4), 1e9)  # what lies in memory that was used before
        out = layer(torch.randn(7, 8))
        assert torch.allclose(out, (F.gelu(bias[:4]) if gelu else bias[:4]).expand(7, 4), atol=1e-6)


def test_only_what_is_kept_is_packed():
    """By hand: two strips of two rows, three of their six columns kept."""
    if native.library() is None:
        pytest.skip(native.why_not())
    lanes = native.library().prunescope_lanes()
    weight = torch.arange(2.0 * lanes * 3).reshape(2 * lanes, 3)
    layer = CompactLinear(weight, None, np.array([[True, False, True], [False, True, False]]), BlockShape(lanes, 1))
    assert layer.executed == "strips" and layer.weights.numel() == 3 * lanes
    assert sorted(layer.columns.tolist()) == [0, 1, 2]
    assert torch.equal(layer(torch.eye(3))[0], torch.cat([weight[:lanes, 0], torch.zeros(lanes)]))


@needs_compiler
@pytest.mark.parametrize("block, executed", [
    ("16x1", "strips"), ("allx1", "strips"), ("1x32", "rows in strips"), ("1xall", "rows in strips"),
    ("16x16", "strips"), ("1x1", "dense")])
def test_what_is_executed_is_told(block, executed):
    kept = np.random.default_rng(0).random(BlockShape.parse(block).grid(128, 128)) < 0.2
    assert CompactLinear(torch.randn(128, 128), None, kept, BlockShape.parse(block)).executed == executed


def test_gelu_over_its_whole_range(way):
    x = torch.linspace(-12, 12, 200_001)
    layer = CompactLinear(torch.eye(1), None, np.ones((1, 1), bool), BlockShape(1, 1), gelu=True)
    assert (layer(x[:, None])[:, 0].double() - F.gelu(x.double())).abs().max() < 2e-6
    assert torch.isnan(layer(torch.tensor([[float("nan")]]))).all()


@needs_compiler
@pytest.mark.parametrize("heads, depth", [(4, 16), (2, 20), (1, 64), (3, 8)])
def test_attention_looks_at_each_sentence_alone(heads, depth):
    lengths = [30, 1, 0, 46, 13]
    q, k, v = torch.randn(3, sum(lengths), heads * depth).unbind(0)
    starts = torch.tensor([0, *np.cumsum(lengths)[:-1]])
    out = native.attention(q, k, v, starts, torch.tensor(lengths), heads, 0.3)
    for start, length in zip(starts.tolist(), lengths, strict=True):
        if not length:
            continue
        parts = [x[start : start + length].view(1, length, heads, depth).transpose(1, 2) for x in (q, k, v)]
        alone = F.scaled_dot_product_attention(*parts, scale=0.3).transpose(1, 2).reshape(length, -1)
        torch.testing.assert_close(out[start : start + length], alone, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_attention_with_scores_far_apart():
    q, k, v = (40 * torch.randn(3, 9, 16)).unbind(0)
    out = native.attention(q, k, v, torch.tensor([0]), torch.tensor([9]), 1, 1.0)
    alone = F.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None], scale=1.0)[0, 0]
    torch.testing.assert_close(out, alone, rtol=1e-5, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("width", [16, 50, 384])
def test_residual_and_norm(width):
    norm = torch.nn.LayerNorm(width, eps=1e-12)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x, residual = torch.randn(2, 3, 7, width).unbind(0)
    torch.testing.assert_close(native.add_norm(x, residual, norm), norm(x + residual), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- whole encoders


def encoder_and_mask(architecture: str, block: str, dead: bool, seed: int = 0):
    """A tiny random encoder and a mask that keeps half.

    `dead`: also a head without value, one without output, and neurons of both kinds.
    """
    encoder = encoders.describe(architecture, tiny.model(architecture, seed), tiny.tokenizer(architecture))
    encoder.model.eval()
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter.normal_(0, 0.2)
    layout, random = encoder.layout(BlockShape.parse(block)), np.random.default_rng(seed)
    kept = {}
    for matrix in layout.matrices:
        full = np.ones((matrix.m, matrix.n), bool)
        if dead and matrix.type == "value":
            full[:16] = matrix.layer == 0
        if dead and matrix.type == "attention.output":
            full[:, 16:] = matrix.layer == 1
        if dead and matrix.type == "intermediate":
            full[:32] = False
        if dead and matrix.type == "output":
            full[:, 48:] = False
        rows, cols = layout.block.sides(matrix.m, matrix.n)
        alive = full.reshape(matrix.m // rows, rows, matrix.n // cols, cols).any((1, 3))
        kept[matrix.name] = (random.random(alive.shape) < 0.5) & alive
    return encoder, BlockMask(layout, kept)


def masked_copy(encoder: Encoder, mask: BlockMask):
    twin = encoders.describe(encoder.name, copy.deepcopy(encoder.model), encoder.tokenizer)
    apply_mask_({name: weight.data for name, weight in twin.weights.items()}, mask)
    return twin.model


def batch(lengths=(11, 3, 7, 1, 9)) -> dict[str, torch.Tensor]:
    keep = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_ids": torch.randint(5, len(tiny.VOCABULARY), keep.shape) * keep, "attention_mask": keep.long()}


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("block", ["16x1", "1x16", "8x8", "allx1", "1xall"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_compact_encoder_equals_the_masked_one(architecture, block, dead):
    encoder, mask = encoder_and_mask(architecture, block, dead)
    before = {name: weight.clone() for name, weight in encoder.model.state_dict().items()}
    small, inputs = compact.compact(encoder.model, mask), batch()
    with torch.inference_mode():
        wanted = masked_copy(encoder, mask)(**inputs).logits
        torch.testing.assert_close(small(**inputs).logits, wanted, rtol=0, atol=1e-5)
        unpadded.unpad_(small)
        torch.testing.assert_close(small(**inputs).logits, wanted, rtol=0, atol=1e-5)
    assert all(torch.equal(before[name], weight) for name, weight in encoder.model.state_dict().items())
    assert set(small.executed) == {m.name for m in mask.layout.matrices}


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "albert", "deberta-v2"])
def test_without_a_compiler_the_numbers_are_the_same(architecture, monkeypatch):
    forget_build()
    monkeypatch.setattr(native, "compiler", lambda: None)
    try:
        encoder, mask = encoder_and_mask(architecture, "allx1", True)
        small, inputs = compact.compact(encoder.model, mask), batch()
        assert not unpadded.unpad_(small) and "no C++ compiler" in native.why_not()
        assert "smaller dense torch" in small.executed.values()
        assert set(small.executed.values()) <= {"dense torch", "smaller dense torch"}
        with torch.inference_mode():
            wanted = masked_copy(encoder, mask)(**inputs).logits
            torch.testing.assert_close(small(**inputs).logits, wanted, rtol=0, atol=1e-5)
    finally:
        forget_build()


def sizes(small: torch.nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (layer.out_features, layer.in_features)
            for name, layer in small.named_modules() if isinstance(layer, CompactLinear)}


def test_what_has_died_is_taken_out_of_its_neighbours():
    encoder, mask = encoder_and_mask("bert", "16x1", True)
    left = sizes(compact.compact(encoder.model, mask))
    layer = "bert.encoder.layer.{}."
    for number in (0, 1):  # one of two heads: in layer 0 its output is gone, in layer 1 its value
        where = layer.format(number)
        assert [left[where + f"attention.self.{part}"] for part in ("query", "key", "value")] == [(16, 32)] * 3
        assert left[where + "attention.output.dense"] == (32, 16)
        inner = left[where + "intermediate.dense"][0]
        assert inner <= 16 and left[where + "output.dense"] == (32, inner)


def test_heads_stay_where_attention_counts_them_itself():
    encoder, mask = encoder_and_mask("mpnet", "16x1", True)
    left = sizes(compact.compact(encoder.model, mask))
    assert {size for name, size in left.items() if "attention" in name} == {(32, 32)}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_kept_and_everything_kept(architecture, share):
    encoder, mask = encoder_and_mask(architecture, "16x1", False)
    mask = BlockMask(mask.layout, {name: np.full(kept.shape, bool(share)) for name, kept in mask.kept.items()})
    small, inputs = compact.compact(encoder.model, mask), batch()
    unpadded.unpad_(small)
    with torch.inference_mode():
        wanted = masked_copy(encoder, mask)(**inputs).logits
        torch.testing.assert_close(small(**inputs).logits, wanted, rtol=0, atol=1e-5)


@needs_compiler
def test_packed_sentences_are_scored_alone():
    """A sentence gives the same answer in any company."""
    encoder, mask = encoder_and_mask("bert", "16x1", False)
    small = compact.compact(encoder.model, mask)
    assert unpadded.unpad_(small)
    inputs = batch()
    with torch.inference_mode():
        together = small(**inputs).logits
        for row, length in enumerate(inputs["attention_mask"].sum(1)):
            alone = small(input_ids=inputs["input_ids"][row : row + 1, :length],
                          attention_mask=inputs["attention_mask"][row : row + 1, :length])
            torch.testing.assert_close(alone.logits[0], together[row], rtol=0, atol=1e-5)


# ---------------------------------------------------------------- building


@needs_compiler
def test_a_compiler_that_fails_is_told_and_not_fatal(monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho this compiler is ill >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(broken))
    forget_build()
    try:
        assert native.library() is None and "this compiler is ill" in native.why_not() and "\n" not in native.why_not()
        assert not list((tmp_path / "cache").rglob("*.so"))
    finally:
        forget_build()


@pytest.fixture
def quick_build(monkeypatch):
    """Kernels that take a second to build and are slow: where only building them is looked at."""
    monkeypatch.setattr(native, "_FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in native._FLAGS))


@needs_compiler
def test_kernels_that_are_damaged_in_the_cache_are_built_anew(quick_build, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = native._compiled(native.compiler())
    path.write_bytes(b"no library")
    forget_build()
    try:
        assert native.library() is not None and path.stat().st_size > 10_000
    finally:
        forget_build()


@needs_compiler
def test_the_kernels_are_built_once(quick_build, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget_build()
    try:
        assert native.library() is not None and "building the kernels" in capfd.readouterr().err
        forget_build()
        assert native.library() is not None and capfd.readouterr().err == ""
        assert len(list(tmp_path.rglob("*.so"))) == 1
    finally:
        forget_build()
