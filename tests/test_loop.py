"""The training loop and the recording of it: order, exact zeros, exact scores, and the same numbers after any kill."""

from __future__ import annotations

import copy
import errno
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import prune_core
from safetensors.torch import load_file

from prune_core import InputError
from prune_core.cutting.answers import GRID
from prune_core.cutting.masks import by_scope, mask_at_sparsity, sparsity_of
from prune_core.evaluation import dev_score
from prune_core.models import encoders
from prune_core.runs import shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError
from prune_core.runs.recorder import Recorder
from prune_core.runs.run import Run
from prune_core.runs.snapshots import Snapshot, Working
from prune_core.tasks import encoding, glue, hub
from prune_core.training import session
from prune_core.training.data import EncodedTask
from prune_core.training.loop import Pruning
from prune_core.training.session import Interrupted
from prune_core.training.step import faster_precision

REPO = Path(__file__).resolve().parent.parent
SAVED = ["dense", "penalty-1.5x", "penalty-3x", "retrain-1.5x", "retrain-3x"]


def snapshots_of(pruning: Pruning) -> list[Snapshot]:
    """To the end; each with its weights taken at once, as a recorder takes them."""
    return [event for event in pruning if isinstance(event, Snapshot)]


def assert_same(found: list[Snapshot], wanted: list[Snapshot]) -> None:
    """Equal to the last bit: steps, losses, scores, surfaces, norms and weights."""
    assert found == wanted  # norms and weights do not take part in this
    for one, other in zip(found, wanted, strict=True):
        assert (one.norms is None) == (other.norms is None) and (one.weights is None) == (other.weights is None)
        for name, values in (one.norms or {}).items():
            assert np.array_equal(values, other.norms[name]), (one.phase, one.step, name)
        for name, tensor in (one.weights() if one.weights else {}).items():
            assert torch.equal(tensor, other.weights()[name]), (one.saved, name)


@pytest.fixture(scope="module")
def asked(tiny_model, tiny_data) -> PruneConfig:
    return tiny.settings(tiny_model, tiny_data)


@pytest.fixture(scope="module")
def whole(asked):
    """(the loop at its end, its snapshots, the state at each)"""
    pruning, snapshots, states = tiny.pruning(asked), [], []
    for event in pruning:
        if isinstance(event, Snapshot):
            snapshots.append(event)
            states.append(copy.deepcopy(pruning.state()) if pruning.at_rest else None)
    return pruning, snapshots, states


# ---------------------------------------------------------------- what comes, in which order


def test_phases_come_in_the_papers_order_step_by_step(asked, whole):
    _, snapshots, _ = whole
    steps = [(s.phase, s.step) for s in snapshots if not (s.saved or "").startswith("penalty")]
    wanted = [("dense", i) for i in range(asked.dense_steps + 1)]
    wanted += [("penalty", i + 1) for i in range(asked.penalty_steps)]
    wanted += [(f"retrain-{c}", i + 1) for c in ("1.5x", "3x") for i in range(asked.retrain_steps)]
    assert steps == wanted


def test_the_weights_of_every_compression_are_kept(whole):
    assert [s.saved for s in whole[1] if s.saved] == SAVED


def test_the_ends_carry_scores_norms_weights_and_a_surface_of_twenty_points(asked, whole):
    pruning, snapshots, _ = whole
    for snapshot in (s for s in snapshots if s.saved):
        assert [p.wanted for p in snapshot.surface] == list(GRID) == [round(0.05 * i, 2) for i in range(20)]
        assert all(p.low <= p.score <= p.high and p.sparsity >= p.wanted - 0.01 for p in snapshot.surface)
        assert snapshot.surface_examples == asked.surface_examples and snapshot.examples == 24
        assert set(snapshot.norms) == set(pruning.encoder.weights) and snapshot.weights and snapshot.scores


def test_norms_come_at_milestones_and_moments(asked, whole):
    under_penalty = [s for s in whole[1] if s.phase == "penalty" and not s.saved]
    assert [s.step for s in under_penalty if s.milestone] == [4, 8]  # two milestones inside twelve steps
    assert [s.step for s in under_penalty if s.norms is not None] == [4, 8, 12]
    assert all(s.scores for s in under_penalty if s.norms is not None)


