"""Prunescope's core: block-structured pruning of transformer encoders, from checkpoint to recorded run."""

__version__ = "0.1.0"


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what came, what was needed, where."""
