"""Bad input: several hundred malformed things. Each ends in one clear line or is read as what it is.

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

from pages.shared import processes
from prune_core import InputError, files
from prune_core.cutting import cuts
from prune_core.cutting.blocks import BlockShape
from prune_core.evaluation import bench
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch
from prune_core.runs import places, settings, shelf, trash
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run
from prune_core.runs.settings import usual
from prune_core.showing import canvas
from prune_core.showing.canvas import Start
from prune_core.tasks import glue, table_files

SECONDS = 10.0  # for one input
LONGEST = 600  # characters of a message
Case = tuple[str, str, Callable[[], object]]  # kind, what it is, what reads it
HTML = '<script>alert(1)</script><img src=x onerror="alert(2)">**bold** [link](javascript:alert(3)) `code` $x$ :red[x]'


def judged(call: Callable[[], object]) -> str:
    """'' where all is well: it was read, or refused in one clear line soon enough; else what went wrong."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
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
    raise TimeoutError(f"not done after {SECONDS:.0f} s")


# ---------------------------------------------------------------- run folders


def probe(path: Path) -> None:
    """Everything that the pages ask of a run. A run that cannot be read hides no other."""
    listed = {one.name: one for one in shelf.listing(path.parent)}
    assert listed["well"].run is not None, "the run beside it is no longer listed"
    run = Run(path)
    run.points, run.status, run.warnings, run.dense_score, run.now, run.heads  # noqa: B018
    run.command(), run.answers.timings()  # noqa: B018
    refused: InputError | None = None
    for read in (
        *(
            lambda at=at: canvas.pack(canvas.header(run, at, 1.0, Start(usual(run)), usual(run), None, Batch()),
                                      run.norms(at))
            for at in run.with_norms[:3]
        ),
        *(lambda phase=phase: (run.surfaces(phase), run.sensitivity(phase), run.rankings(phase))
          for phase in run.stages),
        lambda: bench.encoder_of(run, "dense", run.outputs),
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
        {"scope": "layer", "key": "layer 0", "share": 0.5, "threshold": 0.1,
         "sparsity": 0.25, "score": 0.5, "low": 0.4, "high": 0.6, "examples": 24},
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
            yield "run folders", f"{name}: {what}", lambda name=name, change=change: probe(
                _with(folder, made, name, None, change))


def _with(folder: Path, made: Path, name: str, content: bytes | None,
          change: Callable[[Path], object] = lambda path: None) -> Path:
    """A copy of the run with one file changed."""
    path = folder / "bad"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(made, path)
    if content is not None:
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
            yield "run.json", what, lambda keys=keys, value=value: probe(
                _with(folder, made, "run.json", changed(keys, value)))
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
            yield "JSON bombs", f"{name}: {what}", lambda name=name, content=content: probe(
                _with(folder, made, name, content))
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
    for where, shape in ((norms, run.layout.block.grid(matrix.m, matrix.n)),
                         ("weights/dense.safetensors", (matrix.m, matrix.n))):
        for what, content in lying(shape, matrix.name):
            yield "safetensors", f"{where}: {what}", lambda where=where, content=content: probe(
                _with(folder, made, where, content))


# ---------------------------------------------------------------- tables, text, names, addresses


# long: a list of cases
def tables(folder: Path) -> Iterator[Case]:
    """Files that are given as a person's own data."""
    rows = "".join(f"a sentence number {i},{i % 2}\n" for i in range(40))
    head = "text,label\n"
    bad = {
        "empty": b"",
        "spaces": b"   \n  \n",
        "only names": head.encode(),
        "no names": rows.encode(),
        "one column": b"text\na\nb\n",
        "too few rows": b"text,label\na,0\nb,1\n",
        "Latin-1": "text,label\nça,0\n".encode("latin-1"),
        "UTF-16": (head + rows).encode("utf-16"),
        "NUL": (head + "a\0b,0\n").encode(),
        "noise": random.Random(2).randbytes(5000),
        "an open quote": (head + '"open,0\n' + rows).encode(),
        "ragged": (head + "a,b,0\n" + rows).encode(),
        "a name twice": ("text,text\n" + rows).encode(),
        "an empty cell": (head + ",0\n" + rows).encode(),
        "an empty label": (head + "a,\n" + rows).encode(),
        "one class": (head + "a,0\n" * 40).encode(),
        "a class with one row": (head + rows + "a,7\n").encode(),
        "a class for each row": (head + "".join(f"a,c{i}\n" for i in range(300))).encode(),
        "a label that is NaN": (head + rows + "a,nan\n").encode(),
        "a label that is infinite": (head + rows + "a,inf\n").encode(),
        "semicolons": (head + rows).replace(",", ";").encode(),
        "tabs": (head + rows).replace(",", "\t").encode(),
        "10,000 columns": (",".join(f"c{i}" for i in range(10_000)) + "\n" + ",".join("x" * 10_000) + "\n").encode(),
        "a cell of a megabyte": (head + "x" * 1_000_000 + ",0\n" + rows).encode(),
        "carriage returns": (head + rows).replace("\n", "\r").encode(),
        "numbers as text": b"text,label\n" + b"1,0\n2,1\n" * 20,
        "formulas": (head + "\"=cmd|' /C calc'!A0\",0\n" + rows).encode(),
        "HTML": (head + f'"{HTML.replace(chr(34), chr(34) * 2)}",0\n' + rows).encode(),
        "zeros": bytes(10_000),
        "a zip": b"PK\x03\x04" + bytes(100),
    }
    for suffix in (".csv", ".tsv", ".parquet"):
        for what, content in bad.items():

            def read(suffix=suffix, content=content):
                path = folder / f"table{suffix}"
                path.write_bytes(content)
                table_files.names(path)
                table = table_files.read(path)
                glue.load("sst2", str(path), table.columns, "", 0)

            yield "tables", f"{suffix}: {what}", read
    yield "tables", "a folder called .csv", lambda: (
        (folder / "dir.csv").mkdir(exist_ok=True), table_files.read(folder / "dir.csv"))
    yield "tables", "a file that is not there", lambda: table_files.read(folder / "nowhere.csv")
    yield "tables", "a device", lambda: table_files.read(Path("/dev/zero"))
    for name in ("../../etc/passwd.csv", "a\0b.csv", "x" * 400 + ".csv", "/etc/.csv"):
        yield "tables", f"called {name[:30]!r}", lambda name=name: _refused(lambda: table_files.read(name))


def _refused(call: Callable[[], object]) -> None:
    """Names that the system itself refuses are told as well."""
    try:
        call()
    except (ValueError, OSError) as error:
        if not isinstance(error, InputError):
            raise AssertionError(f"{type(error).__name__}: {error}") from None
        raise


TEXTS = (
    "",
    " ",
    "x",
    "0x0",
    "0x1",
    "1x0",
    "-1x1",
    "64",
    "64x",
    "x1",
    "64x1x1",
    "64 x 1",
    "64X1",
    "６４x1",
    "1e3x1",
    "0x40x1",
    "all",
    "allxall",
    "allx",
    "nanx1",
    "infx1",
    "9" * 5000 + "x1",
    "64x1\n",
    "\0",
    "64x1;rm",
    "../64x1",
    "<b>",
    "7x3",
    "65x1",
    "1x129",
    "columns",
    "rows",
    HTML,
)
QUERIES = (
    "global@nan",
    "global@inf",
    "global@-1",
    "global@1",
    "global@2",
    "global@1e999",
    "global@",
    "@0.5",
    ":",
    "layer:0.1",
    "layer:" + ",".join(["0.1"] * 9999),
    "layer:a,b",
    "layer:nan,nan",
    "layer:-1,-1",
    "global:inf",
    "global:1e999",
    "matrix:",
    "type@0.5@0.6",
    "global@0.5:0.5",
    "scope@0.5",
    "__class__@0.5",
    "global@0x10",
    "\0@0.5",
    HTML,
    "global@" + "9" * 10_000,
    "layer:" + "," * 5000,
    "global@½",
    "global@٠.٥",
    "type:" + "1," * 5 + "1e400",
)
NAMES = (
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "~",
    "~root",
    "x\0y",
    "x\ny",
    "-rf",
    ".hidden",
    "con",
    "x" * 65,
    "x" * 5000,
    "%2e%2e",
    "a b",
    "é",
    HTML,
    "${HOME}",
    "`id`",
    "a;b",
    "*",
    "?",
)


# long: a list of cases
def texts(folder: Path, made: Path) -> Iterator[Case]:
    """Block shapes, addresses, names, settings of a report, numbers."""
    run = Run(made)
    for text in TEXTS:
        yield "block shapes", repr(text)[:60], lambda text=text: BlockShape.parse(text).grid(64, 128)
        yield "block shapes", f"in a config: {text!r}"[:60], lambda text=text: PruneConfig(block=text)
    for text in QUERIES:
        yield "addresses", repr(text)[:60], lambda text=text: cuts.parse(text, run.layout)
    for value in (
        None,
        [],
        {},
        {"scope": "global"},
        {"scope": [], "share": 1, "thresholds": None},
        {"scope": "global", "share": {}, "thresholds": 3},
        {"scope": "layer", "share": None, "thresholds": {"layer 0": []}},
        {"scope": "global", "share": True, "thresholds": None},
        {"scope": "global", "share": None, "thresholds": {"all": "1e999"}},
        {"scope": "global", "share": 10**400, "thresholds": None},
    ):
        yield "addresses", f"said by a browser: {value!r}"[:60], lambda value=value: cuts.from_json(value, run.layout)
    for name in NAMES:
        for what, call in (
            ("a run", lambda name: shelf.find(name, folder)),
            ("to delete", lambda name: trash.delete(name, folder)),
            ("to put back", lambda name: trash.restore(name, folder)),
            ("to erase", lambda name: trash.erase(name, folder)),
            ("its log", lambda name: processes.log_file(name, folder)),
            ("a new run", places.check_name),
        ):
            yield "names", f"{what}: {name!r}"[:60], lambda name=name, call=call: call(name)
    for text in (
        "{",
        "[]",
        "[[]]",
        "null",
        "[" * 100_000,
        '[{"at": "dense"}]',
        '[{"at": 5}]',
        '[{"at": "dense", "share": "x"}]',
        '[{"at": "dense", "share": 0.5, "by": []}]',
        "NaN",
        "9" * 9999,
    ):
        yield "report settings", text[:40], lambda text=text: settings.from_json(text, run)
    for content in (
        b"",
        b"{",
        b"[]",
        b'{"format": 1}',
        b"[" * 100_000,
        b"\xff",
        json.dumps({"format": 1, "machine": 5}).encode(),
        b'{"format": 1e999}',
        bytes(1000),
        b'{"format": 1, "compact": {"call": -1}}',
    ):
        yield "latency profiles", repr(content)[:40], lambda content=content: profile_files.keep(content)


def cases(folder: Path, short: bool) -> Iterator[Case]:
    """All of them; in the short form every third of the run folders' and names'."""
    model, data = tiny.checkpoint(folder / "model"), tiny.data_folder(folder / "data", ("sst2",))
    made = tiny.make_run(tiny.settings(model, data), folder / "made", "made").path
    (folder / "runs").mkdir()
    runs = folder / "runs"
    for part in (folders(runs, made), abouts(runs, made), tensors(runs, made), tables(folder), texts(runs, made)):
        yield from (case for at, case in enumerate(part) if not short or at % 3 == 0)


def rows(short: bool) -> Iterator[Mapping]:
    folder = Path(tempfile.mkdtemp(prefix="prunescope-input-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # a latency profile that is taken in is kept here
    try:
        answers: dict[str, list[str]] = {}
        for kind, what, call in cases(folder, short):
            wrong = judged(call)
            if wrong:
                print(f"{kind}: {what}: {wrong}", file=sys.stderr, flush=True)
            answers.setdefault(kind, []).append(f"{what}: {wrong}" if wrong else "")
        for kind, told in answers.items():
            wrong = [line for line in told if line]
            yield {
                "what": f"{kind}: malformed, each one clear line or read as what it is",
                "figure": len(told),
                "unit": "inputs",
                "ok": not wrong,
                "needed": " | ".join(wrong[:12]),
            }
        total = sum(map(len, answers.values()))
        yield {"what": "all of them", "figure": total, "unit": "inputs", "ok": short or total >= 200,
               "needed": "at least 200"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
