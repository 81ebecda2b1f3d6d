"""The map in notebooks: a real JupyterLab in Chromium, and what Python knows of it. Counted as the core counts."""

from __future__ import annotations

import base64
import io
import json
import re

import nbformat
import numpy as np
import pytest
import tiny
from browsing import CHROMIUM, chromium, playwright, wait
from jupyter import Notebook, laboratory, written

from prune_core import InputError, show
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import mask_at, thresholds_for
from prune_core.evaluation.exact import evaluate
from prune_core.runs import shelf
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of
from prune_core.showing.still import WIDGET

expect = playwright.expect
RUN = "sst2-minilm-64x1"


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


# ---------------------------------------------------------------- Python alone


def test_what_is_set_is_in_view_and_observed():
    view, seen = show(RUN, at="dense"), []
    view.observe(lambda change: seen.append((change["name"], change["new"])), ["cut", "sparsity", "at", "score"])
    view.cut = Cut("layer", 0.4)
    run = shelf.find(RUN)
    norms = run.ranking("dense")
    mask = mask_at(norms, run.layout, thresholds_for(norms, run.layout, 0.4, "layer"), "layer")
    assert view.mask.digest() == mask.digest() and view.sparsity == mask.sparsity and view.cut.scope == "layer"
    assert dict(seen)["cut"] == Cut("layer", 0.4) and dict(seen)["sparsity"] == mask.sparsity
    view.cut = Cut("global", 0.5)
    assert (view.score, view.how) == (pytest.approx(run.surfaces("dense")[view.cut.kind][10].score), "recorded")
    seen.clear()
    view.at, view.sparsity = "retrain-2x", 0.75
    assert dict(seen)["at"] == view.at == "retrain-2x" and view.cut == Cut("global", 0.75)
    assert view.settings[0].numbers(run) == view.numbers


@pytest.mark.parametrize(("name", "value", "words"), [
    ("cut", 1.5, "cut 1.5 is out of range; needed: a share"), ("cut", "half", "cut 'half' is none; needed: a share"),
    ("cut", Cut("layer", None, {"0": 0.1}), "thresholds do not fit scope 'layer'"), ("sparsity", -0.1, "out of range"),
    ("cut", Cut("global", 0.5, ranking="dice"), "ranking 'dice' was not recorded at 'dense'; there: norm"),
    ("at", "retrain-9x", "no snapshot 'retrain-9x'; its stages: dense")])
def test_what_cannot_be_had_is_one_line_and_changes_nothing(name, value, words):
    view = show(RUN, at="dense")
    before = view.cut, view.at, view.sparsity, view._state
    with pytest.raises(InputError) as raised:
        setattr(view, name, value)
    assert words in str(raised.value) and raised.value._render_traceback_() == [f"InputError: {raised.value}"]
    assert (view.cut, view.at, view.sparsity, view._state) == before


def test_an_unknown_run_and_one_without_norms_are_one_line(tmp_path, made):
    with pytest.raises(InputError, match="no run 'nobody'.*there are: .*sst2-minilm-64x1"):
        show("nobody")
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "run.json").write_bytes((made.path / "run.json").read_bytes())
    with pytest.raises(InputError, match="run 'bare' has no block norms yet"):
        show("bare", runs_dir=tmp_path)


def test_the_exact_score_streams_and_stays(made):
    view, told = show(made, at="dense", cut=0.5), []
    view.observe(lambda change: told.append(change["new"]["doing"]), "_exact")
    result = view.exact()
    assert result["score"] == evaluate(made, "dense", cut_of(made, 0.5))["score"] == view.score and view.how == "exact"
    assert told[0] == "loading" and told[-1] == "done" and view._answers[0]["score"] == view.score
    view.cut = 0.25
    assert view.how != "exact"
    view.cut = 0.5
    assert view.how == "exact"
    view.at = made.snapshots[made.with_norms[1]].label
    with pytest.raises(InputError, match="it has no weights, only norms; needed: a stage with weights: dense"):
        view.exact()


