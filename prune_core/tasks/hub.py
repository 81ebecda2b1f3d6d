"""The hub: whether it answers, and snapshots of its repositories, from it or from the cache; reading data sets."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune_core import InputError, files, out_of_memory
from prune_core.tasks.hub_errors import HubError, answer_in, cause, passing, wait_of
from prune_core.tasks.hub_transfer import WAIT_SECONDS, Bar, limited

SILENT_SECONDS = 60.0  # for so long after the hub failed, the cache is asked at once
TRIES = 3
COMMIT = re.compile(r"[0-9a-f]{40}")

_silent: dict[str, tuple[float, str]] = {}  # endpoint -> until when, why
said: set[str] = set()  # notes that stand on stderr already, each once


@dataclass(frozen=True)
class Snapshot:
    """A repository's files at one commit, in a folder of the cache; `note`: why not as the hub has it now."""

    folder: Path
    commit: str
    note: str = ""


def say(line: str) -> None:
    """One line on stderr: what is done instead of what was asked, or besides."""
    print(line, file=sys.stderr, flush=True)


def hub_answers(seconds: float) -> bool:
    """Whether the hub answers within `seconds`, name look-up included (which no socket timeout bounds).

    A hub that failed is not asked again for SILENT_SECONDS.
    """
    from huggingface_hub import constants

    if why_silent():
        return False
    failed: list[Exception | None] = []

    def ask() -> None:
        from huggingface_hub.utils import get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=seconds)
            failed.append(None)
        except Exception as error:  # any failure means the same: not reachable
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    why = f"the hub did not answer within {seconds:g} s" if not failed else failed[0] and cause(failed[0], "the hub")
    if why:
        _fell_silent(why)
    return not why


def offline() -> bool:
    """Whether the person has said that the hub is not to be asked: HF_HUB_OFFLINE or one of its kin."""
    from huggingface_hub import constants

    datasets = os.environ.get("HF_DATASETS_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return datasets or constants.is_offline_mode()


def why_silent() -> str:
    """Why the hub is not to be asked now, '' if it may be."""
    from huggingface_hub import constants

    if offline():
        return "HF_HUB_OFFLINE is set"
    until, why = _silent.get(constants.ENDPOINT, (0.0, ""))
    return why if time.monotonic() < until else ""


def _fell_silent(why: str) -> None:
    from huggingface_hub import constants

    _silent[constants.ENDPOINT] = time.monotonic() + SILENT_SECONDS, why


# ---------------------------------------------------------------- snapshots


def snapshot(kind: str, name: str, revision: str | None, wanted: Callable[[Sequence[str]], Sequence[str]],
             whole: Callable[[Path], bool], seconds: float = 8.0) -> Snapshot:
    """The files of a repository (`kind`: model or dataset) that `wanted` takes of all there are, at `revision`.

    From the cache without a word where a commit is asked that lies there; from the cache with a note where the hub
    does not give it. `whole` says whether a folder has all that is needed. Raises HubError.
    """
    kept = cached(kind, name, revision, whole)
    if kept and revision and COMMIT.fullmatch(revision):
        return kept
    what = f"{'data' if kind == 'dataset' else kind} {name!r}"
    if not hub_answers(seconds):
        why, silent = why_silent() or "the hub did not answer", True
    else:
        try:
            return _from_hub(kind, name, revision, wanted, TRIES if kept is None else 1)
        except InputError:
            raise
        except Exception as error:  # huggingface_hub raises two dozen kinds; `cause` tells them apart
            if out_of_memory(error):
                raise
            why, silent = cause(error, address(kind, name), revision), False
    if kept:
        note = f"{what}: {why}; the copy in the cache is used, commit {kept.commit[:7]}"
        if note not in said and not offline():
            say(note)
            said.add(note)
        return Snapshot(kept.folder, kept.commit, note)
    raise HubError(f"{what}: {why}", silent)


def address(kind: str, name: str) -> str:
    """Where people find a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"


def cached(kind: str, name: str, revision: str | None, whole: Callable[[Path], bool]) -> Snapshot | None:
    """The snapshot of this revision in the cache, if it has all that is needed."""
    folder, commit = _folder(kind, name), revision or "main"
    if not COMMIT.fullmatch(commit):
        try:
            commit = (folder / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    there = folder / "snapshots" / commit
    return Snapshot(there, commit) if commit and there.is_dir() and whole(there) else None


def _folder(kind: str, name: str) -> Path:
    """Where the cache keeps a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)


