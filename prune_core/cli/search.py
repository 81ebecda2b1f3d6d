"""The command that searches for a mixture of settings, one for each matrix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

from typer import Option

from prune_core import InputError
from prune_core.cli.options import AsJson, Data, Device, RunsDir, Threads, Weights, numbers
from prune_core.cli.tell import tell
from prune_core.precision import mixture
from prune_core.runs import places, shelf
from prune_core.tasks.metrics import in_words


class Interrupted(Exception):
    """Stopped by Ctrl-C; what was measured is kept."""


# long: limits, what may be chosen, how it is measured
def search(
    run: str,
    ratio: Annotated[float | None, Option(
        help="The encoder's bytes in fp32 over those stored, index included, of at least.")] = None,
    bytes_: Annotated[int | None, Option("--bytes", help="Bytes of the whole model, of at most.")] = None,
    speedup: Annotated[float | None, Option(
        help="How many times as fast as the best dense engine, of at least, as this machine's profile predicts; then "
             "only blocks are chosen.")] = None,
    phase: Weights = "dense",
    by: Annotated[str | None, Option(
        help="What is cut first: norm, or a ranking that `score` has recorded; default: the best recorded.")] = None,
    shares: Annotated[str, Option(help="Shares of a matrix's blocks to cut.")] = "0.5,0.75,0.9",
    patterns: Annotated[str | None, Option(
        help=f"N:M patterns, or none; default: those of {', '.join(mixture.PATTERNS)} that fit the blocks.")] = None,
    bits: Annotated[str, Option(help="Bits of the weights that stay.")] = ",".join(mixture.BITS),
    sentences: Annotated[int, Option(
        help="Training sentences behind every loss, none of which a repair sees; as many others decide.")] = 384,
    dtype: Annotated[str, Option(help="Arithmetic of --speedup: fp32, bf16, int8, or auto.")] = "auto",
    data: Data = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """The best mixture for a size or a speed: for each matrix dense, a pattern or blocks, and bits, by the loss on
    training sentences; beside it the best uniform setting, both scored exactly. What is measured is kept: the same
    command goes on, another limit is quick."""
    from prune_core.evaluation import search as searching
    from prune_core.evaluation.limits import Target
    from prune_core.execution import paths
    from prune_core.models import devices

    target = Target(ratio, bytes_, speedup)
    target.check()
    if sentences < 1:
        raise InputError(f"sentences {sentences} are out of range; needed: 1 or more")
    wanted = searching.Wanted(numbers(shares, "share") if shares != "none" else (),
                              None if patterns is None else _words(patterns), _words(bits), by,
                              sentences=sentences, dtype=paths.check(dtype))
    asked = shelf.find(run, runs_dir)
    if patterns is None and speedup is None and (line := mixture.usual_patterns(asked.layout)[1]):
        print(f"note: {line}", file=sys.stderr, flush=True)
    answer = _last(searching.search(asked, phase, target, wanted, data, threads, devices.pick(device)))
    tell(answer, as_json, _text)


def _words(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(part.strip() for part in text.split(","))


def _last(steps: Iterator[tuple]) -> dict:
    """The answer at the end, with a bar and the time left on stderr. Raises Interrupted."""
    from tqdm import tqdm

    layout, bar, answer = "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} {desc}, {remaining} left", None, {}
    try:
        for done, total, answer in steps:
            if isinstance(answer, str):
                bar = bar or tqdm(bar_format=layout, mininterval=0.5)
                bar.total = total
                bar.set_description_str(answer, refresh=False)
                bar.update(done - bar.n)
    except KeyboardInterrupt:
        raise Interrupted("stopped; what was measured is kept, go on with the same command") from None
    finally:
        if bar is not None:
            bar.close()
    for note in answer["notes"]:
        print(f"note: {note}", file=sys.stderr, flush=True)
    return answer


def _text(r: dict) -> str:
    width = max(map(len, r["setting"]))
    lines = [f"{name:{width}}  {words}" for name, words in r["setting"].items()]
    fast = f", predicted {r['predicted_speedup']:.2f} times as fast as {r['over']}" if "predicted_speedup" in r else ""
    lines += [f"{r['run']} {r['phase']}, mixture {r['name']}: {in_words(r['metric'])} {r['score']:.4f} "
              f"({r['low']:.3f} to {r['high']:.3f}), encoder {r['encoder_bytes']:,} bytes ({r['ratio']:.2f}x less than "
              f"in fp32, index included), model {r['bytes']:,} of {r['bytes_dense']:,} bytes{fast}"]
    lines += [f"uniform: {one['setting']}: {r['metric']} {one['score']:.4f}, encoder {one['encoder_bytes']:,} bytes"
              for one in r["uniforms"]]
    lines += [r["words"], f"{r['seconds']:.0f} s, {r['measured']} of {r['asked']} losses measured on {r['sentences']} "
              "training sentences, never on the dev set", r["order"]]
    return "\n".join(lines + [f"Open it: {line}" for line in r["commands"]])
