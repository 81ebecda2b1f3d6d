"""What pages read, and the only caches. A key holds what the answer depends on, so a run that grows is read anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import streamlit as st

from pages.shared import processes
from pages.shared.asking import Asker
from pages.shared.score_client import ScoreClient
from prune_core import InputError, files, machine
from prune_core.cutting import masks
from prune_core.cutting.masks import Norms, mask_at_sparsity
from prune_core.files import DATA
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch, Profile
from prune_core.runs import best, places, shelf, sweeps
from prune_core.runs.index import Index
from prune_core.runs.run import Run
from prune_core.runs.shelf import Listed
from prune_core.showing import canvas
from prune_core.tasks import glue, table_files

MANY = 100  # runs that are read anew, from which on it is shown how far that is
_FILES = ("run.json", "progress.jsonl", "result.json")
Print = str  # what changes when files do; one string, as Streamlit takes milliseconds to hash tuples of tuples


def runs_dir() -> Path:
    """The user's runs folder: PRUNESCOPE_RUNS_DIR, or data/runs."""
    return Path(os.environ.get("PRUNESCOPE_RUNS_DIR") or places.RUNS).resolve()


def read_only() -> bool:
    """Whether this app only shows (PRUNESCOPE_READ_ONLY): nothing is started, changed or deleted.

    The commands refuse it too.
    """
    return bool(os.environ.get("PRUNESCOPE_READ_ONLY"))


if read_only():
    files.protect([DATA, runs_dir(), files.cache_folder() / "profiles"])


def data_folder() -> str:
    """Where the tasks' data is, if whoever started the app has said so: PRUNESCOPE_DATA."""
    return os.environ.get("PRUNESCOPE_DATA", "")


def known_data() -> str:
    """A folder with the tasks' data: the one the app was started with, else where the newest of one's own had it."""
    own = (entry.run.data for entry in listed() if entry.run and not entry.run.recorded and entry.run.is_glue)
    return data_folder() or next((place for place in own if Path(place).is_dir()), "")


def fingerprint(path: Path, names: Sequence[str] = _FILES) -> Print:
    """Path, then time and size of each file that says what a run holds: a cache key."""
    parts: list = [str(path)]
    for name in names:
        try:
            stat = (path / name).stat()
            parts.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            parts.append(None)
    return repr(parts)


def listed() -> list[Listed]:
    """Every run folder: the user's, newest first, then those that ship; unreadable ones with their reason."""
    index, bar = _index(str(runs_dir()), not read_only()), None

    def reading(done: int, total: int) -> None:
        nonlocal bar
        if total > MANY:
            bar = bar or st.empty()
            bar.progress(done / total, f"Reading {total:,} runs that were not listed here before: {done:,} done")

    found = index.listing(reading)
    if bar:
        bar.empty()
    return found


@st.cache_resource(max_entries=4, show_spinner=False)
def _index(folder: str, keeps: bool) -> Index:
    return Index(Path(folder), keeps)


def sweep(name: str) -> dict:
    """What was asked of a sweep. Raises RunError."""
    return _sweep(name, str(runs_dir()), fingerprint(sweeps.folder_of(runs_dir()), [f"{name}.json"]))


@st.cache_resource(max_entries=4, show_spinner=False)
def _sweep(name: str, folder: str, print_: Print) -> dict:
    return sweeps.kept(name, Path(folder))


def models() -> list[str]:
    """minilm, and what else one's own runs were made of, newest first."""
    own = (one.run.config.model for one in listed() if one.run is not None and not one.run.recorded)
    return list(dict.fromkeys(["minilm", *own]))


def first(names: Sequence[str]) -> str:
    """The run to show where none was asked for: the best (best.py) of those whose weights are there.

    Of one's own that have come to a stage, where there are any, on the task of the newest; of none such, the first.
    """
    named = {entry.name: entry.run for entry in reversed(listed()) if entry.run}  # one's own before those that ship
    runs = [named.get(name) or run(name) for name in names]
    runs = [one for one in runs if not one.recorded and one.stages] or runs
    results = [result for result in best.of(runs) if result.run.has_weights(result.stage)]
    tasks = [runs[0].task] if not runs[0].recorded else [result.run.task for result in results]
    chosen = best.best([result for result in results if result.run.task in tasks[:1]])
    with_weights = (one for one in runs if any(map(one.has_weights, one.stages)))
    return (chosen.run if chosen else runs[0] if not runs[0].recorded else next(with_weights, runs[0])).name


