"""What a run or a model would need that may not fit here: its memory, predicted and measured, and a pipeline of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.execution import footprint, packing, paths
from prune_core.execution.footprint import Asked
from prune_core.hardware import memory, sizes
from prune_core.hardware.memory import Parts, Way
from prune_core.hardware.sizes import Sizes
from prune_core.latency.profile import uncut
from prune_core.latency.strips import Blocking
from prune_core.latency.work import Batch
from prune_core.models import devices, encoders, skeleton
from prune_core.models.skeleton import SIZE, Skeleton
from prune_core.runs import origin, settings, shelf
from prune_core.runs.places import RunError
from prune_core.runs.run import Run

BLOCK = "64x1"  # of a model that no run divides
LENGTHS = (16, 32, 64, 128, 256, 384, 512, 1024, 2048, 4096)
SPARE = 0.9  # of the memory that is free: more is not tried
Note = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A run or a model: what it is made of, how it is divided, and its run where it has one."""

    name: str
    made: Skeleton
    layout: Layout
    heads: int | None
    sizes: Sizes
    run: Run | None = None

    def mask(self, sparsity: float, note: Note, stage: str | None = None) -> BlockMask:
        """What a cut leaves: by the norms of a run's stage, else of the checkpoint's own weights; a size has none, so
        its groups are cut at random. Raises InputError."""
        if not 0 <= sparsity < 1:
            raise InputError(f"sparsity {sparsity:g} is out of range; needed: 0 up to but not including 1")
        if not sparsity:
            return uncut(self.layout)
        if self.run is not None:
            stage = stage or settings.default_stage(self.run, sparsity, weights=False)
            return settings.cut_of(self.run, sparsity).mask(self.run.ranking(stage), self.layout)
        if SIZE.fullmatch(self.name):
            note(f"{self.name} is a size without weights: its groups of {BLOCK} are cut at random")
            random = np.random.default_rng(0)
            return BlockMask(self.layout, {m.name: random.random(self.layout.block.grid(m.m, m.n)) >= sparsity
                                           for m in self.layout.matrices})
        note(f"groups of {BLOCK} are cut by the norms of {self.name}'s own weights, which no run has prepared")
        encoder = encoders.load(self.name, 2)
        return mask_at_sparsity(encoder.norms(self.layout.block), self.layout, sparsity)


def subject(name: str, runs_dir: Path) -> Subject:
    """The run of this name, else the model: minilm, a folder, a hub name, a size as 12x768. Raises InputError."""
    try:
        run = shelf.find(name, runs_dir)
    except RunError as error:
        if "; there are: " not in (known := str(error)):  # there is one, and it cannot be read; or it is a path
            known = ""
            if name in {entry.name for entry in shelf.listing(runs_dir)}:
                raise
    else:
        made = skeleton.of(origin.checkpoint(run), run.outputs, run.config.revision)
        return Subject(name, made, run.layout, run.heads, replace(
            sizes.of(run.layout, run.heads, run.outputs), train_embeddings=run.config.train_embeddings), run)
    try:
        made = skeleton.of(name)
    except InputError as error:
        runs = f"; runs that {known.partition('; ')[2]}" if known else ""
        raise InputError(f"{name!r} is neither a run nor a model: {error}{runs}") from None
    return Subject(name, made, made.layout(BLOCK), made.heads, made.sizes())


# ---------------------------------------------------------------- memory


