"""Home and Compare with thousands of run folders: each opened in a new process, as after a restart of the app."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "data" / "recorded" / "rte-minilm-64x1-surgeon"
AIM = 3.0  # seconds
PAGES = {"Home": None, "Compare": "pages/3_Compare.py"}

# Seconds of a page's first run, libraries loaded, and of the next one
OPEN = """
import json, sys, time
from streamlit.testing.v1 import AppTest
import plotly, pandas, pages.shared.loaders, pages.shared.timings, prune_core.showing.compare
app = AppTest.from_file(sys.argv[1], default_timeout=3000)
if len(sys.argv) > 2:
    app.switch_page(sys.argv[2])
took = []
for _ in range(2):
    begun = time.perf_counter()
    app.run()
    took.append(time.perf_counter() - begun)
    assert not app.exception, app.exception
print(json.dumps(took))
"""


def run(many: int = 5000) -> Iterator[dict]:
    """Rows of {"what", "figure", "unit", "aim", "met"}."""
    with tempfile.TemporaryDirectory(prefix="prunescope-many-") as folder:
        for number in range(many):
            shutil.copytree(SOURCE, Path(folder) / f"run-{number:05d}", copy_function=_linked)
        yield _row(f"{many} runs: listed for the first time, every folder read", _listed(folder))
        yield _row(f"{many} runs: listed, by the index", _listed(folder), AIM)
        for name, page in PAGES.items():
            first, again = _opened(folder, page)
            yield _row(f"{many} runs: {name}, first run after a restart", first, AIM)
            yield _row(f"{many} runs: {name}, drawn again", again, AIM)


def _row(what: str, seconds: float, aim: float | None = None) -> dict:
    return {"what": what, "figure": seconds, "unit": "s", "aim": aim, "met": aim is None or seconds <= aim}


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def _listed(folder: str) -> float:
    code = ("import sys, time; from pathlib import Path; from prune_core.runs import index\n"
            "begun = time.perf_counter(); index.listing(Path(sys.argv[1])); print(time.perf_counter() - begun)")
    return float(_python(folder, code, folder))


def _opened(folder: str, page: str | None) -> list[float]:
    return json.loads(_python(folder, OPEN, str(ROOT / "app.py"), *([page] if page else [])))


def _python(folder: str, code: str, *arguments: str) -> str:
    here = {"PRUNESCOPE_RUNS_DIR": folder, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=os.environ | here, check=True,
                          capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]
