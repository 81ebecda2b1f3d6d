"""The form that starts a sweep as a process of its own."""

from __future__ import annotations

import os

import streamlit as st

from pages.prune.data_choice import known_folder
from pages.prune.estimate import estimate
from pages.shared import loaders, processes, widgets
from prune_core import InputError
from prune_core.methods import table
from prune_core.runs import sweeps
from prune_core.runs.config import PRESETS
from prune_core.runs.places import RunError, check_name
from prune_core.runs.sweeps import Sweep
from prune_core.tasks.glue import HUB_DATA, TASKS

BLOCKS = ("64x1", "32x1", "16x1", "1x64", "16x16", "allx1", "1xall")


def form() -> None:
    """What to combine, how many cells that makes, and the button that starts them."""
    left, right = st.container(key="halves").columns([3, 2], gap="large")
    try:
        with left:
            name, arguments, sweep = asked()
        with right:
            start(name, arguments, sweep)
    except InputError as error:
        right.error(widgets.plain(str(error)), icon=":material/error:")


def asked() -> tuple[str, list[str], Sweep]:
    """(name, arguments of `sweep`, the sweep itself) as the person chose. Raises InputError."""
    folder, _ = known_folder()
    one, two = st.columns(2)
    axes = {"task": one.multiselect("Tasks", list(TASKS), ["sst2"], key="sweep tasks"),
            "method": two.multiselect("Methods", list(table.variants()), ["surgeon", "magnitude"], key="sweep methods",
                                      help="As `compare` names them; Compare explains each."),
            "block": one.multiselect("Block shapes", BLOCKS, ["64x1"], accept_new_options=True, key="sweep blocks"),
            "compression": two.multiselect("Compressions", ["1.5", "2", "3", "5"], ["2"], accept_new_options=True,
                                           key="sweep compressions",
                                           help="A cell each. 2+3 is one run that has both, after one penalty stage.")}
    seeds = one.number_input("Seeds", 1, 1000, 1, key="sweep seeds", help="0, 1, 2 … : a cell for each.")
    data = two.selectbox("Data", [*filter(None, [folder]), HUB_DATA, "practice"], accept_new_options=True,
                         key="sweep data")
    model = one.selectbox("Model", loaders.models(), accept_new_options=True, key="sweep model")
    preset = two.selectbox("Preset", list(PRESETS), key="sweep preset")
    more = st.text_area("More settings to combine", key="sweep more", height=80, placeholder="distill=0,0.9",
                        help="Any option of `prunescope prune`, one a line: with one value for all cells, or several.")
    once = st.toggle("Fine-tune once", key="sweep once", help="Cells that would fine-tune alike start from the dense "
                                                              "weights of the first of them.")
    name = st.text_input("Sweep name", placeholder="sweep", key="sweep name").strip() or "sweep"
    where = st.text_input("Where", placeholder="local", key="sweep on",
                          help="local: this machine. ray or ray://HOST:10001: a Ray cluster whose nodes see the runs "
                               "folder (docs/sweeps.md).").strip() or "local"
    check_name(name)
    if empty := [axis for axis, values in axes.items() if not values]:
        raise InputError(f"choose at least one {empty[0]}")
    lines = [line.strip() for line in more.splitlines() if line.strip()]
    lines += [f"model={os.path.expanduser((model or '').strip())}", f"data={(data or '').strip()}", f"preset={preset}"]
    typed = {axis: [sweeps.value(axis, text) for text in values] for axis, values in axes.items()}
    typed |= {"seed": list(range(int(seeds)))} | dict(map(_setting, lines))
    arguments = [f"--{axis}s={','.join(values)}" for axis, values in axes.items()]
    arguments += [f"--seeds={int(seeds)}", *(f"--set={line}" for line in lines), *["--dense-once"] * once,
                  f"--name={name}", f"--on={where}", *widgets.device_option()]
    return name, arguments, sweeps.grid(name, typed, dense_once=once)


def _setting(line: str) -> tuple[str, list]:
    """Raises InputError."""
    key, sign, values = line.partition("=")
    if not sign or not values:
        raise InputError(f"setting {line[:60]!r} names no value; needed: for example distill=0,0.9")
    return key.strip(), [sweeps.value(key.strip(), one) for one in values.split(",")]


def start(name: str, arguments: list[str], sweep: Sweep) -> None:
    """How many cells, how long they take, and the start. Raises InputError."""
    found = estimate(sweep.cells[0].config, loaders.listed())
    many = len(sweep.cells)
    with st.container(border=True, gap="small"):
        st.metric("Cells", f"{many:,}")
        each = f"about {widgets.duration(found.seconds)}" if found.seconds else "a time that is known after a minute"
        st.caption(f"Each takes {each}. Here one at a time for every two cores, giving way to all else; finished ones "
                   "are never run again.")
    if found.outlook:
        st.warning(widgets.plain(found.outlook), icon=":material/warning:")
    taken = name in sweeps.names(loaders.runs_dir())
    if taken:
        st.caption(f"There is a sweep {widgets.code(name)}: it is asked for anew, and what is complete stays.")
    if st.button("Start", type="primary", icon=":material/play_arrow:", width="stretch", key="start sweep"):
        launch(["sweep", *arguments], name)
        st.query_params["sweep"] = name
        st.rerun()


def launch(arguments: list[str], name: str) -> None:
    """Start the command; it outlives the app. Raises InputError."""
    if processes.starting(log_name(name), loaders.runs_dir()):
        raise RunError(f"sweep {name!r} is at work; cancel it first")
    try:
        processes.launch([*arguments, f"--runs-dir={loaders.runs_dir()}", "--json"], log_name(name),
                         loaders.runs_dir())
    except OSError as error:
        raise InputError(f"the runs folder cannot be written: {error.strerror or error}") from None


def log_name(name: str) -> str:
    """What the sweep's own process is known by: no name that a run has by chance."""
    return f"sweep--{name}"[:64]
