"""Bytes that an encoder of BERT's build takes, training or answering, by formula: whether it fits, before it runs.

    training    weights + 8 bytes of Adam a trained one + what is saved for the backward pass
                + gradients of the layers that are done + what is there for a moment: at the moment when that is most
    answering   weights + the largest of what attention and the neurons hold at once

Counted from what transformers' layers save and hold in torch; `execution/footprint.py` measures the same in a fresh
process. Per layer, b sentences of s tokens, h hidden, w heads together, a heads, f neurons, e bytes an element.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prune_core import InputError
from prune_core.cutting.masks import BlockMask
from prune_core.hardware.sizes import Layer, Sizes
from prune_core.latency.strips import Blocking, Execution, plan_encoder
from prune_core.latency.work import Batch

FP32 = 4
ADAM = 8  # bytes of a trained parameter: two moments
MB = 1e6
WORK = {"fp32": 4e6, "bf16": 13e6}  # what torch's products keep for themselves, measured on a CPU
LIBRARIES = 410.0  # megabytes of a process with torch and transformers loaded, measured on a CPU
ATTENTION = ("fused", "plain")
PASS_BLOCK = 256  # tokens that a thread takes through the pass together, as execution/whole.py has it
PADDING = 64  # elements that packed weights can be read beyond their end
FP32_PASS = Blocking(32, 14, 1)

Parts = dict[str, float]  # what takes it -> bytes; together the peak


@dataclass(frozen=True)
class Way:
    """How it runs. `attention`: fused never holds length x length scores; `teacher`: '', outputs, hidden or mixed, as
    distillation asks it; `copies`: of the prunable weights, beside them, that a method keeps (ADMM: 2)."""

    attention: str = "fused"
    precision: str = "fp32"
    dropout: bool = True
    device: str = "cpu"
    teacher: str = ""
    copies: int = 0

    def __post_init__(self):
        for name, known in (("attention", ATTENTION), ("precision", tuple(WORK))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is unknown; needed: one of {', '.join(known)}")

    @property
    def element(self) -> int:
        """Bytes of what products take and give."""
        return FP32 if self.precision == "fp32" else 2

    @property
    def mask(self) -> int:
        """Bytes of an element of a dropout mask: a float like the others on a CPU, a bool on a GPU (not measured)."""
        return self.element if self.device == "cpu" else 1

    @property
    def plain(self) -> bool:
        """Whether length x length scores are held."""
        return self.attention == "plain"

    @property
    def plain_in_training(self) -> bool:
        """The same of a training step: torch's fused attention falls back on a CPU where there is dropout."""
        return self.plain or (self.dropout and self.device == "cpu")


def peak(parts: Mapping[str, float]) -> float:
    """Megabytes (10^6 bytes) of all parts together."""
    return sum(parts.values()) / MB


# ---------------------------------------------------------------- training


def saved(layer: Layer, batch: Batch, way: Way) -> float:
    """Bytes of one layer that are kept from the forward to the backward pass.

    In fp32 e (5 bsh + 3 bsw + 2 bsf) + 16 bs and the dropout masks m (2 bsh); under autocast the inputs of query, key
    and value are three copies and both norms stay in fp32. Attention: fused 4 bas, plain e bass, with dropout
    (2 e + m) bass.
    """
    tokens, scores = batch.tokens, layer.heads * batch.tokens * batch.length
    hidden, width, inner = (tokens * size for size in (layer.hidden, layer.width, layer.inner))
    if way.precision == "fp32":
        outside = FP32 * (4 * hidden + 4 * width + 2 * inner)
    else:
        outside = 2 * (4 * hidden + 4 * width + 2 * inner) + FP32 * 2 * hidden
    outside += 16 * tokens + (2 * way.mask * hidden if way.dropout else 0)
    if not way.plain_in_training:
        return outside + 4 * layer.heads * tokens
    return outside + scores * (way.element + (way.element + way.mask if way.dropout else 0))


def training(sizes: Sizes, batch: Batch, way: Way) -> Parts:
    """What a training step holds at its peak, by part: Adam's moments are there, gradients come as layers are done.

    Activations include what autocast keeps of the matrices in bf16 until their layer is done.
    """
    casts, twice = (2 if way.precision == "bf16" else 0), (2 if way.teacher == "mixed" else 1)
    activations = [twice * saved(layer, batch, way) + casts * _matrices(layer) for layer in sizes.layers]
    fixed = {"weights": float(FP32 * sizes.weights), "optimizer": float(ADAM * sizes.trained),
             "workspace": WORK[way.precision]}
    if way.copies:
        fixed["method"] = float(way.copies * FP32 * sum(_matrices(layer) for layer in sizes.layers))
    if way.teacher:
        asked = FP32 * batch.tokens * sizes.hidden * (len(sizes.layers) + 1) if way.teacher == "hidden" else 0
        fixed["teacher"] = float(FP32 * sizes.weights + asked)
    moments, done = [], FP32 * sizes.head
    for at in range(len(sizes.layers) - 1, -1, -1):  # the backward pass, from the last layer on
        moments.append({"activations": float(sum(activations[:at + 1])), "gradients": float(done),
                        "passing": passing(sizes.layers[at], batch, way)})
        done += FP32 * sizes.layers[at].weights
    moments.append({"activations": 0.0, "gradients": float(FP32 * sizes.trained), "passing": 0.0})
    return fixed | max(moments, key=lambda moment: sum(moment.values()))


