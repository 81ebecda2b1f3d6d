"""The part `engines` of `python -m tests.bench speed`: compact models against the best dense engine, in one sitting."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from prune_core.cutting.blocks import BlockShape, Layout
from prune_core.cutting.masks import BlockMask, mask_at_sparsity, sparsity_of
from prune_core.execution import engines as engines_
from prune_core.execution import paths, rivals
from prune_core.execution.alternate import alternate
from prune_core.execution.compact import compact
from prune_core.execution.timing import SETTLES, forward, sentences
from prune_core.execution.whole import small_model
from prune_core.latency.profile import DTYPES, Batch, uncut
from prune_core.machine import processor
from prune_core.models import encoders
from prune_core.runs import places
from prune_core.runs.run import Run

THREADS = 2
RUN = "sst2-minilm-64x1"
BASE_RIVALS = ("torch bf16", "onnxruntime int8", "openvino bf16")  # the others take seconds for a batch
GRAPHS = ("onnxruntime fp32", "onnxruntime int8", "openvino fp32", "openvino bf16")
CUTS = (1, 2, 3, 5)
# (model, dtype) -> times faster than the best dense engine at each of CUTS, on a processor with AMX
AIMS = {("MiniLM", "bf16"): (1.5, 2.3, 2.8, 3.5), ("BERT-base size", "bf16"): (1.2, 2.0, 2.7, 3.6),
        ("BERT-base size", "int8"): (1.6, 2.4, 3.1, 3.8)}
ONE_SENTENCE = {2: 2.0, 5: 4.0}


def row(what: str, figure: float, unit: str, aim: float | None = None, below: bool = False) -> dict:
    """One line; met when the figure is at least the aim (at most, with `below`)."""
    met = aim is None or (figure <= aim if below else figure >= aim)
    return {"what": what, "figure": figure, "unit": unit, "aim": aim, "met": met}


def minilm(compression: float) -> tuple[torch.nn.Module, BlockMask]:
    """The embedded checkpoint and the mask that the recorded SST-2 run reached at this compression; 1: nothing cut."""
    run, model = Run(places.RECORDED / RUN), encoders.load("minilm", 2).model.eval()
    if compression == 1:
        return model, uncut(run.layout)
    norms = run.norms(run.saved(f"penalty-{compression:g}x"))
    return model, mask_at_sparsity(norms, run.layout, sparsity_of(compression))


def bert_base() -> tuple[torch.nn.Module, Layout]:
    """A random encoder of BERT-base size, and how 64x1 divides it."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=12)).eval()
    return model, encoders.describe("BERT-base", model, None).layout(BlockShape(64, 1))


def engines() -> Iterator[dict]:
    """MiniLM and BERT-base size, unpruned and at 2x, 3x and 5x, in every arithmetic, over the best dense engine."""
    torch.set_num_threads(THREADS)
    yield row(f"on {processor()}", THREADS, "threads")
    minilms = {cut: minilm(cut) for cut in CUTS}
    model, masks = minilms[1][0], {cut: mask for cut, (_, mask) in minilms.items()}
    yield from in_one_sitting("MiniLM", model, masks, DTYPES, rivals.NAMES, 5, graphs=True)
    yield from one_sentence(model, masks)
    model, layout = bert_base()
    random = np.random.default_rng(0)
    masks = {cut: uncut(layout) if cut == 1 else BlockMask(layout, {
        m.name: random.random(layout.block.grid(m.m, m.n)) < 1 / cut for m in layout.matrices}) for cut in CUTS}
    yield from in_one_sitting("BERT-base size", model, masks, ("bf16", "int8"), BASE_RIVALS, 3)


