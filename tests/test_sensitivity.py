"""What cutting one part alone costs, against the real cut; and the cheapest cut made of it, against brute force."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tiny
from commands import prune_core
from sample_run import make_layout, make_norms

from prune_core import InputError
from prune_core.cutting import allocate
from prune_core.cutting.allocate import EVEN
from prune_core.cutting.answers import Sensitivity
from prune_core.cutting.cuts import SurfaceKind
from prune_core.cutting.masks import by_scope, mask_at, sparsity_of, thresholds_for
from prune_core.evaluation import exact, sensitivity, surface
from prune_core.evaluation.sensitivity import Bench
from prune_core.evaluation.surface import GRID
from prune_core.runs import shelf
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of


@pytest.fixture
def made(tiny_model, tiny_data, tmp_path) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data, compressions=(2.0,)), tmp_path, "made")


# ---------------------------------------------------------------- sensitivity


def test_each_point_is_the_real_cut_to_the_last_digit(made):
    points = [point for *_, point in sensitivity.sensitivity(made, "dense", ("layer", "matrix"), (0.5, 0.9), threads=1)]
    assert len(points) == 2 * (2 + 12)
    norms = made.norms(made.saved("dense"))
    for point in points[::5]:
        assert point.threshold == thresholds_for(norms, made.layout, point.share, point.scope)[point.key]
        thresholds = dict.fromkeys(by_scope(made.layout, point.scope), 0.0) | {point.key: point.threshold}
        real = exact.evaluate(made, "dense", cut_of(made, None, thresholds, scope=point.scope), threads=1, fresh=True)
        assert (point.score, point.low, point.high, point.sparsity, point.examples) == (
            real["score"], real["low"], real["high"], real["sparsity"], real["examples"])
        mask = mask_at(norms, made.layout, thresholds, point.scope)
        cut = {m.name for m in made.layout.matrices if mask.matrix_sparsity(m.name) > 0}
        assert cut <= {m.name for m in by_scope(made.layout, point.scope)[point.key]} and cut


def test_points_are_kept_as_they_come_and_never_computed_twice(made, monkeypatch):
    asked = sensitivity.sensitivity(made, "dense", ("layer",), (0.5, 0.75), threads=1)
    first = [next(asked)[2] for _ in range(3)]
    asked.close()  # as if it was stopped
    assert made.sensitivity("dense") == first
    with open(made.answers.sensitivity_file("dense"), "ab") as file:
        file.write(b'{"scope":"layer","key":"la')  # a crash tore this line
    benches = []
    original = Bench
    monkeypatch.setattr(sensitivity, "Bench", lambda *a: benches.append(a) or original(*a))
    scored = []
    stream = original.stream
    monkeypatch.setattr(original, "stream", lambda self, mask: scored.append(mask) or stream(self, mask))
    steps = [step[:2] for step in sensitivity.sensitivity(made, "dense", ("layer",), (0.5, 0.75), threads=1)]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(scored) == 1
    list(sensitivity.sensitivity(made, "dense", ("layer",), (0.5, 0.75), threads=1))
    assert len(scored) == 1 and len(benches) == 1


@pytest.mark.parametrize("scopes, shares, words", [
    (("row",), (0.5,), "row"), (("global",), (0.5,), "global"), (("layer",), (0.0,), "0"),
    (("layer",), (1.0,), "1"), (("layer",), (float("nan"),), "nan")])
def test_what_cannot_be_asked(made, scopes, shares, words):
    with pytest.raises(InputError, match=words):
        list(sensitivity.sensitivity(made, "dense", scopes, shares))


def test_the_command_prints_and_keeps_them(made):
    done = prune_core("sensitivity", "made", f"--runs-dir={made.path.parent}", "--by=layer", "--shares=0.5", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert [Sensitivity(**point) for point in said["points"]] == made.sensitivity("dense") and len(said["points"]) == 2
    wrong = prune_core("sensitivity", "made", f"--runs-dir={made.path.parent}", "--by=rows")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "rows" in wrong.stderr


def test_the_recorded_run_has_them_and_they_are_of_its_weights():
    run = shelf.find("sst2-minilm-64x1")
    points, norms = run.sensitivity("dense"), run.norms(run.saved("dense"))
    assert {(p.scope, p.key) for p in points} >= {(s, k) for s in ("layer", "matrix") for k in by_scope(run.layout, s)}
    for point in points:
        thresholds = thresholds_for(norms, run.layout, point.share, point.scope)
        assert point.threshold == pytest.approx(thresholds[point.key], rel=1e-6)


# ---------------------------------------------------------------- more surfaces


def test_surfaces_are_exact_scores_of_each_kind_of_cut_and_go_on_where_they_stopped(made):
    kinds = [SurfaceKind("norm", "global", True), SurfaceKind("norm", "layer", False)]
    asked = surface.surfaces(made, "dense", kinds, threads=1)
    for _ in range(5):
        next(asked)
    asked.close()
    before = made.answers.surfaces_file("dense").read_bytes()
    rows = list(surface.surfaces(made, "dense", kinds, threads=1))
    assert [row[:2] for row in rows] == [(n, 40) for n in range(1, 41)]
    assert made.answers.surfaces_file("dense").read_bytes().startswith(before), "what was there is not computed again"
    for kind in kinds:
        points = made.surfaces("dense")[kind]
        assert [p.wanted for p in points] == list(GRID)
        for point in points[4:18:6]:
            cut = cut_of(made, point.wanted, scope=kind.scope, repaired=kind.repaired)
            real = exact.evaluate(made, "dense", cut, threads=1, fresh=True)
            assert (point.sparsity, point.score, point.low, point.high) == (
                real["sparsity"], real["score"], real["low"], real["high"])
    recorded = made.snapshots[made.saved("dense")].surface
    assert made.surfaces("dense")[SurfaceKind("norm", made.config.scope, False)] == list(recorded)


def test_the_surface_command(made):
    command = ["surface", "made", f"--runs-dir={made.path.parent}", "--json"]
    done = prune_core(*command, "--scope=type", "--repair=no")
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout.strip().splitlines()[-1])["points"]
    assert len(points) == 20 == len(made.surfaces("dense")[SurfaceKind("norm", "type", False)])
    for wrong in ("--scope=rows", "--by=taylor", "--repair=maybe"):
        refused = prune_core(*command, wrong)
        assert refused.returncode == 2 and refused.stderr.strip().count("\n") == 0


# ---------------------------------------------------------------- the cheapest cut


def points_of(losses: dict[str, dict[float, float]], dense: float = 0.9) -> list[Sensitivity]:
    return [Sensitivity("layer", key, share, 0.0, 0.0, dense - loss, 0.0, 1.0, 100)
            for key, curve in losses.items() for share, loss in curve.items()]


def test_what_costs_nothing_is_cut_first():
    layout = make_layout()
    points = points_of({"layer 0": {0.5: 0.0, 0.9: 0.0}, "layer 1": {0.5: 0.2, 0.9: 0.3}})
    shares = allocate.shares(points, layout, "layer", 0.45, 0.9)
    assert shares == pytest.approx({"layer 0": 0.9, "layer 1": 0.0}, abs=1e-9)
    shares = allocate.shares(points, layout, "layer", 0.7, 0.9)
    assert shares["layer 0"] == pytest.approx(0.9) and shares["layer 1"] == pytest.approx(0.5)


def test_among_equals_it_cuts_evenly():
    points = points_of({f"layer {at}": {0.25: 0.0, 0.5: 0.0, 0.9: 0.0} for at in (0, 1)})
    shares = allocate.shares(points, make_layout(), "layer", 0.5, 0.9)
    assert shares == pytest.approx({"layer 0": 0.5, "layer 1": 0.5})


def test_no_cut_of_the_grid_is_cheaper():
    """Convex losses over three layers: brute force over a fine grid finds nothing better."""
    layout = make_layout(layers=3)
    random = np.random.default_rng(1)
    drawn = [np.cumsum(np.sort(random.uniform(0, 0.2, 3))).tolist() for _ in range(3)]
    losses = {f"layer {at}": dict(zip((0.25, 0.5, 0.75), values, strict=True)) for at, values in enumerate(drawn)}
    points = points_of(losses)
    cheapest = allocate.shares(points, layout, "layer", 0.4, 0.9)

    def loss(shares):
        return sum(np.interp(share, [0, *curve], [0, *curve.values()]) + EVEN * share**2
                   for share, curve in zip(shares, losses.values(), strict=True))

    grid = np.arange(0, 0.76, 0.05)
    best = min(loss(shares) for shares in itertools.product(grid, repeat=3) if abs(sum(shares) / 3 - 0.4) < 1e-9)
    assert sum(cheapest.values()) / 3 == pytest.approx(0.4) and loss(cheapest.values()) <= best + 1e-4


def test_the_cheapest_cut_reaches_what_was_asked():
    layout = make_layout()
    norms = make_norms(layout)
    points = points_of({"layer 0": {0.5: 0.01, 0.9: 0.2}, "layer 1": {0.5: 0.1, 0.9: 0.4}})
    for compression in (1.0, 1.5, 2.0, 4.0):
        mask = mask_at(norms, layout, allocate.cheapest(norms, layout, points, "layer", compression, 0.9), "layer")
        assert mask.sparsity == pytest.approx(sparsity_of(compression), abs=2 / 300)
    thresholds = allocate.faster(norms, layout, points, "layer", 1.8, 0.9, lambda mask: mask.compression_encoder**0.5)
    assert mask_at(norms, layout, thresholds, "layer").compression_encoder == pytest.approx(1.8**2, rel=0.03)


@pytest.mark.parametrize("ask", [
    lambda n, y, p: allocate.cheapest(n, y, p, "layer", 20.0, 0.9),
    lambda n, y, p: allocate.cheapest(n, y, p, "matrix", 2.0, 0.9),
    lambda n, y, p: allocate.cheapest(n, y, [], "layer", 2.0, 0.9),
    lambda n, y, p: allocate.faster(n, y, p, "layer", 50.0, 0.9, lambda mask: 2.0)])
def test_what_the_sensitivities_do_not_reach(ask):
    layout = make_layout()
    with pytest.raises(InputError, match="sensitivit"):
        ask(make_norms(layout), layout, points_of({"layer 0": {0.9: 0.1}, "layer 1": {0.9: 0.1}}))
