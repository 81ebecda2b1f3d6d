"""The model to take away: a folder for transformers, a compact ONNX graph and its script, or a packed file."""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation import dev_score, exact
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.weights import encoder_of, revision_of, trained_of
from prune_core.execution import engines, paths, qdq
from prune_core.execution.compact import compact
from prune_core.execution.paths import Choice
from prune_core.export.card import SCRIPT, USE_HF, USE_ONNX, USE_PACKED, card, load_script, note_of
from prune_core.methods.compress import Compressed, compress_
from prune_core.models import checkpoints, tokenizers
from prune_core.models import packed as packed_file
from prune_core.models.encoders import Encoder, quiet
from prune_core.precision import unpack
from prune_core.precision.formats import Formats, parse
from prune_core.precision.storage import Storage, counts, storage
from prune_core.runs import origin
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.tasks.encoding import Encoded
from prune_core.tasks.glue import Task

PACKED = "packed.safetensors"  # not model.safetensors: transformers would read that, and draw what it does not find


@dataclass(frozen=True)
class CutModel:
    """A cut of a stage with its model: loaded, cut, repaired if that was asked for, and in the formats of the cut.

    `score`: as `evaluate` tells it; None where the data is not there. `compressed`: how its weights are stored.
    """

    run: Run
    stage: str
    cut: Cut
    mask: BlockMask
    encoder: Encoder
    score: dict | None
    compressed: Compressed
    dev: tuple[Task, Mapping[str, Encoded]] | None = None  # None where the data is not there

    @property
    def labels(self) -> list[str]:
        """Of the outputs, in their order; for regression one, named for the metric's task."""
        return self.run.labels or [self.run.task]

    @property
    def storage(self) -> Storage:
        """What it takes packed: only what is kept, in its formats."""
        formats = parse(self.cut.formats, self.run.layout)
        return storage(self.mask, formats, tuple(self.encoder.model.get_input_embeddings().weight.shape))


def ready(run: Run, to: str, out: Path) -> None:
    """Raises InputError, before anything is loaded or scored, for what a folder of this form cannot be made of."""
    _check_new(Path(out))
    if to != "onnx":
        return
    place = origin.checkpoint(run)
    if Path(place).is_absolute() and not Path(place).is_dir():
        return  # `take` says what to do
    revision = revision_of(run) if place == run.config.model else None
    with quiet():
        tokenizer = tokenizers.load(checkpoints.locate(place, revision).folder, f"model {run.config.model!r}")
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InputError(f"model {run.config.model!r}: its tokenizer ({type(tokenizer).__name__}) is written in Python "
                         "and has no tokenizer.json, which the exported script reads; needed: a fast tokenizer, or "
                         "--to hf")


def take(run: Run, stage: str, cut: Cut, source: str | None = None, dtype: str = "fp32",
         taken: Callable[[Choice], None] = lambda choice: None) -> CutModel:
    """Load what the cut names and score it in the arithmetic `dtype`; `taken` is told what that comes to, before.

    Raises InputError; without the task's data a repair is refused, and a scale for each tensor of activations that the
    stage was not trained with.
    """
    formats = parse(cut.formats, run.layout)
    paths.check(dtype)  # also where there is nothing to score with
    mask = cut.mask(run.ranking(stage, cut.ranking), run.layout)
    try:
        bench = Bench(run, stage, source)
    except RunError:
        raise
    except InputError:
        if cut.repaired or (formats.activations == "tensor" and not trained_of(run, stage).ranges_for(formats)):
            raise
        bench, score = None, None
    else:
        score = exact.evaluate(run, stage, cut, source, bench=bench, dtype=dtype, taken=taken)
    encoder, compressed = bench.encoder if bench else encoder_of(run, stage, run.outputs), None
    if bench:
        model, compressed = bench.compressed(mask, cut.repaired, formats)
        if model is not encoder.model:
            encoder.model.load_state_dict(model.state_dict())
    if compressed is None:
        compressed = _cut_(encoder, run, stage, mask, formats)
    return CutModel(run, stage, cut, mask, encoder, score, compressed, bench and (bench.task, bench.dev))


def _cut_(encoder: Encoder, run: Run, stage: str, mask: BlockMask, formats: Formats) -> Compressed:
    """Cut the model, in place, to the nearest levels, or those it was trained on: what needs no data."""
    trained, table = trained_of(run, stage), encoder.model.get_input_embeddings()
    words = next((name, one) for name, one in encoder.model.named_modules() if one is table)
    made = compress_(encoder.linears, mask, formats, given=trained.grids_for(formats, run.layout), words=words)
    return replace(made, ranges=trained.ranges_for(formats))


def hf(taken: CutModel, out: Path) -> dict:
    """A folder for transformers: safetensors, config with label names, tokenizer, model card. Raises InputError.

    In few bits: fp32 numbers that are exactly what is stored.
    """
    model, note = taken.encoder.model, note_of(taken, "hf")
    _name_labels_(taken)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizers.save(taken.encoder.tokenizer, taken.encoder.folder, folder)
        (folder / "README.md").write_text(card(taken, USE_HF, [note] if note else []), encoding="utf-8")

    return _written(taken, out, fill, "model.safetensors") | {"to": "hf", "note": note}


