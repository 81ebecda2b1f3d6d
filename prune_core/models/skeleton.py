"""What a model is made of, without its weights: for plans of what may not fit here.

A checkpoint's config is enough; so is a size, as 12x768: so many layers, so wide, of BERT's build (heads of 64, four
times as many neurons, 512 positions, 30,522 words).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.hardware import sizes
from prune_core.hardware.sizes import Sizes
from prune_core.models import checkpoints, encoders, tokenizers
from prune_core.models.checkpoints import first_line

SIZE = re.compile(r"(\d{1,3})x(\d{2,5})")
DEPTH = 64
KINDS = {"value", "intermediate"}  # types of matrices that a layer must have here


@dataclass(frozen=True)
class Skeleton:
    """A model by name: its config, its prunable matrices, its parameters in number, heads a layer, positions."""

    name: str
    config: object
    matrices: tuple[Matrix, ...]
    weights: int
    heads: int | None
    positions: int

    def layout(self, block: str = "64x1") -> Layout:
        """How `block` divides it. Raises InputError where it does not fit."""
        return Layout.of(self.matrices, BlockShape.parse(block), self.weights)

    def sizes(self, outputs: int = 2) -> Sizes:
        """What its memory depends on."""
        return sizes.of(self.layout("1x1"), self.heads, outputs)

    def check_length(self, length: int) -> None:
        """Raises InputError where it has no such positions."""
        if length > self.positions:
            raise InputError(f"length {length} is more than model {self.name!r} has positions for; needed: at most "
                             f"{self.positions}")


def of(name: str, outputs: int = 2, revision: str | None = None) -> Skeleton:
    """The skeleton of minilm, a folder with a config.json, a hub name, or a size as 12x768. Raises InputError."""
    config = _config(name, outputs, revision)
    try:
        with encoders.quiet(), torch.device("meta"):
            model = from_config(config)
    except Exception as error:  # transformers raises a dozen kinds for a config that makes no sense
        raise InputError(f"model {name!r} cannot be made: {type(error).__name__}: {first_line(error)}") from None
    found = encoders.prunable(name, model)
    types = {matrix.layer: set() for matrix in found.values()}
    for matrix in found.values():
        types[matrix.layer].add(matrix.type)
    if any(KINDS - of_layer for of_layer in types.values()):
        raise InputError(f"model {name!r} ({type(model).__name__}) has layers without {' and '.join(sorted(KINDS))}; "
                         "needed: an encoder of BERT's build")
    matrices = tuple(found.values())
    return Skeleton(name, config, matrices, sum(p.numel() for p in model.parameters()),
                    encoders.heads_of(model, matrices), tokenizers.room(model, 4096))


def from_config(config: object) -> nn.Module:
    """A classification model of this config, its weights as transformers draws them."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_config(config)


def _config(name: str, outputs: int, revision: str | None):
    size = SIZE.fullmatch(name)
    if size is None:
        folder = Path(name)
        if not (folder / "config.json").is_file():
            folder = checkpoints.locate(name, revision).folder
        return encoders.config_of(folder, outputs, f"model {name!r}")
    from transformers import BertConfig

    layers, hidden = int(size[1]), int(size[2])
    if not layers or hidden % DEPTH:
        raise InputError(f"model {name!r} is no size that BERT's build has; needed: layers x hidden, hidden a multiple "
                         f"of {DEPTH}, as 12x768")
    return BertConfig(num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=hidden // DEPTH,
                      intermediate_size=4 * hidden, num_labels=outputs)
