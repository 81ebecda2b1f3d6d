"""A run's checkpoint, known by its digests, and the weights of its stages on it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from prune_core import files
from prune_core.cutting.blocks import Layout
from prune_core.models import encoders, identity, packed, stored, tensors
from prune_core.models.encoders import Encoder
from prune_core.precision import formats
from prune_core.precision.formats import Format, Formats
from prune_core.runs import origin, places
from prune_core.runs.places import RunError
from prune_core.runs.run import Run, source_among
from prune_core.runs.stages import DENSE

KEPT = ("config", "tokenizer", "frozen")  # of a checkpoint, what a run goes on reading after its first step


def revision_of(run: Run) -> str | None:
    """Of a model by hub name: the commit that the run was made with, so that what is asked later loads the same."""
    return run.about.get("commit") or run.config.revision


def encoder_of(run: Run, stage: str, outputs: int) -> Encoder:
    """The run's encoder with the weights of a stage. Raises RunError where they are not there or do not fit."""
    weights = tensors_of(run, stage)
    try:
        encoder = checkpoint_of(run, outputs, rest=weights)
        encoder.load_(weights)
    except (KeyError, RuntimeError, OSError) as error:
        raise _do_not_fit(run, stage, error) from None
    if not all(torch.isfinite(p).all() for p in encoder.trainable().values()):
        raise RunError(f"run {run.name!r}: weights {stage!r} have NaN or infinite values")
    return encoder


