"""Prunescope's core: block-structured pruning of transformer encoders, from checkpoint to recorded run."""

__version__ = "0.2.0"


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what came, what was needed, where."""


_NO_MEMORY = (
    "DefaultCPUAllocator", "not enough memory", "Cannot allocate memory", "std::bad_alloc", "start new thread",
    "could not create a primitive", "CUDA out of memory", "MPS backend out of memory")  # of oneDNN, and of GPUs


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how Python, numpy or torch say that memory has run out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