def _name_labels_(taken: CutModel) -> None:
    """Into the model's config."""
    config = taken.encoder.model.config
    if len(taken.labels) == config.num_labels:
        config.id2label = dict(enumerate(taken.labels))
        config.label2id = {label: number for number, label in enumerate(taken.labels)}


def packed(taken: CutModel, out: Path) -> dict:
    """A folder with a packed file, exactly as large as `bytes` says, and a script that makes transformers' model of it.

    Raises InputError.
    """
    model, encoder, formats = taken.encoder.model, taken.encoder, parse(taken.cut.formats, taken.run.layout)
    table = model.get_input_embeddings().weight
    words = next(name for name, one in model.named_parameters() if one is table)
    content = packed_file.write(dict(model.named_parameters()), taken.mask, formats, taken.compressed.matrices,
                                taken.compressed.embeddings and (words, taken.compressed.embeddings))
    note = note_of(taken, "packed")
    script = load_script(taken, encoder.max_length(taken.run.config.max_length))
    _name_labels_(taken)

    def fill(folder: Path) -> None:
        (folder / PACKED).write_bytes(content)
        model.config.save_pretrained(folder)
        tokenizers.save(encoder.tokenizer, encoder.folder, folder)
        (folder / "unpack.py").write_bytes(Path(unpack.__file__).read_bytes())
        (folder / "load.py").write_text(script, encoding="utf-8")
        (folder / "README.md").write_text(card(taken, USE_PACKED, [note] if note else []), encoding="utf-8")

    return _written(taken, out, fill, PACKED) | {"to": "packed", "note": note}


def onnx(taken: CutModel, out: Path) -> dict:
    """A folder for ONNX Runtime: the compact graph, the tokenizer, a script of ten lines, a card. Raises InputError.

    In few bits with QDQ nodes (execution/qdq.py); then the graph itself is scored too, where the data is there.
    """
    small: nn.Module = compact(taken.encoder.model, taken.mask, kernels=False)
    formats, notes = parse(taken.cut.formats, taken.run.layout), []
    tokenizer, size = taken.encoder.tokenizer, engines.onnx_bytes(small)
    if size > engines.LARGEST:
        raise InputError(f"the model is {size:,} bytes after the cut, an ONNX file holds {engines.LARGEST:,}; "
                         "needed: a higher sparsity, a smaller model, or --to hf")
    length, scored = taken.encoder.max_length(taken.run.config.max_length), {}
    script = SCRIPT.format(length=length, side=tokenizer.truncation_side, labels=json.dumps(taken.labels))

    def fill(folder: Path) -> None:
        types = "token_type_ids" in tokenizer.model_input_names
        if formats.plain:
            engines.to_onnx(small, folder / "model.onnx", types=types)
        else:
            table = taken.encoder.model.get_input_embeddings().weight
            qdq.to_onnx(small, taken.compressed, table, folder / "model.onnx", types)
            notes.extend([note_of(taken, "onnx"), *_by_engine(taken, folder / "model.onnx", scored)])
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "run.py").write_text(script, encoding="utf-8")
        (folder / "README.md").write_text(card(taken, USE_ONNX, notes), encoding="utf-8")

    return _written(taken, out, fill, "model.onnx") | {"to": "onnx", "note": " ".join(notes)} | scored


def _by_engine(taken: CutModel, path: Path, scored: dict) -> list[str]:
    """Score the graph in ONNX Runtime, where the data is there, into `scored`; how that is told.

    Rounding that is imitated in training or in fp32 is not what an engine executes: ours and theirs stand side by side.
    """
    if taken.dev is None:
        return []
    graph = qdq.Executed(path, taken.encoder.model.config, torch.get_num_threads())
    score = dev_score.dev_score(graph, *taken.dev).scores[taken.run.metric]
    scored["engine"] = {"name": "onnxruntime", "score": score}
    return [f"In ONNX Runtime the graph scores {score:.4f} on the dev set, here {taken.score['score']:.4f} was found."]


def _written(taken: CutModel, out: Path, fill: Callable[[Path], None], weights: str) -> dict:
    """Have `fill` write into a folder beside `out` and rename that to it: never half of one. Raises InputError."""
    out = Path(out)
    _check_new(out)
    staged = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        staged.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        fill(staged)
        staged.replace(out)
    except OSError as error:
        raise InputError(f"the model cannot be written to {str(out)!r}: {error.strerror or error}") from None
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    sizes = {"folder_bytes": size, "weights_bytes": (out / weights).stat().st_size} | taken.storage.to_json()
    return {"path": str(out)} | sizes | about(taken)


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} is there already; needed: a new or an empty folder")


def about(taken: CutModel) -> dict:
    """What was taken: run, stage, cut, compressions and score with its arithmetic (None where there was no data)."""
    run, cut, mask, score = taken.run, taken.cut, taken.mask, taken.score or {}
    formats = parse(cut.formats, run.layout)
    return {
        "run": run.name, "phase": str(taken.stage), "by": cut.ranking, "repaired": cut.repaired,
        "formats": str(formats), **counts(mask, formats), "data": run.data, "metric": run.metric,
        **{name: score.get(name) for name in ("score", "low", "high", "examples", "dtype", "executed")}}


FORMS = {"hf": hf, "onnx": onnx, "packed": packed}
