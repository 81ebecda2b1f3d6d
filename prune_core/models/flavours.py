"""What config.json may ask of an encoder: settled, so that every way of running it gives equal numbers, or refused."""

from __future__ import annotations

from torch import nn

from prune_core import InputError


def settle_(name: str, model: nn.Module) -> list[str]:
    """Set back, in place, what changes only how answers are handed over or how memory is saved, never a number.

    Returns what is to be said of the rest. Raises InputError, one line, for what changes the numbers in a way that is
    not known here.
    """
    config = model.config
    if getattr(config, "add_cross_attention", False):
        raise InputError(f"model {name!r}: config.json says add_cross_attention, but there is no second text that the "
                         "encoder could attend to; needed: an encoder, whose config.json does not say so")
    if getattr(config, "pruned_heads", None):
        raise InputError(f"model {name!r}: config.json says pruned_heads, which transformers no longer takes out; "
                         "needed: a checkpoint with all its heads")
    kind = str(getattr(config, "position_embedding_type", None) or "absolute")
    if kind.startswith("relative_key") and not any("distance_embedding" in path for path, _ in model.named_modules()):
        raise InputError(f"model {name!r}: config.json says position_embedding_type {kind}, which transformers no "
                         "longer has; needed: a checkpoint with absolute positions")
    width, heads = (getattr(config, word, None) for word in ("hidden_size", "num_attention_heads"))
    if isinstance(width, int) and isinstance(heads, int) and width % max(1, heads):
        raise InputError(f"model {name!r}: config.json says hidden_size {width} and num_attention_heads {heads}; "
                         "needed: heads of one size, so a number of them that divides the width")
    usual = {"output_attentions": False, "output_hidden_states": False, "return_dict": True, "use_cache": False,
             "torchscript": False, "chunk_size_feed_forward": 0}  # chunks refuse lengths that they do not divide
    if getattr(config, "_attn_implementation", None) not in ("eager", "sdpa", None):  # no gradient on processors
        model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    for module in model.modules():
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    for settings in configs.values():
        for word, value in usual.items():
            if getattr(settings, word, value) != value:
                setattr(settings, word, value)
    if getattr(config, "is_decoder", False):
        return ["config.json says is_decoder: no token sees a later one, as in the checkpoint's own training; a head "
                "that reads the first token then gives every sentence the same answer"]
    return []
