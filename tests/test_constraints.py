"""What ADMM draws weights to: projections by hand, one after another, and a dual that survives a new rho."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from prune_core.cutting.masks import mask_at_sparsity
from prune_core.methods import constraints
from prune_core.methods.admm import ADMM, GROWTH, RHO
from prune_core.methods.constraints import Blocks, Chain, Clusters, Levels, Pattern
from prune_core.precision import formats
from prune_core.precision.formats import Format

ROW = torch.tensor([[0.9, -0.4, 0.1, 1.7, -2.2]])


def test_levels_by_hand():
    """Three bits: whole numbers (1, -1, 0, 2, -3), scale <v, q> / <q, q> = 11.3 / 15."""
    z = Levels({"w": Format.parse("3")}).project({"w": ROW})["w"]
    torch.testing.assert_close(z, 11.3 / 15 * torch.tensor([[1.0, -1.0, 0.0, 2.0, -3.0]]))


def test_levels_are_the_nearest_that_a_grid_of_scales_finds():
    draw = torch.randn(6, 40, generator=torch.Generator().manual_seed(3))
    z = Levels({"w": Format.parse("3")}).project({"w": draw})["w"]
    for row, nearest in zip(draw.numpy(), z.numpy(), strict=True):
        tried = [np.square(row - s * np.clip(np.round(row / s), -3, 3)).sum() for s in np.linspace(0.05, 2, 4000)]
        assert np.square(row - nearest).sum() <= 1.02 * min(tried)


def test_levels_go_on_from_the_last_scale():
    one = Levels({"w": Format.parse("3")})
    one.project({"w": ROW})
    first = float(one.scales["w"])
    one.project({"w": ROW * 1.01})
    assert float(one.scales["w"]) == pytest.approx(1.01 * first, rel=1e-5)
    other = Levels({"w": Format.parse("3")})
    other.restore_(one.tensors())
    torch.testing.assert_close(other.project({"w": ROW})["w"], one.project({"w": ROW})["w"], rtol=0, atol=0)


@pytest.mark.parametrize("text, wanted", [("ternary", [1, 0, 0, 1, -1]), ("binary", [1, -1, 1, 1, -1])])
def test_ternary_and_binary_by_hand(text, wanted):
    """Mean magnitude 1.06: ternary keeps what is above 0.742, at their mean 1.6; binary has the mean of all."""
    z = Levels({"w": Format.parse(text)}).project({"w": ROW})["w"]
    torch.testing.assert_close(z, (1.6 if text == "ternary" else 1.06) * torch.tensor([wanted], dtype=torch.float32))


def test_a_pattern_by_hand():
    row = torch.tensor([[3.0, -1.0, 2.0, -5.0, 0.5, 0.5, 0.4, -0.6]])
    z = Pattern({"w": formats.Pattern(2, 4)}).project({"w": row})["w"]
    assert z.tolist() == [[3.0, 0.0, 0.0, -5.0, 0.5, 0.0, 0.0, pytest.approx(-0.6)]]
    assert float(((row - z) ** 2).sum()) == pytest.approx(5.41)


def test_clusters_by_hand():
    """Two bits: three values of the kept weights; zero is none of them, and stays what it is."""
    row = torch.tensor([[1.0, 1.2, 0.0, 5.0, 5.2, -3.0, 0.0, -3.2]])
    one = Clusters({"w": Format.parse("clusters-2")})
    torch.testing.assert_close(one.project({"w": row})["w"],
                               torch.tensor([[1.1, 1.1, 0.0, 5.1, 5.1, -3.1, 0.0, -3.1]]))
    torch.testing.assert_close(one.codebooks["w"], torch.tensor([-3.1, 1.1, 5.1]))
    moved = one.project({"w": torch.where(row != 0, row + 0.5, row)})["w"]  # centroids follow
    torch.testing.assert_close(moved, torch.tensor([[1.6, 1.6, 0.0, 5.6, 5.6, -2.6, 0.0, -2.6]]))


@pytest.mark.parametrize("scope", ["global", "layer", "matrix"])
def test_blocks_keep_what_a_mask_keeps(scope):
    made = tiny.layout("2x1", ((4, 6), (6, 4)), 100)
    draw = torch.Generator().manual_seed(0)
    values = {m.name: torch.randn(m.m, m.n, generator=draw) for m in made.matrices}
    mask = mask_at_sparsity({name: made.block.norms(v).numpy() for name, v in values.items()}, made, 0.5, scope)
    for name, z in Blocks(made, scope, 0.5).project(values).items():
        assert torch.equal(z, values[name] * made.block.expand(torch.from_numpy(mask.kept[name]), *z.shape))


def test_one_after_another_zero_stays_zero():
    made = tiny.layout("2x1", ((4, 8),), 100)
    value = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    of = {"m0": Format.parse("3/2:4")}
    blocks = Blocks(made, "global", 0.25)
    chain = Chain([blocks, *constraints.of_pattern(of), *constraints.of_numbers(of)])
    z = chain.project({"m0": value})["m0"]
    cut = blocks.project({"m0": value})["m0"] == 0
    patterned = Pattern({"m0": formats.Pattern(2, 4)}).project({"m0": value * ~cut})["m0"]
    assert not z[cut].any() and not z[patterned == 0].any() and cut.sum() == 8
    assert ((z.view(4, 2, 4) != 0).sum(2) <= 2).all()
    wholes = z / chain.parts[2].scales["m0"][:, None]
    torch.testing.assert_close(wholes, wholes.round())
    chain.at_(0.75)
    assert int((blocks.project({"m0": value})["m0"] == 0).sum()) == 24


def test_where_the_weights_rest_they_rest_when_rho_grows():
    """At rest the task's gradient is -rho (W - Z + U); with Z = W that is -rho U, which must not double with rho."""
    weights = {"m0": nn.Parameter(torch.tensor([[3.0, 5.0], [4.0, 12.0]]))}
    method = ADMM(weights, tiny.layout("2x1", ((2, 2),), 10))
    method.control_(0.5, 0.0)
    with torch.no_grad():
        weights["m0"].copy_(method._z["m0"])
    pulls = []
    for _ in range(4):
        weights["m0"].grad = torch.zeros(2, 2)
        method.before_step_()
        pulls.append(weights["m0"].grad.clone())
        method.refresh_()
    assert pulls[0].tolist() == [[pytest.approx(3 * RHO), 0.0], [pytest.approx(4 * RHO), 0.0]]
    for pull in pulls[1:]:
        torch.testing.assert_close(pull, pulls[0], rtol=0, atol=0)
    assert method.lam == {"all": pytest.approx(RHO * GROWTH**4)}


