"""Matrices as a packed file stores them, byte for byte: what unpack.py reads, and storage.py counts."""

from __future__ import annotations

import numpy as np

from prune_core.cutting.blocks import BlockShape, Matrix
from prune_core.precision.formats import Format
from prune_core.precision.quantizers import Quantized
from prune_core.precision.storage import BITMAP, WHOLE, gaps_of, index_bytes
from prune_core.precision.unpack import unpack


def pack(one: Quantized, blocks: np.ndarray) -> np.ndarray:
    """uint8 of a matrix whose blocks (groups down, across, bool) are kept; `one.kept` is within them.

    With a pattern, it keeps of every group as many as N:M and the blocks allow.
    """
    m, n = one.kept.shape
    rows, cols = m // blocks.shape[0], n // blocks.shape[1]
    parts = [_blocks(blocks)]
    if one.format.pattern:
        whole = blocks.repeat(rows, 0).repeat(cols, 1)
        parts.append(_places(one.kept, whole, one.format.pattern.n, one.format.pattern.m))
    if one.codebook is not None:
        parts.append(_raw(one.codebook, np.float32))
    elif one.scales is not None:
        parts.append(_raw(one.scales[blocks.any(1).repeat(rows)], np.float32))
    return np.concatenate([*parts, _values(one)])


def read(data: np.ndarray, matrix: Matrix, block: BlockShape, format: Format) -> Quantized:
    """The same matrix again; scales of rows without a kept block are 1. Raises ValueError where it is damaged."""
    rows, cols = block.sides(matrix.m, matrix.n, matrix.name)
    try:
        kept, codes, scales, codebook, floats = unpack(data, matrix.m, matrix.n, rows, cols, str(format))
    except ValueError as error:
        raise ValueError(f"{matrix.name}: {error}") from None
    return Quantized(format, kept, codes, scales, codebook, floats)


def _values(one: Quantized) -> np.ndarray:
    """Of the kept weights, row by row."""
    format = one.format
    if one.codes is None:
        floats = one.floats[one.kept]
        return _raw(floats, np.float32) if format.bits == 32 else _raw(floats.view(np.uint32) >> 16, np.uint16)
    codes = one.codes[one.kept]
    if format.kind == "ternary":
        padded = np.pad(codes + 1, (0, -len(codes) % 5)).reshape(-1, 5)
        return (padded * 3 ** np.arange(5)).sum(1).astype(np.uint8)
    if format.kind == "binary":
        return np.packbits(codes > 0)
    return bits_of((codes - 1) % 2**format.bits if format.kind == "clusters" else codes + format.top, format.bits)


def bits_of(values: np.ndarray, bits: int) -> np.ndarray:
    """uint8: whole numbers of so many bits each, one after another, from the highest bit."""
    values = values.astype(np.uint8)
    return values if bits == 8 else np.packbits(np.unpackbits(values[:, None], axis=1)[:, 8 - bits:])


def _raw(values: np.ndarray, dtype: type) -> np.ndarray:
    """Little endian bytes."""
    return np.frombuffer(np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes(), np.uint8)


def _blocks(kept: np.ndarray) -> np.ndarray:
    """The index of the kept blocks, after its kind."""
    kind, flat = index_bytes(kept)[0], kept.ravel()
    first = np.array([kind], np.uint8)
    if kind in (WHOLE, BITMAP):
        return first if kind == WHOLE else np.concatenate([first, np.packbits(flat)])
    gaps, most = gaps_of(flat), 2**kind - 1
    counts = 1 + gaps // most
    entries = np.full(int(counts.sum()), most)
    entries[np.cumsum(counts) - 1] = gaps % most
    return np.concatenate([first, _raw(np.array([len(entries)]), np.uint32), bits_of(entries, kind)])


def _places(kept: np.ndarray, whole: np.ndarray, n: int, m: int) -> np.ndarray:
    """Which weights stay in each group of which the blocks keep more than N."""
    full = whole.reshape(len(kept), -1, m).sum(2) > n
    places = np.nonzero(kept.reshape(len(kept), -1, m)[full])[1]
    return bits_of(places, (m - 1).bit_length())
