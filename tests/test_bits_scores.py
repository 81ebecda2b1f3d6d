"""Exact scores of what stays in few bits: what runs, what it takes, where it is kept, how it is asked for."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from prune_core import InputError
from prune_core.cutting import cuts
from prune_core.cutting.answers import GRID, SurfacePoint, predict, predict_mixed
from prune_core.cutting.cuts import Cut, SurfaceKind
from prune_core.evaluation import exact
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.dev_score import dev_score
from prune_core.evaluation.surface import surfaces
from prune_core.execution import paths, whole
from prune_core.execution.paths import PATHS, Choice
from prune_core.methods.activations import by_token
from prune_core.precision.formats import parse
from prune_core.precision.quantizers import kept_of, quantize
from prune_core.precision.storage import counts, storage
from prune_core.runs import known, settings, tried
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting

CUT = Cut("matrix", 0.3)
INT8 = [path for path in PATHS["int8"] if not paths.why_not(path)]
FAR = 0.1  # of the largest output: bf16 lines and bytes, as tests/test_whole.py has it


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


@pytest.fixture
def copied(made, tmp_path) -> Run:
    """The same, with no scores and no Grams kept from before."""
    return tiny.unasked(made, tmp_path / "copied")


def in_formats(text: str, repaired: bool = False) -> Cut:
    return replace(CUT, formats=text, repaired=repaired)


def by_hand(run: Run, text: str, hook=None) -> dict:
    """Scores of the dense weights, cut and rounded by quantize; `hook` of what goes into its matrices."""
    bench = Bench(run, "dense")
    mask, formats = CUT.mask(run.ranking("dense"), run.layout), parse(text, run.layout)
    model = copy.deepcopy(bench.encoder.model)
    for name, format in formats.of(run.layout).items():
        linear = model.get_submodule(name)
        made = quantize(linear.weight.detach().numpy(), format, kept_of(mask, name))
        linear.weight.data = torch.from_numpy(made.values)
        if hook:
            linear.register_forward_pre_hook(hook)
    return dict(dev_score(model, bench.task, bench.dev).scores)


# ---------------------------------------------------------------- scores and what they take


@pytest.mark.parametrize("text", ["8", "4/2:4", "ternary", "clusters-3", "layer:8,4/2:4"])
def test_a_score_is_that_of_the_rounded_weights_with_their_bytes(made, text):
    told = exact.evaluate(made, "dense", in_formats(text), threads=1)
    assert told["scores"] == by_hand(made, text) and told["formats"] == text
    mask, formats = CUT.mask(made.ranking("dense"), made.layout), parse(text, made.layout)
    assert told.items() >= storage(mask, formats).to_json().items() and told.items() >= counts(mask, formats).items()
    assert told["bytes"] < told["bytes_dense"] and told["encoder_bytes"] < told["encoder_bytes_dense"] / 2


def test_activations_of_each_token_are_rounded_as_a_hook_does(made):
    told = exact.evaluate(made, "dense", in_formats("8;a8"), threads=1)
    assert told["executed"]["path"] == "modules" and told["scores"] == by_hand(
        made, "8", lambda _module, given: (by_token(given[0]),))


def test_activations_of_each_tensor_take_the_ranges_of_training_sentences(made):
    bench, mask = Bench(made, "dense"), CUT.mask(made.ranking("dense"), made.layout)
    formats = parse("8;a8-tensor", made.layout)
    _, stored = bench.compressed(mask, False, formats)
    assert dict(stored.ranges) == {name: gram.range for name, gram in bench.grams().items()}
    plain, rounded = (bench.outputs(mask, formats=parse(text)) for text in ("8", "8;a8-tensor"))
    assert 0 < np.abs(plain - rounded).max() < FAR * np.abs(plain).max()


def test_embeddings_in_8_bits(made):
    bench, mask = Bench(made, "dense"), CUT.mask(made.ranking("dense"), made.layout)
    before = bench.encoder.model.get_input_embeddings().weight.detach().clone()
    model, stored = bench.compressed(mask, False, parse("8;e8", made.layout))
    after = model.get_input_embeddings().weight.detach()
    assert np.array_equal(after.numpy(), quantize(before.numpy(), parse("8").weights[0]).values)
    assert np.array_equal(stored.embeddings.values, after.numpy())
    assert torch.equal(bench.encoder.model.get_input_embeddings().weight, before), "the model itself stays"
    told = exact.evaluate(made, "dense", in_formats("8;e8"), threads=1)
    rows, width = before.shape
    fp32 = exact.evaluate(made, "dense", in_formats("8"), threads=1)
    assert fp32["bytes"] - told["bytes"] == rows * (3 * width - 4)


def test_a_score_is_never_taken_for_that_of_other_formats(copied):
    texts = ["", "8", "4", "2", "8;a8", "4/2:4", "2:4"]
    cuts_ = [in_formats(text, repaired) for text in texts for repaired in (False, True)]
    fresh = [exact.evaluate(copied, "dense", cut, threads=1, fresh=True) for cut in cuts_]
    again = [exact.evaluate(Run(copied.path), "dense", cut, threads=1) for cut in reversed(cuts_)]
    assert [one["scores"] for one in fresh] == [one["scores"] for one in reversed(again)]
    assert len(list((copied.path / "scores").glob("*.json"))) == len(cuts_)
    mask = CUT.mask(copied.ranking("dense"), copied.layout)
    for cut, told in zip(cuts_, fresh, strict=True):
        key = known.key(copied, "dense", None, known.of_train(cut.repaired, cut.formats))
        found = known.find(copied, key, mask, cut.repaired, told["executed"]["path"], cut.formats)
        assert found == {name: told[name] for name in known.NUMBERS}
        assert known.find(copied, key, mask, cut.repaired, told["executed"]["path"], "3") is None


def test_what_was_scored_is_kept_with_its_bytes(copied):
    for cut in (CUT, in_formats("4/2:4", True), CUT):
        told = exact.evaluate(copied, "dense", cut, threads=1)
    first, second = tried.read(copied, "dense")
    assert (first.score, first.bytes, first.dtype, first.search) == (told["score"], told["bytes"], "fp32", "")
    assert second.cut["formats"] == "4/2:4" and second.cut["repaired"] and second.bytes < first.bytes
    assert second.sparsity > first.sparsity and (second.ms is None or second.ms > 0)
    assert cuts.from_json(second.cut, copied.layout) == replace(CUT, formats="4/2:4")


def test_a_surface_of_formats_is_recorded_and_read_off(copied):
    kind, plain = SurfaceKind("norm", "matrix", False, "4"), SurfaceKind("norm", "matrix", False, "")
    steps = list(surfaces(copied, "dense", [kind], threads=1))
    assert [step[:2] for step in steps] == [(at, 20) for at in range(1, 21)]
    points = Run(copied.path).surfaces("dense")[kind]
    assert [point.wanted for point in points] == list(GRID)
    told = exact.evaluate(copied, "dense", replace(in_formats("4"), share=points[6].wanted), threads=1)
    assert told["score"] == points[6].score
    setting = Setting("", copied.saved("dense"), replace(CUT, formats="4"))
    assert setting.numbers(Run(copied.path))["predicted_score"] == predict(points, setting.mask(copied).sparsity)[0]
    mixed = replace(setting, cut=replace(CUT, formats="layer:4,32"))
    before = Run(copied.path).surfaces("dense").get(plain)
    expected = before and predict_mixed(before, [(0.5, points), (0.5, before)], mixed.mask(copied).sparsity)[0]
    assert mixed.numbers(Run(copied.path))["predicted_score"] == expected


def test_a_mixture_loses_the_share_of_what_its_parts_lose():
    def surface(*scores: float) -> list[SurfacePoint]:
        return [SurfacePoint(x, x, one, one - 0.02, one + 0.01) for x, one in zip((0, 0.5), scores, strict=True)]

    plain, eight, four = surface(0.9, 0.8), surface(0.9, 0.79), surface(0.86, 0.7)
    assert predict_mixed(plain, [(1.0, plain)], 0.5) == pytest.approx((0.8, 0.78, 0.81))
    assert predict_mixed(plain, [(0.25, eight), (0.75, four)], 0.5) == pytest.approx((0.7225, 0.7025, 0.7325))
    drop = 0.25 * 0.005 + 0.75 * 0.07
    assert predict_mixed(plain, [(0.25, eight), (0.75, four)], 0.25)[0] == pytest.approx(0.85 - drop)
    assert predict_mixed(plain, [(0.5, eight), (0.5, None)], 0.5) is None and predict_mixed([], [], 0.5) is None
    assert predict_mixed(plain, [(1.0, eight), (0.0, None)], 0.5) is not None


# ---------------------------------------------------------------- int8


@pytest.mark.parametrize("path", INT8)
@pytest.mark.parametrize("text", ["8", "5", "4/2:4", "ternary", "binary"])
def test_int8_executes_these_integers_and_scales(made, path, text):
    bench, mask = Bench(made, "dense"), CUT.mask(made.ranking("dense"), made.layout)
    model, stored = bench.compressed(mask, False, parse(text, made.layout))
    seen = {}
    original = whole.packing.pack

    def pack(weight, bias, plan, *more):
        packed = original(weight, bias, plan, *more)
        seen[len(seen)] = (weight, plan, packed)
        return packed

    whole.packing.pack = pack
    try:
        whole.small_model(model, mask, "int8", path, parse(text), stored.scales)
    finally:
        whole.packing.pack = original
    assert len(seen) == len(made.layout.matrices)
    ordered = [m for layer in range(tiny.LAYERS) for kind in whole._KINDS for m in made.layout.matrices
               if (m.layer, m.type) == (layer, kind)]
    for matrix, (_, plan, packed) in zip(ordered, seen.values(), strict=True):
        one, live, sheet = stored.matrices[matrix.name], plan.live, packed.tensors[1]
        assert torch.equal(packed.tensors[5], torch.from_numpy(one.scales[live.rows]))
        codes = one.codes[live.rows][:, live.cols]
        assert sorted(sheet[sheet != 0].tolist()) == sorted(codes[codes != 0].tolist())
        sums = torch.from_numpy((one.codes.sum(1) * one.scales)[live.rows]).float()
        torch.testing.assert_close(packed.tensors[6], sums)


@pytest.mark.parametrize("path", INT8)
def test_int8_and_its_imitation_agree_but_for_bf16(made, path):
    bench, mask = Bench(made, "dense"), CUT.mask(made.ranking("dense"), made.layout)
    for text in ("8;a8", "4;a8"):
        formats = parse(text, made.layout)
        model, stored = bench.compressed(mask, False, formats)
        run, imitated = (whole.small_model(model, mask, *asked, formats, stored.scales)
                         for asked in (("int8", path), ("fp32", None)))
        assert run.choice.path == path and imitated.choice.path == "modules"
        given = bench.dev["validation"].batch(range(24))[0]
        with torch.inference_mode():
            got, wanted = (one(**given).logits for one in (run, imitated))
        assert (got - wanted).abs().max() < FAR * wanted.abs().max()


def test_which_arithmetic_runs_for_activations_in_8_bits(monkeypatch):
    kernels = {"int8": "int8 vnni"}
    monkeypatch.setattr(paths, "_fastest", lambda asked, path: Choice(asked, asked, kernels.get(asked, asked)))
    assert paths.choose("fp32", None, parse("8;a8")) == Choice("fp32", "fp32", "modules")
    assert paths.choose("bf16", None, parse("8;a8")).why == "activations in 8 bits are rounded in fp32"
    assert paths.choose("auto", None, parse("8;a8")) == Choice("auto", "int8", "int8 vnni")
    assert paths.choose("auto", None, parse("clusters-4;a8")).path == "modules"
    assert paths.choose("auto", None, parse("8;a8-tensor")).path == "modules"
    assert "rounded" in paths.choose("int8", None, parse(";a8")).why
    assert paths.choose("bf16", None, parse("4")) == Choice("bf16", "bf16", "bf16")
    for text, why in (("clusters-4", "once more"), ("8;a8-tensor", "each token")):
        with pytest.raises(InputError, match=why):
            paths.choose("int8", None, parse(text))
        with pytest.raises(InputError, match=why):
            paths.choose("auto", "int8 vnni", parse(text))


# ---------------------------------------------------------------- stages that were trained in few bits


@pytest.mark.parametrize("bits", ["4", "clusters-3"])
def test_a_trained_stage_is_scored_on_its_own_grid(tiny_model, tiny_data, tmp_path, bits):
    asked = tiny.settings(tiny_model, tiny_data, bits=bits, activation_bits=8, embedding_bits=8, train_embeddings=True)
    run = tiny.make_run(asked, tmp_path, "trained")
    stage, formats = "retrain-1.5x", run.trained_formats("retrain-1.5x")
    assert formats == f"{bits};a8;e8"
    bench, cut = Bench(run, stage), settings.usual(run, run.saved(stage))
    mask = cut.mask(run.ranking(stage), run.layout)
    for repaired in (False, True):
        model, stored = bench.compressed(mask, repaired, parse(formats, run.layout))
        for (name, own), one in zip(bench.encoder.model.state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.equal(own, one), name
    grids = bench.trained.grids
    for name, one in stored.matrices.items():
        given = [one.scales, one.codebook]
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(given, grids[name], strict=True)), name
    told = exact.evaluate(run, stage, cut, threads=1)
    assert told["formats"] == formats
    assert told["score"] == pytest.approx(run.snapshots[run.saved(stage)].scores[run.metric], abs=1 / 24 + 1e-9)
