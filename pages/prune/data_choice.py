"""Where a new run's data comes from: a GLUE folder that is known, and whether the hub has it."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from pathlib import Path

import streamlit as st

from pages.shared import loaders
from prune_core import InputError, files
from prune_core.runs import places
from prune_core.runs.config import PruneConfig
from prune_core.tasks import table_files
from prune_core.tasks.glue import HUB_DATA


def known_folder() -> tuple[str, str]:
    """(a GLUE folder that is there, how it is known): Explore's field, else PRUNESCOPE_DATA, else the newest run's."""
    typed, told = (st.session_state.get("data") or "").strip(), loaders.data_folder()
    if typed and typed != told and Path(typed).is_dir():
        return typed, "from the field on Explore"
    if told and Path(told).is_dir():
        return told, "from PRUNESCOPE_DATA"
    for run in (one.run for one in loaders.listed()):
        if run and run.path.parent != places.RECORDED and not table_files.is_own(run.data) and Path(run.data).is_dir():
            return run.data, f"where run {run.name} had it"
    return "", ""


def keep_upload(name: str, content: bytes) -> Path:
    """A file that was uploaded, kept beside the runs under its own name and its content's, so that runs can be resumed.

    Raises InputError.
    """
    path = loaders.runs_dir() / ".data" / hashlib.sha256(content).hexdigest()[:12] / Path(name).name
    try:
        if not path.exists():
            files.write_whole(path, content)
    except OSError as error:
        raise InputError(f"your file cannot be kept in {str(path.parent)!r}: {error.strerror or error}") from None
    return path


def hub_lacks(config: PruneConfig) -> str:
    """Why the hub's data cannot be had; '' where it can, is not asked for, or is not known yet.

    The page is drawn anew once it is known.
    """
    if config.data != HUB_DATA:
        return ""
    asked = loaders.hub_data(config.task)
    if not asked.done():
        st.fragment(_waiting, run_every=1.0)(asked)
        return ""
    return asked.result()


def _waiting(asked: Future) -> None:
    if asked.done():
        st.rerun()
    st.caption("Asking whether the hub has the data …")
