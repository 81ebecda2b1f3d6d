"""Run folders kept at an fsspec address (s3://, gs://, abfs:// ...), where machines share no disk.

A node works in a folder of its own and sends it on: while the run goes on so that it can be resumed elsewhere, at its
end whole. A checkpoint is taken before the log and arrives after it: what arrived can always be resumed.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prune_core import InputError
from prune_core.runs.places import one_line

CHECKPOINT, RESULT, PROBE = "checkpoint.safetensors", "result.json", ".prunescope-probe"
_LAST = ("progress.jsonl", CHECKPOINT, "status.json", RESULT)  # in this order, after all else


class Storage:
    """An address under which run folders lie."""

    def __init__(self, address: str):
        """Raises InputError where it cannot be reached or written."""
        self.address = address.rstrip("/")
        self._sent: dict[str, tuple] = {}
        self._seen: dict[str, str] = {}
        with self._told():
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(self.address)
            self._files.makedirs(self._root, exist_ok=True)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each file system has errors of its own
            raise InputError(f"storage {self.address!r} cannot be used: {type(error).__name__}: {one_line(error)}; "
                             "needed: an fsspec address that can be written, with its package and its keys") from None

    def probe(self) -> None:
        """Leave a file there. Raises InputError."""
        with self._told():
            self._files.pipe_file(f"{self._root}/{PROBE}", b"x")

    def sees_probe(self) -> bool:
        """Whether that file is there, seen from here. Raises InputError."""
        with self._told():
            self._files.invalidate_cache()
            return self._files.exists(f"{self._root}/{PROBE}")

    def complete(self, run: str) -> bool:
        """Whether a whole run lies there. Raises InputError."""
        with self._told():
            return self._files.exists(f"{self._root}/{run}/{RESULT}")

    def send(self, run: str, runs_dir: Path) -> None:
        """Send what has changed of a run's folder, which may be growing. Raises InputError."""
        folder = Path(runs_dir) / run
        if not (folder / "run.json").exists():
            return
        with self._told(), tempfile.TemporaryDirectory(prefix="prunescope-") as apart:
            held = {}
            for name in (CHECKPOINT, "progress.jsonl"):  # as they are now, the checkpoint first
                with contextlib.suppress(FileNotFoundError):
                    held[name] = Path(shutil.copy2(folder / name, Path(apart) / name))
            ended = (folder / RESULT).exists()
            found = [str(path.relative_to(folder)) for path in folder.rglob("*")
                     if path.is_file() and not path.name.startswith(".") and path.name != "lock"]
            for name in sorted(found, key=lambda name: _LAST.index(name) if name in _LAST else -1):
                if name != RESULT or ended:
                    self._put(run, name, held.get(name, folder / name))

    def _put(self, run: str, name: str, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # a checkpoint goes where a run ends
            stat = path.stat()
            print_ = (stat.st_mtime_ns, stat.st_size)
            if self._sent.get(f"{run}/{name}") != print_:
                self._files.makedirs(f"{self._root}/{run}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(path), f"{self._root}/{run}/{name}")
                self._sent[f"{run}/{name}"] = print_

    def fetch(self, run: str, runs_dir: Path) -> None:
        """Bring what lies there of a run into its folder here; nothing where there is nothing. Raises InputError."""
        folder, root = Path(runs_dir) / run, f"{self._root}/{run}"
        with self._told():
            self._files.invalidate_cache()
            if not self._files.exists(f"{root}/run.json"):
                return
            there = self._files.find(root, detail=True)
            names = {path.partition(f"{root.lstrip('/')}/")[2]: told for path, told in there.items()}
            for name in sorted(names, key=lambda name: _LAST.index(name) if name in _LAST else -1):
                told = {key: names[name].get(key) for key in ("size", "mtime", "LastModified", "ETag", "updated")}
                target = folder / name
                if self._seen.get(f"{run}/{name}") == repr(told) and target.exists():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                beside = target.with_name(f".{target.name}.fetched")
                self._files.get_file(f"{root}/{name}", str(beside))
                beside.replace(target)
                self._seen[f"{run}/{name}"] = repr(told)
            if RESULT in names:
                (folder / CHECKPOINT).unlink(missing_ok=True)
