"""The parts of `python -m tests.bench speed`: generators of rows {what, figure, unit, aim, met}."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bench import rivals
from bench.rivals import RUN, THREADS, minilm, row
from torch.nn import functional as F

from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.evaluation import dev_score
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.dev_score import FIRST
from prune_core.execution import calibrate, native
from prune_core.execution import timing as timing_
from prune_core.execution.compact import CompactLinear, compact
from prune_core.execution.timing import alternate
from prune_core.execution.unpadded import unpad_
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch, Profile
from prune_core.machine import machine
from prune_core.models import encoders
from prune_core.models.encoders import heads_of
from prune_core.runs import places
from prune_core.runs.config import preset
from prune_core.runs.run import Run
from prune_core.training import session

GLUE = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "glue"


def linear() -> Iterator[dict]:
    """The six matrices of a BERT-base layer, random groups: share of the ideal speedup over torch's dense product."""
    torch.set_num_threads(THREADS)
    aims = {(1024, 64): (0.95, 0.9, 0.75), (4096, 64): (0.95, 0.9, 0.75),
            (1024, 16): (0.85, 0.8, 0.65), (4096, 16): (0.85, 0.8, 0.65),
            (32, 64): (0.9, 0.8, 0.6), (32, 16): (0.9, 0.8, 0.6)}
    random = np.random.default_rng(0)
    for (tokens, rows), aim in aims.items():
        for sparsity, least in zip((0.5, 0.8, 0.9), aim, strict=True):
            dense = fast = 0.0
            for m, n, count in ((768, 768, 4), (3072, 768, 1), (768, 3072, 1)):
                weight, bias, x = torch.randn(m, n), torch.randn(m), torch.randn(tokens, n)
                block = BlockShape(rows, 1)
                layer = CompactLinear(weight, bias, random.random(block.grid(m, n)) >= sparsity, block)
                with torch.inference_mode():
                    calls = {"dense": lambda: F.linear(x, weight, bias), "compact": lambda: layer(x)}  # noqa: B023
                    times = alternate(calls, 1.0, most=300)
                dense, fast = dense + count * times["dense"].median, fast + count * times["compact"].median
            yield row(f"BERT-base linear layers, {tokens} tokens, {rows}x1, {sparsity:.0%} cut "
                      f"({dense:.2f} -> {fast:.2f} ms)",
                      dense / fast * (1 - sparsity), "of ideal", least)


def encoder() -> Iterator[dict]:
    """Whole MiniLM with the masks of the recorded run, against dense torch."""
    for compression, aim in ((5.0, 3.0), (2.0, 1.6)):
        model, mask = minilm(compression)
        for batch, length in ((32, 128), (32, 32), (1, 32)):
            measured = timing_.measure(model, mask, Batch(batch, length), THREADS, seconds=5)
            yield row(f"MiniLM at {compression:g}x, batch {batch}, length {length}, fp32 "
                      f"({measured['dense_ms']:.1f} -> {measured['compact_ms']:.1f} ms)",
                      measured["speedup"], "x dense", aim if (batch, length) == (32, 128) else None)
            for at, engine in ((1, "dense"), (2, "compact")):
                together = sum(layer[at] for layer in measured["layers_ms"])
                yield row(f"the same, its {engine} layers one by one, together", together / measured[f"{engine}_ms"],
                          "of the whole", 2.0, below=True)


def penalty() -> Iterator[dict]:
    """What the penalty adds to a training step of MiniLM."""
    data = str(GLUE) if GLUE.is_dir() else "practice"
    config = preset("quick", task="rte", data=data, dense_steps=1, penalty_steps=20, retrain_steps=1, batch_size=8,
                    max_length=48, train_examples=64, dev_examples=32, surface_examples=8, moments=2, threads=THREADS,
                    precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        result = session.start(config, Path(folder), "penalty", "python -m tests.bench speed", lambda *_: None)
    yield row("the penalty's share of a step of MiniLM", result["penalty_share"], "of a step", 0.5, below=True)


def score() -> Iterator[dict]:
    """The exact SST-2 dev score at half the weights, against the dense model in padded batches of 64, unsorted."""
    if not GLUE.is_dir():
        return
    torch.set_num_threads(THREADS)
    run = Run(places.RECORDED / RUN)
    bench = Bench(run, "dense", str(GLUE))
    mask = mask_at_sparsity(run.norms(run.saved("penalty-2x")), run.layout, 0.5)
    data = bench.dev["validation"]
    first = []

    def plain():
        with torch.inference_mode():
            return [bench.encoder.model.eval()(**data.batch(range(i, min(i + 64, len(data))))[0]).logits
                    for i in range(0, len(data), 64)]

    def exact():
        start = time.perf_counter()
        small = compact(bench.encoder.model, mask)
        unpad_(small)
        for running in dev_score.stream(small, bench.task, bench.dev):
            if running.done <= FIRST:
                first.append(time.perf_counter() - start)

    times = alternate({"plain": plain, "exact": exact}, 20)
    yield row(f"exact SST-2 dev score at 50% ({times['plain'].median:.0f} -> {times['exact'].median:.0f} ms, "
              f"building the model included)",
              times["plain"].median / times["exact"].median, "x plain", 5.0)
    yield row("first running score after", 1e3 * float(np.median(first)), "ms", 200.0, below=True)


def large() -> Iterator[dict]:
    """Random encoders of BERT-base and BERT-large size through compact, measure and predict."""
    from transformers import BertConfig, BertForSequenceClassification

    random = np.random.default_rng(0)
    for name, hidden, layers, heads in (("BERT-base", 768, 12, 12), ("BERT-large", 1024, 24, 16)):
        config = BertConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                            intermediate_size=4 * hidden)
        model = BertForSequenceClassification(config).eval()
        layout = encoders.describe(name, model, None).layout(BlockShape(64, 1))
        mask = BlockMask(layout, {m.name: random.random(layout.block.grid(m.m, m.n)) < 0.25 for m in layout.matrices})
        measured = timing_.measure(model, mask, Batch(8, 64), THREADS, seconds=3)
        yield row(f"{name} size at 4x, batch 8, length 64 "
                  f"({measured['dense_ms']:.0f} -> {measured['compact_ms']:.0f} ms)", measured["speedup"], "x dense")
        if profile := own_profile():
            start = time.perf_counter()
            predicted = profile.compact_ms(mask, Batch(8, 64), heads_of(model, mask.layout.matrices))
            yield row(f"{name} size: predicted {predicted:.0f} ms, off by",
                      abs(predicted / measured["compact_ms"] - 1), "of measured")
            yield row(f"{name} size: a prediction takes", 1e3 * (time.perf_counter() - start), "ms")


def own_profile() -> Profile | None:
    path = profile_files.own_file(machine(), THREADS)
    return profile_files.read(path) if path.exists() else None


def model() -> Iterator[dict]:
    """The latency model's error on masks it has not seen; calibrates where this machine was not yet."""
    if native.library() is None:
        return
    profile = own_profile()
    if profile is None:
        *_, profile = calibrate.calibrate(THREADS)
        profile_files.write(profile, profile_files.own_file(machine(), THREADS))
    yield row(f"latency model: median error over {profile.masks} masks not used to calibrate",
              profile.error, "of measured", 0.1, below=True)
    yield row("latency model: the same for the dense model", profile.error_dense, "of measured")


PARTS = {"linear": linear, "encoder": encoder, "penalty": penalty, "engines": rivals.engines, "score": score,
         "large": large, "model": model}
