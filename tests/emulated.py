"""A processor with AMX, as far as prune_core can see: the tile instructions emulated (emulated_tiles.hpp)."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from prune_core.execution import native, paths

HEADER = Path(__file__).with_name("emulated_tiles.hpp")
AMX = ("bf16 amx", "int8 amx")
TILES = frozenset(("amx_tile", "amx_bf16", "amx_int8"))
HERE = paths.flags()
needs_avx512 = pytest.mark.skipif(
    native.compiler() is None or not {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"} <= HERE,
    reason="a compiler, AVX-512 and AVX512_BF16: only the tiles are emulated")
DEFINED = f"-DEMULATED_TILES=0x{hashlib.sha256(HEADER.read_bytes()).hexdigest()[:12]}"  # built anew when it changes


def forget() -> None:
    """What was found out is found out anew."""
    for found in (paths.why_not, paths._permission, paths.timed, native._loaded):
        getattr(found, "cache_clear", lambda: None)()


def built_with(path: str) -> tuple[str, tuple[str, ...]]:
    """What native.PASSES has for a path on tiles, with the tiles emulated."""
    source, more = native.PASSES[path]
    own = (flag for flag in more if not flag.startswith("-mamx"))
    return source, (*own, DEFINED, "-include", str(HEADER))


def tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a fixture: the paths on tiles run; nothing was misused when the test ends."""
    forget()
    for path in AMX:
        monkeypatch.setitem(native.PASSES, path, built_with(path))
    monkeypatch.setattr(paths, "flags", lambda: HERE | TILES)
    monkeypatch.setattr(paths, "_permission", lambda: "")
    libraries = [native.kernels(path) for path in AMX]
    assert [why for _, why in libraries] == ["", ""]
    yield
    for library, _ in libraries:
        library.emulated_first_mistake.restype = ctypes.c_char_p
        assert (library.emulated_mistakes(), library.emulated_first_mistake()) == (0, b"")
        assert library.emulated_configured_threads() == 0
    forget()
