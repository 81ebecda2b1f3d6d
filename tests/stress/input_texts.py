"""Malformed tables, block shapes, addresses, names, settings of a report and latency profiles."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from pages.shared import processes
from prune_core import InputError
from prune_core.cutting import cuts
from prune_core.cutting.blocks import BlockShape
from prune_core.latency import profile_files
from prune_core.runs import places, settings, shelf, trash
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run
from prune_core.tasks import glue, table_files

Case = tuple[str, str, Callable[[], object]]  # kind, what it is, what reads it
HTML = '<script>alert(1)</script><img src=x onerror="alert(2)">**bold** [link](javascript:alert(3)) `code` $x$ :red[x]'


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
    (folder / "dir.csv").mkdir(exist_ok=True)
    yield "tables", "a folder called .csv", lambda: table_files.read(folder / "dir.csv")
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
    "", " ", "x", "0x0", "0x1", "1x0", "-1x1", "64", "64x", "x1", "64x1x1", "64 x 1", "64X1", "６４x1", "1e3x1",
    "0x40x1", "all", "allxall", "allx", "nanx1", "infx1", "9" * 5000 + "x1", "64x1\n", "\0", "64x1;rm", "../64x1",
    "<b>", "7x3", "65x1", "1x129", "columns", "rows", HTML,
)
QUERIES = (
    "global@nan", "global@inf", "global@-1", "global@1", "global@2", "global@1e999", "global@", "@0.5", ":",
    "layer:0.1", "layer:" + ",".join(["0.1"] * 9999), "layer:a,b", "layer:nan,nan", "layer:-1,-1", "global:inf",
    "global:1e999", "matrix:", "type@0.5@0.6", "global@0.5:0.5", "scope@0.5", "__class__@0.5", "global@0x10",
    "\0@0.5", HTML, "global@" + "9" * 10_000, "layer:" + "," * 5000, "global@½", "global@٠.٥",
    "type:" + "1," * 5 + "1e400",
)
NAMES = (
    "", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "~", "~root", "x\0y", "x\ny", "-rf", ".hidden", "con",
    "x" * 65, "x" * 5000, "%2e%2e", "a b", "é", HTML, "${HOME}", "`id`", "a;b", "*", "?",
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
