"""Columns of a parquet file, as plain values of Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prune_core import InputError


def names(path: Path) -> list[str]:
    """The columns of the file, an index that pandas kept among them; raises what pyarrow raises."""
    from pyarrow import parquet

    return parquet.read_schema(path).names


def about(path: Path) -> dict:
    """What the writer said of the whole file, names of classes among it, as bytes; raises what pyarrow raises."""
    from pyarrow import parquet

    return parquet.read_schema(path).metadata or {}


def columns(path: Path, at: Sequence[int], most_bytes: int) -> list[list]:
    """The values of the columns at these places, None for a gap. Raises InputError, and what pyarrow raises."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        held = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
        if held > most_bytes:
            raise InputError(f"{path.name!r} holds {held / 1e6:,.0f} MB once unpacked; "
                             f"at most {most_bytes / 1e6:,.0f} are read")
        there = file.schema_arrow.names
        table = file.read(columns=[there[place] for place in at])
    frame = table.select([there[place] for place in at]).to_pandas(ignore_metadata=True)
    return [[None if gap else value for value, gap in zip(frame[name].tolist(), frame[name].isna(), strict=True)]
            for name in frame.columns]
