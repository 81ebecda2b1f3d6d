"""Sentences as token ids, and batches of them. Loads torch only to batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prune_core.tasks.glue import Examples


@dataclass(frozen=True)
class Encoded:
    """Token ids per example, and per further input of the model (token_type_ids) likewise; labels (examples,)."""

    inputs: dict[str, list[list[int]]]
    labels: np.ndarray
    pad: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """(examples,) tokens of each example."""
        return np.array([len(ids) for ids in self.inputs["input_ids"]])

    def batch(self, at: Sequence[int], device=None):
        """Inputs for the model, each (batch, longest length) int64, padded right, and labels (batch,).

        `device`: a torch.device to put them on; None: the processor.
        """
        import torch

        rows = [self.inputs["input_ids"][i] for i in at]
        longest = max(map(len, rows))
        inputs = {"attention_mask": torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])}
        for name, values in self.inputs.items():
            fill = self.pad if name == "input_ids" else 0
            inputs[name] = torch.tensor([values[i] + [fill] * (longest - len(values[i])) for i in at])
        labels, device = torch.tensor(self.labels[list(at)]), device or torch.device("cpu")
        return {name: one.to(device) for name, one in inputs.items()}, labels.to(device)


def encode(examples: Examples, tokenizer, max_length: int) -> Encoded:
    """Token ids of all examples, pairs joined as the tokenizer does, cut at `max_length` tokens."""
    columns = [list(column) for column in zip(*examples.texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    names = [n for n in ("input_ids", "token_type_ids") if n in encoded and n in tokenizer.model_input_names]
    return Encoded({n: encoded[n] for n in names}, examples.labels, tokenizer.pad_token_id or 0)


def training_batches(lengths: np.ndarray, batch_size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Endless batches of example numbers; every epoch a new shuffle, sentences of like length together.

    A function of `seed` alone, so that a resumed run needs no state for its data. Sorting inside
    stretches of 50 shuffled batches leaves little padding and still mixes.
    """
    for epoch in range(10**9):
        random = np.random.default_rng([*seed, epoch])
        order = random.permutation(len(lengths))
        stretch = 50 * batch_size
        batches = []
        for start in range(0, len(order), stretch):
            part = order[start : start + stretch]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        for at in random.permutation(len(batches)):
            yield batches[at]


def dev_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of example numbers, shortest sentences first: hardly any padding."""
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
