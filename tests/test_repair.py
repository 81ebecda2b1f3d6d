"""The closed-form repair against plain loops, gradient-free optimality, and real scores."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.evaluation import exact
from prune_core.evaluation.bench import Bench
from prune_core.methods import repair
from prune_core.methods.repair import Gram
from prune_core.models import encoders
from prune_core.runs import places, shelf
from prune_core.runs.run import Run
from prune_core.tasks import encoding, glue
from prune_core.tasks.glue import Examples


def inputs(seed: int = 0, count: int = 200, n: int = 12) -> torch.Tensor:
    """(count, n) correlated inputs with a mean."""
    random = torch.Generator().manual_seed(seed)
    plain = torch.randn(count, n, generator=random)
    return plain @ torch.randn(n, n, generator=random) + torch.randn(n, generator=random)


def gram_of(x: torch.Tensor) -> Gram:
    return Gram(x.T @ x, x.sum(0), len(x))


def kept_of(rows: int, cols: int, seed: int = 0, share: float = 0.5) -> torch.Tensor:
    """(rows, cols) bool in strips of two rows."""
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(rows // 2, cols, generator=random) < share).repeat_interleave(2, 0)


def test_without_damping_it_is_the_least_squares_solution_row_by_row():
    x, weight, kept = inputs(), torch.randn(8, 12, generator=torch.Generator().manual_seed(1)), kept_of(8, 12)
    repaired = repair.repaired(weight, kept, gram_of(x), damp=0.0)
    centred = (x - x.mean(0)).double()
    for row in range(8):
        at = kept[row].nonzero()[:, 0]
        expected = torch.linalg.lstsq(centred[:, at], centred @ weight[row].double()).solution
        torch.testing.assert_close(repaired[row, at].double(), expected, atol=2e-3, rtol=2e-3)
    assert (repaired[~kept] == 0).all()


def test_nothing_near_it_is_better_and_cutting_alone_is_worse():
    x, weight, kept = inputs(3), torch.randn(8, 12, generator=torch.Generator().manual_seed(2)), kept_of(8, 12, 2)
    repaired = repair.repaired(weight, kept, gram_of(x), damp=0.0)
    centred = x - x.mean(0)

    def loss(w):
        return float(((centred @ (w - weight).T) ** 2).sum())

    assert loss(repaired) < 0.9 * loss(weight * kept)
    for seed in range(20):
        step = 0.02 * torch.randn(repaired.shape, generator=torch.Generator().manual_seed(seed)) * kept
        assert loss(repaired + step) > loss(repaired)


def test_damping_pulls_towards_the_old_weights():
    x, weight, kept = inputs(4), torch.randn(4, 12, generator=torch.Generator().manual_seed(2)), kept_of(4, 12, 5)
    far = [float((repair.repaired(weight, kept, gram_of(x), damp) - weight * kept).norm())
           for damp in (0.0, 0.1, 10.0, 1e6)]
    assert far == sorted(far, reverse=True) and far[-1] < 1e-3


def test_rows_of_which_nothing_or_all_is_kept():
    x, weight = inputs(5), torch.randn(4, 12, generator=torch.Generator().manual_seed(2))
    kept = torch.tensor([[True] * 12, [True] * 12, [False] * 12, [False] * 12])
    repaired = repair.repaired(weight, kept, gram_of(x))
    torch.testing.assert_close(repaired[:2], weight[:2], atol=1e-4, rtol=1e-3)
    assert (repaired[2:] == 0).all()


def test_a_system_that_rounding_makes_indefinite_is_solved_in_float64():
    """[[a, b], [b, c]] with c the next float32 above b^2 / a: float32 finds no factor of some of them, float64 does."""
    right, failed = torch.tensor([[1.0], [2.0]]), 0
    for seed in range(200):
        a, b = np.random.default_rng(seed).random(2).astype(np.float32)
        c = np.nextafter(np.float32(float(b) ** 2 / float(a)), np.float32(9))
        system = torch.tensor([[a, b], [b, c]])
        if torch.linalg.cholesky_ex(system)[1] and not torch.linalg.cholesky_ex(system.double())[1]:
            failed += 1
            expected = torch.linalg.solve(system.double(), right.double())
            torch.testing.assert_close(repair._solved(system, right).double(), expected, rtol=1e-3, atol=0.0)
    assert failed > 0


def test_half_of_a_gram_in_pieces_is_all_of_it(monkeypatch):
    """Pieces of 5 inputs, the last one smaller, added twice."""
    monkeypatch.setattr(repair, "TILE", 5)
    x, products = inputs(7), torch.zeros(12, 12)
    for rows in (x[:90], x[90:]):
        repair._add_products_(products, rows)
    assert not products[5:, :5].any()
    torch.testing.assert_close(repair._mirrored_(products), x.T @ x, atol=1e-2, rtol=1e-5)


def test_damped_it_is_the_float64_solution_of_its_formula():
    x, weight, kept = inputs(8), torch.randn(8, 12, generator=torch.Generator().manual_seed(3)), kept_of(8, 12, 4)
    centred = (x - x.mean(0)).double()
    h = centred.T @ centred
    ridge = 0.05 * h.diagonal().mean()
    found = repair.repaired(weight, kept, gram_of(x), damp=0.05)
    for row in range(8):
        at, wide = kept[row].nonzero()[:, 0], weight[row].double()
        left = h[at][:, at] + ridge * torch.eye(len(at))
        expected = torch.linalg.solve(left, (h @ wide)[at] + ridge * wide[at])
        torch.testing.assert_close(found[row, at].double(), expected, atol=1e-3, rtol=1e-3)


def test_a_repair_says_how_far_it_is_and_can_be_stopped(encoder):
    layout, seen = encoder.layout(BlockShape.parse("16x1")), []
    norms = {m.name: layout.block.norms(encoder.weights[m.name].detach()).numpy() for m in layout.matrices}
    mask = mask_at_sparsity(norms, layout, 0.4, "matrix")
    grams = repair.collect(encoder.model, encoder.linears, batches(encoder), seen.append)
    assert seen == [8, 8, 8]
    steps, threads = [], torch.get_num_threads()
    repair.repair_(encoder.linears, mask, grams, report=lambda *step: steps.append(step))
    assert steps == [(at, 12) for at in range(1, 13)] and torch.get_num_threads() == threads

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair.repair_(encoder.linears, mask, grams, report=stop)
    assert torch.get_num_threads() == threads


@pytest.fixture
def encoder(tiny_model):
    return encoders.load(str(tiny_model), 2)


def batches(encoder, count: int = 24) -> list[dict]:
    texts, _ = tiny.sentences(count, 5)
    data = encoding.encode(Examples([(t,) for t in texts], np.zeros(count, int)), encoder.tokenizer, 40)
    return [data.batch(at)[0] for at in encoding.dev_batches(data.lengths, 8)]


def test_grams_are_those_of_a_plain_loop(encoder):
    """Inputs of one matrix, sentence by sentence without padding, multiplied out."""
    given = batches(encoder)
    grams = repair.collect(encoder.model, encoder.linears, given)
    for name in (encoder.matrices[1].name, encoder.matrices[3].name, encoder.matrices[5].name):
        seen = []
        hook = encoder.linears[name].register_forward_pre_hook(lambda _m, a, seen=seen: seen.append(a[0].detach()))
        with torch.no_grad():
            for one in given:
                for row in range(len(one["input_ids"])):
                    length = int(one["attention_mask"][row].sum())
                    encoder.model.eval()(**{k: v[row : row + 1, :length] for k, v in one.items()})
        hook.remove()
        rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in seen])
        torch.testing.assert_close(grams[name].products, rows.T @ rows, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(grams[name].total, rows.sum(0), atol=1e-3, rtol=1e-4)
        assert grams[name].count == len(rows)
    parts = {m.type: grams[m.name] for m in encoder.matrices if m.layer == 0}
    assert parts["query"] is parts["key"] is parts["value"] and parts["query"] is not parts["attention.output"]


@pytest.mark.parametrize("block", ["16x1", "1x16", "16x16", "allx1", "1xall"])
def test_every_block_shape_keeps_its_mask_and_nears_the_dense_outputs(encoder, block):
    given = batches(encoder)
    layout = encoder.layout(BlockShape.parse(block))
    norms = {m.name: layout.block.norms(encoder.weights[m.name].detach()).numpy() for m in layout.matrices}
    mask = mask_at_sparsity(norms, layout, 0.4, "matrix")
    grams = repair.collect(encoder.model, encoder.linears, given)
    before = {name: (w.weight.detach().clone(), w.bias.detach().clone()) for name, w in encoder.linears.items()}
    repair.repair_(encoder.linears, mask, grams)
    for m in layout.matrices:
        kept = layout.block.expand(torch.from_numpy(mask.kept[m.name]), m.m, m.n)
        linear, (weight, bias), gram = encoder.linears[m.name], before[m.name], grams[m.name]
        assert (linear.weight[~kept] == 0).all()

        def loss(w, b, gram=gram, weight=weight, bias=bias):  # mean squared difference of outputs, from the Gram alone
            by, shift = w - weight, b - bias
            moved = ((by @ gram.products) * by).sum() + 2 * shift @ (by @ gram.total)
            return float(moved + gram.count * (shift**2).sum())

        assert loss(linear.weight.detach(), linear.bias.detach()) <= loss(weight * kept, bias) * 1.0001


def test_where_nothing_is_cut_nothing_changes(encoder):
    layout = encoder.layout(BlockShape.parse("16x1"))
    whole = BlockMask(layout, {m.name: np.ones(layout.block.grid(m.m, m.n), bool) for m in layout.matrices})
    before = {name: linear.weight.detach().clone() for name, linear in encoder.linears.items()}
    repair.repair_(encoder.linears, whole, {})
    assert all(torch.equal(before[name], linear.weight) for name, linear in encoder.linears.items())


def test_a_linear_without_bias():
    linear, block = nn.Linear(12, 8, bias=False), BlockShape.parse("2x1")
    layout = Layout.of([Matrix("a", 0, "query", 8, 12)], block, 96)
    kept, gram, before = {"a": np.arange(48).reshape(4, 12) % 3 > 0}, gram_of(inputs()), linear.weight.detach().clone()
    repair.repair_({"a": linear}, BlockMask(layout, kept), {"a": gram})
    expanded = block.expand(torch.from_numpy(kept["a"]), 8, 12)
    assert torch.equal(linear.weight.detach(), repair.repaired(before, expanded, gram))


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


def test_a_repaired_score_is_that_of_the_repaired_model_and_kept_apart(made):
    cut, moved = Cut("matrix", 0.5), Cut("matrix", 0.5, repaired=True)
    plain, repaired = (exact.evaluate(made, "dense", one, threads=1) for one in (cut, moved))
    assert (plain["repaired"], repaired["repaired"], plain["sparsity"]) == (False, True, repaired["sparsity"])
    bench = Bench(made, "dense")
    from prune_core.evaluation.dev_score import dev_score

    expected = dev_score(bench.repaired(cut.mask(made.ranking("dense"), made.layout)), bench.task, bench.dev)
    assert repaired["scores"] == expected.scores
    again = exact.evaluate(made, "dense", moved, threads=1)
    assert again["score"] == repaired["score"]
    assert exact.evaluate(made, "dense", cut, threads=1)["score"] == plain["score"]
    fresh = Bench(made, "dense")
    kept = fresh.grams()  # from the disk
    for name, gram in bench.grams().items():
        assert torch.equal(gram.products, kept[name].products) and gram.count == kept[name].count
    (file,) = (made.path / "scores").glob("*.safetensors")
    file.write_bytes(b"damaged")
    first = made.layout.matrices[0].name
    assert torch.equal(Bench(made, "dense").grams()[first].total, kept[first].total)


def test_repair_saves_most_of_the_shipped_model(glue_folder, tmp_path, monkeypatch):
    """SST-2, half of every matrix cut, no training: the first 200 dev sentences. Kept apart from scores of all."""
    monkeypatch.setattr(places, "RUNS", tmp_path)
    run = shelf.find("sst2-minilm-64x1")
    bench = Bench(run, "dense", str(glue_folder))
    examples = glue.load("sst2", str(glue_folder)).main_dev.some(200)
    bench.dev = {"validation": encoding.encode(examples, bench.encoder.tokenizer, 128)}
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.5, "matrix")
    *_, plain = bench.stream(mask, fresh=True)
    *_, repaired = bench.stream(mask, fresh=True, repaired=True)
    assert repaired.score > plain.score + 0.05
