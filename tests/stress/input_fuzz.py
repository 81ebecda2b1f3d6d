"""The fuzz over checkpoints, tables and commands: rows of counts, and any single case again by its kind and number."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from stress import input_checkpoints, input_commands, input_tables
from stress.input_judge import Verdict

TABLES, LEAST = 600, 2000
SHORT = {"flavours": 16, "storage": 12, "tensors": 16, "config": 18, "tokenizers": 8, "tokenizer files": 16,
         "labels": 6}
SHORT_TABLES, MOST_TOLD = 30, 12
Told = Iterator[tuple[str, int, str, Verdict, float]]  # sort, number, what it is, verdict, seconds


def numbers(short: bool) -> dict[str, list[int]]:
    """Sort -> numbers of its cases; in the short form some, and no commands, which take seconds each."""
    counts = SHORT if short else input_checkpoints.COUNTS
    listed = {sort: list(range(count)) for sort, count in counts.items()}
    listed["tables"] = list(range(SHORT_TABLES if short else TABLES))
    return listed | ({} if short else {"commands": list(range(len(input_commands.CASES)))})


def told(folder: Path, asked: Mapping[str, list[int]]) -> Told:
    """Each case, judged."""
    of_checkpoints = {sort: some for sort, some in asked.items() if sort in input_checkpoints.COUNTS}
    yield from input_checkpoints.run(folder, of_checkpoints)
    for number in asked.get("tables", ()):
        began, place = time.monotonic(), folder / f"tables-{number}"
        place.mkdir()
        one = input_tables.made(place, number)
        yield "tables", number, one.what, input_tables.verdict(one), time.monotonic() - began
        shutil.rmtree(place)
    yield from input_commands.run(folder, asked.get("commands", ()))


def rows(short: bool) -> Iterator[Mapping]:
    """Per sort: cases, with how many were equal and how many refused; wrong ones fail. Then the worst deviation, and
    all of them."""
    folder = Path(tempfile.mkdtemp(prefix="prunescope-fuzz-"))
    began, worst, total = time.monotonic(), 0.0, 0
    try:
        for sort, some in numbers(short).items():
            ended, wrong, started = {"equal": 0, "refused": 0, "wrong": 0}, [], time.monotonic()
            for _, number, what, verdict, _ in told(folder, {sort: some}):
                ended[verdict.ended] += 1
                if verdict.ended == "wrong":
                    wrong.append(f"{sort} {number}: {verdict.words}")
                    print(f"{sort} {number}: {what[:200]}: {verdict.words}", file=sys.stderr, flush=True)
                else:
                    worst = max(worst, verdict.deviation)
            total += len(some)
            yield {"what": f"fuzz, {sort}: {ended['equal']} equal, {ended['refused']} refused, {ended['wrong']} wrong "
                           f"({time.monotonic() - started:.0f} s)", "figure": len(some), "unit": "cases",
                   "ok": not wrong, "needed": " | ".join(wrong[:MOST_TOLD])}
        yield {"what": "fuzz: the worst deviation from plain transformers, of the outputs' scale", "figure": worst,
               "unit": "", "ok": worst <= 1e-5, "needed": "at most 1e-5"}
        yield {"what": f"fuzz: all of them ({time.monotonic() - began:.0f} s)", "figure": total, "unit": "cases",
               "ok": short or total >= LEAST, "needed": f"at least {LEAST:,}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def again(only: str) -> Iterator[Mapping]:
    """One case by its name, 'config 17', with all that it says; or those of a stretch, 'config 10-40'."""
    sort, _, which = only.rpartition(" ")
    first, _, last = which.partition("-")
    folder = Path(tempfile.mkdtemp(prefix="prunescope-fuzz-"))
    try:
        for _, number, what, verdict, seconds in told(folder, {sort: list(range(int(first), int(last or first) + 1))}):
            yield {"what": f"{sort} {number}: {verdict.ended}: {what}", "figure": seconds, "unit": "seconds",
                   "ok": verdict.ended != "wrong", "needed": verdict.words}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
