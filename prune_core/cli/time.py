"""Commands that time: a run's cut, patterns of zeros, this machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from typer import Option

from prune_core import InputError, files
from prune_core.cli.options import AsJson, Device, Dtype, Phase, RunsDir, Scope, Sparsity, Threads, Threshold, cut_of
from prune_core.cli.tell import clock, tell
from prune_core.cutting.masks import times
from prune_core.latency.profile import Batch
from prune_core.runs import places, shelf
from prune_core.runs.settings import default_stage


def measure(
    run: str,
    sparsity: Sparsity = None,
    threshold: Threshold = None,
    scope: Scope = None,
    phase: Phase = None,
    batch: Annotated[int, Option(help="Sentences in a batch.")] = 32,
    length: Annotated[int, Option(help="Tokens of a sentence.")] = 128,
    dtype: Dtype = "fp32",
    path: Annotated[str | None, Option(
        help="Kernels to force: bf16 amx, bf16 avx512, int8 amx, int8 vnni; default: the fastest.")] = None,
    engine: Annotated[str, Option(
        help="torch: our pass over the compact model; onnxruntime or openvino: dense and compact as ONNX graphs "
             "there.")] = "torch",
    rivals: Annotated[str | None, Option(
        help="Dense engines to time beside it: all, none (torch fp32 alone), or names with commas, as in "
             "'torch bf16,openvino bf16'; default with engine torch: all that are installed.")] = None,
    seconds: Annotated[float, Option(help="How long to measure.")] = 6.0,
    profile: Annotated[Path | None, Option(help="Latency profile to predict with; default: this machine's.")] = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time the dense model in every engine, the unpruned model in our pass and the compact one in turn, here. Needs
    no weights of the run: a latency does not depend on their values."""
    from prune_core.evaluation import speedup
    from prune_core.models import devices

    asked, many = shelf.find(run, runs_dir), Batch(batch, length)
    cut = cut_of(asked, sparsity, threshold, scope)
    stage = phase or default_stage(asked, sparsity, weights=False)
    with _progress() as told:
        result = speedup.measure(asked, stage, cut, many, threads, dtype, seconds, profile, engine, rivals, path, told,
                                 devices.pick(device))
    tell(result, as_json, _measured_text)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    """Hears (share done, in words), and shows it as a bar with the time left on stderr, a line for each new thing."""
    from tqdm import tqdm

    with contextlib.ExitStack() as closing:  # no bar before what may be refused
        bars, begun = [], []

        def told(share: float, words: str) -> None:
            begun.append((share, time.monotonic()))
            first, at = next(one for one in begun if one[0] > 0 or share == 0)  # what comes before is no rate
            left = clock((begun[-1][1] - at) / (share - first) * (1 - share) if share > first else None)
            if not bars:
                bars.append(closing.enter_context(tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar:24}| {desc}")))
            bars[0].n = share
            bars[0].set_description_str(f"{words}, {left} left")

        yield told


def _measured_text(r: dict) -> str:
    predicted = f", predicted {r['predicted_ms']:.1f} ms" if r["predicted_ms"] else ""
    lines = [f"{r['run']} {r['phase']} at sparsity {r['sparsity']:.4f} (encoder {times(r['compression_encoder'])}), "
             f"batch {r['batch']}, length {r['length']}, {r['threads']} threads, {r['engine']}, "
             f"{_executed(r)}, on {r['processor']}{predicted}: {_headline(r)}"]
    for name, ms in sorted(r["rivals_ms"].items(), key=lambda item: item[1]):
        lines.append(f"  {name:18} {ms:9.1f} ms  compact is {ms / r['compact_ms']:.2f} times as fast")
    if r["unpruned_ms"]:
        lines.append(f"  {'unpruned, our pass':18} {r['unpruned_ms']:9.1f} ms")
    lines.append(f"  {'compact':18} {r['compact_ms']:9.1f} ms")
    lines += [f"  {name}: left out, {why}" for name, why in r["rivals_left_out"].items()]
    return "\n".join([*lines, *filter(None, [r["apart"]])])


def _executed(r: dict) -> str:
    """'bf16 (bf16 avx512)'; where another arithmetic ran than was asked for, that and why."""
    ran = r["executed"]
    named = ran["dtype"] if ran["path"] in (ran["dtype"], r["engine"]) else f"{ran['dtype']} ({ran['path']})"
    instead = r["dtype"] not in (ran["dtype"], "auto")
    return named + (f" instead of {r['dtype']}" + f": {ran['why']}" * bool(ran["why"])) * instead


def _headline(r: dict) -> str:
    """Compact against the best dense engine, what of it is the pass and what pruning, and against dense torch."""
    best, many = r["best_rival"], len(r["rivals_ms"]) > 1
    text = (f"compact {r['compact_ms']:.1f} ms against {'the best dense engine found' if many else 'dense'} "
            f"({best}, {r['rivals_ms'][best]:.1f} ms): {r['speedup_over_best']:.2f}x")
    if r["unpruned_ms"]:
        text += f"; of it {r['from_pass']:.2f}x from the pass and {r['from_pruning']:.2f}x from pruning"
    return text + f"; over dense torch fp32 {r['speedup']:.2f}x" * (best != "torch fp32" and r["engine"] == "torch")


def shapes(
    sparsity: Annotated[float, Option(help="Share of the weights that is zero, in every pattern alike.")] = 0.8,
    seconds: Annotated[float, Option(help="How long to measure.")] = 6.0,
    to: Annotated[Path | None, Option(help="Write the result to this file as well.")] = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Time one matrix with the same share of zeros in different patterns: single weights, tiles, strips; against the
    dense product."""
    from prune_core.execution.shapes import shapes as timed

    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity {sparsity:g} is out of range; needed: 0 up to but not including 1")
    result = timed(sparsity, threads, seconds)
    if to is not None:
        try:
            files.write_json(to, result)
        except OSError as error:
            raise InputError(f"the result cannot be written to {str(to)!r}: {error.strerror or error}") from None
    tell(result, as_json, _shapes_text)


def _shapes_text(r: dict) -> str:
    return "\n".join(f"{one['pattern']:18} {one['ms']:8.3f} ms  {one['speedup']:5.2f}x  {one['executed']}"
                     for one in r["patterns"])


def calibrate(
    to: Annotated[Path | None, Option(
        help="Write the profile here, to be read on another machine; default: this machine's place.")] = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Fit the latency model to this machine: a few minutes of timing random encoders, in every precision that runs here
    and in every dense engine that is installed."""
    from tqdm import tqdm

    from prune_core import machine
    from prune_core.execution.calibrate import calibrate as timed
    from prune_core.latency import profile_files

    threads = threads or os.cpu_count() or 1
    path = to or profile_files.own_file(machine.machine(), threads)
    profile_files.check_writable(path)  # now, not after minutes
    with tqdm(bar_format="{percentage:3.0f}%|{bar:24}| {desc}") as bar:
        for step in timed(threads):  # how far it is, at last the profile
            if isinstance(step, tuple):
                bar.n, bar.total = step.done, step.total
                bar.set_description_str(f"{step.done}/{step.total} timed, {clock(step.seconds_left)} left")
    before = profile_files.kept_aside(path)
    profile_files.write(step, path)
    tell(step.to_json() | {"path": str(path), "kept": before and str(before)}, as_json, _calibrated_text)


def _calibrated_text(r: dict) -> str:
    def errors(of: dict) -> str:
        return ", ".join(f"{name} {one['error']:.1%}" + " (slower than fp32, not taken)" * one.get("slower", False)
                         for name, one in of.items())

    kept = f"\nWhat was there of another format is kept as {r['kept']}" if r["kept"] else ""
    return (f"{r['path']}: {r['threads']} threads\nMedian error over {r['masks']} masks that were not fitted: "
            f"{errors(r['paths'])}\nDense engines: {errors(r['rivals'])}{kept}")
