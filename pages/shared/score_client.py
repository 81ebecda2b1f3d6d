"""Asks a process of its own (`serve`) for exact scores: nobody waits in a page, and no question is computed twice.

Imports no streamlit.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prune_core import InputError, files
from prune_core.cutting.cuts import Cut
from prune_core.precision.formats import parse
from prune_core.precision.storage import counts, storage
from prune_core.runs import known
from prune_core.runs.run import Run

KEPT = 500  # answers
FIRST_START = 8.0  # seconds from a start to the first score, where none was timed: libraries, weights, sentences
DRAWN = 2.0  # seconds in which a page is drawn that needs nothing of the process
LAPSE = 15.0  # seconds after which a page that asks no more is taken for closed


@dataclass(frozen=True)
class Question:
    """Which weights, cut where, on which data, scored in which arithmetic."""

    run: str  # folder
    stage: str
    cut: Cut  # by thresholds
    data: str = ""  # '': where the run had it
    dtype: str = "fp32"  # or bf16, int8, auto


@dataclass(frozen=True)
class Answer:
    """How it stands: waiting, loading, measuring inputs, repairing, quantizing, scoring, done or failed.

    `done` of `total` of that, and the score so far with its 95% interval.
    """

    doing: str = "waiting"
    done: int = 0
    total: int = 0
    score: float | None = None
    low: float | None = None
    high: float | None = None
    result: dict | None = None  # what `evaluate --json` prints
    error: str = ""
    seconds_left: float | None = None  # of what it is doing; None where that is not known yet
    executed: dict | None = None  # {dtype, path, why} where that is not the dtype asked for

    @property
    def ended(self) -> bool:
        return self.doing in ("done", "failed")


@dataclass
class _Asked:
    number: int
    of: tuple[int, ...]  # which weights: those of a run that was made anew have the same names
    answer: Answer = field(default_factory=Answer)
    process: subprocess.Popen | None = None  # who was asked
    by: dict[str, float] = field(default_factory=dict)  # who -> when they asked last
    busy: bool = True  # whether the process has yet to end it; also where the score was known before


class Start:
    """How long a new scoring process takes to its first score: as the last one took here, kept between two apps."""

    def __init__(self, file: Path):
        self._file, self._at = file, None

    def begin(self, now: float) -> None:
        self._at = now

    def left(self, now: float) -> float | None:
        """Seconds until the first score, about, at least one; None where the process has given one."""
        began = self._at  # another thread may end it meanwhile
        return None if began is None else max(1.0, self._usual() - (now - began))

    def end(self, now: float) -> None:
        """The first score is there."""
        if self._at is not None:
            with contextlib.suppress(OSError):
                files.write_json(self._file, {"seconds": now - self._at})
            self.forget()

    def forget(self) -> None:
        """No score comes of this start, or nobody waits for it: how long it took is not known."""
        self._at = None

    def _usual(self) -> float:
        try:
            return min(120.0, float(json.loads(self._file.read_bytes())["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return FIRST_START


class ScoreClient:
    """One scoring process for all sessions; started with the first question, and again after it has ended."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "prune_core", "serve")):
        self._command, self._lock, self._numbers = command, threading.Lock(), itertools.count(1)
        self._process: subprocess.Popen | None = None
        self._closed = False
        self._start = Start(files.cache_folder() / "first-score.json")
        self._asked: OrderedDict[Question, _Asked] = OrderedDict()
        self._executed: dict[tuple[str, ...], dict] = {}  # run, stage, dtype, ... -> what the process ran it in

    def want(self, who: str, question: Question, again: bool = False) -> Answer:
        """How the answer stands; asks, where nobody has.

        What `who` wanted before is cancelled, unless others want it too. `again`: ask even if it failed before.
        Call it every second or so while the answer is waited for.
        """
        of = _weights_of(question)
        known = self._asked.get(question)
        before = None if known and known.of == of else known_before(question, self._executed.get(_kind(question)))
        with self._lock:
            now = time.monotonic()
            self._let_go(who, question, now)
            known = self._asked.get(question)
            if known is None or known.of != of or again and known.answer.doing == "failed":
                known = self._ask(question, of, before)
            known.by[who] = now
            self._asked.move_to_end(question)
            if known.answer.doing in ("waiting", "loading"):
                return replace(known.answer, seconds_left=self._start.left(now))
            return known.answer

    def leave(self, who: str) -> None:
        """`who` waits no more: what nobody else wants is cancelled."""
        with self._lock:
            self._let_go(who, None, time.monotonic())

    def ahead(self, question: Question) -> int:
        """How many questions are answered before this one."""
        with self._lock:
            mine = self._asked.get(question)
            others = self._asked.values() if mine else ()
            return sum(not other.answer.ended and other.number < mine.number for other in others)

    def waiting(self) -> int:
        """How many questions have no answer yet: pages then ask less often."""
        with self._lock:
            return sum(not asked.answer.ended for asked in self._asked.values())

    def failed_alike(self, question: Question) -> str:
        """The error of another question alike but for its cut, which this one would end in too; '' if none."""
        with self._lock:
            return next((asked.answer.error for other, asked in self._asked.items()
                         if asked.answer.doing == "failed" and other != question
                         and replace(other, cut=question.cut) == question), "")

    def forget_failures(self) -> None:
        """So that they are asked again."""
        with self._lock:
            for question in [q for q, a in self._asked.items() if a.answer.doing == "failed"]:
                del self._asked[question]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._closed = True
            if self._process:
                self._process.kill()
                self._process.wait()

    def _let_go(self, who: str, question: Question | None, now: float) -> None:
        for other, asked in list(self._asked.items()):
            if other == question or not asked.busy:
                continue
            asked.by = {one: at for one, at in asked.by.items() if one != who and now - at < LAPSE}
            if not asked.by:
                if not asked.answer.ended:
                    del self._asked[other]
                asked.busy = False
                if asked.process:
                    self._send({"cancel": asked.number})

    def _ask(self, question: Question, of: tuple[int, ...], before: dict | None) -> _Asked:
        answer = _after(Answer(), {"result": before}) if before else Answer()
        asked = self._asked[question] = _Asked(next(self._numbers), of, answer)
        while len(self._asked) > KEPT:
            self._asked.popitem(last=False)
        if before and self._process is None:  # it is only for the questions that follow: the page is drawn first
            later = threading.Timer(DRAWN, self._later, (question, asked))
            later.daemon = True
            later.start()
        else:
            self._put(question, asked)
        return asked

    def _later(self, question: Question, asked: _Asked) -> None:
        with self._lock:
            if asked.busy and not self._closed and self._asked.get(question) is asked:
                self._put(question, asked)

    def _put(self, question: Question, asked: _Asked) -> None:
        """Ask the process, which is started where there is none."""
        if self._process is None or self._process.poll() is not None:
            try:
                self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                 stderr=subprocess.DEVNULL, text=True, bufsize=1)
            except OSError as error:
                asked.busy = False
                if not asked.answer.ended:
                    asked.answer = Answer("failed", error=f"the scoring process cannot be started: {error}")
                return
            with contextlib.suppress(OSError, AttributeError):  # pages come first, from its first moment on
                os.setpriority(os.PRIO_PROCESS, self._process.pid, 10)
            self._start.begin(time.monotonic())
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        asked.process = self._process
        self._send({"id": asked.number} | _line(question))

    def _send(self, line: dict) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended: the reader says so
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()

    def _read(self, process: subprocess.Popen) -> None:
        """Take in what the process says until it ends; what is still waiting then has failed."""
        for line in process.stdout:
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                said = json.loads(line)
                with self._lock:
                    self._started(said)
                    for question, asked in self._asked.items():
                        if asked.number == said.get("id"):
                            self._executed |= _ran(question, said)
                            asked.busy &= not said.keys() & {"result", "error", "cancelled"}
                            if "result" in said or not asked.answer.ended:
                                asked.answer = _after(asked.answer, said)
        code = process.wait()
        with self._lock:
            for asked in self._asked.values():
                if asked.process is process:
                    asked.busy = False
                    if not asked.answer.ended:
                        asked.answer = Answer("failed", error=f"the scoring process ended unexpectedly (code {code})")

    def _started(self, said: dict) -> None:
        """Take the time of a start: to its first score, where somebody has waited for that."""
        if "score" in said or "result" in said:
            self._start.end(time.monotonic())
        elif "error" in said or "cancelled" in said and all(asked.answer.ended for asked in self._asked.values()):
            self._start.forget()


