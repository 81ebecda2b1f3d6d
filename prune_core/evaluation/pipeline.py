"""A pipeline of a run or a model: planned by the latency model, and executed here where that is asked for."""

from __future__ import annotations

import os

from prune_core import InputError
from prune_core.evaluation.capacity import Note, Subject
from prune_core.evaluation.weights import checkpoint_of, encoder_of
from prune_core.execution import pipelined
from prune_core.hardware import memory, pipelines
from prune_core.hardware.pipelines import Plan, Question
from prune_core.latency.profile import Profile
from prune_core.models import encoders, skeleton
from prune_core.models.encoders import Encoder
from prune_core.models.skeleton import SIZE


def told(subject: Subject, question: Question, profile: Profile, measure: bool, note: Note) -> dict:
    """What `plan --json` prints: the plan, the even split beside it, one device, and every matrix on all devices.

    Raises InputError.
    """
    subject.made.check_length(question.batch.length)
    plan, even = pipelines.plans(question, profile, subject.sizes)
    taken = profile.path_of(question.dtype, question.mask, question.batch, question.heads)
    whole = memory.compact(subject.sizes, question.mask, question.heads, question.batch, 1)
    tensor, why = None, "" if question.heads else "how many heads a layer has is not known"
    if question.heads:
        try:
            tensor = pipelines.tensor_split(question.mask, question.heads, question.devices, question.batch)
        except InputError as error:
            why = str(error)
    measured = _measured(subject, question, plan, note) if measure else None
    return {
        "name": subject.name, "run": subject.run and subject.run.name, "devices": question.devices,
        "batch": question.batch.batch, "length": question.batch.length, "sparsity": question.mask.sparsity,
        "link": question.link, "path": taken.path, "profile": profile.machine.get("cpu"), "threads": profile.threads,
        **plan.to_json(), "one_ms": taken.ms, "one_mb": memory.peak(whole), "speedup": taken.ms / plan.ms,
        "even": even.to_json(), "tensor": tensor, "no_tensor": why, "measured": measured}


def _measured(subject: Subject, question: Question, plan: Plan, note: Note) -> dict:
    """The same stages in processes of this machine, in fp32. Raises InputError."""
    cores = os.cpu_count() or 1
    if question.devices > cores:
        note(f"{question.devices} processes share {cores} cores here, so they cannot take the time that is planned")
    encoder = _encoder(subject, note)
    return pipelined.run(encoder.model, question.mask, [stage.units for stage in plan.stages], question.batch,
                         plan.micro_batches, "fp32")


def _encoder(subject: Subject, note: Note) -> Encoder:
    """With weights where there are some: neither time nor memory depends on their values. Raises InputError."""
    run = subject.run
    if run is not None:
        there = next((stage for stage in run.stages if run.has_weights(stage)), None)
        return encoder_of(run, there, run.outputs) if there else checkpoint_of(run, run.outputs)
    if not SIZE.fullmatch(subject.name):
        return encoders.load(subject.name, 2)
    note(f"{subject.name} is a size: its weights are drawn at random")
    return encoders.describe(subject.name, skeleton.from_config(subject.made.config), None)
