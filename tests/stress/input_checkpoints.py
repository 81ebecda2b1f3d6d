"""A fuzz over checkpoints: each is equal to plain transformers on masked dense weights, or refused in one line.

A case is known by its kind and number: `python -m tests.stress input --only "config 17"` runs it again.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from stress import input_breaks, input_models, input_tokenizers
from stress.input_judge import Made, Verdict, quietly, verdict

COUNTS = {"flavours": 500, "storage": 250, "tensors": 300, "config": 420, "tokenizers": 250, "tokenizer files": 300,
          "labels": 120, "others": 23}
SPELT = {"negative": ("negative", "NEG", "Negative", "neg", "NEGATIVE"),
         "positive": ("positive", "POS", "Positive", "pos"),
         "entailment": ("entailment", "ENTAILMENT", "entails"), "neutral": ("neutral", "NEUTRAL"),
         "contradiction": ("contradiction", "CONTRADICTION", "contradict"),
         "not_entailment": ("not_entailment", "Not-Entailment", "notEntailment", "non entailment"),
         "unacceptable": ("unacceptable", "UNACCEPTABLE"), "acceptable": ("acceptable", "Acceptable"),
         "not_equivalent": ("not_equivalent", "Not Equivalent"), "equivalent": ("equivalent", "EQUIVALENT")}
TASKS = (("negative", "positive"), ("entailment", "neutral", "contradiction"), ("entailment", "not_entailment"),
         ("not_entailment", "entailment"), ("unacceptable", "acceptable"), ("not_equivalent", "equivalent"))


def made(folder: Path, sort: str, number: int) -> Made:
    """Case `number` of a sort, written into an empty folder."""
    chance = random.Random(f"{sort} {number}")
    kind = input_models.KINDS[number % len(input_models.KINDS)]
    if sort == "others":
        kind = input_models.OTHERS[number % len(input_models.OTHERS)]
    one = _checkpoint(folder, kind, chance, number, sort)
    if sort in ("storage", "tensors", "config"):
        change = {"storage": input_breaks.stored, "tensors": input_breaks.torn, "config": input_breaks.configured}[sort]
        what, one.ending, one.saved = change(folder, one.model, chance)
        one.what = f"{what}; {one.what}"
        if one.ending != "read" or "bare" in what:
            one.room = None
    elif sort == "tokenizer files":
        for what, ending in input_tokenizers.broken(folder, chance):
            one.what, one.ending, one.room = f"{what}; {one.what}", ending, None
    elif sort == "others":
        one.ending, one.room = "either", None
    return one


def _checkpoint(folder: Path, kind: str, chance: random.Random, number: int, sort: str) -> Made:
    """A whole one: tokenizer first, then a model with room for it."""
    from transformers import AutoTokenizer

    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    of_kind = input_tokenizers.OF_FILES.get(kind, ("word",))
    form = None if sort in ("tokenizers", "tokenizer files") else chance.choice(("word", "word", "piece", *of_kind))
    files = input_tokenizers.write(folder, kind, chance, form)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pad, room = tokenizer.pad_token_id, chance.choice((7, 16, 20, 32, 64))
    rows = max(tokenizer.get_vocab().values()) + 1 + chance.choice((0, 0, 1, 5, 40))
    if sort in ("flavours", "tokenizers") and chance.random() < 0.15:  # another padding than the tokenizer's, or none
        pad = chance.randrange(rows)
        pad = pad if kind in input_models.FROM_PADDING else chance.choice((None, pad))
    settings_of = input_models.other_settings if sort == "others" else input_models.settings_of
    asked = settings_of(kind, chance, rows, pad, room)
    outputs, labels, order, named = chance.choice((1, 2, 2, 3)), (), None, None
    if sort == "labels":
        outputs, labels, order, named = _labels(chance)
    model = input_models.model_of(kind, asked, outputs, number, named)
    if sort in ("flavours", "storage") and chance.random() < 0.2:
        model = model.to(chance.choice((torch.float16, torch.bfloat16)))
    model.save_pretrained(folder)
    if sort == "flavours" and not labels and chance.random() < 0.2:
        outputs = chance.choice([count for count in (1, 2, 3, 5) if count != outputs])
    pair = chance.random() < 0.5
    texts = input_tokenizers.sentences(5, chance, pair)
    told = {key: value for key, value in asked.items() if key not in ("vocab_size", "initializer_range")}
    return Made(folder, kind, model.float(), texts, f"{kind}, {files}, {told}", outputs=outputs, labels=labels,
                order=order, room=room)


def _labels(chance: random.Random) -> tuple[int, tuple[str, ...], tuple[int, ...] | None, dict[int, str]]:
    """(outputs, the task's labels, the head's output of each, id2label)"""
    ours = chance.choice(TASKS)
    at = list(range(len(ours)))
    chance.shuffle(at)  # output `place` of the head is our label at[place]
    how = chance.choice(("spelt", "spelt", "spelt", "numbers", "foreign", "counted"))
    named = {place: chance.choice(SPELT[ours[label]]) for place, label in enumerate(at)}
    if how == "counted":
        named = {place: f"{place} {name}" for place, name in named.items()}
    if how in ("numbers", "foreign"):
        at = list(range(len(ours)))
        named = {place: f"LABEL_{place}" if how == "numbers" else f"kind {'xyz'[place]}" for place in at}
    return len(ours), ours, tuple(at.index(label) for label in range(len(ours))), named


def judged(folder: Path, sort: str, number: int) -> tuple[Made, Verdict]:
    """Make it, judge it, and take it away."""
    place = folder / f"{sort.replace(' ', '-')}-{number}"
    place.mkdir(parents=True)
    try:
        with quietly():
            one = made(place, sort, number)
            return one, verdict(one, random.Random(number))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def run(folder: Path, numbers: dict[str, list[int]]) -> Iterator[tuple[str, int, str, Verdict, float]]:
    """(sort, number, what it is, verdict, seconds) of each case."""
    torch.set_num_threads(1)
    for sort, asked in numbers.items():
        for number in asked:
            began = time.monotonic()
            one, found = judged(folder, sort, number)
            yield sort, number, one.what, found, time.monotonic() - began
