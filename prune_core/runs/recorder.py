"""The one writer of a run directory: create, append, checkpoint, finish. Loads torch only to write weights."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import filelock
import numpy as np
from safetensors import SafetensorError, safe_open

from prune_core import files
from prune_core.cutting.masks import Norms
from prune_core.runs import places, progress
from prune_core.runs.places import RunError
from prune_core.runs.snapshots import Snapshot


@dataclass(frozen=True)
class TrainState:
    """All that training needs to go on bit for bit: named tensors and plain numbers."""

    tensors: Mapping  # name -> torch.Tensor
    meta: Mapping  # JSON


class Recorder:
    """The one writer of a run directory. Use as a context manager: it holds the lock."""

    def __init__(self, path: Path, events: int):
        self.path, self.events = path, events
        files.writable(path)
        self._lock = filelock.FileLock(str(path / "lock"), timeout=2)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise RunError(f"run {path.name!r} is being written by another process") from None
        if not (path / "run.json").exists():  # deleted while this one waited; the lock made the folder anew
            self._lock.release()
            (path / "lock").unlink(missing_ok=True)
            path.rmdir()
            raise RunError(f"run {path.name!r} is gone")
        self._log = None

    @classmethod
    def create(cls, runs_dir: Path, name: str, about: Mapping) -> Recorder:
        """A new run directory with its run.json. Raises RunError if the name is taken or unusable."""
        places.check_name(name)
        path = Path(runs_dir) / name
        if path.exists() or (places.RECORDED / name).exists():
            raise RunError(f"run {name!r} exists; resume it (python -m prune_core resume {name}) "
                           "or choose another name")
        staged = path.with_name(f".{name}.{os.getpid()}")
        (staged / "norms").mkdir(parents=True)
        (staged / "weights").mkdir()
        head = {"format": places.FORMAT, "name": name, "created": time.time()}
        files.write_json(staged / "run.json", head | dict(about))
        os.rename(staged, path)
        files.sync_folder(path.parent)
        return cls(path, 0)

    @classmethod
    def reopen(cls, path: Path, device: Mapping | None = None) -> Recorder:
        """Take up an interrupted run: what was logged after its last checkpoint no longer counts. Raises RunError.

        `device`: where that is another one than before, which is logged.
        """
        recorder = cls(path, 0)
        try:
            if (path / "result.json").exists():  # it ended while this one waited for the lock
                raise RunError(f"run {path.name!r} is complete; another process has just ended it")
            state = read_checkpoint(path, tensors=False)
            recorder.events = state.meta["events"] if state else 0
            for left_over in [*path.glob(".*"), *path.glob("*/.*")]:
                left_over.unlink()
            recorder._append({"resume": recorder.events} | ({"device": device} if device else {}))
        except BaseException:
            recorder.__exit__()
            raise
        return recorder

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_) -> None:
        try:
            if self._log:
                self._log.close()
        finally:
            self._lock.release()

    def _append(self, data: Mapping, sync: bool = True) -> None:
        if self._log is None:
            self._log = open(self.path / "progress.jsonl", "ab")
            if self._log.tell() and (self.path / "progress.jsonl").read_bytes()[-1:] != b"\n":
                self._log.write(b"\n")  # close a torn line, so that it spoils no other
        self._log.write(files.sealed(data))
        self._log.flush()
        if sync:
            os.fsync(self._log.fileno())

    def append(self, snapshot: Snapshot) -> None:
        """Log a snapshot; its norms and weights are on the disk before its line is."""
        if snapshot.norms is not None:
            self._write_norms(self.path / "norms" / f"{self.events:06d}.safetensors", snapshot.norms)
        if snapshot.weights is not None:
            _write_tensors(self.path / "weights" / f"{snapshot.saved}.safetensors", snapshot.weights(), {})
        line = {f.name: getattr(snapshot, f.name) for f in fields(snapshot) if f.name not in progress.HIDDEN}
        if snapshot.surface is not None:
            line["surface"] = [asdict(point) for point in snapshot.surface]
        line = {key: value for key, value in line.items() if value is not None and value is not False}  # 0 stays
        line |= {"i": self.events, "norms": True} if snapshot.norms is not None else {"i": self.events}
        self._append(line, sync=snapshot.norms is not None)
        self.events += 1

    def _write_norms(self, path: Path, norms: Norms) -> None:
        from safetensors.numpy import save

        files.write_whole(path, save({name: np.ascontiguousarray(values) for name, values in norms.items()}))

    def checkpoint(self, state: TrainState) -> None:
        """Replace the checkpoint; `resume` starts from here."""
        _write_tensors(self.path / "checkpoint.safetensors", state.tensors, dict(state.meta) | {"events": self.events})

    def status(self, **now) -> None:
        """Say where the run is, for those who watch it; never fails the run."""
        try:
            files.write_json(self.path / "status.json", now | {"pid": os.getpid(), "updated": time.time()})
        except OSError:
            pass

    @staticmethod
    def note_error(path: Path, message: str) -> None:
        """Leave word in status.json why the run stopped, if the disk still takes it."""
        try:
            files.write_whole(path / "status.json", json.dumps({"error": message, "updated": time.time()}).encode())
        except OSError:
            pass

    def finish(self, result: Mapping) -> None:
        """Mark the run complete. Its checkpoint has served."""
        files.write_json(self.path / "result.json", result)
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)


def _write_tensors(path: Path, tensors: Mapping, meta: Mapping) -> None:
    from safetensors.torch import save

    here = {name: one.cpu() for name, one in tensors.items()}
    files.write_whole(path, save(here, {"json": json.dumps(dict(meta))}))


def read_checkpoint(path: Path, tensors: bool = True) -> TrainState | None:
    """The last checkpoint of a run directory; None if it has none. `tensors=False` reads the numbers only."""
    file = path / "checkpoint.safetensors"
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt" if tensors else "np") as opened:
            meta = json.loads(opened.metadata()["json"])
            return TrainState({key: opened.get_tensor(key) for key in opened.keys()} if tensors else {}, meta)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"checkpoint of run {path.name!r} cannot be read: {places.one_line(error)}") from None
