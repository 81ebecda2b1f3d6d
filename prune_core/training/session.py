"""One run from its command to its end: check what was asked, drive the loop, keep what it yields."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from prune_core import InputError, out_of_memory
from prune_core.cutting.blocks import BlockShape, Layout
from prune_core.evaluation import surface, weights
from prune_core.execution.probe import probe
from prune_core.machine import machine, versions
from prune_core.models import checkpoints, identity, tokenizers
from prune_core.models.devices import CPU
from prune_core.models.encoders import Encoder, heads_of
from prune_core.runs import estimate, index, places, shelf
from prune_core.runs.config import PruneConfig, rooted
from prune_core.runs.data import check_data, load_for, why_not
from prune_core.runs.outlook import outlook
from prune_core.runs.places import RunError
from prune_core.runs.recorder import Recorder, TrainState, read_checkpoint
from prune_core.runs.run import Run
from prune_core.runs.snapshots import Snapshot, Working
from prune_core.tasks import encoding, hub, metrics, table_files
from prune_core.tasks.glue import Examples, TaskData
from prune_core.tasks.hub import say
from prune_core.training.data import EncodedTask
from prune_core.training.loading import Told, encoder_for, precision_of, pruning_of, said_elsewhere
from prune_core.training.loop import Pruning
from prune_core.training.placement import ALONE, Lost, Placement, check_batch
from prune_core.training.stopping import asked_to_stop

CHECKPOINT_SECONDS = 30.0  # `kill -9` loses at most this much training, and one step

Report = Callable[[Snapshot | Working, Pruning], None]
Agree = Callable[[str], None]  # is told that the practice set stands in for what was asked; raises to have none of it


class Interrupted(Exception):
    """The run was asked to stop; it can be resumed."""


def start(config: PruneConfig, runs_dir: Path, name: str | None, command: str, report: Report,
          agree: Agree = say, placed: Placement = ALONE) -> dict:
    """Begin a run and see it to its end; returns its result. `placed`: the first process, where there are several.

    Before any work it says what was guessed, drawn, permuted or taken instead, and run.json keeps that; `agree` is
    asked before a run on the practice set that was to be another. Raises InputError before anything is written,
    Interrupted.
    """
    if name is not None:
        places.check_name(name)
    config = rooted(config)
    data = agreed(config, agree)
    config = replace(config, precision=precision_of(config.precision, placed.device))
    encoder = encoder_for(config, data.task, runs_dir)
    layout = encoder.layout(BlockShape.parse(config.block))
    config.formats.check(layout)
    loading = [*encoder.notes, *_fits(encoder, data, config)]
    probe(encoder, layout.block, config.distill_hidden > 0, config.mixkd)
    expected = outlook(config) if data.source != "practice" else ""
    for line in [data.note] * (data.source == config.data and bool(data.note)) + [expected] * bool(expected) + loading:
        if line not in hub.said:
            say(f"note: {line}")
    name = name or shelf.free_name(default_name(config, data.task.name), runs_dir)
    about = _about(config, command, data, encoder, layout, expected) | {"loading": loading, "device": placed.to_json()}
    sentences = EncodedTask.of(data, encoder, config)  # takes seconds: before there is a run that seems to stand still
    check_batch(placed.count, config.batch_size, len(sentences.train))
    with _one_line_for_the_machine(runs_dir, name), Recorder.create(Path(runs_dir), name, about) as recorder:
        placed.from_main(Told(config, data.source, Path(runs_dir)))
        pruning = pruning_of(encoder, sentences, config, recorder.path, placed)
        if known := estimate.measured(config, data.task.name, index.listing(Path(runs_dir))):
            pruning.work = pruning.work.at(known[0])
        return _drive(pruning, recorder, report)


def agreed(config: PruneConfig, agree: Agree) -> TaskData:
    """The data of a run that is to begin, agreed to where it is other than asked for. Raises InputError."""
    checkpoints.check_name(config.model, config.revision)  # before data is fetched
    data = load_for(config)
    if data.source == "practice" != config.data:
        agree(data.note)
    return data


def _fits(encoder: Encoder, data: TaskData, config: PruneConfig) -> list[str]:
    """Whether tokenizer, model and the task's sentences go together; what to say of it. Raises InputError."""
    where, length = f"model {config.model!r}", encoder.max_length(config.max_length)
    texts = Examples([*data.train.some(1000).texts, *data.main_dev.some(1000).texts], np.zeros(0))
    notes = tokenizers.check_words(encoder.tokenizer, texts, where, config.allow_unknown)
    tokenizers.check_longest(encoder.tokenizer, encoder.model, length, where)
    if length < config.max_length and encoding.encode(texts, encoder.tokenizer, length).lengths.max() == length:
        notes.append(f"sentences are cut at {length} tokens, the most that the checkpoint reads; "
                     f"asked for: {config.max_length}")
    return notes


