"""Files that are never half there: replaced as a whole, or appended to line by line, each line with its crc32."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent  # where app.py, pages/ and data/ lie
DATA = PROJECT / "data"
_POINTER_MARK = b"version https://git-lfs"
POINTER = "cannot be read, it is only a pointer of Git LFS; run `git lfs pull` in that clone, or download the file"


def cache_folder() -> Path:
    """What is made once per machine (kernels, latency profiles): $XDG_CACHE_HOME or ~/.cache, in `prunescope`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunescope"


_protected: set[Path] = set()


def protect(folders: Iterable[Path]) -> None:
    """From now on this process writes nothing into these folders: what writes raises OSError (EROFS) there."""
    _protected.update(Path(folder).resolve() for folder in folders)


def writable(path: Path) -> None:
    """Raises OSError in a protected folder."""
    there = Path(path).resolve()
    if any(there.is_relative_to(folder) for folder in _protected):
        raise OSError(errno.EROFS, "read-only mode", str(path))


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, rename over it; its folder is made where it is missing.

    Raises OSError; the old file then stays.
    """
    writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that what was renamed into it stays after a crash. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, data: Mapping) -> None:
    """Replaces the file as a whole. Raises OSError; the old file then stays."""
    write_whole(path, (json.dumps(data, indent=1) + "\n").encode())


def sealed(data: Mapping) -> bytes:
    """One line of progress.jsonl: JSON, a tab, the crc32 of the JSON."""
    text = json.dumps(data, separators=(",", ":")).encode()
    return text + f"\t{zlib.crc32(text):08x}\n".encode()


def append_sealed(path: Path, data: Mapping) -> None:
    """One more sealed line at the end of a file of them; one that a crash tore stays apart from it. Raises OSError."""
    writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        file.seek(max(0, file.seek(0, 2) - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write((b"\n" if torn else b"") + sealed(data))


def read_sealed(path: Path) -> list[dict]:
    """All whole lines of such a file; [] where there is none."""
    try:
        return [line for line in map(unsealed, path.read_bytes().split(b"\n")) if line is not None]
    except OSError:
        return []


def unsealed(line: bytes) -> dict | None:
    """The data of a line, or None if it is torn or was changed."""
    text, tab, crc = line.rstrip(b"\n").rpartition(b"\t")
    try:
        return json.loads(text) if tab and int(crc, 16) == zlib.crc32(text) else None
    except ValueError:
        return None


def is_pointer(path: Path) -> bool:
    """Whether a file is what a clone without Git LFS has in place of a large one."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(len(_POINTER_MARK)) == _POINTER_MARK
    return False
