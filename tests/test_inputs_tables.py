"""The tables of ../shared/inputs, as people have them: each is read whole, or refused in one line."""

from __future__ import annotations

from prune_core.tasks import table_files


def test_tables_that_were_read_are_still_read(inputs):
    assert len(table_files.read(inputs / "rev.csv").texts) == 160
