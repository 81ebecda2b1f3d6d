"""What the matrices of a model are given by training sentences: Gram matrices, measured once, kept on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from prune_core import files
from prune_core.methods import repair
from prune_core.methods.repair import DAMP, Gram
from prune_core.models import devices
from prune_core.models.encoders import Encoder
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded
from prune_core.tasks.glue import Examples

Doing = Callable[[str, int, int], None]  # gets what comes before a score, and how much of how much is done


def quiet(what: str, done: int, total: int) -> None:
    """Nobody watches."""


class Inputs:
    """Of `encoder`'s matrices over these sentences. Who is stopped on the way goes on later where he was."""

    def __init__(self, encoder: Encoder, sentences: Examples, length: int, folder: Path, key: str):
        """`folder`, `key`: where they are kept, and for which weights."""
        self.encoder, self._sentences, self._length, self._folder, self._key = encoder, sentences, length, folder, key
        self.known: dict[str, Gram] | None = None

    @cached_property
    def train(self) -> Encoded:
        """The sentences; encoded when somebody asks."""
        return encoding.encode(self._sentences, self.encoder.tokenizer, self._length)

    @cached_property
    def key(self) -> str:
        """What a repair depends on beside weights and mask: the sentences that were weighed, and the damping."""
        sha = hashlib.sha256(repr((self.train.inputs, DAMP)).encode())
        return f"-repaired-{sha.hexdigest()[:12]}"

    def grams(self, doing: Doing = quiet, keep: bool = True) -> dict[str, Gram]:
        """Matrix name -> Gram of its inputs over the sentences; taken once, `keep`: on the disk.

        `doing` may raise to stop: what is measured by then is not measured again.
        """
        path = self._folder / f"{self._key}{self.key}.safetensors"
        self.known = self.known or self._kept(path)
        if self.known is None:
            self._measure(doing)
            self.known = self._collector.grams()
            if keep:
                _keep_grams(path, self.known)
        return self.known

    def _kept(self, path: Path) -> dict[str, Gram] | None:
        grams, device = _read_grams(path, self.encoder.linears), devices.of(self.encoder.model)
        return grams and {name: gram.to(device) for name, gram in grams.items()}

    def _measure(self, doing: Doing) -> None:
        """What is left to be measured."""
        total, device = len(self.train), devices.of(self.encoder.model)
        doing("measuring inputs", total - sum(map(len, self._left)), total)
        while self._left:
            try:
                self._collector.add(self.train.batch(self._left.pop(), device)[0])
            except BaseException:  # a part of the batch may be in the sums: all anew
                del self._collector, self._left
                raise
            doing("measuring inputs", total - sum(map(len, self._left)), total)

    @cached_property
    def _left(self) -> list[np.ndarray]:
        """Batches of training sentences that are not measured yet, the next one last."""
        return encoding.dev_batches(self.train.lengths, 64)[::-1]

    @cached_property
    def _collector(self) -> repair.Collector:
        return repair.Collector(self.encoder.model, self.encoder.linears)


def _read_grams(path: Path, names: Collection[str]) -> dict[str, Gram] | None:
    """Grams that were kept; None where there are none, or not all of them can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())  # not mapped: whoever cuts the file short would end this process
        firsts = json.loads(bytes(tensors["firsts"].tolist()))  # matrices with one input share a Gram
        return {name: Gram(tensors[f"products.{firsts[name]}"], tensors[f"total.{firsts[name]}"],
                           int(tensors[f"count.{firsts[name]}"]), tuple(tensors[f"range.{firsts[name]}"].tolist()))
                for name in names}
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _keep_grams(path: Path, grams: Mapping[str, Gram]) -> None:
    """Keep them; where nothing can be written they are taken again."""
    from safetensors.torch import save

    owners: dict[int, str] = {}
    firsts = {name: owners.setdefault(id(gram), name) for name, gram in grams.items()}
    tensors = {"firsts": torch.tensor(list(json.dumps(firsts).encode()), dtype=torch.uint8, device="cpu")}
    for name in set(firsts.values()):
        tensors |= {f"products.{name}": grams[name].products.cpu(), f"total.{name}": grams[name].total.cpu(),
                    f"count.{name}": torch.tensor(grams[name].count, device="cpu"),
                    f"range.{name}": torch.tensor(grams[name].range, device="cpu")}
    with contextlib.suppress(OSError):
        files.write_whole(path, save(tensors))