def test_the_first_snapshot_has_the_norms_of_the_checkpoint(asked, whole):
    pruning, snapshots, _ = whole
    fresh = encoders.load(asked.model, 2)
    for name, weight in fresh.weights.items():
        assert np.array_equal(snapshots[0].norms[name], pruning.layout.block.norms(weight.detach()).numpy())


def test_working_counts_to_its_total(asked):
    said = [e for e in tiny.pruning(asked) if isinstance(e, Working)]
    asking = [w for w in said if w.doing in ("asking the dense model", "weighing the inputs")]
    assert asking and {w.phase for w in asking} == {"penalty"}, "the teacher is asked once"
    working = [w for w in said if w not in asking]
    assert len(working) == len(SAVED) * (len(GRID) + 1)
    assert all(0 <= w.done <= w.total for w in working) and {w.phase for w in working} == set(SAVED)


def test_time_left_is_known_after_some_steps_and_ends_near_nothing(whole):
    pruning, _, _ = whole
    assert pruning.steps_done == pruning.plan.steps
    # At the end it awaits less than half the evaluations that were
    assert 0 <= pruning.seconds_left() < 0.5 * pruning.spent.eval_seconds
    assert 0 < pruning.spent.method_seconds < pruning.spent.penalty_seconds < pruning.spent.step_seconds


# ---------------------------------------------------------------- zeros and scores are exact


def test_masked_retraining_leaves_cut_groups_exactly_zero_after_every_step(asked):
    pruning, seen = tiny.pruning(asked), 0
    for event in pruning:
        if isinstance(event, Snapshot) and event.phase.startswith("retrain") and not event.saved:
            mask = pruning.position.steps.mask
            for name, weight in pruning.encoder.weights.items():
                kept = torch.from_numpy(pruning.layout.block.expand(mask.kept[name], *weight.shape))
                assert not weight[~kept].any() and weight[kept].all()
            seen += 1
    assert seen == 2 * (asked.retrain_steps - 1)


def end_of(snapshots: list[Snapshot], name: str) -> Snapshot:
    return next(s for s in snapshots if s.saved == name)


@pytest.mark.parametrize("name", ["1.5x", "3x"])
def test_a_retrained_point_is_exactly_as_sparse_as_its_zeros_counted_by_hand(whole, name):
    pruning, snapshots, _ = whole
    end, weights = end_of(snapshots, f"retrain-{name}"), end_of(snapshots, f"retrain-{name}").weights()
    zero = sum(int((weights[f"{matrix.name}.weight"] == 0).sum()) for matrix in pruning.layout.matrices)
    dense, total = pruning.layout.encoder_weights, pruning.layout.model_weights
    assert end.point["sparsity"] == pytest.approx(zero / dense, abs=1e-12)
    assert end.point["compression_encoder"] == pytest.approx(dense / (dense - zero), rel=1e-12)
    assert end.point["compression_model"] == pytest.approx(total / (total - zero), rel=1e-12)


@pytest.mark.parametrize("compression", [1.5, 3.0])
def test_what_is_cut_in_each_matrix_is_the_share_asked_for_or_what_was_zero_already(whole, compression):
    _, snapshots, _ = whole
    passed, retrained = (end_of(snapshots, f"{phase}-{compression:g}x").norms for phase in ("penalty", "retrain"))
    for name, values in retrained.items():
        asked_for = round(sparsity_of(compression) * values.size)
        assert int((values == 0).sum()) == max(asked_for, int((passed[name] == 0).sum())), name


@pytest.mark.parametrize("compression", [1.5, 3.0])
def test_without_a_penalty_exactly_the_share_asked_for_is_cut(asked, compression):
    plain = tiny.pruning(tiny.replace(asked, lam=0.0, compressions=(compression,), scope="global"))
    norms = end_of(snapshots_of(plain), f"retrain-{compression:g}x").norms
    assert sum(int((values == 0).sum()) for values in norms.values()) == round(sparsity_of(compression) * 1024)


