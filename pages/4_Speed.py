"""Speed: what a cut saves in time, predicted at once from this machine's calibration, and measured on request."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.shared import loaders, processes, widgets
from pages.shared.processes import CALIBRATION, Failed
from pages.shared.widgets import download
from prune_core import InputError
from prune_core.cutting.masks import mask_at_sparsity, sparsity_of
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch, Profile
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.showing import figures

BATCHES, LENGTHS = (1, 8, 32, 128), (16, 32, 64, 128)


def main() -> None:
    widgets.page("Speed")
    st.title("Speed", anchor=False)
    st.caption("A pruned matrix is only faster if nothing but what is kept is executed. Here the **compact** model does that: strips with their "
               "kept columns in a kernel of its own, dead neurons and heads taken out, no padding. It is compared with the **dense** model in torch, fp32.")
    names = list(dict.fromkeys(one.name for one in loaders.listed() if one.run and one.run.stages))
    if not names:
        st.info("There are no recorded runs yet. Start one on the **Prune** page, or in a terminal: `python -m prune_core prune`.")
        return
    with st.sidebar:
        profiles = loaders.profiles()
        run, phase, setting, profile = chosen(names, profiles)
        widgets.image_format()
    if not loaders.read_only():
        calibration(bool(profiles) and next(iter(profiles)).startswith("this machine"))
    if profile is None:
        st.info("Predictions need times from a machine" + (": `python -m prune_core calibrate`, before this copy is started to show." if loaders.read_only()
                                                           else ". **Calibrate this machine** above; it takes a few minutes, once."))
        return
    try:
        draw(run, phase, setting, profile)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")


def chosen(names: list[str], profiles: dict[str, Profile]) -> tuple[Run, str, Batch, Profile | None]:
    """Run, end of a phase, batch and length, and whose times to predict with."""
    if st.query_params.get("run") not in names:
        st.session_state["run"] = next((name for name in names if loaders.run(name).status == "complete"), names[0])
    run = loaders.run(st.selectbox("Run", names, None, key="run", bind="query-params"))
    ends = run.stages
    first = next((stage for stage in ends if stage.kind == "penalty"), ends[-1])  # the longest curve of trained norms
    if st.session_state.get("phase", first) not in ends:
        del st.session_state["phase"]
    phase = st.selectbox("Norms from the end of", ends, ends.index(first), key="phase", bind="query-params")
    batch = st.segmented_control("Sentences in a batch", BATCHES, default=32, required=True, key="batch", bind="query-params")
    length = st.segmented_control("Tokens of a sentence", LENGTHS, default=128, required=True, key="length", bind="query-params")
    name = st.selectbox("Times from", list(profiles), key="profile", help="Predictions are for the machine that was calibrated.") if profiles else None
    if not loaders.read_only():
        with st.popover("Another device's times", icon=":material/upload_file:"):
            load_profile()
    return run, phase, Batch(batch, length), profiles.get(name)


def load_profile() -> None:
    """Take in a profile that `calibrate --to FILE` wrote elsewhere; it is kept for the next time."""
    st.markdown("Run `python -m prune_core calibrate --to FILE` on the other device, and load the file here.")
    if file := st.file_uploader("Latency profile", "json", key="profile file", max_upload_size=1):
        try:
            before, profile = len(loaders.profiles()), profile_files.keep(file.getvalue())
        except InputError as error:
            st.error(widgets.plain(str(error)), icon=":material/error:")
            return
        if len(loaders.profiles()) != before:
            st.rerun()
        st.success(f"Choose **{widgets.plain(str(profile.machine.get('cpu')))}** above.", icon=":material/check:")


@st.fragment(run_every=2.0)
def calibration(done: bool) -> None:
    """The button that calibrates this machine, and how far that is."""
    going = processes.starting(CALIBRATION, loaders.runs_dir())
    if going:
        st.info(f"Calibrating this machine: {widgets.plain(processes.last_line(CALIBRATION, loaders.runs_dir()))}", icon=":material/timer:")
        st.session_state["calibrating"] = True
        return
    if st.session_state.pop("calibrating", False):
        st.rerun()
    if error := processes.error_line(CALIBRATION, loaders.runs_dir()) if processes.launched(CALIBRATION, loaders.runs_dir()) else "":
        st.error(widgets.plain(error), icon=":material/error:")
    words = "Calibrate again" if done else "Calibrate this machine"
    if st.button(words, icon=":material/timer:", type="tertiary" if done else "primary", help="Times random encoders under random masks for a few "
                 "minutes. Best while nothing else runs."):
        processes.calibrate(loaders.runs_dir())
        st.rerun(scope="fragment")


def draw(run: Run, phase: str, setting: Batch, profile: Profile) -> None:
    """Numbers at the chosen sparsity, the curve, the layers, batches and block shapes."""
    at, scope = run.saved(phase), run.config.scope
    reached = run.snapshots[at].point["sparsity"] or sparsity_of(run.config.compressions[0])
    share = st.slider("Sparsity", 0.0, 95.0, round(200 * reached) / 2, 0.5, format="%.1f%%", key="sparsity", bind="query-params")
    mask = mask_at_sparsity(loaders.norms(run, at), run.layout, share / 100, scope)
    dense, fast = profile.dense_ms(run.layout, setting), profile.compact_ms(mask, setting, run.heads)
    with st.container(horizontal=True, gap="small"):
        for label, value in (("Encoder compression", widgets.times(mask.compression_encoder)), ("Dense, predicted", f"{dense:.1f} ms"),
                             ("Compact, predicted", f"{fast:.1f} ms"), ("Predicted speedup", widgets.times(dense / fast))):
            st.metric(label, value, border=True, width=190)
    st.caption(f"{setting.batch} sentences of {setting.length} tokens, {profile.threads} threads on {widgets.plain(str(profile.machine.get('cpu')))}, fp32. "
               f"Predictions are off by {profile.error:.0%} in the median (dense {profile.error_dense:.0%}), over {profile.masks} masks that were not used "
               "to calibrate (`python -m prune_core calibrate`).")
    mine = measure_now(run, phase, scope, share / 100, setting, dense, fast)
    taken = [(one["compression_encoder"], one["speedup"]) for one in mine]
    timed = next((one["layers_ms"] for one in reversed(mine) if abs(one["sparsity"] - mask.sparsity) < 0.002), ())
    beside = st.container(horizontal=True, gap="medium")  # wraps where the window is narrow
    curve, layers = beside.container(width=470), beside.container(width=470)
    with curve:
        st.markdown("**Speedup over compression**")
        pairs = loaders.speedups(run, at, scope, profile, setting)
        st.plotly_chart(figures.speedup_curve({"predicted": pairs}, here=(mask.compression_encoder, dense / fast), measured=taken), key="curve",
                        config=widgets.chart(), alt="Predicted speedup over encoder compression, with the ideal line")
        st.caption(break_even(pairs))
        download("Speedups (CSV)", pd.DataFrame(pairs, columns=["compression_encoder", "predicted_speedup"]), f"{run.name}-{phase}-speedups.csv")
    with layers:
        st.markdown("**Where the time goes, layer by layer**")
        predicted = profile.layers_ms(mask, setting, run.heads)
        st.plotly_chart(figures.layer_latency(predicted, timed), key="layers", config=widgets.chart(),
                        alt="Milliseconds of every layer, dense and compact, predicted and measured")
        if not timed:
            st.caption("" if loaders.read_only() else "**Measure now** puts what this machine takes beside it.")
        download("Layers (CSV)", pd.DataFrame(predicted, columns=["layer", "dense_ms", "compact_ms"]), f"{run.name}-{phase}-layers.csv")
    batches, shapes = st.tabs(["By batch", "By block shape"], key="view", bind="query-params")
    if batches.open:
        with batches:
            lines = {f"batch {batch}": loaders.speedups(run, at, scope, profile, Batch(batch, setting.length)) for batch in BATCHES}
            st.plotly_chart(figures.speedup_curve(lines), key="batches", config=widgets.chart(), alt="Predicted speedup for several batch sizes")
            download("Batches (CSV)", long(lines), f"{run.name}-{phase}-batches.csv")
    if shapes.open:
        with shapes:
            by_shape(run, phase, profile, setting)


def break_even(pairs: list[tuple[float, float]]) -> str:
    """From which compression on the compact model is the faster one."""
    slower = [compression for compression, speedup in pairs if speedup < 1]
    if not slower:
        return ("Break-even: none to mark; the compact model is predicted to be faster from the first block that is cut. More than the ideal is "
                "possible: attention shrinks with every head that dies, and the kernels are faster than torch to begin with.")
    return f"Break-even: below {max(slower):.2f}x the compact model is predicted to be slower than the dense one."


def measure_now(run: Run, phase: str, scope: str, sparsity: float, setting: Batch, dense: float, fast: float) -> list[dict]:
    """The button that measures, a table of all that was measured in this session; those at this phase, batch and length."""
    taken = st.session_state.setdefault("measured", [])
    if not loaders.read_only() and st.button("Measure now", icon=":material/timer:", help="Times dense and compact in turn, here, in a process of its "
                                             "own: about 15 seconds."):
        try:
            with st.spinner("Timing the dense and the compact model in turn …", show_time=True):
                found = loaders.measured(run, phase, scope, sparsity, setting)
            taken.append(found | {"predicted here": dense / fast})
        except Failed as error:
            st.error(widgets.plain(str(error)), icon=":material/error:")
    mine = [one for one in taken if one["run"] == run.name]
    if mine:
        table = pd.DataFrame([{"Phase": o["phase"], "Sparsity": o["sparsity"], "Batch": o["batch"], "Length": o["length"], "Threads": o["threads"],
                               "Dense (ms)": o["dense_ms"], "Compact (ms)": o["compact_ms"], "Speedup": o["speedup"],
                               "Predicted": o["predicted here"], "Executed": ", ".join(o["executed"])} for o in mine])
        times = st.column_config.NumberColumn(format="%.2fx")
        st.dataframe(table, hide_index=True, column_config={"Sparsity": st.column_config.NumberColumn(format="percent"), "Speedup": times, "Predicted": times,
                     **{f"{w} (ms)": st.column_config.NumberColumn(format="%.1f") for w in ("Dense", "Compact")}})
        download("Measurements (CSV)", table, f"{run.name}-speed.csv")
    return [o for o in mine if (o["batch"], o["length"], o["phase"]) == (setting.batch, setting.length, phase)]


def by_shape(run: Run, phase: str, profile: Profile, setting: Batch) -> None:
    """The same task pruned in other block shapes, side by side."""
    lines = {}
    for one in loaders.listed():
        if one.run and one.run.task == run.task and one.run.config.model == run.config.model and phase in one.run.stages:
            other = loaders.run(one.name)
            lines.setdefault(f"{other.layout.block}", loaders.speedups(other, other.saved(phase), other.config.scope, profile, setting))
    st.plotly_chart(figures.speedup_curve(lines), key="shapes", config=widgets.chart(), alt="Predicted speedup for several block shapes")
    download("Block shapes (CSV)", long(lines), f"{run.task}-{phase}-shapes.csv")
    if len(lines) == 1:
        st.caption(f"Only {next(iter(lines))} has been run on {run.task} so far. Prune it in another block shape to compare.")


def long(lines: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    """A row for each point of each line."""
    return pd.DataFrame([(name, *pair) for name, pairs in lines.items() for pair in pairs], columns=["line", "compression_encoder", "predicted_speedup"])


main()