@dataclass(frozen=True)
class Question:
    """Memory that is asked for: of a subject in a batch, cut or not, training or not, in this way."""

    of: Subject
    batch: Batch
    training: bool
    way: Way
    mask: BlockMask | None = None
    threads: int = 1
    dtype: str = "fp32"

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it is told of: the last is what was asked for. In training what is cut is zero, and still there."""
        if self.mask is None:
            return ("dense",)
        return ("smaller", "dense") if self.training else ("dense", "smaller", "compact")

    def parts(self, kind: str, length: int | None = None) -> Parts:
        """Predicted bytes, by part; of sentences of another `length`, where one is given."""
        batch = Batch(self.batch.batch, length or self.batch.length)
        if kind == "compact":
            path = paths.choose(self.dtype).path
            return memory.compact(self.of.sizes, self.mask, self.of.heads, batch, self.threads, path, _blocking(path))
        small = sizes.smaller(self.of.sizes, self.mask, self.of.heads) if kind == "smaller" else self.of.sizes
        return (memory.training if self.training else memory.answering)(small, batch, self.way)

    def measured(self, kind: str, held: bool = False) -> dict:
        """Of a fresh process. Raises InputError."""
        asked = Asked(kind, self.batch.batch, self.batch.length, self.training, self.way.attention, self.way.precision,
                      self.way.dropout, bool(self.way.teacher), self.of.sizes.train_embeddings, self.threads,
                      self.way.device, self.dtype, held)
        return footprint.measure(self.of.made.config, footprint.with_mask(asked, self.mask) if self.mask else asked)


def _blocking(path: str) -> Blocking:
    """How the kernels of a path take strips; as on a processor with AVX-512 where there are none."""
    try:
        return packing.blocking(path)
    except AttributeError:
        return memory.FP32_PASS


def free(device: str) -> float:
    """Megabytes that are free there now. Raises InputError."""
    import torch

    there = devices.pick(device)
    return (torch.cuda.mem_get_info(there)[0] if there.type == "cuda" else psutil.virtual_memory().available) / 1e6


def limit(device: str) -> float:
    """Megabytes that the device has in all. Raises InputError."""
    return devices.describe(devices.pick(device))["memory"] / 1e6


def told(question: Question, measure: bool, most: float, note: Note) -> dict:
    """What `memory --json` prints of a question; `most`: megabytes there may be. What does not fit here is predicted
    only, and that is said. Raises InputError."""
    question.of.made.check_length(question.batch.length)
    rows = [_row(question, kind, measure, note) for kind in question.kinds]
    asked = rows[-1]
    lengths = [length for length in LENGTHS if length <= question.of.made.positions
               and length * question.batch.batch <= 2**18]
    longest = memory.longest(most - memory.LIBRARIES, lengths,
                             lambda length: memory.peak(question.parts(question.kinds[-1], length)))
    return {
        "name": question.of.name, "run": question.of.run and question.of.run.name, "batch": question.batch.batch,
        "length": question.batch.length, "training": question.training, "attention": question.way.attention,
        "precision": question.way.precision, "dropout": question.way.dropout if question.training else None,
        "teacher": question.way.teacher, "device": question.way.device, "threads": question.threads,
        "sparsity": question.mask.sparsity if question.mask else 0.0, "kind": asked["kind"],
        "predicted_mb": asked["predicted_mb"], "measured_mb": asked["measured_mb"], "parts": asked["parts"],
        "libraries_mb": asked["libraries_mb"], "each": rows, "limit_mb": most, "longest": longest}


def _row(question: Question, kind: str, measure: bool, note: Note) -> dict:
    parts = {name: of / 1e6 for name, of in question.parts(kind).items()}
    predicted = sum(parts.values())
    row = {"kind": kind, "predicted_mb": predicted, "measured_mb": None, "held_mb": None, "libraries_mb": None,
           "path": None, "parts": parts}
    room = free(question.way.device)
    if not measure:
        return row
    if predicted > SPARE * room:
        note(f"{kind}: {predicted:,.0f} MB are predicted and {room:,.0f} MB are free, so it is not measured")
        return row
    found = question.measured(kind)
    row |= {"measured_mb": found["mb"], "libraries_mb": found["libraries_mb"], "path": found["path"]}
    if "reserved_mb" in found:
        row["held_mb"] = found["reserved_mb"]
    elif 1.5 * predicted <= SPARE * room:
        row["held_mb"] = question.measured(kind, held=True)["mb"]
    return row


def way_of(subject: Subject, training: bool, given: Mapping[str, object]) -> Way:
    """How it runs: what was `given` (None: not), else as the run trains, else as runs train; answering is fused.

    Raises InputError.
    """
    config = subject.run.config if subject.run else None
    usual = {"attention": "plain" if training else "fused", "precision": "fp32", "dropout": training, "teacher": ""}
    if config is not None and training:
        teacher = "mixed" if config.mixkd else "hidden" if config.distill_hidden else "outputs" if config.taught else ""
        usual |= {"precision": config.precision, "dropout": bool(config.dropout), "teacher": teacher}
    copies = 2 if config is not None and training and config.method == "admm" else 0
    return Way(**usual | {name: value for name, value in given.items() if value is not None}, copies=copies)
