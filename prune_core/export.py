"""The model to take away: a Hugging Face folder that plain transformers loads, or a compact ONNX graph and its script.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prune_core import InputError
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation import arithmetic, dev_score, exact
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.weights import encoder_of, revision_of
from prune_core.execution import engines, paths
from prune_core.execution.compact import compact
from prune_core.execution.paths import Choice
from prune_core.models import checkpoints, tokenizers
from prune_core.models.encoders import Encoder, quiet
from prune_core.precision.formats import parse
from prune_core.precision.storage import Storage, storage
from prune_core.runs import origin
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.tasks import glue
from prune_core.tasks.metrics import in_words

SCRIPT = '''\
"""python run.py "a sentence" ["its pair"]: needs onnxruntime, tokenizers and numpy, nothing else."""
import json, pathlib, sys
import numpy, onnxruntime, tokenizers
here = pathlib.Path(__file__).parent
tokenizer = tokenizers.Tokenizer.from_file(str(here / "tokenizer.json"))
tokenizer.enable_truncation({length}, direction="{side}")
text = tokenizer.encode(*sys.argv[1:3])
names = {{"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}}
session = onnxruntime.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
logits = session.run(None, {{i.name: numpy.array([names[i.name]], "int64") for i in session.get_inputs()}})[0][0]
print(json.dumps(dict(zip({labels}, map(float, logits)))))
'''


@dataclass(frozen=True)
class CutModel:
    """A cut of a stage with its model: loaded, cut, and repaired if that was asked for.

    `score`: as `evaluate` tells it; None where the data is not there.
    """

    run: Run
    stage: str
    cut: Cut
    mask: BlockMask
    encoder: Encoder
    score: dict | None

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

    Raises InputError; without the task's data only a repair is refused.
    """
    paths.check(dtype)  # also where there is nothing to score with
    mask = cut.mask(run.ranking(stage, cut.ranking), run.layout)
    try:
        bench = Bench(run, stage, source)
    except RunError:
        raise
    except InputError:
        if cut.repaired:
            raise
        encoder, score = encoder_of(run, stage, run.outputs), None
    else:
        encoder, score = bench.encoder, exact.evaluate(run, stage, cut, source, bench=bench, dtype=dtype, taken=taken)
    if cut.repaired:
        encoder.model.load_state_dict(bench.repaired(mask).state_dict())
    else:
        dev_score.apply_mask_(encoder.weights, mask)
    return CutModel(run, stage, cut, mask, encoder, score)


def hf(taken: CutModel, out: Path) -> dict:
    """A folder for transformers: safetensors, config with label names, tokenizer, model card. Raises InputError."""
    model = taken.encoder.model
    if len(taken.labels) == model.config.num_labels:
        model.config.id2label = dict(enumerate(taken.labels))
        model.config.label2id = {label: number for number, label in enumerate(taken.labels)}

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizers.save(taken.encoder.tokenizer, taken.encoder.folder, folder)
        (folder / "README.md").write_text(card(taken, _USE_HF), encoding="utf-8")

    return _written(taken, out, fill, "model.safetensors") | {"to": "hf"}


def onnx(taken: CutModel, out: Path) -> dict:
    """A folder for ONNX Runtime: the compact graph, the tokenizer, a script of ten lines, a card. Raises InputError."""
    small: nn.Module = compact(taken.encoder.model, taken.mask, kernels=False)
    tokenizer, size = taken.encoder.tokenizer, engines.onnx_bytes(small)
    if size > engines.LARGEST:
        raise InputError(f"the model is {size:,} bytes after the cut, an ONNX file holds {engines.LARGEST:,}; "
                         "needed: a higher sparsity, a smaller model, or --to hf")
    length = taken.encoder.max_length(taken.run.config.max_length)
    script = SCRIPT.format(length=length, side=tokenizer.truncation_side, labels=json.dumps(taken.labels))

    def fill(folder: Path) -> None:
        engines.to_onnx(small, folder / "model.onnx", types="token_type_ids" in tokenizer.model_input_names)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "run.py").write_text(script, encoding="utf-8")
        (folder / "README.md").write_text(card(taken, _USE_ONNX), encoding="utf-8")

    return _written(taken, out, fill, "model.onnx") | {"to": "onnx"}


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
    return {
        "run": run.name, "phase": str(taken.stage), "by": cut.ranking, "repaired": cut.repaired,
        "sparsity": mask.sparsity, "compression_encoder": mask.compression_encoder,
        "compression_model": mask.compression_model, "data": run.data, "metric": run.metric,
        **{name: score.get(name) for name in ("score", "low", "high", "examples", "dtype", "executed")}}


