"""Distillation against formulas by hand, and in the loop: the teacher is the run's dense model and stays it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import tiny
import torch

from prune_core import InputError
from prune_core.models import encoders
from prune_core.models.teacher import Teacher, hidden_loss, mixed
from prune_core.runs.config import PruneConfig
from prune_core.runs.snapshots import Snapshot
from prune_core.tasks import encoding, glue
from prune_core.training.step import taught_rows


@pytest.fixture
def encoder(tiny_model):
    return encoders.load(str(tiny_model), 2)


def teacher_of(encoder, temperature: float = 2.0) -> Teacher:
    return Teacher(encoder, encoder.copies(), temperature)


def test_the_loss_by_hand(encoder):
    teacher, t = teacher_of(encoder, 2.0), 2.0
    student, wanted = torch.tensor([[1.0, -1.0], [0.0, 2.0]]), torch.tensor([[3.0, -1.0], [0.5, 0.0]])

    def softmax(row):
        parts = [math.exp(v / t) for v in row]
        return [p / sum(parts) for p in parts]

    rows = zip(map(softmax, student.tolist()), map(softmax, wanted.tolist()), strict=True)
    expected = np.mean([sum(q * math.log(q / p) for p, q in zip(a, b, strict=True)) for a, b in rows])
    assert float(teacher.loss(student, wanted)) == pytest.approx(t * t * expected, rel=1e-5)
    assert float(teacher.loss(wanted, wanted)) == pytest.approx(0.0, abs=1e-6)
    squared = teacher.loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]]))
    assert float(squared) == 2.0, "regression: squared differences"


def test_hidden_states_are_compared_on_tokens_only():
    random = torch.Generator().manual_seed(0)
    student, wanted = ([torch.randn(2, 3, 4, generator=random) for _ in range(3)] for _ in range(2))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    tokens = ((0, 0), (0, 1), (1, 0))
    expected = np.mean([np.mean([float((a[i, j, k] - b[i, j, k]) ** 2) for i, j in tokens for k in range(4)])
                        for a, b in zip(student[1:], wanted[1:], strict=True)])
    assert float(hidden_loss(tuple(student), tuple(wanted), mask)) == pytest.approx(expected, rel=1e-5)


def test_mixing_is_between_a_sentence_and_its_neighbour(encoder):
    inputs = {"input_ids": torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]]),
              "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
    words = encoder.model.get_input_embeddings().weight
    mixture = mixed(encoder.model, inputs, 0.75)
    torch.testing.assert_close(mixture["inputs_embeds"][0, 1], 0.75 * words[5] + 0.25 * words[7])
    assert mixture["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    whole = mixed(encoder.model, inputs, 1.0)
    model = encoder.model.eval()
    embedded = model(inputs_embeds=whole["inputs_embeds"], attention_mask=inputs["attention_mask"])
    torch.testing.assert_close(embedded.logits, model(**inputs).logits)


def test_the_teachers_outputs_are_the_dense_models_for_the_examples_asked_for(encoder, tiny_data):
    data = glue.load("sst2", str(tiny_data))
    encoded = encoding.encode(data.train, encoder.tokenizer, 40)
    teacher = teacher_of(encoder)
    with torch.no_grad():
        for p in encoder.trainable().values():
            p.add_(0.1)  # the student moves on
    rows = np.arange(0, len(encoded), 3)
    list(teacher.prepare(encoded, rows, bf16=False))
    dense = encoders.load(encoder.name, 2).model.eval()
    assert teacher.at(np.array([1])).isnan().all()
    for row in rows[::3]:
        with torch.no_grad():
            expected = dense(**encoded.batch([row])[0]).logits[0]
        torch.testing.assert_close(teacher.at(np.array([row]))[0], expected, atol=1e-5, rtol=1e-4)


def test_making_a_teacher_leaves_the_student_as_it_is(encoder):
    before = copy.deepcopy(encoder.model.state_dict())
    Teacher(encoder, {name: torch.zeros_like(p) for name, p in encoder.trainable().items()}, 2.0)
    assert all(torch.equal(before[name], value) for name, value in encoder.model.state_dict().items())
    assert all(p.requires_grad for p in encoder.trainable().values())


@pytest.mark.parametrize("settings", [
    {"distill": 0.5}, {"distill": 0.0, "distill_hidden": 0.1}, {"distill": 0.9, "mixkd": True},
    {"distill": 0.5, "distill_hidden": 0.1, "mixkd": True, "precision": "bf16"}])
def test_every_kind_runs_and_resumes_bit_for_bit(tiny_model, tiny_data, settings):
    asked = tiny.settings(tiny_model, tiny_data, compressions=(2.0,), **settings)
    whole, kept = tiny.pruning(asked), {}
    weights = lambda p: {name: t.detach().clone() for name, t in p.encoder.trainable().items()}  # noqa: E731
    state = None
    for event in whole:
        if isinstance(event, Snapshot):
            if event.saved:
                kept[event.saved] = {name: t.clone() for name, t in event.weights().items()}
            if state is None and event.phase == "penalty" and event.step == 3:
                state = copy.deepcopy(whole.state())
    again = tiny.pruning(asked, saved=lambda name: kept[name])
    again.restore_(*state)
    for _ in again:
        pass
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values(), strict=True))


def test_with_all_of_the_loss_from_the_teacher_labels_do_not_matter(tiny_model, tiny_data):
    def trained(flip: bool):
        pruning = tiny.pruning(tiny.settings(tiny_model, tiny_data, compressions=(2.0,), distill=1.0))
        for event in pruning:
            if flip and isinstance(event, Snapshot) and event.saved == "dense":
                pruning.data.train.labels[:] = 1 - pruning.data.train.labels
        return {name: p.detach().clone() for name, p in pruning.encoder.trainable().items()}

    assert all(torch.equal(a, b) for a, b in zip(trained(False).values(), trained(True).values(), strict=True))


def test_every_example_that_comes_up_was_asked_for_and_no_other(tiny_model, tiny_data):
    asked = tiny.settings(tiny_model, tiny_data, compressions=(2.0,), penalty_steps=2, retrain_steps=1, batch_size=4)
    pruning = tiny.pruning(asked)
    for _ in pruning:
        pass
    known = ~pruning.teacher.outputs.isnan().any(1)
    rows = taught_rows(pruning.plan, pruning.data.train.lengths, pruning.config)
    assert known.nonzero()[:, 0].tolist() == rows.tolist() and 4 <= int(known.sum()) <= 12 < len(known)


def test_runs_from_before_were_not_taught():
    old = PruneConfig().to_json()
    for name in ("distill", "temperature", "distill_hidden", "mixkd", "score"):
        del old[name]
    read = PruneConfig.from_json(old)
    assert (read.distill, read.ranking, read.taught) == (0.0, "norm", False) and PruneConfig().taught


@pytest.mark.parametrize("wrong, named", [
    ({"distill": 1.5}, "distill"), ({"distill": -0.1}, "distill"), ({"temperature": 0.0}, "temperature"),
    ({"distill_hidden": -1.0}, "distill_hidden"), ({"ranking": "size"}, "score")])
def test_settings_out_of_range(wrong, named):
    with pytest.raises(InputError, match=named):
        PruneConfig(**wrong)


def test_the_inputs_are_weighed_as_the_dense_model_sees_them(tiny_model, tiny_data):
    """Importance is the root mean square of the inputs a group meets, mean 1:
    the loop's own, against the Gram matrices' diagonals."""
    pruning = tiny.pruning(tiny.settings(tiny_model, tiny_data, compressions=(2.0,), ranking="activation"))
    for event in pruning:
        if isinstance(event, Snapshot) and event.phase == "penalty":
            break
    importance = pruning.position.steps.method.importance
    assert np.mean(np.concatenate([one.numpy().ravel() for one in importance.values()])) == pytest.approx(1.0, rel=1e-5)
    name = pruning.layout.matrices[5].name
    linear, seen = pruning.teacher.model.get_submodule(name), []
    hook = linear.register_forward_pre_hook(lambda _m, a: seen.append(a[0][0].detach()))
    rows = range(min(len(pruning.data.train), 1024))
    with torch.no_grad():
        for row in rows:
            pruning.teacher.model(**pruning.data.train.batch([row])[0])
    hook.remove()
    rms = torch.cat(seen).square().mean(0).sqrt()
    torch.testing.assert_close(importance[name][0] / importance[name][0].mean(), rms / rms.mean(), atol=1e-3, rtol=1e-3)
