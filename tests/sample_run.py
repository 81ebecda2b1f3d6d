"""A small run folder made with the real writer, for tests and screenshots: random norms that the penalty shrinks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prune_core.cutting.answers import SurfacePoint
from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.cutting.masks import BlockMask, mask_at, mask_at_sparsity, sparsity_of, zero_share
from prune_core.latency.profile import PathPrices, Prices, Profile
from prune_core.latency.strips import Blocking
from prune_core.latency.work import PASS
from prune_core.machine import machine, versions
from prune_core.runs.config import PruneConfig
from prune_core.runs.recorder import Recorder
from prune_core.runs.snapshots import Snapshot
from prune_core.runs.stages import Stage

_ENDINGS = {"query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
            "attention.output": "attention.output.dense", "intermediate": "intermediate.dense",
            "output": "output.dense"}


def make_layout(layers: int = 2, hidden: int = 64, inner: int = 128, block: str = "16x1") -> Layout:
    """A BERT-shaped layout; the rest of the model weighs as much as one layer."""
    sides = {"intermediate": (inner, hidden), "output": (hidden, inner)}
    matrices = [Matrix(f"bert.encoder.layer.{layer}.{ending}", layer, kind, *sides.get(kind, (hidden, hidden)))
                for layer in range(layers) for kind, ending in _ENDINGS.items()]
    rest = 4 * hidden * hidden + 2 * hidden * inner
    return Layout.of(matrices, BlockShape.parse(block), sum(m.m * m.n for m in matrices) + rest)


def make_norms(layout: Layout, seed: int = 0) -> dict[str, np.ndarray]:
    """Matrix name -> (groups down, groups across), float32: smooth hills with noise, 0.1 to about 1."""
    rng, norms = np.random.default_rng(seed), {}
    for matrix in layout.matrices:
        down, across = layout.block.grid(matrix.m, matrix.n)
        hills = 0.5 + 0.2 * np.outer(np.sin(np.arange(down) / 2 + matrix.layer), np.cos(np.arange(across) / 40))
        norms[matrix.name] = np.clip(hills + rng.normal(0, 0.12, (down, across)), 0.05, None).astype(np.float32)
    return norms


def shrunk(norms: dict[str, np.ndarray], amount: float) -> dict[str, np.ndarray]:
    """The norms after a penalty took `amount` off each: small ones become exactly 0."""
    return {name: np.maximum(values - np.float32(amount), 0) for name, values in norms.items()}


def make_surface(norms: dict[str, np.ndarray], layout: Layout, dense: float = 0.9) -> list[SurfacePoint]:
    """A dev score over the grid of sparsities 0, 0.05 ... 0.95 that falls as more is cut than training left."""
    points, zeros = [], zero_share(norms, layout)
    for wanted in np.arange(20) * 0.05:
        sparsity = mask_at_sparsity(norms, layout, float(wanted)).sparsity
        score = 0.51 + (dense - 0.51) / (1 + np.exp((sparsity - zeros - 0.3) * 14))
        points.append(SurfacePoint(round(float(wanted), 2), sparsity, float(score),
                                   score - 0.02, min(1.0, score + 0.02)))
    return points


def _snapshots(layout: Layout, compression: float, norms: dict, steps: int, moments: int) -> list[Snapshot]:
    """The snapshots of a run: dense, a penalty stage that reaches `compression`, masked retraining."""
    def end(phase, saved, norms, score, mask):
        point = {"sparsity": mask.sparsity, "compression_encoder": mask.compression_encoder,
                 "compression_model": mask.compression_model}
        return Snapshot(phase, steps, loss=0.2, zero_share=zero_share(norms, layout), scores={"accuracy": score},
                        examples=872, surface=make_surface(norms, layout, score), surface_examples=872, saved=saved,
                        point=point, norms=norms)

    target = sparsity_of(compression)
    amount = float(np.quantile(np.concatenate([v.ravel() for v in norms.values()]), target * 0.9))
    snapshots = [Snapshot("dense", step, loss=0.7 / (1 + step / steps))
                 for step in range(0, steps, max(1, steps // 10))]
    snapshots.append(end("dense", "dense", norms, 0.9, mask_at(norms, layout, 0.0)))
    for moment in range(1, moments + 1):
        now = shrunk(norms, amount * moment / moments)
        snapshots.append(Snapshot("penalty", moment * steps // (moments + 1), loss=0.4 + 0.1 / moment,
                                  penalty=3.0 / moment, lam=1e-3 * moment, zero_share=zero_share(now, layout),
                                  milestone=moment % 3 == 0, norms=now))
    mask = mask_at_sparsity(now, layout, target)
    snapshots.append(end("penalty", Stage.of("penalty", compression), now, 0.86, mask))
    kept = {name: np.where(mask.kept[name], values, np.float32(0)) for name, values in now.items()}
    retrain = Stage.of("retrain", compression)
    snapshots += [Snapshot(retrain, step, loss=0.35 - 0.1 * step / steps)
                  for step in range(0, steps, max(1, steps // 5))]
    return [*snapshots, end(retrain, retrain, kept, 0.885, mask)]


def make_run(runs_dir: Path, name: str = "sample", *, layout: Layout | None = None, data: str = "nyu-mll/glue",
             compression: float = 2.0, steps: int = 100, moments: int = 5, finish: bool = True,
             upto: int | None = None, scope: str = "global") -> Path:
    """A recorded run: its folder. `finish=False` leaves it interrupted; `upto` keeps only so many snapshots."""
    layout = layout or make_layout()
    config = PruneConfig(scope=scope, block=str(layout.block), compressions=(compression,),
                         data=data, dense_steps=steps, penalty_steps=steps, retrain_steps=steps, threads=2)
    task = "practice" if data == "practice" else "sst2"
    about = {"config": config.to_json(), "layout": layout.to_json(), "task": {"name": task, "metric": "accuracy"},
             "data": data, "majority_score": 0.5092, "machine": machine(), "versions": versions(),
             "command": f"python -m prune_core prune --block {layout.block} --run {name}-again"}
    Path(runs_dir).mkdir(parents=True, exist_ok=True)
    with Recorder.create(runs_dir, name, about) as recorder:
        for snapshot in _snapshots(layout, compression, make_norms(layout), steps, moments)[:upto]:
            recorder.append(snapshot)
        recorder.status(phase="penalty", step=steps + steps // 2, steps=3 * steps, doing="training", done=0, total=0,
                        seconds=42.0, seconds_left=61.0)
        if finish:
            recorder.finish({"run": name, "seconds": 120.0, "seconds_per_step": 0.4, "penalty_share": 0.05})
    return Path(runs_dir) / name


def make_profile(cpu: str = "") -> Profile:
    """A latency profile whose prices are round numbers: of this machine, or of another of that name.

    bf16 is twice as fast as fp32, int8 slower; OpenVINO in bf16 is the best dense engine.
    """
    def prices(each: float) -> dict[str, float]:
        return dict.fromkeys(PASS, 0.0) | {"call": 0.5, "multiply": each}

    paths = {"fp32": PathPrices(prices(1e-6), 0.05, Blocking(32, 14, 1)),
             "bf16 avx512": PathPrices(prices(5e-7), 0.06, Blocking(32, 13, 2)),
             "int8 vnni": PathPrices(prices(2e-6), 0.07, Blocking(32, 13, 4), slower=True)}
    rivals = {name: Prices(prices(each), 0.04) for name, each in
              (("torch fp32", 2e-6), ("torch bf16", 3e-6), ("onnxruntime fp32", 4e-6), ("onnxruntime int8", 4e-6),
               ("openvino fp32", 1.5e-6), ("openvino bf16", 5e-7))}
    here = machine()
    return Profile({"cpu": cpu or here["cpu"], "cores": here["cores"]}, 2, paths, rivals, masks=30, created=1.0)


def make_mask(share: float = 1.0, block: str = "16x1") -> BlockMask:
    """A random mask of make_layout that keeps this share."""
    layout, random = make_layout(block=block), np.random.default_rng(0)
    return BlockMask(layout, {m.name: random.random(layout.block.grid(m.m, m.n)) < share for m in layout.matrices})