_USE_HF = '''\
```python
from transformers import pipeline

classify = pipeline("text-classification", "PATH/TO/THIS/FOLDER")
print(classify({example}))
```

The cut blocks are stored as zeros, so that every version of transformers can load it; the compact ONNX export is the \
one that runs faster.
'''
_USE_ONNX = '''\
```sh
python run.py {arguments}
```

`run.py` needs onnxruntime, tokenizers and numpy. Neurons, heads, rows and columns that were cut entirely are taken \
out of the graph; inputs
and outputs are those of the dense model.
'''


_CARD = '''\
---
library_name: transformers
pipeline_tag: text-classification
tags: [pruned, block-sparse]
---

# {model} on {of}, encoder pruned {mask.compression_encoder:.2f}x

| | |
|---|---|
| dev {metric} | {score} |
| dev {metric} before pruning | {dense} |
| always the most frequent answer | {run.majority_score:.4f} |
| sparsity of the encoder | {mask.sparsity:.1%} in blocks of {run.layout.block} |
| compression | encoder {mask.compression_encoder:.2f}x, whole model {mask.compression_model:.2f}x |
| the model, dense in fp32 | {stored.dense:,} bytes, of these the encoder {stored.encoder.dense:,} |
| packed: what is kept, {formats} | {stored.bytes:,} bytes ({stored.without_index:,} without the index), \
of these the encoder {stored.encoder.stored:,} ({encoder_without_index:,}) |

Run `{run.name}`, weights of `{stage}`, blocks ranked by {ranking}{repaired}. The run was made with:

```sh
{command}
```

How its checkpoint was read: {loading}.

## Use

{use}'''


def card(taken: CutModel, use: str) -> str:
    """The model card: what it is, how good and how large, how it was made, how to use it.

    Only what was measured or counted. `use`: a text with places for {example} and {arguments}.
    """
    run, cut = taken.run, taken.cut
    pair = len(run.about["task"].get("columns") or glue.task_named(run.task).columns) > 1
    example = '{"text": "It rained all day.", "text_pair": "It was dry."}' if pair else '"a warm and funny film"'
    arguments = '"It rained all day." "It was dry."' if pair else '"a warm and funny film"'
    of = f"GLUE {run.task}" if run.is_glue else run.task
    return _CARD.format(
        run=run, mask=taken.mask, stage=taken.stage, model=run.config.model,
        of="the synthetic practice set (not GLUE)" if run.is_practice else of,
        metric=in_words(run.metric), score=_scored(taken),
        dense="" if run.dense_score is None else f"{run.dense_score:.4f}, in fp32", **_sizes(taken),
        ranking=cut.ranking,
        repaired=", what is kept repaired by least squares" if cut.repaired else "", command=run.command(),
        loading=_read(run),
        use=use.replace("{example}", example).replace("{arguments}", arguments))


def _sizes(taken: CutModel) -> dict:
    """What the card says of bytes."""
    stored = taken.storage
    return {"stored": stored, "encoder_without_index": stored.encoder.stored - stored.encoder.index,
            "formats": parse(taken.cut.formats).words}


def _read(run: Run) -> str:
    """How the run's checkpoint was read, in words."""
    if "loading" not in run.about:
        return "not recorded by the version that made the run"
    return "; ".join(run.about["loading"]) or "as it was saved, all of it"


def _scored(taken: CutModel) -> str:
    """The score with its interval and its arithmetic, in words."""
    if not taken.score:
        return "not taken: the task's data was not there at the export"
    score, low, high, examples = (taken.score[name] for name in ("score", "low", "high", "examples"))
    return (f"{score:.4f}, 95% interval {low:.3f} to {high:.3f}, {examples:,} dev examples, "
            f"in {arithmetic.named(taken.score['executed'])}")


FORMS = {"hf": hf, "onnx": onnx}
