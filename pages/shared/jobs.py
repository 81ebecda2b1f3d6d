"""Buttons with a time: each starts a command as a process of its own, shows how it goes, and why it failed.

A job is known by its log in <runs dir>/.logs, so it is found again after a reload, in another tab, or by another app.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from pages.shared import loaders, processes, widgets
from prune_core import InputError
from prune_core.latency.profile import Batch
from prune_core.runs import best, shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.stages import DENSE

SECONDS = 2.0  # between two looks at a process
LOADING = 15.0  # seconds until the libraries, the weights and the sentences are there
CALIBRATION = 360.0  # that it takes at most: on two cores
EXPLORE = "pages/2_Explore.py"


# ---------------------------------------------------------------- a command


def job(key: str, label: str, seconds: float | None, arguments: Sequence[str], help: str | None = None,  # noqa: A002
        kind: str = "secondary") -> None:
    """A button that starts `python -m prune_core` with these arguments; while it runs, how far it is, and Cancel.

    `key`: one for each thing that can be made; `seconds` that it takes, about; `kind`: as a button's type. When the
    command ends the page is drawn anew; where it failed its error line stands there.
    """
    if loaders.read_only():
        st.caption(f"{label}: not in this copy, which only shows.")
        return
    name, runs_dir = _name(key), loaders.runs_dir()
    running = processes.starting(name, runs_dir) is not None
    st.fragment(_command, run_every=SECONDS if running else None)(name, label, seconds, tuple(arguments), help, kind,
                                                                  running)


def answer(key: str) -> dict | None:
    """What the command of this key said last as JSON, also where nothing else could be written; None: nothing."""
    return processes.answer(_name(key), loaders.runs_dir())


def _name(key: str) -> str:
    """What its log is called: no name that a run is given by chance."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", key).strip("-")[:44]
    return f"job-{slug}-{zlib.crc32(key.encode()):08x}"


def _command(name: str, label: str, seconds: float | None, arguments: Sequence[str], help_: str | None, kind: str,
             before: bool) -> None:
    """The body of the fragment. When the process has ended, or another session has started it, all is drawn anew."""
    runs_dir = loaders.runs_dir()
    process = processes.starting(name, runs_dir)
    if (process is not None) != before:
        st.rerun()
    if process is not None:
        bar(label, *_how_far(processes.last_line(name, runs_dir), time.time() - process.create_time(), seconds))
        if st.button("Cancel", icon=":material/stop:", key=f"cancel {name}"):
            processes.cancel(name, runs_dir)
            processes.forget(name, runs_dir)
            st.rerun()
        return
    if why := processes.failure(name, runs_dir):
        st.error(widgets.plain(why), icon=":material/error:")
    if button("Try again" if why else label, seconds, f"start {name}", help_, kind):
        try:
            processes.launch(arguments, name, runs_dir)
        except OSError as error:
            st.error(widgets.plain(f"It cannot be started: {error.strerror or error}"), icon=":material/error:")
            return
        st.rerun()


def button(label: str, seconds: float | None, key: str, help_: str | None = None, kind: str = "secondary") -> bool:
    """'Make the weights (about 27 min)': whether it was pressed."""
    took = f" (about {widgets.duration(seconds)})" if seconds else ""
    return st.button(label + took, icon=":material/play_arrow:", key=key, help=help_, type=kind)


def bar(label: str, share: float, words: str) -> None:
    """How far something is: a bar with what is made and the time left."""
    st.progress(share, text=widgets.plain(f"{label}: {words}"))


def _how_far(said: str, elapsed: float, seconds: float | None) -> tuple[float, str]:
    """(share done, in words): what the command says of itself, else by the time that it was thought to take."""
    if step := re.match(r"(\d+)%\|.*\| (.+)", said):
        return min(1.0, int(step[1]) / 100), f"{int(step[1])}%, {step[2]}".replace(", ? left", "")
    so_far = f"{widgets.duration(elapsed)} so far"
    if not seconds:
        return 0.0, so_far
    left = seconds - elapsed
    return min(0.95, elapsed / seconds), f"about {widgets.duration(left)} left" if left > 1 else f"{so_far}, soon done"


# ---------------------------------------------------------------- what can be recorded of a stage


def seconds_of(run: Run, stage: str, scores: int, of_repair: float = 0.0) -> float:
    """About how long so many exact scores of a stage take here: as the last one took, else by the latency profile.

    `of_repair`: seconds that a repair before each takes.
    """
    took = [result["seconds"] for question, result in st.session_state.get("exact scores", {}).items()
            if question.run == str(run.path) and result["seconds"] > 0.1]
    profile, examples = loaders.usual_profile(), run.snapshots[run.saved(stage)].examples or 1000
    one = took[-1] if took else (
        profile.dense_ms(run.layout, Batch(32, 32)) / 32 * examples / 1000 if profile else examples / 300)
    return LOADING + scores * (one + of_repair)