def passing(layer: Layer, batch: Batch, way: Way) -> float:
    """Bytes that the backward pass through a layer needs for a moment, beyond what was saved: the gradient of the
    neurons' outputs; or, of long sentences, that of the scores, when the neurons' part is freed."""
    tokens, element = batch.tokens, way.element
    neurons = element * tokens * layer.inner + FP32 * tokens * layer.hidden
    neurons += 0 if way.precision == "fp32" else (FP32 + 2) * tokens * layer.hidden
    if not way.plain_in_training:
        return neurons
    freed = element * tokens * (2 * layer.inner + 4 * layer.hidden)
    return max(neurons, element * layer.heads * tokens * batch.length - freed)


def _matrices(layer: Layer) -> int:
    """Weights of its prunable matrices."""
    return 4 * layer.hidden * layer.width + 2 * layer.hidden * layer.inner


# ---------------------------------------------------------------- answering


def answering(sizes: Sizes, batch: Batch, way: Way) -> Parts:
    """What torch's forward pass holds at its peak, by part, nothing being saved.

    Beside the embeddings and the layer's input (2 bsh): attention fused 5 bsw, plain 3 bsw + max(2 bsw + bass,
    2 bass); neurons bsh + 2 bsf, and where attention is plain its scores, which transformers hands on.
    """
    tokens, element = batch.tokens, way.element
    most = 0.0
    for layer in sizes.layers:
        hidden, width, inner = (tokens * size for size in (layer.hidden, layer.width, layer.inner))
        scores = layer.heads * tokens * batch.length if way.plain else 0
        attention = FP32 * 2 * hidden + element * (
            3 * width + max(2 * width + scores, 2 * scores))
        neurons = FP32 * 3 * hidden + element * (2 * inner + scores)
        most = max(most, float(attention), float(neurons))
    return {"weights": float(FP32 * sizes.weights), "workspace": WORK[way.precision], "activations": most}


# ---------------------------------------------------------------- our own pass


def compact(sizes: Sizes, mask: BlockMask, heads: int | None, batch: Batch, threads: int = 1,
            path: str = "fp32", blocking: Blocking = FP32_PASS) -> Parts:
    """What the compact model holds in our pass, by part, once the dense matrices are let go: embeddings, norms and head
    as they are, packed strips, and for each thread the lines of one block of sentences - whatever the batch is."""
    plans = plan_encoder(mask, heads, blocking)
    prunable = sum(_matrices(layer) for layer in sizes.layers)
    return {"weights": float(FP32 * (sizes.weights - prunable)),
            "packed": float(sum(packed(plan, path, blocking) for plan in plans.values())),
            "lines": lines(sizes, batch, threads, path, blocking),
            "inputs": 32.0 * batch.tokens + FP32 * batch.batch * sizes.hidden, "workspace": WORK["fp32"]}


def packed(plan: Execution, path: str, blocking: Blocking) -> int:
    """Bytes of one matrix as execution/packing.py packs it: weights in whole steps, columns, strips, outputs, bias."""
    element = {"fp32": 4, "bf16": 2, "int8": 1}[path.split()[0]]
    tiles = path.endswith("amx")
    weights = columns = outputs = 0
    for strip in plan.strips:
        wide = -(-len(strip.cols) // blocking.step) * blocking.step
        rows = sum(blocking.wide(len(strip.rows[part])) if tiles else len(strip.rows[part])
                   for part in blocking.parts(len(strip.rows)))
        weights, columns, outputs = weights + wide * rows, columns + len(strip.cols), outputs + len(strip.rows)
    live = int(plan.live.rows.sum())
    scales = 8 * live if element == 1 else 0
    return (element * (weights + PADDING) + 4 * (columns + PADDING) + 40 * len(plan.strips)
            + (4 * (outputs + 1) if plan.scattered else 0) + 4 * live + scales)


def lines(sizes: Sizes, batch: Batch, threads: int, path: str, blocking: Blocking) -> float:
    """Bytes of the activations of all threads in the pass: blocks of sentences of up to PASS_BLOCK tokens, or one."""
    dtype, tile = path.split()[0], blocking.tile
    element = FP32 if dtype == "fp32" else 2
    hidden, width = sizes.hidden, max([sizes.hidden, *(layer.width for layer in sizes.layers)])
    inner = max(layer.inner for layer in sizes.layers)
    columns = element * (2 * hidden + 4 * width + inner) + (FP32 * hidden if dtype != "fp32" else 0)
    columns += hidden + width + inner if dtype == "int8" else 0
    tokens = max(batch.length, PASS_BLOCK // batch.length * batch.length)
    tokens = min(batch.tokens, max(tokens, -(-batch.batch // tile) * tile))
    each = -(-tokens // tile) * tile * columns + _attending(sizes, batch, tile)
    return float(min(threads, batch.batch) * each + 3 * FP32 * hidden * (batch.batch + tile))


def _attending(sizes: Sizes, batch: Batch, tile: int) -> float:
    """Bytes of one head of one sentence: keys and values, and the scores of a tile of queries."""
    depth = max(layer.width // layer.heads for layer in sizes.layers)
    return FP32 * (2 * depth * (batch.length + tile) + (2 * depth + batch.length + 2) * tile)


# ---------------------------------------------------------------- how much fits


def longest(limit: float, lengths: list[int], of) -> int | None:
    """The largest of these lengths at which `of(length)`, in megabytes, is within the limit; None where none is."""
    fitting = [length for length in lengths if of(length) <= limit]
    return max(fitting, default=None)