def test_a_solved_step_by_hand():
    """By lr rho / (1 + lr rho) of the way to Z - U: of what goes from W to -W, as U is W there; nothing else moves."""
    weights = {"m0": nn.Parameter(torch.tensor([[3.0, 5.0], [4.0, 12.0]]))}
    method = ADMM(weights, tiny.layout("2x1", ((2, 2),), 10), rho=2.0, solved=True)
    method.control_(0.5, 0.0)
    weights["m0"].grad = torch.zeros(2, 2)
    method.before_step_()
    assert not weights["m0"].grad.any()
    method.after_step_(0.5)
    assert weights["m0"].tolist() == [[0.0, 5.0], [0.0, 12.0]]
    method.after_step_(0.5)
    assert weights["m0"].tolist() == [[-1.5, 5.0], [-2.0, 12.0]]


def test_residuals_by_hand():
    weights = {"m0": nn.Parameter(torch.tensor([[3.0, 5.0], [4.0, 12.0]]))}
    method = ADMM(weights, tiny.layout("2x1", ((2, 2),), 10))
    assert method.residuals == {}
    method.control_(0.5, 0.0)
    assert method.residuals == {"primal": pytest.approx(5 / 194**0.5), "dual": pytest.approx(5 / 194**0.5)}
    method.control_(0.5, 0.0)
    assert method.residuals["dual"] == 0.0


def test_admm_with_a_pattern_hardens_to_it():
    made = tiny.layout("2x1", ((4, 8),), 100)
    weights = {"m0": nn.Parameter(torch.randn(4, 8, generator=torch.Generator().manual_seed(2)))}
    method = ADMM(weights, made, constraint=Chain([Blocks(made), Pattern({"m0": formats.Pattern(2, 4)})]))
    method.control_(0.25, 0.0)
    method.harden_()
    assert ((weights["m0"].view(4, 2, 4) != 0).sum(2) <= 2).all()
    assert int((made.block.norms(weights["m0"].detach()) == 0).sum()) >= 4
