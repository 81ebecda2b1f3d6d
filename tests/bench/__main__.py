"""python -m tests.bench speed|ui|memory|costs|many [--json]: each aim beside what this machine gives.

speed: everything is timed in turn with its dense twin, in one process, after a warm-up, on two threads; medians.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # what tests share

import typer  # noqa: E402

GLUE = Path(__file__).resolve().parents[3] / "shared" / "glue"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Benchmarks; each prints its aims and the figures found."""


@app.command()
def speed(
    only: Annotated[str | None, typer.Option(
        help="One part: linear, encoder, penalty, engines, score, large, model.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compact layers, whole encoders, engines, exact scores, the latency model."""
    from bench.speed import PARTS

    tell(({"part": name} | row for name, part in PARTS.items() if only in (None, name) for row in part()), as_json)


@app.command()
def ui(
    only: Annotated[str | None, typer.Option(help="One part: minilm, bert-base or first.")] = None,
    data: Annotated[Path, typer.Option(help="A folder with GLUE, for the first exact score.")] = GLUE,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Explore in a real browser: frames of a drag, the server's answer, the first map, the first exact score."""
    from bench import first_sight
    from bench.ui import run

    if only != "first":
        tell(({"part": "ui"} | row for row in run(only)), as_json)
    if only in (None, "first"):
        tell(({"part": "first"} | row for row in first_sight.run(data.resolve())), as_json)


@app.command()
def many(
    runs: Annotated[int, typer.Option(help="Run folders, copies of a recorded one by hard links.")] = 5000,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Home and Compare with thousands of run folders, and how long the index of them takes."""
    from bench.many import run

    tell(({"part": "many"} | row for row in run(runs)), as_json)


@app.command()
def memory(
    only: Annotated[str | None, typer.Option(help="One model: minilm or 12x768.")] = None,
    batch: Annotated[str | None, typer.Option(help="One batch of it, as 8x512.")] = None,
    held: Annotated[bool, typer.Option("--held", help="Also with what the C library keeps: twice as long.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Memory by formula against fresh processes: MiniLM and a BERT-base size over batch and length."""
    from bench.plans import rows_of_memory

    tell(({"part": "memory"} | row for row in rows_of_memory(only, batch, held)), as_json)


@app.command()
def costs(
    gpu: Annotated[float | None, typer.Option(
        help="Seconds that a step of BERT-large size, 32 x 128, took on your GPU.")] = None,
    link: Annotated[float, typer.Option(help="Gigabytes a second between two devices.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """What BERT-large on all of MNLI with 20 settings costs, from a step measured here, or one that you measured."""
    from bench.plans import rows_of_costs

    tell(({"part": "costs"} | row for row in rows_of_costs(gpu, link)), as_json)


def tell(rows, as_json: bool) -> None:
    """A line for each row as it comes, or all of them as JSON."""
    told = []
    for row in rows:
        told.append(row)
        if not as_json:
            aim = "" if row.get("aim") is None else f"   aim {row['aim']:.4g}: {'met' if row['met'] else 'MISSED'}"
            print(f"{row['part']:8} {row['what']:74} {row['figure']:9.3g} {row['unit']:11}{aim}", flush=True)
    if as_json:
        print(json.dumps(told))


app()
