"""`python -m tests.bench memory` and `costs`: memory predicted and measured over a grid; what a large study costs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from bench.rivals import row

from prune_core.cutting.masks import BlockMask
from prune_core.execution import footprint
from prune_core.execution.footprint import Asked
from prune_core.hardware import costs, memory, sizes
from prune_core.hardware.memory import Way
from prune_core.latency.work import Batch
from prune_core.machine import processor
from prune_core.models import skeleton

GRID = {"minilm": ((1, 16), (8, 64), (32, 64), (32, 128), (8, 256), (8, 512)),
        "12x768": ((1, 16), (8, 64), (16, 128), (4, 512))}
MOST = 0.10  # of what is measured
KEPT = 1 / 3  # of the groups, where something is cut
LARGE, PARTS = "24x1024", 2  # a batch in so many parts, so that it fits beside other work


def rows_of_memory(only: str | None, size: str | None, held: bool) -> Iterator[dict]:
    """Every model in every batch: answering, training, our pass at 3x, heads and neurons taken out."""
    yield row(f"on {processor()}", 1, "thread")
    worst = 0.0
    for name, settings in ((name, of) for name, of in GRID.items() if only in (None, name)):
        made = skeleton.of(name)
        random, layout = np.random.default_rng(0), made.layout()
        mask = BlockMask(layout, {m.name: (random.random(layout.block.grid(m.m, m.n)) < KEPT)
                                  & (random.random((m.m // 64, 1)) < 0.7) for m in layout.matrices})
        for batch, length in ((b, n) for b, n in settings if size in (None, f"{b}x{n}")):
            setting = Batch(batch, length)
            for what, asked, parts in _questions(made, mask, setting):
                found = footprint.measure(made.config, asked)["mb"]
                predicted = memory.peak(parts)
                worst = max(worst, abs(predicted / found - 1))
                more = ""
                if held:
                    kept = footprint.measure(made.config, Asked(**vars(asked) | {"held": True}))["mb"]
                    more = f"; {kept:,.0f} MB with what the C library keeps"
                yield row(f"{name} {batch}x{length} {what}: {predicted:,.0f} MB predicted, {found:,.0f} measured{more}",
                          abs(predicted / found - 1), "of measured", MOST, below=True)
    yield row("the worst of them", worst, "of measured", MOST, below=True)


def _questions(made: skeleton.Skeleton, mask: BlockMask, setting: Batch) -> Iterator[tuple[str, Asked, memory.Parts]]:
    dense, small = made.sizes(), sizes.smaller(made.sizes(), mask, made.heads)
    asked = Asked("dense", setting.batch, setting.length)
    yield "answering", asked, memory.answering(dense, setting, Way())
    for words, way in (("training", Way("plain")), ("training, no dropout, fused", Way("fused", dropout=False)),
                       ("training in bf16", Way("plain", "bf16"))):
        yield words, Asked("dense", setting.batch, setting.length, True, way.attention, way.precision, way.dropout), (
            memory.training(dense, setting, way))
    yield "compact, our pass", footprint.with_mask(Asked("compact", setting.batch, setting.length), mask), (
        memory.compact(dense, mask, made.heads, setting))
    yield "training what is left of heads and neurons", footprint.with_mask(
        Asked("smaller", setting.batch, setting.length, True, "plain"), mask), memory.training(
        small, setting, Way("plain"))


def rows_of_costs(gpu: float | None, link: float, steps: int = 2) -> Iterator[dict]:
    """BERT-large size on all of MNLI with 20 settings. `gpu`: seconds a step that somebody measured on a GPU."""
    made = skeleton.of(LARGE, 3)
    study, trained = costs.MNLI, made.sizes(3).trained
    yield row(f"on {processor()}, {torch.get_num_threads()} threads", torch.get_num_threads(), "threads")
    wall, busy = _seconds(made, steps)
    yield row(f"{LARGE}, 32 x 128, fp32: seconds a step, by the clock", wall, "s")
    yield row("the same by the processor's own time, over its threads", busy, "s")
    yield row("steps of the study", study.steps, "steps")
    one = costs.cost(study, busy, 1, trained)
    yield row("1 CPU, like this machine", one.hours, "hours")
    if gpu is None:
        yield row("1 GPU: hours for each second that a step takes there (give it with --gpu)", study.steps / 3600,
                  "hours")
        return
    for devices in (1, 8, 64):
        got = costs.cost(study, gpu, devices, trained, link)
        yield row(f"{devices} GPU, {gpu:g} s a step as given, not measured here; a run shared by {got.shared_by}",
                  got.hours, "hours")


def _seconds(made: skeleton.Skeleton, steps: int) -> tuple[float, float]:
    """(by the clock, of processor time over threads) of a training step: forward and backward in PARTS, then AdamW."""
    model = skeleton.from_config(made.config).train()
    model.set_attn_implementation("eager")
    model.base_model.embeddings.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    ids = torch.randint(5, 30_000, (32 // PARTS, 128))
    labels, taken = torch.zeros(len(ids), dtype=torch.long), []
    for _ in range(steps + 1):  # the first warms up
        start = time.perf_counter(), time.process_time()
        for _ in range(PARTS):
            (model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss / PARTS).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        taken.append((time.perf_counter() - start[0], (time.process_time() - start[1]) / torch.get_num_threads()))
    wall, busy = (float(np.median([one[at] for one in taken[1:]])) for at in (0, 1))
    return wall, busy
