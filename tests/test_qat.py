"""Training with number formats: gradients against torch's own and by the formula, weights exactly on their levels,
patterns in every group, and the same numbers after any stop."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from test_loop import assert_same, continued, snapshots_of

from prune_core.methods import qat
from prune_core.methods.activations import Activations, by_tensor, by_token, embedding_rows
from prune_core.methods.rounding import SHARES, Clustered, Frozen, Learned, Rounded, rounding
from prune_core.models import encoders
from prune_core.precision import formats, quantizers
from prune_core.precision.formats import Format
from prune_core.runs.snapshots import Snapshot

ALL = [{"bits": "8", "activation_bits": 8}, {"bits": "4"}, {"bits": "4", "quantizer": "interval"},
       {"bits": "3", "quantizer": "lsq"}, {"bits": "clusters-3"}, {"bits": "4", "quantizer": "admm"},
       {"bits": "clusters-2", "quantizer": "admm"}, {"bits": "4", "quantizer": "iterative"},
       {"bits": "clusters-3", "quantizer": "iterative"}, {"bits": "ternary"}, {"bits": "binary"},
       {"bits": "layer:8,4;a8-tensor", "embedding_bits": 8, "pattern": "2:4"},
       {"method": "admm", "pattern": "2:4"}, {"method": "nxm-qat", "compressions": (1.0, 2.0)},
       {"method": "surgeon", "bits": "8", "pattern": "2:4"}, {"method": "magnitude", "bits": "4", "block": "8x4"}]


def drawn(m: int = 6, n: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed))


def everything(weight: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(weight, dtype=torch.bool)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("bits, warm", [(8, False), (4, False), (4, True), (2, True)])
def test_rounding_and_its_gradient_are_torchs_own(bits, warm):
    weight, format = drawn(), Format("levels", bits)
    one = Rounded(weight, format, everything(weight), 10, warm)
    if bits == 4:
        one.scales = one.scales * 0.5  # so that some are beyond the levels
    leaf, gradient = weight.clone().requires_grad_(), drawn(seed=1)
    theirs = torch.fake_quantize_per_channel_affine(leaf, one.scales, torch.zeros(6, dtype=torch.int32), 0,
                                                    -format.top, format.top)
    theirs.backward(gradient)
    torch.testing.assert_close(one.round(weight), theirs.detach())
    ours = gradient.clone()
    one.straight_(weight, ours)
    torch.testing.assert_close(ours, leaf.grad)
    assert (bits != 4) or (ours == 0).any()


def test_the_learned_steps_gradient_is_that_of_the_clipped_line():
    """s clip(w/s, -K, K) moved by what rounding adds: its difference in s, over sqrt(weights * K), for the factor."""
    weight = torch.cat([drawn(2, 40), torch.tensor([[1.0, 0.99], [-2.0, -0.6]])], 1)
    gradient, top = drawn(2, 42, seed=1), 3
    one = Learned(weight, Format("levels", 3), everything(weight), 10)
    one.start = one.scales = torch.tensor([0.3, 0.5])
    wide, scales = weight.double(), one.scales.double()[:, None]
    ratio = wide / scales
    beside = (ratio.abs() > top) & (ratio.abs() < top + 0.5)
    assert beside.any() and (ratio.abs() > top + 0.5).any()
    added = ratio.clamp(-top, top).round() - ratio.clamp(-top, top)

    def line(s: torch.Tensor) -> torch.Tensor:
        return s * ((wide / s).clamp(-top, top) + added)

    slope = (line(scales + 1e-6) - line(scales - 1e-6)) / 2e-6
    ours = gradient.clone()
    one.straight_(weight, ours)
    wanted = (gradient * slope).sum(1) / (42 * top) ** 0.5 * scales[:, 0]
    torch.testing.assert_close(one.learned.grad.double(), wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(ours == 0, ratio.abs() > top)


@pytest.mark.parametrize("ratio, slope", [(0.4, -0.4), (0.6, 0.4), (-2.7, -0.3), (2.99, 0.01), (3.01, 3.0), (3.4, 3.0),
                                          (3.6, 3.0), (-3.01, -3.0), (-9.0, -3.0)])
def test_the_learned_step_by_hand(ratio, slope):
    weight = torch.tensor([[ratio * 0.5]])
    one = Learned(weight, Format("levels", 3), everything(weight), 10)
    one.start = one.scales = torch.tensor([0.5])
    one.straight_(weight, torch.ones(1, 1))
    assert float(one.learned.grad) == pytest.approx(slope / 3**0.5 * 0.5, abs=1e-4)


def test_the_values_of_a_codebook_move_by_the_mean_gradient_of_their_weights():
    weight = torch.tensor([[1.0, 1.2, 0.0, 5.0], [5.2, -3.0, 0.0, -3.2]])
    one = Clustered(weight, Format("clusters", 2), weight != 0, 10)
    now = weight.clone()
    assert not one.begin_(now, 8) and one.begin_(now, 9)  # the last tenth of ten steps
    torch.testing.assert_close(now, torch.tensor([[1.1, 1.1, 0.0, 5.1], [5.1, -3.1, 0.0, -3.1]]))
    gradient = torch.tensor([[1.0, 3.0, 9.0, 0.5], [0.1, -1.0, 9.0, 0.0]])
    one.straight_(now, gradient)
    torch.testing.assert_close(gradient, torch.tensor([[2.0, 2.0, 0.0, 0.3], [0.3, -0.5, 0.0, -0.5]]))


def test_what_loses_least_is_frozen_first_and_stays():
    weight = drawn(8, 32)
    one = Frozen(weight, Format("levels", 3), everything(weight), 8)
    lost = abs(weight - torch.from_numpy(one.settle(weight).values))
    now = weight.clone()
    for step, share in zip((0, 2, 4, 6), SHARES, strict=True):
        one.begin_(now, step)
        assert int(one.frozen.sum()) == round(share * 256)
        if step == 0:
            assert lost[one.frozen].max() <= lost[~one.frozen].min()
        held = now[one.frozen].clone()
        gradient = torch.ones_like(now)
        one.straight_(now, gradient)
        assert torch.equal(gradient == 0, one.frozen)
        now += 0.01
        one.stepped_(now)
        assert torch.equal(now[one.frozen], held)
    assert torch.equal(now, torch.from_numpy(one.settle(now).values))


# ---------------------------------------------------------------- activations and embeddings


def test_a_tokens_activations_by_hand():
    """From -1 to 4.1 in 255 steps of 0.02, as x = least + step * byte."""
    x = torch.tensor([[-1.0, 4.1, 0.011, 0.0]])
    torch.testing.assert_close(by_token(x), torch.tensor([[-1.0, 4.1, 0.02, 0.0]]), atol=1e-6, rtol=0)
    assert torch.equal(by_token(torch.zeros(2, 3)), torch.zeros(2, 3))
    half = by_token(x.bfloat16())
    assert half.dtype == torch.bfloat16


def test_activations_of_a_tensor_have_zero_and_no_gradient_beyond_their_range():
    x = torch.tensor([[-0.5, 0.0, 0.3, 3.0]], requires_grad=True)
    y = by_tensor(x, -0.51, 0.51)
    y.sum().backward()
    torch.testing.assert_close(y.detach(), torch.tensor([[-0.5, 0.0, 0.3, 0.508]]), atol=2e-3, rtol=0)
    assert x.grad.tolist() == [[1.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize("per", ["token", "tensor"])
def test_every_prunable_layer_is_given_rounded_inputs_inside_only(tiny_model, per):
    encoder = encoders.load(str(tiny_model), 2)
    one, seen = Activations(encoder.linears, per), {}
    batch = encoder.tokenizer("a fine film", return_tensors="pt")
    with torch.no_grad(), one.running(learning=True):
        hooks = [linear.register_forward_pre_hook(lambda m, a, name=name: seen.__setitem__(name, a[0]))
                 for name, linear in encoder.linears.items()]
        rounded = encoder.model.eval()(**batch).logits
    for hook in hooks:
        hook.remove()
    for x in seen.values():
        values = x[0] if per == "token" else x.reshape(1, -1)
        assert all(len(row.unique()) <= 256 for row in values) and torch.isfinite(x).all()
        torch.testing.assert_close(by_token(x) if per == "token" else x, x, atol=1e-5, rtol=0)
    with torch.no_grad():
        plain = encoder.model(**batch).logits
        assert not torch.equal(plain, rounded) and torch.allclose(plain, rounded, atol=0.2)
    assert set(one.ranges) == (set(encoder.linears) if per == "tensor" else set())


def test_embeddings_have_a_scale_for_each_row():
    table = drawn(5, 32)
    rows, scales = embedding_rows(table)
    theirs = torch.fake_quantize_per_channel_affine(table, scales, torch.zeros(5, dtype=torch.int32), 0, -127, 127)
    torch.testing.assert_close(rows, theirs)
    torch.testing.assert_close(scales, table.abs().amax(1) / 127)


# ---------------------------------------------------------------- whole runs


def run_of(tiny_model, tiny_data, changes: dict, **more):
    """(settings, the loop at its end, snapshots, the state at each that is at rest)"""
    usual = {"compressions": (2.0,), "penalty_steps": 6, "retrain_steps": 7, "dense_steps": 2, "surface_examples": 4}
    asked = tiny.settings(tiny_model, tiny_data, **usual | changes | more)
    pruning, snapshots, states = tiny.pruning(asked), [], []
    for event in pruning:
        if isinstance(event, Snapshot):
            snapshots.append(event)
            states.append(copy.deepcopy(pruning.state()) if pruning.at_rest else None)
    return asked, pruning, snapshots, states


@pytest.mark.parametrize("changes", ALL, ids=str)
def test_weights_end_on_their_levels_and_any_stop_changes_nothing(tiny_model, tiny_data, changes):
    asked, pruning, snapshots, states = run_of(tiny_model, tiny_data, changes)
    for end in (s for s in snapshots if (s.saved or "").startswith("retrain")):
        assert_on_levels(end, asked.formats.of(pruning.layout))
        assert_point(end, pruning.layout, asked.formats)
    resumable = [at for at, state in enumerate(states) if state and at > 0]
    retrain = [at for at in resumable if snapshots[at].phase.startswith("retrain")]
    for at in [resumable[3], *retrain[:: 2 if "quantizer" in changes else 4]]:
        assert_same(continued(asked, states[at], snapshots[: at + 1]), snapshots[at + 1:])


def assert_on_levels(end: Snapshot, of: dict[str, Format]) -> None:
    """Every weight is a level exactly, patterns hold, and quantizing once more with what is kept moves nothing."""
    tensors = end.weights()
    for name, format in of.items():
        weight = tensors[f"{name}.weight"].float().numpy()
        if format.pattern:
            groups = weight.reshape(len(weight), -1, format.pattern.m)
            assert ((groups != 0).sum(2) <= format.pattern.n).all()
        if format.kind == "float":
            assert tensors[f"{name}.weight"].dtype == torch.bfloat16
            continue
        grid = {what: tensors.get(f"{name}.weight.{what}") for what in ("scale", "codebook")}
        scales, codebook = (None if one is None else one.numpy() for one in grid.values())
        again = quantizers.quantize(weight, format, weight != 0, scales, codebook)
        assert np.array_equal(again.values, weight)
        distinct = max(len(np.unique(row)) for row in weight) if codebook is None else len(np.unique(weight))
        assert distinct <= (2 * format.top + 1 if codebook is None else format.top + 1)


def assert_point(end: Snapshot, layout, made: formats.Formats) -> None:
    if not any(one.pattern for one in made.weights):
        assert "blocks" not in end.point and end.blocks == end.point["sparsity"]
        return
    assert end.blocks <= end.point["sparsity"] and end.point["sparsity"] >= 0.5
    assert end.point["compression_encoder"] == pytest.approx(1 / (1 - end.point["sparsity"]))


def test_a_pattern_alone_is_the_run_at_compression_one(tiny_model, tiny_data):
    _, _, snapshots, _ = run_of(tiny_model, tiny_data, {"pattern": "1:4", "compressions": (1.0,)})
    ends = {s.saved: s for s in snapshots if s.saved}
    assert list(ends) == ["dense", "penalty-1x", "retrain-1x"]
    assert ends["retrain-1x"].point["sparsity"] == pytest.approx(0.75, abs=0.01) and ends["retrain-1x"].blocks < 0.2


def test_the_recorded_score_is_that_of_what_is_saved(tiny_model, tiny_data):
    """Loaded into a fresh model, activations rounded by hand, answered one sentence at a time."""
    changes = {"bits": "4", "activation_bits": 8, "embedding_bits": 8, "dense_steps": 30, "retrain_steps": 20}
    asked, pruning, snapshots, _ = run_of(tiny_model, tiny_data, changes)
    end = next(s for s in snapshots if s.saved == "retrain-2x")
    fresh = encoders.load(asked.model, 2)
    fresh.load_(end.weights())
    table = fresh.model.get_input_embeddings().weight
    table.data = embedding_rows(table.detach())[0]
    for linear in fresh.linears.values():
        linear.register_forward_pre_hook(lambda m, a: (by_token(a[0]), *a[1:]))
    dev, right = pruning.data.dev["validation"], 0
    with torch.no_grad():
        for row, label in enumerate(dev.labels):
            right += int(fresh.model.eval()(**dev.batch(np.array([row]))[0]).logits.argmax()) == label
    assert end.scores["accuracy"] == right / len(dev)


@pytest.mark.parametrize("phase, changes", [
    ("retrain", {"bits": "3", "quantizer": "admm", "retrain_steps": 60, "retrain_lr": 3e-3}),
    ("penalty", {"method": "admm", "pattern": "2:4", "compressions": (1.0,), "penalty_steps": 60, "penalty_lr": 3e-3,
                 "milestones": 9})])
def test_residuals_fall_as_admm_comes_near(tiny_model, tiny_data, phase, changes):
    _, _, snapshots, _ = run_of(tiny_model, tiny_data, changes)
    told = [s.residuals["primal"] for s in snapshots if s.phase.startswith(phase) and s.residuals]
    assert len(told) >= 59 and np.mean(told[-6:]) < 0.75 * max(told)


def test_cut_weights_stay_exactly_zero_in_every_step(tiny_model, tiny_data):
    asked = tiny.settings(tiny_model, tiny_data, bits="4", pattern="2:4", compressions=(2.0,), quantizer="lsq")
    pruning, seen = tiny.pruning(asked), 0
    for event in pruning:
        if isinstance(event, Snapshot) and event.phase.startswith("retrain") and not event.saved:
            for name, kept in pruning.position.steps.quantization.kept.items():
                assert not pruning.encoder.weights[name][~kept].any()
            seen += 1
    assert seen == asked.retrain_steps - 1


def test_quantizing_adds_nothing_where_there_are_no_formats(tiny_model, tiny_data):
    asked = tiny.settings(tiny_model, tiny_data, compressions=(2.0,))
    plain = snapshots_of(tiny.pruning(asked))
    assert_same(snapshots_of(tiny.pruning(tiny.replace(asked, bits="32"))), plain)
    assert all(s.residuals is None for s in plain)


@pytest.mark.parametrize("quantizer, kind", [("ste", Rounded), ("interval", Rounded), ("lsq", Learned),
                                             ("iterative", Frozen)])
def test_a_quantizer_is_one_class(quantizer, kind):
    weight = drawn()
    assert type(rounding(quantizer, weight, Format("levels", 4), everything(weight), 10)) is kind


def test_importance_turns_what_a_pattern_keeps():
    made = tiny.layout("1x1", ((1, 4),), 10)
    mask = tiny_mask(made)
    weights = {"m0": torch.tensor([[4.0, 3.0, 2.0, 1.0]])}
    of = {"m0": Format.parse("2:4")}
    assert qat.kept_by(mask, of, weights)["m0"].tolist() == [[True, True, False, False]]
    counts = {"m0": torch.tensor([[1.0, 1.0, 1.0, 9.0]])}
    assert qat.kept_by(mask, of, weights, counts)["m0"].tolist() == [[True, False, False, True]]


def tiny_mask(made):
    from prune_core.cutting.masks import mask_at

    return mask_at({m.name: np.ones(made.block.grid(m.m, m.n), np.float32) for m in made.matrices}, made, 0.0)
