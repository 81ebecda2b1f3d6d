"""Speed: how several devices would share it, balanced by the latency model, beside the even split."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.shared import copying, jobs, loaders, widgets
from pages.shared.widgets import download
from prune_core import InputError
from prune_core.cutting.masks import BlockMask
from prune_core.hardware import pipelines
from prune_core.hardware.pipelines import Plan, Question
from prune_core.latency.profile import Batch, Profile
from prune_core.runs import needs
from prune_core.runs.run import Run
from prune_core.runs.stages import Stage
from prune_core.showing import plans

DEVICES, HERE = (2, 3, 4, 8), 2  # how many; those whose pipeline is executed here
SECONDS = 60.0


def view(run: Run, stage: Stage, share: float, mask: BlockMask, setting: Batch, profile: Profile, dtype: str) -> None:
    """Numbers, the stages in time, their table, and the button that executes two stages here."""
    most = len(pipelines.units_of(mask))
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        devices = st.segmented_control("Devices", [d for d in DEVICES if d <= most], default=min(HERE, most),
                                       required=True, key="devices", bind="query-params")
        link = st.number_input("Between two devices (GB/s)", 0.01, 1000.0, None, key="link", width=230,
                               placeholder="costs no time",
                               help="What a link carries: ethernet 0.1 to 1, PCIe 10 to 50.")
    try:
        question = Question(mask, run.heads, setting, devices, dtype, link=link)
        plan, even = pipelines.plans(question, profile, needs.sizes_of(run))
    except InputError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
        return
    one = profile.compact_ms(mask, setting, run.heads, dtype)
    numbers(plan, even, one)
    copying.chart(plans.pipeline({"Planned": plan, "Even split": even}), key="pipeline",
                  alt="Stages over time, a bar for each micro-batch: the planned pipeline above the even split")
    st.caption(f"All predicted, for devices like {widgets.plain(str(profile.machine.get('cpu')))} with "
               f"{profile.threads} threads; half layers are not divided. {tensor(question)}On one machine a pipeline "
               "saves memory for each process, not time.")
    table(run, stage, plan)
    executed(run, stage, share, setting, devices)


def numbers(plan: Plan, even: Plan, one: float) -> None:
    with st.container(horizontal=True, gap="small"):
        for label, value, under in (
                ("Planned", f"{plan.ms:,.1f} ms", f"{plan.micro_batches} micro-batches"),
                ("Even split", f"{even.ms:,.1f} ms", f"{even.ms / plan.ms:.2f}x as long"),
                ("One device", f"{one:,.1f} ms", f"{one / plan.ms:.2f}x as long"),
                ("Devices work", f"{plan.utilisation:.0%}", f"even split {even.utilisation:.0%}"),
                ("Bubble", f"{plan.bubble:.0%}", "fill and empty"),
                ("Unbalanced", f"{plan.unbalanced:.0%}", f"even split {even.unbalanced:.0%}")):
            st.metric(label, value, under, delta_color="off", delta_arrow="off", border=True, width=160,
                      height="stretch")


def tensor(question: Question) -> str:
    """What dividing every matrix would send and how even it would be; '' where it cannot be done."""
    try:
        split = pipelines.tensor_split(question.mask, question.heads or 0, question.devices, question.batch)
    except InputError:
        return ""
    sends = question.batch.tokens * 4 * max(m.n for m in question.mask.layout.matrices if m.type != "output") / 1e6
    return (f"Every matrix on all of them instead would send {split['traffic_mb']:.1f} MB a layer, against "
            f"{sends:.1f} MB at each boundary here, the fullest {split['balance']:.2f} times the mean. ")


def table(run: Run, stage: Stage, plan: Plan) -> None:
    rows = pd.DataFrame([{"Stage": at, "What": one.words, "A micro-batch (ms)": one.ms, "Memory (MB)": one.mb,
                          "Weights (MB)": one.weights_mb, "Sends a micro-batch (MB)": one.sends_mb}
                         for at, one in enumerate(plan.stages)])
    number = st.column_config.NumberColumn
    copying.table(rows, key="stages", column_config={
        name: number(format="%.2f" if name.endswith("(ms)") else "%.1f") for name in rows.columns[2:]})
    download("Stages (CSV)", rows, f"{run.name}-{stage}-stages.csv")


def executed(run: Run, stage: Stage, share: float, setting: Batch, devices: int) -> None:
    """The button that runs the stages as processes here, and what came of it."""
    if loaders.read_only() or devices != HERE:
        return
    key = f"pipeline of {run.name}"
    jobs.job(key, "Execute in two processes", SECONDS, [
        "plan", run.name, f"--runs-dir={loaders.runs_dir()}", f"--phase={stage}", f"--sparsity={share}",
        f"--batch={setting.batch}", f"--length={setting.length}", f"--devices={devices}", "--measure", "--json"],
        "With torch.distributed on this machine, in fp32, in turn with one process.")
    told = jobs.answer(key) or {}
    found = told.get("measured")
    if not found or (told.get("batch"), told.get("length")) != (setting.batch, setting.length):
        return
    each = ", ".join(f"{one['mb']:,.0f}" for one in found["stages"])
    st.caption(f"Executed at {told['sparsity']:.1%} sparsity: {found['ms']:,.1f} ms, one process "
               f"{found['one_ms']:,.1f} ms; the processes hold {each} MB, one alone {told['one_mb']:,.0f}; logits "
               f"differ by at most {found['largest_difference']:.1g}.")
