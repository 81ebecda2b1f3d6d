"""A run of BERT-large size: how soon it opens, and the server's memory while every snapshot of it is looked at."""

from __future__ import annotations

import contextlib
import gc
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from sample_run import make_layout, make_profile, make_run

from pages.shared import loaders
from prune_core.latency.profile import Batch
from prune_core.runs import settings, shelf
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.showing.canvas import Start

OPEN, GROWS = 3.0, 300.0  # seconds; MB


def resident() -> float:
    """MB of this process."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def look(run: Run, at: int) -> int:
    """What Explore reads and sends for a snapshot; bytes."""
    norms = loaders.norms(run, at)
    usual = settings.usual(run)
    usual.mask(norms, run.layout)
    header = canvas.header(run, at, loaders.norm_scale(run), Start(usual), usual, make_profile(), Batch())
    return len(canvas.pack(header, norms))


def rows(short: bool) -> Iterator[dict]:
    folder = Path(tempfile.mkdtemp(prefix="prunescope-memory-"))
    try:
        with contextlib.redirect_stderr(None):
            layers, moments = (8, 9) if short else (24, 47)
            path = make_run(folder, "large", layout=make_layout(layers, 1024, 4096, "64x1"), moments=moments)
        size = sum(file.stat().st_size for file in path.rglob("*")) / 1e6
        start = time.perf_counter()
        run = next(one.run for one in shelf.listing(folder) if one.name == "large")
        sent = look(run, run.with_norms[0])
        took = time.perf_counter() - start
        yield {"what": f"{'8 layers of ' * short}BERT-large size, {len(run.with_norms)} snapshots, {size:,.0f} MB: "
                       f"listed, read, counted, packed for the browser", "figure": took,
               "unit": "s", "ok": short or took <= OPEN, "needed": f"at most {OPEN:g} s; {sent / 1e6:.0f} MB sent"}
        snapshots = run.with_norms
        for at in snapshots[:8]:
            look(run, at)
        before = resident()
        for at in snapshots:
            look(run, at)
        grown = resident() - before
        yield {"what": "growth while all snapshots are looked at, after the first eight", "figure": grown, "unit": "MB",
               "ok": grown <= GROWS, "needed": f"at most {GROWS:g} MB; {before:,.0f} MB before"}
        before = resident()
        for at in reversed(snapshots):
            look(run, at)
        again = resident() - before
        yield {"what": "growth when they are looked at again, backwards", "figure": again, "unit": "MB",
               "ok": again <= GROWS / 3, "needed": f"at most {GROWS / 3:g} MB"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