@pytest.mark.parametrize("name", SAVED)
def test_the_recorded_score_is_that_of_the_saved_weights(asked, whole, name):
    """Loaded into a fresh model, cut by hand, answered one sentence at a time."""
    _, snapshots, _ = whole
    end = end_of(snapshots, name)
    fresh, data = encoders.load(asked.model, 2), glue.load("sst2", asked.data)
    with torch.no_grad():
        for parameter_name, parameter in fresh.trainable().items():
            parameter.copy_(end.weights()[parameter_name])
        if name.startswith("penalty"):
            _cut_lowest_(fresh.weights, float(name.removeprefix("penalty-").removesuffix("x")))
        fresh.model.eval()
        right = 0
        for text, label in zip(data.main_dev.texts, data.main_dev.labels, strict=True):
            right += int(fresh.model(**fresh.tokenizer(*text, return_tensors="pt")).logits.argmax()) == label
    assert end.scores["accuracy"] == right / len(data.main_dev)


def _cut_lowest_(weights, compression: float) -> None:
    """Zero the groups of 16 rows x 1 column with the lowest norms of each matrix, by plain loops."""
    for weight in weights.values():
        groups = [(float(weight[16 * i : 16 * i + 16, j].norm()), i, j)
                  for i in range(weight.shape[0] // 16) for j in range(weight.shape[1])]
        for _, i, j in sorted(groups)[: round(sparsity_of(compression) * len(groups))]:
            weight[16 * i : 16 * i + 16, j] = 0.0


def test_the_surface_is_the_score_with_the_mask_at_each_sparsity(asked, whole):
    pruning, snapshots, _ = whole
    end = end_of(snapshots, "dense")
    fresh, data = encoders.load(asked.model, 2), glue.load("sst2", asked.data)
    with torch.no_grad():
        for name, parameter in fresh.trainable().items():
            parameter.copy_(end.weights()[name])
    some = encoding.encode(data.main_dev.some(asked.surface_examples), fresh.tokenizer, 40)
    for point in end.surface[::4]:
        with dev_score.masked(fresh.weights, mask_at_sparsity(end.norms, pruning.layout, point.wanted, asked.scope)):
            assert point.score == dev_score.dev_score(fresh.model, data.task, {"validation": some}).scores["accuracy"]


def test_scoring_at_a_compression_changes_nothing_in_the_training_that_goes_on(asked):
    """Asking for 1.5x on the way to 3x leaves the penalty phase as it is without."""
    both = snapshots_of(tiny.pruning(asked))
    only = snapshots_of(tiny.pruning(tiny.replace(asked, compressions=(3.0,))))

    def penalty(snapshots):
        return [s for s in snapshots if s.phase == "penalty" and not s.saved]

    assert penalty(both) == penalty(only)


def test_the_penalty_reaches_the_largest_compression_asked_for(asked):
    pruning = tiny.pruning(tiny.replace(asked, penalty_steps=60))
    under_penalty = [s for s in snapshots_of(pruning) if s.phase == "penalty" and not s.saved]
    shares = [s.zero_share for s in under_penalty]
    assert shares[0] < 0.2 and shares[-1] == pytest.approx(sparsity_of(3.0), abs=0.05)
    assert all(s.penalty >= 0 and s.lam > 0 for s in under_penalty)


# ---------------------------------------------------------------- settings


def test_the_same_seed_gives_the_same_run_and_another_seed_another(asked, whole):
    assert_same(snapshots_of(tiny.pruning(asked)), whole[1])
    other = snapshots_of(tiny.pruning(tiny.replace(asked, seed=1)))
    assert [s.loss for s in other] != [s.loss for s in whole[1]]


def test_a_lambda_given_is_kept(asked):
    fixed = tiny.pruning(tiny.replace(asked, lam=0.125))
    assert {s.lam for s in snapshots_of(fixed) if s.phase == "penalty" and not s.saved} == {0.125}


def test_no_lambda_at_all_shrinks_nothing_to_zero(asked):
    free = snapshots_of(tiny.pruning(tiny.replace(asked, lam=0.0)))
    assert {s.zero_share for s in free if s.phase == "penalty" and not s.saved} == {0.0}
    assert [s.saved for s in free if s.saved] == SAVED  # cut by plain magnitude then


@pytest.mark.parametrize("changes", [
    {"penalty": "in-loss"}, {"reweighted": False}, {"spare": False}, {"train_embeddings": True}, {"precision": "bf16"},
    {"scope": "layer"}, {"scope": "type"}, {"scope": "global"},
    {"block": "1x8"}, {"block": "8x4"}, {"block": "allx1"}, {"block": "1xall"},
    {"task": "stsb"}, {"task": "mnli"}, {"task": "cola"}, {"task": "mrpc"}], ids=str)
def test_every_setting_goes_through_all_phases(asked, changes):
    pruning = tiny.pruning(tiny.replace(asked, **changes))
    ends = {s.saved: s for s in snapshots_of(pruning) if s.saved}
    assert list(ends) == SAVED
    for name, compression in (("retrain-1.5x", 1.5), ("retrain-3x", 3.0)):
        assert ends[name].point["sparsity"] == pytest.approx(sparsity_of(compression), abs=0.06)
    assert set(ends["dense"].scores) == {m + ending for m in pruning.data.task.metrics for ending in (
        ("_matched", "_mismatched") if changes.get("task") == "mnli" else ("",))}


def test_in_loss_the_penalty_takes_part_in_training(asked):
    norms = []
    for lam in (0.05, 0.0):
        snapshots = snapshots_of(tiny.pruning(tiny.replace(asked, penalty="in-loss", lam=lam)))
        last = next(s for s in snapshots if s.phase == "penalty" and s.step == 12 and not s.saved)
        norms.append(sum(float(v.sum()) for v in last.norms.values()))
    assert norms[0] < 0.99 * norms[1]


@pytest.mark.parametrize("scope", ["layer", "matrix"])
def test_a_scope_cuts_the_same_share_in_each_of_its_parts(asked, scope):
    pruning = tiny.pruning(tiny.replace(asked, scope=scope, compressions=(2.0,)))
    end = end_of(snapshots_of(pruning), "retrain-2x")
    for matrices in by_scope(pruning.layout, scope).values():
        zero, groups = (sum(int(f(end.norms[m.name])) for m in matrices) for f in (lambda v: (v == 0).sum(), np.size))
        assert zero == groups // 2


def test_a_diverged_training_is_one_clear_line(asked):
    with pytest.raises(InputError, match=r"diverged: loss (nan|inf) at step \d+ of dense; needed: a smaller dense_lr"):
        snapshots_of(tiny.pruning(tiny.replace(asked, dense_lr=1e30)))


def test_the_faster_precision_is_one_of_two():
    assert faster_precision(tries=1) in ("bf16", "fp32")


def test_limits_on_examples_are_kept(asked, tiny_data):
    few = tiny.replace(asked, train_examples=10, dev_examples=6, surface_examples=3)
    encoded = EncodedTask.of(glue.load("sst2", str(tiny_data)), encoders.load(few.model, 2), few)
    assert (len(encoded.train), len(encoded.dev["validation"]), len(encoded.surface)) == (10, 6, 3)


# ---------------------------------------------------------------- taken up again, in this process


def continued(asked: PruneConfig, state, before: list[Snapshot]) -> list[Snapshot]:
    """A fresh loop put to `state`, to its end."""
    data = glue.load(asked.task, asked.data)
    encoder = encoders.load(asked.model, data.task.outputs, asked.seed, asked.train_embeddings)
    kept = {s.saved: s.weights() for s in before if s.saved}
    pruning = Pruning(encoder, EncodedTask.of(data, encoder, asked), asked, lambda name: kept[name])
    pruning.restore_(*copy.deepcopy(state))
    found = []
    for event in pruning:
        if isinstance(event, Snapshot):
            found.append(event)
            kept |= {event.saved: event.weights()} if event.saved else {}
    return found


def test_from_every_moment_the_rest_is_the_same_bit_for_bit(asked, whole):
    _, snapshots, states = whole
    # before the first step there is nothing to take up, nor between the snapshots of one step: two crossings
    resumable = [at for at, state in enumerate(states) if state and at > 0]
    assert len(resumable) == len(snapshots) - 3
    for at in resumable:
        assert_same(continued(asked, states[at], snapshots[: at + 1]), snapshots[at + 1 :])


@pytest.mark.parametrize("changes", [
    {"precision": "bf16"}, {"penalty": "in-loss", "scope": "layer"}, {"train_embeddings": True, "block": "1xall"},
    {"scope": "global", "reweighted": False}, {"spare": False}], ids=str)
def test_other_settings_are_taken_up_bit_for_bit_too(asked, changes):
    changed = tiny.replace(asked, **changes)
    pruning, snapshots, state, at = tiny.pruning(changed), [], None, None
    for event in pruning:
        if isinstance(event, Snapshot):
            snapshots.append(event)
            if event.phase == "penalty" and event.step == 7 and pruning.at_rest:
                state, at = copy.deepcopy(pruning.state()), len(snapshots)
    assert_same(continued(changed, state, snapshots[:at]), snapshots[at:])


def test_a_state_between_the_snapshots_of_one_step_is_refused(asked):
    pruning = tiny.pruning(asked)
    for event in pruning:
        if isinstance(event, Snapshot) and event.saved == "penalty-1.5x":
            with pytest.raises(RuntimeError, match="between the snapshots"):
                pruning.state()
            return
    pytest.fail("1.5x was never passed")


# ---------------------------------------------------------------- on the disk: stopped, killed, out of space


def assert_same_run(found: Path, wanted: Path) -> None:
    """All but names and times are equal: every snapshot, all norms, all weights byte for byte, the points."""
    one, other = Run(found), Run(wanted)
    assert one.snapshots == other.snapshots and one.with_norms == other.with_norms
    for at in one.with_norms:
        assert all(np.array_equal(values, other.norms(at)[name]) for name, values in one.norms(at).items())
    names = sorted(f"{s}.safetensors" for s in SAVED)
    for run in (one, other):
        assert sorted(p.name for p in (run.path / "weights").iterdir()) == names
    for name in names:
        assert (one.path / "weights" / name).read_bytes() == (other.path / "weights" / name).read_bytes()
    assert one.result["points"] == other.result["points"] and one.status == other.status == "complete"


@pytest.fixture(scope="module")
def uninterrupted(asked, tmp_path_factory) -> Path:
    return tiny.make_run(asked, tmp_path_factory.mktemp("runs")).path


def test_a_recorded_run_holds_what_the_loop_yielded(uninterrupted, whole):
    run, (_, snapshots, _) = Run(uninterrupted), whole
    assert run.snapshots == snapshots
    for end in (s for s in snapshots if s.saved):
        weights = load_file(run.weights_file(end.saved))
        assert all(torch.equal(weights[name], tensor) for name, tensor in end.weights().items())


def stop_at(count: int):
    """A report that asks this process to stop, as a terminal does, after `count` snapshots."""
    seen = [0]

    def report(event, _) -> None:
        seen[0] += isinstance(event, Snapshot)
        if seen[0] == count and isinstance(event, Snapshot):
            os.kill(os.getpid(), signal.SIGTERM)

    return report


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13, 17, 24, 26])
def test_a_run_that_was_stopped_resumes_to_the_same_numbers(asked, uninterrupted, tmp_path, count):
    with pytest.raises(Interrupted, match="python -m prune_core resume stopped"):
        session.start(asked, tmp_path, "stopped", "", stop_at(count))
    stopped = shelf.find("stopped", tmp_path)
    assert stopped.status == "interrupted" and len(stopped.snapshots) <= count + 2
    session.resume(stopped, tiny.silent)
    assert_same_run(tmp_path / "stopped", uninterrupted)


