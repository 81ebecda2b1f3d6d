"""Stages: dense, penalty, retrained. A stage is the end of a phase, whose weights are kept."""

from __future__ import annotations

import re
from functools import lru_cache

KINDS = ("dense", "penalty", "retrain")  # in the order in which a run goes through them
_NAME = re.compile(r"(dense)|(penalty|retrain)-([0-9.e+]+)x")


@lru_cache(maxsize=1000)
def _parts(name: str) -> tuple[str, float | None] | None:
    """(kind, compression); None for what is no stage. Thousands of runs have the same few."""
    found = _NAME.fullmatch(name)
    return found and (found[1] or found[2], None if found[1] else float(found[3]))


class Stage(str):
    """'dense', 'penalty-2x', 'retrain-2x': its own name, as files, JSON and people have it, with its parts and order.

    `kind`: one of KINDS; `compression` of the encoder: None for the dense weights. Stages are ordered as a run reaches
    them. Raises ValueError for a text that names none.
    """

    def __new__(cls, name: str) -> Stage:
        parts = _parts(name) if isinstance(name, str) else None
        if parts is None:
            raise ValueError(f"{str(name)[:40]!r} is no stage; needed: dense, penalty-2x, retrain-2x ...")
        stage = super().__new__(cls, name)
        stage.kind, stage.compression = parts
        return stage

    @classmethod
    def of(cls, kind: str, compression: float) -> Stage:
        """The stage 'penalty' or 'retrain' at this compression."""
        return cls(f"{kind}-{compression:g}x")

    @property
    def _place(self) -> tuple[int, float]:
        return KINDS.index(self.kind), self.compression or 1.0

    def __lt__(self, other: Stage) -> bool:
        return self._place < Stage(other)._place

    def __le__(self, other: Stage) -> bool:
        return self._place <= Stage(other)._place

    def __gt__(self, other: Stage) -> bool:
        return self._place > Stage(other)._place

    def __ge__(self, other: Stage) -> bool:
        return self._place >= Stage(other)._place


DENSE = Stage("dense")


def kind_of(phase: str) -> str:
    """The kind of stage that a phase ends in: 'penalty' -> 'penalty', 'retrain-2x' -> 'retrain'."""
    return phase.partition("-")[0]
