"""On which paths weights of some number formats run, and how long that takes: what executes them, not what stores them.

plain    fp32 weights: every path
int8     integers with a scale for each row, and activations in 8 bits by tokens: the int8 pass has these very integers
weights  all other formats, activations by tensors too: read back as floats, so fp32 and bf16

A pattern leaves zeros where the processor multiplies all the same, and embeddings are read back once: both change
nothing here.
"""

from __future__ import annotations

from dataclasses import replace

from prune_core.cutting.masks import BlockMask
from prune_core.latency.profile import PLAIN, Profile, Taken, dtype_of
from prune_core.latency.work import Batch
from prune_core.precision.formats import Formats

EXECUTED = ("plain", "weights", "int8")


def executed_as(formats: Formats) -> str:
    """One of EXECUTED."""
    if formats.activations == "token" and all(one.executable for one in formats.weights):
        return "int8"
    floats = all((one.kind, one.bits) == ("float", 32) for one in formats.weights)
    return "plain" if floats and not formats.activations else "weights"


def candidates(profile: Profile, executed: str, dtype: str) -> tuple[list[str], str]:
    """(paths that may run where `dtype` is asked for, why another than it). `executed`: of EXECUTED.

    int8 is taken for what it executes exactly wherever it was timed and is no slower than fp32. Raises InputError.
    """
    names, why = profile.candidates(dtype)
    if executed == "int8" and dtype == "auto":
        return profile.candidates("int8")
    if executed != "weights" or dtype not in ("auto", "int8"):
        return names, why
    floats = [name for name in profile.candidates("auto")[0] if dtype_of(name) != "int8"] or [PLAIN]
    return floats, "weights in these formats run as floats" if dtype == "int8" else ""


def restricted(profile: Profile, formats: Formats, dtype: str) -> Profile:
    """The same profile with no other paths than those that may run: what `auto` then takes. Raises InputError."""
    names, _ = candidates(profile, executed_as(formats), dtype)
    return replace(profile, paths={name: profile.paths[name] for name in names})


def path_of(profile: Profile, formats: Formats, dtype: str, mask: BlockMask, setting: Batch,
            heads: int | None = None) -> Taken:
    """The path with the least predicted milliseconds of those that may run. Raises InputError."""
    _, why = candidates(profile, executed_as(formats), dtype)
    return restricted(profile, formats, dtype).path_of("auto", mask, setting, heads)._replace(why=why)


def speedup(profile: Profile, formats: Formats, dtype: str, mask: BlockMask, setting: Batch,
            heads: int | None = None) -> float:
    """Predicted: the best rival / compact. Raises InputError."""
    return profile.best_rival(mask.layout, setting)[1] / path_of(profile, formats, dtype, mask, setting, heads).ms


def all_candidates(profile: Profile, dtype: str) -> dict[str, tuple[list[str], str]]:
    """The same for every kind of EXECUTED. Raises InputError."""
    return {executed: candidates(profile, executed, dtype) for executed in EXECUTED}
