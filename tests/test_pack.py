"""The copy of a run that ships: small, read-only, and of the same numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save

from prune_core import InputError
from prune_core.cutting.cuts import SurfaceKind
from prune_core.cutting.masks import mask_at
from prune_core.evaluation import exact
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.rank import rank
from prune_core.evaluation.sensitivity import sensitivity
from prune_core.evaluation.surface import surfaces
from prune_core.evaluation.weights import check_source, tensors_of, write_weights
from prune_core.models import stored
from prune_core.runs import pack, places, shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.pack import PACKED_BYTES
from prune_core.runs.places import RunError
from prune_core.runs.recorder import Recorder
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of, default_stage
from prune_core.runs.snapshots import Snapshot
from prune_core.training import session


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    """A complete run, 16x1 in every matrix alike, at 1.5x and 3x."""
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """An empty data/recorded elsewhere."""
    monkeypatch.setattr(pack, "PROJECT", tmp_path)
    monkeypatch.setattr(places, "RECORDED", tmp_path / "data" / "recorded")
    return tmp_path / "data" / "recorded"


def test_a_packed_run_says_the_same_in_fewer_bytes(made, recorded):
    result = pack.pack(made, "shipped", [], "nyu-mll/glue", write_weights)
    run = shelf.find("shipped", recorded.parent / "none")
    assert run.recorded and run.status == "complete" and run.data == run.config.data == "nyu-mll/glue"
    assert run.snapshots == made.snapshots and run.points == made.points and run.layout == made.layout
    size = sum(f.stat().st_size for f in (recorded / "shipped").rglob("*") if f.is_file())
    assert result["bytes"] == size < 10_000_000
    assert result["path"] == "data/recorded/shipped" and not list(recorded.glob(".*"))
    assert run.result["run"] == "shipped"


def test_packed_norms_are_close_and_their_zeros_exact(made, recorded):
    pack.pack(made, "shipped", [], "nyu-mll/glue", write_weights)
    run = Run(recorded / "shipped")
    assert run.with_norms == made.with_norms
    for at in run.with_norms:
        for name, values in made.norms(at).items():
            back, top = run.norms(at)[name], 65535 if made.snapshots[at].saved else 255
            assert np.array_equal(back == 0, values == 0)
            assert np.abs(back - values).max() <= 1.001 * values.max() / top


def test_with_weights_packed_the_exact_score_is_the_same(made, recorded):
    pack.pack(made, "shipped", ["dense"], "nyu-mll/glue", write_weights)
    run = Run(recorded / "shipped")
    shipped, own = (exact.evaluate(r, "dense", cut_of(r, 0.5), made.data, 1) for r in (run, made))
    assert shipped["score"] == own["score"] and shipped["sparsity"] == own["sparsity"] == 0.5
    assert default_stage(run, 0.9) == "dense"
    with pytest.raises(RunError, match=r"without the weights of 'retrain-3x' \(with: dense\)"):
        run.weights_file("retrain-3x")


def test_packing_replaces_an_older_copy_and_leaves_the_run_alone(made, recorded):
    before = {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()}
    pack.pack(made, "shipped", ["dense"], "nyu-mll/glue", write_weights)
    pack.pack(made, "shipped", [], "nyu-mll/glue", write_weights)
    assert not list((recorded / "shipped" / "weights").iterdir())
    assert {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()} == before


def test_a_recorded_run_cannot_be_packed_over_a_bad_name_or_unfinished(made, recorded, tmp_path):
    with pytest.raises(RunError, match="run name"):
        pack.pack(made, "../x", [], "nyu-mll/glue", write_weights)
    with pytest.raises(RunError, match="no stage 'retrain-9x'"):
        pack.pack(made, "shipped", ["retrain-9x"], "nyu-mll/glue", write_weights)
    layout = tiny.layout()
    with Recorder.create(tmp_path, "open", tiny.about(layout)) as recorder:
        recorder.append(Snapshot("dense", 0))
    with pytest.raises(RunError, match="not complete"):
        pack.pack(Run(tmp_path / "open"), "shipped", [], "nyu-mll/glue", write_weights)
    assert not (recorded / "shipped").exists()


def test_a_large_run_is_packed_within_ten_megabytes_with_all_its_stages(recorded, tmp_path):
    """Small blocks, many snapshots: those in between go first."""
    layout = tiny.layout("1x1", ((1000, 1000),), 2_000_000)
    norms = {"m0": np.random.default_rng(0).random((1000, 1000)).astype(np.float32)}
    about = tiny.about(layout, config=PruneConfig(block="1x1").to_json())
    with Recorder.create(tmp_path, "large", about) as recorder:
        for step in range(12):
            recorder.append(Snapshot("penalty", step, norms=norms))
        point = {"sparsity": 0.0, "compression_encoder": 1.0, "compression_model": 1.0}
        for saved in ("dense", "penalty-2x"):
            recorder.append(Snapshot("penalty", 12, saved=saved, scores={"accuracy": 0.9}, point=point, norms=norms))
        recorder.finish({"run": "large"})
    result = pack.pack(Run(tmp_path / "large"), "large", [], "nyu-mll/glue", write_weights)
    run = Run(recorded / "large")
    assert result["bytes"] <= PACKED_BYTES
    assert [run.snapshots[at].saved for at in run.with_norms if run.snapshots[at].saved] == ["dense", "penalty-2x"]
    assert 2 < len(run.with_norms) < 14 and len(run.snapshots) == 14
    assert json.loads((recorded / "large" / "result.json").read_text())["run"] == "large"


# ---------------------------------------------------------------- weights that ship


def plain(run: Run, stage: str) -> dict:
    """What training left at a stage, as the run itself keeps it."""
    return load_file(run.path / "weights" / f"{stage}.safetensors")


@pytest.mark.parametrize("block", ["16x1", "1x16", "16x16", "allx1"])
def test_kept_blocks_come_back_to_the_last_bit_in_every_block_shape(tmp_path, block):
    layout = tiny.layout(block, ((32, 48), (64, 32)), 10_000)
    random = torch.Generator().manual_seed(0)
    tensors = {"classifier.bias": torch.tensor([0.5, -0.0], dtype=torch.bfloat16)}
    for matrix in layout.matrices:
        weight = torch.randn(matrix.m, matrix.n, generator=random).to(torch.bfloat16)
        kept = torch.rand(layout.block.grid(matrix.m, matrix.n), generator=random) < 0.3
        tensors[f"{matrix.name}.weight"] = weight * layout.block.expand(kept, matrix.m, matrix.n)
    (tmp_path / "packed").write_bytes(stored.kept_blocks(tensors, layout))
    (tmp_path / "plain").write_bytes(save(tensors))
    for file in ("packed", "plain"):
        back = stored.read(tmp_path / file, layout)
        assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert (tmp_path / "packed").stat().st_size < 0.5 * (tmp_path / "plain").stat().st_size


def test_weights_that_would_be_rounded_and_files_of_other_blocks_are_refused(tmp_path):
    layout = tiny.layout("2x1", ((4, 2), (4, 2)))
    weights = {f"m{at}.weight": torch.ones(4, 2) for at in range(2)}
    with pytest.raises(InputError, match=r"torch\.float32; needed: torch\.bfloat16"):
        stored.kept_blocks(weights, layout)
    halves = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    (tmp_path / "packed").write_bytes(stored.kept_blocks(halves, layout))
    with pytest.raises(ValueError, match="its blocks are 2x1; needed: 4x1"):
        stored.read(tmp_path / "packed", tiny.layout("4x1", ((4, 2), (4, 2))))
    with pytest.raises(ValueError, match="m0 has"):
        stored.read(tmp_path / "packed", tiny.layout("2x1", ((32, 2), (32, 2))))


def test_a_packed_stage_gives_the_same_outputs_and_every_recorded_score_again(made, recorded):
    result = pack.pack(made, "shipped", ["retrain-1.5x", "retrain-3x"], "nyu-mll/glue", write_weights)
    run = Run(recorded / "shipped")
    assert result["weights_bytes"] == sum(f.stat().st_size for f in (recorded / "shipped" / "weights").iterdir())
    for stage in ("retrain-1.5x", "retrain-3x"):
        assert run.has_weights(stage) and not run.has_weights("penalty-3x")
        assert run.weights_file(stage).stat().st_size < made.weights_file(stage).stat().st_size
        own, shipped = plain(made, stage), tensors_of(run, stage)
        assert own.keys() == shipped.keys() and all(torch.equal(own[name], shipped[name]) for name in own)
        mine, theirs = (Bench(one, stage, made.data) for one in (made, run))
        mask = mask_at(made.norms(made.saved(stage)), made.layout, 0.0)
        assert np.array_equal(mine.outputs(mask), theirs.outputs(mask))
        end = made.snapshots[made.saved(stage)]
        whole = cut_of(run, threshold=0.0, scope="global")
        assert exact.evaluate(run, stage, whole, made.data, 1)["score"] == end.scores[made.metric]
        for share in (0.5, 0.8):
            cuts = (exact.evaluate(one, stage, cut_of(one, share), made.data, 1) for one in (made, run))
            assert len({(cut["score"], cut["sparsity"]) for cut in cuts}) == 1
    assert default_stage(run, None) == "retrain-3x"


def test_what_was_asked_of_a_packed_stage_ships_with_it(made, recorded, tmp_path):
    own = Run(shutil.copytree(made.path, tmp_path / "made"))
    list(rank(own, "retrain-3x", ["activation"], threads=1))
    list(sensitivity(own, "retrain-3x", ["layer"], [0.5], threads=1))
    list(surfaces(own, "retrain-3x", [SurfaceKind("norm", "global", True)], threads=1))
    pack.pack(own, "shipped", ["retrain-3x"], "nyu-mll/glue", write_weights)
    run = Run(recorded / "shipped")
    assert run.rankings("retrain-3x") == ["norm", "activation"]
    assert run.sensitivity("retrain-3x") == own.sensitivity("retrain-3x") != []
    assert run.surfaces("retrain-3x") == own.surfaces("retrain-3x")


# ---------------------------------------------------------------- dense weights that two runs share


@pytest.fixture
def both(made, recorded, tmp_path) -> tuple[Run, Run, Run]:
    """The first run as it ships with its dense weights and a ranking; a second from its dense weights, own and shipped.
    """
    first = Run(shutil.copytree(made.path, tmp_path / "runs" / "first"))
    list(rank(first, "dense", ["activation"], threads=1))
    list(sensitivity(first, "dense", ["layer"], [0.5], threads=1))
    pack.pack(first, "first", ["dense"], "nyu-mll/glue", write_weights)
    config = replace(made.config, start_from="first", seed=3)
    session.start(config, tmp_path / "runs", "second", "python -m prune_core prune --from first", tiny.silent)
    second = Run(tmp_path / "runs" / "second")
    check_source(second, "nyu-mll/glue")
    pack.pack(second, "second", ["retrain-3x"], "nyu-mll/glue", write_weights)
    return Run(recorded / "first"), second, Run(recorded / "second")


def test_a_shipped_run_finds_the_dense_weights_that_it_started_from(both):
    first, own, shipped = both
    assert own.source is None and shipped.source.path == first.path
    assert shipped.weights_file("dense") == first.weights_file("dense")
    assert shipped.has_weights("dense") and not shipped.has_weights("penalty-3x")
    assert shipped.rankings("dense") == ["norm", "activation"] == first.rankings("dense")
    assert shipped.sensitivity("dense") == first.sensitivity("dense") != []
    assert shipped.surfaces("dense").keys() >= first.surfaces("dense").keys()
    answers = [exact.evaluate(run, "dense", cut_of(run, 0.5), own.data, 1) for run in (first, own, shipped)]
    assert len({(answer["score"], answer["sparsity"]) for answer in answers}) == 1
    shutil.rmtree(first.path)
    assert not Run(shipped.path).has_weights("dense") and Run(shipped.path).rankings("dense") == ["norm"]


def test_other_dense_weights_than_those_of_the_recorded_start_are_refused(both):
    first, own, _ = both
    tensors = {name: tensor * 2 for name, tensor in plain(own, "dense").items()}
    own.weights_file("dense").write_bytes(save(tensors))
    with pytest.raises(RunError, match=f"other dense weights than {first.name!r}"):
        check_source(own, "nyu-mll/glue")
