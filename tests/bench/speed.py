"""The parts of `python -m tests.bench speed`: generators of rows {what, figure, unit, aim, met}."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
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
from prune_core.execution import calibrate, native, paths, race
from prune_core.execution import timing as timing_
from prune_core.execution.alternate import alternate
from prune_core.execution.whole import small_model
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


SIZES = ((384, 384), (1536, 384), (384, 1536), (768, 768), (3072, 768), (768, 3072))  # outputs x inputs
SHARES = {"fp32": {0.5: 0.95, 0.67: None, 0.8: 0.9, 0.9: 0.75}, "bf16": {0.5: 0.9, 0.67: 0.8, 0.8: 0.6, 0.9: 0.4},
          "int8": {0.5: 0.9, 0.67: 0.75, 0.8: 0.6, 0.9: 0.4}}  # sparsity -> aim, of the ideal speedup


def runnable() -> list[str]:
    """The paths that run here, of every arithmetic."""
    return [path for own in paths.PATHS.values() for path in own if not paths.why_not(path)]


def linear() -> Iterator[dict]:
    """Matrices of MiniLM and of BERT-base size as the pass runs them, quantizing included, random groups, by each path:
    share of the ideal speedup over torch's dense product in the same precision, geometric mean of six sizes."""
    torch.set_num_threads(THREADS)
    for path in runnable():
        for tokens, rows in ((1024, 64), (4096, 64), (1024, 16), (32, 64)):
            for sparsity, aim in SHARES[path.split()[0]].items():
                shares = []
                for m, n in SIZES:
                    calls = {"dense": _dense(path.split()[0], m, n, tokens),
                             "strips": race.lines_call(path, m, n, tokens, 1 - sparsity, rows)}
                    with torch.inference_mode():
                        times = alternate(calls, 0.5, most=200)
                    shares.append(times["dense"].median / times["strips"].median * (1 - sparsity))
                mean = float(np.exp(np.mean(np.log(shares))))
                yield row(f"{path}, {tokens} tokens, {rows}x1, {sparsity:.0%} cut "
                          f"({min(shares):.2f} to {max(shares):.2f})", mean, "of ideal",
                          aim if tokens >= 1024 and rows == 64 else None)


def _dense(dtype: str, m: int, n: int, tokens: int) -> Callable[[], torch.Tensor]:
    """torch's product of the same size and precision."""
    if dtype == "int8":
        x, weight = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in ((tokens, n), (n, m)))
        return lambda: torch._int_mm(x, weight)
    kind = torch.float32 if dtype == "fp32" else torch.bfloat16
    x, weight, bias = (torch.randn(*shape).to(kind) for shape in ((tokens, n), (m, n), (m,)))
    return lambda: F.linear(x, weight, bias)


def encoder() -> Iterator[dict]:
    """Whole MiniLM with the masks of the recorded run, by each path, against dense torch in fp32."""
    for compression, aim in ((5.0, 3.0), (2.0, 1.6)):
        model, mask = minilm(compression)
        for batch, length in ((32, 128), (32, 32), (1, 32)):
            for path in runnable():
                measured = timing_.measure(model, mask, Batch(batch, length), THREADS, path.split()[0], 5, path=path)
                aimed = path == "fp32" and (batch, length) == (32, 128)
                yield row(f"MiniLM at {compression:g}x, batch {batch}, length {length}, {path} over torch fp32 "
                          f"({measured['dense_ms']:.1f} -> {measured['compact_ms']:.1f} ms)",
                          measured["speedup"], "x dense", aim if aimed else None)
                for at, engine in ((1, "dense"), (2, "compact")) if path == "fp32" else ():
                    together = sum(layer[at] for layer in measured["layers_ms"])
                    yield row(f"the same, its {engine} layers one by one, together",
                              together / measured[f"{engine}_ms"], "of the whole", 2.0, below=True)


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

    def exact(path: str):
        start = time.perf_counter()
        small = small_model(bench.encoder.model, mask, path.split()[0], path)
        for running in dev_score.stream(small, bench.task, bench.dev):
            if running.done <= FIRST and path == "fp32":
                first.append(time.perf_counter() - start)

    there = runnable()
    times = alternate({"plain": plain} | {path: (lambda path=path: exact(path)) for path in there}, 30)
    for path in there:
        yield row(f"exact SST-2 dev score at 50%, {path} ({times['plain'].median:.0f} -> {times[path].median:.0f} ms, "
                  "building the model included)",
                  times["plain"].median / times[path].median, "x plain", 8.0 if path == "fp32" else None)
    yield row("first running score after", 1e3 * float(np.median(first)), "ms", 100.0, below=True)


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
    """The latency model's error of each path and rival, on masks it has not seen and on those of the recorded run;
    calibrates where this machine was not yet."""
    if native.library() is None:
        return
    profile = own_profile()
    if profile is None:
        *_, profile = calibrate.calibrate(THREADS)
        profile_files.write(profile, profile_files.own_file(machine(), THREADS))
    for path, prices in profile.paths.items():
        yield row(f"latency model, {path}: median error over {profile.masks} masks not used to calibrate",
                  prices.error, "of measured", 0.1 if path == "fp32" else None, below=True)
    for rival, prices in profile.rivals.items():
        yield row(f"latency model: the same for the dense model, {rival}", prices.error, "of measured")
    yield from recorded_masks(profile)


def recorded_masks(profile: Profile) -> Iterator[dict]:
    """Predicted against measured for the masks of the recorded run at 2x and 5x, in two settings, by each path."""
    torch.set_num_threads(THREADS)
    model, masks = minilm(1)[0], {cut: minilm(cut)[1] for cut in (2, 5)}
    there = [path for path in runnable() if path in profile.paths]
    smalls = {(path, cut): small_model(model, mask, path.split()[0], path)
              for path in there for cut, mask in masks.items()}
    errors = {path: {} for path in there}
    for setting in (Batch(32, 128), Batch(8, 64)):
        inputs = timing_.sentences(model, setting)
        calls = {key: timing_.forward(small, inputs) for key, small in smalls.items()}
        for (path, cut), measured in alternate(calls, 10, settles=timing_.SETTLES).items():
            predicted = profile.path_ms(path, masks[cut], setting, heads_of(model, masks[cut].layout.matrices))
            errors[path][f"{cut}x in {setting.batch}x{setting.length}"] = predicted / measured.median - 1
    for path, off in errors.items():
        each = ", ".join(f"{what} {error:+.1%}" for what, error in off.items())
        yield row(f"latency model, {path}: median error over masks of the recorded run ({each})",
                  float(np.median(np.abs(list(off.values())))), "of measured", 0.08, below=True)


PARTS = {"linear": linear, "encoder": encoder, "penalty": penalty, "engines": rivals.engines, "score": score,
         "large": large, "model": model}