def in_one_sitting(name: str, model: torch.nn.Module, masks: Mapping[int, BlockMask], dtypes: tuple[str, ...],
                   names: tuple[str, ...], least: int, graphs: bool = False) -> Iterator[dict]:
    """All rivals and every mask in every arithmetic, one after the other, round by round, 32 x 128."""
    inputs = sentences(model, Batch(32, 128))
    smalls = {(dtype, cut): small_model(model, mask, dtype) for dtype in dtypes for cut, mask in masks.items()}
    with tempfile.TemporaryDirectory() as folder:
        calls, left_out = rivals.calls(model, inputs, names, Path(folder))
        if graphs:
            calls |= compact_graphs(compact(model, masks[5], kernels=False), inputs, Path(folder))
        calls |= {key: forward(small, inputs) for key, small in smalls.items()}
        ms = {key: timing.median for key, timing in alternate(calls, 20, least=least).items()}
    dense = {rival: ms[rival] for rival in names if rival in ms}
    best = min(dense, key=dense.get)
    for rival, why in left_out.items():
        yield row(f"{name}: {rival} is left out: {why}", 0.0, "")
    for rival, took in dense.items():
        yield row(f"{name} dense, {rival}", took, "ms")
    for (dtype, cut), small in smalls.items():
        aims = AIMS.get((name, dtype), (None,) * len(CUTS)) if has_amx() else (None,) * len(CUTS)
        took, own = ms[dtype, cut], ms[dtype, 1]
        ran = small.choice.path if small.choice.path.startswith(dtype) else f"{small.choice.path}, not {dtype}"
        yield row(f"{name} at {cut}x, {ran}, over {best} ({dense[best]:.1f} -> {took:.1f} ms; "
                  f"pass {dense[best] / own:.2f}x, pruning {own / took:.2f}x)",
                  dense[best] / took, "x best", aims[CUTS.index(cut)])
    if graphs:
        yield from over_each(name, dense, ms)


def over_each(name: str, dense: Mapping[str, float], ms: Mapping) -> Iterator[dict]:
    """At 5x in fp32 over every rival, and in each engine the compact graph over the dense one."""
    for rival, took in dense.items():
        yield row(f"{name} at 5x, fp32, over {rival} ({took:.1f} -> {ms['fp32', 5]:.1f} ms)", took / ms["fp32", 5],
                  "x faster", 3.0 if rival == rivals.DENSE else 1.0)
    for rival in (rival for rival in GRAPHS if rival in dense and f"compact {rival}" in ms):
        own = ms[f"compact {rival}"]
        yield row(f"compact graph against dense graph in {rival} ({dense[rival]:.1f} -> {own:.1f} ms)",
                  dense[rival] / own, "x dense", 1.5)


def compact_graphs(small: torch.nn.Module, inputs: Mapping[str, torch.Tensor], folder: Path) -> rivals.Calls:
    """'compact openvino bf16' -> its call, for every graph engine, which must agree with torch in fp32."""
    graph = engines_.to_onnx(small, folder / "compact.onnx")
    with torch.inference_mode():
        wanted = small(**inputs).logits.numpy()
    calls = {}
    for name in GRAPHS:
        engine, dtype = name.split()
        if rivals.missing(engine):
            continue
        path, kind = (engines_.quantized(graph), "fp32") if dtype == "int8" else (graph, dtype)
        run = engines_.session(engine, path, THREADS, kind)
        if dtype == "fp32" and (off := np.abs(run(inputs) - wanted).max()) > 1e-4:
            raise AssertionError(f"logits of the compact graph in {engine} are off by {off:.2g}; at most 1e-4")
        calls[f"compact {name}"] = lambda run=run: run(inputs)
    return calls


def one_sentence(model: torch.nn.Module, masks: Mapping[int, BlockMask]) -> Iterator[dict]:
    """One sentence of 32 tokens, in the fastest arithmetic, over the best dense engine."""
    inputs = sentences(model, Batch(1, 32))
    smalls = {cut: small_model(model, masks[cut], "auto") for cut in (1, *ONE_SENTENCE)}
    with tempfile.TemporaryDirectory() as folder:
        calls, _ = rivals.calls(model, inputs, rivals.NAMES, Path(folder))
        calls |= {cut: forward(small, inputs) for cut, small in smalls.items()}
        ms = {key: timing.median for key, timing in alternate(calls, 6, settles=SETTLES).items()}
    best = min((key for key in ms if key not in smalls), key=ms.get)
    for cut, small in smalls.items():
        yield row(f"MiniLM at {cut}x, one sentence of 32 tokens, {small.choice.path}, over {best} "
                  f"({ms[best]:.2f} -> {ms[cut]:.2f} ms)", ms[best] / ms[cut], "x best",
                  ONE_SENTENCE.get(cut) if has_amx() else None)


def has_amx() -> bool:
    """Whether the aims, which are for processors with AMX, are for this one."""
    return not paths.why_not("bf16 amx")
