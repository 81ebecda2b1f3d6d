"""The comparison: equal budgets, shared dense weights, mean and spread by hand; goes on where it was stopped."""

from __future__ import annotations

import csv
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from commands import prune_core
from sample_run import make_profile

from prune_core import InputError
from prune_core.cutting.masks import mask_at
from prune_core.latency.profile import Batch
from prune_core.methods.table import METHODS
from prune_core.runs.run import Run
from prune_core.showing import compare
from prune_core.showing.compare import Row
from prune_core.training import comparison, session
from prune_core.training.session import Interrupted


def test_the_plan_gives_every_method_the_same(tiny_model, tiny_data):
    planned = comparison.plan(tiny.settings(tiny_model, tiny_data), ["reweighted", "magnitude", "admm"], 2, 30)
    assert [name for name, _ in planned] == [
        f"compare-sst2-{m}-s{s}" for s in (0, 1) for m in ("reweighted", "magnitude", "admm")]
    for name, config in planned:
        assert (config.penalty_steps, config.retrain_steps, f"s{config.seed}") == (20, 10, name[-2:])
        assert config.start_from == (None if "reweighted" in name else f"compare-sst2-reweighted-s{config.seed}")
    assert [config.method for _, config in planned[:3]] == ["group-lasso", "magnitude", "admm"]


def test_a_method_without_steps_retrains_for_the_whole_budget(tiny_model, tiny_data):
    ((_, first), (_, second)) = comparison.plan(tiny.settings(tiny_model, tiny_data), ["magnitude", "surgeon"], 1, 30)
    assert (first.penalty_steps, first.retrain_steps, first.scope) == (20, 10, "matrix")
    assert (second.method, second.retrain_steps, second.scope) == ("surgeon", 30, "global")


@pytest.mark.parametrize("methods, seeds, budget, words", [
    (["best"], 1, 30, "best"), ([], 1, 30, "at least one"), (["admm", "admm"], 1, 30, "once"),
    (["admm"], 0, 30, "0 seeds"), (["admm"], 1, 2, "2 steps")])
def test_what_cannot_be_planned(tiny_model, tiny_data, methods, seeds, budget, words):
    with pytest.raises(InputError, match=words):
        comparison.plan(tiny.settings(tiny_model, tiny_data), methods, seeds, budget)


def test_mean_spread_and_sentences_by_hand():
    rows = [Row("admm", 2.0, (0.80, 0.82, 0.84), 2.01, 1.2), Row("magnitude", 2.0, (0.80, 0.81, 0.82), 2.0, 1.2),
            Row("magnitude", 3.0, (0.7,), 3.0, 1.3), Row("admm", 3.0, (0.75,), 3.0, 1.3)]
    assert rows[0].mean == pytest.approx(0.82) and rows[0].spread == pytest.approx(0.02) and rows[2].spread == 0.0
    assert list(compare.sentences(rows, "accuracy")) == [
        "At 2x, admm is 1.0 accuracy points above magnitude: not more than the spread over 3 seeds (2.0).",
        "At 3x, admm is 5.0 accuracy points above magnitude (one seed, which may be chance)."]
    known = [replace(rows[0], dense=0.85, by="admm", speedup=1.9, timed=True, bytes=1e6, encoder_bytes=5e5),
             *rows[1:]]
    read = list(csv.DictReader(compare.as_csv(known, 0.02).splitlines()))
    assert read[0] == {"method": "admm", "by": "admm", "compression": "2.0",
                       "compression_encoder": "2.0100", "compression_model": "1.2000",
                       "mean": "0.8200", "spread": "0.0200", "dense": "0.8500", "points_lost": "3.00", "within": "no",
                       "speedup": "1.9000", "speedup_is": "measured",
                       "bytes": "1000000", "encoder_bytes": "500000", "formats": "", "seeds": "3",
                       "scores": "0.8000 0.8200 0.8400"}
    assert [read[1][name] for name in ("speedup", "speedup_is", "bytes", "encoder_bytes")] == [""] * 4
    assert "| admm | 0.820 ± 0.020 | 0.750 ± 0.000 |" in compare.as_markdown(rows, "sst2", "accuracy", [0.9, 0.92])


def test_bytes_are_told_with_their_denominators():
    sized = [replace(row, bytes=size, dense_bytes=100e6, encoder_bytes=size / 4, dense_encoder_bytes=50e6)
             for row, size in zip(SOME, (20e6, 25e6, 40e6, 10e6), strict=True)]
    assert [(row.fewer, row.fewer_encoder) for row in sized[:2]] == [(5.0, 10.0), (4.0, 8.0)]
    assert compare.sorted_rows(sized, 0.01, "bytes")[0] is sized[0]
    assert "20.0 MB, 5.00 times fewer bytes than in fp32" in compare.answer(sized, 0.01, "bytes")
    assert SOME[0].fewer is None and "MB" not in compare.answer(SOME, 0.01, "bytes")


