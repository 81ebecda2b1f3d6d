"""The bytes that a compressed model takes, as it would really be stored: values, index, scales, codebooks, all else.

Of a matrix, in the packed file (models/packed.py) and here alike:

    index      a byte that says which kind: WHOLE (all blocks are kept), BITMAP (a bit for each block), or r, a relative
               index of r bits (4 bytes for the number of entries; an entry is the number of blocks cut since the last
               kept one, 2^r - 1 of which mean that so many are cut and the count goes on), whichever is the smallest;
               of a pattern, for each group of M inputs of a row of which the blocks keep more than N, N places of
               ceil(log2 M) bits
    scales     4 bytes for each row that keeps any block; or codebook: 4 bytes for each value
    values     `bits` for each weight that is kept, row by row (ternary: five in a byte)

Block index, pattern index and values are each rounded up to whole bytes. All other weights are fp32; word embeddings
may be int8 with a scale of 4 bytes for each row. The file's header is what it says of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_core import InputError
from prune_core.cutting.blocks import Layout, Matrix
from prune_core.cutting.masks import BYTES, BlockMask
from prune_core.precision.formats import Format, Formats

WHOLE, BITMAP = 0, 1  # kinds of block index; a higher number is a relative index of so many bits
RELATIVE = range(2, 9)
SCALE = 4  # bytes


@dataclass(frozen=True)
class Parts:
    """Bytes of one matrix, or of all prunable ones together."""

    values: int = 0
    index: int = 0
    scales: int = 0  # and codebooks
    dense: int = 0  # in fp32, nothing cut

    def __add__(self, other: Parts) -> Parts:
        return Parts(*(getattr(self, name) + getattr(other, name) for name in ("values", "index", "scales", "dense")))

    @property
    def stored(self) -> int:
        return self.values + self.index + self.scales


@dataclass(frozen=True)
class Storage:
    """`encoder`: the prunable matrices; `rest`: all else, `header` included. Every ratio names its denominator."""

    matrices: dict[str, Parts]
    rest: int
    rest_dense: int

    @property
    def encoder(self) -> Parts:
        return sum(self.matrices.values(), Parts())

    @property
    def bytes(self) -> int:
        """Of the whole model's file."""
        return self.encoder.stored + self.rest

    @property
    def without_index(self) -> int:
        return self.bytes - self.encoder.index

    @property
    def dense(self) -> int:
        """The whole model in fp32."""
        return self.encoder.dense + self.rest_dense

    def to_json(self) -> dict:
        """bytes ... of the model; encoder_bytes ... of the prunable matrices."""
        one = self.encoder
        return {"bytes": self.bytes, "bytes_without_index": self.without_index, "bytes_dense": self.dense,
                "encoder_bytes": one.stored, "encoder_bytes_without_index": one.stored - one.index,
                "encoder_bytes_dense": one.dense}


def header_bytes(layout: Layout) -> int:
    """What a packed file says of itself, padded to whole pages so that it does not hang on what is kept."""
    return 4096 * (1 + -(-512 * len(layout.matrices) // 4096))


def storage(mask: BlockMask, formats: Formats, embeddings: tuple[int, int] | None = None) -> Storage:
    """What a model takes whose blocks `mask` keeps, in these formats.

    `embeddings`: (rows, width) of the word table, needed where it is to be int8. Raises InputError.
    """
    layout, of = mask.layout, formats.of(mask.layout)
    rest = BYTES * (layout.model_weights - layout.encoder_weights)
    stored = rest + header_bytes(layout)
    if formats.embeddings == 8:
        if embeddings is None:
            raise InputError("the size of the word embeddings is not known here; needed: the checkpoint, or no 8 bits "
                             "for them")
        rows, width = embeddings
        stored += rows * (width + SCALE) - BYTES * rows * width
    return Storage({m.name: parts(m, mask, of[m.name]) for m in layout.matrices}, stored, rest)


def parts(matrix: Matrix, mask: BlockMask, format: Format) -> Parts:
    """What one matrix takes."""
    kept = mask.kept[matrix.name]
    rows, _ = mask.layout.block.sides(matrix.m, matrix.n, matrix.name)
    weights, index_bits = kept_weights(matrix, mask, format)
    index = 1 + index_bytes(kept)[1] + -(-index_bits // 8)
    scales = SCALE * {"float": 0, "clusters": format.top}.get(format.kind, rows * int(kept.any(1).sum()))
    return Parts(value_bytes(weights, format), index, scales, BYTES * matrix.m * matrix.n)


def kept_weights(matrix: Matrix, mask: BlockMask, format: Format) -> tuple[int, int]:
    """(weights that blocks and pattern keep, bits of the pattern's index)."""
    kept, pattern = mask.kept[matrix.name], format.pattern
    rows, cols = mask.layout.block.sides(matrix.m, matrix.n, matrix.name)
    if pattern is None:
        return int(kept.sum()) * rows * cols, 0
    counts = kept.repeat(cols, 1).reshape(len(kept), -1, pattern.m).sum(2)  # of every group of M inputs of a strip
    full = rows * int((counts > pattern.n).sum())
    return rows * int(np.minimum(counts, pattern.n).sum()), full * pattern.n * (pattern.m - 1).bit_length()


def value_bytes(weights: int, format: Format) -> int:
    """Of so many values in this format."""
    return -(-weights // 5) if format.kind == "ternary" else -(-weights * format.bits // 8)


def index_bytes(kept: np.ndarray) -> tuple[int, int]:
    """(kind, bytes) of the smallest index of the kept blocks (groups down, groups across), row by row of the grid."""
    flat = kept.ravel()
    if flat.all():
        return WHOLE, 0
    sizes = {BITMAP: -(-flat.size // 8)}
    gaps = gaps_of(flat)
    for bits in RELATIVE:
        sizes[bits] = 4 + -(-bits * int((1 + gaps // (2**bits - 1)).sum()) // 8)
    kind = min(sizes, key=sizes.get)  # the first of equals
    return kind, sizes[kind]


def gaps_of(flat: np.ndarray) -> np.ndarray:
    """How many blocks are cut before each kept one, since the last kept one."""
    return np.diff(np.concatenate([[-1], np.flatnonzero(flat)])) - 1


def counts(mask: BlockMask, formats: Formats) -> dict[str, float]:
    """sparsity, compression_encoder and compression_model, as BlockMask has them, with what a pattern cuts as well."""
    layout, of = mask.layout, formats.of(mask.layout)
    kept = sum(kept_weights(matrix, mask, of[matrix.name])[0] for matrix in layout.matrices)
    return {"sparsity": 1.0 - kept / layout.encoder_weights,
            "compression_encoder": layout.encoder_weights / kept if kept else float("inf"),
            "compression_model": layout.model_weights / (layout.model_weights - layout.encoder_weights + kept)}


def zeros(mask: BlockMask, formats: Formats) -> float:
    """The share of zero weights of the prunable matrices, those of a pattern included: 0 to 1."""
    return counts(mask, formats)["sparsity"]