def test_a_saved_notebook_keeps_a_picture(made):
    from PIL import Image

    bundle = show(made, at="dense", cut=0.5)._repr_mimebundle_()
    assert WIDGET in bundle and bundle["text/plain"].startswith("made, dense: 5")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_an_old_word_from_the_browser_undoes_nothing():
    view = show(RUN, at="dense")
    view.cut = 0.5
    for late, share in ((True, 0.5), (False, 0.25)):
        number = view._state["number"] + (0 if late else 1)
        view.set_state({"_state": view._state | {
            "by": "a view", "cut": {"scope": "global", "share": 0.25, "thresholds": None}, "number": number}})
        assert view.cut.share == share and view._state["number"] == number + late
    assert view._heard == number


# ---------------------------------------------------------------- JupyterLab


SHOWN = """import prune_core
from prune_core import show
seen = []
view = show("sst2-minilm-64x1", at="dense", cut=prune_core.cutting.cuts.Cut("global", 0.5))
view.observe(lambda change: seen.append(change["new"]), "sparsity")"""
TOLD = """import json
from prune_core.cutting.masks import mask_at
mask = mask_at(view.run.ranking("dense", view.cut.ranking), view.run.layout,
               view.cut.resolved(view.run.ranking("dense", view.cut.ranking), view.run.layout), view.cut.scope)
print(json.dumps({"sparsity": view.sparsity, "core": mask.sparsity, "same": mask.digest() == view.mask.digest(),
                  "score": view.score, "how": view.how, "at": view.at, "scope": view.cut.scope, "seen": len(seen),
                  "pins": [one.name for one in view.settings], "open": len(prune_core.showing.cells._of_cells)}))"""


