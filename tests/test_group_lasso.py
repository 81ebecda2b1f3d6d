"""Reweighted group Lasso: against plain loops, closed forms, finite differences and numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import layout
from torch import nn

from prune_core.cutting.masks import SCOPES, by_scope
from prune_core.methods.group_lasso import EPS, DynamicGroupLasso, InLossGroupLasso, ProximalGroupLasso

BOTH = (ProximalGroupLasso, InLossGroupLasso)


def weights_for(made, seed: int = 0, dtype=torch.float64) -> dict[str, nn.Parameter]:
    """Random trainable weights for the matrices of a layout."""
    draw = torch.Generator().manual_seed(seed)
    return {m.name: nn.Parameter(torch.randn(m.m, m.n, generator=draw, dtype=dtype)) for m in made.matrices}


def hand_2x2(method, lam: float, reweighted: bool = True):
    """Columns (3, 4) and (5, 12) as two groups: norms 5 and 13."""
    made = layout("2x1", ((2, 2),), 10)
    weights = {"m0": nn.Parameter(torch.tensor([[3.0, 5.0], [4.0, 12.0]], dtype=torch.float64))}
    return weights, method(weights, made, lam=lam, reweighted=reweighted)


def looped_penalty(weight, gamma, lam: float, rows: int, cols: int) -> float:
    """sum over groups of lambda * gamma * norm, one weight at a time."""
    total = 0.0
    for down in range(weight.shape[0] // rows):
        for across in range(weight.shape[1] // cols):
            squares = 0.0
            for i in range(rows):
                for j in range(cols):
                    squares += float(weight[down * rows + i, across * cols + j].detach()) ** 2
            total += lam * float(gamma[down, across]) * math.sqrt(squares)
    return total


# ---------------------------------------------------------------- the penalty


@pytest.mark.parametrize("method", BOTH)
def test_penalty_of_a_2x2_by_hand(method):
    _, plain = hand_2x2(method, 0.5, reweighted=False)
    assert plain.penalty() == pytest.approx(0.5 * (5 + 13), rel=1e-12)
    _, reweighted = hand_2x2(method, 0.5)
    assert reweighted.penalty() == pytest.approx(0.5 * (5 / 5.001 + 13 / 13.001), rel=1e-12)


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("block, rows, cols", [
    ("2x1", 2, 1), ("1x2", 1, 2), ("2x2", 2, 2), ("allx1", 4, 1), ("1xall", 1, 6)])
def test_penalty_equals_a_plain_loop(method, block, rows, cols):
    made = layout(block, ((4, 6), (4, 6)), 100)
    weights = weights_for(made)
    measured = method(weights, made, lam=0.3)
    measured.gamma = {name: torch.rand_like(gamma) for name, gamma in measured.gamma.items()}
    wanted = sum(looped_penalty(w, measured.gamma[name], 0.3, rows, cols) for name, w in weights.items())
    assert measured.penalty() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("method", BOTH)
def test_gamma_is_refreshed_at_milestones_only(method):
    weights, measured = hand_2x2(method, 0.0)
    assert measured.gamma["m0"].tolist() == [[1 / (5 + EPS), 1 / (13 + EPS)]]
    with torch.no_grad():
        weights["m0"][:, 0] = 0.0
    measured.after_step_(0.1)
    assert measured.gamma["m0"].tolist() == [[1 / (5 + EPS), 1 / (13 + EPS)]]
    measured.refresh_()
    assert measured.gamma["m0"].tolist() == [[1 / EPS, 1 / (13 + EPS)]]


@pytest.mark.parametrize("method", BOTH)
def test_plain_group_lasso_keeps_gamma_at_one(method):
    _, measured = hand_2x2(method, 0.1, reweighted=False)
    measured.refresh_()
    assert measured.gamma["m0"].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", BOTH)
def test_there_is_one_lambda_per_scope_key(method, scope):
    made = layout("2x1", ((4, 2),) * 4, 100)
    assert method(weights_for(made), made, lam=0.2, scope=scope).lam == dict.fromkeys(by_scope(made, scope), 0.2)


@pytest.mark.parametrize("method", BOTH)
def test_each_matrix_pays_its_own_scopes_lambda(method):
    made = layout("2x1", ((4, 2),) * 4, 100)  # types query, key, query, key
    measured = method(weights_for(made), made, scope="type", reweighted=False)
    measured.lam = {"query": 2.0, "key": 0.0}
    queries = measured.norms["m0"].sum() + measured.norms["m2"].sum()
    assert measured.penalty() == pytest.approx(2 * float(queries), rel=1e-12)


# ---------------------------------------------------------------- in the loss


@pytest.mark.parametrize("block", ["2x1", "1x2", "2x2", "1xall"])
def test_in_loss_gradient_equals_finite_differences(block):
    made = layout(block, ((4, 6),), 100)
    weights = weights_for(made)
    method = InLossGroupLasso(weights, made, lam=0.7)
    method.before_step_()
    found, step = weights["m0"].grad.clone(), 1e-6
    with torch.no_grad():
        for at in np.ndindex(4, 6):
            weights["m0"][at] += step
            above = float(method.term())
            weights["m0"][at] -= 2 * step
            below = float(method.term())
            weights["m0"][at] += step
            assert float(found[at]) == pytest.approx((above - below) / (2 * step), abs=1e-7)
    assert found.abs().min() > 0


def test_in_loss_gradient_of_a_2x2_by_hand():
    weights, method = hand_2x2(InLossGroupLasso, 2.0, reweighted=False)
    method.before_step_()
    directions = torch.tensor([[3 / 5, 5 / 13], [4 / 5, 12 / 13]], dtype=torch.float64)
    assert torch.allclose(weights["m0"].grad, 2 * directions)


def test_in_loss_gradient_is_added_to_the_tasks():
    weights, method = hand_2x2(InLossGroupLasso, 2.0, reweighted=False)
    weights["m0"].grad = torch.full((2, 2), 10.0, dtype=torch.float64)
    method.before_step_()
    assert float(weights["m0"].grad[0, 0]) == pytest.approx(10 + 2 * 3 / 5)


def test_in_loss_a_zero_group_gets_no_gradient_rather_than_nan():
    weights, _ = hand_2x2(InLossGroupLasso, 1.0)
    with torch.no_grad():
        weights["m0"][:, 0] = 0.0
    method = InLossGroupLasso(weights, layout("2x1", ((2, 2),), 10), lam=1.0)
    method.before_step_()
    assert weights["m0"].grad[:, 0].tolist() == [0.0, 0.0]
    assert weights["m0"].grad[:, 1].abs().min() > 0


def test_in_loss_leaves_the_weights_to_the_optimizer():
    weights, method = hand_2x2(InLossGroupLasso, 1.0)
    before = weights["m0"].detach().clone()
    method.before_step_()
    method.after_step_(0.1)
    assert torch.equal(weights["m0"], before)


def test_in_loss_control_raises_lambda_by_a_quarter_until_enough_has_sunk():
    weights, method = hand_2x2(InLossGroupLasso, 0.4)
    method.control_(0.5, 1.0)
    assert method.lam == {"all": 0.4 * 1.25}
    with torch.no_grad():
        weights["m0"][:, 0] *= 0.09  # below a tenth of its start: one of two groups
    method.after_step_(0.1)
    method.control_(0.5, 1.0)
    assert method.lam == {"all": 0.4 * 1.25 * 0.8}


# ---------------------------------------------------------------- proximal


@pytest.mark.parametrize("block", ["2x1", "1x2", "2x2", "allx1"])
def test_proximal_step_equals_its_closed_form(block):
    made = layout(block, ((4, 6),), 100)
    weights = weights_for(made)
    method = ProximalGroupLasso(weights, made, lam=0.8)
    before = weights["m0"].detach().clone()
    norms, gamma = method.norms["m0"].clone(), method.gamma["m0"].clone()
    method.after_step_(0.5)
    factor = (1 - 0.5 * 0.8 * gamma / norms).clamp_min(0)
    rows, cols = made.block.sides(4, 6)
    wanted = torch.stack([torch.stack([before[i, j] * factor[i // rows, j // cols] for j in range(6)])
                          for i in range(4)])
    assert torch.allclose(weights["m0"], wanted, rtol=1e-14, atol=0)
    assert torch.equal(method.norms["m0"] == 0, factor == 0)
    assert torch.allclose(method.norms["m0"], made.block.norms(weights["m0"].detach()), rtol=1e-14)


def test_proximal_step_of_a_2x2_by_hand():
    weights, method = hand_2x2(ProximalGroupLasso, 65.0, reweighted=False)
    method.after_step_(0.1)  # takes 6.5 off every norm: 5 -> 0, 13 -> 6.5
    assert torch.allclose(weights["m0"], torch.tensor([[0.0, 2.5], [0.0, 6.0]], dtype=torch.float64))
    assert weights["m0"][:, 0].tolist() == [0.0, 0.0]
    assert method.norms["m0"][0].tolist() == pytest.approx([0.0, 6.5])


def test_proximal_step_is_the_minimiser_it_claims_to_be():
    weights, method = hand_2x2(ProximalGroupLasso, 2.0, reweighted=False)
    start = weights["m0"].detach().clone()
    method.after_step_(0.5)

    def objective(w) -> float:  # 1/2 |w - start|^2 + lr * lambda * sum of norms
        return 0.5 * float(((w - start) ** 2).sum()) + sum(float(w[:, j].norm()) for j in range(2))

    best, draw = objective(weights["m0"].detach()), torch.Generator().manual_seed(0)
    for _ in range(200):
        near = weights["m0"].detach() + 0.05 * torch.randn(2, 2, generator=draw, dtype=torch.float64)
        assert objective(near) > best


def test_proximal_leaves_zero_groups_zero_and_never_nan():
    weights, _ = hand_2x2(ProximalGroupLasso, 1.0)
    with torch.no_grad():
        weights["m0"][:, 0] = 0.0
    method = ProximalGroupLasso(weights, layout("2x1", ((2, 2),), 10), lam=1.0)
    for _ in range(3):
        method.after_step_(0.1)
    assert weights["m0"][:, 0].tolist() == [0.0, 0.0] and torch.isfinite(weights["m0"]).all()


def test_proximal_never_touches_the_gradient():
    weights, method = hand_2x2(ProximalGroupLasso, 1.0)
    method.before_step_()
    assert weights["m0"].grad is None


def test_no_lambda_changes_nothing():
    weights, method = hand_2x2(ProximalGroupLasso, 0.0)
    before = weights["m0"].detach().clone()
    method.after_step_(0.1)
    assert torch.equal(weights["m0"], before)


@pytest.mark.parametrize("spare", [True, False])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("wanted", [0.25, 0.5, 0.8])
def test_control_reaches_the_wanted_share_when_nothing_pushes_back(scope, wanted, spare):
    made = layout("2x1", ((20, 10),) * 4, 2000)  # 100 groups per matrix
    weights = weights_for(made, dtype=torch.float32)
    method = ProximalGroupLasso(weights, made, scope=scope, spare=spare)
    for left in range(20, 0, -1):
        method.control_(wanted, 0.01 * left)
        method.after_step_(0.01)
    for key, matrices in by_scope(made, scope).items():
        zero = sum(int((method.norms[m.name] == 0).sum()) for m in matrices)
        assert abs(zero / (100 * len(matrices)) - wanted) <= 0.02, key


def test_control_by_hand():
    _, method = hand_2x2(ProximalGroupLasso, 0.0, reweighted=False)
    method.control_(0.5, 0.25)  # the smaller norm, 5, is to be gone after a summed learning rate of 0.25
    assert method.lam == {"all": 20.0}


def test_spared_groups_keep_their_weights_bit_for_bit_and_pay_nothing():
    weights, method = hand_2x2(ProximalGroupLasso, 0.0, reweighted=False)
    method.control_(0.5, 0.25)  # lambda 20; norm 5 is to go, norm 13 to stay
    assert method.penalty() == pytest.approx(20 * 5)
    method.after_step_(0.125)
    assert torch.allclose(weights["m0"], torch.tensor([[1.5, 5.0], [2.0, 12.0]], dtype=torch.float64))
    assert weights["m0"][:, 1].tolist() == [5.0, 12.0]


def test_without_sparing_all_groups_are_shrunk():
    weights, _ = hand_2x2(ProximalGroupLasso, 0.0)
    method = ProximalGroupLasso(weights, layout("2x1", ((2, 2),), 10), reweighted=False, spare=False)
    method.control_(0.5, 0.25)
    assert method.penalty() == pytest.approx(20 * (5 + 13))
    method.after_step_(0.125)  # takes 2.5 off both
    assert method.norms["m0"][0].tolist() == pytest.approx([2.5, 10.5])


def test_a_lambda_that_was_given_spares_nothing():
    _, method = hand_2x2(ProximalGroupLasso, 2.0, reweighted=False)
    assert method.spare and method.penalty() == pytest.approx(2 * (5 + 13))


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("method", BOTH)
def test_state_comes_back_whole(method):
    made = layout("2x1", ((4, 6), (4, 6)), 100)
    weights = weights_for(made, dtype=torch.float32)
    one = method(weights, made, lam=0.5, scope="matrix")
    for _ in range(3):
        one.control_(0.3, 0.1)
        one.after_step_(0.02)
    one.refresh_()
    tensors = {name: tensor.clone() for name, tensor in one.tensors().items()}
    other = method(weights_for(made, seed=1, dtype=torch.float32), made, scope="matrix")
    other.restore_(tensors, one.lam)
    assert other.lam == one.lam and other.penalty() == one.penalty()
    assert all(torch.equal(other.tensors()[name], tensor) for name, tensor in one.tensors().items())


@pytest.mark.parametrize("method", BOTH)
def test_what_is_restored_acts_bit_for_bit_alike(method):
    made = layout("2x1", ((20, 10),) * 2, 2000)
    weights = weights_for(made, dtype=torch.float32)
    one = method(weights, made)
    for _ in range(5):
        one.control_(0.4, 0.1)
        one.after_step_(0.01)
    copies = {name: nn.Parameter(w.detach().clone()) for name, w in weights.items()}
    other = method(copies, made)
    other.restore_({name: tensor.clone() for name, tensor in one.tensors().items()}, one.lam)
    for step in range(6):
        for each in (one, other):
            if step % 2:  # not at once: until then the restored lambda and aim hold
                each.control_(0.6, 0.1)
            each.after_step_(0.01)
    assert one.lam == other.lam
    assert all(torch.equal(weights[name], copies[name]) for name in weights)


def test_dynamic_lambda_falls_with_the_square_of_what_is_missing():
    """Four groups, half of them wanted at zero; lambda is the bound at first, a quarter of it with one at zero,
    nothing with two."""
    made = layout("2x1", ((2, 4),), 10)

    def lam(*norms):
        weights = {"m0": nn.Parameter(torch.tensor([list(map(float, norms)), [0.0] * 4]))}
        method, bound = (form(weights, made, reweighted=False) for form in (DynamicGroupLasso, ProximalGroupLasso))
        method.control_(0.5, 0.1)
        bound.control_(0.5, 0.1 * DynamicGroupLasso.HORIZONS)
        return method.lam["all"], bound.lam["all"]

    for norms, share in (((4, 3, 2, 1), 1.0), ((4, 3, 2, 0), 0.25), ((4, 3, 0, 0), 0.0)):
        dynamic, bound = lam(*norms)
        assert dynamic == pytest.approx(share * bound) and (bound > 0 or share == 0)
    assert DynamicGroupLasso.share(0.0) == 1.0


def test_dynamic_control_comes_to_its_target_in_every_matrix():
    made = layout("2x1", ((4, 6), (6, 4)), 100)
    draw = torch.Generator().manual_seed(1)
    weights = {m.name: nn.Parameter((1 + at) * torch.randn(m.m, m.n, generator=draw))
               for at, m in enumerate(made.matrices)}
    method = DynamicGroupLasso(weights, made, scope="matrix", reweighted=False)
    shares = []
    for _ in range(100):
        method.control_(0.5, 10 * 0.01)
        method.after_step_(0.01)
        shares.append([float((method.norms[name] == 0).float().mean()) for name in weights])
    assert shares[5] < [0.5, 0.5] and shares[-1] == [pytest.approx(0.5, abs=0.09)] * 2
    assert all(max(one) <= 0.5 for one in shares)