def test_stopping_again_and_again_comes_to_the_same_end(asked, uninterrupted, tmp_path):
    with pytest.raises(Interrupted):
        session.start(asked, tmp_path, "often", "", stop_at(4))
    for attempt in range(30):
        try:
            session.resume(shelf.find("often", tmp_path), stop_at(2 + attempt % 5))
            break
        except Interrupted:
            pass
    assert_same_run(tmp_path / "often", uninterrupted)


def test_damaged_weights_that_the_next_phase_needs_are_one_line(asked, tmp_path):
    with pytest.raises(Interrupted):
        session.start(asked, tmp_path, "spoilt", "python -m prune_core prune", stop_at(24))
    for file in (tmp_path / "spoilt" / "weights").glob("penalty-*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match=r"'spoilt': weights 'penalty-1.5x' cannot be read: .*; "
                                       r"begin it anew with: python -m prune_core prune"):
        session.resume(shelf.find("spoilt", tmp_path), tiny.silent)
    assert shelf.find("spoilt", tmp_path).status == "interrupted"


def test_resuming_a_complete_run_returns_its_result_and_touches_nothing(uninterrupted):
    before = {p: p.stat().st_mtime_ns for p in uninterrupted.rglob("*") if p.name != "lock"}
    run = Run(uninterrupted)
    assert session.resume(run, tiny.silent) == run.result
    assert {p: p.stat().st_mtime_ns for p in uninterrupted.rglob("*") if p.name != "lock"} == before


