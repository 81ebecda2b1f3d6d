"""The lesson's small experiments: by hand, by their optimality conditions, and against the methods they explain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prune_core.cutting.blocks import BlockShape
from prune_core.methods.group_lasso import ProximalGroupLasso
from prune_core.showing import lesson
from prune_core.showing.lesson import EACH, EPS, EXAMPLES, GROUPS


@pytest.mark.parametrize("block", ["1x1", "4x1", "1x4", "4x4", "allx1", "1xall"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_a_cut_matrix_is_counted_as_a_loop_counts(block, share):
    weight, shape = lesson.small_matrix(), BlockShape.parse(block)
    cut = lesson.cut_matrix(weight, shape, share)
    rows, cols = shape.sides(*weight.shape)
    kept = [weight[i:i + rows, j:j + cols]
            for i in range(0, weight.shape[0], rows) for j in range(0, weight.shape[1], cols)
            if cut.kept[i // rows, j // cols]]
    assert cut.size == rows * cols and cut.sparsity == pytest.approx(1 - sum(part.size for part in kept) / weight.size)
    assert cut.energy == pytest.approx(sum((part**2).sum() for part in kept) / (weight**2).sum())
    assert cut.sparsity == pytest.approx(share, abs=0.5 / cut.norms.size + 1e-9)


def test_larger_blocks_lose_more_at_the_same_sparsity():
    """What the first step asks the person to see."""
    kept = [lesson.cut_matrix(lesson.small_matrix(), BlockShape.parse(block), 0.5).energy
            for block in ("1x1", "4x1", "4x4")]
    assert kept == sorted(kept, reverse=True) and kept[0] - kept[2] > 0.05


@pytest.mark.parametrize("lam", [0.0, 0.1, 0.5, 2.0])
def test_two_groups_end_where_the_formula_says(lam):
    path = lesson.two_groups(lam, steps=400)
    assert path[0].tolist() == [1.0, 1.0]
    assert path[-1] == pytest.approx([max(0.0, 1 - lam), max(0.0, 0.25 - lam)], abs=1e-6)


def test_the_proximal_step_is_the_methods_own():
    weights = {"m0": nn.Parameter(torch.tensor([[3.0, 0.3], [4.0, 0.4]], dtype=torch.float64))}
    from tiny import layout

    method = ProximalGroupLasso(weights, layout("2x1", ((2, 2),), 10), lam=2.0, reweighted=False, spare=False)
    method.after_step_(0.5)
    assert method.norms["m0"][0].tolist() == pytest.approx(lesson.soft_threshold(np.array([5.0, 0.5]), 0.5 * 2.0))


@pytest.mark.parametrize("lam", [0.1, 0.3])
def test_recover_solves_the_group_lasso(lam):
    """The same minimum as a general optimizer finds on the smoothed objective."""
    recovery = lesson.recover(lam, False, rounds=1, steps=4000)
    random = np.random.default_rng(0)
    truth = random.normal(size=(GROUPS, EACH))
    truth *= (recovery.truth / np.linalg.norm(truth, axis=1))[:, None]
    x, _ = random.normal(size=(EXAMPLES, GROUPS * EACH)), random.normal(size=(2000, GROUPS * EACH))
    y = x @ truth.ravel() + random.normal(size=EXAMPLES)
    from scipy.optimize import minimize

    def objective(flat):
        norms = np.linalg.norm(flat.reshape(truth.shape) + 1e-9, axis=1)
        return ((x @ flat - y) ** 2).sum() / 2 / EXAMPLES + lam * norms.sum()

    best = minimize(objective, truth.ravel() + 0.01, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 10**6})
    assert recovery.found == pytest.approx(np.linalg.norm(best.x.reshape(truth.shape), axis=1), abs=0.03)


def test_reweighting_finds_the_groups_that_plain_leaves_among_the_wrong():
    """What the third step asks the person to see, at its first setting; and it is no accident of one seed."""
    runs = [[lesson.recover(0.1, reweighted, seed) for reweighted in (False, True)] for seed in range(10)]
    wrong = np.array([[one.wrong for one in pair] for pair in runs])
    assert wrong[0].tolist() == [7, 0] and (wrong[:, 1] < wrong[:, 0]).sum() >= 9
    errors = np.array([[one.error for one in pair] for pair in runs])
    assert (errors[:, 1] < errors[:, 0]).sum() >= 8


def test_where_a_mind_is_changed():
    sure = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.7, 0.3]])
    assert lesson.changes_at([0.0, 0.1, 0.2, 0.3], sure) == 0.2 and lesson.changes_at([0.0, 0.1], sure[:2]) is None


def test_a_short_training_reaches_no_milestone():
    assert lesson.refreshes(4) == [] and lesson.refreshes(5) == [4] and lesson.refreshes(20) == [4, 8, 12, 16]
    start = np.array([0.5, 0.2])
    by_hand = start - 3 * 0.002 / (start + EPS)
    assert lesson.reweighted_norms(3, start)[-1] == pytest.approx(by_hand)
    assert lesson.reweighted_norms(20, start)[-1][1] == 0.0


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_path_in_the_loss_is_torchs_adam(lam):
    inside, _ = lesson.adam_against_proximal(lam, steps=20)
    random = np.random.default_rng(0)
    first = random.normal(size=64) * 0.04
    noise = random.normal(size=(20, 64)) * 1e-3
    w = nn.Parameter(torch.from_numpy(first.copy()))
    gamma, optimizer = 1 / (float(w.detach().norm()) + EPS), torch.optim.Adam([w], lr=2e-5)
    path = [float(w.detach().norm())]
    for row in noise:
        optimizer.zero_grad()
        ((w * torch.from_numpy(row)).sum() + lam * gamma * w.norm()).backward()
        optimizer.step()
        path.append(float(w.detach().norm()))
    assert inside == pytest.approx(path, rel=1e-6)


def test_under_adam_lambda_hardly_matters_and_the_proximal_step_reaches_zero():
    ends = [lesson.adam_against_proximal(lam) for lam in (100.0, 10000.0)]
    assert ends[0][0][-1] == pytest.approx(ends[1][0][-1], rel=1e-3) and ends[0][0][-1] > 0.8 * ends[0][0][0]
    assert ends[0][1][-1] == 0.0