def _about(config: PruneConfig, command: str, data: TaskData, encoder: Encoder, layout: Layout,
           expected: str) -> dict:
    """What run.json says; `expected`: what was said of the run before it began."""
    dev = data.main_dev.some(config.dev_examples)
    return {
        "command": command, "config": config.to_json(), "layout": layout.to_json(), "data": data.source,
        "data_digest": table_files.digest(data.source) if table_files.is_own(data.source) else None,
        "heads": heads_of(encoder.model, encoder.matrices),
        "embeddings": list(encoder.model.get_input_embeddings().weight.shape),
        "task": {"name": data.task.name, "metric": data.task.metric, "labels": list(data.task.labels),
                 "columns": list(data.task.columns), "shares": metrics.class_shares(data.task, dev)},
        "majority_score": metrics.majority_score(data.task, dev),
        "checkpoint": identity.digests(encoder.folder, encoder.model), "commit": encoder.commit,
        "notes": list(filter(None, (data.note, expected))), "machine": machine(), "versions": versions(),
    }


def follow(placed: Placement) -> None:
    """Train as one of several processes, from what the first says to its end or to one's own; writes nothing."""
    with contextlib.suppress(Lost), asked_to_stop():
        if (told := placed.from_main()) is None:
            return
        config, data = told.config, load_for(told.config, told.source)
        if data.source != told.source:
            raise InputError(f"process {placed.rank} finds no data at {told.source!r}{why_not(data)}")
        path = Path(told.folder) / told.run if told.run else None
        if path and (told.trained or not config.start_from):
            encoder = weights.checkpoint_of(Run(path), data.task.outputs, untouched=not told.trained)
        else:
            encoder = encoder_for(config, data.task, told.folder)
        pruning = pruning_of(encoder, EncodedTask.of(data, encoder, config), config, path, placed)
        if told.trained:
            pruning.restore_(*placed.from_main())
        for _ in pruning:
            pass


def resume(run: Run, report: Report, placed: Placement = ALONE) -> dict:
    """Take an interrupted run to its end; the numbers are those of a run that was never interrupted.

    A complete run just returns its result. On another kind of device, or in another number of processes, that is said:
    bits may differ. Raises RunError while another process writes it, or where its data or its checkpoint is no longer
    what it was; Interrupted.
    """
    if run.result is not None:
        placed.from_main(None)
        return run.result
    if run.recorded:
        raise RunError(f"run {run.name!r} shipped with the project and is read only")
    config = run.config
    if elsewhere := said_elsewhere(run, placed):
        say(f"note: run {run.name!r} goes on {elsewhere}")
    device = placed.to_json() if elsewhere else None
    with _one_line_for_the_machine(run.path.parent, run.name), Recorder.reopen(run.path, device) as recorder:
        check_data(run)
        data = load_for(config, run.data)
        if data.source != run.data:
            raise InputError(f"run {run.name!r} was trained on {run.data}, which is not there now{why_not(data)}")
        state = read_checkpoint(run.path)
        if state or not config.start_from:
            encoder = weights.checkpoint_of(run, data.task.outputs, untouched=not state)
        else:
            encoder = encoder_for(config, data.task, run.path.parent)
        sentences = EncodedTask.of(data, encoder, config)
        check_batch(placed.count, config.batch_size, len(sentences.train))
        precision_of(config.precision, placed.device)
        placed.from_main(Told(config, data.source, run.path.parent, run.name, bool(state)))
        pruning = pruning_of(encoder, sentences, config, run.path, placed)
        if state:
            pruning.restore_(*placed.from_main((state.tensors, state.meta)))
        return _drive(pruning, recorder, report)