# Runs the command line in a process that kills itself with -9: after a snapshot, in the middle of a line
# of progress, or between writing a checkpoint and renaming it.
KILLED = """
import os, signal, sys
from prune_core import files
from prune_core.runs.recorder import Recorder
from prune_core.training import session
session.CHECKPOINT_SECONDS, where, count = float(sys.argv.pop(1)), sys.argv.pop(1), int(sys.argv.pop(1))
append, write_line, replace = Recorder.append, Recorder._append, os.replace
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
recorder = None

def appended(self, snapshot):
    global recorder
    recorder = self
    append(self, snapshot)
    if where == "after" and self.events == count:
        die()

def torn(self, data, sync=True):
    if where == "line" and self.events == count and "i" in data:
        self._log.write(files.sealed(data)[:40])
        self._log.flush()
        die()
    write_line(self, data, sync)

def unfinished(source, target):
    if where == "checkpoint" and str(target).endswith("checkpoint.safetensors") and recorder.events >= count:
        die()
    replace(source, target)

Recorder.append, Recorder._append, os.replace = appended, torn, unfinished
"""


def killed(seconds: float, where: str, count: int, *command: str) -> None:
    done = prune_core(seconds, where, count, *command, first=KILLED)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_killed_with_9_resumes_to_the_same_numbers(asked, uninterrupted, tmp_path):
    """Real processes: killed far from its last checkpoint, within one, within a line; ends as one that never was."""
    folder = ["--runs-dir", str(tmp_path)]
    about = Run(uninterrupted).about
    with Recorder.create(tmp_path, "victim", {k: v for k, v in about.items() if k not in ("name", "created")}):
        pass  # what `prune` writes before the first step, with the settings of these tests
    killed(1e9, "after", 14, "resume", "victim", *folder)  # mid-penalty; its last checkpoint is the end of dense
    assert len(shelf.find("victim", tmp_path).snapshots) == 14
    killed(0.0, "checkpoint", 18, "resume", "victim", *folder)
    assert list((tmp_path / "victim").glob(".checkpoint*"))
    killed(0.0, "line", 24, "resume", "victim", *folder)
    assert shelf.find("victim", tmp_path).status == "interrupted"
    done = prune_core("resume", "victim", *folder)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "victim", uninterrupted)
    assert not list((tmp_path / "victim").glob(".*"))