def tensors_of(run: Run, stage: str) -> dict[str, torch.Tensor]:
    """What training changed, by name, at a stage: what was cut is zero. Raises RunError like `encoder_of`."""
    from safetensors import SafetensorError

    file = run.weights_file(stage)
    try:
        return stored.read(file, run.layout)
    except (KeyError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise _do_not_fit(run, stage, error) from None


@dataclass(frozen=True)
class Trained:
    """What the weights of a stage were trained to be on; nothing of a stage in fp32.

    `grids`: matrix name -> (scales (m,), codebook (k,)) of its levels, one of them None, the word embeddings' among
    them; `ranges`: matrix name -> the least and the largest of its inputs, zero among them.
    """

    of: Mapping[str, Format] = field(default_factory=dict)
    grids: Mapping[str, tuple[np.ndarray | None, np.ndarray | None]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def grids_for(self, asked: Formats, layout: Layout) -> dict[str, tuple[np.ndarray | None, np.ndarray | None]]:
        """Those that weights stay on in the formats that are asked for: of the same kind and bits, whatever the
        pattern; of embeddings always, as there is one way to store them in 8 bits."""
        wanted = asked.of(layout)
        return {name: grid for name, grid in self.grids.items() if name not in self.of or
                name in wanted and replace(wanted[name], pattern=None) == replace(self.of[name], pattern=None)}

    def ranges_for(self, asked: Formats) -> dict[str, tuple[float, float]]:
        """Those of inputs that have one scale for each tensor; {} where none are asked for, or none were trained."""
        return dict(self.ranges) if asked.activations == "tensor" else {}


def trained_of(run: Run, stage: str) -> Trained:
    """Read with a stage's weights. Raises RunError like `encoder_of`."""
    made = formats.parse(run.trained_formats(stage), run.layout)
    if made.plain:
        return Trained()
    tensors = {name: one.float().numpy() for name, one in tensors_of(run, stage).items()}
    scale, codebook, range_ = ".weight.scale", ".weight.codebook", ".input.range"
    names = {name.removesuffix(end) for name in tensors for end in (scale, codebook) if name.endswith(end)}
    found = {name.removesuffix(range_): one.tolist() for name, one in tensors.items() if name.endswith(range_)}
    return Trained(made.of(run.layout), {name: (tensors.get(name + scale), tensors.get(name + codebook))
                                         for name in names},
                   {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in found.items()})


def _do_not_fit(run: Run, stage: str, error: Exception) -> RunError:
    why = " ".join(str(error).split())[:160]
    return RunError(f"run {run.name!r}: weights {stage!r} do not fit {run.config.model!r}: {why}")


def checkpoint_of(run: Run, outputs: int, rest: Mapping[str, torch.Tensor] | None = None,
                  untouched: bool = False) -> Encoder:
    """The checkpoint that the run was made of, with a fresh head. Raises InputError where it is another one, or gone.

    `rest`: what a copy of it in the run's folder leaves out, as a stage has it; `untouched`: whether its trained
    tensors must be the same too, as before the first step.
    """
    place = origin.checkpoint(run)
    if Path(place).is_absolute() and not Path(place).is_dir():
        raise RunError(f"run {run.name!r}: its checkpoint {place!r} is not there; if it was moved: "
                       f"python -m prune_core relocate {run.name} FOLDER")
    if not origin.carried(run):
        rest = None
    elif rest is None:
        rest = _any_stage(run)
    encoder = encoders.load(place, outputs, run.config.seed, run.config.train_embeddings, run.labels,
                            revision_of(run) if place == run.config.model else None, rest)
    known = run.about.get("checkpoint")
    if known:  # not by runs of before it was recorded
        parts = (*KEPT, "weights") if untouched else KEPT
        if others := identity.changed(known, identity.digests(encoder.folder, encoder.model, parts)):
            raise RunError(f"run {run.name!r}: its checkpoint {place!r} has changed since the run was made "
                           f"({', '.join(others)}), so its weights would be mixed with another model's; put back what "
                           "it was, or begin a new run")
    return encoder


def _any_stage(run: Run) -> Mapping[str, torch.Tensor]:
    """The trained tensors of the first stage whose weights are there; {} where none are."""
    paths = sorted((run.path / "weights").glob("*.safetensors"))
    return stored.read(paths[0], run.layout) if paths else {}


def write_weights(run: Run, stage: str, file: Path) -> None:
    """The weights of a stage in the form that ships, to the last bit. Raises InputError where they cannot be read."""
    weights, trained = tensors_of(run, stage), run.trained_formats(stage)
    files.write_whole(file, packed.stage(weights, run.layout, formats.parse(trained, run.layout)) if trained else
                      stored.kept_blocks(weights, run.layout))


def check_source(run: Run, data: str) -> None:
    """Raises RunError where its dense weights are others than those of the recorded run that it names as its start.

    Packed, with its data called `data`, it would take those for its own.
    """
    source = source_among(run, places.RECORDED, data)
    if source is None or not run.has_weights(DENSE):
        return
    mine, theirs = tensors_of(run, DENSE), tensors_of(source, DENSE)
    if mine.keys() != theirs.keys() or any(not torch.equal(mine[name], theirs[name]) for name in mine):
        raise RunError(f"run {run.name!r} has other dense weights than {source.name!r}, from which it says that it "
                       "started; needed: the same, or another name in data/recorded for that run")


def write_checkpoint(run: Run, folder: Path) -> None:
    """What the run goes on reading of its checkpoint, into a new folder: config, tokenizer, frozen tensors.

    Raises InputError where the checkpoint is gone, or another one.
    """
    from safetensors.torch import save_file

    encoder = checkpoint_of(run, run.outputs)
    folder.mkdir(parents=True)
    for path in (encoder.folder / "config.json", *identity.tokenizer_files(encoder.folder)):
        shutil.copyfile(path, folder / path.name)
    trained = encoder.trainable()
    frozen = {name: one.contiguous() for name, one in encoder.model.state_dict().items() if name not in trained}
    save_file(frozen, folder / tensors.ONE, {"format": "pt"})


def relocate(run: Run, folder: Path) -> str:
    """Note where the run's checkpoint lies now, and return that. Raises InputError where it is another one."""
    place = str(Path(folder).resolve())
    known = run.about.get("checkpoint")
    if not known or origin.carried(run):
        why = "has its checkpoint with it" if known else "was made before digests were kept, so none can be known again"
        raise RunError(f"run {run.name!r} {why}; nothing was noted")
    encoder = encoders.load(place, run.outputs, run.config.seed, run.config.train_embeddings, run.labels)
    if others := identity.changed(known, identity.digests(encoder.folder, encoder.model, KEPT)):
        raise RunError(f"{place!r} is not the checkpoint of run {run.name!r}: other {', '.join(others)}")
    try:
        files.write_json(origin.moved_file(run), {"folder": place})
    except OSError as error:
        raise RunError(f"run {run.name!r}: it cannot be noted: {error.strerror or error}") from None
    return place
