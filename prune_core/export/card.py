"""What stands in an exported folder beside the weights: the card, and the scripts that run or load it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from prune_core.cutting.masks import times
from prune_core.evaluation import arithmetic
from prune_core.execution.compact import shrunk
from prune_core.precision.formats import parse
from prune_core.precision.storage import counts
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
LOAD = '''\
"""python load.py "a sentence" ["its pair"]: needs torch, transformers, safetensors and numpy, nothing else."""
import json, pathlib, sys
import torch, transformers, unpack
here = pathlib.Path(__file__).parent
model = transformers.AutoModelForSequenceClassification.from_config(transformers.AutoConfig.from_pretrained(here))
weights = {{name: torch.from_numpy(one) for name, one in unpack.tensors(here / "packed.safetensors").items()}}
assert weights.keys() == {{name for name, _ in model.named_parameters()}}, "another model's weights"
model.load_state_dict(weights, strict=False)
model.eval()
{activations}if __name__ == "__main__":
    tokenizer = transformers.AutoTokenizer.from_pretrained(here)
    logits = model(**tokenizer(*sys.argv[1:3], return_tensors="pt", truncation=True, max_length={length})).logits[0]
    print(json.dumps(dict(zip({labels}, logits.tolist()))))
'''
TOKENS = '''\
def rounded(module, inputs):  # activations in 8 bits, from the least to the largest value of each token's living inputs
    x = inputs[0]
    least, most = x[..., ~module.dead].aminmax(dim=-1, keepdim=True)
    span = (most - least).clamp_min(1e-20)
    return torch.where(module.dead, x, ((x - least) * (255 / span)).round() * (span * (1 / 255)) + least)
for name, bits in {dead}.items():
    module, byte = model.get_submodule(name), torch.tensor(list(bytes.fromhex(bits)))
    module.dead = (byte[:, None] >> torch.arange(7, -1, -1) & 1).flatten()[:module.in_features].bool()
    if not module.dead.all():
        module.register_forward_pre_hook(rounded)
'''
TENSORS = '''\
def rounded(step, zero):  # activations in 8 bits, with one scale for each matrix
    return lambda module, inputs: torch.fake_quantize_per_tensor_affine(inputs[0], step, zero, 0, 255)
for name, (low, high) in {ranges}.items():
    step = (high - low) / 255
    model.get_submodule(name).register_forward_pre_hook(rounded(step, round(-low / step)))
'''


USE_HF = '''\
```python
from transformers import pipeline

classify = pipeline("text-classification", "PATH/TO/THIS/FOLDER")
print(classify({example}))
```

The cut blocks are stored as zeros, so that every version of transformers can load it; the compact ONNX export is the \
one that runs faster.
'''
USE_ONNX = '''\
```sh
python run.py {arguments}
```

`run.py` needs onnxruntime, tokenizers and numpy. Neurons, heads, rows and columns that were cut entirely are taken \
out of the graph; inputs
and outputs are those of the dense model.
'''
USE_PACKED = '''\
```sh
python load.py {arguments}
```

`load.py` rebuilds the model for transformers: `import load` there gives `load.model`. It needs torch, transformers, \
safetensors and numpy. `unpack.py` reads the matrices, and says how they are stored.
'''


_CARD = '''\
---
library_name: transformers
pipeline_tag: text-classification
tags: [pruned, block-sparse]
---

# {model} on {of}, {pruned}

| | |
|---|---|
| dev {metric} | {score} |
| dev {metric} before pruning | {dense} |
| always the most frequent answer | {run.majority_score:.4f} |
| sparsity of the encoder | {sparsity} |
| compression | encoder {encoder}, whole model {counted[compression_model]:.2f}x |
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


def card(taken, use: str, notes: Sequence[str] = ()) -> str:
    """The card of a CutModel: what it is, how good and how large, how it was made, how to use it.

    Only what was measured or counted. `use`: a text with places for {example} and {arguments}; `notes` come after it.
    """
    run, cut = taken.run, taken.cut
    pair = len(run.about["task"].get("columns") or glue.task_named(run.task).columns) > 1
    example = '{"text": "It rained all day.", "text_pair": "It was dry."}' if pair else '"a warm and funny film"'
    arguments = '"It rained all day." "It was dry."' if pair else '"a warm and funny film"'
    of = f"GLUE {run.task}" if run.is_glue else run.task
    use = use.replace("{example}", example).replace("{arguments}", arguments)
    return _CARD.format(
        run=run, mask=taken.mask, stage=taken.stage, model=run.config.model,
        of="the synthetic practice set (not GLUE)" if run.is_practice else of,
        metric=in_words(run.metric), score=_scored(taken),
        dense="" if run.dense_score is None else f"{run.dense_score:.4f}, in fp32", **_sizes(taken),
        ranking=cut.ranking,
        repaired=", what is kept repaired by least squares" if cut.repaired else "", command=run.command(),
        loading=_read(run), use="\n".join([use, *(f"{note}\n" for note in notes)]).rstrip() + "\n",
        **_counted(taken))


def _counted(taken) -> dict:
    """What the card says of weights that are zero: by blocks of what size, and where a pattern adds to them both."""
    counted, block = counts(taken.mask, parse(taken.cut.formats, taken.run.layout)), taken.run.layout.block
    zero, by_blocks = counted["sparsity"], taken.mask.sparsity
    encoder, entirely = times(counted["compression_encoder"]), zero == 1
    return {"counted": counted, "encoder": encoder,
            "pruned": "all of the encoder pruned" if entirely else f"encoder pruned {encoder}",
            "sparsity": f"{zero:.1%} zero; blocks of {block} alone {by_blocks:.1%}" if abs(zero - by_blocks) > 1e-9 else
                        f"{zero:.1%} zero, in blocks of {block}"}


def _sizes(taken) -> dict:
    """What the card says of bytes."""
    stored = taken.storage
    return {"stored": stored, "encoder_without_index": stored.encoder.stored - stored.encoder.index,
            "formats": parse(taken.cut.formats).words}


def _read(run: Run) -> str:
    """How the run's checkpoint was read, in words."""
    if "loading" not in run.about:
        return "not recorded by the version that made the run"
    return "; ".join(run.about["loading"]) or "as it was saved, all of it"


