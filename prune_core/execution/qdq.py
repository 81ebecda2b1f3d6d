"""A model in few bits as ONNX: whole numbers with QuantizeLinear and DequantizeLinear, as engines know them.

    weights       levels, ternary, binary: int8, up to 4 bits int4, DequantizeLinear with a scale for each output, of a
                  tensor 1 x inputs x outputs: of a matrix ONNX Runtime 1.31 makes a product that rounds activations to
                  8 bits as well, unasked, and logits are off by 0.006; clusters: their places, and a Gather from the
                  values; bf16 and fp32 as they are
    embeddings    int8; the rows of a sentence are taken out, then multiplied by their scales
    activations   a scale for each tensor: QuantizeLinear, DequantizeLinear with the calibrated range; for each token:
                  from its least to its largest value, found in the graph
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.execution import engines
from prune_core.execution.compact import CompactLinear
from prune_core.methods.activations import TOP, by_token
from prune_core.methods.compress import Compressed
from prune_core.precision.quantizers import Quantized

OPSET = 21  # the first with int4
WRITTEN = 20  # by the exporter


class Ends:
    """x (..., width) fp32 in 8 bits between the ends of a tensor, as `activations.by_tensor` has it: in a graph two
    nodes."""

    def __init__(self, low: float, high: float):
        step = (high - low) / TOP
        self.step, self.zero = torch.tensor(step), torch.tensor(round(-low / step), dtype=torch.uint8)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        node, more = torch.onnx.ops.symbolic, {"shape": x.shape, "version": WRITTEN}
        byte = node("QuantizeLinear", (x, self.step, self.zero), dtype=torch.uint8, **more)
        return node("DequantizeLinear", (byte, self.step, self.zero), dtype=torch.float32, **more)


def to_onnx(small: nn.Module, compressed: Compressed, table: torch.Tensor, path: Path, types: bool = False) -> Path:
    """Write a compact model (without kernels), whose weights are in fp32 what `compressed` stores, and return `path`.

    `table`: the word embeddings; inputs and outputs as engines.to_onnx has them. Raises InputError.
    """
    weights, formats = weights_of(small, compressed.matrices), compressed.formats
    for name in compressed.matrices if formats.activations else ():
        low, high = compressed.ranges.get(name, (0.0, 0.0))
        tensor = Ends(low, high) if high > low else None
        small.get_submodule(name).rounding = by_token if formats.activations == "token" else tensor
    engines.to_onnx(small, path, types)
    words = compressed.embeddings and (table.detach().float().numpy(), compressed.embeddings)
    return write(path, weights, words or None)


@dataclass(frozen=True)
class _Weight:
    """How an initializer is stored instead: `codes` of its shape, `scales` along its last axis, or a codebook."""

    codes: np.ndarray
    bits: int
    scales: np.ndarray | None = None
    codebook: np.ndarray | None = None


def weights_of(small: nn.Module, matrices: Mapping[str, Quantized]) -> dict[str, tuple[np.ndarray, _Weight]]:
    """By matrix what a graph of the compact model multiplies by, (inputs, outputs) in fp32,
    and how it is stored."""
    found = {}
    for name, one in matrices.items():
        linear: CompactLinear = small.get_submodule(name)
        if one.codes is None or not linear.dense.numel():
            continue
        dense = linear.dense.numpy().T
        if one.codebook is not None:
            values = np.concatenate([np.zeros(1, np.float32), one.codebook])
            order = np.argsort(values, kind="stable")
            codes = order[np.searchsorted(values[order], dense).clip(0, len(values) - 1)]
            found[name] = dense, _Weight(codes, 8, codebook=values)
        else:
            scales = one.scales[linear.rows]
            found[name] = dense, _Weight(np.rint(dense / scales), one.format.bits, scales)
    return found


def write(path: Path, weights: Mapping[str, tuple[np.ndarray, _Weight]],
          embeddings: tuple[np.ndarray, Quantized] | None = None) -> Path:
    """Store what the graph at `path` multiplies by as whole numbers, in place. Raises InputError if it is not found.

    `embeddings`: the table as the graph has it, and as it is stored.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph, nodes = model.graph, []
    floats = {one.name: numpy_helper.to_array(one) for one in graph.initializer if one.data_type == 1}
    for name, (dense, weight) in weights.items():
        own = _found(floats, dense)
        if own is None:
            raise InputError(f"the graph does not multiply by the weights of {name} as they are; needed: --to packed "
                             "or --to hf")
        nodes += _stored(graph, own, floats.pop(own).shape == dense.shape, weight)
    for node in reversed(nodes):
        graph.node.insert(0, node)
    if embeddings:
        _table(graph, _found(floats, embeddings[0]), embeddings[1])
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _found(floats: Mapping[str, np.ndarray], dense: np.ndarray) -> str | None:
    """The initializer that is this matrix, or its transpose."""
    return next((name for name, one in floats.items() if one.size == dense.size and one.ndim == 2 and any(
        one.shape == like.shape and np.array_equal(one, like) for like in (dense, dense.T))), None)


