"""A fresh start seen by a newcomer: seconds until the score card of Explore has a number, and until it is exact.

In a copy of the project without anybody's runs and with an empty cache, so that nothing is known and no kernel built.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from browsing import ROOT, chromium, served

MINE = (".git", ".venv", "runs", "__pycache__", ".pytest_cache", ".ruff_cache")  # what a download does not have
HOW = """([...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.card.score')).find(Boolean)
?.dataset.how)"""
DRAGS = 5


def run(data: Path) -> Iterator[dict]:
    """Rows of {"what", "figure", "unit", "aim", "met"}; `data`: a folder with GLUE."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        root = Path(shutil.copytree(ROOT, Path(folder) / "prunescope", ignore=shutil.ignore_patterns(*MINE)))
        runs, own = Path(folder) / "runs", {"PRUNESCOPE_DATA": str(data), "XDG_CACHE_HOME": str(Path(folder) / "cache")}
        for start in ("at once", "again, the app started anew"):
            with served(runs, root, **own) as address:
                page = _page(browser)
                yield from _opened(page, address, start)
                if start == "at once":
                    yield from _dragged(page)
                page.context.close()
        shutil.rmtree(root / "data" / "runs", ignore_errors=True)
        with served(runs, root, **own) as address:
            page = _page(browser)
            page.goto(address)
            page.wait_for_selector("text=Example runs", timeout=120_000)
            page.wait_for_timeout(8000)  # a newcomer reads
            yield from _opened(page, address, "eight seconds after Home")


def _page(browser):
    return browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()


def _opened(page, address: str, start: str) -> Iterator[dict]:
    begun = time.perf_counter()
    page.goto(f"{address}/Explore")
    page.wait_for_function(f"!['none', undefined].includes({HOW})", timeout=300_000)
    yield _row(f"Explore opened {start}: a number on the score card", time.perf_counter() - begun, 3)
    page.wait_for_function(f"{HOW} === 'exact'", timeout=300_000)
    yield _row(f"Explore opened {start}: the exact score on the card", time.perf_counter() - begun, 3)


def _dragged(page) -> Iterator[dict]:
    """Warm: from a hand's rest to the first running figure and to the exact one; then repaired."""
    page.wait_for_timeout(5000)  # the scoring process has computed what was known
    firsts, lasts = zip(*(_moved(page, 20 + 7 * at) for at in range(DRAGS)), strict=True)
    yield _row(f"released: first running exact figure, median of {DRAGS}", float(np.median(firsts)), 1)
    yield _row(f"released: exact score, median of {DRAGS}", float(np.median(lasts)))
    page.wait_for_timeout(8000)  # reading
    page.get_by_text("Repair after cutting").click()
    begun = time.perf_counter()
    page.wait_for_function(f"{HOW} !== 'exact'", timeout=60_000)
    page.wait_for_function(f"{HOW} === 'exact'", timeout=300_000)
    yield _row("repair asked for after eight seconds of reading: exact score", time.perf_counter() - begun, 5)
    firsts, lasts = zip(*(_moved(page, 23 + 7 * at) for at in range(DRAGS)), strict=True)
    yield _row(f"released: exact score repaired, median of {DRAGS}", float(np.median(lasts)), 5)


def _moved(page, steps: int) -> tuple[float, float]:
    """Seconds from the last key to the first running figure, and to the exact score."""
    handle = page.locator(".handle")
    handle.focus()
    for _ in range(steps // 4):
        handle.press("ArrowRight")
    begun = time.perf_counter()
    page.wait_for_function(f"['so far', 'exact'].includes({HOW})", timeout=300_000, polling=20)
    first = time.perf_counter() - begun
    page.wait_for_function(f"{HOW} === 'exact'", timeout=300_000, polling=20)
    return first, time.perf_counter() - begun


def _row(what: str, value: float, aim: float | None = None) -> dict:
    return {"what": what, "figure": value, "unit": "s", "aim": aim, "met": aim is None or value <= aim}