def _scored(taken) -> str:
    """The score with its interval and its arithmetic, in words."""
    if not taken.score:
        return "not taken: the task's data was not there at the export"
    score, low, high, examples = (taken.score[name] for name in ("score", "low", "high", "examples"))
    return (f"{score:.4f}, 95% interval {low:.3f} to {high:.3f}, {examples:,} dev examples, "
            f"in {arithmetic.named(taken.score['executed'])}")


def note_of(taken, to: str) -> str:
    """What is other in a folder of this form than in the model that was scored, in a sentence or two; '' if nothing."""
    formats = parse(taken.cut.formats, taken.run.layout)
    if formats.plain:
        return ""
    stored = {"hf": f"Weights are fp32 numbers here, exactly those that {formats.words} stand for",
              "packed": f"Weights are stored as they are counted: {formats.words}",
              "onnx": "Levels are whole numbers with a scale for each output (int4 up to 4 bits, else int8), clusters "
                      "places in their values, all else fp32"}[to]
    rounded = ("" if not formats.activations else
               ". Activations are not rounded to 8 bits here, as they are in the score" if to == "hf" else
               ". Activations are rounded to 8 bits on the way into every matrix")
    return f"{stored}{rounded}."


def load_script(taken, length: int) -> str:
    """load.py of a packed folder."""
    formats = parse(taken.cut.formats, taken.run.layout)
    ranges = {name: [float(end) for end in ends] for name, ends in taken.compressed.ranges.items()}
    # what neurons and heads that died give is a constant, which is no token's least or largest value
    live = shrunk(taken.encoder.model, taken.mask)[2] if formats.activations == "token" else {}
    dead = {name: np.packbits(~one.cols).tobytes().hex() for name, one in live.items()}
    rounding = {"": "", "token": TOKENS.format(dead=dead), "tensor": TENSORS.format(ranges=ranges)}
    return LOAD.format(activations=rounding[formats.activations], labels=json.dumps(taken.labels), length=length)
