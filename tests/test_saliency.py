"""Scores of groups against plain loops, for every kind of block; recorded, ranked by, and shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from commands import prune_core

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import mask_at, thresholds_for
from prune_core.evaluation import exact
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.rank import told_from_zero
from prune_core.methods import rankings, repair, surgeon
from prune_core.methods.repair import DAMP
from prune_core.methods.saliency import BATCH, Activation, Loss, Taylor
from prune_core.methods.surgeon import Surgeon
from prune_core.models import encoders
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded
from prune_core.tasks.glue import Examples

BLOCKS = ["16x1", "1x16", "8x8", "allx1", "1xall"]


@pytest.fixture
def encoder(tiny_model):
    return encoders.load(str(tiny_model), 2)


@pytest.fixture
def data(encoder) -> Encoded:
    texts, labels = tiny.sentences(24, 5)
    return encoding.encode(Examples([(t,) for t in texts], np.array(labels)), encoder.tokenizer, 40)


@pytest.fixture
def grams(encoder, data):
    batches = (data.batch(at)[0] for at in encoding.dev_batches(data.lengths, 8))
    return repair.collect(encoder.model, encoder.linears, batches)


def looped(weight: np.ndarray, block: BlockShape, of) -> np.ndarray:
    """of(rows, columns) for every group, by a plain loop."""
    m, n = weight.shape
    rows, cols = block.sides(m, n)
    return np.array([[of(slice(i, i + rows), slice(j, j + cols)) for j in range(0, n, cols)]
                     for i in range(0, m, rows)])


@pytest.mark.parametrize("block", BLOCKS)
def test_activation_is_the_norm_weighted_by_the_inputs(encoder, grams, block):
    layout = encoder.layout(BlockShape.parse(block))
    ranking = Activation(grams).of(encoder, layout)
    for m in layout.matrices[::4]:
        weight = encoder.weights[m.name].detach().numpy()
        moments = grams[m.name].products.diagonal().numpy() / grams[m.name].count
        expected = looped(weight, layout.block, lambda r, c, w=weight, e=moments: np.sqrt((w[r, c] ** 2 * e[c]).sum()))
        np.testing.assert_allclose(ranking[m.name], expected, rtol=1e-4)


@pytest.mark.parametrize("block", BLOCKS)
def test_loss_is_what_least_squares_cannot_make_up_for(encoder, grams, block):
    """Cut one group, repair the rest of its rows: the summed squared difference of outputs is the score, squared."""
    layout = encoder.layout(BlockShape.parse(block))
    ranking = Loss(grams).of(encoder, layout)
    m = layout.matrices[0]
    weight, gram = encoder.weights[m.name].detach().double(), grams[m.name]
    h = (gram.centred() / gram.count).double()
    h += DAMP * float(h.diagonal().mean()) * torch.eye(m.n, dtype=torch.double)

    def lost(r, c):
        keep = [j for j in range(m.n) if not c.start <= j < c.stop]
        new = torch.zeros_like(weight[r])
        if keep:
            new[:, keep] = torch.linalg.solve(h[keep][:, keep], (weight[r] @ h)[:, keep].T).T
        by = new - weight[r]
        return float(((by @ h) * by).sum().sqrt())

    np.testing.assert_allclose(ranking[m.name], looped(weight.numpy(), layout.block, lost), rtol=2e-2)


@pytest.mark.parametrize("block", BLOCKS)
def test_taylor_is_the_mean_square_of_the_change_that_a_mask_makes(encoder, data, block):
    layout = encoder.layout(BlockShape.parse(block))
    asked = range(16)
    ranking = Taylor(data, asked).of(encoder, layout)
    m = layout.matrices[5]
    squares = np.zeros(ranking[m.name].shape)
    batches = [np.arange(16)[at] for at in encoding.dev_batches(data.lengths[:16], BATCH)]
    for at in batches:
        inputs, labels = data.batch(at)
        encoder.model.zero_grad()
        encoder.model.eval()(**inputs, labels=labels).loss.backward()
        weight = encoder.weights[m.name]
        product = (weight * weight.grad).detach().numpy()
        squares += looped(product, layout.block, lambda r, c, p=product: p[r, c].sum() ** 2)
    np.testing.assert_allclose(ranking[m.name], np.sqrt(squares / len(batches)), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_surgeon_takes_group_after_group(encoder, data, grams, block):
    """At each turn the group whose loss adds least to what least squares has lost already, all repaired anew;
    by brute force."""
    layout = encoder.layout(BlockShape.parse(block))
    ranking = Surgeon(grams, data, range(16)).of(encoder, layout)
    weighs = surgeon.outputs_weigh(encoder.model, encoder.linears, [data.batch(range(16))[0]])
    m = layout.matrices[0]
    rows, cols = layout.block.sides(m.m, m.n)
    weight = (encoder.weights[m.name].detach() * weighs[m.name][:, None]).double()
    h = (grams[m.name].centred() / grams[m.name].count).double()
    h += DAMP * float(h.diagonal().mean()) * torch.eye(m.n, dtype=torch.double)

    def lost(w, groups):
        keep = [j for j in range(m.n) if j // cols not in groups]
        new = torch.zeros_like(w)
        if keep:
            new[:, keep] = torch.linalg.solve(h[keep][:, keep], (w @ h)[:, keep].T).T
        return float((((new - w) @ h) * (new - w)).sum())

    for strip in range(0, m.m // rows, 2):
        w, gone, so_far, highest = weight[strip * rows:(strip + 1) * rows], [], 0.0, 0.0
        while len(gone) < m.n // cols:
            costs = {g: lost(w, [*gone, g]) - so_far for g in range(m.n // cols) if g not in gone}
            group = min(costs, key=costs.get)
            highest = max(highest, costs[group])
            assert ranking[m.name][strip, group] == pytest.approx(highest**0.5, rel=2e-2)
            gone.append(group)
            so_far += costs[group]


def test_strips_that_do_not_fit_together_come_out_the_same(encoder, data, grams, monkeypatch):
    layout = encoder.layout(BlockShape.parse("8x1"))
    whole = Surgeon(grams, data, range(16)).of(encoder, layout)
    monkeypatch.setattr(surgeon, "MEMORY", 1)
    parts = Surgeon(grams, data, range(16)).of(encoder, layout)
    assert all(np.allclose(whole[name], parts[name], rtol=1e-4) for name in whole)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_rows_count_by_the_gradient_of_the_outputs(tiny_model, data, outputs):
    """Every output of a matrix moved by a variable of its own, one sentence after the other;
    several classes: about their mean."""
    encoder = encoders.load(str(tiny_model), outputs)
    name = encoder.matrices[3].name
    squares, tokens = 0.0, 0
    for row in range(16):
        inputs, moved = data.batch([row])[0], []

        def move(module, args, out, moved=moved):
            moved.append(torch.zeros_like(out, requires_grad=True))
            return out + moved[0]

        hook = encoder.linears[name].register_forward_hook(move)
        logits = encoder.model.eval()(**inputs).logits[0]
        hook.remove()
        for one in logits - logits.mean() if outputs > 1 else logits:
            squares = squares + (torch.autograd.grad(one, moved, retain_graph=True)[0][0] ** 2).sum(0) / outputs
        tokens += int(inputs["attention_mask"].sum())
    batches = [data.batch(range(0, 8))[0], data.batch(range(8, 16))[0]]
    weighs = surgeon.outputs_weigh(encoder.model, encoder.linears, batches * (20 if outputs > 2 else 1))[name]
    # with three the output is drawn for each sentence: right on average
    torch.testing.assert_close(weighs, (squares / tokens) ** 0.5, rtol=0.15 if outputs > 2 else 1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_surgeon_ranks_every_architecture(architecture, tmp_path):
    encoder = encoders.load(str(tiny.checkpoint(tmp_path / architecture, architecture)), 2)
    texts, labels = tiny.sentences(24, 5)
    data = encoding.encode(Examples([(t,) for t in texts], np.array(labels)), encoder.tokenizer, 40)
    batches = (data.batch(at)[0] for at in encoding.dev_batches(data.lengths, 8))
    grams = repair.collect(encoder.model, encoder.linears, batches)
    layout = encoder.layout(BlockShape.parse("16x1"))
    ranking = Surgeon(grams, data, range(24)).of(encoder, layout)
    assert set(ranking) == {m.name for m in layout.matrices}
    for ranks in ranking.values():
        assert np.isfinite(ranks).all() and (ranks > 0).mean() > 0.9
        assert len(np.unique(ranks)) > 0.9 * ranks.size


def test_a_zero_group_scores_zero_everywhere(encoder, data, grams):
    layout = encoder.layout(BlockShape.parse("16x1"))
    name = layout.matrices[2].name
    with torch.no_grad():
        encoder.weights[name][:16, 3] = 0.0
    for kind in rankings.recordable():
        assert rankings.named(kind, grams, data).of(encoder, layout)[name][0, 3] == 0.0


def test_an_unknown_score():
    with pytest.raises(InputError, match="activation, taylor, loss, surgeon"):
        rankings.named("size", {}, None)


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


def test_recorded_scores_decide_what_is_cut(made):
    with pytest.raises(RunError, match="python -m prune_core score made"):
        exact.evaluate(made, "dense", cut_of(made, 0.5, scope="matrix", ranking="activation"), threads=1)
    done = prune_core("score", "made", f"--runs-dir={made.path.parent}", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.strip().splitlines()[-1])["files"]) == set(rankings.recordable())
    assert made.rankings("dense") == ["norm", *rankings.recordable()] and made.rankings("penalty-3x") == ["norm"]
    ranks, masks = made.ranking("dense", "activation"), {}
    for kind in ("norm", *rankings.recordable()):
        cut, ranked = cut_of(made, 0.5, scope="matrix", ranking=kind), made.ranking("dense", kind)
        mask = cut.mask(ranked, made.layout)
        masks[mask.digest()] = mask
        assert cut.resolved(ranked, made.layout) == thresholds_for(ranked, made.layout, 0.5, "matrix")
    assert len(masks) == 5
    answer = exact.evaluate(made, "dense", cut_of(made, 0.5, scope="matrix", ranking="activation"), threads=1)
    bench = Bench(made, "dense")
    mask = mask_at(ranks, made.layout, thresholds_for(ranks, made.layout, 0.5, "matrix"), "matrix")
    *_, last = bench.stream(mask, fresh=True)
    assert (answer["by"], answer["score"]) == ("activation", last.score)


def test_a_damaged_file_of_scores_is_told(made, tmp_path):
    import shutil

    copy = Run(shutil.copytree(made.path, tmp_path / "copy"))
    copy.answers.ranking_file("dense", "loss").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="cannot be read"):
        copy.ranking("dense", "loss")


@pytest.mark.parametrize("by", ["size", "norm"])
def test_the_command_refuses_what_it_cannot_make(made, by):
    done = prune_core("score", "made", f"--runs-dir={made.path.parent}", f"--by={by}")
    assert done.returncode == 2 and done.stderr.strip().count("\n") == 0 and by in done.stderr


def test_what_counts_for_nothing_is_told_from_what_is_zero():
    norms = {"m": np.array([[0.0, 0.5, 0.25]], np.float32)}
    told = told_from_zero({"m": np.array([[0.0, 0.0, 3.0]], np.float32)}, norms)["m"]
    assert told.dtype == np.float32 and told[0, 0] == 0 and 0 < told[0, 1] < 1e-37 and told[0, 2] == 3
