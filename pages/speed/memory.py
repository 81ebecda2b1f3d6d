"""Speed: how much memory it takes, answering or training, over the length of sentences, against what there is."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from pages.shared import copying, jobs, loaders
from pages.shared.widgets import download
from prune_core.cutting.masks import BlockMask
from prune_core.hardware import memory, sizes
from prune_core.hardware.memory import Way
from prune_core.latency.work import MAX_TOKENS, Batch
from prune_core.runs import needs, origin
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.showing import plans

LENGTHS = (16, 32, 64, 128, 256, 384, 512, 1024, 2048)
SECONDS = 90.0  # that measuring takes: a fresh process for each kind, twice
DOING = ("Answering", "Training")
FORMS = {"Answering": ("dense", "smaller", "compact"), "Training": ("dense", "smaller")}


def view(run: Run, stage: Stage, share: float, mask: BlockMask, setting: Batch) -> None:
    """The chart, what fits, and the button that measures; `share`: of every scope key, that makes `mask`."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        doing = st.segmented_control("What it does", DOING, default=DOING[0], required=True, key="doing",
                                     bind="query-params")
        own = loaders.this_machine()["memory"] / 1e9
        limit = 1000 * st.number_input(
            "Memory there is (GB)", 0.1, 10_000.0, round(own, 1), 1.0, "%.1f", key="memory limit",
            width=190, help="This machine's, or another device's: a GPU, a phone.")
    training = doing == DOING[1]
    way = needs.way_of(run.config) if training else Way()
    lengths = lengths_of(run, setting)
    lines = {kind: [(length, memory.LIBRARIES + megabytes(run, mask, kind, Batch(setting.batch, length), training))
                    for length in lengths] for kind in FORMS[doing]}
    found = answer(run, doing, setting, mask)
    copying.chart(plans.memory_curve(lines, limit, setting.length, found), key="memory",
                  alt="Memory of the process over the length of sentences, dense and compact, with the limit")
    st.caption(f"Batches of {setting.batch}; {memory.LIBRARIES:,.0f} MB of libraries included. " + fits(lines, limit)
               + said(doing, way))
    if not loaders.read_only():
        jobs.job(key_of(run, doing), "Measure memory", SECONDS, arguments(run, stage, share, setting, doing),
                 "In fresh processes, one after the other, on random sentences.")
    if found:
        st.caption("Measured: " + "; ".join(
            f"{plans.NAMES[kind]} {plans.size(mb)}, predicted {plans.size(predicted_at(lines[kind], length))}"
            for kind, (length, mb) in found.items() if kind in lines) + ".")
    table = pd.DataFrame([(kind, *pair) for kind, pairs in lines.items() for pair in pairs],
                         columns=["kind", "length", "megabytes"])
    download("Memory (CSV)", table, f"{run.name}-{stage}-memory.csv")


def lengths_of(run: Run, setting: Batch) -> list[int]:
    """Those that the checkpoint has positions for, and a batch room."""
    return [length for length in LENGTHS
            if length <= max(setting.length, origin.positions(run)) and length * setting.batch <= MAX_TOKENS]


def megabytes(run: Run, mask: BlockMask, kind: str, batch: Batch, training: bool) -> float:
    """Predicted, of the model alone."""
    dense = needs.sizes_of(run)
    if kind == "compact":
        return memory.peak(memory.compact(dense, mask, run.heads, batch))
    taken = sizes.smaller(dense, mask, run.heads) if kind == "smaller" else dense
    if training:
        return memory.peak(memory.training(taken, batch, needs.way_of(run.config)))
    return memory.peak(memory.answering(taken, batch, Way()))


def fits(lines: Mapping[str, list[tuple[int, float]]], limit: float) -> str:
    """'Of 25.3 GB fits: as it is up to 384 tokens; compact, our pass up to 512 tokens.'"""
    if all(mb <= limit for pairs in lines.values() for _, mb in pairs):
        return f"All that is shown fits into {plans.size(limit)}."
    parts = []
    for kind, pairs in lines.items():
        longest = max((length for length, mb in pairs if mb <= limit), default=None)
        parts.append(f"{plans.NAMES[kind]} " + (f"up to {longest} tokens" if longest else "at no length shown"))
    return f"Of {plans.size(limit)} fits: {'; '.join(parts)}."


def said(doing: str, way: Way) -> str:
    """What one must know of the lines."""
    if doing == DOING[0]:
        return " Compact holds the activations of one block of sentences for each thread, whatever the batch is."
    return (f" As this run trains: {way.attention} attention, {way.precision}"
            + ", a teacher beside it" * bool(way.teacher)
            + ". What training cuts is zero, and still there; without its heads and neurons is what training an "
              "exported model takes. The C library may keep up to half as much again.")


def predicted_at(pairs: list[tuple[int, float]], length: int) -> float:
    return next((mb for at, mb in pairs if at == length), float("nan"))


# ---------------------------------------------------------------- what was measured


def key_of(run: Run, doing: str) -> str:
    return f"memory of {run.name} {doing}"


def arguments(run: Run, stage: Stage, share: float, setting: Batch, doing: str) -> list[str]:
    """The command that measures."""
    return ["memory", run.name, f"--runs-dir={loaders.runs_dir()}", f"--phase={stage}", f"--sparsity={share}",
            f"--batch={setting.batch}", f"--length={setting.length}", *(["--training"] * (doing == DOING[1])), "--json"]


def answer(run: Run, doing: str, setting: Batch, mask: BlockMask) -> dict[str, tuple[int, float]]:
    """Kind -> (length, megabytes of the whole process) as last measured in this batch at this sparsity."""
    told = jobs.answer(key_of(run, doing)) or {}
    same = (told.get("run"), told.get("batch"), told.get("length")) == (run.name, setting.batch, setting.length)
    if not same or abs(told.get("sparsity", -1) - mask.sparsity) > 0.002:
        return {}
    return {row["kind"]: (told["length"], row["measured_mb"] + row["libraries_mb"])
            for row in told["each"] if row["measured_mb"]}
