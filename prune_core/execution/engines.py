"""The engines that people deploy on: a model as ONNX, and ONNX Runtime and OpenVINO to run it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError

LARGEST = 2**31 - 2**24  # bytes of weights that one ONNX file holds, with room for the graph
ENGINES = ("torch", "onnxruntime", "openvino")
Inputs = Mapping[str, torch.Tensor]  # input_ids, attention_mask: (batch, length)


class _Logits(nn.Module):
    """The model as a graph has it: ids and mask (and which of a pair a token belongs to) in, logits out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits


def to_onnx(model: nn.Module, path: Path, types: bool = False) -> Path:
    """Write `model` (dense, or compact without kernels) as ONNX, for any batch and length, and return `path`.

    In: input_ids and attention_mask (batch, length); out: logits (batch, classes). `types`: token_type_ids as a
    third input, without which all tokens count as of the first sentence.
    """
    ids = torch.randint(5, model.config.vocab_size, (2, 12))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if types:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    said = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # the exporter tells its life in a dozen loggers, and prints whole graphs
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(model).eval(), tuple(inputs.values()), str(path),
                dynamo=True, external_data=False, verbose=False,
                input_names=list(inputs), output_names=["logits"], dynamic_shapes=(axes,) * len(inputs))
    finally:
        logging.disable(said)
    return path


def onnx_bytes(model: nn.Module) -> int:
    """Bytes of the weights that a graph of `model`, compact without kernels, would hold."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    tensors |= {id(t): t for m in model.modules() if isinstance(t := getattr(m, "dense", None), torch.Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def quantized(path: Path, to: Path | None = None) -> Path:
    """The same graph with dynamic int8 weights, in `to` or else beside it."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path)
    del graph.graph.value_info[:]  # shapes that the exporter noted contradict those that the quantizer infers
    small = to or path.with_name(path.stem + "-int8.onnx")
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        quantize_dynamic(graph, small, weight_type=QuantType.QInt8)
    finally:
        logging.getLogger().setLevel(level)
    return small


def forward(model: nn.Module, inputs: Inputs, dtype: str = "fp32") -> Callable[[], object]:
    """A call of the model in torch on `inputs`, without gradients; bf16 as torch autocasts it."""
    def call():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            return model(**inputs).logits

    return call


def session(engine: str, path: Path, threads: int, dtype: str = "fp32") -> Callable[[Inputs], np.ndarray]:
    """A function of inputs that gives logits (batch, classes). Raises InputError for an unknown engine or dtype."""
    check(engine, dtype)
    return _onnxruntime(path, threads) if engine == "onnxruntime" else _openvino(path, threads, dtype)


def check(engine: str, dtype: str) -> None:
    """Raises InputError where a graph cannot be run so."""
    if dtype not in {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}.get(engine, ()):
        raise InputError(f"engine {engine!r} with {dtype} is not known here; "
                         "needed: onnxruntime with fp32, or openvino with fp32 or bf16")


def _onnxruntime(path: Path, threads: int) -> Callable[[Inputs], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in opened.get_inputs()]
    return lambda inputs: opened.run(None, {name: inputs[name].numpy() for name in names})[0]


def _openvino(path: Path, threads: int, dtype: str) -> Callable[[Inputs], np.ndarray]:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[dtype],
             "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    opened = openvino.Core().compile_model(str(path), "CPU", hints)
    return lambda inputs: opened({name: inputs[name].numpy() for name in ("input_ids", "attention_mask")})[0]
