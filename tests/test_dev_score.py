"""The dev score: against a plain loop over single sentences."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.evaluation import dev_score
from prune_core.evaluation.dev_score import TOKENS
from prune_core.models import encoders
from prune_core.tasks import encoding, glue, metrics
from prune_core.tasks.glue import TASKS, Examples


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return encoders.load(str(tiny_model), 2)


@pytest.fixture(scope="module")
def dev(encoder, tiny_data):
    examples = glue.load("sst2", str(tiny_data)).main_dev
    return encoding.encode(examples, encoder.tokenizer, 32)


def mask_of(encoder, sparsity: float):
    layout = encoder.layout(BlockShape.parse("16x1"))
    norms = {name: layout.block.norms(w.detach()).numpy() for name, w in encoder.weights.items()}
    return mask_at_sparsity(norms, layout, sparsity)


def test_outputs_in_batches_equal_one_sentence_at_a_time(encoder, dev):
    outputs = dev_score.outputs(encoder.model, dev)
    encoder.model.eval()
    with torch.no_grad():
        for at in range(len(dev)):
            ids = torch.tensor([dev.inputs["input_ids"][at]])
            assert np.allclose(outputs[at], encoder.model(input_ids=ids).logits[0].numpy(), atol=1e-5)


def test_outputs_leave_the_model_in_the_mode_it_was_in(encoder, dev):
    for mode in (True, False):
        encoder.model.train(mode)
        dev_score.outputs(encoder.model, dev)
        assert encoder.model.training is mode


def test_the_dev_score_is_the_share_of_right_answers(encoder, dev):
    answer = dev_score.dev_score(encoder.model, TASKS["sst2"], {"validation": dev})
    answers = dev_score.outputs(encoder.model, dev)
    right = sum(int(row.argmax()) == label for row, label in zip(answers, dev.labels, strict=True))
    assert answer.scores == {"accuracy": right / len(dev)} and answer.examples == len(dev)
    assert answer.low < answer.scores["accuracy"] < answer.high


def test_two_dev_splits_are_scored_each_under_its_name(tiny_model, tiny_data):
    encoder, data = encoders.load(str(tiny_model), 3), glue.load("mnli", str(tiny_data))
    encoded = {name: encoding.encode(examples, encoder.tokenizer, 32) for name, examples in data.dev.items()}
    answer = dev_score.dev_score(encoder.model, data.task, encoded)
    assert set(answer.scores) == {"accuracy_matched", "accuracy_mismatched"} and answer.examples == 48
    mismatched = encoded["validation_mismatched"]
    alone = metrics.score(data.task, dev_score.outputs(encoder.model, mismatched), mismatched.labels)
    assert answer.scores["accuracy_mismatched"] == alone["accuracy"]


def test_inside_masked_the_cut_groups_are_zero_and_afterwards_all_is_as_it_was(encoder):
    mask, before = mask_of(encoder, 0.5), {name: w.detach().clone() for name, w in encoder.weights.items()}
    with dev_score.masked(encoder.weights, mask):
        for name, weight in encoder.weights.items():
            kept = torch.from_numpy(mask.layout.block.expand(mask.kept[name], *weight.shape))
            assert not weight[~kept].any() and torch.equal(weight[kept], before[name][kept])
        zeros = sum(int((w == 0).sum()) for w in encoder.weights.values())
    assert zeros == mask.layout.encoder_weights - mask.kept_weights == mask.layout.encoder_weights // 2
    assert all(torch.equal(w, before[name]) for name, w in encoder.weights.items())


def test_masked_gives_the_weights_back_after_an_error_too(encoder):
    before = {name: w.detach().clone() for name, w in encoder.weights.items()}
    with pytest.raises(KeyboardInterrupt), dev_score.masked(encoder.weights, mask_of(encoder, 0.9)):
        raise KeyboardInterrupt
    assert all(torch.equal(w, before[name]) for name, w in encoder.weights.items())


def test_cutting_changes_the_outputs(encoder, dev):
    whole = dev_score.outputs(encoder.model, dev)
    with dev_score.masked(encoder.weights, mask_of(encoder, 0.8)):
        cut = dev_score.outputs(encoder.model, dev)
    assert not np.allclose(whole, cut, atol=1e-3)
    assert np.array_equal(whole, dev_score.outputs(encoder.model, dev))


def test_positions_bound_the_length(encoder):
    assert encoder.max_length(500) == tiny.POSITIONS and encoder.max_length(10) == 10


def test_the_running_score_ends_at_the_exact_one(encoder, dev):
    task, words = TASKS["sst2"], (tiny.GOOD + tiny.BAD) * 20
    labels = np.array(([1] * 4 + [0] * 4) * 20)
    several = encoding.encode(Examples([(f"film was {word}",) for word in words], labels), encoder.tokenizer, 32)
    encoder.model.eval()
    running = list(dev_score.stream(encoder.model, task, {"validation": several}))
    assert [r.done for r in running] == [32, 96, 160] and {r.total for r in running} == {160}
    assert [r.final is None for r in running] == [True, True, False]
    assert running[-1].final == dev_score.dev_score(encoder.model, task, {"validation": several})
    assert all(r.low <= r.score <= r.high for r in running)
    assert running[-1].score == running[-1].final.scores["accuracy"]
    assert running[0].high - running[0].low > running[-1].high - running[-1].low


def test_a_running_score_is_of_a_random_part(encoder):
    """Labels sorted by length would mislead a score that starts with the short sentences."""
    lengths = np.sort(np.random.default_rng(0).integers(4, 30, 500))
    parts = list(dev_score._growing(lengths, np.random.default_rng(0).permutation(500)))
    assert sorted(np.concatenate(parts)) == list(range(500))
    assert abs(lengths[parts[0]].mean() - lengths.mean()) < 4
    assert all(lengths[part].sum() <= TOKENS for part in parts)
    assert len(list(dev_score._growing(np.full(9, 2 * TOKENS), np.arange(9)))) == 9


def test_a_stream_over_two_splits_scores_both(tiny_model, tiny_data):
    encoder, data = encoders.load(str(tiny_model), 3), glue.load("mnli", str(tiny_data))
    encoder.model.eval()
    encoded = {name: encoding.encode(examples, encoder.tokenizer, 32) for name, examples in data.dev.items()}
    last = list(dev_score.stream(encoder.model, data.task, encoded))[-1]
    assert last.final == dev_score.dev_score(encoder.model, data.task, encoded) and last.done == last.total == 48
