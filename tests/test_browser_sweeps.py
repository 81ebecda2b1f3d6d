"""The Sweeps view in a real browser: the address opens it, a cell leads to its run, Compare keeps the sweep."""

from __future__ import annotations

import pytest
from browsing import CHROMIUM, chromium, served
from sample_run import make_run

from prune_core.runs import claims, sweeps

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


def test_from_cells_to_a_run_and_to_compare(tmp_path):
    sweep = sweeps.grid("mine", {"method": ["surgeon", "magnitude"], "seed": [0, 1]}, task="sst2")
    sweeps.keep(sweep, tmp_path, {"on": "local"})
    for cell in sweep.cells[:2]:
        make_run(tmp_path, cell.run)
    claims.take(sweep.cells[2].run, tmp_path).let_go("no room on the disk")
    with served(tmp_path) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 800, "height": 1000})
        page.goto(f"{address}/Prune?view=Sweeps&sweep=mine")
        page.get_by_text("2 of 4 cells complete").wait_for()
        assert page.locator(".cells .cell").all_inner_texts() == ["✓", "✓", "✕", "·"]
        wide = page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert wide, "the page is wider than the window"
        first = page.locator(".cells a.cell").first
        first.focus()
        assert first.get_attribute("aria-label") == f"{sweep.cells[0].run}: complete"
        page.get_by_role("link", name="Compare its results").click()
        page.get_by_text("2 of 4 cells have a result").wait_for()
        assert "cells=mine" in page.url
        page.goto(f"{address}/Prune?view=Sweeps&sweep=mine")
        page.locator(".cells a.cell").first.press("Enter")
        page.get_by_role("heading", name=sweep.cells[0].run).wait_for()
        assert f"run={sweep.cells[0].run}" in page.url
