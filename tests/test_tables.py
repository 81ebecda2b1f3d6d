"""A method is one new file and one row; so is a ranking. A toy of each is added and used here, nothing else touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from streamlit.testing.v1 import AppTest

from prune_core import InputError
from prune_core.__main__ import main
from prune_core.methods import rankings, table
from prune_core.methods.rankings import RANKINGS, RankingRow
from prune_core.methods.table import METHODS, MethodRow
from prune_core.runs import places
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run

ROOT = Path(__file__).resolve().parent.parent


def build_method(*given):
    from toy_method import Toy
    return Toy(*given)


def build_ranking(*given):
    from toy_ranking import Largest
    return Largest(*given)


METHOD = MethodRow("toy", "the lowest blocks are cut when their turn comes", build_method)
RANKING = RankingRow("largest", "largest weight", "the largest weight of a block counts", build_ranking,
                     in_training=True)


@pytest.fixture
def toys(monkeypatch):
    """The two rows, for one test."""
    monkeypatch.setitem(METHODS, "toy", METHOD)
    monkeypatch.setitem(RANKINGS, "largest", RANKING)


@pytest.fixture
def call(monkeypatch, capfd):
    """Call the command line in this process; what its last line says. Or where it ends badly, that."""
    def called(*arguments) -> dict | str:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["prune_core", *map(str, arguments)])
        code = main()
        out, error = capfd.readouterr()
        return json.loads(out.strip().splitlines()[-1]) if code == 0 else error.strip()

    return called


@pytest.fixture
def runs_dir(tmp_path, monkeypatch) -> Path:
    """An empty runs folder that the app uses, with no shipped runs beside it."""
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "RECORDED", tmp_path / "recorded")
    return tmp_path / "runs"


def small(model: Path, data: Path) -> list[str]:
    return ["--model", str(model), "--task", "sst2", "--data", str(data), "--block", "16x1", "--threads", "1", "--json"]


def test_a_toy_method_and_a_toy_ranking_go_all_the_way(toys, call, runs_dir, tiny_model, tiny_data):
    """Trained by both, recorded, ranked, cut and scored; then offered where Explore asks what blocks are ranked by."""
    made = call("prune", *small(tiny_model, tiny_data), "--method", "toy", "--score", "largest", "--run", "toys",
                "--runs-dir", runs_dir, "--preset", "quick", "--compression", "2", "--dense-steps", "3",
                "--penalty-steps", "12", "--retrain-steps", "2")
    run = Run(runs_dir / "toys")
    assert (run.status, run.config.method, run.config.ranking) == ("complete", "toy", "largest")
    assert run.about["config"]["score"] == "largest" and made["points"][0]["sparsity"] == pytest.approx(0.5, abs=0.06)
    here = ["--runs-dir", runs_dir, "--threads", 1, "--json"]
    assert list(call("score", "toys", "--by", "largest", *here)["files"]) == ["largest"]
    cut = ["--sparsity", 0.5, "--scope", "matrix", "--phase", "dense"]
    by_largest, by_norm = (call("evaluate", "toys", *cut, "--by", by, *here) for by in ("largest", "norm"))
    assert by_largest["by"] == "largest" and by_largest["threshold"] != by_norm["threshold"]
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    app.query_params.update({"run": "toys", "at": "dense"})
    app.session_state["drawn"] = True
    app.run()
    app.switch_page("pages/2_Explore.py").run()
    assert not app.exception, [error.value for error in app.exception]
    assert next(box for box in app.selectbox if box.label == "Rank blocks by").options == ["norm", "largest weight"]


def test_the_toy_method_takes_part_in_a_comparison(toys, call, runs_dir, tiny_model, tiny_data):
    made = call("compare", *small(tiny_model, tiny_data), "--methods", "toy,magnitude", "--score", "largest",
                "--seeds", 1, "--compressions", "2", "--budget-steps", 9, "--dense-steps", 3, "--runs-dir", runs_dir)
    assert [row["method"] for row in made["rows"]] == ["toy", "magnitude"]


def test_the_prune_page_offers_both(toys, runs_dir):
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    app.run()
    app.switch_page("pages/1_Prune.py").run()
    assert not app.exception, [error.value for error in app.exception]
    known = {box.label: box for box in app.selectbox}
    assert any(option.startswith("toy") for option in known["Method"].options)
    assert any(option.startswith("largest") for option in known["Rank blocks by"].options)
    assert METHOD.words in known["Method"].help and RANKING.words in known["Rank blocks by"].help


HELP = """
import sys
from prune_core.methods.rankings import RANKINGS, RankingRow
from prune_core.methods.table import METHODS, MethodRow
METHODS["toy"], RANKINGS["largest"] = MethodRow("toy", "", None), RankingRow("largest", "", "", list, in_training=True)
from prune_core.__main__ import main
for command in sys.argv[1:]:
    sys.argv = ["prune_core", command, "--help"]
    main()