@pytest.mark.parametrize("call, count", [("fsync", 3), ("fsync", 12), ("fsync", 20), ("replace", 5), ("replace", 9)])
def test_no_space_left_is_one_line_and_the_run_goes_on_when_there_is(
        asked, uninterrupted, tmp_path, monkeypatch, call, count):
    real, calls = getattr(os, call), [0]

    def full(*arguments):
        calls[0] += 1
        if calls[0] >= count:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, call, full)
    monkeypatch.setattr(session, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(RunError, match="No space left on device.*resume full") as error:
        session.start(asked, tmp_path, "full", "", tiny.silent)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    written = shelf.find("full", tmp_path)
    known = Run(uninterrupted).snapshots
    assert written.snapshots == known[: len(written.snapshots)]  # what was recorded before can be read
    assert all(written.norms(at) for at in written.with_norms)
    session.resume(written, tiny.silent)
    assert_same_run(tmp_path / "full", uninterrupted)


def test_a_disk_that_is_really_full(asked, uninterrupted, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=360k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        with pytest.raises(RunError, match="No space left on device"):
            session.start(asked, small, "full", "", tiny.silent)
        written = shelf.find("full", small)
        assert 0 < len(written.snapshots) < len(Run(uninterrupted).snapshots)
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        session.resume(written, tiny.silent)
        assert_same_run(small / "full", uninterrupted)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


# ---------------------------------------------------------------- what a run says about itself


def test_a_run_that_ends_at_the_majority_class_says_so(asked, tmp_path):
    """Sentences that are all the same: nothing can be learned."""
    columns = {"sentence": ["the film"] * 16, "label": [0, 1] * 8, "idx": list(range(16))}
    data = tiny.data_folder(tmp_path / "data", ("sst2",))
    for split in ("train", "validation"):
        tiny.write_split(data, "sst2", split, columns)
    run = tiny.make_run(tiny.replace(asked, data=str(data)), tmp_path / "runs")
    assert run.dense_score == run.majority_score == 0.5
    assert run.result["warnings"] == [
        "The dense model is no better than guessing (0.500; majority class 0.500).",
        "At 1.5x and 3x, before retraining, it is no better than guessing (0.500, 0.500; majority class 0.500).",
        "At 1.5x and 3x, after retraining, it is no better than guessing (0.500, 0.500; majority class 0.500)."]


def test_a_run_that_learned_keeps_what_it_learned_and_does_not_warn(asked, tmp_path):
    """The tiny task can be learned, so that scores in these tests mean something, and 1.5x does not undo it."""
    data = tiny.data_folder(tmp_path / "data", ("sst2",), train=256)
    steps = {"dense_steps": 300, "penalty_steps": 60, "retrain_steps": 60}
    rates = dict.fromkeys(("dense_lr", "penalty_lr", "retrain_lr"), 3e-3)
    run = tiny.make_run(tiny.replace(asked, data=str(data), compressions=(1.5,), **steps, **rates), tmp_path)
    assert run.dense_score >= 0.8 and run.points[0]["score_retrained"] >= 0.8
    assert run.result["warnings"] == []


def test_a_run_on_the_practice_set_for_want_of_a_hub_carries_the_note(asked, tmp_path, no_hub, monkeypatch):
    def nothing(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(hub, "load_dataset", nothing)
    few = tiny.replace(asked, data="nyu-mll/glue", train_examples=32, dev_examples=16, allow_unknown=True,
                       dense_steps=2, penalty_steps=2, retrain_steps=1)
    run = tiny.make_run(few, tmp_path)
    assert run.data == run.task == run.result["data"] == "practice" and not run.is_glue
    assert any("not GLUE" in warning for warning in run.result["warnings"])


def test_an_interrupted_run_whose_data_is_gone_is_told_and_not_trained_on_something_else(asked, tmp_path):
    data = tiny.data_folder(tmp_path / "data", ("sst2",))
    with pytest.raises(Interrupted):
        session.start(tiny.replace(asked, data=str(data)), tmp_path / "runs", "moved", "", stop_at(4))
    data.rename(tmp_path / "elsewhere")
    run = shelf.find("moved", tmp_path / "runs")
    before = run.snapshots
    with pytest.raises(InputError, match="is not a folder"):
        session.resume(run, tiny.silent)
    (tmp_path / "elsewhere").rename(data)
    assert Run(run.path).snapshots == before
    assert session.resume(Run(run.path), tiny.silent)["run"] == "moved"


def test_default_names_say_task_model_block_and_seed(asked, tmp_path):
    result = session.start(tiny.replace(asked, seed=3), tmp_path, None, "", tiny.silent)
    assert result["run"] == "sst2-tiny-bert-16x1-s3"


def test_starting_from_another_runs_dense_weights_gives_its_later_phases_bit_for_bit(tmp_path):
    asked = tiny.settings(tiny.checkpoint(tmp_path / "model"), tiny.data_folder(tmp_path / "data"))
    first = tiny.make_run(asked, tmp_path, "first")
    session.start(replace(asked, start_from="first"), tmp_path, "second", "", tiny.silent)
    second = Run(tmp_path / "second")
    assert second.points == first.points and second.stages == first.stages
    for name in first.stages:
        assert second.weights_file(name).read_bytes() == first.weights_file(name).read_bytes()
    with pytest.raises(InputError, match="needed to start from"):
        session.start(replace(asked, start_from="first", task="rte"), tmp_path, "third", "", tiny.silent)
