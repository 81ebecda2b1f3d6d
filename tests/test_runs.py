"""Run directories: what is written comes back, and nothing that goes wrong hides or harms what was written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from prune_core import __version__, files
from prune_core.cutting.answers import SurfacePoint
from prune_core.cutting.masks import mask_at
from prune_core.machine import machine, versions
from prune_core.precision import storage
from prune_core.runs import pack, places, shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError
from prune_core.runs.recorder import Recorder, TrainState, read_checkpoint
from prune_core.runs.run import Run
from prune_core.runs.snapshots import Snapshot

LAYOUT = tiny.layout("2x1", ((4, 2), (4, 2)))
REPO = Path(__file__).resolve().parent.parent


def norms(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {m.name: random.uniform(0, 1, LAYOUT.block.grid(m.m, m.n)).astype(np.float32) for m in LAYOUT.matrices}


def create(folder: Path, name: str = "one", **about) -> Recorder:
    return Recorder.create(folder, name, tiny.about(LAYOUT, **about))


def end_of(phase: str, saved: str, score: float, seed: int = 0) -> Snapshot:
    """The snapshot of a stage: the end of a phase."""
    point = {"sparsity": 0.5, "compression_encoder": 2.0, "compression_model": 1.1}
    return Snapshot(phase, 9, 0.4, scores={"accuracy": score}, examples=24, saved=saved, point=point, norms=norms(seed),
                    surface=[SurfacePoint(0.0, 0.0, score, 0.1, 0.9)], surface_examples=12)


@pytest.fixture(autouse=True)
def only_these(none_recorded):
    """Nothing here sees the runs that ship."""


# ---------------------------------------------------------------- a round trip


def test_snapshots_and_norms_come_back_as_they_were(tmp_path):
    given = [Snapshot("dense", 0, norms=norms(0)), Snapshot("dense", 1, 0.0), end_of("dense", "dense", 0.8, 1),
             Snapshot("penalty", 1, 0.3, penalty=0.0, lam=0.25, zero_share=0.0, milestone=True, norms=norms(2))]
    with create(tmp_path) as recorder:
        for snapshot in given:
            recorder.append(snapshot)
    run = Run(tmp_path / "one")
    assert run.snapshots == given  # a 0 is not a None
    assert run.with_norms == [0, 2, 3]
    for at, seed in ((0, 0), (2, 1), (3, 2)):
        assert all(np.array_equal(values, norms(seed)[name]) for name, values in run.norms(at).items())


def test_settings_and_layout_come_back(tmp_path):
    create(tmp_path).__exit__()
    run = Run(tmp_path / "one")
    assert run.config == PruneConfig(block="2x1") and run.layout == LAYOUT
    assert (run.task, run.metric, run.data, run.is_glue) == ("sst2", "accuracy", "nyu-mll/glue", True)


def test_numbers_come_back_to_the_last_bit(tmp_path):
    losses = np.random.default_rng(0).normal(size=50).tolist()
    with create(tmp_path) as recorder:
        for step, loss in enumerate(losses):
            recorder.append(Snapshot("dense", step, loss))
    assert [s.loss for s in Run(tmp_path / "one").snapshots] == losses


def test_weights_are_there_before_the_line_that_names_them(tmp_path):
    with create(tmp_path) as recorder:
        point = {"sparsity": 0.0, "compression_encoder": 1.0, "compression_model": 1.0}
        recorder.append(Snapshot("dense", 3, saved="dense", scores={"accuracy": 1.0}, point=point,
                                 weights=lambda: {"w": torch.arange(3.0)}))
    from safetensors.torch import load_file

    assert load_file(Run(tmp_path / "one").weights_file("dense"))["w"].tolist() == [0.0, 1.0, 2.0]


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    tensors = {"w": torch.randn(5, 3), "half": torch.randn(4).to(torch.bfloat16), "step": torch.tensor(7.0)}
    with create(tmp_path) as recorder:
        recorder.append(Snapshot("dense", 0))
        recorder.checkpoint(TrainState(tensors, {"step": 3, "lam": {"all": 0.1}}))
    back = read_checkpoint(tmp_path / "one")
    assert back.meta == {"step": 3, "lam": {"all": 0.1}, "events": 1}
    assert set(back.tensors) == set(tensors) and all(torch.equal(back.tensors[name], t) for name, t in tensors.items())


def test_points_and_warnings_by_hand(tmp_path):
    with create(tmp_path, config=PruneConfig(block="2x1", compressions=(2, 4)).to_json(), notes=["a note"]) as recorder:
        for snapshot in (end_of("dense", "dense", 0.9), end_of("penalty", "penalty-2x", 0.7),
                         end_of("retrain-2x", "retrain-2x", 0.51)):
            recorder.append(snapshot)
    run = Run(tmp_path / "one")
    assert run.dense_score == 0.9 and run.stages == ["dense", "penalty-2x", "retrain-2x"]
    reached, open_point = run.points
    assert reached == {"compression": 2.0, "sparsity": 0.5, "compression_encoder": 2.0, "compression_model": 1.1,
                       "bytes": 4 * 84 + 66 + 8192, "encoder_bytes": 4 * 16 + 2,  # all is kept: a byte says so
                       "score_thresholded": 0.7, "score_retrained": 0.51}
    assert open_point["score_thresholded"] is open_point["score_retrained"] is open_point["sparsity"] is None
    assert len(run.warnings) == 2 and run.warnings[1] == "a note"
    assert "2x" in run.warnings[0] and "majority" in run.warnings[0]


def test_a_result_has_the_bytes_of_what_is_kept(tiny_model, tiny_data, tmp_path):
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path)
    hidden, words = tiny.HIDDEN, len(tiny.VOCABULARY)
    assert run.embeddings == (words, hidden) == tuple(run.about["embeddings"])
    for point in run.points:
        mask = mask_at(run.ranking(f"retrain-{point['compression']:g}x"), run.layout, 0.0)
        by_hand = 4 * mask.kept_weights
        assert by_hand < point["encoder_bytes"] < by_hand + 13 + sum(kept.size for kept in mask.kept.values())
        rest = 4 * (run.layout.model_weights - run.layout.encoder_weights)
        assert point["bytes"] == point["encoder_bytes"] + rest + storage.header_bytes(run.layout)


def test_the_size_of_the_word_table_is_found_where_it_was_not_recorded(tiny_data, tmp_path):
    folder = tiny.checkpoint(tmp_path / "model", "albert")
    run = tiny.make_run(tiny.settings(folder, tiny_data), tmp_path)
    assert run.about.pop("embeddings") == [len(tiny.VOCABULARY), 16]
    assert run.embeddings == (len(tiny.VOCABULARY), 16)
    (folder / "config.json").write_text("{")
    assert run.embeddings is None
    run.about["embeddings"] = ["x", 3]
    assert run.embeddings is None
    assert Run(files.PROJECT / "data" / "recorded" / "sst2-minilm-64x1-surgeon").embeddings == (30522, 384)


# ---------------------------------------------------------------- crashes


def lines_of(folder: Path) -> bytes:
    return (folder / "one" / "progress.jsonl").read_bytes()


def write_losses(folder: Path, count: int = 3) -> None:
    with create(folder) as recorder:
        for step in range(count):
            recorder.append(Snapshot("dense", step, float(step)))


def test_a_torn_last_line_is_skipped_wherever_it_is_torn(tmp_path):
    write_losses(tmp_path)
    whole = lines_of(tmp_path)
    start = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(start, len(whole) - 1):
        (tmp_path / "one" / "progress.jsonl").write_bytes(whole[:end])
        assert [s.loss for s in Run(tmp_path / "one").snapshots] == [0.0, 1.0], end


def test_a_line_that_was_changed_is_skipped_and_hides_no_other(tmp_path):
    write_losses(tmp_path)
    (tmp_path / "one" / "progress.jsonl").write_bytes(lines_of(tmp_path).replace(b'"loss":1.0', b'"loss":1.5'))
    assert [s.loss for s in Run(tmp_path / "one").snapshots] == [0.0, 2.0]


def test_bytes_that_are_no_text_are_skipped(tmp_path):
    write_losses(tmp_path)
    (tmp_path / "one" / "progress.jsonl").write_bytes(b"\xff\xfe\x00\n" + lines_of(tmp_path) + b"\x00" * 100)
    assert [s.loss for s in Run(tmp_path / "one").snapshots] == [0.0, 1.0, 2.0]


def test_a_resume_undoes_what_came_after_the_checkpoint(tmp_path):
    with create(tmp_path) as recorder:
        recorder.append(Snapshot("dense", 0, 0.0))
        recorder.checkpoint(TrainState({"w": torch.zeros(1)}, {}))
        recorder.append(Snapshot("dense", 1, 1.0))
    with Recorder.reopen(tmp_path / "one") as recorder:
        recorder.append(Snapshot("dense", 1, 10.0))
    assert [s.loss for s in Run(tmp_path / "one").snapshots] == [0.0, 10.0]


def test_a_resume_closes_a_torn_line_and_spoils_no_other(tmp_path):
    write_losses(tmp_path)
    with Recorder.reopen(tmp_path / "one"):  # no checkpoint: all over again
        pass
    (tmp_path / "one" / "progress.jsonl").write_bytes(lines_of(tmp_path) + b'{"phase":"de')
    with Recorder.reopen(tmp_path / "one") as recorder:
        recorder.append(Snapshot("dense", 0, 5.0))
    assert [s.loss for s in Run(tmp_path / "one").snapshots] == [5.0]


def test_a_resume_clears_away_half_written_files(tmp_path):
    write_losses(tmp_path)
    left = [tmp_path / "one" / ".checkpoint.safetensors.77", tmp_path / "one" / "weights" / ".dense.safetensors.77"]
    for file in left:
        file.write_bytes(b"half")
    with Recorder.reopen(tmp_path / "one"):
        assert not any(file.exists() for file in left)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "file"
    files.write_whole(file, b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_an_unreadable_checkpoint_is_told(tmp_path):
    write_losses(tmp_path)
    (tmp_path / "one" / "checkpoint.safetensors").write_bytes(b"\x08\x00\x00")
    with pytest.raises(RunError, match="checkpoint of run 'one'"):
        Recorder.reopen(tmp_path / "one")
    with Recorder.create(tmp_path, "two", tiny.about(LAYOUT)):  # and the lock of the first is free again
        assert Run(tmp_path / "one").status == "interrupted"


READER = """
import sys, time
from pathlib import Path
from prune_core.runs.run import Run
from prune_core.runs.recorder import read_checkpoint
folder, seen = Path(sys.argv[1]), 0
print("reading", flush=True)
end = time.monotonic() + 300
while not (folder / "result.json").exists():
    assert time.monotonic() < end, "no end of the run in 300 s"
    run = Run(folder)
    steps = [s.step for s in run.snapshots]
    assert steps == list(range(len(steps))), steps
    for at in run.with_norms[-1:]:
        assert all((values == at).all() for values in run.norms(at).values())
    state = read_checkpoint(folder, tensors=False)
    assert state is None or state.meta["events"] <= len(Run(folder).snapshots)
    run.now
    seen += bool(steps)
