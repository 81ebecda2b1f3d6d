"""The command that makes many runs: a grid or a list of cells, here or on a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prune_core import InputError
from prune_core.cli.options import AsJson, AtATime, Device, OnPlace, RunsDir
from prune_core.cli.tell import clock, tell
from prune_core.methods import table
from prune_core.runs import places, sweeps
from prune_core.runs.standing import Standing, counts
from prune_core.runs.sweeps import Sweep

# How a sweep is carried out where nothing is said, and nothing was said when it was begun
HOW = {"on": "local", "at_a_time": None, "threads": None, "gpus": None, "device": "auto", "storage": "", "retries": 3,
       "practice": False, "gives_way": True}
SHOWN = 12  # cells at work that have a line of their own


# long: the options are the axes of a grid, and how it is carried out
def sweep(
    file: Annotated[Path | None, Argument(help="A TOML file: name, dense_once, [settings], [grid], [[cell]].")] = None,
    name: Annotated[str | None, Option(help="Of the sweep; with nothing else, the one of that name goes on. "
                                            "Default: the file's, else sweep.")] = None,
    tasks: Annotated[str | None, Option(help="GLUE tasks: sst2,mrpc.")] = None,
    methods: Annotated[str | None, Option(
        help=f"As `compare` has them: some of {', '.join(table.variants())}.")] = None,
    blocks: Annotated[str | None, Option(help="Block shapes: 64x1,16x16.")] = None,
    compressions: Annotated[str | None, Option(
        help="Encoder compressions: 2,3 are two cells; 2+3 one run that has both.")] = None,
    seeds: Annotated[str | None, Option(help="How many, from 0; or a list: 0,7.")] = None,
    settings: Annotated[list[str] | None, Option(
        "--set", help="Any other option of `prune`, with one value for all cells or several: --set distill=0,0.9 "
                      "--set preset=quick. May be given again.")] = None,
    dense_once: Annotated[bool, Option(
        "--dense-once", help="Fine-tune once for all cells that would fine-tune alike; the others start "
                             "from it.")] = False,
    on: OnPlace = HOW["on"],
    at_a_time: AtATime = None,
    threads: Annotated[int | None, Option(
        help="CPU threads of each cell, on a cluster the CPUs that it takes; default: the cores divided, "
             "there 2.")] = None,
    gpus: Annotated[int | None, Option(help="GPUs of each cell; default: one, where there are any.")] = None,
    device: Device = HOW["device"],
    storage: Annotated[str, Option(
        help="Where run folders are kept if not all machines see the runs folder: an fsspec address such as "
             "s3://BUCKET/RUNS.")] = HOW["storage"],
    retries: Annotated[int, Option(
        help="How often a cell whose process or node dies is taken up again.")] = HOW["retries"],
    gives_way: Annotated[bool, Option(
        "--give-way/--no-give-way", help="Whether all else on this machine comes first.")] = HOW["gives_way"],
    look: Annotated[bool, Option("--look", help="Start nothing: say what its cells are and how they stand.")] = False,
    practice: Annotated[bool, Option(
        "--practice", help="Go on with the synthetic practice set where data cannot be had.")] = False,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Make many runs: every combination of tasks, methods, blocks, compressions, seeds and settings, each a run of its
    own. Finished ones are never run again, broken ones are resumed; Ctrl-C stops all of them, resumably."""
    from prune_core.training import sweep as training

    typed = {"task": tasks, "method": methods, "block": blocks, "compression": compressions}
    axes = {key: [sweeps.value(key, one) for one in text.split(",")] for key, text in typed.items() if text is not None}
    axes |= _seeds(seeds) | dict(map(_setting, settings or []))
    begun, how = _asked(file, name, axes, dense_once, Path(runs_dir))
    if look:
        training.check(begun, Path(runs_dir))
        tell(training.result(begun, Path(runs_dir)) | {"seconds": 0.0}, as_json, _text)
        return
    given = {"on": on, "at_a_time": at_a_time, "threads": threads, "gpus": gpus, "device": device,
             "storage": storage, "retries": retries, "practice": practice, "gives_way": gives_way}
    how = {key: how.get(key, one) if one == HOW[key] else one for key, one in given.items()}
    carry_out(begun, Path(runs_dir), lambda done: tell(done, as_json, _text), **how)


