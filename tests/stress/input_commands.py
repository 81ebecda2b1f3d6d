"""The same odd checkpoints through the real command line: prune, evaluate, export; exit 0 and right, or 2 and one line.

What is exported is loaded by plain transformers, or run by its own script, and must answer as the run's model does.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from commands import prune_core
from stress import input_checkpoints
from stress.input_judge import NEAR, Made, Verdict, quietly
from stress.input_tokenizers import sentences

from prune_core import export
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of
from prune_core.tasks import encoding
from prune_core.tasks.glue import Examples

SORTS = {"flavours": range(600, 612), "tokenizers": range(600, 608), "storage": range(600, 604),
         "tensors": range(600, 606), "config": range(600, 608), "tokenizer files": range(600, 610)}
CASES = tuple((sort, number) for sort, numbers in SORTS.items() for number in numbers)
ONNX = 6  # every so many of those that are read are exported to ONNX too
QUICK = ("--preset", "quick", "--dense-steps", 2, "--penalty-steps", 2, "--retrain-steps", 2, "--surface-examples", 4,
         "--precision", "fp32", "--threads", 1, "--block", "1x1", "--compression", 1.5)


class Ended(Exception):
    """A command that ended otherwise than with 0: the verdict."""


def judged(folder: Path, number: int) -> tuple[str, Verdict]:
    """(what it is, verdict) of case `number`."""
    sort, at = CASES[number]
    place = folder / f"command-{number}"
    place.mkdir(parents=True)
    (place / "model").mkdir()
    try:
        with quietly():
            made = input_checkpoints.made(place / "model", sort, at)
            try:
                return f"{sort} {at}: {made.what}", _run(place, made, number)
            except Ended as end:
                return f"{sort} {at}: {made.what}", end.args[0]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _run(place: Path, made: Made, number: int) -> Verdict:
    """prune, evaluate, export; the exported model against the run's."""
    chance, pair = random.Random(number), len(made.texts[0]) > 1
    texts = sentences(48, chance, pair)[2:]
    with open(place / "mine.csv", "w", newline="", encoding="utf-8") as file:
        names = ["text", "pair"] if pair else ["text"]
        rows = ([*text, ("neg", "pos")[row % 2]] for row, text in enumerate(texts))
        csv.writer(file).writerows([[*names, "label"], *rows])
    runs = ("--runs-dir", place / "runs")
    _command(made, "prune", "--model", made.folder, "--data", place / "mine.csv", "--run", "odd", *runs, *QUICK)
    if made.ending == "refused":
        return Verdict("wrong", words="trained on what is broken")
    told = _command(made, "evaluate", "odd", "--sparsity", 0.4, "--json", *runs)
    score = json.loads(told)["score"]
    run = Run(place / "runs" / "odd")
    stage, cut = run.stages[-1], cut_of(run, 0.4)
    taken = export.take(run, stage, cut)
    wanted = _logits(taken, made.texts)
    _command(made, "export", "odd", place / "hf", "--sparsity", 0.4, "--phase", stage, *runs)
    worst = _apart(_plain(place / "hf", taken, made.texts), wanted)
    if number % ONNX == 0 or "bpe.codes" in made.what:  # which is refused at once, as its tokenizer is in Python
        _command(made, "export", "odd", place / "onnx", "--to", "onnx", "--sparsity", 0.4, "--phase", stage, *runs)
        worst = max(worst, _apart(_script(place / "onnx", made.texts[2:4], taken.labels), wanted[2:4]))
    ended = "equal" if worst <= NEAR and 0 <= score <= 1 else "wrong"
    return Verdict(ended, worst, f"deviation {worst:.2g}, score {score}")


def _command(made: Made, *words: object) -> str:
    """What it printed. Raises Ended where it did not end with 0: with 2 and one line it was refused, else wrong."""
    done = prune_core(*words)
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("note: ")]
    if done.returncode == 0:
        return done.stdout
    if done.returncode != 2 or "Traceback" in done.stderr or not lines[-1].startswith("error: ") or len(lines) > 1:
        raise Ended(Verdict("wrong", words=f"{words[0]} ended with {done.returncode}: {' / '.join(lines[-3:])[:400]}"))
    early = words[0] == "prune" and made.ending != "read"
    onnx = "onnx" in words and "Python" in lines[-1]  # says what it cannot do
    raise Ended(Verdict("refused" if early or onnx else "wrong", words=f"{words[0]}: {lines[-1]}"))


def _logits(taken: export.CutModel, texts: list[tuple[str, ...]]) -> np.ndarray:
    """(texts, outputs) of the run's model, masked."""
    encoder = taken.encoder
    length = encoder.max_length(taken.run.config.max_length)
    data = encoding.encode(Examples(texts, np.zeros(len(texts))), encoder.tokenizer, length)
    inputs, _ = data.batch(range(len(texts)))
    with torch.no_grad():
        return encoder.model.eval()(**inputs).logits.numpy()


def _plain(folder: Path, taken: export.CutModel, texts: list[tuple[str, ...]]) -> np.ndarray:
    """The same of the exported folder, by transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, length = AutoTokenizer.from_pretrained(folder), taken.encoder.max_length(taken.run.config.max_length)
    with torch.no_grad():
        return np.concatenate([model(**tokenizer(*text, truncation=True, max_length=length, return_tensors="pt")
                                     ).logits.numpy() for text in texts])


def _script(folder: Path, texts: list[tuple[str, ...]], labels: list[str]) -> np.ndarray:
    """The same by the script beside the graph."""
    def said(text: tuple[str, ...]) -> list[float]:
        done = subprocess.run([sys.executable, folder / "run.py", *text], capture_output=True, text=True, check=True)
        return [json.loads(done.stdout)[label] for label in labels]

    return np.array([said(text) for text in texts])


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


def run(folder: Path, numbers: list[int]) -> Iterator[tuple[str, int, str, Verdict, float]]:
    """As in input_checkpoints."""
    import time

    for number in numbers:
        began = time.monotonic()
        what, found = judged(folder, number)
        yield "commands", number, what, found, time.monotonic() - began
