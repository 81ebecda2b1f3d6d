"""Speed: what a cut saves in time, predicted at once from this machine's calibration, and measured on request."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.shared import copying, jobs, loaders, present, widgets
from pages.shared.widgets import PRECISIONS, download
from pages.speed import measurements, memory, plan
from prune_core import InputError
from prune_core.cutting import masks
from prune_core.cutting.masks import BlockMask, mask_at_sparsity, sparsity_of
from prune_core.latency import apart, profile_files
from prune_core.latency.profile import Batch, Profile, not_timed
from prune_core.runs import best
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.showing import canvas, figures

BATCHES, LENGTHS = (1, 8, 32, 128), (16, 32, 64, 128)
PAIR = ["compression_encoder", "predicted_speedup"]  # columns of the CSV files


def main() -> None:
    widgets.page("Speed")
    if not present.on():
        begin()
    names = list(dict.fromkeys(entry.name for entry in loaders.listed() if entry.run and entry.run.stages))
    if not names:
        st.info("There are no recorded runs yet. Start one on the **Prune** page.")
        return
    with st.sidebar:
        profiles = loaders.profiles()
        run, stage, setting, profile = chosen(names, profiles)
        present.switch()
        widgets.image_format()
    present.begin()
    widgets.said_of_link()
    if not loaders.read_only() and not present.on():
        calibration(widgets.calibrated())
    if profile is None:
        if present.on():
            begin()
        st.info("Predictions need a latency profile"
                + (", and this copy, which only shows, has none." if loaders.read_only()
                   else ". **Calibrate this machine** above; it takes a few minutes, once."))
        return
    try:
        draw(run, stage, setting, profile)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")


def begin() -> None:
    """The title, and what the page is about."""
    st.title("Speed", anchor=False)
    st.caption("A pruned matrix is only faster if the removed weights are really skipped. The **compact** model does "
               "that: strips with their kept columns in a kernel of its own, dead neurons and heads taken out, no "
               "padding, all in one pass. Its rival is the **dense** model in the fastest engine that is installed.")


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
    if st.session_state.get("dtype", PRECISIONS[0]) not in PRECISIONS:
        del st.session_state["dtype"]
    st.segmented_control("Precision", PRECISIONS, default=PRECISIONS[0], required=True,
                         key="dtype", bind="query-params",
                         help="The arithmetic of the compact model: **auto** takes the fastest here. One that gains "
                              "nothing on this processor is not taken, and it is said what is.")
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
    jobs.job("calibration of this machine", "Calibrate again" if done else "Calibrate this machine", jobs.CALIBRATION,
             ["calibrate", "--json"], "Times random encoders under random masks. Best while nothing else runs.",
             "tertiary" if done else "primary")


def draw(run: Run, stage: Stage, setting: Batch, profile: Profile) -> None:
    """Numbers at the chosen sparsity, the curve, the layers, batches and block shapes."""
    at, scope, dtype = run.saved(stage), run.config.scope, st.session_state["dtype"]
    heading = st.container()
    share = chosen_share(run, stage)
    mask = mask_at_sparsity(loaders.norms(run, at), run.layout, share, scope)
    speedup = predicted(run, mask, setting, profile, dtype)
    if present.on():
        heading.title(widgets.plain(title(run, mask, speedup)), anchor=False)
    with present.desk("measuring"):
        mine = measurements.measure_now(run, stage, share, setting, dtype, profile)
    pairs = loaders.speedups(run, at, scope, profile, setting, dtype)
    beside = st.container(horizontal=True, gap="medium")  # wraps where the window is narrow
    left, right = (beside.container(width=572 if present.on() else 470) for _ in range(2))
    with left:
        curve(f"{run.name}-{stage}", pairs, (mask.compression_encoder, speedup),
              [(m["compression_encoder"], apart.speedup(m, profile)) for m in mine])
    with right:
        layers(f"{run.name}-{stage}", profile.layers_ms(mask, setting, run.heads, dtype),
               next((m["layers_ms"] for m in reversed(mine)
                     if m.get("layers_ms") and abs(m["sparsity"] - mask.sparsity) < 0.002), ()))
    if present.on():
        return
    batches, shapes, fits, devices = st.tabs(["By batch", "By block shape", "Memory", "Several devices"], key="view",
                                             bind="query-params")
    if batches.open:
        with batches:
            by_batch(run, stage, profile, setting)
    if shapes.open:
        with shapes:
            by_shape(run, stage, profile, setting)
    if fits.open:
        with fits:
            memory.view(run, stage, share, mask, setting)
    if devices.open:
        with devices:
            plan.view(run, stage, share, mask, setting, profile, dtype)


def title(run: Run, mask: BlockMask, speedup: float) -> str:
    """What is seen, in words, for a room: 'SST-2, two thirds of the encoder cut: 2.9 times as fast, predicted'."""
    words = present.share_words(mask.sparsity)
    cut = f"{words} of the encoder cut" if words else "nothing cut"
    return f"{canvas.task_title(run)}, {cut}: {speedup:.1f} times as fast, predicted"


def chosen_share(run: Run, stage: Stage) -> float:
    """The share of every scope key that makes the sparsity which the slider says, of what is not zero already.

    The slider begins at the share that is zero already, and follows run and stage.
    """
    at, scope, state = run.saved(stage), run.config.scope, st.session_state
    norms = loaders.norms(run, at)
    zeros = masks.zero_share(norms, run.layout)
    least = min(99.0, round(100 * zeros, 1))
    reached = run.snapshots[at].blocks or sparsity_of(run.config.compressions[0])
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
    if zeros > 5e-4 and not present.on():
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


def predicted(run: Run, mask: BlockMask, setting: Batch, profile: Profile, dtype: str) -> float:
    """The predicted milliseconds and speedup as numbers, over what and how sure they are; returns the speedup."""
    taken = profile.path_of(dtype, mask, setting, run.heads)
    rival, best_ms = profile.best_rival(run.layout, setting)
    unpruned, speedup = profile.unpruned_ms(run.layout, setting, run.heads, dtype), best_ms / taken.ms
    with st.container(horizontal=True, gap="small"):
        for label, value, under in (
                ("Sparsity", f"{mask.sparsity:.1%}", None),
                ("Encoder compression", widgets.times(mask.compression_encoder), None),
                ("Dense, predicted", f"{best_ms:.1f} ms", rival),
                ("Compact, predicted", f"{taken.ms:.1f} ms", taken.path),
                ("Predicted speedup", widgets.times(speedup),
                 f"over {rival}" if present.on() else widgets.mark(profile) or f"over {rival}")):
            st.metric(label, value, under, delta_color="off", delta_arrow="off", border=True,
                      width=226 if present.on() else 184, height="stretch")
    where = f"Predicted {widgets.plain(widgets.mark(profile))}: " if present.on() and widgets.mark(profile) else ""
    st.caption(" ".join(filter(None, (
        f"{where}{setting.words}, {profile.threads} threads on {widgets.plain(str(profile.machine.get('cpu')))}; "
        f"blocks ranked by norm. Of the speedup {widgets.times(best_ms / unpruned)} is from the pass and "
        f"{widgets.times(unpruned / taken.ms)} from pruning; over dense torch fp32 it is "
        f"{widgets.times(profile.dense_ms(run.layout, setting) / taken.ms)}.",
        f"{taken.dtype} instead of {dtype}: {taken.why}." if taken.why else "",
        f"Median prediction error {profile.paths[taken.path].error:.0%} ({rival} {profile.rivals[rival].error:.0%}) on "
        f"{profile.masks} held-out masks.", not_timed(profile)))))
    return speedup


def curve(name: str, pairs: list[tuple[float, float]], here: tuple[float, float],
          measured: list[tuple[float, float]]) -> None:
    """Speedup over compression: predicted, at the chosen sparsity, measured; `name` begins that of the CSV."""
    st.markdown("**Speedup over compression**")
    copying.chart(figures.speedup_curve({"predicted": pairs}, here=here, measured=measured), key="curve",
                  alt="Predicted speedup over encoder compression, with a proportional line", room=330)
    if not present.on():
        st.caption(break_even(pairs))
    download("Speedups (CSV)", pd.DataFrame(pairs, columns=PAIR), f"{name}-speedups.csv")


def layers(name: str, predicted: list[tuple[int, float, float]], measured: list[tuple[int, float, float]]) -> None:
    """(layer, dense ms, compact ms) of every layer as bars, predicted and, where they are there, measured."""
    st.markdown("**Where the time goes, layer by layer**")
    copying.chart(figures.layer_latency(predicted, measured), key="layers",
                  alt="Milliseconds of every layer, dense and compact, predicted and measured", room=330)
    if not measured and not loaders.read_only():
        st.caption("**Measure now** adds this machine's timings.")
    download("Layers (CSV)", pd.DataFrame(predicted, columns=["layer", "dense_ms", "compact_ms"]), f"{name}-layers.csv")


def break_even(pairs: list[tuple[float, float]]) -> str:
    """From which compression on the compact model is the faster one."""
    slower = [compression for compression, speedup in pairs if speedup < 1]
    if not slower:
        return ("No break-even point: the compact model is predicted to be faster from the first block that is cut. "
                "It can beat the proportional line: attention shrinks with every head that dies, "
                "and our pass can be faster than the best dense engine to begin with.")
    return f"Break-even point {max(slower):.2f}x: below it the compact model is predicted to be the slower one."


def by_batch(run: Run, stage: Stage, profile: Profile, setting: Batch) -> None:
    """The same cuts in batches of other sizes, side by side."""
    at, scope, dtype = run.saved(stage), run.config.scope, st.session_state["dtype"]
    lines = {f"batch {batch}": loaders.speedups(run, at, scope, profile, Batch(batch, setting.length), dtype)
             for batch in BATCHES}
    copying.chart(figures.speedup_curve(lines), key="batches", alt="Predicted speedup for several batch sizes")
    download("Batches (CSV)", long(lines), f"{run.name}-{stage}-batches.csv")


def by_shape(run: Run, stage: Stage, profile: Profile, setting: Batch) -> None:
    """The same task pruned in other block shapes, side by side."""
    alike = [entry.name for entry in loaders.listed() if entry.run and entry.run.task == run.task
             and entry.run.config.model == run.config.model and stage in entry.run.stages]
    lines = {}
    for other in map(loaders.run, alike):
        pairs = loaders.speedups(other, other.saved(stage), other.config.scope, profile, setting,
                                 st.session_state["dtype"])
        lines.setdefault(f"{other.layout.block}", pairs)
    copying.chart(figures.speedup_curve(lines), key="shapes", alt="Predicted speedup for several block shapes")
    download("Block shapes (CSV)", long(lines), f"{run.task}-{stage}-shapes.csv")
    if len(lines) == 1:
        st.caption(f"Only {next(iter(lines))} has been run on {run.task} so far. "
                   "Prune it in another block shape to compare.")


def long(lines: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    """A row for each point of each line."""
    return pd.DataFrame([(name, *pair) for name, pairs in lines.items() for pair in pairs], columns=["line", *PAIR])


main()
