"""Stages that were trained in few bits, asked for in other formats: what stays in its bits stays on its grid."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tiny
import torch
from commands import prune_core

from pages.shared import score_client
from pages.shared.score_client import Question
from prune_core import InputError, export
from prune_core.__main__ import main
from prune_core.cli.options import formats_of
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BYTES
from prune_core.evaluation import bench as benches
from prune_core.evaluation import exact, losses
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.matrices import Matrices
from prune_core.evaluation.weights import tensors_of
from prune_core.latency.profile import uncut
from prune_core.precision import formats
from prune_core.precision.formats import Format, parse
from prune_core.runs import settings
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.runs.stages import Stage
from prune_core.tasks import glue

STAGE = "retrain-1.5x"


@pytest.fixture(scope="module")
def lsq(tiny_model, tiny_data, tmp_path_factory) -> Run:
    """Learned scales are not those that rounding anew finds."""
    asked = tiny.settings(tiny_model, tiny_data, bits="layer:4,3", pattern="2:4", quantizer="lsq", retrain_lr=2e-2,
                          activation_bits=8, embedding_bits=8, train_embeddings=True)
    return tiny.make_run(asked, tmp_path_factory.mktemp("runs"), "lsq")


def model_in(run: Run, text: str, bench: Bench, repaired: bool = False) -> tuple[dict, object]:
    """(weights, how they are stored) with nothing more cut."""
    mask = uncut(run.layout)
    if repaired:  # zero blocks of the stage are cut, as otherwise a repair would have them back
        mask = Cut("global", None, (("all", 0.0),)).mask(run.ranking(STAGE), run.layout)
    model, stored = bench.compressed(mask, repaired, parse(text, run.layout))
    return model.state_dict(), stored


@pytest.mark.parametrize("text", ["layer:4/2:4,3/2:4;a8;e8", "layer:4,3", "layer:4,3;a8", "layer:4/2:4,3",
                                  "layer:4/1:2,3/2:4;e8", "type:4,4,4,8,8,3", "8;e8"])
def test_weights_of_the_same_bits_stay_on_their_grid(lsq, text):
    bench, asked = Bench(lsq, STAGE), parse(text, lsq.layout)
    own, of = bench.encoder.model.state_dict(), asked.of(lsq.layout)
    found, stored = model_in(lsq, text, bench)
    for matrix in lsq.layout.matrices:
        name, bits = f"{matrix.name}.weight", 4 if matrix.layer == 0 else 3
        scales, on_it = bench.trained.grids[matrix.name][0], of[matrix.name].bits == bits
        assert np.array_equal(stored.matrices[matrix.name].scales, scales) == on_it, name
        if on_it:
            stays = found[name] != 0 if "1:2" in str(of[matrix.name]) else torch.tensor(True)  # that cuts more
            assert torch.equal(found[name], own[name] * stays) and stays.any()
    if asked.embeddings == 8:
        (table,) = set(bench.trained.grids) - set(of)
        assert torch.equal(found[f"{table}.weight"], own[f"{table}.weight"])
        assert np.array_equal(stored.embeddings.scales, bench.trained.grids[table][0])


def test_what_is_cut_but_not_retrained_counts_its_pattern(lsq):
    """In fp32, index included, with the same zeros as in the file of its weights; packed as large as counted."""
    stage = Stage(STAGE.replace("retrain", "penalty"))
    assert lsq.trained_formats(stage) == "2:4" and lsq.trained_formats("dense") == ""
    kept = sum(int(one.count_nonzero()) for name, one in tensors_of(lsq, stage).items()
               if name.removesuffix(".weight") in {m.name for m in lsq.layout.matrices})
    stored, cut = lsq.stored(stage), settings.usual(lsq, lsq.saved(stage))
    assert cut.formats == "2:4" and stored.encoder.values == BYTES * kept
    assert stored.bytes == Setting("", lsq.saved(stage), cut).storage(lsq).bytes
    assert exact.evaluate(lsq, stage, cut)["score"] == lsq.snapshots[lsq.saved(stage)].scores[lsq.metric]


@pytest.mark.parametrize("repaired", [False, True])
def test_a_repair_keeps_the_grid_too(lsq, repaired):
    bench = Bench(lsq, STAGE)
    mask = Cut("matrix", 0.6).mask(lsq.ranking(STAGE), lsq.layout)
    _, stored = bench.compressed(mask, repaired, parse("layer:4,3", lsq.layout))
    for name, one in stored.matrices.items():
        assert np.array_equal(one.scales, bench.trained.grids[name][0]) or (one.codes == 0).all(), name


def test_zeros_of_a_pattern_stay_zero_on_a_codebook(tiny_model, tiny_data, tmp_path):
    asked = tiny.settings(tiny_model, tiny_data, bits="clusters-3", pattern="2:4")
    run = tiny.make_run(asked, tmp_path, "clusters")
    bench = Bench(run, STAGE)
    found, stored = model_in(run, "clusters-3", bench)
    for name, weight in bench.encoder.weights.items():
        assert torch.equal(found[f"{name}.weight"], weight) and not weight.detach().bool().all()
        assert np.array_equal(stored.matrices[name].codebook, bench.trained.grids[name][1])
    done = prune_core("export", "clusters", tmp_path / "out", "--sparsity=0", f"--phase={STAGE}", "--bits=clusters-3",
                      "--pattern=none", "--to=packed", f"--runs-dir={tmp_path}", "--json")
    assert done.returncode == 0, done.stderr
    from prune_core.precision import unpack

    read = unpack.tensors(tmp_path / "out" / export.PACKED)
    for name, weight in bench.encoder.weights.items():
        assert np.array_equal(read[f"{name}.weight"], weight.detach().numpy()), name


def test_ranges_and_grids_are_taken_where_there_is_no_data(tiny_model, tiny_data, tmp_path):
    asked = tiny.settings(tiny_model, tiny_data, bits="4;a8-tensor", quantizer="lsq", retrain_lr=2e-2)
    run = tiny.make_run(asked, tmp_path, "tensor")
    bench = Bench(run, STAGE)
    for text in ("4;a8-tensor", "8;a8-tensor", "4;a8-tensor;e8"):
        _, stored = model_in(run, text, bench)
        assert dict(stored.ranges) == dict(bench.trained.ranges) and len(stored.ranges) == 12
        taken = export.take(run, STAGE, Cut("global", 0.0, formats=text), source=str(tmp_path / "nowhere"))
        assert taken.score is None and dict(taken.compressed.ranges) == dict(stored.ranges)
        for name, one in taken.compressed.matrices.items():
            assert np.array_equal(one.scales, stored.matrices[name].scales)
    assert not model_in(run, "4", bench)[1].ranges and not Bench(run, "dense").trained.grids


def test_losses_are_those_of_weights_on_their_grid(lsq):
    bench = Bench(lsq, STAGE)
    layout, matrices = lsq.layout, Matrices(bench, b"")
    own = {m.name: Format("levels", 4 if m.layer == 0 else 3) for m in layout.matrices}
    for name, (weight, _) in matrices.of(uncut(layout), own).items():
        assert torch.equal(weight, bench.encoder.weights[name]), name
    data = glue.load("sst2", lsq.data)
    losses.HeldOut(matrices, data.train).loss("own", uncut(layout), own)
    assert losses.HeldOut(Matrices(bench, b""), data.train).known("own")
    moved = {name: tuple(one if one is None else 2 * one for one in grid) for name, grid in bench.trained.grids.items()}
    bench.trained = benches.Trained(bench.trained.of, moved)
    assert losses.HeldOut(Matrices(bench, b""), data.train).known("own") is None


# ---------------------------------------------------------------- what is executed


def test_what_ran_is_remembered_for_the_same_formats_alone(lsq, monkeypatch):
    bench = Bench(lsq, "dense")
    bench.outputs(uncut(lsq.layout), formats=parse("8"))
    ran = bench.choice(formats=parse("8"))
    monkeypatch.setattr(benches.paths, "choose", lambda *about: about[:3])
    assert bench.choice(formats=parse("8")) == ran
    assert bench.choice(formats=parse("clusters-4")) == ("fp32", None, parse("clusters-4"))
    kinds = {score_client._kind(Question("r", "dense", Cut("global", 0.0, formats=text), dtype="int8"))
             for text in ("8;a8", "clusters-4;a8", "8", "")}
    assert len(kinds) == 4


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("given, made", [
    ((None, None, 8, None), "layer:4/2:4,3/2:4;a8;e8"), (("8", None, None, None), "8/2:4;a8;e8"),
    (("8", "none", None, 32), "8;a8"), ((None, "1:4", 32, None), "layer:4/1:4,3/1:4;e8"),
    (("32", "none", 32, 32), ""), (("layer:8,4/1:4", None, 32, 32), "layer:8,4/1:4"),
    ((None, None, None, None), "layer:4/2:4,3/2:4;a8;e8"), (("2;a8-tensor", None, None, None), "2/2:4;a8-tensor;e8")])
def test_what_is_not_given_is_as_it_was_trained(lsq, given, made, capsys):
    assert formats_of(lsq, *given, stage=STAGE) == made
    told = capsys.readouterr().err
    both = made != str(formats.chosen(*given, lsq.layout)) and any(given)
    assert (f"note: {STAGE} was trained in layer:4/2:4,3/2:4;a8;e8" in told and f"{made} is taken" in told) == both
    assert told.count("\n") == both
    assert formats_of(lsq, *given, stage="dense") == str(formats.chosen(*given, lsq.layout))
    assert not capsys.readouterr().err


def test_evaluate_says_what_it_takes_of_the_training(lsq, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["prune_core", "evaluate", "lsq", "--runs-dir", str(lsq.path.parent), "--sparsity",
                                      "0.0", "--phase", STAGE, "--activation-bits", "32", "--threads", "1", "--json"])
    assert main() == 0
    out, told = capfd.readouterr()
    assert json.loads(out.splitlines()[-1])["formats"] == "layer:4/2:4,3/2:4;e8"
    assert told.count("note: ") == 1 and "layer:4/2:4,3/2:4;e8 is taken" in told


@pytest.mark.parametrize("bits", ["", "  "])
def test_bits_that_say_nothing_are_one_line(lsq, bits):
    with pytest.raises(InputError, match="bits '' are empty; needed: for example 8") as error:
        formats_of(lsq, bits, stage=STAGE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("trained", ["", "8", "4/2:4;a8;e8", "layer:4/2:4,8;a8-tensor", "2:4;e8", "binary;e8", None])
@pytest.mark.parametrize("text", ["", "8", "8;a8", "8/1:4", "layer:8,4", "layer:8,4/2:4;e8", "binary;a8-tensor", "2:4"])
def test_a_command_for_a_trained_stage_comes_back_as_it_was(lsq, trained, text):
    said = dict(one.removeprefix("--").split("=", 1) for one in formats.as_options(text, trained))
    bits = [int(said[name]) if name in said else None for name in ("activation-bits", "embedding-bits")]
    for stage in ([trained] if trained is not None else ["", "layer:4/2:4,8;a8;e8"]):
        made = formats.over(parse(stage), lsq.layout, said.get("bits"), said.get("pattern"), *bits)
        assert str(made) == text
