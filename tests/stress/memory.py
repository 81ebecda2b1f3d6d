"""A run of BERT-large size: how soon it opens, and what looking at every moment of it does to the server's memory."""

from __future__ import annotations

import contextlib
import gc
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from pages.shared import loaders
from prune_core.latency.profile import Batch
from prune_core.runs import settings, shelf
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.showing.canvas import Start
from sample_run import make_layout, make_profile, make_run

OPEN, GROWS = 3.0, 300.0  # seconds; MB


def resident() -> float:
    """MB of this process."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def look(run: Run, at: int) -> int:
    """What Explore reads and sends for a moment; bytes."""
    norms = loaders.norms(run, at)
    usual = settings.usual(run)
    usual.mask(norms, run.layout)
    header = canvas.header(run, at, loaders.norm_scale(run), Start(usual), usual, make_profile(), Batch())
    return len(canvas.pack(header, norms))


def rows(short: bool) -> Iterator[dict]:
    folder = Path(tempfile.mkdtemp(prefix="prunescope-memory-"))
    try:
        with contextlib.redirect_stderr(None):
            path = make_run(folder, "large", layout=make_layout(24, 1024, 4096, "64x1"), moments=9 if short else 47)
        size = sum(file.stat().st_size for file in path.rglob("*")) / 1e6
        start = time.perf_counter()
        run = next(one.run for one in shelf.listing(folder) if one.name == "large")
        sent = look(run, run.with_norms[0])
        took = time.perf_counter() - start
        yield {"what": f"BERT-large size, {len(run.with_norms)} snapshots, {size:,.0f} MB: "
                       "listed, read, counted, packed for the browser", "figure": took, "unit": "s",
               "ok": short or took <= OPEN, "needed": f"at most {OPEN:g} s; {sent / 1e6:.0f} MB sent"}
        moments = run.with_norms
        for at in moments[:8]:
            look(run, at)
        before = resident()
        for at in moments:
            look(run, at)
        grown = resident() - before
        yield {"what": "growth while all moments are looked at, after the first eight", "figure": grown,
               "unit": "MB", "ok": grown <= GROWS, "needed": f"at most {GROWS:g} MB; {before:,.0f} MB before"}
        before = resident()
        for at in reversed(moments):
            look(run, at)
        again = resident() - before
        yield {"what": "growth when they are looked at again, backwards", "figure": again,
               "unit": "MB", "ok": again <= GROWS / 3, "needed": f"at most {GROWS / 3:g} MB"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
