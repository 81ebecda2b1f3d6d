"""Ctrl-C and SIGTERM as a question: whoever trains goes on to a place where it can stop. Loads no torch."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_threads: dict[int, list[int]] = {}  # of those that train beside the main one: what they look at


def ask(thread: threading.Thread) -> None:
    """Ask a thread that trains to stop where it can, as a signal asks the main thread."""
    if (asked := _threads.get(thread.ident)) is not None:
        asked.append(signal.SIGINT)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM comes; a second one stops at once. In a thread of its own: by `ask`."""
    asked: list[int] = []

    def ask(number: int, _frame) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        _threads[threading.get_ident()] = asked
        try:
            yield asked
        finally:
            del _threads[threading.get_ident()]
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