@pytest.fixture(scope="module")
def lab(made, tmp_path_factory):
    """(a browser page, the address of a JupyterLab, its folder)."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    folder = tmp_path_factory.mktemp("lab")
    with laboratory(folder) as address, chromium() as browser:
        yield browser.new_page(viewport={"width": 1440, "height": 1100}), address, folder


@pytest.fixture(scope="module")
def notebook(lab) -> Notebook:
    page, address, folder = lab
    written(folder / "map.ipynb", [SHOWN, "view", TOLD])
    opened = Notebook(page, address, "map.ipynb")
    opened.run(0)
    expect(opened.map().root).to_have_attribute("data-draw-ms", re.compile("."))
    return opened


def told(notebook: Notebook, code: str = "") -> dict:
    """What Python says of the view, after this code."""
    return json.loads(notebook.run(2, f"{code}\n{TOLD}"))


def drag(notebook: Notebook, by: float, cell: int = 0) -> None:
    """The handle, with the mouse, so many pixels."""
    at = notebook.map(cell).handle.bounding_box()
    x, y, mouse = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2, notebook.page.mouse
    mouse.move(x, y)
    mouse.down()
    for step in range(1, 11):
        mouse.move(x + by * step / 10, y)
    mouse.up()


def shown_share(notebook: Notebook, cell: int = 0) -> float:
    return float(notebook.map(cell).share.input_value())


def test_a_drag_by_mouse_reaches_python_as_the_core_counts_it(notebook):
    before = told(notebook)
    assert before["sparsity"] == pytest.approx(0.5, abs=1e-4)
    drag(notebook, -120)
    wait("Python hears of it", lambda: told(notebook)["sparsity"] != before["sparsity"])
    wait("the hand rests", lambda: told(notebook)["sparsity"] == pytest.approx(shown_share(notebook) / 100, abs=6e-5))
    now = told(notebook)
    assert now["same"] and now["sparsity"] == now["core"] and now["seen"] > before["seen"]


def test_keys_go_to_the_map_and_scopes_pins_and_bits_to_python(notebook):
    before, page, view = told(notebook), notebook.page, notebook.map()
    view.handle.focus()
    page.keyboard.press("ArrowRight")
    wait("a key moves it", lambda: told(notebook)["sparsity"] > before["sparsity"])
    view.root.get_by_role("button", name="Each layer").click()
    view.root.get_by_role("button", name="Pin", exact=True).click()
    wait("scope and pin", lambda: told(notebook)["scope"] == "layer" and told(notebook)["pins"] == ["in view", "A"])
    view.root.get_by_text("Bits and patterns").click()
    view.root.get_by_role("radio", name="8", exact=True).click()
    wait("bits", lambda: "8" in notebook.run(2, "print(view.cut.formats)"))
    view.root.get_by_role("radio", name="32", exact=True).click()
    view.root.get_by_role("button", name="Whole encoder").click()
    wait("back", lambda: told(notebook)["scope"] == "global")


def test_python_moves_the_handle_in_every_view(notebook):
    notebook.run(1)
    second = notebook.map(1)
    expect(second.root).to_be_visible()
    now = told(notebook, "view.cut = 0.25")
    for cell in (0, 1):
        wait("the handle follows", lambda cell=cell: shown_share(notebook, cell) == 25.0)
    second.share.fill("60")
    second.share.press("Enter")
    wait("the other view follows", lambda: shown_share(notebook) == 60.0)
    assert now["same"] and told(notebook)["sparsity"] == pytest.approx(0.6, abs=1e-4)
    assert "InputError: cut 2 is out of range" in notebook.run(2, "view.cut = 2") and shown_share(notebook) == 60.0


def test_play_leads_through_the_snapshots(notebook):
    view = notebook.map()
    view.root.locator("input.snapshot").fill("0")
    first = view.when.inner_text()
    view.play.click()
    expect(view.when).not_to_have_text(first)
    expect(view.play).to_have_attribute("aria-label", "Pause")
    wait("it moves on", lambda: "loading" not in view.when.inner_text() and view.when.inner_text() != first)
    view.play.click()
    label = view.when.inner_text()
    wait("Python knows where it stands", lambda: told(notebook)["at"] == view.when.inner_text())
    assert label


def test_a_cell_that_is_run_again_and_a_new_kernel_leave_no_stale_handle(notebook):
    notebook.run(2, "old = view")
    notebook.run(0)
    expect(notebook.map(1).root).to_have_count(0)  # what the cell showed before is closed wherever it stood
    assert "None" in notebook.run(2, "print(old.comm)") and told(notebook)["sparsity"] == pytest.approx(0.5, abs=1e-4)
    notebook.restart()
    drag(notebook, 60)
    expect(notebook.map().unheard).to_contain_text("Python does not answer")
    notebook.run(0)
    expect(notebook.map().unheard).to_be_hidden()
    drag(notebook, 60)
    wait("the new one is heard", lambda: told(notebook)["sparsity"] > 0.5)


def test_the_file_keeps_the_picture(notebook, lab):
    notebook.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    path = lab[2] / "map.ipynb"

    def kept() -> list:
        return [out for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", [])
                if "image/png" in out.get("data", {})]

    wait("it is saved", kept)
    assert kept()[0]["data"]["text/plain"].startswith(f"{RUN}, dense: 50.0% cut")


TRAINED = """from prune_core import prune
view = prune(model={model!r}, data={data!r}, task="sst2", block="16x1", compressions=(2.0,), method="group-lasso",
             dense_steps=4, penalty_steps=12, retrain_steps=4, moments=4, milestones=2, surface_examples=8,
             batch_size=8, max_length=16, run="lab", runs_dir={runs!r})
view.training.pause()"""


def test_a_training_is_seen_paused_by_its_button_and_stepped_through(lab, tiny_model, tiny_data, tmp_path):
    page, address, folder = lab
    code = TRAINED.format(model=str(tiny_model), data=str(tiny_data), runs=str(tmp_path))
    written(folder / "train.ipynb", [code, "print(view.training.wait()['points'][0]['score_retrained'])"])
    opened = Notebook(page, address, "train.ipynb")
    opened.run(0)
    view = opened.map()
    go_on = view.root.get_by_role("button", name="Go on")
    expect(go_on).to_be_visible()
    before = int(view.root.locator("input.snapshot").get_attribute("max"))
    go_on.click()
    expect(view.root.locator(".going")).to_contain_text("Complete: dense")
    expect(view.when).to_have_text("retrain-2x")  # who looks at the last snapshot goes along
    assert int(view.root.locator("input.snapshot").get_attribute("max")) > before
    view.root.locator("input.snapshot").fill("0")
    expect(view.when).to_have_text("dense step 0")
    score = Run(tmp_path / "lab").result["points"][0]["score_retrained"]
    assert opened.run(1).strip() == str(score)