def test_a_difference_beyond_the_spread_is_told():
    rows = [Row("a", 2.0, (0.9, 0.9), 2.0, 1.2), Row("b", 2.0, (0.8, 0.82), 2.0, 1.2)]
    assert "more than the spread over 2 seeds (1.4)" in next(compare.sentences(rows, "f1"))


SOME = [Row("a", 2.0, (0.895,), 2.0, 1.31, 0.891, "surgeon", 2.0),
        Row("a", 3.0, (0.883,), 3.0, 1.45, 0.891, "surgeon", 2.9),
        Row("b", 1.5, (0.886,), 1.5, 1.19, 0.891, "group-lasso", 1.4),
        Row("b", 3.0, (0.81,), 3.01, 1.45, 0.891, "group-lasso", 3.1)]


@pytest.mark.parametrize(("allowed", "aim", "first", "said"), [
    (0.01, "speedup", SOME[1], "Within 1 point of dense (0.891): 3x by surgeon, 0.883, 2.9 times as fast (predicted)"),
    (0.005, "speedup", SOME[0], "Within 0.5 points of dense (0.891): 2x by surgeon, 0.895, 2.0 times as fast"),
    (0.01, "score", SOME[0], "2x by surgeon, 0.895"), (0.1, "speedup", SOME[3], "3x by group-lasso, 0.810, 3.1 times"),
    (0.1, "encoder", SOME[1], "3x by surgeon, 0.883"), (0.01, "model", SOME[1], "whole model 1.45 times smaller")])
def test_the_answer_by_hand(allowed, aim, first, said):
    assert compare.sorted_rows(SOME, allowed, aim)[0] is first
    assert said in compare.answer(SOME, allowed, aim)


def test_the_answer_where_none_is_within_and_with_seeds():
    lost = [replace(row, dense=0.95) for row in SOME]
    assert compare.answer(lost, 0.01).startswith(
        "None is within 1 point of dense (0.950): 2x by surgeon loses least, 5.5 points, and scores 0.895")
    assert [row.score for row in compare.sorted_rows(lost, 0.01)] == [0.895, 0.886, 0.883, 0.81]
    seeds = [replace(SOME[1], scores=(0.88, 0.886), timed=True)]
    assert "0.883 ± 0.004 over 2 seeds, 2.9 times as fast (measured)" in compare.answer(seeds)
    assert compare.answer([]) == ""
    chance = [replace(SOME[0], majority=0.88)]
    assert compare.answer(chance).endswith("no better than guessing (majority class 0.880)")


def test_without_speedups_the_encoder_counts():
    none = [replace(row, speedup=None) for row in SOME]
    assert [row.compression for row in compare.sorted_rows(none, 0.01, "speedup")] == [3.0, 2.0, 1.5, 3.0]
    assert "times as fast" not in compare.answer(none, 0.01)
    some = none[:2] + SOME[2:]  # what is known comes first, of those within
    assert compare.sorted_rows(some, 0.01, "speedup")[0] is SOME[2]


def test_methods_are_explained(tiny_model, tiny_data, tmp_path):
    made = [tiny.make_run(tiny.settings(tiny_model, tiny_data, compressions=(2.0,), **more), tmp_path, name)
            for name, more in (("a", {"distill": 0.0}), ("b", {"distill": 0.5}))]
    assert list(compare.methods_explained(made)) == ["group-lasso", "distilled"]
    assert list(compare.methods_explained(made[:1])) == ["group-lasso"]
    rows = compare.rows_of(compare.groups(made), compare.predicted(make_profile()))
    assert [row.by for row in rows] == ["group-lasso", "group-lasso, distilled"]
    for row, run in zip(rows, made, strict=True):
        mask = mask_at(run.norms(run.saved("retrain-2x")), run.layout, 0.0)
        assert row.speedup == pytest.approx(make_profile().speedup(mask, Batch(), run.heads))
        assert (row.runs, row.dense) == ((run.name,), run.dense_score)
        assert (row.bytes, row.encoder_bytes) == tuple(run.points[0][name] for name in ("bytes", "encoder_bytes"))
    assert all(row.explained and not row.explained.endswith(".") for row in METHODS.values())


