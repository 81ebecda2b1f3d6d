"""Speed: what was measured here: against the best dense engine, and how much of it is our pass and how much pruning."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pandas as pd
import streamlit as st

from pages.shared import copying, jobs, loaders, timings, widgets
from pages.shared.widgets import download
from prune_core import machine
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.latency import apart
from prune_core.latency.profile import TORCH, Batch, Profile
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.showing import figures

SHOWN = 20  # rows of the table


def measure_now(run: Run, stage: Stage, sparsity: float, setting: Batch, dtype: str, profile: Profile) -> list[dict]:
    """The button that measures, what it found for the chosen settings, and a table of all that was measured of the run.

    It is a process of its own whose answer is kept with the run, so leaving the page loses nothing. What comes back
    was measured at this stage, batch, length and dtype.
    """
    key = f"measurement of {run.name}"
    if not loaders.read_only():
        jobs.job(key, "Measure now", timings.seconds(run, setting, profile),
                 [*timings.arguments(run, stage, run.config.scope, sparsity, setting, dtype), "--json"],
                 "It goes on where one leaves the page; on a busy machine it takes two or three times as long.")
        st.caption("Times every dense engine that is installed, the unpruned and the compact model in turn, on "
                   f"{widgets.plain(machine.processor())}, {os.cpu_count()} threads.")
    mine = of_run(run, dtype, jobs.answer(key))
    fitting = [m for m in mine if (m["batch"], m["length"], m["phase"]) == (setting.batch, setting.length, stage)]
    last = next((m for m in reversed(fitting) if abs(m["sparsity"] - sparsity_of(run, stage, sparsity)) < 0.002), None)
    if last and "rivals_ms" in last:
        headline(run, last, profile)
        chart(last)
    if mine:
        table(run, mine[-SHOWN:], profile)
    if on_gpu := timings.on_gpus(run):
        st.caption(widgets.plain(of_gpu(on_gpu[-1])))
    return fitting


def of_gpu(one: Mapping) -> str:
    """What was measured last on a GPU, in words."""
    return (f"On {one['device']['name']}, {one['phase']} at sparsity {one['sparsity']:.2f}, {one['batch']} x "
            f"{one['length']}: compact {one['compact_ms']:.2f} ms against {one['best_rival']} "
            f"{one['rivals_ms'][one['best_rival']]:.2f} ms, {one['speedup_over_best']:.2f} times as fast. "
            f"{one['apart'].capitalize()}".rstrip())


def sparsity_of(run: Run, stage: Stage, share: float) -> float:
    """The sparsity that this share of every scope key makes."""
    norms = loaders.norms(run, run.saved(stage))
    return mask_at_sparsity(norms, run.layout, share, run.config.scope).sparsity


def of_run(run: Run, dtype: str, told: dict | None) -> list[dict]:
    """All that was measured of a run here in this dtype, oldest first; `told`: what may have been told and not kept."""
    kept = timings.timings(run, dtype)
    if told and told.get("run") == run.name and told not in kept and timings.here(told, dtype):
        kept.append(told)
    return kept


# ---------------------------------------------------------------- the last one


def headline(run: Run, m: Mapping, profile: Profile) -> None:
    """Compact against the best dense engine, and what of it is the pass and what pruning."""
    best = m["best_rival"]
    st.markdown(f"**Measured**, {Batch(m['batch'], m['length']).words}, {m['threads']} threads on "
                f"{widgets.plain(m['processor'])}")
    with st.container(horizontal=True, gap="small"):
        for label, value, under in (
                ("Compact", _ms(m["compact_ms"]), executed(m)),
                ("Best dense engine", _ms(m["rivals_ms"][best]), best),
                ("Speedup", widgets.times(m["speedup_over_best"]), f"over {best}"),
                ("From the pass", widgets.times(m["from_pass"]), "dense / unpruned"),
                ("From pruning", widgets.times(m["from_pruning"]), "unpruned / cut"),
                ("Over dense torch", widgets.times(m["speedup"]), TORCH)):
            st.metric(label, value, under, delta_color="off", delta_arrow="off", border=True, width=160,
                      height="stretch")
    said = [f"{name} is left out: {why}." for name, why in m["rivals_left_out"].items()]
    if m["dtype"] not in (m["executed"]["dtype"], "auto"):
        said.insert(0, f"{m['executed']['dtype']} ran, not {m['dtype']}: {m['executed']['why']}.")
    if why := reason(run, m, profile):
        said.insert(0, f":material/help: {widgets.plain(why)}")
    if said:
        st.caption(" ".join(widgets.plain(one) if one[0] != ":" else one for one in said))


def _ms(value: float) -> str:
    """Milliseconds with no more digits than a card has room for."""
    return f"{value:,.{1 if value < 100 else 0}f} ms"


def chart(m: Mapping) -> None:
    """All that was timed in turn, as bars."""
    rows = [(name, ms, "dense") for name, ms in m["rivals_ms"].items()]
    rows += [("unpruned, our pass", m["unpruned_ms"], "unpruned"), ("compact, our pass", m["compact_ms"], "compact")]
    copying.chart(figures.engines(rows, m["compact_ms"]), key="engines",
                  alt="Milliseconds of every dense engine, the unpruned and the compact model, measured in turn")


def executed(m: Mapping) -> str:
    """'bf16 avx512': the path that ran; fp32 for what an older version timed."""
    return m["executed"].get("path", "fp32") if "rivals_ms" in m else "fp32"


# ---------------------------------------------------------------- all of them


def reason(run: Run, m: Mapping, profile: Profile) -> str:
    """Why it is far from what is predicted, as far as that is known; '' where it is near."""
    foretold = predicted(run, m, profile)
    return apart.why(m, foretold, profile, run.layout) if foretold or m["phase"] in run.stages else ""


def table(run: Run, measured: list[dict], profile: Profile) -> None:
    """A row for each measurement, and their CSV, which has every engine's milliseconds as well."""
    foretold = [predicted(run, m, profile) for m in measured]
    rows = pd.DataFrame([{
        "Stage": m["phase"], "Sparsity": 100 * m["sparsity"], "Batch": m["batch"], "Length": m["length"],
        "Threads": m["threads"], "Ran": executed(m), "Compact (ms)": m["compact_ms"],
        "Best dense engine": m.get("best_rival", TORCH), "It takes (ms)": best_ms(m),
        "Speedup": m.get("speedup_over_best", m["speedup"]), "Predicted": value,
        "From the pass": m.get("from_pass"), "From pruning": m.get("from_pruning"),
        "Over torch fp32": m["speedup"], "Unpruned (ms)": m.get("unpruned_ms"),
        "Executed": ", ".join(m["executed"].get("matrices", m["executed"]))}
        for m, value in zip(measured, foretold, strict=True)])
    number = st.column_config.NumberColumn
    times = {name: number(format="%.2fx") for name in ("Speedup", "Predicted", "From the pass", "From pruning",
                                                       "Over torch fp32")}
    ms = {name: number(format="%.1f") for name in rows.columns if name.endswith("(ms)")}
    copying.table(rows, key="measurements", placeholder="–",
                  column_config={"Sparsity": number(format="%.1f%%")} | times | ms)
    engines = pd.DataFrame([{f"{name} (ms)": ms for name, ms in m.get("rivals_ms", {}).items()} for m in measured])
    more = pd.DataFrame([{"Dtype": m["dtype"], "Processor": m.get("processor", m["machine"].get("cpu"))}
                         for m in measured])
    download("Measurements (CSV)", pd.concat([rows, more, engines], axis=1), f"{run.name}-speed.csv")


def best_ms(m: Mapping) -> float:
    """Milliseconds of the best dense engine that was timed."""
    return m["rivals_ms"][m["best_rival"]] if "rivals_ms" in m else m["dense_ms"]


def predicted(run: Run, m: Mapping, profile: Profile) -> float | None:
    """What the chosen profile predicts of something that was measured; else what was predicted at the time."""
    if m["phase"] not in run.stages:
        return m.get("predicted_speedup")
    norms = loaders.norms(run, run.saved(m["phase"]))
    mask = mask_at_sparsity(norms, run.layout, m["sparsity"], run.config.scope)
    return apart.foretold(m, mask, profile, run.heads)
