"""What several pages show: the frame with its links, warnings, and numbers in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.shared import loaders
from prune_core.latency.profile import ASKED, Profile
from prune_core.runs.run import Run
from prune_core.tasks.glue import NOT_GLUE

STATUS = {"complete": ("green", ":material/check:"), "running": ("blue", ":material/autorenew:"),
          "interrupted": ("orange", ":material/pause:"), "unreadable": ("red", ":material/error:")}
PRECISIONS = (ASKED[-1], *ASKED[:-1])  # auto comes first
CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def beside() -> tuple:
    """Two places side by side, one under the other where the window is narrow."""
    row = st.container(horizontal=True, gap="medium")
    return row.container(width=490), row.container(width=490)


def image_format() -> None:
    """In which format the camera over a chart saves it."""
    st.segmented_control("Save charts as", ["png", "svg"], default="png", format_func=str.upper, required=True,
                         key="image", help="Format of the camera button on charts. The map has its own buttons.")


def chart() -> dict:
    """How a chart behaves; its picture is made in the browser."""
    return CHART | {"toImageButtonOptions": {"format": st.session_state.get("image") or "png", "scale": 2}}


# Blocks, some of them cut: drawn here, as a named icon would be fetched from a server on the internet
_BLOCKS = np.array([[1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 1, 1]], np.uint8)
_BLUE, _EACH = np.array([46, 134, 200, 255], np.uint8), np.ones((8, 8, 1), np.uint8)
ICON = Image.fromarray(np.kron(_BLOCKS[..., None] * _BLUE, _EACH))


STYLE, FOLD = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "fold.js"))
# The primary colour as text on its own tint falls short of 4.5 : 1 too
DARK = "[data-testid=stButtonGroup] [data-selected=true] p, [data-testid=stSliderThumbValue] p {color: #E7ECF3}"


def frame(title: str) -> None:
    """The name of a page in the browser, wide layout, and its style."""
    st.set_page_config(page_title=f"{title} · Prunescope", page_icon=ICON, layout="wide")
    st.html(f"<style>{STYLE}{DARK if st.context.theme.type == 'dark' else ''}</style>")


def page(title: str) -> None:
    """Set up a page: its frame, and the links to all pages in the sidebar."""
    frame(title)
    with st.sidebar:
        st.html(f"<script>{FOLD}</script>", unsafe_allow_javascript=True)
        st.page_link("app.py", label="Home", icon=":material/home:")
        st.page_link("pages/1_Prune.py", label="Prune", icon=":material/content_cut:")
        st.page_link("pages/2_Explore.py", label="Explore", icon=":material/grid_on:")
        st.page_link("pages/3_Compare.py", label="Compare", icon=":material/compare_arrows:")
        st.page_link("pages/4_Speed.py", label="Speed", icon=":material/speed:")
        st.page_link("pages/5_Learn.py", label="Learn", icon=":material/school:")
        st.page_link("pages/6_Report.py", label="Report", icon=":material/description:")
        if loaders.read_only():
            st.caption(":material/lock: Read only", help=SHOWING)


SHOWING = ("This copy only shows: it was started with PRUNESCOPE_READ_ONLY, "
           "so nothing can be started, changed or deleted.")


def data_field(placeholder: str, label: str = "Data for exact scores", on_change=None,
               width: int | str = "stretch") -> str:
    """The folder with the tasks' data, asked for once for all pages; read only, it is what the app was started with."""
    if loaders.read_only():
        return loaders.data_folder()
    folder = st.text_input(label, loaders.known_data(), key="data", placeholder=placeholder, persist_state="session",
                           on_change=on_change, width=width,
                           help="A local folder in the layout of nyu-mll/glue. If empty, where the run had it. "
                                "PRUNESCOPE_DATA fills it in from the start, else the newest of your runs.")
    return folder.strip()