def run(name: str) -> Run:
    """The run of this name, read. Raises RunError."""
    path = shelf.folder(name, runs_dir())
    return _run(str(path), fingerprint(path))


@st.cache_resource(max_entries=8, show_spinner=False)
def _run(path: str, print_: Print) -> Run:
    return Run(Path(path))


def norms(run: Run, at: int) -> Norms:
    """Block norms of snapshot `at`: matrix name -> (groups down, groups across), read only. Raises RunError."""
    return (_large_norms if _large(run) else _norms)(run, at, _prints(run, [at]))


def _large(run: Run) -> bool:
    """Whether the norms of one snapshot are so many that few are kept: 4 bytes each."""
    return canvas.groups(run.layout) > 500_000


def ranking(run: Run, stage: str, name: str) -> Norms:
    """Another ranking of the groups at a stage than their norms, read only. Raises RunError."""
    path = run.answers.ranking_path(stage, name)
    return _ranking(run, stage, name, f"{path} {path and path.stat().st_mtime_ns}")


@st.cache_resource(max_entries=6, show_spinner=False)
def _ranking(_run: Run, stage: str, name: str, key: Print) -> Mapping[str, np.ndarray]:
    return _shared(_run.ranking(stage, name))


def _prints(run: Run, at: list[int]) -> Print:
    """A cache key for the norms at these positions, which a run that goes on does not change."""
    snapshots = [(position, run.snapshots[position]) for position in at]
    return fingerprint(run.path, _FILES[:1]) + repr([(position, s.phase, s.step, s.saved) for position, s in snapshots])


@st.cache_resource(max_entries=64, show_spinner=False)
def _norms(_run: Run, at: int, key: Print) -> Mapping[str, np.ndarray]:
    return _shared(_run.norms(at))


@st.cache_resource(max_entries=4, show_spinner=False)
def _large_norms(_run: Run, at: int, key: Print) -> Mapping[str, np.ndarray]:
    return _shared(_run.norms(at))


