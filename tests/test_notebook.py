"""Notebooks run from their first cell to their last, and count what was shown."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
import tiny
from commands import prune_core
from nbclient import NotebookClient

from pages.home import notebooks
from prune_core.cutting.cuts import Cut
from prune_core.evaluation.exact import evaluate
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting, cut_of
from prune_core.showing import notebook

ROOT = Path(__file__).resolve().parent.parent


def executed(text: str, folder: Path = ROOT) -> list[str]:
    """What each code cell of a notebook shows when it is run in `folder`, as text."""
    made = nbformat.reads(text, 4)
    nbformat.validate(made)
    NotebookClient(made, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return ["\n".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)
            for cell in made.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


def test_an_exploration_counts_the_same_numbers_and_the_exact_score(made):
    some = {key: float(values.mean()) for key, values in made.norms(made.saved("dense")).items()}
    settings = [Setting("present", made.saved("dense"), Cut("matrix", None, some)),
                Setting("A", made.saved("penalty-3x"), Cut("matrix", 0.5)),
                Setting("B", made.with_norms[1], Cut("global", 0.25)),
                Setting("C", made.saved("dense"), Cut("matrix", 0.5, None, formats="8;a8"))]
    shown = executed(notebook.exploration(made, settings))
    assert shown[1].startswith("made, dense: ")  # the map, at the cut in view
    assert f"{100 * settings[0].numbers(made)['sparsity']:.1f}% cut" in shown[1]
    assert "the same numbers as shown" in shown[3] and "the same bytes as shown" in shown[5]
    assert str(settings[3].storage(made).bytes) in shown[4]
    in_bits = evaluate(made, "dense", settings[3].cut)
    assert f"{in_bits['score']:.6f}".rstrip("0") in shown[-1].partition("C")[2]
    exact = evaluate(made, "dense", cut_of(made, None, some, scope="matrix"))
    assert f"{exact['score']:.6f}".rstrip("0") in shown[-1]
    assert "B: not scored: weights are kept for stages only" in shown[-1]
    numbers = settings[1].numbers(made)
    assert f"{numbers['sparsity']:.6f}"[:7] in shown[2] and numbers["predicted_score"] is not None
    assert settings[0].numbers(made)["predicted_score"] is None  # thresholds of their own: no surface is of that kind


def test_the_numbers_are_compared_when_it_is_run(made):
    text = notebook.exploration(made, [Setting("present", made.saved("dense"), Cut("matrix", 0.5))])
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="AssertionError"):
        executed(text.replace("'share': 0.5", "'share': 0.25"))


def test_the_same_view_gives_the_same_notebook(made):
    settings = [Setting("present", made.saved("dense"), Cut("matrix", 0.5))]
    assert notebook.exploration(made, settings) == notebook.exploration(made, settings)


def test_the_command_writes_one(made, tmp_path):
    command = ["export", "made", f"--runs-dir={made.path.parent}", "--sparsity=0.5", "--to=notebook", "--json"]
    done = prune_core(*command, tmp_path / "one.ipynb")
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["to"] == "notebook" and nbformat.read(told["path"], 4).cells
    again = prune_core(*command, tmp_path / "one.ipynb")
    assert again.returncode == 2 and "is there already" in again.stderr


# ---------------------------------------------------------------- the notebooks that ship

SHIPPED = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORTER = {  # the same cells, fewer steps and rounds; the surgeon alone would take half a minute
    r'method=\"surgeon\", dense_steps=12, retrain_steps=6':
        r'method=\"magnitude\", dense_steps=2, penalty_steps=2, retrain_steps=2',
    "surface_examples=24": "surface_examples=8", "shapes(0.8, seconds=2)": "shapes(0.8, seconds=0.05)"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_notebook_runs_and_keeps_no_outputs(path):
    text = path.read_text(encoding="utf-8")
    assert not [cell for cell in nbformat.reads(text, 4).cells if cell.get("outputs") or cell.get("execution_count")]
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    shown = executed(text, ROOT / "notebooks")
    words = {"lesson": "strips of 64x1", "your_own": "model.safetensors", "tune": "Decision: retrain-3x",
             "compare": "Within 1 point of dense",
             "fewer_bits": "removed without the index 93.75%, with it 90.62%",
             "results_table": "rows stand in docs/results.md"}
    assert words[path.stem] in "\n".join(shown)


def test_the_six_notebooks_ship_and_open_with_what_they_are_for():
    assert [path.stem for path in SHIPPED] == ["compare", "fewer_bits", "lesson", "results_table", "tune", "your_own"]
    for path in SHIPPED:
        opening = nbformat.read(path, 4).cells[0].source
        assert "**At its end you will know**" in opening and "**It takes**" in opening, path.stem
        title, know, takes = notebooks.opening(path.read_bytes())  # as Home shows it
        assert title and know.startswith("At its end you will know") and takes.startswith("It takes"), path.stem
    assert sorted(notebooks.NOTEBOOKS) == [path.stem for path in SHIPPED]
    together = "".join(path.read_text(encoding="utf-8") for path in SHIPPED)
    assert all(long in together for long in SHORTER)
