"""The search for a cut: by hand-made scores against what is known of them, and as a command against exact scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from commands import prune_core
from sample_run import make_profile, make_run

from prune_core import InputError
from prune_core.cutting import sensitive
from prune_core.cutting.answers import Sensitivity
from prune_core.evaluation import exact
from prune_core.runs import proposal
from prune_core.runs.proposal import ALL, EACH, SETTING, Aim
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of


@pytest.fixture
def run(tmp_path) -> Run:
    """Weights seem to be there: the search itself reads none."""
    path = make_run(tmp_path)
    (path / "weights").mkdir(exist_ok=True)
    for stage in ("dense", "penalty-2x", "retrain-2x"):
        (path / "weights" / f"{stage}.safetensors").touch()
    return Run(path)


def searched(run: Run, aim: Aim, score, stage: str = "dense", **more) -> tuple[list, proposal.Proposal]:
    """(what it had scored, the Proposal) where `score` says what each candidate scores."""
    search, seen = proposal.search(run, stage, aim, make_profile(), **more), []
    step = next(search)
    while True:
        seen.append(step.candidate)
        assert step.done == len(seen) - 1 < step.total
        value = score(step.candidate)
        try:
            step = search.send({"score": value, "low": value - 0.02, "high": value + 0.02})
        except StopIteration as ended:
            return seen, ended.value


def steep(candidate) -> float:
    """0.9 with nothing cut, less by a point for each 5% that goes."""
    return 0.9 - 0.2 * candidate.sparsity


def test_a_loss_gives_the_largest_cut_that_keeps_within_it(run):
    """A point for each 5%: of 2 points, 10% - found to a hundredth, with few scores."""
    seen, found = searched(run, Aim(loss=0.02), steep)
    assert found.best in found.candidates and len(seen) == len(found.candidates) <= ALL
    assert found.best.loss <= 0.02 + 1e-9 and 0.085 <= found.best.sparsity <= 0.1
    assert all(one.loss == pytest.approx(0.2 * one.sparsity) for one in found.candidates)
    assert max(sum(one.cut.kind == kind for one in seen) for kind in {one.cut.kind for one in seen}) <= EACH
    assert "2.0 points below dense" in found.words() or "1." in found.words()


def test_what_scores_worse_than_its_surface_is_cut_less(run):
    """The recorded surface says 0.9 up to far; exact scores say otherwise and are believed."""
    _, found = searched(run, Aim(loss=0.01), lambda one: 0.9 - one.sparsity)
    assert found.best is None or found.best.sparsity <= 0.01 + 1e-9
    if found.best is None:
        assert found.words().startswith("No cut within 1 points was found: the mildest that was scored")


@pytest.mark.parametrize("aim", [Aim(compression=2.0), Aim(speedup=4.0)])
def test_a_size_or_a_speed_is_reached_by_the_least_cut_of_each_way_and_the_best_score_wins(run, aim):
    seen, found = searched(run, aim, lambda one: 0.8 if one.cut.scope == "matrix" else 0.7)
    assert {one.cut.scope for one in seen} == {"global", "matrix"} and found.best.cut.scope == "matrix"
    for one in seen:
        mask = one.cut.mask(run.ranking("dense"), run.layout)
        reached = mask.compression_encoder if aim.compression else make_profile().speedup(mask, SETTING, run.heads)
        wanted = aim.compression or aim.speedup
        assert wanted <= reached * (1 + 1e-9) and reached < 1.05 * wanted
    assert found.best.score == 0.8 and found.best.loss == pytest.approx(0.1)


def test_of_equals_the_smaller_cut_wins(run):
    _, found = searched(run, Aim(speedup=4.0), lambda one: 0.7)
    assert found.best.sparsity == min(one.sparsity for one in found.candidates)


def test_repaired_candidates_are_asked_for_where_repair_is(run):
    seen, _ = searched(run, Aim(compression=2.0), steep, repaired=True)
    assert all(one.cut.repaired for one in seen)


@pytest.mark.parametrize("aim, stage, words", [
    (Aim(compression=2.0), "retrain-2x", "already have 50.0% zero and so a compression of 2x"),
    (Aim(compression=900.0), "dense", "no cut of these weights reaches a compression of 900x; the most is"),
    (Aim(speedup=900.0), "dense", "no cut of these weights reaches 900x the speed"),
    (Aim(loss=0.001), "retrain-2x", "lose 1.5 points of dense with nothing more cut.*allow 1.5 or more")])
def test_an_aim_that_cannot_be_reached_says_what_can(run, aim, stage, words):
    with pytest.raises(InputError, match=words):
        proposal.search(run, stage, aim, make_profile())


@pytest.mark.parametrize("given", [{}, {"loss": 0.01, "speedup": 2.0}, {"loss": 2.0}, {"speedup": 0.5},
                                   {"compression": float("nan")}])
def test_what_is_no_aim(given):
    with pytest.raises(InputError, match="needed"):
        Aim(**given)


@pytest.mark.parametrize("dtype, ran, instead", [
    ("fp32", "fp32", ""), ("bf16", "bf16", ""), ("auto", "bf16", ""),
    ("int8", "fp32", "; int8 was slower than fp32 in every timing")])
def test_speedups_are_for_the_precision_that_is_asked_for_and_say_so(run, dtype, ran, instead):
    seen, found = searched(run, Aim(speedup=2.0), steep, dtype=dtype)
    for one in seen:
        mask = one.cut.mask(run.ranking("dense"), run.layout)
        assert one.speedup == make_profile().speedup(mask, SETTING, run.heads, dtype) and one.fast.dtype == ran
    assert f"times as fast as openvino bf16, in {ran} (predicted{instead})" in found.words()
    assert ("exact in fp32 0." in found.words()) is (ran != "fp32"), "the score is not of that precision"


def test_without_a_profile_no_speedup_is_promised(run):
    with pytest.raises(InputError, match="calibrate"):
        proposal.search(run, "dense", Aim(speedup=2.0), None)


def test_the_zeros_that_training_left_are_respected(run):
    """Of half-empty weights whatever is proposed is emptier than that."""
    seen, found = searched(run, Aim(loss=0.2), lambda one: 0.885 - 0.5 * (one.sparsity - 0.5), "retrain-2x")
    assert all(one.sparsity > 0.5 for one in seen)
    assert found.best.loss <= 0.2 and found.best.sparsity == pytest.approx(0.87, abs=0.02)  # 0.885 - 0.185 = 0.7


# ---------------------------------------------------------------- which part is the most sensitive


def point(key: str, share: float, score: float) -> Sensitivity:
    return Sensitivity("matrix", key, share, 0.1, 0.1, score, 0.0, 1.0, 872)


POINTS = [point("a", 0.25, 0.7), point("a", 0.5, 0.777), point("b", 0.25, 0.9), point("b", 0.5, 0.899),
          point("c", 0.5, 0.85), point("c", 0.9, 0.2)]


def test_the_most_and_the_least_sensitive_part_at_half():
    share, most, least = sensitive.extremes(POINTS, 0.9)
    assert share == 0.5 and (most[0], least[0]) == ("a", "b")
    assert most[1] == pytest.approx(0.123) and least[1] == pytest.approx(0.001)
    said = sensitive.sentence(POINTS, 0.9, {"a": "layer 0 feed-forward output", "b": "layer 5 query"}, "matrix")
    assert said == ("**Most sensitive: layer 0 feed-forward output**: cutting half of it alone costs 12.3 points. "
                    "**Least: layer 5 query**: costs 0.1 points. Found by cutting each matrix alone at 25, 50 and 90% "
                    "and scoring all 872 dev sentences.")


def test_the_share_nearest_to_half_is_told_and_gains_are_no_losses():
    said = sensitive.sentence([point("a", 0.75, 0.8), point("b", 0.75, 0.92)], 0.9, {"a": "A", "b": "B"}, "layer")
    assert "cutting 75% of it alone costs 10.0 points" in said and "**Least: B**: gains 2.0" in said
    assert "alone at 75% and" in said


def test_what_training_has_emptied_tells_nothing_of_how_sensitive_a_part_is():
    """Of weights that are 60% zero, 'half of b' is there already: b is not the least sensitive for that."""
    points = [Sensitivity("layer", key, share, 0.1, sparsity, score, 0.0, 1.0, 872) for key, share, sparsity, score in [
        ("a", 0.5, 0.61, 0.88), ("a", 0.9, 0.7, 0.87), ("b", 0.5, 0.6, 0.9), ("b", 0.9, 0.65, 0.8),
        ("c", 0.5, 0.6, 0.9), ("c", 0.9, 0.6, 0.9)]]
    share, most, least = sensitive.extremes(points, 0.9)
    assert (share, most[0], least[0]) == (0.9, "b", "c")


@pytest.mark.parametrize("scores, words", [
    ([(0.25, 0.9), (0.5, 0.89), (0.9, 0.885)], "robust: +0.0 at 25%, −1.0 at 50%, −1.5 at 90%"),
    ([(0.5, 0.89), (0.9, 0.5)], "robust up to 50%: −1.0 at 50%, −40.0 at 90%"),
    ([(0.25, 0.8)], "sensitive: −10.0 at 25%"), ([], "not recorded")])
def test_verdicts(scores, words):
    assert sensitive.verdict([point("a", share, score) for share, score in scores], 0.9) == words


# ---------------------------------------------------------------- as a command


def test_the_command_proposes_what_evaluate_scores_alike(tiny_model, tiny_data, tmp_path):
    made = tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path, "made")
    done = prune_core("propose", "made", f"--runs-dir={tmp_path}", "--compression=1.5", "--threads=1", "--dtype=fp32",
                      "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["dtype"] == "fp32" and all(one["fast"]["dtype"] == "fp32" for one in said["candidates"] if one["fast"])
    assert said["best"] in said["candidates"] and len(said["candidates"]) == 2
    for one in said["candidates"]:
        cut = cut_of(made, None, one["thresholds"], one["scope"], one["by"])
        real = exact.evaluate(made, "dense", cut, threads=1, fresh=True)
        assert (one["score"], one["sparsity"]) == (real["score"], real["sparsity"])
        assert one["compression_encoder"] >= 1.5 and one["loss"] == pytest.approx(made.dense_score - one["score"])
    assert said["best"]["score"] == np.max([one["score"] for one in said["candidates"]])


@pytest.mark.parametrize("options, words", [
    ((), "one of a loss, a speedup and a compression"), (("--loss=1", "--speedup=2"), "one of a loss"),
    (("--loss=101",), "0 to 100 points"), (("--loss=1", "--dtype=fp16"), "one of fp32, bf16, int8, auto"),
    (("--compression=0.5",), "1 to 1000"),
    (("--loss=1", "--phase=retrain-9x"), "retrain-9x")])
def test_a_bad_question_is_one_line(tiny_model, tiny_data, tmp_path, options, words):
    tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path, "made")
    done = prune_core("propose", "made", f"--runs-dir={tmp_path}", *options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr
