"""Whether a checkpoint's labels stand in the task's order: by their names, however they are spelt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_IDLE = {"label", "labels", "class", "is", "the", "star", "stars", "s"}  # say nothing of which class it is
_SAME = {  # other words for GLUE's classes
    "neg": "negative", "pos": "positive",
    "negativ": "negative", "positiv": "positive", "négatif": "negative", "positif": "positive",
    "negativo": "negative", "positivo": "positive", "negatif": "negative", "non": "not", "no": "not", "un": "not",
    "unacceptable": "not acceptable", "ungrammatical": "not acceptable", "grammatical": "acceptable",
    "nonequivalent": "not equivalent", "inequivalent": "not equivalent", "different": "not equivalent",
    "paraphrase": "equivalent", "paraphrases": "equivalent", "nonparaphrase": "not equivalent",
    "nonduplicate": "not duplicate", "distinct": "not duplicate", "duplicates": "duplicate",
    "entail": "entailment", "entails": "entailment", "entailed": "entailment", "nonentailment": "not entailment",
    "contradict": "contradiction", "contradicts": "contradiction", "contradictory": "contradiction",
}


@dataclass(frozen=True)
class Order:
    """`at`: for each of the task's labels its output of the checkpoint's head; `words`: what to say of it."""

    at: tuple[int, ...]
    words: str = ""


def order(theirs: Sequence[str], ours: Sequence[str]) -> Order:
    """How the outputs of a head with labels `theirs` answer to `ours` (as many): by name, else as they stand.

    Where labels are plain numbers (LABEL_0, "1"), a number is that of the task's class.
    """
    straight = tuple(range(len(ours)))
    listed = ", ".join(theirs[:6]) + (" ..." if len(theirs) > 6 else "")
    named = by_name(theirs, ours)
    at = named or by_number(theirs, ours)
    if at is None:
        return Order(straight, f"the checkpoint's labels ({listed}) do not tell which of {', '.join(ours[:6])} they "
                               "are; taken in their order")
    if at == straight:
        words = "" if named else f"the checkpoint's labels are numbers ({listed}); taken as the task's classes"
        return Order(straight, words)
    return Order(at, f"the checkpoint's labels stand in another order ({listed}): its head was permuted to "
                     f"{', '.join(ours[:6])}")


def by_name(theirs: Sequence[str], ours: Sequence[str]) -> tuple[int, ...] | None:
    """Where each of ours is among theirs, however they are spelt; None where that cannot be told."""
    return (_matched([str(name).casefold() for name in theirs], [name.casefold() for name in ours])
            or _matched([meant(name) for name in theirs], [meant(name) for name in ours]))


def by_number(theirs: Sequence[str], ours: Sequence[str]) -> tuple[int, ...] | None:
    """Where the number of each of ours is among theirs (LABEL_0, "1"); None where they are no numbers."""
    return _matched([meant(name) for name in theirs], [str(number) for number in range(len(ours))])


def _matched(theirs: Sequence[str], ours: Sequence[str]) -> tuple[int, ...] | None:
    """Where each of ours is among theirs, if each is there exactly once."""
    if sorted(theirs) != sorted(ours) or len(set(ours)) < len(ours):
        return None
    return tuple(theirs.index(name) for name in ours)


def meant(name: str) -> str:
    """A label as words in a fixed spelling: 'LABEL_1' -> '1', 'Not-Entailment' and 'non entailment' -> the same."""
    spread = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(name))  # notEntailment
    words = re.findall(r"[^\W_]+", spread.casefold())
    words = [part for word in words for part in _SAME.get(word, word).split()]
    telling = [word for word in words if word not in _IDLE]
    if any(not word.isdigit() for word in telling):  # '0 negative': the name tells, the number only counts
        telling = [word for word in telling if not word.isdigit()] if len(telling) > 1 else telling
    return " ".join(telling) or str(name)


def names_of(config: Mapping) -> list[str]:
    """The labels that config.json names, in the order of the outputs; [] where it names none.

    Whoever gives transformers only label2id has LABEL_0 and so on in id2label, or nothing.
    """
    named, turned = config.get("id2label"), config.get("label2id")
    try:
        names = [str(named[key]) for key in sorted(named, key=int)] if isinstance(named, Mapping) else []
    except (TypeError, ValueError):
        names = []
    if not all(meant(name).isdigit() for name in names) or not isinstance(turned, Mapping):
        return names
    places = list(turned.values())
    whole = all(type(place) is int for place in places) and sorted(places) == list(range(len(names) or len(places)))
    return sorted(turned, key=turned.get) if whole else names
