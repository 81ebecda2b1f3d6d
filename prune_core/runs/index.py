"""An index of run folders: what lists show of each, so that thousands are listed at once. The folders are the truth.

    data/runs/.index.jsonl     a sealed line for each run, with the times and sizes of the files that it was read from

A run whose files have changed is read anew, one that is gone is left out; the file can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prune_core import __version__, files
from prune_core.cutting.blocks import Layout
from prune_core.runs import places, shelf
from prune_core.runs.run import Run
from prune_core.runs.shelf import Listed
from prune_core.runs.stages import Stage

FILE = ".index.jsonl"
FILES = ("run.json", "progress.jsonl", "result.json")  # that say what a run holds
QUIET = 60.0  # seconds since a run that is not complete was written last, after which it is kept
HEAD = {"index": 1, "version": __version__}
Report = Callable[[int, int], None]  # done, in all: folders that are read, as they were not known


def listing(runs_dir: Path) -> list[Listed]:
    """As shelf.listing: the user's runs, newest first, then those that ship."""
    return Index(runs_dir).listing()


class Index:
    """Of one runs folder and the runs that ship. For several threads."""

    def __init__(self, runs_dir: Path, keeps: bool = True):
        """`keeps`: whether what is read may be written down."""
        self._runs_dir, self._keeps, self._lock = Path(runs_dir), keeps, threading.Lock()
        self._known: dict[str, tuple[list, Listed]] = {}  # path -> the print of its files, and what is listed
        self._layouts: dict[str, tuple[dict, Layout, dict]] = {}  # by key: as JSON, itself, run.json of one that has it
        self._lines, self._read = 0, False

    def listing(self, report: Report = lambda done, total: None) -> list[Listed]:
        """All runs. What is not known yet is read, which `report` is told of."""
        with self._lock:
            if not self._read:
                self._read = True
                with _no_garbage():
                    self._take_up()
            prints = {path: print_ for folder in dict.fromkeys((self._runs_dir, places.RECORDED))
                      for path, print_ in _prints(folder)}
            changed = [path for path, print_ in prints.items()
                       if path not in self._known or self._known[path][0] != print_]
            kept = time.monotonic()
            new: list[str] = []
            for done, path in enumerate(changed):
                report(done, len(changed))
                self._known[path] = prints[path], self._light(shelf.read(Path(path)))
                new.append(path)
                if time.monotonic() - kept > 5:  # of thousands, those that are read are not lost with this process
                    self._keep(new)
                    new, kept = [], time.monotonic()
            for path in self._known.keys() - prints.keys():
                del self._known[path]
            self._keep(new)
            mine = str(self._runs_dir)
            apart = [(os.path.dirname(path) != mine, *shelf.order(one), one) for path, (_, one) in self._known.items()]
            return [one for *_, one in sorted(apart, key=lambda of: of[:-1])]

    def _light(self, listed: Listed) -> Listed:
        """The same without all that reading it has brought into memory."""
        if listed.run is None:
            return listed
        run, layout = listed.run, json.dumps(listed.run.about["layout"])
        key = f"{zlib.crc32(layout.encode()):08x}-{len(layout)}"
        shared, made, _ = self._layouts.setdefault(key, (run.about["layout"], run.layout, run.about))
        known = {"about": run.about | {"layout": shared}, "layout": made, "key": key, "points": run.points,
                 "dense_scores": run.dense_scores, "stages": run.stages, "with_norms": run.with_norms,
                 "formats": str(run.config.formats), "ended": run.result is not None}
        return Listed(listed.name, listed.path, Run(listed.path, known))

    # ---- as a file

    def _take_up(self) -> None:
        """What was kept; nothing where it was damaged, or by another version."""
        lines = files.read_sealed(self._runs_dir / FILE)
        if not lines or lines[0] != HEAD:
            return
        self._lines = len(lines)
        for line in lines[1:]:
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                if "layout" in line:
                    self._layouts[line["key"]] = line["layout"], Layout.from_json(line["layout"]), line["about"]
                else:
                    self._known[line["path"]] = line["print"], self._listed(line)

    def _listed(self, line: dict) -> Listed:
        path = Path(line["path"])
        if "reason" in line:
            return Listed(path.name, path, None, line["reason"])
        shared, made, base = self._layouts[line["key"]]
        about = _together(base, line["about"]) | {"layout": shared}
        about["config"] = _together(base["config"], line["config"])
        known = line["known"] | {"about": about, "layout": made, "key": line["key"]}
        known["stages"] = list(map(Stage, known["stages"]))
        return Listed(path.name, path, Run(path, known))

    def _keep(self, paths: Iterable[str]) -> None:
        """Add lines for these; whole anew where most lines are of before. A folder that takes nothing is let be."""
        paths = [path for path in paths if _quiet(*self._known[path])]
        if not paths or not self._keeps or not self._runs_dir.is_dir():
            return
        whole = not self._lines or self._lines > 2 * len(self._known) + 100
        if whole:
            paths = [path for path, known in self._known.items() if _quiet(*known)]
        lines = list(self._lines_of(paths))
        with contextlib.suppress(OSError):
            content = b"".join(map(files.sealed, [HEAD] * whole + lines))
            if whole:
                files.write_whole(self._runs_dir / FILE, content)
            else:
                files.writable(self._runs_dir)
                with open(self._runs_dir / FILE, "ab") as file:
                    file.write(content)
            self._lines = len(lines) + (1 if whole else self._lines)

    def _lines_of(self, paths: Iterable[str]) -> Iterator[dict]:
        told: set[str] = set()
        for path in paths:
            print_, listed = self._known[path]
            if listed.run is None:
                yield {"path": path, "print": print_, "reason": listed.reason}
                continue
            known = dict(listed.run.known)
            about, key, _ = known.pop("about"), known.pop("key"), known.pop("layout")
            shared, _, base = self._layouts[key]
            if key not in told:
                told.add(key)
                yield {"key": key, "layout": shared,
                       "about": {name: one for name, one in base.items() if name != "layout"}}
            whole, bare = ({name: one for name, one in each.items() if name not in ("layout", "config")}
                           for each in (about, base))
            yield {"path": path, "print": print_, "key": key, "known": known, "about": _apart(whole, bare),
                   "config": _apart(about["config"], base["config"])}


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Without a search for garbage among all that is made and stays: it took half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _apart(one: dict, base: dict) -> dict:
    """What it has other than `base`, and what it lacks of it: of the runs of a sweep nearly nothing."""
    return {"has": {name: value for name, value in one.items() if name not in base or base[name] != value},
            "lacks": [name for name in base if name not in one]}


def _together(base: dict, apart: dict) -> dict:
    """The other way round."""
    return {name: value for name, value in base.items() if name not in apart["lacks"]} | apart["has"]


def _quiet(print_: list, listed: Listed) -> bool:
    """Whether it is worth keeping: a run at work is another one in a moment."""
    last = max((one[0] for one in print_ if one), default=0) / 1e9
    return bool(print_[-1]) or time.time() - last > QUIET


def _prints(folder: Path) -> Iterator[tuple[str, list]]:
    """(path, time and size of each of FILES) of every folder in it that may be a run."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_dir():
                yield entry.path, [_print(f"{entry.path}/{name}") for name in FILES]


def _print(path: str) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_mtime_ns, stat.st_size]