def _stored(graph, own: str, as_is: bool, weight: _Weight) -> list:
    """Replace the initializer `own` by what makes it again: the nodes that do."""
    from onnx import TensorProto, helper

    _drop(graph, own)
    codes = weight.codes if as_is else weight.codes.T
    if weight.codebook is not None:
        _add(graph, f"{own}_places", codes.astype(np.uint8))
        _add(graph, f"{own}_values", weight.codebook)
        return [helper.make_node("Cast", [f"{own}_places"], [f"{own}_at"], to=TensorProto.INT32),
                helper.make_node("Gather", [f"{own}_values", f"{own}_at"], [own])]
    kind = TensorProto.INT4 if weight.bits <= 4 else TensorProto.INT8
    _add(graph, f"{own}_quantized", codes[None].astype(np.int8), kind)
    _add(graph, f"{own}_scale", weight.scales.astype(np.float32))
    _add(graph, f"{own}_axis", np.zeros(1, np.int64))
    return [helper.make_node("DequantizeLinear", [f"{own}_quantized", f"{own}_scale"], [f"{own}_floats"],
                             axis=2 if as_is else 1),
            helper.make_node("Squeeze", [f"{own}_floats", f"{own}_axis"], [own])]


def _table(graph, own: str | None, table: Quantized) -> None:
    """Let every Gather from the word table take bytes, and multiply them by the scales of their rows."""
    from onnx import TensorProto, helper

    places = [at for at, node in enumerate(graph.node) if node.op_type == "Gather" and node.input[0] == own]
    if own is None or not places:
        raise InputError("the graph does not look words up in their table as it is; needed: --to packed or --to hf")
    _drop(graph, own)
    _add(graph, f"{own}_quantized", table.codes.astype(np.int8))
    _add(graph, f"{own}_scale", table.scales[:, None].astype(np.float32))
    for at in reversed(places):
        ids, out = graph.node[at].input[1], graph.node[at].output[0]
        graph.node.pop(at)
        for node in (helper.make_node("Mul", [f"{out}_float", f"{out}_scales"], [out]),
                     helper.make_node("Gather", [f"{own}_scale", ids], [f"{out}_scales"]),
                     helper.make_node("Cast", [f"{out}_bytes"], [f"{out}_float"], to=TensorProto.FLOAT),
                     helper.make_node("Gather", [f"{own}_quantized", ids], [f"{out}_bytes"])):
            graph.node.insert(at, node)


def _drop(graph, name: str) -> None:
    at = next(at for at, one in enumerate(graph.initializer) if one.name == name)
    del graph.initializer[at]


def _add(graph, name: str, array: np.ndarray, kind: int | None = None) -> None:
    """An initializer; `kind` INT4 takes two of a row in a byte."""
    from onnx import TensorProto, helper, numpy_helper

    if kind != TensorProto.INT4:
        graph.initializer.append(numpy_helper.from_array(array, name))
        return
    flat = np.pad(array.ravel(), (0, array.size % 2)).astype(np.uint8) & 15
    graph.initializer.append(helper.make_tensor(name, kind, array.shape, (flat[::2] | flat[1::2] << 4).tobytes(),
                                                raw=True))


class Executed(nn.Module):
    """The graph in ONNX Runtime, called as the model is, so that it can be scored like it."""

    def __init__(self, path: Path, config, threads: int = 1):
        super().__init__()
        self.config, self._run = config, engines.session("onnxruntime", path, threads)

    def forward(self, **inputs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.from_numpy(self._run(inputs)))