def _from_hub(kind: str, name: str, revision: str | None, wanted: Callable[[Sequence[str]], Sequence[str]],
              tries: int) -> Snapshot:
    """Fetches what is not there yet. Raises what huggingface_hub raises, and what `wanted` does."""
    from huggingface_hub import HfApi, hf_hub_download

    with limited(TRIES):
        info = _ask(kind, name, revision, tries)
        folder = _folder(kind, name)
        there = folder / "snapshots" / info.sha
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()} or {
            one.path: one.size for one in HfApi().list_repo_tree(name, recursive=True, revision=info.sha,
                                                                 repo_type=kind) if hasattr(one, "size")}
        missing = [file for file in wanted(list(sizes)) if not (there / file).exists()]
        if missing:
            with Bar(name, {file: sizes[file] for file in missing}) as bar:
                for file in missing:
                    hf_hub_download(name, file, repo_type=kind, revision=info.sha, tqdm_class=bar.of(file))
    if revision != info.sha:  # only now: what the cache held before stays findable until this is whole
        with contextlib.suppress(OSError):
            files.write_whole(folder / "refs" / (revision or "main"), info.sha.encode())
    return Snapshot(there, info.sha)


def _ask(kind: str, name: str, revision: str | None, tries: int):
    """What the repository holds at this revision. Raises what huggingface_hub raises."""
    from huggingface_hub import HfApi, constants

    for again in range(tries):
        try:
            return HfApi().repo_info(name, repo_type=kind, revision=revision, files_metadata=True,
                                     timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception as error:
            wait = _wait(error)
            if passing(error) and (wait is None or again + 1 == tries):
                _fell_silent(cause(error, address(kind, name), revision))
            if wait is None or again + 1 == tries:
                raise
        time.sleep(wait)


def _wait(error: Exception) -> float | None:
    """After how many seconds the hub can be asked again, or None."""
    from httpx2 import TimeoutException

    if not passing(error) or isinstance(error, TimeoutException):
        return None
    answer = answer_in(error)
    wait = wait_of(answer) if answer is not None else 0
    limit = answer is not None and answer.status_code == 429 and not wait
    return None if limit or wait > WAIT_SECONDS else max(1.0, wait)


# ---------------------------------------------------------------- data sets


def read_parquet(files: Mapping[str, Sequence[Path]]):
    """Split -> rows of its files, in memory. Raises ArrowException, OSError.

    Not by `datasets.load_dataset`: it goes by the ending of what a link in the cache points to, and that has none.
    """
    import datasets
    from pyarrow import concat_tables, parquet

    return {split: datasets.Dataset(concat_tables([parquet.read_table(path, partitioning=None) for path in paths]))
            for split, paths in files.items()}


def kept_by_datasets(path: str, name: str) -> bool:
    """Whether `datasets` has this set in its own cache, so that `load_dataset` needs no hub."""
    from huggingface_hub import constants

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    return any(cache.glob(f"{path.replace('/', '___')}/{name}/*/*/*.arrow"))


def load_dataset(path: str, name: str, offline: bool = False, cache: str | None = None):
    """Split -> rows of the set `name` at `path`, a name on the hub or a folder; raises what `datasets` raises.

    `offline`: only what the local cache holds; `cache`: a folder for it, in place of the shared one.
    """
    import datasets
    import huggingface_hub.constants

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is raised, and told in one line
    before = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if offline:  # then the local cache is asked at once, without minutes of retries
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(path, name, cache_dir=cache)
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
