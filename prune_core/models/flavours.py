"""What config.json may ask of an encoder: settled so that every way of running it gives the same numbers, or refused."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import Matrix


def settle_(name: str, model: nn.Module) -> None:
    """Set back, in place, what changes only how answers are handed over or how memory is saved, never a number.

    Raises InputError, one line, for what changes the numbers in a way that is not known here.
    """
    config = model.config
    asked = [word for word in ("add_cross_attention", "is_encoder_decoder") if getattr(config, word, False)]
    if asked:
        raise InputError(f"model {name!r}: config.json says {asked[0]}, but there is no second text that the encoder "
                         f"could attend to; needed: a checkpoint without {asked[0]}")
    if getattr(config, "pruned_heads", None):
        raise InputError(f"model {name!r}: config.json says pruned_heads, which transformers no longer takes out; "
                         "needed: a checkpoint with all its heads")
    kind = str(getattr(config, "position_embedding_type", None) or "absolute")
    if kind.startswith("relative_key") and not any("distance_embedding" in path for path, _ in model.named_modules()):
        raise InputError(f"model {name!r}: config.json says position_embedding_type {kind}, which transformers no "
                         "longer has; needed: a checkpoint with absolute positions")
    usual = {"output_attentions": False, "output_hidden_states": False, "return_dict": True, "use_cache": False,
             "torchscript": False, "chunk_size_feed_forward": 0}  # chunks refuse lengths that they do not divide
    for module in model.modules():
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0
    for settings in {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}.values():
        for word, value in usual.items():
            if getattr(settings, word, value) != value:
                setattr(settings, word, value)


def check_widths(name: str, matrices: Iterable[Matrix]) -> None:
    """Raises InputError where what one matrix of a layer gives is not as wide as what the next one takes."""
    layers: dict[int, dict[str, Matrix]] = {}
    for matrix in matrices:
        layers.setdefault(matrix.layer, {})[matrix.type] = matrix
    for parts in layers.values():
        for first, second in (("value", "attention.output"), ("intermediate", "output")):
            if first in parts and second in parts and parts[first].m != parts[second].n:
                raise InputError(f"model {name!r}: {parts[first].name} gives {parts[first].m} values and "
                                 f"{parts[second].name} takes {parts[second].n}; needed: sizes in config.json that fit "
                                 "each other, as a hidden size that the number of heads divides")
