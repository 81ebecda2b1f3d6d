"""python -m tests.bench speed [--json] [--only NAME]: each aim of the speed work beside what this machine gives.

Everything is timed in turn with its dense twin, in one process, after a warm-up, on two threads; medians.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "2")
REPO = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

import typer  # noqa: E402

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Benchmarks; each prints its aims and the figures found."""


@app.command()
def speed(
    only: Annotated[str | None, typer.Option(help="One part: " + "linear, encoder, engines, score, large, model.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compact layers, whole encoders, engines, exact scores, the latency model."""
    from bench.speed import PARTS

    rows = []
    for name, part in PARTS.items():
        if only in (None, name):
            for row in part():
                rows.append({"part": name} | row)
                if not as_json:
                    aim = "" if row.get("aim") is None else f"   aim {row['aim']:g}: {'met' if row['met'] else 'MISSED'}"
                    print(f"{name:8} {row['what']:74} {row['figure']:9.3g} {row['unit']:11}{aim}", flush=True)
    if as_json:
        print(json.dumps(rows))


app()