def carry_out(begun: Sweep, runs_dir: Path, told: Callable[[dict], object] = lambda done: None, **how: object) -> None:
    """See a sweep to its end, all cells in one view; `told` has what came of it. Raises InputError where cells failed.
    """
    from prune_core.training import sweep as training

    with Cells(len(begun.cells)) as shown:
        done = training.run(begun, runs_dir, **how, show=shown)
    told(done)
    if failed := [cell for cell in done["cells"] if cell["status"] == "failed"]:
        raise InputError(f"{len(failed)} of {len(done['cells'])} cells failed; {failed[0]['run']}: "
                         f"{failed[0]['error']}")


def _asked(file: Path | None, name: str | None, axes: dict, dense_once: bool, runs_dir: Path) -> tuple[Sweep, dict]:
    """The sweep that the command line asks for, and how one that goes on was carried out before. Raises InputError."""
    if file is not None:
        if axes or dense_once:
            raise InputError("a file and axes on the command line; needed: one of the two")
        try:
            return sweeps.from_toml(file.read_text(encoding="utf-8"), str(file), name), {}
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{str(file)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if axes:
        return sweeps.grid(name or "sweep", axes, dense_once=dense_once), {}
    if name is None:
        raise InputError("nothing is asked for; needed: axes such as --methods surgeon,magnitude --seeds 3, a TOML "
                         "file, or the --name of a sweep that is to go on")
    return sweeps.read(name, runs_dir)


def _seeds(text: str | None) -> dict[str, list]:
    """'3' -> 0, 1, 2; '0,7' as it is. Raises InputError."""
    if text is None:
        return {}
    listed = [sweeps.value("seed", one) for one in text.split(",")]
    if len(listed) == 1 and not 1 <= listed[0] <= sweeps.MOST:
        raise InputError(f"{listed[0]} seeds are out of range; needed: 1 or more, or a list such as 0,7")
    return {"seed": list(range(listed[0])) if len(listed) == 1 else listed}


def _setting(text: str) -> tuple[str, list]:
    """'distill=0,0.9' -> ('distill', [0.0, 0.9]). Raises InputError."""
    key, sign, values = text.partition("=")
    if not sign or not values:
        raise InputError(f"--set {text[:60]!r} names no value; needed: for example --set distill=0,0.9")
    return key.strip(), [sweeps.value(key.strip(), one) for one in values.split(",")]


class Cells:
    """All cells in one view on stderr: a live one at a terminal, else a line whenever something has changed."""

    def __init__(self, cells: int):
        self._cells, self._lines, self._said, self._live = cells, 0, "", sys.stderr.isatty()

    def __enter__(self) -> Cells:
        return self

    def __exit__(self, *_) -> None:
        self._lines = 0

    def __call__(self, cells: Sequence[Standing], left: float | None) -> None:
        number = counts(cells)
        told = [f"{number['complete']} of {self._cells} cells complete"]
        told += [f"{number[state]} {state}" for state in ("running", "interrupted", "failed") if number[state]]
        line = ", ".join(told)
        if not self._live:
            if line != self._said:
                print(f"{time.strftime('%H:%M:%S')} {line}; {clock(left)} left", file=sys.stderr, flush=True)
            self._said = line
            return
        running = [cell for cell in cells if cell.state == "running"]
        lines = [f"{line}; about {clock(left)} left", *map(_line, running[:SHOWN])]
        lines += [f"  and {len(running) - SHOWN} more"] if len(running) > SHOWN else []
        print(f"\x1b[{self._lines}F\x1b[J" * bool(self._lines) + "\n".join(lines), file=sys.stderr, flush=True)
        self._lines = len(lines)


def _line(cell: Standing) -> str:
    now = cell.now or {}
    bar = "#" * round(20 * cell.share)
    return f"  {cell.run[:44]:44} |{bar:20}| {now.get('phase', 'starting')}, {clock(now.get('seconds_left'))} left"


def _text(told: dict) -> str:
    """A line for each cell."""
    lines = []
    for cell in told["cells"]:
        points = "  ".join(f"{p['compression']:g}x {p['score_retrained']:.3f}" for p in cell["points"]
                           if p["score_retrained"] is not None)
        lines.append(f"{cell['run']:52} {cell['status']:12} {cell.get('error', points)}")
    return "\n".join(lines)