def command(run: Run, stage: str, name: str, *options: str) -> list[str]:
    """The arguments of a command that records something of a stage, on the data that was said."""
    data = [f"--data={widgets.data()}"] if widgets.data() else []
    return [name, run.name, f"--phase={stage}", *options, *data, *widgets.device_option(),
            f"--runs-dir={loaders.runs_dir()}", "--json"]


# ---------------------------------------------------------------- weights


def weights(run: Run, label: str = "Make the weights") -> None:
    """Makes a run again whose weights are not there, among the user's runs, and opens it when it is done."""
    if loaders.read_only():
        st.caption(f"{label}: not in this copy, which only shows.")
        return
    config = again(run, widgets.data())
    made = next((entry.run for entry in loaders.listed() if entry.run and not entry.run.recorded
                 and entry.run.name != run.name and _alike(entry.run, run, config)), None)
    name = made.name if made else shelf.free_name(f"{run.name[:50]}-again", loaders.runs_dir())
    state = state_of(name)
    st.fragment(_weights, run_every=SECONDS if state in ("starting", "running") else None)(run, config, name, label,
                                                                                        state)


def again(run: Run, data: str) -> PruneConfig:
    """The settings that make it again, on the data folder that was said.

    From the dense weights that it started from, where they are here; else those are fine-tuned anew.
    """
    config = run.config
    try:
        there = bool(config.start_from) and shelf.find(config.start_from, loaders.runs_dir()).has_weights(DENSE)
    except RunError:
        there = False
    return replace(config, data=data or config.data, start_from=config.start_from if there else None)


def _alike(one: Run, run: Run, config: PruneConfig) -> bool:
    """Whether `one` is this run made again: by these settings, on its task and not on the practice set instead."""
    return one.task == run.task and replace(one.config, data=config.data) == config


def state_of(name: str) -> str:
    """none, starting (no folder yet), running, interrupted, complete, or failed (ended before there was a folder)."""
    alive = processes.starting(name, loaders.runs_dir()) is not None
    try:
        status = loaders.run(name).status
    except RunError:
        return "starting" if alive else "failed" if processes.launched(name, loaders.runs_dir()) else "none"
    return "starting" if status == "interrupted" and alive else status


def _weights(run: Run, config: PruneConfig, name: str, label: str, before: str) -> None:
    """The body of the fragment: the button, how far the new run is, or the way to it."""
    runs_dir, state = loaders.runs_dir(), state_of(name)
    if state == "complete":
        if before in ("starting", "running"):
            st.switch_page(EXPLORE, query_params={"run": name})
        st.page_link(EXPLORE, label=f"Open {name}, which has them", icon=":material/grid_on:",
                     query_params={"run": name})
        return
    if state != before:
        st.rerun()
    if state in ("starting", "running"):
        bar(label, *_of_run(name, state))
        if st.button("Cancel", icon=":material/stop:", key=f"cancel {name}", help="It can be resumed."):
            processes.cancel(name, runs_dir)
        return
    if (why := processes.failure(name, runs_dir)) and f"resume {name}" not in why:
        st.error(widgets.plain(_for_pages(why)), icon=":material/error:")
    total = (run.result or {}).get("seconds")
    left = loaders.run(name).now.get("seconds_left") if state == "interrupted" else total
    words = "Resume" if state == "interrupted" else "Try again" if state == "failed" else label
    if button(words, left, f"weights {name}", _what_it_does(run, config, name)):
        try:
            if state == "interrupted":
                processes.resume(name, runs_dir)
            else:
                processes.start(config, name, runs_dir, *widgets.device_option())
        except (InputError, OSError) as error:
            st.error(widgets.plain(str(error)), icon=":material/error:")
            return
        st.rerun()


def _for_pages(why: str) -> str:
    """An error line without the option that a command takes: here there is a field for it."""
    why, script, _ = why.partition("; for GLUE give --data")
    return why + ". Say in the sidebar where a folder with GLUE is." * bool(script)


def _what_it_does(run: Run, config: PruneConfig, name: str) -> str:
    start = f"from the dense weights of {config.start_from}" if config.start_from else (
        "its dense weights fine-tuned first, which takes longer" if run.config.start_from else "from its checkpoint")
    return f"Trains this run again as your run {name}, {start}, and opens it. You can go on meanwhile."


def _of_run(name: str, state: str) -> tuple[float, str]:
    """(share done, in words) of the run that is being made, as its process last said."""
    runs_dir = loaders.runs_dir()
    if state == "starting":
        return processes.download(name, runs_dir) or (0.0, "loading the libraries, the model and the data …")
    now = loaders.run(name).now
    step, steps = now.get("step") or 0, now.get("steps") or 1
    left = now.get("seconds_left")
    words = f"{now.get('phase', '')}, step {step:,} of {steps:,}"
    return min(1.0, step / steps), words + (f", about {widgets.duration(left)} left" if left is not None else "")


def with_weights(run: Run) -> str | None:
    """The stage to go to where the one in view has no weights; None where no stage that is shown has."""
    stage = best.opening(run)
    return stage if stage is not None and run.has_weights(stage) else None
