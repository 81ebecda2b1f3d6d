"""Speed: what a cut saves in time, predicted at once from this machine's calibration, and measured on request."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.shared import jobs, loaders, widgets
from pages.shared.processes import Failed
from pages.shared.widgets import download
from prune_core import InputError
from prune_core.cutting import masks
from prune_core.cutting.masks import BlockMask, mask_at_sparsity, sparsity_of
from prune_core.latency import apart, profile_files
from prune_core.latency.profile import Batch, Profile
from prune_core.runs import best
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.showing import figures

BATCHES, LENGTHS = (1, 8, 32, 128), (16, 32, 64, 128)
CALIBRATION = 240.0  # seconds that it takes, about: on two cores
PAIR = ["compression_encoder", "predicted_speedup"]  # columns of the CSV files


def main() -> None:
    widgets.page("Speed")
    st.title("Speed", anchor=False)
    st.caption("A pruned matrix is only faster if the removed weights are really skipped. The **compact** model does "
               "that: strips with their kept columns in a kernel of its own, dead neurons and heads taken out, no "
               "padding. It is compared with the **dense** model in torch, fp32.")
    names = list(dict.fromkeys(entry.name for entry in loaders.listed() if entry.run and entry.run.stages))
    if not names:
        st.info("There are no recorded runs yet. Start one on the **Prune** page.")
        return
    with st.sidebar:
        profiles = loaders.profiles()
        run, stage, setting, profile = chosen(names, profiles)
        widgets.image_format()
    widgets.said_of_link()
    if not loaders.read_only():
        calibration(bool(profiles) and next(iter(profiles)).startswith("this machine"))
    if profile is None:
        st.info("Predictions need a latency profile"
                + (", and this copy, which only shows, has none." if loaders.read_only()
                   else ". **Calibrate this machine** above; it takes a few minutes, once."))
        return
    try:
        draw(run, stage, setting, profile)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")


def chosen(names: list[str], profiles: dict[str, Profile]) -> tuple[Run, Stage, Batch, Profile | None]:
    """Run, stage, batch size and sentence length, and whose latency profile to predict with."""
    widgets.run_of_link(names, lambda: loaders.first(names))
    run = loaders.run(st.selectbox("Run", names, None, key="run", bind="query-params"))
    stages = run.stages
    first = best.opening(run) or stages[-1]
    if st.session_state.get("phase", first) not in stages:
        del st.session_state["phase"]
    stage = st.selectbox("Stage", stages, stages.index(first), key="phase", bind="query-params",
                         help="Whose block norms decide what is cut.")
    batch = st.segmented_control("Sentences in a batch", BATCHES, default=32, required=True,
                                 key="batch", bind="query-params")
    length = st.segmented_control("Tokens in a sentence", LENGTHS, default=128, required=True,
                                  key="length", bind="query-params")
    name = st.selectbox("Latency profile", list(profiles), key="profile",
                        help="Predictions are for the machine that was calibrated.") if profiles else None
    if not loaders.read_only():
        with st.popover("Import timings", icon=":material/upload_file:"):
            load_profile()
    return run, stage, Batch(batch, length), profiles.get(name)


def load_profile() -> None:
    """Take in a profile that `calibrate --to FILE` wrote elsewhere; it is kept for the next time."""
    st.markdown("Timings of another device, made there and saved as a file.",
                help="In a terminal on the other device: `prunescope calibrate --to FILE`")
    if file := st.file_uploader("Latency profile", "json", key="profile file", max_upload_size=1):
        try:
            before, profile = len(loaders.profiles()), profile_files.keep(file.getvalue())
        except InputError as error:
            st.error(widgets.plain(str(error)), icon=":material/error:")
            return
        if len(loaders.profiles()) != before:
            st.rerun()
        st.success(f"Choose **{widgets.plain(str(profile.machine.get('cpu')))}** above.", icon=":material/check:")


def calibration(done: bool) -> None:
    """The button that calibrates this machine, and how far that is."""
    jobs.job("calibration of this machine", "Calibrate again" if done else "Calibrate this machine", CALIBRATION,
             ["calibrate", "--json"], "Times random encoders under random masks. Best while nothing else runs.",
             "tertiary" if done else "primary")


def draw(run: Run, stage: Stage, setting: Batch, profile: Profile) -> None:
    """Numbers at the chosen sparsity, the curve, the layers, batches and block shapes."""
    at, scope = run.saved(stage), run.config.scope
    share = chosen_share(run, stage)
    mask = mask_at_sparsity(loaders.norms(run, at), run.layout, share, scope)
    dense, compact = profile.dense_ms(run.layout, setting), profile.compact_ms(mask, setting, run.heads)
    predicted(mask, setting, profile, dense, compact)
    mine = measure_now(run, stage, share, setting, dense / compact)
    pairs = loaders.speedups(run, at, scope, profile, setting)
    beside = st.container(horizontal=True, gap="medium")  # wraps where the window is narrow
    left, right = beside.container(width=470), beside.container(width=470)
    with left:
        curve(f"{run.name}-{stage}", pairs, (mask.compression_encoder, dense / compact), mine)
    with right:
        layers(f"{run.name}-{stage}", profile.layers_ms(mask, setting, run.heads),
               next((m["layers_ms"] for m in reversed(mine) if abs(m["sparsity"] - mask.sparsity) < 0.002), ()))
    batches, shapes = st.tabs(["By batch", "By block shape"], key="view", bind="query-params")
    if batches.open:
        with batches:
            by_batch(run, stage, profile, setting)
    if shapes.open:
        with shapes:
            by_shape(run, stage, profile, setting)


def chosen_share(run: Run, stage: Stage) -> float:
    """The share of every scope key that makes the sparsity which the slider says, of what is not zero already.

    The slider begins at the share that is zero already, and follows run and stage.
    """
    at, scope, state = run.saved(stage), run.config.scope, st.session_state
    norms = loaders.norms(run, at)
    zeros = masks.zero_share(norms, run.layout)
    least = min(99.0, round(100 * zeros, 1))
    reached = run.snapshots[at].point["sparsity"] or sparsity_of(run.config.compressions[0])
    reached = max(least, round(100 * reached, 1))
    most = max(95.0, least + 0.5)
    if state.get("sparsity of", (run.name, stage)) != (run.name, stage):
        state.pop("sparsity", None)
        st.query_params.pop("sparsity", None)
    state["sparsity of"] = (run.name, stage)
    asked = _number(st.query_params.get("sparsity")) if "sparsity" not in state else None
    if asked is not None and asked < least:
        st.query_params.pop("sparsity", None)
        state["lifted"] = (run.name, stage, asked)
    begin = least if state.get("lifted", ())[:2] == (run.name, stage) else min(reached, most)
    share = st.slider("Sparsity", least, most, begin, 0.1, format="%.1f%%", key="sparsity", bind="query-params")
    lifted = state.get("lifted", ("", "", 0))
    if zeros > 5e-4:
        st.caption(f"{least:.1f}% already zero at {widgets.plain(stage)}" + (
            f": less cannot be had, so the link's {lifted[2]:.1f}% is shown as {least:.1f}%."
            if lifted[:2] == (run.name, stage) and share == least else ". The slider begins there."))
    return masks.share_giving(norms, run.layout, zeros if share == least and zeros else share / 100, scope)


def _number(text: str | None) -> float | None:
    """What a link says; None where it is no number."""
    try:
        return float(text) if text else None
    except ValueError:
        return None


def predicted(mask: BlockMask, setting: Batch, profile: Profile, dense: float, compact: float) -> None:
    """The predicted milliseconds and speedup as numbers, for what and how sure they are."""
    with st.container(horizontal=True, gap="small"):
        for label, value in (("Sparsity", f"{mask.sparsity:.1%}"),
                             ("Encoder compression", widgets.times(mask.compression_encoder)),
                             ("Dense, predicted", f"{dense:.1f} ms"), ("Compact, predicted", f"{compact:.1f} ms"),
                             ("Predicted speedup", widgets.times(dense / compact))):
            st.metric(label, value, border=True, width=178)
    st.caption(f"{setting.batch} sentences of {setting.length} tokens, {profile.threads} threads on "
               f"{widgets.plain(str(profile.machine.get('cpu')))}, fp32; blocks ranked by norm. "
               f"Median prediction error {profile.error:.0%} (dense {profile.error_dense:.0%}) on "
               f"{profile.masks} held-out masks.")


def curve(name: str, pairs: list[tuple[float, float]], present: tuple[float, float], measured: list[dict]) -> None:
    """Speedup over compression: predicted, at the chosen sparsity, measured; `name` begins that of the CSV."""
    st.markdown("**Speedup over compression**")
    marks = [(m["compression_encoder"], m["speedup"]) for m in measured]
    st.plotly_chart(figures.speedup_curve({"predicted": pairs}, here=present, measured=marks), key="curve",
                    config=widgets.chart(), alt="Predicted speedup over encoder compression, with a proportional line")
    st.caption(break_even(pairs))
    download("Speedups (CSV)", pd.DataFrame(pairs, columns=PAIR), f"{name}-speedups.csv")


def layers(name: str, predicted: list[tuple[int, float, float]], measured: list[tuple[int, float, float]]) -> None:
    """(layer, dense ms, compact ms) of every layer as bars, predicted and, where they are there, measured."""
    st.markdown("**Where the time goes, layer by layer**")
    st.plotly_chart(figures.layer_latency(predicted, measured), key="layers", config=widgets.chart(),
                    alt="Milliseconds of every layer, dense and compact, predicted and measured")
    if not measured and not loaders.read_only():
        st.caption("**Measure now** adds this machine's timings.")
    download("Layers (CSV)", pd.DataFrame(predicted, columns=["layer", "dense_ms", "compact_ms"]), f"{name}-layers.csv")


def break_even(pairs: list[tuple[float, float]]) -> str:
    """From which compression on the compact model is the faster one."""
    slower = [compression for compression, speedup in pairs if speedup < 1]
    if not slower:
        return ("No break-even point: the compact model is predicted to be faster from the first block that is cut. "
                "It can beat the proportional line: attention shrinks with every head that dies, "
                "and the kernels are faster than torch to begin with.")
    return f"Break-even point {max(slower):.2f}x: below it the compact model is predicted to be the slower one."


def measure_now(run: Run, stage: Stage, sparsity: float, setting: Batch, speedup: float) -> list[dict]:
    """The button that measures, and a table of what was measured of this run here, with what was predicted.

    It is kept with the run, so leaving the page loses nothing. What was measured at this stage, batch and length comes
    back.
    """
    measured = st.session_state.setdefault("measured", [])
    if not loaders.read_only() and st.button(
            "Measure now (about 15 s)", icon=":material/timer:",
            help="Times dense and compact in turn, here, in a separate process: two or three times as long on a busy "
                 "machine. It is kept where one leaves the page meanwhile."):
        try:
            with st.spinner("Timing the dense and the compact model in turn …", show_time=True):
                answer = loaders.measured(run, stage, run.config.scope, sparsity, setting)
            profile = loaders.profiles().get(st.session_state.get("profile"))
            why = apart.why(answer, speedup, profile, run.layout) if profile else ""
            measured.append(answer | {"predicted here": speedup, "why": why})
        except Failed as error:
            st.error(widgets.plain(str(error)), icon=":material/error:")
    mine = [m for m in measured if m["run"] == run.name]
    shown = {(m.get("mask"), m.get("when")) for m in mine}
    kept = [m | _foretold(run, m) for m in loaders.timings(run)
            if "layers_ms" in m and (m.get("mask"), m.get("when")) not in shown]
    mine = kept[-20:] + mine
    if mine:
        measurements(run, mine)
    return [m for m in mine if (m["batch"], m["length"], m["phase"]) == (setting.batch, setting.length, stage)]


def _foretold(run: Run, measured: dict) -> dict:
    """What was or is predicted of something measured before, and why the two are apart; {} without a profile."""
    profile = loaders.profiles().get(st.session_state.get("profile"))
    if not profile or measured["phase"] not in run.stages:
        return {}
    norms = loaders.norms(run, run.saved(measured["phase"]))
    mask = mask_at_sparsity(norms, run.layout, measured["sparsity"], run.config.scope)
    setting = Batch(measured["batch"], measured["length"])
    speedup = measured.get("predicted_speedup") or profile.speedup(mask, setting, run.heads)
    return {"predicted here": speedup, "why": apart.why(measured, speedup, profile, run.layout)}


def measurements(run: Run, measured: list[dict]) -> None:
    """A row for each measurement, and their CSV."""
    if why := measured[-1].get("why"):
        st.caption(f":material/help: {widgets.plain(why)}")
    table = pd.DataFrame([{"Stage": m["phase"], "Sparsity": 100 * m["sparsity"], "Batch": m["batch"],
                           "Length": m["length"], "Threads": m["threads"], "Dense (ms)": m["dense_ms"],
                           "Compact (ms)": m["compact_ms"], "Speedup": m["speedup"],
                           "Predicted": m.get("predicted here", m.get("predicted_speedup")),
                           "Executed": ", ".join(m["executed"])} for m in measured])
    ms, times = st.column_config.NumberColumn(format="%.1f"), st.column_config.NumberColumn(format="%.2fx")
    st.dataframe(table, hide_index=True, column_config={
        "Sparsity": st.column_config.NumberColumn(format="%.1f%%"),
        "Dense (ms)": ms, "Compact (ms)": ms, "Speedup": times, "Predicted": times})
    download("Measurements (CSV)", table, f"{run.name}-speed.csv")


def by_batch(run: Run, stage: Stage, profile: Profile, setting: Batch) -> None:
    """The same cuts in batches of other sizes, side by side."""
    lines = {f"batch {batch}": loaders.speedups(run, run.saved(stage), run.config.scope, profile,
                                                Batch(batch, setting.length)) for batch in BATCHES}
    st.plotly_chart(figures.speedup_curve(lines), key="batches", config=widgets.chart(),
                    alt="Predicted speedup for several batch sizes")
    download("Batches (CSV)", long(lines), f"{run.name}-{stage}-batches.csv")


def by_shape(run: Run, stage: Stage, profile: Profile, setting: Batch) -> None:
    """The same task pruned in other block shapes, side by side."""
    alike = [entry.name for entry in loaders.listed() if entry.run and entry.run.task == run.task
             and entry.run.config.model == run.config.model and stage in entry.run.stages]
    lines = {}
    for other in map(loaders.run, alike):
        pairs = loaders.speedups(other, other.saved(stage), other.config.scope, profile, setting)
        lines.setdefault(f"{other.layout.block}", pairs)
    st.plotly_chart(figures.speedup_curve(lines), key="shapes", config=widgets.chart(),
                    alt="Predicted speedup for several block shapes")
    download("Block shapes (CSV)", long(lines), f"{run.task}-{stage}-shapes.csv")
    if len(lines) == 1:
        st.caption(f"Only {next(iter(lines))} has been run on {run.task} so far. "
                   "Prune it in another block shape to compare.")


def long(lines: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    """A row for each point of each line."""
    return pd.DataFrame([(name, *pair) for name, pairs in lines.items() for pair in pairs], columns=["line", *PAIR])


main()
