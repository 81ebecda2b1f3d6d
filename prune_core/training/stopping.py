"""Ctrl-C and SIGTERM as a question: whoever trains goes on to a place where it can stop. Loads no torch."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM comes; a second one stops at once. Only the main thread is asked."""
    asked: list[int] = []

    def ask(number: int, _frame) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
