"""Exact dev scores for whoever asks, from weights that stay loaded: questions and answers as JSON lines.

    in    {"id": 7, "run": FOLDER, "phase": "dense", "scope": "global", "threshold": {"all": 0.31},
           "data": FOLDER or null, "repair": true or absent, "score": "activation" (the ranking) or absent,
           "dtype": "bf16" or absent for fp32, "formats": "4/2:4;a8" or absent for fp32}
          {"cancel": 7}
    out   {"id": 7, "executed": {"dtype": "fp32", "path": "fp32", "why": ...}} where that is not the dtype asked for,
          {"id": 7, "doing": "loading"},
          of a repair {"id": 7, "doing": "measuring inputs", "done": 300, "total": 1024, "seconds_left": 4.1}
          and {"id": 7, "doing": "repairing", "done": 12, "total": 36, "seconds_left": 0.6}, of formats "quantizing",
          then {"id": 7, "done": 96, "total": 872, "score": ..., "low": ..., "high": ..., "seconds_left": 1.2} after
          every batch,
          at last {"id": 7, "result": as `evaluate --json`} or {"id": 7, "error": one line}
          or {"id": 7, "cancelled": true}
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil
import torch

from prune_core import InputError
from prune_core.evaluation import arithmetic, exact
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.dev_score import Running
from prune_core.execution import native, paths
from prune_core.execution.paths import Choice
from prune_core.models.devices import CPU
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of

KEPT = 3  # benches: weights and dev set of one stage each
PREPARED_BYTES = 300e6  # what a repair needs is not measured unasked where it takes more memory
PAUSE_SECONDS = 1.0  # without a question; then there is time to prepare
IDLE_SECONDS = 1200  # without a question; then the memory is worth more than the wait for the next one


class Cancelled(Exception):
    """Nobody waits for this answer any more."""


class Cores:
    """How many cores other work leaves over.

    Two threads that wait for each other's turn on busy cores take time from all and win none.
    """

    def __init__(self, all_: int = os.cpu_count() or 1):
        self._all, self._left, self._before = all_, all_, self._now()

    def left(self) -> int:
        """Whole cores that no other process used since this was asked last, at least one."""
        wall, *spent = (now - before for now, before in zip(self._now(), self._before, strict=True))
        if wall > 0.2:  # the system counts in hundredths of a second
            self._left, self._before = max(1, min(self._all, round(sum(spent) / wall))), self._now()
        return self._left

    def _now(self) -> tuple[float, float, float]:
        """Seconds: of the clock, idle on all cores, used by this process."""
        mine, all_ = psutil.Process().cpu_times(), psutil.cpu_times()
        return time.monotonic(), all_.idle + getattr(all_, "iowait", 0.0), mine.user + mine.system


class Teller:
    """Says how far one answer is, and for how long it goes on; raises Cancelled once nobody waits for it.

    `meanwhile` is called each time.
    """

    def __init__(self, say: Callable[[Mapping], None], number, cancelled: set, meanwhile: Callable[[], None]):
        self._say, self._number, self._cancelled, self._meanwhile = say, number, cancelled, meanwhile
        self._what, self._start, self._first = "", 0.0, 0

    def doing(self, what: str, done: int, total: int) -> None:
        """What comes before the score: so much of so much is done."""
        self._tell(what, done, total, {"doing": what})

    def taken(self, choice: Choice) -> None:
        """What runs, where that is not what was asked for."""
        if arithmetic.note(choice):
            self._say({"id": self._number, "executed": arithmetic.executed(choice)})

    def running(self, running: Running) -> None:
        """The score so far."""
        self._tell("scoring", running.done, running.total,
                   {"score": running.score, "low": running.low, "high": running.high})

    def _tell(self, what: str, done: int, total: int, more: Mapping) -> None:
        if self._number in self._cancelled:
            raise Cancelled
        self._meanwhile()
        now = time.monotonic()
        if what != self._what:  # what the first part of it took may lie before: it is not counted
            self._what, self._start, self._first = what, now, done
        gone = done - self._first
        left = (now - self._start) / gone * (total - done) if gone else None
        self._say({"id": self._number, "done": done, "total": total, "seconds_left": left, **more})


class ScoringProcess:
    """Answers one question at a time, in the order they came; those that were cancelled meanwhile are dropped.

    `threads`: 0 for as many as there are cores that other work leaves over.
    """

    def __init__(self, say: Callable[[Mapping], None], threads: int = 0, device: torch.device = CPU):
        self._say, self._threads, self._cores, self._device = say, threads, Cores(), device
        self._benches: OrderedDict[tuple, Bench] = OrderedDict()
        self._waiting: queue.Queue[Mapping | None] = queue.Queue()
        self._cancelled: set = set()
        self._unprepared: Bench | None = None  # of which preparing has failed

    def take(self, lines: Iterable[str]) -> None:
        """Queue what these lines ask, until they end. Runs beside `work`, so that a cancellation is seen at once."""
        for line in lines:
            try:
                question = dict(json.loads(line))
            except (ValueError, TypeError):
                continue
            if "cancel" in question:
                self._cancelled.add(question["cancel"])
            else:
                self._waiting.put(question)
        self._waiting.put(None)

    def work(self) -> None:
        """Answer until there is no more, or nobody has asked for IDLE_SECONDS."""
        with contextlib.suppress(queue.Empty):
            while (question := self._next()) is not None:
                self._say({"id": question.get("id")} | self._answer(question))

    def _next(self) -> Mapping | None:
        """The next question, None where there is none any more. Raises queue.Empty after IDLE_SECONDS."""
        end = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                return self._waiting.get(timeout=PAUSE_SECONDS)
            with contextlib.suppress(Cancelled):
                self._prepare()
        raise queue.Empty

    def _prepare(self) -> None:
        """While nobody asks and no core is busy: measure what a repair of the weights in use needs, for seconds.

        Raises Cancelled when a question comes.
        """
        def go_on(*_) -> None:
            if not self._waiting.empty():
                raise Cancelled

        bench = next(reversed(self._benches.values()), None)
        if bench is None or bench is self._unprepared or self._cores.left() < (os.cpu_count() or 1):
            return
        if sum(4 * matrix.n**2 for matrix in bench.run.layout.matrices) > PREPARED_BYTES:
            return
        try:
            bench.grams(go_on, keep=False)
        except Cancelled:
            raise
        except Exception:  # nobody has asked for it yet: whoever does is told why
            self._unprepared = bench

    def _answer(self, question: Mapping) -> dict:
        number = question.get("id")
        teller = Teller(self._say, number, self._cancelled, self._take_cores)
        try:
            if number in self._cancelled:
                raise Cancelled
            dtype = paths.check(question.get("dtype") or "fp32")
            run, ranking = Run(Path(question["run"])), question.get("score") or "norm"
            cut = cut_of(run, None, question["threshold"], question["scope"], ranking, bool(question.get("repair")),
                         str(question.get("formats") or ""))
            bench, threads = self._bench(run, question), self._threads or self._cores.left()
            return {"result": exact.evaluate(run, question["phase"], cut, threads=threads, report=teller.running,
                                             bench=bench, doing=teller.doing, dtype=dtype, taken=teller.taken)}
        except Cancelled:
            return {"cancelled": True}
        except InputError as error:
            return {"error": str(error)}
        except Exception as error:  # this process goes on; the next question may be a better one
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        finally:
            self._cancelled.discard(number)

    def _take_cores(self) -> None:
        """What other work leaves over now: an answer may take seconds, in which it ends."""
        torch.set_num_threads(self._threads or self._cores.left())

    def _bench(self, run: Run, question: Mapping) -> Bench:
        """Loaded once for the same weights file and data."""
        file, data = run.weights_file(question["phase"]), question.get("data") or None
        key = (str(file), file.stat().st_mtime_ns, data)
        if key not in self._benches:
            self._say({"id": question["id"], "doing": "loading"})
            self._benches[key] = Bench(run, question["phase"], data, self._device)
            while len(self._benches) > KEPT:
                self._benches.popitem(last=False)
        self._benches.move_to_end(key)
        return self._benches[key]


def give_way() -> None:
    """Everything else on this machine comes first.

    Where Linux shares the cores out by session (autogroup), a nice process only gives way within its own: there it
    takes a session of its own, and that one is made nice. A shell's job leads a group and may not; it is left as it is.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
        os.setsid()
        Path("/proc/self/autogroup").write_text("10")


def main(threads: int = 0, device: torch.device = CPU) -> None:
    """Answer on stdin and stdout until stdin ends. What libraries print goes to stderr.

    It gives way to whatever else runs here: pages answer at once, a score may come a little later.
    """
    give_way()
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)
        scoring = ScoringProcess(lambda answer: out.write(json.dumps(answer) + "\n"), threads,
                                 device)
        threading.Thread(target=scoring.take, args=(sys.stdin,), daemon=True).start()
        threading.Thread(target=native.build, daemon=True).start()  # built, on a new machine, while weights are read
        with contextlib.suppress(BrokenPipeError):
            scoring.work()