def run_of_link(names: Sequence[str], otherwise: Callable[[], str]) -> None:
    """Have the page open the run that its address names, or `otherwise()` where there is none: `said_of_link` says it.

    The widget has no default of its own: the address then always names the run.
    """
    wanted = st.query_params.get("run")
    if wanted in names:
        return
    st.session_state["run"] = otherwise()
    if wanted:
        st.session_state["no such run"] = (wanted, st.session_state["run"])


def said_of_link() -> None:
    """One line, where the address named a run that is not here, while the one shown instead is shown."""
    wanted, shown = st.session_state.get("no such run") or ("", "")
    if not wanted:
        return
    if st.session_state.get("run") == shown:
        st.info(f"There is no run {code(wanted[:80])} here; showing **{plain(shown)}** instead.",
                icon=":material/link_off:")
    else:
        del st.session_state["no such run"]


def not_glue(run: Run) -> None:
    """Say, wherever a score of this run is shown, that it is no GLUE score, if it is none."""
    if run.is_practice:
        st.warning(f"Scores of **{plain(run.name)}** are on the {NOT_GLUE}.", icon=":material/science:")


def warnings(run: Run) -> None:
    """What one must know who reads this run's scores."""
    not_glue(run)
    for warning in run.warnings:
        st.warning(plain(warning), icon=":material/warning:")


def badge(status: str) -> None:
    """The status of a run, in its colour."""
    colour, icon = STATUS[status]
    st.badge(status, icon=icon, color=colour)


def facts(run: Run) -> str:
    """'sst2 · minilm · block 64x1 · 6 layers': what was pruned, and how it was cut."""
    layers = len({m.layer for m in run.layout.matrices})
    data = "practice set (not GLUE)" if run.is_practice else f"{run.task} (own data)" if run.is_own else run.task
    return plain(f"{data} · {run.config.model} · block {run.layout.block} · {layers} layers")


def session() -> str:
    """Which of the open tabs this is."""
    context = get_script_run_ctx()
    return context.session_id if context else ""


def score(value: float | None) -> str:
    """A score with three digits, or a dash where there is none yet."""
    return "–" if value is None else f"{value:.3f}"


def large(value: float | None) -> str:
    """A number of any size, with about four digits: '116,100', '3.142'."""
    return "–" if value is None else f"{float(f'{value:.4g}'):,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def times(value: float | None) -> str:
    """A compression: '2.00x'."""
    return "–" if value is None else "all cut" if value == float("inf") else f"{value:.2f}x"


def duration(seconds: float | None) -> str:
    """'40 s', '12 min', '1 h 05 min'."""
    if seconds is None:
        return "unknown"
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def mark(profile: Profile) -> str:
    """What stands on a number predicted for another machine: 'on AMD EPYC, not this machine'; '' for this one's."""
    return profile.elsewhere(loaders.this_machine())


def marked(speedup: float | None, profile: Profile, digits: int = 1) -> str:
    """A predicted speedup: '2.9x', with the machine where it is not for this one."""
    return "–" if speedup is None else f"{speedup:.{digits}f}x {mark(profile)}".strip()


def calibrated() -> bool:
    """Whether this machine was."""
    return next(iter(loaders.profiles()), "").startswith("this machine")


def code(text: str) -> str:
    """Text from outside as code: nothing in it ends the span."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def plain(text: str) -> str:
    """Text from outside, shown as it is: what markdown would read as marks is escaped."""
    return "".join("\\" + sign if sign in "\\`*_{}[]<>#$~|:" else sign for sign in text)


def data() -> str:
    """The folder that was said; '' for where the run had it."""
    if loaders.read_only():
        return loaders.data_folder()
    return str(st.session_state.get("data", loaders.known_data()) or "").strip()


def device_option() -> list[str]:
    """The option of a command that computes: the device that was said on the Prune page; [] for the app's own."""
    said = st.session_state.get("device said", "")
    return [f"--device={said}"] if said else []


def download(label: str, table: pd.DataFrame, file: str) -> None:
    """A link that gives this table as a CSV file."""
    st.download_button(label, table.to_csv(index=False), file, "text/csv", icon=":material/download:",
                       on_click="ignore", type="tertiary")
