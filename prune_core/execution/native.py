"""The C++ kernels: compiled once for this processor, cached, called through ctypes.

native.cpp has what a model needs that runs module by module, pass_*.cpp one pass over a whole encoder (whole.py). Where
there is no compiler, `library()` is None and `why_not()` says why; compact.py then runs on
stock torch with the same numbers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import torch

from prune_core import files
from prune_core.latency.strips import Registers

SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-march=native", "-fopenmp")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
_AMX = ("-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8")
PASSES = {  # path -> source, and what it is built with beside _FLAGS
    "fp32": ("pass_fp32.cpp", ("-fno-math-errno",)),
    "bf16 avx512": ("pass_avx512.cpp", ("-fno-math-errno", *_AVX512, "-mavx512bf16")),
    "int8 vnni": ("pass_avx512.cpp", ("-fno-math-errno", *_AVX512, "-mavx512bf16", "-mavx512vnni", "-DINT8")),
    "bf16 amx": ("pass_amx.cpp", ("-fno-math-errno", *_AVX512, *_AMX)),
    "int8 amx": ("pass_amx.cpp", ("-fno-math-errno", *_AVX512, *_AMX, "-DINT8")),
}
_COMPILE_SECONDS = 120
_LONG, _INT, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_int, ctypes.c_float, ctypes.c_void_p
_SIGNATURES = {
    "prunescope_lanes": [],
    "prunescope_max_vectors": [],
    "prunescope_linear": [_POINTER, _POINTER, _LONG, _LONG, _POINTER, _LONG, _INT],
    "prunescope_attention": [_POINTER, _LONG, _POINTER, _LONG, _POINTER, _LONG, _POINTER, _POINTER,
                             _LONG, _LONG, _LONG, _FLOAT, _POINTER, _LONG, _INT],
    "prunescope_add_norm": [_POINTER, _POINTER, _POINTER, _POINTER, _FLOAT, _LONG, _LONG, _POINTER, _INT],
}
_PASS_SIGNATURES = {
    "prunescope_tile": [],
    "prunescope_rows": [],
    "prunescope_pass": [_POINTER, _POINTER, _POINTER],
    "prunescope_linear_rows": [_POINTER, _POINTER, _LONG, _LONG, _POINTER, _LONG, _INT],
    "prunescope_linear_lines": [_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _POINTER, _INT],
}


def compiler() -> str | None:
    """The C++ compiler that would be used: $CXX, else the first of c++, g++, clang++ on the path."""
    usual = filter(None, map(shutil.which, ("c++", "g++", "clang++")))
    return shutil.which(os.environ.get("CXX", "")) or next(usual, None)


@functools.cache
def _loaded(used: str | None, source: Path = SOURCE, more: tuple[str, ...] = ()) -> tuple[ctypes.CDLL | None, str]:
    """(library, "") or (None, why not), for this compiler."""
    if used is None:
        return None, "no C++ compiler (c++, g++ or clang++) on this machine"
    try:
        path = _compiled(used, source, more)
        try:
            library = ctypes.CDLL(str(path))
        except OSError:  # damaged in the cache: built anew
            path.unlink()
            library = ctypes.CDLL(str(_compiled(used, source, more)))
    except (OSError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", None) or str(error)
        return None, f"{Path(used).name} could not build the kernels: {' '.join(str(text).split())[:160]}"
    _keep_large_blocks()
    for name, arguments in (_SIGNATURES if source == SOURCE else _PASS_SIGNATURES).items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, _INT if not arguments else None
    return library, ""


def _keep_large_blocks() -> None:
    """Let glibc keep large freed blocks, as activations are: else it gives their pages back, zeroed, at every layer."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another libc
        return
    mmap_threshold, trim_threshold = -3, -1
    mallopt(mmap_threshold, 1 << 28)
    mallopt(trim_threshold, 1 << 29)


def _compiled(used: str, source: Path = SOURCE, more: tuple[str, ...] = ()) -> Path:
    """The shared library of a source for this processor, built if it is not in the cache.

    Raises OSError, SubprocessError.
    """
    texts = [source, *sorted(source.parent.glob("*.hpp"))]
    flags = (*_FLAGS, *more)
    depends_on = [*(text.read_bytes() for text in texts), *map(str.encode, (" ".join(flags), used, _processor()))]
    key = hashlib.sha256(b"\0".join(depends_on)).hexdigest()[:16]
    path = files.cache_folder() / f"kernels-{key}.so"
    if path.exists():
        return path
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError
    except OSError:  # a home that cannot be written: built again by every process
        folder = Path(tempfile.mkdtemp(prefix="prunescope-"))
        path = folder / path.name
    with filelock.FileLock(str(path) + ".lock"):  # whoever else needs them waits, instead of building them too
        return path if path.exists() else _build([used, *flags, str(source)], path)


