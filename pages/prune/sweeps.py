"""Sweeps: all cells in one view while they are made, the buttons that cancel and resume them, and a new one."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from pages.prune import new_sweep
from pages.shared import copying, loaders, processes, widgets
from prune_core.runs import sweeps
from prune_core.runs.places import RunError
from prune_core.runs.standing import STATES, Standing, counts, seconds_left, standings

SIGNS = {"complete": "✓", "running": "▶", "interrupted": "‖", "failed": "✕", "waiting": "·"}
COLUMNS = 24  # at most, with a heading each; more flow over several lines
LINKED = 2000  # cells, up to which each is a link with its settings; beyond, a sign


def view() -> None:
    """The sweep that the address names or that was started last, and the form that starts one."""
    names = sweeps.names(loaders.runs_dir())
    if not loaders.read_only():
        with st.expander("New sweep", expanded=not names, icon=":material/add:"):
            new_sweep.form()
    if not names:
        st.info("There is no sweep yet. A sweep makes many runs, each combination of what you choose. "
                + ("This copy only shows." if loaders.read_only() else
                   "Choose above what to combine and press **Start**, or type "
                   "`prunescope sweep --tasks mrpc --methods surgeon,magnitude --seeds 3`."))
        return
    if st.query_params.get("sweep") not in names:
        st.session_state["sweep"] = names[0]
    name = st.selectbox("Sweep", names, None, key="sweep", bind="query-params", width=360) or names[0]
    try:
        asked = loaders.sweep(name)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
        return
    many = len(asked["cells"])
    cells = standings([cell["run"] for cell in asked["cells"]], loaders.runs_dir())
    live = working(name, cells)
    every = 2.0 if many <= 500 else 5.0 if many <= LINKED else 15.0
    st.fragment(shown, run_every=every if live else None)(name, live, [cells])


def working(name: str, cells: Sequence[Standing]) -> bool:
    """Whether anybody works on it, here or elsewhere."""
    starting = processes.starting(new_sweep.log_name(name), loaders.runs_dir())
    return starting is not None or any(cell.state == "running" for cell in cells)


def shown(name: str, before: bool, fresh: list[Sequence[Standing]]) -> None:
    """The body of the fragment. When the state is no longer `before`, the whole page is drawn anew.

    `fresh`: how cells stand, where that was just read; taken once.
    """
    asked, runs_dir = loaders.sweep(name), loaders.runs_dir()
    cells = fresh.pop() if fresh else standings([cell["run"] for cell in asked["cells"]], runs_dir)
    if (live := working(name, cells)) != before:
        st.rerun()
    number = counts(cells)
    progress(name, cells, live)
    with st.container(horizontal=True, vertical_alignment="center"):
        buttons(name, number, live)
        if number["complete"]:
            st.page_link("pages/3_Compare.py", label="Compare its results", icon=":material/compare_arrows:",
                         query_params={"cells": name})
    why(name, cells, live)
    st.html(legend(number))
    st.html(grid(asked["cells"], cells))
    if st.toggle("All cells as a table", key="sweep table"):
        table(asked["cells"], cells)


def progress(name: str, cells: Sequence[Standing], live: bool) -> None:
    """How far it is, cells at work counted by their steps, with the time left."""
    number, total = counts(cells), len(cells)
    words = [f"{number['complete']:,} of {total:,} cells complete"]
    words += [f"{number[state]:,} {state}" for state in ("running", "interrupted", "failed") if number[state]]
    if live and sweeps.stopped(name, loaders.runs_dir()):
        words.append("stopping …")
    elif live:
        left = seconds_left(cells, loaders.runs_dir(), max(1, number["running"]))
        words.append(f"about {widgets.duration(left)} left" if left is not None else
                     "the time left is known once the first cells are under way")
    st.progress(min(1.0, sum(cell.share for cell in cells) / total), text=" · ".join(words))


def buttons(name: str, number: Mapping[str, int], live: bool) -> None:
    """What can be done with it."""
    if loaders.read_only():
        return
    if live:
        if st.button("Cancel all", icon=":material/stop:", key="cancel sweep",
                     help="Every cell stops with a checkpoint; all can be resumed.",
                     disabled=sweeps.stopped(name, loaders.runs_dir())):
            sweeps.stop(name, loaders.runs_dir())
            st.rerun()
    elif sum(number.values()) > number["complete"] and st.button(
            "Resume", icon=":material/play_arrow:", key="resume sweep", type="primary",
            help="Goes on with what is not complete: broken cells are resumed, failed ones tried again."):
        new_sweep.launch(["sweep", f"--name={name}"], name)
        st.rerun(scope="app")


def why(name: str, cells: Sequence[Standing], live: bool) -> None:
    """What went wrong, in the words of the cells and of the sweep itself."""
    failed = [cell for cell in cells if cell.state == "failed"]
    for cell in failed[:3]:
        st.error(f"{widgets.code(cell.run)}: {widgets.plain(cell.error)}", icon=":material/error:")
    if len(failed) > 3:
        st.caption(f"And {len(failed) - 3:,} more; the table below has their errors.")
    said = processes.failure(new_sweep.log_name(name), loaders.runs_dir())
    if said and not live and not failed and "go on with:" not in said:
        st.error(widgets.plain(said), icon=":material/error:")


# ---------------------------------------------------------------- the grid


def legend(number: Mapping[str, int]) -> str:
    """What the signs mean, and how many there are of each."""
    parts = [f"<span><b class='cell {state}'>{SIGNS[state]}</b> {state} {number[state]:,}</span>" for state in STATES]
    return f"<div class='cells-legend'>{''.join(parts)}</div>"


def grid(asked: Sequence[Mapping], cells: Sequence[Standing]) -> str:
    """A line for each combination of the other settings, across it compressions and seeds; a sign for each cell."""
    many = len(asked) > LINKED
    vary = [key for key in asked[0]["settings"] if len({repr(cell["settings"].get(key)) for cell in asked}) > 1]
    across = [key for key in ("compression", "seed") if key in vary]
    down = [key for key in vary if key not in across]
    lines: dict[str, dict[str, str]] = {}
    heads: dict[str, None] = {}
    for cell, now in zip(asked, cells, strict=True):
        head, line = words(cell["settings"], across), words(cell["settings"], down)
        heads[head] = None
        lines.setdefault(line, {})[head] = sign(cell, now, not many)
    if len(heads) > COLUMNS:
        body = [f"<tr><th>{html.escape(line) or 'all cells'}</th><td class=flow>{''.join(row.values())}</td></tr>"
                for line, row in lines.items()]
        return f"<div class='cells{' many' * many}'><table>{''.join(body)}</table></div>"
    body = [f"<tr><th>{html.escape(line)}</th>{''.join(f'<td>{row.get(head, str())}</td>' for head in heads)}</tr>"
            for line, row in lines.items()]
    return f"<div class='cells{' many' * many}'><table>{headings(list(heads), across)}{''.join(body)}</table></div>"


def headings(heads: Sequence[str], across: Sequence[str]) -> str:
    """What stands over the columns; each compression once over its seeds."""
    parts = [head.split(", ") for head in heads] if across else [[""]]
    lines = []
    for level in range(len(across)):
        row, at = [], 0
        while at < len(parts):
            alike = 1
            while level < len(across) - 1 and at + alike < len(parts) and parts[at + alike][level] == parts[at][level]:
                alike += 1
            row.append(f"<th class=top colspan={alike}>{html.escape(parts[at][level])}</th>")
            at += alike
        lines.append(f"<tr><th></th>{''.join(row)}</tr>")
    return "".join(lines)


def words(settings: Mapping[str, object], keys: Sequence[str]) -> str:
    """'2x, seed 0' or 'mrpc, surgeon'"""
    def word(key: str) -> str:
        value = settings.get(key)
        if key == "compression":
            return "+".join(f"{one:g}x" for one in value)
        return str(value) if key in ("task", "method", "block") else f"{key} {value}"

    return ", ".join(map(word, keys))


def sign(cell: Mapping, now: Standing, linked: bool) -> str:
    """One cell: its sign, which leads to its run."""
    if not linked:
        return f"<i class='cell {now.state}'>{SIGNS[now.state]}</i>"
    told = f"{cell['run']}: {now.state}"
    if now.state == "running":
        told += f", {now.share:.0%}"
    told, run = html.escape(told, quote=True), html.escape(cell["run"], quote=True)
    if now.state in ("waiting", "failed"):
        return f"<i class='cell {now.state}' title='{told}'>{SIGNS[now.state]}</i>"
    return (f"<a class='cell {now.state}' href='?run={run}' target='_self' title='{told}' aria-label='{told}'>"
            f"{SIGNS[now.state]}</a>")


def table(asked: Sequence[Mapping], cells: Sequence[Standing]) -> None:
    """Every cell with its settings, how it stands, and what it has come to."""
    known = {entry.name: entry.run for entry in loaders.listed() if entry.run and not entry.run.recorded}
    rows = []
    for cell, now in zip(asked, cells, strict=True):
        run = known.get(cell["run"])
        scores = [f"{p['compression']:g}x {p['score_retrained']:.3f}" for p in (run.points if run else ())
                  if p["score_retrained"] is not None]
        settings = {key: words(cell["settings"], [key]).removeprefix(f"{key} ") for key in cell["settings"]}
        rows.append({"run": cell["run"], "state": f"{SIGNS[now.state]} {now.state}"} | settings
                    | {"scores": "  ".join(scores), "error": now.error})
    shown_table = pd.DataFrame(rows)
    if not any(now.error for now in cells):
        shown_table = shown_table.drop(columns="error")
    copying.table(shown_table, key="cells")
    widgets.download("Cells (CSV)", shown_table, "sweep.csv")
