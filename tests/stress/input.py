"""Bad input: each of several hundred malformed things ends in one clear line or is read as what it is.

None takes anything down or writes elsewhere.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tiny
from stress.input_texts import HTML, Case, tables, texts

from prune_core import InputError, files
from prune_core.evaluation import weights
from prune_core.latency.profile import Batch
from prune_core.runs import places, settings, shelf
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.showing.canvas import Start

SECONDS, PATIENCE = 10.0, 300.0  # for one input; in the short form, which may run on a busy machine
LONGEST = 600  # characters of a message


def judged(call: Callable[[], object], seconds: float) -> str:
    """'' where all is well: it was read, or refused in one clear line soon enough; else what went wrong."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        call()
    except InputError as error:
        line = str(error)
        if not line.strip() or "\n" in line or len(line) > LONGEST:
            return f"not one clear line: {line[:120]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def _too_long(*_) -> None:
    raise TimeoutError("not done in time")


# ---------------------------------------------------------------- run folders


def probe(path: Path) -> None:
    """Everything that the pages ask of a run. A run that cannot be read hides no other."""
    listed = {one.name: one for one in shelf.listing(path.parent)}
    assert listed["well"].run is not None, "the run beside it is no longer listed"
    run = Run(path)
    run.points, run.status, run.warnings, run.dense_score, run.now, run.heads  # noqa: B018
    run.command(), run.answers.timings()
    refused: InputError | None = None
    for read in (
        *(
            lambda at=at: canvas.pack(canvas.header(run, at, 1.0, Start(settings.usual(run)), settings.usual(run), None,
                                                    Batch()), run.norms(at))
            for at in run.with_norms[:3]
        ),
        *(lambda phase=phase: (run.surfaces(phase), run.sensitivity(phase), run.rankings(phase))
          for phase in run.stages),
        lambda: weights.encoder_of(run, "dense", run.outputs),
    ):
        try:
            read()
        except InputError as error:
            refused = error
    if refused:
        raise refused


