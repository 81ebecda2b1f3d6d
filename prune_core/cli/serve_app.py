"""The command that starts the app."""

from __future__ import annotations

import os
import sys

import typer

from prune_core import InputError, files

# All that it does not know itself goes on to Streamlit
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def start_app(context: typer.Context) -> None:
    """Start the app, from any folder. What follows goes to Streamlit: prunescope app --server.port 8502."""
    path = files.PROJECT / "app.py"
    if not path.is_file():
        raise InputError(f"{str(path)!r} is not there: the app runs from Prunescope's own folder; needed: "
                         "`pip install -r requirements.txt` in it")
    # Streamlit reads the settings beside its script as well as those of the folder it is started in. In place of this
    # process, so that Ctrl+C and the exit code are Streamlit's.
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(path), *context.args])
