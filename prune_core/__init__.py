"""Prunescope's core: block-structured pruning of transformer encoders, from checkpoint to recorded run."""

from importlib import import_module

__version__ = "0.2.0"


_OF_NOTEBOOKS = {"show": "evaluation.live", "prune": "training.live"}  # loaded when they are asked for


def __getattr__(name: str):
    """`from prune_core import show, prune`, without the weight of either in all that imports prune_core."""
    if name not in _OF_NOTEBOOKS:
        raise AttributeError(f"module 'prune_core' has no attribute {name!r}")
    return getattr(import_module(f"prune_core.{_OF_NOTEBOOKS[name]}"), name)


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what came, what was needed, where."""

    def _render_traceback_(self) -> list[str]:
        """In a notebook, too, it is one line: IPython asks for this before it writes where it came from."""
        return [f"InputError: {self}"]


_NO_MEMORY = (
    "DefaultCPUAllocator", "not enough memory", "Cannot allocate memory", "std::bad_alloc", "start new thread",
    "could not create a primitive", "CUDA out of memory", "MPS backend out of memory")  # of oneDNN, and of GPUs


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how Python, numpy or torch say that memory has run out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