def _line(question: Question) -> dict:
    """The question as the process takes it."""
    cut = question.cut
    return {"run": question.run, "phase": question.stage, "scope": cut.scope, "threshold": dict(cut.thresholds),
            "data": question.data or None, "repair": cut.repaired, "score": cut.ranking, "dtype": question.dtype,
            "formats": cut.formats}


def _kind(question: Question) -> tuple[str, ...]:
    """Of questions that are executed alike."""
    return question.run, question.stage, question.dtype, question.cut.formats


def _ran(question: Question, said: dict) -> dict[tuple[str, ...], dict]:
    """What questions of this kind are executed in, where that was said."""
    ran = (said.get("result") or {}).get("executed")
    return {_kind(question): ran} if ran else {}


def _weights_of(question: Question) -> tuple[int, ...]:
    """What changes when other weights lie where these did; () where they lie elsewhere, as those of a run's start."""
    with contextlib.suppress(OSError, ValueError):
        file = Path(question.run, "weights", f"{question.stage}.safetensors").stat()
        return file.st_mtime_ns, file.st_size
    return ()


def known_before(question: Question, ran: dict | None = None) -> dict | None:
    """The exact score of the same weights, sentences and mask from before, as far as `evaluate --json` prints it.

    `ran`: what the dtype that is asked for was executed in last; only the process knows, unless it is fp32.
    It is the answer at once; the question is asked all the same, so that what the next one takes is loaded by then.
    """
    if question.dtype == "fp32":  # activations in 8 bits are rounded matrix by matrix, whatever the processor
        ran = {"dtype": "fp32", "path": "modules" if ";a8" in question.cut.formats else "fp32", "why": ""}
    if ran is None:
        return None
    with contextlib.suppress(InputError):
        run, cut = Run(Path(question.run)), question.cut
        mask, formats = cut.mask(run.ranking(question.stage, cut.ranking), run.layout), parse(cut.formats, run.layout)
        text = str(formats)
        key = known.key(run, question.stage, question.data or None, known.of_train(cut.repaired, text))
        found = known.find(run, key, mask, cut.repaired, ran["path"], text)
        return found and found | {"seconds": 0.0, "executed": ran, "formats": text, **counts(mask, formats),
                                  **storage(mask, formats, run.embeddings).to_json()}
    return None


def _after(answer: Answer, said: dict) -> Answer:
    """The answer after one more line about it; one that was computed earlier stands."""
    if answer.doing == "done" and "result" not in said:
        return answer
    if "result" in said:
        result = said["result"]
        examples = result["examples"]
        return Answer("done", examples, examples, result["score"], result["low"], result["high"], result,
                      executed=result.get("executed"))
    if "error" in said:
        return Answer("failed", error=str(said["error"]))
    numbers = ("done", "total", "score", "low", "high", "seconds_left", "executed")
    doing = "scoring" if "score" in said else str(said.get("doing", answer.doing))
    return replace(answer, doing=doing, **{"seconds_left": None} | {key: said[key] for key in numbers if key in said})