print(seen)
"""


def test_a_reader_never_sees_a_half_written_file(tmp_path):
    """Another process reads all the while; every number in snapshot i is i, so that a mixture would show."""
    with create(tmp_path) as recorder:
        reader = subprocess.Popen([sys.executable, "-c", READER, str(tmp_path / "one")], cwd=REPO,
                                  stdout=subprocess.PIPE, text=True)
        assert reader.stdout.readline() == "reading\n"
        for step in range(150):
            values = {m.name: np.full(LAYOUT.block.grid(m.m, m.n), step, np.float32) for m in LAYOUT.matrices}
            recorder.append(Snapshot("dense", step, norms=values))
            recorder.checkpoint(TrainState({"w": torch.full((2000,), float(step))}, {}))
            recorder.status(step=step)
        recorder.finish({"run": "one"})
    seen, _ = reader.communicate(timeout=300)
    assert reader.returncode == 0 and int(seen) > 0


# ---------------------------------------------------------------- one writer


def test_two_writers_in_one_process_are_refused(tmp_path):
    with create(tmp_path), pytest.raises(RunError, match="another process"):
        Recorder.reopen(tmp_path / "one")


def test_a_second_process_is_refused_and_harms_nothing(tmp_path):
    with create(tmp_path) as recorder:
        recorder.append(Snapshot("dense", 0, 0.0))
        before = lines_of(tmp_path)
        code = ("from pathlib import Path\nfrom prune_core.runs.recorder import Recorder\n"
                f"Recorder.reopen(Path({str(tmp_path / 'one')!r}))")
        second = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
        assert "RunError" in second.stderr and "another process" in second.stderr
        assert lines_of(tmp_path) == before
        assert Run(tmp_path / "one").status == "running"
    assert Run(tmp_path / "one").status == "interrupted"


def test_the_lock_falls_with_the_writer_even_if_its_log_cannot_be_closed(tmp_path):
    class Full:
        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    recorder = create(tmp_path)
    recorder._log = Full()
    with pytest.raises(OSError, match="No space"), recorder:
        pass
    assert Run(tmp_path / "one").status == "interrupted"


def test_a_complete_run_is_never_taken_up_again(tmp_path):
    """As when it ends while someone waits for its lock: nothing of it may be undone."""
    with create(tmp_path) as recorder:
        recorder.append(Snapshot("dense", 0, 0.5))
        recorder.finish({"run": "one"})
    before = lines_of(tmp_path)
    with pytest.raises(RunError, match="complete"):
        Recorder.reopen(tmp_path / "one")
    assert lines_of(tmp_path) == before and len(Run(tmp_path / "one").snapshots) == 1


def test_status_follows_the_run(tmp_path):
    with create(tmp_path) as recorder:
        recorder.status(phase="dense", step=3)
        recorder.checkpoint(TrainState({"w": torch.zeros(1)}, {}))
        running = Run(tmp_path / "one")
        assert running.status == "running" and running.now["phase"] == "dense" and running.now["pid"] == os.getpid()
        recorder.finish({"run": "one", "seconds": 3})
    done = Run(tmp_path / "one")
    assert done.status == "complete" and done.result == {"run": "one", "seconds": 3}
    assert not (tmp_path / "one" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\x00"])
def test_a_damaged_status_says_nothing_rather_than_wrong(tmp_path, content):
    create(tmp_path).__exit__()
    (tmp_path / "one" / "status.json").write_text(content)
    assert Run(tmp_path / "one").now == {}


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a.b", ".hidden", "a b", "-x", "_x",
                                  "x" * 65, "naïve", "a\n", "a\\b"])
def test_names_that_are_no_folder_name_are_refused(tmp_path, name):
    with pytest.raises(RunError, match="run name"):
        create(tmp_path, name)
    with pytest.raises(RunError, match="run name"):
        shelf.find(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused_and_the_run_stays(tmp_path):
    write_losses(tmp_path)
    with pytest.raises(RunError, match="'one' exists.*resume"):
        create(tmp_path)
    assert len(Run(tmp_path / "one").snapshots) == 3


def test_a_name_of_a_recorded_run_is_taken_too(tmp_path, none_recorded):
    write_losses(none_recorded)
    with pytest.raises(RunError, match="exists"):
        create(tmp_path)
    assert shelf.free_name("one", tmp_path) == "one-2"


def test_free_names_count_up_and_are_usable(tmp_path):
    for wanted in ("one", "one-2"):
        create(tmp_path, wanted).__exit__()
    assert shelf.free_name("one", tmp_path) == "one-3"
    for odd in ("bert base/uncased.v2", "../../x", "", "...", "y" * 200):
        assert places.check_name(shelf.free_name(odd, tmp_path))


def test_finding_takes_the_users_own_run_first(tmp_path, none_recorded):
    write_losses(tmp_path, 1)
    (tmp_path / "one").rename(none_recorded / "one")
    assert shelf.find("one", tmp_path).recorded
    create(tmp_path, "two").__exit__()
    (tmp_path / "two").rename(tmp_path / "one")
    assert shelf.find("one", tmp_path).snapshots == [] and not shelf.find("one", tmp_path).recorded


def test_an_unknown_run_names_those_there_are(tmp_path):
    write_losses(tmp_path)
    with pytest.raises(RunError, match="no run 'two'.*there are: one"):
        shelf.find("two", tmp_path)


# ---------------------------------------------------------------- folders that are no run


def edit(folder: Path, **changes) -> None:
    file = folder / "one" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


DAMAGE = {
    "no run.json": (lambda f: (f / "one" / "run.json").unlink(), "run.json is missing"),
    "run.json cut off": (lambda f: (f / "one" / "run.json").write_text("{"), "cannot be read"),
    "run.json is binary": (lambda f: (f / "one" / "run.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "run.json nested without end": (lambda f: (f / "one" / "run.json").write_text("[" * 100_000), "cannot be read"),
    "run.json is a list": (lambda f: (f / "one" / "run.json").write_text("[]"), "format None"),
    "run.json is a folder": (lambda f: ((f / "one" / "run.json").unlink(), (f / "one" / "run.json").mkdir()),
                             "cannot be read"),
    "from the future": (lambda f: edit(f, format=2), "format 2; this version reads 1"),
    "settings from the future": (lambda f: edit(f, config=PruneConfig().to_json() | {"warp": 9}), "warp"),
    "settings missing": (lambda f: edit(f, config=None), "run.json is not valid"),
    "no layout": (lambda f: edit(f, layout={}), "run.json is not valid"),
    "no metric": (lambda f: edit(f, task={"name": "sst2"}), "run.json is not valid"),
    "a layout that does not divide": (lambda f: edit(f, layout=LAYOUT.to_json() | {"block": "3x1"}), "not divisible"),
    "an end without scores": (lambda f: _append(f, {"phase": "dense", "step": 1, "saved": "dense", "i": 9}),
                              "not valid: 'scores'"),
    "a line of another kind": (lambda f: _append(f, {"hello": 1}), "without a number of its own"),
    "result.json cut off": (lambda f: (f / "one" / "result.json").write_text("{"), "result.json cannot be read"),
    "result.json is a list": (lambda f: (f / "one" / "result.json").write_text("[1]"), "result.json is not valid"),
    "created at no time": (lambda f: edit(f, created="yesterday"), "run.json is not valid"),
    "notes that are none": (lambda f: edit(f, notes=7), "notes is '7'"),
}


def _append(folder: Path, line: dict) -> None:
    with open(folder / "one" / "progress.jsonl", "ab") as file:
        file.write(files.sealed(line))


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_a_damaged_run_is_listed_with_its_reason_and_hides_no_other(tmp_path, kind):
    from prune_core.cli.keep import _row

    write_losses(tmp_path)
    create(tmp_path, "well").__exit__()
    damage, reason = DAMAGE[kind]
    damage(tmp_path)
    well, bad = shelf.listing(tmp_path)
    assert (well.name, well.status, bad.name, bad.status) == ("well", "interrupted", "one", "unreadable")
    assert reason in bad.reason and "'one'" in bad.reason and "\n" not in bad.reason
    assert [_row(listed)["status"] for listed in (well, bad)] == ["interrupted", "unreadable"]


def test_foreign_folders_are_listed_and_foreign_files_are_not(tmp_path):
    (tmp_path / "holiday photos").mkdir()
    (tmp_path / ".staged.77").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (listed,) = shelf.listing(tmp_path)
    assert listed.name == "holiday photos" and "holds no run" in listed.reason


def test_a_runs_folder_that_is_not_there_lists_nothing(tmp_path):
    assert shelf.listing(tmp_path / "nowhere") == []


def test_own_runs_come_newest_first_then_those_that_ship(tmp_path, none_recorded):
    for number, name in enumerate(("oldest", "middle", "newest")):
        create(tmp_path, name, created=1000.0 + number).__exit__()
    create(none_recorded, "shipped").__exit__()
    assert [listed.name for listed in shelf.listing(tmp_path)] == ["newest", "middle", "oldest", "shipped"]


@pytest.mark.parametrize("damage, reason", [
    (lambda file: file.unlink(), "cannot be read"), (lambda file: file.write_bytes(b"xx"), "cannot be read"),
    (lambda file: file.write_bytes(
        _norms_file({"m0": np.zeros((1, 1), np.float32), "m1": np.zeros((2, 2), np.float32)})), "do not fit m0")])
def test_norms_that_are_gone_or_do_not_fit_are_told(tmp_path, damage, reason):
    with create(tmp_path) as recorder:
        recorder.append(Snapshot("dense", 0, norms=norms(0)))
    damage(tmp_path / "one" / "norms" / "000000.safetensors")
    with pytest.raises(RunError, match=reason):
        Run(tmp_path / "one").norms(0)


def _norms_file(tensors) -> bytes:
    from safetensors.numpy import save

    return save(tensors)


def test_weights_that_do_not_ship_are_told_with_the_command_that_makes_them(tmp_path):
    with create(tmp_path) as recorder:
        recorder.append(end_of("dense", "dense", 0.9))
    with pytest.raises(RunError, match="'dense'.*python -m prune_core prune"):
        Run(tmp_path / "one").weights_file("dense")
    with pytest.raises(RunError, match="no stage 'retrain-9x'; it has: dense"):
        Run(tmp_path / "one").weights_file("retrain-9x")


def test_versions_and_machine_say_what_numbers_depend_on():
    assert versions()["prunescope"] == __version__ and versions()["torch"] == torch.__version__
    assert machine()["cores"] == os.cpu_count() and machine()["memory"] > 10**8


# ---------------------------------------------------------------- packing


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535)])
def test_packed_norms_keep_zeros_order_and_values_to_half_a_step(dtype, top):
    values = np.random.default_rng(0).exponential(0.3, (40, 50)).astype(np.float32)
    values[:3] = 0
    values[3, 0] = 1e-9  # small, but not zero
    packed = pack.packed({"m": values}, dtype)
    back = packed["m"].astype(np.float32) * packed["m.scale"]
    assert packed["m"].dtype == dtype
    assert np.array_equal(back == 0, values == 0)
    step = values.max() / top
    assert np.abs(back - values)[values > step].max() <= 0.5001 * step and np.abs(back - values).max() <= 1.0001 * step
    order = np.argsort(values, axis=None)
    assert (np.diff(back.ravel()[order]) >= 0).all()


def test_a_packed_matrix_of_zeros_is_zeros():
    packed = pack.packed({"m": np.zeros((2, 2), np.float32)}, np.uint8)
    assert not packed["m"].any() and np.isfinite(packed["m.scale"]).all()
