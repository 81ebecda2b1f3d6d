"""The map in marimo, in a real browser: the same widget, two ways."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import CHROMIUM, ROOT, chromium, free_port, healthy, playwright, wait

from prune_core.cutting.masks import mask_at
from prune_core.runs import shelf

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
APP = """import marimo

app = marimo.App()


@app.cell
def _():
    import json
    from pathlib import Path
    import marimo as mo
    from prune_core import show
    from prune_core.cutting.cuts import Cut

    view = show("sst2-minilm-64x1", at="dense", cut=Cut("global", 0.5))

    def told(change):
        Path({out!r}).write_text(json.dumps({{"sparsity": view.sparsity, "digest": view.mask.digest(), "at": view.at,
                                             "thresholds": view.view.thresholds}}))

    view.observe(told, ["sparsity", "at"])
    view
    return mo, view


@app.cell
def _(mo, view):
    mo.ui.button(label="A quarter", on_click=lambda _: setattr(view, "cut", 0.25))
    return


if __name__ == "__main__":
    app.run()
"""


@contextlib.contextmanager
def served(path: Path) -> Iterator[str]:
    """The address of this marimo app."""
    port = free_port()
    command = [sys.executable, "-m", "marimo", "run", str(path), "--headless", "--no-token", f"--port={port}"]
    home = os.environ | {"MARIMO_SKIP_UPDATE_CHECK": "1", "PYTHONPATH": str(ROOT),
                         "HOME": str(path.parent), "XDG_CONFIG_HOME": str(path.parent)}
    with open(path.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(command, cwd=path.parent, env=home, stdout=log, stderr=log, start_new_session=True)
    try:
        wait("marimo has started", lambda: healthy(f"http://localhost:{port}", process, "health"))
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(60)


def test_a_drag_reaches_python_and_python_moves_the_handle(tmp_path):
    path, out = tmp_path / "map.py", tmp_path / "told.json"
    path.write_text(APP.format(out=str(out)))
    run = shelf.find("sst2-minilm-64x1")
    with served(path) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1400})
        page.goto(address)
        root = page.locator(".prunescope-widget .prunescope")
        playwright.expect(root).to_have_count(1)
        share, handle = root.locator("input.share"), root.locator(".handle")
        wait("it is drawn", lambda: share.input_value() == "50.00")
        at, mouse = handle.bounding_box(), page.mouse
        mouse.move(at["x"] + 8, at["y"] + 8)
        mouse.down()
        mouse.move(at["x"] - 100, at["y"] + 8, steps=10)
        mouse.up()

        def heard() -> bool:
            with contextlib.suppress(OSError, ValueError):
                said = json.loads(out.read_text())
                return abs(100 * said["sparsity"] - float(share.input_value())) < 0.006
            return False

        wait("Python hears where the hand has left it", heard)
        said = json.loads(out.read_text())
        mask = mask_at(run.ranking("dense"), run.layout, said["thresholds"], "global")
        assert said["digest"] == mask.digest() and said["sparsity"] == mask.sparsity < 0.5
        page.get_by_role("button", name="A quarter").click()
        wait("the handle follows Python", lambda: share.input_value() == "25.00")
        root.locator("input.snapshot").fill("0")
        first = run.snapshots[run.with_norms[0]].label
        wait("the snapshot as well", lambda: f'"at": "{first}"' in out.read_text())