def key(paths: list[str]) -> str:
    """The same text for the same processor, compiler, kernels and paths."""
    texts = [text.read_bytes() for text in sorted(SOURCE.parent.glob("*pp"))]
    sha = hashlib.sha256(b"\0".join([*texts, repr((paths, compiler(), _FLAGS)).encode(), _processor().encode()]))
    return sha.hexdigest()[:16]


def _build(command: list[str], path: Path) -> Path:
    """Raises OSError, SubprocessError."""
    print("building the kernels for this processor, once ...", end="", file=sys.stderr, flush=True)
    start = time.monotonic()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        subprocess.run([*command, "-o", str(beside)], check=True, capture_output=True, text=True,
                       timeout=_COMPILE_SECONDS)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
        print(f" {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    return path


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        return platform.processor() + platform.machine()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they cannot be had; the first call on a machine compiles for some seconds."""
    return _loaded(compiler())[0]


def kernels(path: str) -> tuple[ctypes.CDLL | None, str]:
    """The pass by this path (PASSES), or None and why it cannot be built. Whether it can run here is not asked."""
    source, more = PASSES[path]
    return _loaded(compiler(), SOURCE.with_name(source), more)


def build() -> None:
    """Build, where that is still to be done, what an exact score takes."""
    kernels("fp32")


@functools.cache
def registers() -> Registers:
    """What the kernels hold of a strip, as they were built. Only where there is a `library()`."""
    return Registers(library().prunescope_lanes(), library().prunescope_max_vectors())


def why_not() -> str:
    """Why `library()` is None; empty if it is not."""
    return _loaded(compiler())[1]


def _at(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """(..., n) -> (rows, n) fp32 with unit stride inside a row; a copy only where that does not hold already."""
    x = x.reshape(-1, x.shape[-1])
    x = x if x.dtype == torch.float32 else x.float()
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


class Layer(ctypes.Structure):
    """The struct Layer of native.cpp."""

    _fields_ = [(name, _POINTER) for name in ("columns", "weights", "panels", "outputs", "bias")] + [
        (name, _LONG) for name in ("count", "inputs", "width", "act")]


def linear_rows(x: torch.Tensor, run: Callable, layer: ctypes.Structure, outputs: int) -> torch.Tensor:
    """The same by a path of the pass, whose prunescope_linear_rows `run` is."""
    y = torch.empty(x.shape[0], outputs)
    if len(x):
        run(ctypes.addressof(layer), _at(x), x.stride(0), x.shape[0], _at(y), outputs, torch.get_num_threads())
    return y


def linear(x: torch.Tensor, layer: Layer, outputs: int) -> torch.Tensor:
    """act(x (rows, inputs) W^T + bias) -> (rows, outputs), W as compact.CompactLinear has packed it."""
    y = torch.empty(x.shape[0], outputs)
    library().prunescope_linear(ctypes.addressof(layer), _at(x), x.stride(0), x.shape[0],
                                _at(y), outputs, torch.get_num_threads())
    return y


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor,
    heads: int, scale: float,
) -> torch.Tensor:
    """Softmax attention inside every sentence: q, k, v (rows, heads * depth) fp32 -> the same shape.

    `starts`, `lengths`: (sentences,) the first row of each and how many it has; rows of no sentence are 0.
    """
    out = torch.zeros(q.shape, dtype=torch.float32)
    library().prunescope_attention(
        _at(q), q.stride(0), _at(k), k.stride(0), _at(v), v.stride(0), _at(starts), _at(lengths),
        len(starts), heads, q.shape[1] // heads, scale, _at(out), out.stride(0), torch.get_num_threads())
    return out


def add_norm(x: torch.Tensor, residual: torch.Tensor | None, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """layer_norm(x + residual), (..., width) contiguous fp32."""
    out = torch.empty_like(x)
    library().prunescope_add_norm(
        _at(x), _at(residual), _at(norm.weight), _at(norm.bias), norm.eps, x.numel() // x.shape[-1], x.shape[-1],
        _at(out), torch.get_num_threads())
    return out