"""


def test_help_names_them():
    """Help is written when the command line is imported, so the rows are there first, as in the tables."""
    named = {"prune": "toy", "compare": "toy", "evaluate": "largest", "score": "largest", "surface": "largest",
             "export": "largest"}
    wide = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", HELP, *named], env=wide, capture_output=True, text=True, check=True)
    _, *helps = done.stdout.split("Usage: ")
    assert [word in text for text, word in zip(helps, named.values(), strict=True)] == [True] * len(named)
    assert "largest" in helps[0] and "largest" in helps[1]


# ---------------------------------------------------------------- the rows that there are


def test_without_the_rows_nothing_knows_them(call, runs_dir, tiny_model, tiny_data):
    assert call("prune", *small(tiny_model, tiny_data), "--method", "toy").endswith(
        "method 'toy' is unknown; one of group-lasso, magnitude, movement, admm, nxm-qat, surgeon, admm-closed")
    assert call("prune", *small(tiny_model, tiny_data), "--score", "taylor").endswith(
        "score 'taylor' is unknown; one of norm, activation, surgeon")
    with pytest.raises(InputError, match="score 'norm' is unknown; one of norm, activation, taylor, loss, surgeon"):
        rankings.named("norm", {}, None)


def test_rows_stand_under_their_own_names():
    assert all(name == row.name for rows in (METHODS, RANKINGS) for name, row in rows.items())
    assert all(row.ranking in {None, *RANKINGS} for row in METHODS.values())


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_settings_and_variants_of_a_method_are_settings_of_a_run(row):
    assert set(row.settings) <= set(vars(PruneConfig(method=row.name)))
    formats = ["formats"] * row.takes_formats  # towards which it trains, whatever method they are said for
    assert list(PruneConfig(method=row.name).of_method) == [*row.settings, *formats]
    for settings in (row.variants or {}).values():
        assert set(settings) <= {*row.settings, *["pattern"] * row.takes_formats}


def test_what_compare_offers():
    offered = table.variants()
    assert offered["surgeon"] == {"method": "surgeon", "scope": "global"}
    assert offered["magnitude"] == {"method": "magnitude"}
    assert offered["admm-once"] == {"method": "admm", "progressive": False}
    assert {one["method"] for one in offered.values()} == set(METHODS)


@pytest.mark.parametrize("settings, scope", [
    ({"method": "surgeon"}, "global"), ({"ranking": "surgeon"}, "global"), ({}, "matrix"),
    ({"method": "admm-closed"}, "matrix"), ({"method": "surgeon", "scope": "layer"}, "layer")])
def test_one_threshold_serves_all_where_matrices_are_compared(settings, scope):
    assert PruneConfig(**settings).scope == scope


def test_the_ranking_is_called_score_outside():
    said = PruneConfig(ranking="norm").to_json()
    assert said["score"] == "norm" and "ranking" not in said and PruneConfig.from_json(said).ranking == "norm"
    with pytest.raises(InputError, match="ranking"):
        PruneConfig.from_json({"ranking": "norm"})


def test_what_norms_count_has_the_mean_one(tiny_model, tiny_data):
    pruning = tiny.pruning(tiny.settings(tiny_model, tiny_data, ranking="surgeon"))
    for event in pruning:
        if event.phase == "penalty" and getattr(event, "loss", None) is not None:
            break
    values = np.concatenate([one.numpy().ravel() for one in pruning.position.steps.method.importance.values()])
    assert values.mean() == pytest.approx(1.0, rel=1e-5) and (values >= 0).all()
