"""python -m tests.stress faults|load|memory|input [--short] [--json]: what must hold, beside what was found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # what tests share

import typer  # noqa: E402

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Short = Annotated[bool, typer.Option("--short", help="The form that continuous integration runs.")]
AsJson = Annotated[bool, typer.Option("--json")]


@app.command()
def faults(short: Short = False, as_json: AsJson = False) -> None:
    """Processes killed at random moments, full disks, a jumping clock, no memory, killed sweeps and nodes, the app."""
    from stress.faults import rows

    tell(rows(short), as_json)


@app.command()
def load(
    short: Short = False, as_json: AsJson = False,
    page: Annotated[str, typer.Option(help="Explore, or Learn: the lesson for a class of thirty.")] = "Explore",
) -> None:
    """Ten real pages that drag and ask for exact scores, and thirty clients that rerun, beside the server.

    With --page Learn: thirty students in `prunescope lesson`.
    """
    from stress import load, load_lesson

    if page not in ("Explore", "Learn"):
        raise typer.BadParameter("needed: Explore or Learn")
    tell((load_lesson if page == "Learn" else load).rows(short), as_json)


@app.command()
def memory(short: Short = False, as_json: AsJson = False) -> None:
    """A run of BERT-large size with fifty snapshots: how soon it opens, and what looking at all of them takes."""
    from stress.memory import rows

    tell(rows(short), as_json)


@app.command("input")
def bad_input(
    short: Short = False, as_json: AsJson = False,
    only: Annotated[str, typer.Option(help="Cases of the fuzz again: 'config 17', or 'tables 0-40'.")] = "",
) -> None:
    """Malformed folders, tensors, JSON, tables, block shapes, addresses, names: each must end in one clear line.

    And a fuzz over checkpoints and tables: each equal to plain transformers, or refused in one line.
    """
    from stress import input, input_fuzz

    tell(input_fuzz.again(only) if only else chain(input.rows(short), input_fuzz.rows(short)), as_json)


def tell(rows: Iterable[Mapping], as_json: bool) -> None:
    """A line for each row ({what, figure, unit, ok, needed}) as it comes, or all as JSON; code 1 where one fails."""
    told = []
    for row in rows:
        told.append(row)
        if not as_json:
            print(f"{'ok  ' if row['ok'] else 'FAIL'} {row['what']:88} {row['figure']:>10.4g} {row['unit']:10} "
                  f"{row.get('needed', '')}", flush=True)
    if as_json:
        print(json.dumps(told))
    raise typer.Exit(0 if told and all(row["ok"] for row in told) else 1)


if __name__ == "__main__":
    app()
