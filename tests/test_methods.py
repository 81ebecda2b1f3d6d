"""Magnitude, movement, ADMM and the methods in closed form: against plain loops and by hand, through the same loop,
resumed bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import SCOPES, mask_at_sparsity, sparsity_of
from prune_core.methods import repair, table
from prune_core.methods.admm import ADMM, GROWTH, RHO
from prune_core.methods.masking import GradualMagnitude, Movement
from prune_core.methods.saliency import Activation
from prune_core.methods.table import METHODS
from prune_core.models import encoders
from prune_core.runs.config import PruneConfig
from prune_core.runs.snapshots import Snapshot
from prune_core.tasks import encoding
from prune_core.tasks.glue import Examples


def weights_for(made, seed: int = 0) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return {m.name: nn.Parameter(torch.randn(m.m, m.n, generator=draw)) for m in made.matrices}


def pair():
    """Columns (3, 4) and (5, 12) of a 2x2 weight as two groups: norms 5 and 13."""
    made = tiny.layout("2x1", ((2, 2),), 10)
    return {"m0": nn.Parameter(torch.tensor([[3.0, 5.0], [4.0, 12.0]]))}, made


@pytest.mark.parametrize("method", [GradualMagnitude, Movement])
def test_the_schedule_is_cubic(method):
    assert [method.share(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.875, 1.0]


@pytest.mark.parametrize("scope", SCOPES)
def test_magnitude_cuts_what_a_mask_would(scope):
    made = tiny.layout("2x1", ((4, 6), (6, 4)), 100)
    weights = weights_for(made)
    before = {name: w.detach().clone() for name, w in weights.items()}
    method = GradualMagnitude(weights, made, scope)
    method.control_(0.5, 0.0)
    method.after_step_(0.1)
    mask = mask_at_sparsity({name: made.block.norms(w).numpy() for name, w in before.items()}, made, 0.5, scope)
    for name, weight in weights.items():
        kept = made.block.expand(torch.from_numpy(mask.kept[name]), *weight.shape)
        assert torch.equal(weight.detach(), before[name] * kept)
        assert np.array_equal(method.norms[name].numpy() > 0, mask.kept[name])


def test_what_was_cut_comes_back_as_it_was():
    weights, made = pair()
    method = GradualMagnitude(weights, made)
    method.control_(0.5, 0.0)
    method.after_step_(0.1)
    assert weights["m0"].tolist() == [[0.0, 5.0], [0.0, 12.0]]
    with torch.no_grad():
        weights["m0"][:, 1] = torch.tensor([0.3, 0.4])  # training has made the other one smaller
    method.control_(0.5, 0.0)
    method.after_step_(0.1)
    assert weights["m0"].tolist() == [[3.0, 0.0], [4.0, 0.0]]


def test_importance_turns_the_order():
    weights, made = pair()
    method = GradualMagnitude(weights, made)
    method.weigh_({"m0": torch.tensor([[10.0, 1.0]])}, True)
    method.control_(0.5, 0.0)
    method.after_step_(0.1)
    assert weights["m0"].tolist() == [[3.0, 0.0], [4.0, 0.0]]


def test_movement_by_hand():
    """S -= sum of w dL/dw: a group whose weights are driven up is kept, though it is the smaller one."""
    weights, made = pair()
    method = Movement(weights, made)
    weights["m0"].grad = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    method.before_step_()
    assert method._moved["m0"].tolist() == [pytest.approx([7.0, -17.0], abs=1e-5)]
    method.control_(0.5, 0.0)
    method.after_step_(0.1)
    assert weights["m0"].tolist() == [[3.0, 0.0], [4.0, 0.0]]
    method.before_step_()  # the cut group still takes part, straight through the mask
    assert method._moved["m0"].tolist() == [pytest.approx([14.0, -34.0], abs=1e-5)]


def test_movement_follows_the_norms_until_something_moves():
    weights, made = pair()
    method = Movement(weights, made)
    method.control_(0.5, 0.0)
    method.after_step_(0.1)
    assert weights["m0"].tolist() == [[0.0, 5.0], [0.0, 12.0]]


def test_admm_by_hand():
    weights, made = pair()
    method = ADMM(weights, made)
    method.control_(0.5, 0.0)  # Z = Proj(W + 0), U = W - Z
    assert method._z["m0"].tolist() == [[0.0, 5.0], [0.0, 12.0]]
    assert method._u["m0"].tolist() == [[3.0, 0.0], [4.0, 0.0]]
    assert method.norms["m0"].tolist() == [[0.0, 13.0]] and weights["m0"].tolist() == [[3.0, 5.0], [4.0, 12.0]]
    weights["m0"].grad = torch.zeros(2, 2)
    method.before_step_()  # rho (W - Z + U)
    torch.testing.assert_close(weights["m0"].grad, RHO * torch.tensor([[6.0, 0.0], [8.0, 0.0]]))
    assert method.penalty() == pytest.approx(RHO / 2 * 100)
    method.refresh_()
    assert method.lam == {"all": RHO * GROWTH}
    assert method._u["m0"].tolist() == [[1.5, 0.0], [2.0, 0.0]]  # rho U stays
    method.control_(0.5, 0.0)  # U grows by W - Z again
    assert method._u["m0"].tolist() == [[4.5, 0.0], [6.0, 0.0]]
    method.harden_()
    assert weights["m0"].tolist() == [[0.0, 5.0], [0.0, 12.0]]


def test_admm_draws_the_cut_groups_to_zero():
    weights, made = pair()
    method, optimizer = ADMM(weights, made), torch.optim.SGD(weights.values(), lr=10.0)
    for _ in range(400):
        method.control_(0.5, 0.0)
        weights["m0"].grad = torch.zeros(2, 2)
        method.before_step_()
        optimizer.step()
    assert float(weights["m0"][:, 0].detach().norm()) < 0.5 < 5.0 < float(weights["m0"][:, 1].detach().norm())


@pytest.mark.parametrize("scope", ["global", "matrix"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_through_the_same_loop(tiny_model, tiny_data, method, scope):
    asked = tiny.settings(tiny_model, tiny_data, method=method, scope=scope, penalty_steps=40)
    ends = {event.saved: event for event in tiny.pruning(asked) if isinstance(event, Snapshot) and event.saved}
    assert list(ends) == ["dense", "penalty-1.5x", "penalty-3x", "retrain-1.5x", "retrain-3x"]
    for compression in (1.5, 3.0):
        for phase in ("penalty", "retrain"):
            assert ends[f"{phase}-{compression:g}x"].blocks == pytest.approx(sparsity_of(compression), abs=0.06)


@pytest.mark.parametrize("settings", [*({"method": method} for method in list(METHODS)[1:]), {"control": "dynamic"}],
                         ids=lambda s: "-".join(s.values()))
def test_every_method_resumes_bit_for_bit(tiny_model, tiny_data, settings):
    asked = tiny.settings(tiny_model, tiny_data, compressions=(2.0,), **settings)
    whole, kept, states = tiny.pruning(asked), {}, []
    for event in whole:
        if isinstance(event, Snapshot):
            if event.saved:
                kept[event.saved] = {name: t.clone() for name, t in event.weights().items()}
            if event.phase in ("penalty", "retrain-2x") and event.step in (1, 3, 7) and whole.at_rest:
                states.append(copy.deepcopy(whole.state()))
    assert states
    for state in states:
        again = tiny.pruning(asked, saved=lambda name: kept[name])
        again.restore_(*state)
        for _ in again:
            pass
        ends = (pruning.encoder.trainable().values() for pruning in (whole, again))
        assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


# ---------------------------------------------------------------- in closed form


@pytest.fixture
def measured(tiny_model):
    """(encoder, layout, Gram matrices, sentences encoded)"""
    encoder = encoders.load(str(tiny_model), 2)
    texts, labels = tiny.sentences(48, 5)
    data = encoding.encode(Examples([(t,) for t in texts], np.array(labels)), encoder.tokenizer, 40)
    batches = (data.batch(at)[0] for at in encoding.dev_batches(data.lengths, 16))
    grams = repair.collect(encoder.model, encoder.linears, batches)
    return encoder, encoder.layout(BlockShape.parse("16x1")), grams, data


def lost(before, weights, grams) -> float:
    """Summed squared difference of all matrices' outputs, about their mean (the bias is free)."""
    changes = {name: w - before[name] for name, w in weights.items()}
    return sum(float(((change @ grams[name].centred()) * change).sum()) for name, change in changes.items())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("method", table.at_once())