def _shared(norms: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The same, which no session can change for another."""
    for values in norms.values():
        values.setflags(write=False)
    return norms


def norm_scale(run: Run) -> float:
    """The top of this run's colour scale, the same for all its snapshots. Raises RunError."""
    return _norm_scale(run, _prints(run, run.with_norms))


@st.cache_data(max_entries=64, show_spinner=False)
def _norm_scale(_run: Run, key: Print) -> float:
    """Of six snapshots spread over the run: norms change slowly, and large runs take a while to read."""
    with_norms = _run.with_norms
    spread = np.linspace(0, len(with_norms) - 1, 6).round().astype(int) if with_norms else []
    return masks.norm_scale([_run.norms(at) for at in sorted({with_norms[i] for i in spread})])


@st.cache_resource(show_spinner=False, on_release=lambda client: client.close())
def score_client() -> ScoreClient:
    """The one that asks for exact scores, for all sessions."""
    return ScoreClient()


@st.cache_resource(show_spinner=False)
def hands() -> dict[str, float]:
    """Session -> when its map was moved last, in seconds of time.monotonic."""
    return {}


SETTING = Batch(32, 128)  # what the speedup beside a threshold is predicted for


def usual_profile() -> Profile | None:
    """The first profile there is: this machine's, where it was calibrated."""
    return next(iter(profiles().values()), None)


def frames(run: Run) -> tuple[np.ndarray, float]:
    """The norms of all snapshots, as canvas.frames has them. Raises RunError."""
    return _frames(run, _prints(run, run.with_norms))


@st.cache_resource(max_entries=2, show_spinner=False)
def _frames(_run: Run, key: Print) -> tuple[np.ndarray, float]:
    return canvas.frames(_run)


def quantiles(run: Run, matrix: str) -> tuple[list[str], np.ndarray]:
    """(labels, (snapshots, 5) quantiles 5, 25, 50, 75, 95% of a matrix's norms) of all snapshots. Raises RunError."""
    return _quantiles(run, matrix, _prints(run, run.with_norms))


@st.cache_data(max_entries=256, show_spinner=False)
def _quantiles(_run: Run, matrix: str, key: Print) -> tuple[list[str], np.ndarray]:
    labels = [_run.snapshots[at].label for at in _run.with_norms]
    return labels, np.stack([np.quantile(norms(_run, at)[matrix], (0.05, 0.25, 0.5, 0.75, 0.95))
                             for at in _run.with_norms])


def profiles() -> dict[str, Profile]:
    """Latency profiles by what to call them: this machine's first, then those that were loaded, then those that ship.

    One that is damaged is left out.
    """
    named, mine = {}, own_profile_file()
    for path in profile_files.known(mine):
        try:
            stat = path.stat()
            profile = _profile(str(path), stat.st_mtime_ns, stat.st_size)
        except (OSError, InputError):
            continue
        threads = f"{profile.threads} thread" + "s" * (profile.threads > 1)
        name = f"{profile.machine.get('cpu', 'unknown processor')}, {threads}"
        named.setdefault(f"this machine ({name})" if path == mine else name, profile)
    return named


def own_profile_file() -> Path:
    """Where this machine's latency profile is, once it is calibrated."""
    return profile_files.own_file(this_machine(), os.cpu_count() or 1)


@st.cache_data(show_spinner=False)
def this_machine() -> dict:
    """What this runs on."""
    return machine.machine()


@st.cache_resource(max_entries=16, show_spinner=False)
def _profile(path: str, time: int, size: int) -> Profile:
    return profile_files.read(Path(path))


def speedups(run: Run, at: int, scope: str, profile: Profile, setting: Batch,
             dtype: str = "auto") -> list[tuple[float, float]]:
    """Predicted (encoder compression, speedup) over the grid of sparsities, for the norms of snapshot `at`.

    Raises RunError.
    """
    key = f"{_prints(run, [at])} {profile.created} {profile.machine.get('cpu')} {' '.join(profile.paths)}"
    return _speedups(run, at, scope, profile, setting, dtype, key)


@st.cache_data(max_entries=128, show_spinner=False)
def _speedups(_run: Run, at: int, scope: str, _profile: Profile, setting: Batch, dtype: str,
              key: Print) -> list[tuple[float, float]]:
    speedup, of_snapshot = {}, norms(_run, at)
    for sparsity in (*np.arange(0, 0.90, 0.05), 0.9):
        mask = mask_at_sparsity(of_snapshot, _run.layout, float(sparsity), scope)
        if mask.compression_encoder <= 10.5:
            speedup[mask.compression_encoder] = _profile.speedup(mask, setting, _run.heads, dtype)
    return sorted(speedup.items())


@st.cache_resource(ttl=60, show_spinner=False)
def hub_data(task: str) -> Future[str]:
    """Why the hub's data of a task cannot be had now, '' where it can; asked in the background, as it takes seconds."""
    return ThreadPoolExecutor(1).submit(glue.unavailable, task)


class Summary(NamedTuple):
    """What a person is told of a table: its columns of text, names of its classes, how it was read; mean length."""

    rows: int
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    note: str
    characters: float


def own_table(path: str, columns: tuple[str, ...], label: str, regression: bool) -> Summary:
    """What is in a table, which is read whole once. Raises InputError."""
    try:
        state = os.stat(path)
        changed = f"{state.st_mtime_ns}-{state.st_size}"
    except (OSError, ValueError):  # then `read` says so
        changed = ""
    return _own_table(path, columns, label, regression, changed)


@st.cache_data(max_entries=20, show_spinner="Reading your file")
def _own_table(path: str, columns: tuple[str, ...], label: str, regression: bool, changed: str) -> Summary:
    table = table_files.read(path, columns, label, regression)
    characters = sum(len(part) for text in table.texts for part in text) / len(table.texts)
    return Summary(len(table.texts), table.columns, table.classes, table.note, characters)


@st.cache_resource(max_entries=200, show_spinner=False)
def predicted(name: str, sentence: str) -> Future[dict]:
    """`predict`'s answer for a sentence, asked in the background; its result raises processes.Failed, this TooMany."""
    return _sentences(name).want(sentence)


@st.cache_resource(show_spinner=False)
def _sentences(name: str) -> Asker:
    """Asks a run's model about the sentences of all sessions together."""
    return Asker(lambda sentences: processes.predict(name, runs_dir(), *sentences))


@lru_cache(2000)  # by Python's own hash: Streamlit's takes milliseconds
def once(make: Callable, *asked):
    """What `make(*asked)` gives, made once for all sessions and never changed: a picture of the lesson, an answer."""
    return make(*asked)


@st.cache_resource(max_entries=8, show_spinner=False)
def flips(name: str, data: str) -> Future[dict]:
    """`flips`' answer for a run's dense weights, likewise."""
    return ThreadPoolExecutor(1).submit(processes.flips, name, runs_dir(), data)
