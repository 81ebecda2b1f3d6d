"""Commands for what may not fit: how much memory it takes, and how several devices would share it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prune_core import InputError
from prune_core.cli.options import AsJson, Dtype, Phase, RunsDir, Threads
from prune_core.cli.tell import tell
from prune_core.latency.work import Batch
from prune_core.runs import places

Subject = Annotated[str, Argument(
    metavar="RUN|MODEL", help="A run; or minilm, a folder with a config.json, a hub name; or a size of BERT's build, "
                              "layers x hidden, as 24x1024.")]
BatchSize = Annotated[int, Option(help="Sentences in a batch.")]
Length = Annotated[int, Option(help="Tokens of a sentence.")]
Cut = Annotated[float | None, Option(help="Share of the prunable weights to cut, 0 to 1; default: none.")]
TEACHERS = ("none", "outputs", "hidden", "mixed")


def memory(
    name: Subject,
    batch: BatchSize = 32,
    length: Length = 128,
    training: Annotated[bool, Option("--training", help="A training step, instead of answering.")] = False,
    sparsity: Cut = None,
    phase: Phase = None,
    attention: Annotated[str | None, Option(
        help="fused, or plain, which holds length x length scores; default: plain in training, else fused.")] = None,
    precision: Annotated[str | None, Option(help="fp32 or bf16; default: as the run trains, else fp32.")] = None,
    dropout: Annotated[bool | None, Option(help="In training; default: as the run has it, else with.")] = None,
    teacher: Annotated[str | None, Option(
        help="What distillation asks: none, outputs, hidden, mixed; default: as the run has it.")] = None,
    dtype: Dtype = "fp32",
    device: Annotated[str, Option(help="Where: cpu, or cuda.")] = "cpu",
    limit: Annotated[float | None, Option(help="Megabytes there may be; default: what the device has.")] = None,
    measure: Annotated[bool, Option(help="Also measure it, in fresh processes.")] = True,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """How much memory a model takes, answering or training: by formula, and measured in a fresh process."""
    setting = Batch(batch, length)
    if limit is not None and not limit > 0:
        raise InputError(f"limit {limit:g} is out of range; needed: more than 0 megabytes")
    if teacher not in (None, *TEACHERS):
        raise InputError(f"teacher {teacher!r} is unknown; needed: one of {', '.join(TEACHERS)}")
    from prune_core.evaluation import capacity
    from prune_core.models import devices

    there = devices.pick(device).type
    subject = capacity.subject(name, runs_dir)
    subject.made.check_length(length)
    mask = subject.mask(sparsity, _note, phase) if sparsity is not None else None
    way = capacity.way_of(subject, training, {
        "attention": attention, "precision": precision, "dropout": dropout,
        "teacher": "" if teacher == "none" else teacher, "device": there})
    question = capacity.Question(subject, setting, training, way, mask, threads or os.cpu_count() or 1, dtype)
    tell(capacity.told(question, measure, limit or capacity.limit(device), _note), as_json, _memory_text)


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr, flush=True)


_KINDS = {"dense": "as it is", "smaller": "heads and neurons taken out, in torch", "compact": "compact, in our pass"}


def _memory_text(r: dict) -> str:
    doing = "training" if r["training"] else "answering"
    how = ", ".join(filter(None, [f"{r['attention']} attention", r["precision"], "dropout" * bool(r["dropout"]),
                                  r["teacher"] and f"a teacher's {r['teacher']}"]))
    lines = [f"{r['name']} {doing}, {Batch(r['batch'], r['length']).words}, {how}, on {r['device']}"
             + f", {r['sparsity']:.1%} cut" * bool(r["sparsity"])]
    for row in r["each"]:
        found = row["measured_mb"]
        lines.append(f"  {_KINDS[row['kind']]:38} predicted {row['predicted_mb']:9,.1f} MB" + (
            f", measured {found:9,.1f} MB ({row['predicted_mb'] / found - 1:+.1%})" if found else "")
            + (f", {row['held_mb']:,.1f} MB with what the C library keeps" if row["held_mb"] else ""))
        parts = sorted(row["parts"].items(), key=lambda part: -part[1])
        lines.append(f"    {', '.join(f'{name} {mb:,.1f}' for name, mb in parts if mb >= 0.05)}")
    if r["training"] and r["sparsity"]:
        lines.append("  What training cuts is zero, and still there; smaller is what training an exported model takes.")
    libraries = f"{r['libraries_mb']:,.0f} MB of libraries come on top. " if r["libraries_mb"] else ""
    fits = f"up to {r['longest']} tokens" if r["longest"] else "no length that was tried"
    lines.append(f"  {libraries}Of {r['limit_mb']:,.0f} MB fits: {fits} in batches of {r['batch']}.")
    return "\n".join(lines)


def plan(
    name: Subject,
    devices: Annotated[int, Option(help="Stages, one on each.")] = 2,
    batch: BatchSize = 32,
    length: Length = 128,
    sparsity: Cut = None,
    phase: Phase = None,
    dtype: Dtype = "auto",
    micro_batches: Annotated[int | None, Option(
        help="Parts that a batch is divided into; default: what is fastest.")] = None,
    link: Annotated[float | None, Option(
        help="Gigabytes a second between two devices; default: sending costs no time.")] = None,
    whole: Annotated[bool, Option("--whole", help="Divide between layers only, never inside one.")] = False,
    profile: Annotated[Path | None, Option(help="Latency profile to plan with; default: this machine's.")] = None,
    measure: Annotated[bool, Option(
        "--measure", help="Also execute it in processes of this machine, in fp32.")] = False,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """How several devices would share a model: the stages of a pipeline, balanced by the latency model."""
    setting = Batch(batch, length)
    if devices < 1:
        raise InputError(f"{devices} devices; needed: 1 or more")
    from prune_core.evaluation import capacity, pipeline, speedup
    from prune_core.hardware.pipelines import Question
    from prune_core.latency import profile_files

    prices = profile_files.read(profile) if profile else speedup.usual_profile()
    if prices is None:
        raise InputError("a plan needs a latency profile, and there is none; make one with: "
                         "python -m prune_core calibrate")
    subject = capacity.subject(name, runs_dir)
    mask = subject.mask(sparsity or 0.0, _note, phase)
    asked = Question(mask, subject.heads, setting, devices, "fp32" if measure and dtype == "auto" else dtype,
                     micro_batches, link, whole)
    tell(pipeline.told(subject, asked, prices, measure, _note), as_json, _plan_text)


def _plan_text(r: dict) -> str:
    lines = [f"{r['name']}, {r['sparsity']:.1%} cut, {Batch(r['batch'], r['length']).words}, {r['path']}, on "
             f"{r['devices']} device{'s' * (r['devices'] > 1)} like {r['profile']} with {r['threads']} threads"]
    for title, each in (("planned", r), ("even", r["even"])):
        lines.append(f"{title}: {each['micro_batches']} micro-batches in {each['ms']:.1f} ms, one device "
                     f"{r['one_ms']:.1f} ms; devices work {each['utilisation']:.0%} of the time, "
                     f"fill and empty {each['bubble']:.0%}, wait for the slowest {each['unbalanced']:.0%}")
        lines += [f"  {at}  {stage['ms']:8.2f} ms  {stage['mb']:8.1f} MB  {stage['units']}"
                  for at, stage in enumerate(each["stages"])]
    if tensor := r["tensor"]:
        lines.append(f"every matrix on all devices instead: {tensor['traffic_mb']:.1f} MB sent a layer and batch; the "
                     f"slowest has {tensor['balance']:.2f} times the mean, {tensor['balance_even']:.2f} undealt")
    elif r["no_tensor"]:
        lines.append(f"every matrix on all devices instead: not possible, {r['no_tensor']}")
    if found := r["measured"]:
        lines.append(f"executed here: {found['ms']:.1f} ms, one process {found['one_ms']:.1f} ms "
                     f"({found['speedup']:.2f}x), logits differ by at most {found['largest_difference']:.1g}. "
                     "On one machine a pipeline saves memory for each process, not time.")
        lines += [f"  {at}  {stage['ms']:8.2f} ms  {stage['mb']:8.1f} MB" for at, stage in enumerate(found["stages"])]
    return "\n".join(lines)
