"""What commands and cards say of cuts in few bits where it is easily said wrongly, and what they refuse."""

from __future__ import annotations

import json

import pytest
import tiny
from commands import prune_core

from prune_core import InputError, export
from prune_core.cli import ask
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import times
from prune_core.precision.formats import parse
from prune_core.precision.storage import counts
from prune_core.runs import mixtures
from prune_core.runs.run import Run


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


def test_where_everything_is_cut_it_is_said(made, tmp_path):
    runs = f"--runs-dir={made.path.parent}"
    done = prune_core("evaluate", "made", runs, "--phase=dense", "--threshold=1e9", "--bits=8")
    assert done.returncode == 0, done.stderr
    assert "encoder nothing kept, model" in done.stdout and "bytes of index, nothing kept; model" in done.stdout
    done = prune_core("export", "made", tmp_path / "out", runs, "--phase=dense", "--threshold=1e9")
    assert done.returncode == 0 and "encoder nothing kept" in done.stdout and "inf" not in done.stdout
    card = (tmp_path / "out" / "README.md").read_text()
    assert "all of the encoder pruned" in card and "infx" not in card and "100.0% zero, in blocks of 16x1" in card
    assert (times(2.5), times(float("inf"))) == ("2.50x", "nothing kept")


def test_a_card_tells_blocks_and_pattern_apart(made, tmp_path):
    taken = export.take(made, "dense", Cut("matrix", 0.5, formats="8/2:4"))
    export.hf(taken, tmp_path / "both")
    zero = counts(taken.mask, parse("8/2:4"))["sparsity"]
    assert zero > taken.mask.sparsity + 0.05
    assert f"| {zero:.1%} zero; blocks of 16x1 alone {taken.mask.sparsity:.1%} |" in (
        tmp_path / "both" / "README.md").read_text()
    export.hf(export.take(made, "dense", Cut("matrix", 0.5)), tmp_path / "plain")
    assert f"| {taken.mask.sparsity:.1%} zero, in blocks of 16x1 |" in (tmp_path / "plain" / "README.md").read_text()


@pytest.mark.parametrize("bits, words", [
    (",", "has an empty part"), ("8,,4", "has an empty part"), ("8,", "has an empty part"),
    ("layer:8,4", "a surface cannot be recorded of a format for each layer"), ("9", "bits '9'")])
def test_surfaces_of_what_is_no_format_for_all(made, bits, words):
    with pytest.raises(InputError, match=words) as raised:
        ask._several(bits, made.layout)
    assert "\n" not in str(raised.value)


def test_several_formats_each_once(made):
    assert ask._several("8, 4,4/2:4,32,8", made.layout) == ["8", "4", "4/2:4", ""]


@pytest.mark.parametrize("command", [("evaluate", "made"), ("export", "made", "out")])
def test_a_mixture_beside_a_ranking_is_refused(made, tmp_path, command):
    done = prune_core(*command, f"--runs-dir={made.path.parent}", "--mixture=6x", "--by=activation")
    assert done.returncode == 2 and "--mixture and --by; needed: one of the two" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_newest_mixture_of_a_name_is_taken(made):
    about = {"cut": {"scope": "matrix", "thresholds": {"a": 0.5}, "by": "norm", "repaired": True, "formats": "8"}}
    for stage in ("dense", "retrain-3x", "dense"):
        mixtures.keep(made, "6x", about | {"phase": stage})
    assert mixtures.named(made, "6x").stage == "dense"
    assert mixtures.named(made, "6x", "retrain-3x").stage == "retrain-3x"
    assert json.dumps(mixtures.named(made, "6x").about["cut"]) == json.dumps(about["cut"])
