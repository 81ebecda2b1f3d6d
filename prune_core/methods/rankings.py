"""The rankings that decide which groups go, one row each: what is said of them, what builds them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prune_core import InputError
from prune_core.cutting.blocks import Layout

SENTENCES = 512  # behind gradients


class Ranking(Protocol):
    """What a row builds. `encoder`: a models.encoders.Encoder."""

    def of(self, encoder, layout: Layout) -> dict[str, np.ndarray]:
        """Matrix name -> (groups down, groups across) float32, 0 where the group is 0, never less: the lowest go."""

    def factors(self, encoder, layout: Layout) -> Mapping:
        """Matrix name -> tensor (groups down, groups across): what a norm is multiplied with in training.

        Asked only of those that are `in_training`.
        """


@dataclass(frozen=True)
class RankingRow:
    """`build(grams, data, sentences)`: from every matrix's repair.Gram and these sentences of the training data."""

    name: str
    label: str  # where one is chosen
    words: str  # what goes by it
    build: Callable[[Mapping, object, Sequence[int]], Ranking] | None  # None: the norm, which every snapshot has
    in_training: bool = False  # whether a run may train by it
    compares_matrices: bool = False  # so that one threshold for the whole encoder cuts where it costs least


def _activation(grams, data, sentences):
    from prune_core.methods.saliency import Activation
    return Activation(grams)


def _taylor(grams, data, sentences):
    from prune_core.methods.saliency import Taylor
    return Taylor(data, sentences)


def _loss(grams, data, sentences):
    from prune_core.methods.saliency import Loss
    return Loss(grams)


def _surgeon(grams, data, sentences):
    from prune_core.methods.surgeon import Surgeon
    return Surgeon(grams, data, sentences)


ROWS = (
    RankingRow("norm", "norm", "the smallest norms go", None, in_training=True),
    RankingRow("activation", "norm × activation", "the norm is weighted by the inputs that a block meets",
               _activation, in_training=True),
    RankingRow("taylor", "gradient (Taylor)", "by what the gradient says of its removal", _taylor),
    RankingRow("loss", "least-squares loss", "by what repairing the rest of its rows cannot make up for", _loss),
    RankingRow("surgeon", "surgeon (loss if removed)", "by what its removal costs, in every matrix alike",
               _surgeon, in_training=True, compares_matrices=True),
)
RANKINGS: dict[str, RankingRow] = {row.name: row for row in ROWS}


def recordable() -> list[str]:
    """The rankings beside the norm: those that `score` records."""
    return [name for name, row in RANKINGS.items() if row.build]


def in_training() -> list[str]:
    """The rankings that a run may train by."""
    return [name for name, row in RANKINGS.items() if row.in_training]


def explained(names: Iterable[str]) -> str:
    """'norm: the smallest norms go. activation: ...': a sentence for each."""
    return " ".join(f"{name}: {RANKINGS[name].words}." for name in names)


def check_recordable(name: str) -> None:
    """Raises InputError where no ranking of this name can be recorded."""
    if name not in recordable():
        raise InputError(f"score {name!r} is unknown; one of norm, {', '.join(recordable())}")


def named(name: str, grams: Mapping, data) -> Ranking:
    """The ranking of this name, on as many sentences of `data` as a gradient needs. Raises InputError."""
    check_recordable(name)
    return RANKINGS[name].build(grams, data, range(min(SENTENCES, len(data))))
