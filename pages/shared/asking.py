"""Asks the model about sentences, those of many people in one process at a time. Imports no streamlit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

TOGETHER, WAITING = 32, 100  # sentences asked at once; more are not taken while so many wait
GATHER = 0.05  # seconds in which what a page asks comes together
LONGEST = 300  # characters of a sentence that are read


class TooMany(RuntimeError):
    """So many sentences wait that one more is not taken."""


class Asker:
    """`ask(sentences)` is called for all that wait: a mapping with `probabilities` (sparsities, sentences, answers)."""

    def __init__(self, ask: Callable[[Sequence[str]], Mapping]):
        self._ask, self._lock = ask, threading.Lock()
        self._waiting: dict[str, Future] = {}
        self._works = False

    def want(self, sentence: str) -> Future[dict]:
        """What the model says of one sentence; the same future for all who ask while it waits. Raises TooMany."""
        sentence = sentence[:LONGEST]
        with self._lock:
            if sentence not in self._waiting and len(self._waiting) >= WAITING:
                raise TooMany("Many sentences wait for the model already; try again in a minute.")
            future = self._waiting.setdefault(sentence, Future())
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, daemon=True).start()
        return future

    def _work(self) -> None:
        time.sleep(GATHER)
        while some := self._next():
            try:
                answer = self._ask(list(some))
                for at, future in enumerate(some.values()):
                    future.set_result(dict(answer) | {"probabilities": [[row[at]] for row in answer["probabilities"]]})
            except Exception as error:  # whoever waits is told
                for future in some.values():
                    if not future.done():
                        future.set_exception(error)

    def _next(self) -> dict[str, Future]:
        """Those that are asked now, the longest waiting first; {}: none waits, and the thread ends."""
        with self._lock:
            some = {sentence: self._waiting.pop(sentence) for sentence in list(self._waiting)[:TOGETHER]}
            self._works = bool(some)
        return some