def test_the_command_runs_all_shares_dense_weights_and_goes_on(tiny_model, tiny_data, tmp_path):
    command = ["compare", "--task=sst2", f"--model={tiny_model}", f"--data={tiny_data}",
               "--methods=reweighted,magnitude", "--compressions=2",
               "--seeds=2", "--budget-steps=9", "--dense-steps=4", "--block=16x1", "--threads=1",
               f"--runs-dir={tmp_path}", "--json"]
    planned_first = "compare-sst2-reweighted-s0"
    done = prune_core(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    made = {name: Run(tmp_path / name) for name in sorted(p.name for p in tmp_path.iterdir()
                                                          if p.is_dir() and not p.name.startswith("."))}
    assert len(made) == 4 and all(run.status == "complete" for run in made.values())
    assert made["compare-sst2-magnitude-s0"].dense_score == made[planned_first].dense_score
    assert made["compare-sst2-magnitude-s0"].config.start_from == planned_first
    for row in said["rows"]:
        runs = [made[f"compare-sst2-{row['method']}-s{seed}"] for seed in (0, 1)]
        assert row["scores"] == [run.points[0]["score_retrained"] for run in runs]
        assert row["dense"] == pytest.approx(sum(run.dense_score for run in runs) / 2)
    assert said["answer"] in Path(said["markdown"]).read_text() and f"by {said['best']['method']}" in said["answer"]
    first = max(said["rows"], key=lambda row: row["mean"] - row["dense"])
    assert said["best"]["within"] or said["best"]["method"] == first["method"]
    assert Path(said["csv"]).read_text().startswith("method,")
    assert "| method | 2x |" in Path(said["markdown"]).read_text()
    before = {name: (run.path / "result.json").stat().st_mtime_ns for name, run in made.items()}
    import shutil

    shutil.rmtree(tmp_path / "compare-sst2-magnitude-s1")  # as if it had not been reached
    again = prune_core(*command)
    assert json.loads(again.stdout.strip().splitlines()[-1])["rows"] == said["rows"]
    assert again.stderr.count("is there") == 3
    assert all((tmp_path / name / "result.json").stat().st_mtime_ns == time
               for name, time in before.items() if name != "compare-sst2-magnitude-s1")
    other = prune_core(*command, "--distill=0.1")
    assert prune_core(*command, "--aim=beauty").returncode == 2
    assert other.returncode == 2 and "made with distill 0.9, asked: 0.1" in other.stderr


def test_an_interrupted_run_of_it_is_taken_up(tiny_model, tiny_data, tmp_path):
    asked = tiny.settings(tiny_model, tiny_data, compressions=(2.0,))
    ((name, config), *_) = comparison.plan(asked, ["reweighted"], 1, 9)
    def stop(event, pruning):
        if event.phase == "penalty":
            raise Interrupted("stopped")
    with pytest.raises(Interrupted):
        session.start(config, tmp_path, name, "compare", stop)
    assert comparison.rows([(name, config)], tmp_path) == []
    session.resume(comparison.standing(name, config, tmp_path), tiny.silent)
    (row,) = comparison.rows([(name, config)], tmp_path)
    assert (row.method, row.compression, len(row.scores)) == ("reweighted", 2.0, 1)


def test_a_comparison_is_carried_out_from_a_notebook_too(tiny_model, tiny_data, tmp_path):
    planned = comparison.plan(tiny.settings(tiny_model, tiny_data, compressions=(2.0,)), ["reweighted"], 1, 9)
    ((name, _),) = planned
    carried = [list(comparison.carry_out(planned, tmp_path, "compare", lambda: nullcontext(tiny.silent)))
               for _ in range(2)]
    assert carried == [[(1, name, False)], [(1, name, True)]] and Run(tmp_path / name).status == "complete"


def test_a_quick_run_does_without_repaired_scores(tiny_model, tiny_data, tmp_path):
    for preset, whole in (("quick", 0), ("standard", 20)):
        run = tiny.make_run(tiny.settings(tiny_model, tiny_data, compressions=(2.0,), preset=preset), tmp_path, preset)
        session.record_repaired(run)
        assert [len(points) for kind, points in run.surfaces("dense").items() if kind.repaired] == [whole] * bool(whole)


def test_runs_that_differ_only_in_the_seed_are_one_group(tiny_model, tiny_data, tmp_path):
    made = [tiny.make_run(tiny.settings(tiny_model, tiny_data, compressions=(2.0,), seed=seed, **more), tmp_path, name)
            for name, seed, more in (("a", 0, {}), ("b", 1, {}), ("c", 0, {"method": "magnitude"}))]
    groups = compare.groups(made)
    assert [(group.label, [run.name for run in group.runs]) for group in groups] == [
        ("method group-lasso", ["a", "b"]), ("c", ["c"])]
    first, second = compare.rows_of(groups)
    assert first.scores == tuple(run.points[0]["score_retrained"] for run in made[:2])
    assert second.scores == (made[2].points[0]["score_retrained"],)
    assert compare.differences(made[0], made[2]) == [("method", "group-lasso", "magnitude")]
    assert compare.differences(made[0], made[1]) == [("seed", 0, 1)]
