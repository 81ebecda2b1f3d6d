"""A head's outputs against the task's labels: by name however spelt, by number, and said where neither tells."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch

from prune_core.models import encoders
from prune_core.runs import results
from prune_core.tasks.glue import TASKS
from prune_core.tasks.labels import names_of, order

SST2, MNLI, MRPC, RTE, COLA = (TASKS[name].labels for name in ("sst2", "mnli", "mrpc", "rte", "cola"))


@pytest.mark.parametrize("theirs,ours,at", [
    (["negative", "positive"], SST2, (0, 1)),
    (["POSITIVE", "NEGATIVE"], SST2, (1, 0)),
    (["pos", "neg"], SST2, (1, 0)),
    (["Label: positive", "label: Negative"], SST2, (1, 0)),
    (["1 positive", "0 negative"], SST2, (1, 0)),
    (["contradiction", "neutral", "entailment"], MNLI, (2, 1, 0)),
    (["CONTRADICTION", "ENTAILMENT", "NEUTRAL"], MNLI, (1, 2, 0)),
    (["entailed", "contradictory", "neutral"], MNLI, (0, 2, 1)),
    (["equivalent", "not-equivalent"], MRPC, (1, 0)),
    (["paraphrase", "not paraphrase"], MRPC, (1, 0)),
    (["notEntailment", "entailment"], RTE, (1, 0)),
    (["non_entailment", "Entailment"], RTE, (1, 0)),
    (["acceptable", "UNACCEPTABLE"], COLA, (1, 0)),
    (["grammatical", "ungrammatical"], COLA, (1, 0)),
    (["LABEL_0", "LABEL_1"], SST2, (0, 1)),
    (["LABEL_1", "LABEL_0"], SST2, (1, 0)),
    (["2", "0", "1"], MNLI, (1, 2, 0)),
    (["5 stars", "4 stars", "3 stars", "2 stars", "1 star"], ("1", "2", "3", "4", "5"), (4, 3, 2, 1, 0)),
    (["joy", "Anger", "fear"], ("anger", "fear", "joy"), (1, 2, 0)),
    (["a b", "a c"], ("a c", "a b"), (1, 0)),
    (["Positif", "Négatif"], SST2, (1, 0)), (["positiv", "negativ"], SST2, (1, 0)),
])
def test_labels_are_matched(theirs, ours, at):
    found = order(theirs, ours)
    assert found.at == at
    assert ("another order" in found.words) == (at != tuple(range(len(at))))


@pytest.mark.parametrize("theirs,ours", [
    (["spam", "ham"], SST2), (["negative", "ham"], SST2), (["negative", "negative"], SST2),
    (["positive", "positive "], SST2), (["a", "b", "c"], MNLI)])
def test_labels_that_do_not_tell_are_taken_as_they_stand_and_that_is_said(theirs, ours):
    found = order(theirs, ours)
    assert found.at == tuple(range(len(ours))) and "do not tell" in found.words and theirs[0] in found.words


def test_numbers_are_said_to_be_numbers_and_names_in_order_are_not_mentioned():
    assert "are numbers (LABEL_0, LABEL_1)" in order(["LABEL_0", "LABEL_1"], SST2).words
    assert order(["NEGATIVE", "POSITIVE"], SST2).words == ""


def test_the_names_in_a_config():
    assert names_of({"id2label": {"10": "k", "2": "c", "0": "a"}}) == ["a", "c", "k"]
    assert names_of({"id2label": ["a"]}) == names_of({"id2label": {"a": "b"}}) == names_of({}) == []


@pytest.mark.parametrize("id2label", [{}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {"id2label": None}])
def test_names_that_stand_only_the_other_way_round(id2label):
    """from_pretrained(..., label2id=...) alone leaves numbers in id2label."""
    turned = {"label2id": {"positive": 0, "negative": 1}}
    assert names_of(id2label | turned) == ["positive", "negative"]
    assert names_of({"id2label": {"0": "negative", "1": "positive"}} | turned) == ["negative", "positive"]
    for bad in ({"a": 0, "b": 0}, {"a": 0, "b": 2}, {"a": "x", "b": 1}, {"a": True, "b": 0}, [0, 1]):
        assert names_of(id2label | {"label2id": bad}) == list((id2label.get("id2label") or {}).values())


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_head_is_permuted_to_the_tasks_order(tmp_path, architecture):
    folder = tiny.checkpoint(tmp_path / "straight", architecture)
    turned = shutil.copytree(folder, tmp_path / "turned")
    config = json.loads((turned / "config.json").read_text())
    names = {"id2label": {0: "Positive", 1: "Negative"}, "label2id": {"Positive": 0, "Negative": 1}}
    (turned / "config.json").write_text(json.dumps(config | names))
    straight, other = (encoders.load(str(path), 2, labels=SST2) for path in (folder, turned))
    assert "another order (Positive, Negative)" in " ".join(other.notes)
    ids = torch.tensor([[2, 6, 9, 14, 3]])
    with torch.no_grad():
        one, two = (encoder.model.eval()(input_ids=ids).logits for encoder in (straight, other))
    assert torch.allclose(one.flip(-1), two, atol=1e-6) and not torch.allclose(one, two)


def test_a_head_without_names_is_taken_as_it_stands_and_that_is_said(tiny_model):
    """transformers writes no names where they are LABEL_0 and LABEL_1."""
    (note,) = encoders.load(str(tiny_model), 2, labels=SST2).notes
    assert note == "config.json names no labels; the head's outputs are taken as negative, positive"


def test_a_new_head_is_not_permuted(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "three")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "c", "1": "b", "2": "a"}}))
    heads = [encoders.load(str(folder), 3, labels=labels).model.classifier.weight for labels in (("a", "b", "c"), ())]
    assert torch.equal(*heads)


@pytest.mark.parametrize("scores,metric,majority,shares,words", [
    ({"accuracy": 0.107}, "accuracy", 0.51, [0.49, 0.51], "accuracy 0.107"),
    ({"accuracy": 0.107}, "accuracy", 0.51, None, "accuracy 0.107"),  # of before shares were recorded
    ({"accuracy": 0.46}, "accuracy", 0.51, [0.49, 0.51], ""),
    ({"accuracy": 0.1}, "accuracy", 0.9, [0.1, 0.9], ""),  # always the rare answer
    ({"accuracy_matched": 0.08, "accuracy_mismatched": 0.09}, "accuracy_matched", 0.35, [0.35, 0.33, 0.32], "0.080"),
    ({"f1": 0.2, "accuracy": 0.15}, "f1", 0.81, [0.32, 0.68], "accuracy 0.150"),
    ({"f1": 0.0, "accuracy": 0.32}, "f1", 0.81, [0.32, 0.68], ""),
    ({"matthews_correlation": -0.4}, "matthews_correlation", 0.0, [0.3, 0.7], "matthews_correlation -0.400"),
    ({"matthews_correlation": 0.0}, "matthews_correlation", 0.0, [0.3, 0.7], ""),
    ({"spearman": -0.8, "pearson": -0.7}, "spearman", 0.0, [], "spearman -0.800"),
    ({}, "accuracy", 0.5, [0.5, 0.5], ""),
])
def test_far_below_chance_is_swapped_and_not_collapsed(scores, metric, majority, shares, words):
    said = results.warnings(scores, [], metric, majority, ["a note"], shares)
    assert said[-1] == "a note"
    assert ("may be swapped" in said[0]) == bool(words) and words in said[0]
    assert not (words and any("collapsed" in line for line in said))
