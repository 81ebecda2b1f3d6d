"""Post-training compression: against hand-computed numbers, plain loops in float64, torch, and never above rounding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.methods import columns, compress, repair
from prune_core.methods.compress import compress_
from prune_core.methods.repair import DAMP, Gram
from prune_core.models import encoders
from prune_core.precision.formats import Format, Pattern, parse
from prune_core.precision.quantizers import keep_pattern, quantize
from prune_core.tasks import encoding
from prune_core.tasks.glue import Examples

M, N = 8, 24


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gram(seed: int = 0, n: int = N) -> Gram:
    x = draw(300, n, seed=seed) @ draw(n, n, seed=seed + 100) + draw(n, seed=seed + 200)
    return Gram(x.T @ x, x.sum(0), len(x), (float(x.min()), float(x.max())))


def damped(seen: Gram) -> torch.Tensor:
    products = seen.centred().double()
    return products + (DAMP * products.diagonal().mean()) * torch.eye(len(products), dtype=torch.float64)


def off(weight: torch.Tensor, values: torch.Tensor, seen: Gram) -> torch.Tensor:
    """(m,) d A d^T of every row, in float64."""
    d = (weight - values).double()
    return torch.einsum("ri,ij,rj->r", d, damped(seen), d)


def one(m: int = M, n: int = N, block: str = "2x1", share: float = 0.0, seed: int = 0) -> tuple[nn.Linear, BlockMask]:
    """A layer, and a mask that cuts a share of its blocks at random."""
    linear = nn.Linear(n, m)
    linear.weight.data, linear.bias.data = draw(m, n, seed=seed + 1), draw(m, seed=seed + 2)
    layout = Layout.of([Matrix("a", 0, "query", m, n)], BlockShape.parse(block), m * n + m)
    grid = layout.block.grid(m, n)
    return linear, BlockMask(layout, {"a": np.random.default_rng(seed).random(grid) >= share})


def compressed(text: str, share: float = 0.0, seen: Gram | None = None, seed: int = 0, **more):
    """(weight before, layer after, what is stored, weights that the blocks keep)"""
    linear, mask = one(share=share, seed=seed)
    before = copy.deepcopy(linear)
    made = compress_({"a": linear}, mask, parse(text), None if seen is None else {"a": seen}, **more)
    kept = mask.layout.block.expand(torch.from_numpy(mask.kept["a"]), M, N)
    return before, linear, made.matrices["a"], kept


TEXTS = ["8", "4", "3", "2", "ternary", "binary", "clusters-3", "2:4", "1:4", "4/2:4", "16", "8/4:8", "clusters-4/2:4"]


# ---------------------------------------------------------------- without inputs


def test_a_row_by_hand():
    """(3, -1, 2, -5, .5, .5, .4, -.6) at 2:4: first of equals stays; then 4 bits at the scale of the largest weight."""
    layout = Layout.of([Matrix("a", 0, "query", 1, 8)], BlockShape.parse("1x1"), 8)
    linear, whole = nn.Linear(8, 1, bias=False), BlockMask(layout, {"a": np.ones((1, 8), bool)})
    row = torch.tensor([[3, -1, 2, -5, 0.5, 0.5, 0.4, -0.6]])
    linear.weight.data = row.clone()
    compress_({"a": linear}, whole, parse("2:4"))
    assert linear.weight.tolist() == [[3, 0, 0, -5, 0.5, 0, 0, pytest.approx(-0.6)]]
    linear.weight.data = row.clone()
    made = compress_({"a": linear}, whole, parse("4/2:4"), given={"a": (np.float32([5 / 7]), None)})
    assert made.matrices["a"].codes.tolist() == [[4, 0, 0, -7, 1, 0, 0, -1]]
    np.testing.assert_allclose(linear.weight.detach().numpy(), np.float32([[4, 0, 0, -7, 1, 0, 0, -1]]) * 5 / 7)


@pytest.mark.parametrize("text", TEXTS)
def test_without_inputs_it_is_cutting_and_rounding_to_the_nearest(text):
    before, after, made, kept = compressed(text, share=0.4)
    expected = quantize(before.weight.detach().numpy(), Format.parse(text), kept.numpy())
    assert np.array_equal(after.weight.detach().numpy(), expected.values) and torch.equal(after.bias, before.bias)
    assert np.array_equal(made.values, expected.values)


def test_eight_bits_are_those_of_torch():
    before, after, made, kept = compressed("8", share=0.3)
    masked = before.weight.detach() * kept
    scales = masked.abs().amax(1) / 127
    expected = torch.fake_quantize_per_channel_affine(masked, scales, torch.zeros(M, dtype=torch.int32), 0, -127, 127)
    torch.testing.assert_close(after.weight.detach(), expected, rtol=1e-6, atol=0)


# ---------------------------------------------------------------- with inputs


def by_plain_loops(weight: torch.Tensor, kept: torch.Tensor, scales: torch.Tensor, top: int,
                   seen: Gram) -> torch.Tensor:
    """GPTQ of each row by itself, in float64: the columns that are left are inverted anew at every column."""
    a, values = damped(seen), torch.zeros_like(weight, dtype=torch.float64)
    for row in range(len(weight)):
        left = sorted(kept[row].nonzero()[:, 0].tolist(), key=lambda c: -float(a[c, c]))
        now = weight[row].double().clone()
        while left:
            inverse = torch.linalg.inv(a[left][:, left])
            c, *rest = left
            values[row, c] = (now[c] / scales[row]).round().clamp(-top, top) * scales[row]
            if rest:
                now[rest] -= (now[c] - values[row, c]) / inverse[0, 0] * inverse[0, 1:]
            left = rest
    return values


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_columns_are_rounded_as_plain_loops_do(share):
    linear, mask = one(share=share)
    kept, seen = mask.layout.block.expand(torch.from_numpy(mask.kept["a"]), M, N), gram()
    weight = linear.weight.detach() * kept
    scales = weight.abs().amax(1).clamp_min(0.1) / 7
    products = damped(seen).float()
    found = columns.by_columns(weight, kept, kept, products,
                               lambda rows: columns._level(Format("levels", 4), scales[rows]))
    expected = by_plain_loops(weight, kept, scales.double(), 7, seen)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    nearest = (weight / scales[:, None]).round().clamp(-7, 7) * scales[:, None]
    assert off(weight, found, seen).sum() < 0.9 * off(weight, nearest, seen).sum()


def test_pieces_and_batches_of_strips_change_nothing(monkeypatch):
    linear, mask = one(share=0.5)
    kept, seen = mask.layout.block.expand(torch.from_numpy(mask.kept["a"]), M, N), gram()

    def found() -> torch.Tensor:
        scales = torch.full((M,), 0.3)
        return columns.by_columns(linear.weight.detach() * kept, kept, kept, damped(seen).float(),
                                  lambda rows: columns._level(Format("levels", 4), scales[rows]))

    whole = found()
    monkeypatch.setattr(columns, "PIECE", 5)
    monkeypatch.setattr(columns, "FACTOR_BYTES", 1)  # each strip by itself
    torch.testing.assert_close(found(), whole)


def test_strips_with_one_kept_column():
    kept, seen = torch.zeros(M, N, dtype=torch.bool), gram()
    kept[: M // 2, 3] = kept[M // 2 :, 7] = True
    weight, scales = draw(M, N) * kept, torch.full((M,), 0.3)
    found = columns.by_columns(weight, kept, kept, damped(seen).float(),
                               lambda rows: columns._level(Format("levels", 4), scales[rows]))
    torch.testing.assert_close(found, (weight / 0.3).round().clamp(-7, 7) * 0.3)  # nothing is left to make up for it


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("text", TEXTS)
def test_never_farther_off_than_cutting_and_rounding(text, share):
    for seed in range(3):
        seen = gram(seed)
        before, plain, _, kept = compressed(text, share, None, seed)
        _, after, made, _ = compressed(text, share, seen, seed)
        weight, values = before.weight.detach(), after.weight.detach()
        worse = off(weight, values, seen) / off(weight, plain.weight.detach(), seen).clamp_min(1e-9)
        assert worse.mean() <= 1.0001 if "clusters" in text else (worse <= 1.0001).all()
        assert (values[~kept] == 0).all() and np.array_equal(values.numpy(), made.values)
        if text not in ("8", "16", "8/4:8"):
            assert off(weight, values, seen).sum() < 0.9 * off(weight, plain.weight.detach(), seen).sum()


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_stored_is_in_its_format(text):
    _, _, made, kept = compressed(text, 0.4, gram())
    format = Format.parse(text)
    assert (made.values[~made.kept] == 0).all() and not made.kept[~kept.numpy()].any()
    if format.pattern:
        assert made.kept.reshape(M, -1, format.pattern.m).sum(2).max() <= format.pattern.n
    if format.kind == "levels":
        assert abs(made.codes).max() <= format.top and (made.scales > 0).all()
    if format.kind == "binary":
        assert set(np.unique(abs(made.codes[made.kept]))) == {1}
    if format.kind == "clusters":
        assert len(made.codebook) == format.top and (np.diff(made.codebook) >= 0).all()
        assert ((made.codes > 0) == made.kept).all()


def test_biases_take_what_is_lost_in_the_mean():
    seen = gram()
    before, after, _, _ = compressed("3", 0.4, seen)
    mean = seen.total / seen.count
    given, wanted = (one.weight @ mean + one.bias for one in (after, before))
    torch.testing.assert_close(given, wanted, atol=1e-3, rtol=1e-4)


def test_conjugate_gradients_end_at_the_least_squares_of_each_row():
    linear, seen = one()[0], gram()
    weight, stays = linear.weight.detach(), keep_pattern(linear.weight.detach().abs(), Pattern(2, 4))
    found = columns.solved(weight, weight * stays, stays, damped(seen).float(), 60)
    a = damped(seen)
    for row in range(M):
        at = stays[row].nonzero()[:, 0]
        expected = torch.linalg.solve(a[at][:, at], (a @ weight[row].double())[at])
        torch.testing.assert_close(found[row, at].double(), expected, atol=2e-3, rtol=2e-3)


def test_a_descent_never_raises_the_error():
    linear, seen = one()[0], gram()
    weight, scales, kept = linear.weight.detach(), torch.full((M,), 0.4), torch.ones(M, N, dtype=torch.bool)
    level = columns._level(Format("levels", 3), scales)
    values, errors = level(weight.T).T.contiguous(), []
    for _ in range(4):
        errors.append(off(weight, values, seen))
        values = columns.descended(weight, values, kept, damped(seen).float(), level)
    assert all((after <= before * 1.00001).all() for before, after in zip(errors, errors[1:], strict=False))
    assert errors[1].sum() < errors[0].sum()


def test_a_fitted_scale_is_the_best_for_its_codes():
    linear, seen = one()[0], gram()
    weight = linear.weight.detach()
    codes = (weight / 0.4).round().clamp(-3, 3)
    best = columns._refitted(weight, codes, damped(seen).float(), torch.ones(M))
    least = off(weight, codes * best[:, None], seen)
    for factor in (0.97, 1.03):
        assert (off(weight, codes * (factor * best)[:, None], seen) > least).all()


# ---------------------------------------------------------------- grids that are there


@pytest.mark.parametrize("text", ["8", "4", "ternary", "binary", "clusters-3", "4/2:4"])
def test_on_its_own_grid_nothing_moves_and_a_cut_of_it_stays_on_it(text):
    _, trained, made, kept = compressed(text, 0.3)
    layout = Layout.of([Matrix("a", 0, "query", M, N)], BlockShape.parse("2x1"), M * N)
    mask = BlockMask(layout, {"a": kept.numpy()[::2]})
    given = {"a": (made.scales, made.codebook)}
    for grams in (None, {"a": gram()}):
        again = copy.deepcopy(trained)
        stored = compress_({"a": again}, mask, parse(text), grams, given).matrices["a"]
        assert torch.equal(again.weight, trained.weight) and torch.equal(again.bias, trained.bias)
        assert np.array_equal(stored.codes, made.codes)
    fewer = BlockMask(layout, {"a": mask.kept["a"] & (np.arange(N) % 3 > 0)})
    cut = copy.deepcopy(trained)
    stored = compress_({"a": cut}, fewer, parse(text), {"a": gram()}, given).matrices["a"]
    assert (cut.weight.detach()[:, ::3] == 0).all()
    if made.scales is not None:
        assert np.array_equal(stored.scales, made.scales)
    else:
        assert np.array_equal(stored.codebook, made.codebook)


# ---------------------------------------------------------------- whole models


@pytest.fixture
def encoder(tiny_model):
    return encoders.load(str(tiny_model), 2)


def batches(encoder, count: int = 24) -> list[dict]:
    texts, labels = tiny.sentences(count, 5)
    data = encoding.encode(Examples(tuple((t,) for t in texts), np.array(labels)), encoder.tokenizer, 32)
    return [data.batch(range(at, at + 8))[0] for at in range(0, count, 8)]


def test_a_model_in_few_bits_says_how_far_it_is_and_can_be_stopped(encoder):
    layout = encoder.layout(BlockShape.parse("16x1"))
    norms = {m.name: layout.block.norms(encoder.weights[m.name].detach()).numpy() for m in layout.matrices}
    mask, grams, steps = mask_at_sparsity(norms, layout, 0.3, "matrix"), None, []
    grams = repair.collect(encoder.model, encoder.linears, batches(encoder))
    name, words = next((n, m) for n, m in encoder.model.named_modules() if m is encoder.model.get_input_embeddings())
    made = compress_(encoder.linears, mask, parse("layer:4/2:4,8;a8-tensor;e8", layout), grams,
                     report=lambda *step: steps.append(step), words=(name, words))
    assert steps == [(at, 12) for at in range(1, 13)]
    assert {str(one.format) for one in made.matrices.values()} == {"4/2:4", "8"}
    assert made.scales.keys() == made.matrices.keys() and made.embeddings.codes.shape == tuple(words.weight.shape)
    assert np.array_equal(words.weight.detach().numpy(), made.embeddings.values)
    first = layout.matrices[0].name
    assert made.ranges.keys() == made.matrices.keys() and made.ranges[first] == grams[first].range
    low, high = made.ranges[first]
    assert low < 0 < high

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_(encoder.linears, mask, parse("4", layout), grams, report=stop)


def test_ranges_are_the_least_and_the_largest_of_all_tokens(encoder):
    given = batches(encoder)
    grams = repair.collect(encoder.model, encoder.linears, given)
    name = encoder.matrices[5].name
    seen = []
    hook = encoder.linears[name].register_forward_pre_hook(lambda _m, a: seen.append(a[0].detach()))
    with torch.no_grad():
        for one in given:
            for row in range(len(one["input_ids"])):
                length = int(one["attention_mask"][row].sum())
                encoder.model.eval()(**{k: v[row : row + 1, :length] for k, v in one.items()})
    hook.remove()
    every = torch.cat([x.reshape(-1) for x in seen])
    assert grams[name].range == pytest.approx((min(0.0, float(every.min())), max(0.0, float(every.max()))), abs=1e-5)


def test_formats_of_another_layout_are_refused(encoder):
    layout = encoder.layout(BlockShape.parse("16x1"))
    norms = {m.name: layout.block.norms(encoder.weights[m.name].detach()).numpy() for m in layout.matrices}
    with pytest.raises(InputError, match="3 formats for 2 of scope"):
        compress_(encoder.linears, mask_at_sparsity(norms, layout, 0.3, "matrix"), parse("layer:8,8,4"))
    assert compress.EMBEDDINGS == Format.parse("8")
