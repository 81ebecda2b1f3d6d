"""Claims: one holder at a time, lost with its process, passed on when the pulse of another machine stops."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from prune_core.runs import claims
from prune_core.runs.places import RunError


def claimed(folder: Path, start, got) -> None:
    """In a child: take the claim at the very moment that all others try to, and keep it."""
    start.wait()
    got.put((os.getpid(), claims.take("one", folder) is not None))
    time.sleep(60)


def test_of_many_processes_one_has_it_and_loses_it_with_its_life(tmp_path):
    context = multiprocessing.get_context("fork")
    start, got = context.Event(), context.Queue()
    processes = [context.Process(target=claimed, args=(tmp_path, start, got), daemon=True) for _ in range(8)]
    for process in processes:
        process.start()
    start.set()
    told = [got.get(timeout=60) for _ in processes]
    (holder,) = [pid for pid, has in told if has]
    assert claims.holder("one", tmp_path).pid == holder and claims.take("one", tmp_path) is None
    os.kill(holder, signal.SIGKILL)
    next(process for process in processes if process.pid == holder).join()
    claim = claims.take("one", tmp_path)
    assert claim is not None and claim.number == 2 and claims.take("one", tmp_path) is None
    for process in processes:
        process.kill()


def elsewhere(folder: Path, run: str, seconds_ago: float) -> Path:
    """A claim of another machine, touched so long ago."""
    path = claims.folder_of(folder) / f"{run}.000001"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"host": "another 1 2", "pid": os.getpid(), "created": 0}))
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


def test_a_claim_of_another_machine_holds_as_long_as_its_pulse(tmp_path):
    elsewhere(tmp_path, "beating", claims.STALE / 2)
    elsewhere(tmp_path, "gone", claims.STALE + 5)
    assert claims.take("beating", tmp_path) is None and claims.holder("beating", tmp_path).alive()
    assert claims.take("gone", tmp_path) is not None
    numbers = {run: claims.read(path).number for run, path in claims.holders(tmp_path).items()}
    assert numbers == {"beating": 1, "gone": 2}


def test_who_was_passed_over_notices_at_the_next_beat(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.0)
    first = claims.take("one", tmp_path)
    assert first.beat()
    os.utime(first.path, (1, 1))
    first.path.write_text(json.dumps({"host": "another 1 2"}))  # as if it were seen from elsewhere
    os.utime(first.path, (1, 1))
    second = claims.take("one", tmp_path)
    assert second.number == 2 and not first.beat() and second.beat()


def test_how_it_ended_stays_until_it_is_complete(tmp_path):
    claim = claims.take("one", tmp_path)
    claim.let_go("no room on the disk")
    assert claims.holder("one", tmp_path).ended == "no room on the disk" and not claims.holder("one", tmp_path).alive()
    again = claims.take("one", tmp_path)
    again.done()
    assert claims.holder("one", tmp_path) is None and claims.holders(tmp_path) == {}


def test_a_torn_claim_is_waited_for_and_then_passed_over(tmp_path):
    path = elsewhere(tmp_path, "torn", 0)
    path.write_bytes(b'{"host": "he')
    assert claims.take("torn", tmp_path) is None
    os.utime(path, (1, 1))
    assert claims.take("torn", tmp_path).number == 2


def test_work_in_this_process_has_a_pulse(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    with claims.held("one", tmp_path):
        path = claims.holder("one", tmp_path).path
        os.utime(path, (1, 1))
        end = time.monotonic() + 30
        while path.stat().st_mtime == 1 and time.monotonic() < end:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1
        with pytest.raises(RunError, match="is being written by another process"), claims.held("one", tmp_path):
            pass
    assert claims.holder("one", tmp_path) is None
    with pytest.raises(ValueError), claims.held("one", tmp_path):
        raise ValueError("broken\nin two")
    assert claims.holder("one", tmp_path).ended == "broken in two"