def record_repaired(run: Run, show: Callable[[Iterable[tuple]], Iterable[tuple]] = iter,
                    device: torch.device = CPU) -> None:
    """Have a complete run record what could be kept of its dense weights without training: `surface.repaired`.

    A quick run does without, and one that shipped with the project stays as it is. `show` passes the steps (done,
    total, ...) on. Raises InputError where weights or data are gone; the run is complete all the same.
    """
    if not run.recorded and run.config.preset != "quick":
        for _ in show(surface.repaired(run, device)):
            pass


def default_name(config: PruneConfig, task: str) -> str:
    """sst2-minilm-64x1-s0"""
    return f"{task}-{Path(config.model).name}-{config.block}-s{config.seed}"


def _drive(pruning: Pruning, recorder: Recorder, report: Report) -> dict:
    """All that the loop yields goes into the run directory; a checkpoint every CHECKPOINT_SECONDS and after phases."""
    before = pruning.spent.seconds
    started = last_checkpoint = last_status = time.monotonic()
    if not pruning.position.at_end:  # at once, so that who watches knows how long it takes
        recorder.status(**_where(Working(pruning.position.phase, "training", 0, 0), pruning))
    with asked_to_stop() as stop:
        for event in pruning:
            now = time.monotonic()
            pruning.spent.seconds = before + now - started
            if isinstance(event, Snapshot):
                recorder.append(event)
            watched = time.monotonic()
            report(event, pruning)
            started += time.monotonic() - watched  # who watches may have it wait: that is no time of the run
            due = now - last_checkpoint > CHECKPOINT_SECONDS or stop or getattr(event, "saved", None)
            # Before the first step there is nothing to keep
            if pruning.at_rest and pruning.steps_done and isinstance(event, Snapshot) and due:
                recorder.checkpoint(TrainState(*pruning.state()))
                last_checkpoint = now
            if now - last_status > 1.0 or stop:
                recorder.status(**_where(event, pruning))
                last_status = now
            if stop:
                raise Interrupted(f"run {recorder.path.name!r} stopped in {event.phase}; go on with: "
                                  f"python -m prune_core resume {recorder.path.name}")
    result = _result(Run(recorder.path), pruning)
    recorder.finish(result)
    return result


def _where(event: Snapshot | Working, pruning: Pruning) -> dict:
    """What status.json says."""
    working = {"doing": "training"}
    if isinstance(event, Working):
        working = {"doing": event.doing, "done": event.done, "total": event.total}
    return {"phase": event.phase, "step": pruning.steps_done, "steps": pruning.plan.steps,
            "seconds": pruning.spent.seconds, "seconds_left": pruning.seconds_left()} | working


def _result(run: Run, pruning: Pruning) -> dict:
    """What `prune --json` prints."""
    spent = pruning.spent
    return {
        "run": run.name, "task": run.task, "model": run.config.model, "data": run.data, "metric": run.metric,
        "dense_score": run.dense_score, "majority_score": run.majority_score, "points": run.points,
        "seconds": spent.seconds, "seconds_per_step": spent.step_seconds / max(1, spent.steps),
        "penalty_share": spent.penalty_share,
        "precision": run.config.precision, "threads": run.config.threads, "warnings": run.warnings,
    }


@contextmanager
def _one_line_for_the_machine(runs_dir: Path, name: str):
    """Turn what a full or read-only disk, or too little memory, raises into one line; what was recorded stays."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        Recorder.note_error(Path(runs_dir) / name, "out of memory")
        raise RunError(f"run {name!r} is out of memory; what was recorded is kept; when there is more, or less runs "
                       f"beside it: python -m prune_core resume {name}") from None
    except Lost as error:
        Recorder.note_error(Path(runs_dir) / name, str(error))
        raise RunError(f"run {name!r} stopped: {error}; what was recorded is kept; go on with: "
                       f"python -m prune_core resume {name}") from None
    except OSError as error:
        Recorder.note_error(Path(runs_dir) / name, error.strerror or str(error))
        raise RunError(f"run {name!r} cannot be written in {runs_dir}: {error.strerror or error}; what was recorded "
                       f"is kept; when there is room: python -m prune_core resume {name}") from None