def broken(content: bytes, other: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Ways in which a file goes bad."""
    yield "empty", b""
    for share in (0.25, 0.5, 0.9):
        yield f"cut off at {share:.0%}", content[: int(len(content) * share)]
    yield "one byte short", content[:-1]
    for number in range(4):
        at = chance.randrange(len(content))
        yield f"a bit flipped at {at}", content[:at] + bytes([content[at] ^ 1 << number]) + content[at + 1 :]
    yield "zeros", bytes(len(content))
    yield "noise", chance.randbytes(len(content))
    yield "another file's content", other
    yield "noise after it", content + chance.randbytes(50)
    yield "UTF-16", b"\xff\xfe" + "{}".encode("utf-16-le")


def folders(folder: Path, made: Path) -> Iterator[Case]:
    """Run folders with one file gone bad, gone, or a folder."""
    chance = random.Random(1)
    shutil.copytree(made, folder / "well")
    run = Run(made)
    files.append_sealed(
        made / "sensitivity-dense.jsonl",
        {"scope": "layer", "key": "layer 0", "share": 0.5, "threshold": 0.1, "sparsity": 0.25, "score": 0.5, "low": 0.4,
         "high": 0.6, "examples": 24},
    )
    files.write_json(made / "status.json", {"phase": "penalty", "step": 3, "steps": 9, "pid": 1, "updated": 1.0})
    norms = f"norms/{run.progress.lines[run.with_norms[0]]['i']:06d}.safetensors"
    names = ["run.json", "progress.jsonl", "result.json", "status.json", norms, "weights/dense.safetensors",
             "sensitivity-dense.jsonl"]
    for name in names:
        content, other = (made / name).read_bytes(), (made / names[(names.index(name) + 1) % len(names)]).read_bytes()
        for what, bad in broken(content, other, chance):
            yield "run folders", f"{name}: {what}", lambda name=name, bad=bad: probe(_with(folder, made, name, bad))
        for what, change in (
            ("missing", lambda path: path.unlink()),
            ("a folder", lambda path: (path.unlink(), path.mkdir())),
            ("a link to itself", lambda path: (path.unlink(), path.symlink_to(path))),
        ):
            yield ("run folders", f"{name}: {what}",
                   lambda name=name, change=change: probe(_with(folder, made, name, None, change)))


def _with(folder: Path, made: Path, name: str, content: bytes | None,
          change: Callable[[Path], object] = lambda path: None) -> Path:
    """A copy of the run with one file changed."""
    path = folder / "bad"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(made, path, copy_function=os.link)  # the same files: what is changed is put in their place
    if content is not None:
        (path / name).unlink()
        (path / name).write_bytes(content)
    change(path / name)
    return path


# long: a list of cases
def abouts(folder: Path, made: Path) -> Iterator[Case]:
    """run.json that is JSON, and wrong."""
    well = json.loads((made / "run.json").read_bytes())

    def changed(keys: str, value: object) -> bytes:
        about = copy.deepcopy(well)
        place = about
        *way, last = keys.split(".")
        for key in way:
            place = place[int(key) if isinstance(place, list) else key]
        if value is ...:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
        return json.dumps(about).encode()

    values = {
        "format": [2, 99, None, "1", [], 1e308],
        "config": [None, [], {}, {"model": 3}],
        "config.block": ["0x1", "x", 7, None, "9" * 400 + "x1"],
        "config.compressions": [None, [], ["two"], [0.0], 5, [1e999]],
        "config.scope": ["everything", None],
        "config.future_setting": [1],
        "config.model": [None, 5, "../../etc", "/etc/passwd", "a\nb"],
        "config.task": ["nothing", None, 3],
        "layout": [None, [], {}],
        "layout.block": ["3x7", None, "1x1"],
        "layout.matrices": [None, {}, [], [[]], "text"],
        "layout.matrices.0.m": [10**12, 10**12 + 1, -64, 0, "64", None, 0.5, 1e300],
        "layout.matrices.0.name": ["../../x", None, HTML],
        "layout.matrices.0.type": [None, HTML],
        "layout.matrices.0.layer": ["a", -1, 10**9],
        "layout.model_weights": [0, -1, "many", None, 1e400],
        "task": [None, [], {}],
        "task.name": [HTML, None, "../x"],
        "task.metric": ["speed", None, HTML],
        "task.shares": ["half", {}, [None], ["0.5"]],
        "checkpoint": [None, 5, {"frozen": 5}],
        "loading": [None, 5, [5]],
        "task.labels": [None, 5, [HTML, HTML], []],
        "data": [None, 5, HTML, "/etc/shadow", "practice"],
        "majority_score": [None, "high", 1e999, ...],
        "notes": [None, 5, [5], [HTML]],
        "command": [None, 5, HTML, "rm -rf /"],
        "created": ["yesterday", None, -1e300, 1e999],
        "machine": [None, [], HTML],
        "heads": [None, "twelve", -3, 10**9],
        "name": [None, "../x", HTML],
    }
    for keys, wrong in values.items():
        for value in (*wrong, ...):
            if value is ... and keys == "config.future_setting":
                continue
            what = f"run.json: {keys} {'missing' if value is ... else repr(value)[:50]}"
            yield ("run.json", what,
                   lambda keys=keys, value=value: probe(_with(folder, made, "run.json", changed(keys, value))))
    bombs = {
        "nested lists": b"[" * 200_000,
        "nested objects": b'{"a":' * 200_000,
        "a number of 100,000 digits": b'{"format": ' + b"9" * 100_000 + b"}",
        "1e999": b'{"format": 1e999}',
        "NaN": b'{"format": NaN}',
        "a list": b"[]",
        "null": b"null",
        "text": b'"run"',
        "keys twice": b'{"format":1,"format":2}',
        "a million keys": json.dumps({str(i): i for i in range(200_000)}).encode(),
        "a surrogate": b'{"format": "\\ud800"}',
        "NUL": b'{"format": "\\u0000"}',
    }
    for name in ("run.json", "result.json", "status.json"):
        for what, content in bombs.items():
            yield ("JSON bombs", f"{name}: {what}",
                   lambda name=name, content=content: probe(_with(folder, made, name, content)))
    lines = {
        "a sealed list": [],
        "a sealed number": 3,
        "no i": {"phase": "dense", "step": 1},
        "i is text": {"i": "x", "phase": "dense", "step": 1},
        "resume is text": {"resume": "x"},
        "resume far ahead": {"resume": 10**9},
        "a phase that is a list": {"i": 0, "phase": [], "step": 1},
        "norms without a file": {"i": 10**6, "phase": "dense", "step": 1, "norms": True},
        "saved elsewhere": {"i": 0, "phase": "dense", "step": 1, "saved": "../../x"},
        "saved is a number": {"i": 0, "phase": "dense", "step": 1, "saved": 5},
        "scores are text": {"i": 0, "phase": "dense", "step": 1, "saved": "dense", "scores": "x"},
        "a surface of text": {"i": 0, "phase": "dense", "step": 1, "surface": ["x"]},
        "a point of text": {"i": 0, "phase": "dense", "step": 1, "saved": "dense", "point": "x"},
        "i is a path": {"i": "../../../x", "phase": "dense", "step": 1, "norms": True},
        "steps are lists": {"i": 0, "phase": "dense", "step": [1], "loss": {}},
    }
    for what, line in lines.items():
        content = (made / "progress.jsonl").read_bytes() + files.sealed(line)
        yield "progress lines", what, lambda content=content: probe(_with(folder, made, "progress.jsonl", content))


def lying(shape=(4, 64), name: str = "x") -> Iterator[tuple[str, bytes]]:
    """safetensors files whose headers do not tell the truth."""
    size = int(np.prod(shape)) * 4

    def file(header: object, body: bytes = bytes(size), length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + body

    one = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}
    yield "a header longer than the file", file({name: one}, length=10**6)
    yield "a header of 2^63 bytes", file({name: one}, length=2**63)
    yield "a header of no bytes", file({name: one}, length=0)
    yield "a header that is no JSON", file(b"{")
    yield "a header that is a list", file([])
    yield "nested headers", file(b"[" * 100_000)
    for what, change in {
        "offsets beyond the end": {"data_offsets": [0, 10 * size]},
        "offsets that go back": {"data_offsets": [size, 0]},
        "negative offsets": {"data_offsets": [-4, size - 4]},
        "a size that the shape does not have": {"shape": [4, 65]},
        "a shape of 10^18": {"shape": [10**9, 10**9]},
        "a negative shape": {"shape": [-4, -64]},
        "no shape": {"shape": None},
        "an unknown type": {"dtype": "F33"},
        "another type": {"dtype": "I32"},
        "shorter numbers": {"dtype": "F16"},
        "offsets of text": {"data_offsets": ["0", "9"]},
        "no dimensions": {"shape": [], "data_offsets": [0, 4]},
    }.items():
        yield what, file({name: one | change})
    yield "two tensors in one place", file({name: one, "other": one})
    yield "nothing in it", file({}, b"")
    yield "the tensor missing", file({"other": one})
    yield "metadata that is a list", file({"__metadata__": [], name: one})
    for what, value in (("NaN", np.nan), ("infinity", np.inf), ("negative numbers", -1.0), ("1e38", 1e38)):
        yield f"full of {what}", file({name: one}, np.full(shape, value, "<f4").tobytes())


def tensors(folder: Path, made: Path) -> Iterator[Case]:
    run = Run(made)
    matrix = run.layout.matrices[0]
    norms = f"norms/{run.progress.lines[run.with_norms[0]]['i']:06d}.safetensors"
    sides = {norms: run.layout.block.grid(matrix.m, matrix.n), "weights/dense.safetensors": (matrix.m, matrix.n)}
    for where, shape in sides.items():
        for what, content in lying(shape, matrix.name):
            yield ("safetensors", f"{where}: {what}",
                   lambda where=where, content=content: probe(_with(folder, made, where, content)))


def cases(folder: Path, short: bool) -> Iterator[Case]:
    """All of them; in the short form every third of the run folders' and names'."""
    asked = tiny.settings(tiny.checkpoint(folder / "model"), tiny.data_folder(folder / "data", ("sst2",)))
    made, there = tiny.make_run(asked, folder / "made", "made").path, folder / "runs"
    there.mkdir()
    parts = folders(there, made), abouts(there, made), tensors(there, made), tables(folder), texts(there, made)
    for part in parts:
        yield from (case for at, case in enumerate(part) if not short or at % 3 == 0)


def rows(short: bool) -> Iterator[Mapping]:
    folder = Path(tempfile.mkdtemp(prefix="prunescope-input-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # a latency profile that is taken in is kept here
    places.RECORDED = folder / "none"  # else each listing reads all the runs that ship: four fifths of the time
    try:
        found: dict[str, list[str]] = {}
        for kind, what, call in cases(folder, short):
            wrong = judged(call, PATIENCE if short else SECONDS)
            if wrong:
                print(f"{kind}: {what}: {wrong}", file=sys.stderr, flush=True)
            found.setdefault(kind, []).append(f"{what}: {wrong}" if wrong else "")
        for kind, told in found.items():
            wrong = [line for line in told if line]
            yield {
                "what": f"{kind}: malformed, each one clear line or read as what it is",
                "figure": len(told),
                "unit": "inputs",
                "ok": not wrong,
                "needed": " | ".join(wrong[:12]),
            }
        total = sum(map(len, found.values()))
        yield {"what": "all of them", "figure": total, "unit": "inputs", "ok": short or total >= 200,
               "needed": "at least 200"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
