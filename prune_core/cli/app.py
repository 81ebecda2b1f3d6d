"""The command line as a table. Bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import typer

from prune_core import InputError, files, out_of_memory
from prune_core.cli import ask, hand_out, keep, plan, report, search, serve_app, sweep, teach, time, train
from prune_core.runs import places


class Row(NamedTuple):
    """A command; one that does not write only reads, and in read-only mode keeps nothing of what it finds."""

    name: str
    function: Callable
    writes: bool  # whether it starts, changes or deletes something
    settings: dict | None = None  # of typer


COMMANDS = (
    Row("prune", train.prune, writes=True),
    Row("resume", train.resume, writes=True),
    Row("compare", train.compare, writes=True),
    Row("sweep", sweep.sweep, writes=True),
    Row("predict", ask.predict, writes=False),
    Row("flips", ask.flips, writes=False),
    Row("export", hand_out.export, writes=False),  # only where it is told to
    Row("report", report.report, writes=False),
    Row("runs", keep.list_runs, writes=False),
    Row("delete", keep.delete, writes=True),
    Row("restore", keep.restore, writes=True),
    Row("evaluate", ask.evaluate, writes=False),
    Row("propose", ask.propose, writes=False),
    Row("search", search.search, writes=True),
    Row("measure", time.measure, writes=False),
    Row("score", ask.score, writes=True),
    Row("sensitivity", ask.sensitivity, writes=True),
    Row("surface", ask.surface, writes=True),
    Row("shapes", time.shapes, writes=False),
    Row("memory", plan.memory, writes=False),
    Row("plan", plan.plan, writes=False),
    Row("calibrate", time.calibrate, writes=True),
    Row("pack", keep.pack_run, writes=True),
    Row("unpack", keep.unpack, writes=True),
    Row("relocate", keep.relocate, writes=True),
    Row("licences", keep.licences, writes=False),
    Row("app", serve_app.start_app, writes=False, settings={"context_settings": serve_app.PASSES_ON}),
    Row("handout", teach.handout, writes=False),  # only where it is told to
    Row("lesson", teach.lesson, writes=False),
    Row("serve", ask.serve, writes=False, settings={"hidden": True}),
)
WRITING = {row.name for row in COMMANDS if row.writes}

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Prune a transformer encoder on a GLUE task by reweighted group Lasso, and keep what happened.")
for row in COMMANDS:
    app.command(row.name, **(row.settings or {}))(row.function)


@app.callback()
def before(context: typer.Context) -> None:
    """In read-only mode, refuse what writes, and keep all else from writing where runs and profiles lie."""
    if os.environ.get("PRUNESCOPE_READ_ONLY"):
        command = context.invoked_subcommand
        if command in WRITING:
            raise InputError(f"PRUNESCOPE_READ_ONLY is set: {command} would start, change or delete something")
        runs_dir = os.environ.get("PRUNESCOPE_RUNS_DIR") or places.RUNS
        files.protect([files.DATA, runs_dir, files.cache_folder() / "profiles"])


def main() -> int:
    """Run the command line; 0, or 2 for bad input, 130 for an interrupted run."""
    try:
        if app(standalone_mode=False) == 130:  # so typer hands on a Ctrl-C
            raise KeyboardInterrupt
        return 0
    except InputError as error:
        message, code = str(error), 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except Exception as error:
        if type(error).__name__ == "Interrupted":
            message, code = str(error), 130
        elif out_of_memory(error):
            message, code = "out of memory; try a smaller batch, or close what else runs", 2
        elif hasattr(error, "format_message"):  # click's own: an unknown option, a missing argument
            message, code = error.format_message(), 2
        else:
            raise
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
