"""Reads what a packed file stores. Needs numpy and safetensors alone: an exported folder holds a copy of this file.

Each prunable matrix X is one uint8 tensor X.weight.packed. The file's metadata says of each, as JSON under "matrices",
[outputs m, inputs n, rows and columns of a block, format]; the format is '32', '16' (bf16), '8' ... '2' (levels),
'ternary', 'binary', 'clusters-4' and the like, with a pattern '4/2:4'. In this order, bits from the highest:

    1 byte     kind of block index: 0 all blocks are kept; 1 a bit for each block; r > 1: 4 bytes, the number of
               entries, then entries of r bits: how many blocks are cut since the last kept one, where 2^r - 1 means
               that so many are cut and the count goes on. Blocks are in the order of the grid, row by row
    pattern    N:M alone: for each group of M inputs of which the blocks keep more than N, the N places that are kept
    scales     4 bytes for each row with a kept block (little endian, as all numbers); or the values of the clusters
    values     of the kept weights, row by row: level + 2^(bits-1) - 1; binary a bit; ternary five in a byte, the first
               times 1, then 3, 9, 27, 81, of code + 1; clusters: the place in their values, 2^bits - 1 for zero;
               else the floats

Each of the four is rounded up to whole bytes. A table in int8 is X and X.scale, a number for each row.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np


def tensors(path) -> dict[str, np.ndarray]:
    """Name -> array (float32) of everything in a packed file, what was cut zero. Raises ValueError if it is damaged."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        matrices = json.loads((file.metadata() or {})["matrices"])
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    for name, (m, n, rows, cols, format) in matrices.items():
        _, codes, scales, codebook, floats = unpack(stored.pop(f"{name}.weight.packed"), m, n, rows, cols, format)
        stored[f"{name}.weight"] = floats if codes is None else values(codes, scales, codebook)
    for name in [name for name, array in stored.items() if array.dtype == np.int8]:
        stored[name] = stored[name].astype(np.float32) * stored.pop(f"{name}.scale")[:, None]
    return stored


def values(codes: np.ndarray, scales: np.ndarray | None, codebook: np.ndarray | None) -> np.ndarray:
    """(m, n) float32: what codes stand for."""
    if codebook is None:
        return codes.astype(np.float32) * scales[:, None]
    return np.concatenate([np.zeros(1, np.float32), codebook])[codes]


# long: the parts of a matrix, in their order
def unpack(data: np.ndarray, m: int, n: int, rows: int, cols: int, format: str) -> tuple:
    """(kept (m, n) bool, codes (m, n) int16, scales (m,), codebook (k,), floats (m, n)) of a matrix; None what it has
    not. Scales of rows without a kept block are 1. Raises ValueError.
    """
    number, _, pattern = (format if "/" in format or ":" not in format else f"32/{format}").partition("/")
    rest = np.asarray(data, np.uint8)

    def take(count: int, dtype: type = np.uint8) -> np.ndarray:
        nonlocal rest
        size = count * np.dtype(dtype).itemsize
        if len(rest) < size:
            raise ValueError(f"it ends {size - len(rest):,} bytes early")
        part, rest = rest[:size], rest[size:]
        return np.frombuffer(part.tobytes(), np.dtype(dtype).newbyteorder("<")).astype(dtype)

    blocks = _blocks(m // rows, n // cols, take)
    kept = blocks.repeat(rows, 0).repeat(cols, 1)
    if pattern:
        kept = _within(kept, *map(int, pattern.split(":")), take)
    count, codes, scales, codebook = int(kept.sum()), None, None, None
    if number in ("16", "32"):
        stored = take(count, np.float32) if number == "32" else (
            take(count, np.uint16).astype(np.uint32) << 16).view(np.float32)
        floats = np.zeros((m, n), np.float32)
        floats[kept] = stored
        return _all(rest, kept, None, None, None, floats)
    bits = {"ternary": 2, "binary": 1}.get(number) or int(number.removeprefix("clusters-"))
    if number.startswith("clusters"):
        codebook = take(2**bits - 1, np.float32)
    else:
        alive = blocks.any(1).repeat(rows)
        scales = np.ones(m, np.float32)
        scales[alive] = take(int(alive.sum()), np.float32)
    if number == "ternary":
        parts = take(-(-count // 5))[:, None] // 3 ** np.arange(5) % 3
        stored = parts.ravel()[:count].astype(np.int16) - 1
    else:
        stored = numbers(take(-(-count * bits // 8)), bits, count).astype(np.int16)
        stored = (2 * stored - 1 if bits == 1 else (stored + 1) % 2**bits if codebook is not None else
                  stored - (2 ** (bits - 1) - 1))
    codes = np.zeros((m, n), np.int16)
    codes[kept] = stored
    if stored.max(initial=0) > (2**bits - 1 if codebook is not None else max(2 ** (bits - 1) - 1, 1)):
        raise ValueError("a value is none of the format")
    return _all(rest, kept, codes, scales, codebook, None)


def _all(rest: np.ndarray, *parts) -> tuple:
    if len(rest):
        raise ValueError(f"{len(rest):,} bytes are left over")
    return parts


def numbers(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """(count,) whole numbers of so many bits each, up to 8, from the highest bit."""
    if bits == 8:
        return data[:count]
    each = np.unpackbits(data, count=count * bits).reshape(count, bits)
    return np.packbits(np.pad(each, ((0, 0), (8 - bits, 0))), axis=1)[:, 0]


def _blocks(down: int, across: int, take: Callable) -> np.ndarray:
    """(down, across) bool: which blocks are kept."""
    count, kind = down * across, int(take(1)[0])
    kept = np.zeros(count, bool)
    if kind == 0:
        kept[:] = True
    elif kind == 1:
        kept[:] = np.unpackbits(take(-(-count // 8)), count=count)
    elif kind <= 8:
        entries = int(take(1, np.uint32)[0])
        gaps = numbers(take(-(-entries * kind // 8)), kind, entries).astype(np.int64)
        ends = gaps < 2**kind - 1  # others are cut blocks alone
        places = np.cumsum(gaps + ends)[ends] - 1
        if len(places) and places[-1] >= count:
            raise ValueError(f"it keeps block {places[-1]:,} of {count:,}")
        kept[places] = True
    else:
        raise ValueError(f"{kind} is no kind of index")
    return kept.reshape(down, across)


def _within(kept: np.ndarray, n: int, m: int, take: Callable) -> np.ndarray:
    """(rows, inputs) bool: of what the blocks keep what the pattern keeps."""
    groups, wide = kept.reshape(len(kept), -1, m).copy(), (m - 1).bit_length()
    full = groups.sum(2) > n
    count = int(full.sum())
    places = numbers(take(-(-count * n * wide // 8)), wide, count * n).reshape(count, n)
    if places.max(initial=0) >= m:
        raise ValueError(f"a place of the pattern is {places.max()} of {m}")
    inside = np.zeros((count, m), bool)
    np.put_along_axis(inside, places.astype(np.int64), True, 1)
    if not ((inside & groups[full]).sum(1) == n).all():
        raise ValueError(f"a group of the pattern does not keep {n} of {m}")
    groups[full] = inside
    return groups.reshape(kept.shape)