def test_closed_forms_lose_less_than_the_activation_score(measured, method, share):
    """The same share of every matrix, all repaired: choosing for the repair loses less
    than choosing each block for itself."""
    encoder, layout, grams, data = measured
    before = {name: w.detach().clone() for name, w in encoder.weights.items()}
    biases = {name: linear.bias.detach().clone() for name, linear in encoder.linears.items()}
    mask = mask_at_sparsity(Activation(grams).of(encoder, layout), layout, share, "matrix")
    repair.repair_(encoder.linears, mask, grams)
    plain = lost(before, {name: w.detach() for name, w in encoder.weights.items()}, grams)
    for name, linear in encoder.linears.items():
        linear.weight.data.copy_(before[name])
        linear.bias.data.copy_(biases[name])
    METHODS[method].build(encoder, layout, "matrix", grams, data, range(48)).cut_(share)
    weights = {name: w.detach() for name, w in encoder.weights.items()}
    for w in weights.values():
        norms = layout.block.norms(w)
        assert int((norms == 0).sum()) == round(share * norms.numel())
    assert lost(before, weights, grams) < 0.97 * plain


@pytest.mark.parametrize("settings", [{"control": "dynamic"}, {"method": "admm", "progressive": False}])
def test_settings_of_methods_go_through_the_loop(tiny_model, tiny_data, settings):
    asked = tiny.settings(tiny_model, tiny_data, compressions=(3.0,), penalty_steps=40, **settings)
    events = [event for event in tiny.pruning(asked) if isinstance(event, Snapshot) and event.phase == "penalty"]
    assert next(e for e in events if e.saved).point["sparsity"] == pytest.approx(2 / 3, abs=0.05)
    early = [event.zero_share for event in events if event.step == 2]
    assert early[0] > 0.6 if "progressive" in settings else early[0] < 0.6


def test_settings_that_do_not_fit():
    with pytest.raises(InputError, match="group-lasso, magnitude, movement, admm, nxm-qat, surgeon, admm-closed"):
        PruneConfig(method="random")
    with pytest.raises(InputError, match="lambda is a setting of group-lasso"):
        PruneConfig(method="admm", lam=1e-3)
    with pytest.raises(InputError, match="control 'dynamic' is for the proximal penalty"):
        PruneConfig(method="magnitude", control="dynamic")
