"""What can be taken away from Explore: the exploration as a notebook, the pruned model as it stands in view."""

from __future__ import annotations

import io
import json
import shlex
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import streamlit as st

from pages.explore.view import View, go, pinned
from pages.shared import copying, jobs, loaders, processes, widgets
from pages.shared.processes import Failed
from prune_core import InputError
from prune_core.cutting.cuts import Cut
from prune_core.precision.formats import as_options
from prune_core.runs import advice
from prune_core.runs.run import Run
from prune_core.runs.settings import MOST, Setting
from prune_core.showing import notebook
from prune_core.tasks.metrics import in_words

FASTER = {
    "hf": "It stores what was cut as zeros, so by itself it is neither smaller nor faster than the dense model. "
          "Compact, with Prunescope or as an ONNX graph, it is faster.",
    "onnx": "It is smaller and faster where whole neurons and heads are gone. Prunescope's own compact model skips "
            "single blocks as well.",
    "packed": "One file that stores only what is kept, in its bits, with index and scales: as small as the bytes "
              "above say. The script beside it, load.py, makes the model of transformers from it."}
FORMS = {"hf": "For transformers (safetensors)", "onnx": "For ONNX Runtime (compact graph)",
         "packed": "Packed (smallest file)"}


def show(run: Run, view: View) -> None:
    """The notebook, then the model."""
    left, right = widgets.beside()
    with left:
        st.markdown("**This exploration as a notebook**")
        pinned = f" and {len(view.pins)} pinned" if view.pins else ""
        st.caption(f"The present setting{pinned}: counts the same numbers again with `prune_core`, shows what is cut "
                   "of each matrix, and computes the exact score where weights and data are there.")
        file = f"{run.name}-{view.label}.ipynb".replace(" ", "-")
        try:
            content = notebook.exploration(run, settings(run, view))
        except InputError as error:  # the size of the word table is not known, say
            st.error(widgets.plain(str(error)), icon=":material/error:")
        else:
            st.download_button("Notebook", content, file, "application/x-ipynb+json", icon=":material/menu_book:",
                               on_click="ignore")
        st.markdown("**A report of it**")
        st.caption("One file to hand out, with the live map: a recommendation, sizes, scores, speedups, what is lost.")
        st.session_state["report settings"] = (run.name, settings(run, view)[:MOST])
        st.session_state["report of"] = run.name
        st.session_state["report dtype"] = view.dtype
        st.page_link("pages/6_Report.py", label="Report of these settings", icon=":material/description:")
    with right:
        st.markdown("**The pruned model**")
        model(run, view)


def settings(run: Run, view: View) -> list[Setting]:
    """The present one and the pinned ones."""
    chosen = [Setting("present", view.at, view.cut)]
    return chosen + [Setting(name, at, cut) for name, at, cut in pinned(run, view)]


def model(run: Run, view: View) -> None:
    """A button that makes it, then one that gives it: it is only made when it is asked for."""
    stage = view.snapshot.saved
    if stage is None or not run.has_weights(stage):
        why = ("Between stages no weights are kept." if stage is None else
               "Its weights are not included; the button above the map makes them.")
        st.caption(f"{widgets.plain(view.label)} cannot be exported. {why}")
        to_stage(run, jobs.with_weights(run))
        return
    words, better = advice.instead(run, stage, view.mask)
    if words:
        st.warning(widgets.plain(words), icon=":material/trending_up:")
        to_stage(run, better.stage if better else None)
    to = st.segmented_control("As", list(FORMS), default="hf", format_func=FORMS.get, required=True, key="take as")
    cut = replace(view.cut, share=None, thresholds=view.thresholds)
    request = (run.name, to, stage, cut, widgets.data(), view.dtype)
    made = st.session_state.get("taken")
    if not made or made[0] != request:
        made = prepared(request)
    with st.expander("The same on a command line", icon=":material/terminal:"):
        st.code(command(run, to, stage, view.cut, view.dtype), language="sh", wrap_lines=True)
    if made:
        _, told, content = made
        st.caption(scored(run, told))
        st.table(sizes(told))
        copying.control("sizes", copying.markdown(sizes(told).reset_index(names="")))
        st.caption(widgets.plain(f"{FASTER[to]} {told.get('note') or ''}".strip()))
        st.download_button(f"Model ({len(content) / 1e6:.0f} MB)", content, f"{run.name}-{stage}-{to}.zip",
                           "application/zip", icon=":material/download:", on_click="ignore")


def command(run: Run, to: str, stage: str, cut: Cut, dtype: str) -> str:
    """What writes this model from a shell."""
    given = (f"--sparsity={cut.share:.12g}" if cut.share is not None else
             f"--threshold={json.dumps(dict(cut.thresholds))}")
    trained = run.trained_formats(stage)
    return shlex.join(["python", "-m", "prune_core", "export", run.name, "FOLDER", f"--to={to}", f"--phase={stage}",
                       f"--scope={cut.scope}", given, *([f"--by={cut.ranking}"] if cut.ranking != "norm" else []),
                       *(as_options(cut.formats, trained) if cut.formats or trained else []),
                       *(["--repair"] if cut.repaired else []), *([f"--dtype={dtype}"] if dtype != "fp32" else [])])


def prepared(request: tuple) -> tuple | None:
    """(request, what `export` told, the zip), made when the button is pressed; None before, and on failure."""
    place = st.empty()  # emptied as soon as there is something to download
    with place.container():
        st.caption("With its card: score with interval, sizes, and how it was made. Takes about ten seconds.")
        if not st.button("Prepare", icon=":material/inventory_2:"):
            return None
    try:
        with st.spinner("Cutting, scoring and writing the model …", show_time=True):
            st.session_state["taken"] = (request, *packed(*request))
    except Failed as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
        return None
    place.empty()
    return st.session_state["taken"]


def to_stage(run: Run, stage: str | None) -> None:
    """The button that has the map show another stage, where there is one to show."""
    if stage in [run.snapshots[at].saved for at in run.with_norms if run.snapshots[at].saved]:
        st.button(f"Go to {stage}", icon=":material/arrow_forward:", key="export another", on_click=go,
                  args=(run, stage))


def scored(run: Run, told: dict) -> str:
    """Compression and score of a model that was made."""
    in_ = f" in {told['executed']['dtype']}" if told["executed"] and told["dtype"] != "fp32" else ""
    score = (f"{in_words(run.metric)} {told['score']:.4f}{in_}" if told["score"] is not None else
             "not scored: the task's data is not there (its folder is asked for in the sidebar)")
    return widgets.plain(f"Encoder {told['compression_encoder']:.2f}x, {score}.")


def sizes(told: dict) -> pd.DataFrame:
    """What it weighs in each form, as a table."""
    rows = {"This folder, on disk": told["folder_bytes"], "The model, dense in fp32": told["bytes_dense"],
            "The model, packed": told["bytes"], "Packed, without its index": told["bytes_without_index"]}
    return pd.DataFrame({"Size": [f"{size / 1e6:.1f} MB" for size in rows.values()]}, index=list(rows))


def packed(name: str, to: str, stage: str, cut: Cut, data: str, dtype: str) -> tuple[dict, bytes]:
    """(what `export` told, the folder as a zip). Raises processes.Failed."""
    with tempfile.TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "model"
        told = processes.export(name, loaders.runs_dir(), to, out, stage, cut, data, dtype)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in [out] if out.is_file() else sorted(out.rglob("*")):
                archive.write(path, Path(f"{name}-{to}") / (path.name if out.is_file() else path.relative_to(out)))
    return told, content.getvalue()
