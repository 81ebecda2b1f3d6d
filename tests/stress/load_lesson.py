"""The lesson for a class: thirty clients that step, move controls and type sentences, beside `prunescope lesson`.

Plain websockets, as thirty browsers would take the cores for themselves; each does what a student's browser does: it
asks for a page, waits until all of it has come, and reads a while. Times are judged in the long form alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlencode

import numpy as np
from browsing import ROOT, wait

from prune_core.showing.course import STEPS

ANSWER, PATIENCE = 1.0, 300.0  # seconds: a step, at the 95th percentile; after which it is lost
READS = (2.0, 6.0)  # seconds that a student looks before the next move
# Step -> what one may move there: (key, kind of value, choices)
CONTROLS = {1: ("share", "double_array_value", [[20], [60], [80]]), 2: ("lambda", "double_array_value", [[0.2], [0.3]]),
            3: ("lambda to recover", "string_array_value", [["0.05"], ["0.3"]]),
            6: ("epochs", "double_array_value", [[5], [20]]),
            8: ("bits", "string_array_value", [["3 bits"], ["2 bits"]])}
SENTENCES = ("a film to forget", "I laughed until I cried", "not what I had hoped for", "the best cast of the year")


class Seen:
    """What all clients found."""

    def __init__(self) -> None:
        self.steps: list[float] = []  # seconds from asking for a step to the end of it
        self.moves: list[float] = []  # the same for a control that was moved
        self.errors: list[str] = []


@contextlib.contextmanager
def lesson() -> Iterator[str]:
    """The address of `prunescope lesson` on a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, "-m", "prune_core", "lesson", f"--port={port}"], cwd=ROOT,
                                   env=os.environ | {"PRUNESCOPE_RUNS_DIR": folder}, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait("the lesson has started", lambda: _healthy(port, process))
            yield f"localhost:{port}"
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _healthy(port: int, process: subprocess.Popen) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the lesson ended with code {process.returncode}")
    try:
        return bool(urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=10).read())
    except OSError:
        return False


class Student:
    """One client: goes through the steps, moves what can be moved, types a sentence."""

    def __init__(self, number: int, seen: Seen):
        self.chance, self.seen, self.number = random.Random(number), seen, number
        self.widgets: dict[str, str] = {}  # key -> id, as the page has told

    async def learn(self, address: str, until: float) -> None:
        import websockets

        try:
            async with websockets.connect(f"ws://{address}/_stcore/stream", subprotocols=["streamlit", "x"],
                                          origin=f"http://{address}", max_size=None, open_timeout=PATIENCE,
                                          ping_timeout=PATIENCE) as socket:
                await asyncio.sleep(self.chance.uniform(0, READS[1]))
                await self._ask(socket, STEPS[0].name, {})
                for number in itertools.count():
                    if number > 1 and time.monotonic() > until:
                        return
                    await self._step(socket)
        except Exception as error:
            self.seen.errors.append(f"client {self.number}: {type(error).__name__}: {str(error)[:300]}")

    async def _step(self, socket) -> None:
        """A step of the lesson, as the class goes through it, and a control on it."""
        step = self.chance.choice(STEPS)
        self.seen.steps.append(await self._ask(socket, step.name, {}))
        await self._read()
        if step.number in CONTROLS:
            key, kind, choices = CONTROLS[step.number]
            self.seen.moves.append(await self._ask(socket, step.name, {key: (kind, self.chance.choice(choices))}))
            await self._read()
        if step.number == 4:
            text = self.chance.choice(SENTENCES)
            self.seen.moves.append(await self._ask(socket, step.name, {"sentence": ("string_value", text)}))
            await self._read()

    async def _read(self) -> None:
        await asyncio.sleep(self.chance.uniform(*READS))

    async def _ask(self, socket, step: str, moved: dict) -> float:
        """Seconds until all of the page has come."""
        from streamlit.proto.BackMsg_pb2 import BackMsg

        ask, start = BackMsg(), time.monotonic()
        ask.rerun_script.query_string = urlencode({"step": step})
        states = {"step": ("string_array_value", [step])} | moved
        for key, (kind, value) in states.items():
            if key in self.widgets:
                state = ask.rerun_script.widget_states.widgets.add(id=self.widgets[key])
                if kind == "string_value":
                    state.string_value = value
                else:
                    getattr(state, kind).data.extend(value)
        async with asyncio.timeout(PATIENCE):
            await socket.send(ask.SerializeToString())
            shown = ""
            while True:
                said = await _said(socket)
                if said.WhichOneof("type") == "script_finished":
                    if said.script_finished == 0:  # not a fragment's
                        break
                elif said.WhichOneof("type") == "delta" and said.delta.WhichOneof("type") == "new_element":
                    shown = self._heard(said.delta.new_element) or shown
        if shown != step and self.widgets.get("step"):
            self.seen.errors.append(f"client {self.number}: asked for {step!r}, was shown {shown!r}")
        return time.monotonic() - start

    def _heard(self, element) -> str:
        """Remembers the id of a control; the step that a heading names, '' where it is none."""
        kind = element.WhichOneof("type")
        part = getattr(element, kind) if kind else None
        if kind == "exception":
            self.seen.errors.append(f"client {self.number}: the page said {part.message}")
        if (made := getattr(part, "id", "")) and "-" in made:
            for key in ("step", "sentence", *(key for key, *_ in CONTROLS.values())):
                if made.endswith(f"-{key}"):
                    self.widgets[key] = made
        return part.body if kind == "heading" and part.tag == "h2" else ""


async def _said(socket):
    """The server's next message."""
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    said = ForwardMsg()
    said.ParseFromString(await socket.recv())
    return said


async def _class(address: str, clients: int, seconds: float, seen: Seen) -> None:
    until = time.monotonic() + seconds
    await asyncio.gather(*(Student(number, seen).learn(address, until) for number in range(clients)))


def rows(short: bool) -> Iterator[dict]:
    clients, seconds = (4, 15) if short else (30, 120)
    seen = Seen()
    with lesson() as address:
        asyncio.run(_class(address, clients, seconds, seen))
    yield {"what": f"{clients} students in the lesson for {seconds} s: errors", "figure": len(seen.errors), "unit": "",
           "ok": not seen.errors, "needed": " | ".join(seen.errors[:5])}
    for what, times in (("a step stands there, all of it", seen.steps), ("a control was moved, or a sentence typed",
                                                                         seen.moves)):
        slow = float(np.quantile(times or [999.0], 0.95))
        yield {"what": f"{what}, 95th percentile of {len(times)}", "figure": slow, "unit": "s",
               "ok": bool(times) and (short or slow <= ANSWER),
               "needed": f"at most {ANSWER:g} s; median {np.median(times or [999.0]):.3f} s"}
