"""Cells of a notebook: what one has shown before is closed when it is run again, so that no old map stays alive."""

from __future__ import annotations

import sys
from collections.abc import Mapping

_of_cells: dict[str, tuple[int, list]] = {}  # cell -> (which of its runs it was, the widgets that it made)


def shell():
    """IPython's, where there is one; it is never loaded here."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _now() -> tuple[str, int]:
    """(the cell that runs, the number of this run of it)."""
    here = shell()
    try:
        cell = here.get_parent()["metadata"].get("cellId")
    except (AttributeError, KeyError, TypeError):
        cell = None
    return str(cell or ""), here.execution_count


def made(widget) -> None:
    """Say that this widget was made: what an earlier run of the same cell made is closed."""
    if shell() is None:
        return
    cell, number = _now()
    before, others = _of_cells.get(cell, (number, []))
    if cell and before != number:
        for other in others:
            other.close()
        others = []
    _of_cells[cell] = (number, [*others, widget])


def display(widget, bundle: Mapping) -> None:
    """Show it in the cell that runs, but once: `show` has done so already where its value ends the cell."""
    here, number = shell(), _now()[1]
    if getattr(widget, "_displayed", None) == number:
        return
    widget._displayed = number
    here.display_pub.publish(dict(bundle))
