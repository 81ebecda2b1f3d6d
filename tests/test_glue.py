"""The nine tasks: reading, batching and scoring, against formulas written out and against scikit-learn and scipy."""

from __future__ import annotations

import math
import socket
import threading
from itertools import islice

import numpy as np
import pytest
import sklearn.metrics
import tiny
from scipy import stats

from prune_core import InputError
from prune_core.tasks import encoding, glue, hub, metrics
from prune_core.tasks.encoding import Encoded
from prune_core.tasks.glue import NOT_GLUE, PRACTICE_TASK, TASKS, Examples

OFFICIAL = {
    "cola": {"matthews_correlation"}, "sst2": {"accuracy"}, "mrpc": {"f1", "accuracy"}, "stsb": {"pearson", "spearman"},
    "qqp": {"f1", "accuracy"}, "mnli": {"accuracy"}, "qnli": {"accuracy"}, "rte": {"accuracy"}, "wnli": {"accuracy"},
}
LOCAL = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "rte", "wnli")


def outputs_for(answers: np.ndarray, classes: int = 2) -> np.ndarray:
    """Outputs of a head that gives these answers."""
    return np.eye(classes, dtype=np.float32)[answers]


def drawn(seed: int, count: int = 300, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and answers that agree more often than not."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    return labels, np.where(random.random(count) < 0.7, labels, random.integers(0, classes, count))


# ---------------------------------------------------------------- the table


def test_the_table_has_the_nine_tasks_with_their_official_metrics():
    assert {name: set(task.metrics) for name, task in TASKS.items()} == OFFICIAL


def test_mnli_is_scored_matched_and_mismatched():
    assert TASKS["mnli"].dev == ("validation_matched", "validation_mismatched")
    assert TASKS["mnli"].metric == "accuracy_matched"


def test_outputs_of_the_head():
    assert {name: task.outputs for name, task in TASKS.items()} == dict.fromkeys(TASKS, 2) | {"mnli": 3, "stsb": 1}


def test_an_unknown_task_names_the_nine():
    with pytest.raises(InputError) as error:
        glue.task_named("sst3")
    assert all(name in str(error.value) for name in TASKS)


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_f1_equal_their_formulas_and_scikit_learn(seed):
    labels, answers = drawn(seed)
    scores = metrics.score(TASKS["mrpc"], outputs_for(answers), labels)
    hits = sum(1 for a, b in zip(labels, answers, strict=True) if a == b == 1)
    false_alarms, missed = int(((answers == 1) & (labels == 0)).sum()), int(((answers == 0) & (labels == 1)).sum())
    assert scores["f1"] == pytest.approx(2 * hits / (2 * hits + false_alarms + missed), rel=1e-12)
    assert scores["f1"] == pytest.approx(sklearn.metrics.f1_score(labels, answers), rel=1e-12)
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, answers), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_matthews_equals_its_formula_and_scikit_learn(seed):
    labels, answers = drawn(seed)
    tp, tn = int((answers & labels).sum()), int(((1 - answers) & (1 - labels)).sum())
    fp, fn = int((answers & (1 - labels)).sum()), int(((1 - answers) & labels).sum())
    by_hand = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    matthews = metrics.score(TASKS["cola"], outputs_for(answers), labels)["matthews_correlation"]
    assert matthews == pytest.approx(by_hand, rel=1e-12)
    assert matthews == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, answers), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pearson_and_spearman_equal_their_formulas_and_scipy(seed):
    random = np.random.default_rng(seed)
    labels = (random.integers(0, 26, 200) / 5).astype(np.float32)  # with ties, as STS-B has them
    answers = (labels + random.normal(0, 1, 200)).astype(np.float32)
    scores = metrics.score(TASKS["stsb"], answers[:, None], labels)

    def pearson(a, b) -> float:
        a, b = np.asarray(a, float) - np.mean(a, dtype=float), np.asarray(b, float) - np.mean(b, dtype=float)
        return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))

    assert scores["pearson"] == pytest.approx(pearson(labels, answers), abs=1e-6)
    assert scores["spearman"] == pytest.approx(pearson(stats.rankdata(labels), stats.rankdata(answers)), abs=1e-9)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(labels, answers).statistic, abs=1e-12)


def test_constant_answers_score_zero_where_a_metric_is_not_defined():
    labels = np.array([0, 1, 1, 0])
    assert metrics.score(TASKS["cola"], outputs_for(np.ones(4, int)), labels) == {"matthews_correlation": 0.0}
    assert metrics.score(TASKS["mrpc"], outputs_for(np.zeros(4, int)), labels) == {"f1": 0.0, "accuracy": 0.5}
    constant, labels = np.ones((4, 1), np.float32), np.array([1.0, 2, 3, 4])
    assert metrics.score(TASKS["stsb"], constant, labels) == {"spearman": 0.0, "pearson": 0.0}


def test_perfect_answers_score_one_on_every_task():
    labels, values = np.array([0, 1, 1, 0, 1]), np.array([0.0, 2.5, 5, 1, 3], np.float32)
    for task in TASKS.values():
        answers, right = (outputs_for(labels, task.outputs), labels) if task.labels else (values[:, None], values)
        scores = metrics.score(task, answers, right)
        assert list(scores.values()) == pytest.approx([1.0] * len(task.metrics)), task.name


def test_three_classes_are_told_apart():
    labels, answers = drawn(1, classes=3)
    accuracy = metrics.score(TASKS["mnli"], outputs_for(answers, 3), labels)["accuracy"]
    assert accuracy == float((labels == answers).mean())


@pytest.mark.parametrize("right, count", [(8, 10), (0, 20), (20, 20), (780, 872)])
def test_the_interval_of_an_accuracy_is_wilsons(right, count):
    z, share = 1.959963984540054, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    labels = np.ones(count, int)
    answers = np.array([1] * right + [0] * (count - right))
    interval = metrics.interval(TASKS["sst2"], outputs_for(answers), labels)
    assert interval == pytest.approx((middle - half, middle + half), abs=1e-9)


@pytest.mark.parametrize("name", ["cola", "mrpc"])
def test_other_intervals_bracket_the_score_as_resampled_examples_do(name):
    labels, answers = drawn(5, 400)
    task, metric = TASKS[name], {"cola": sklearn.metrics.matthews_corrcoef, "mrpc": sklearn.metrics.f1_score}[name]
    random = np.random.default_rng(9)
    resampled = [metric(labels[at], answers[at]) for at in random.integers(0, 400, (200, 400))]
    low, high = metrics.interval(task, outputs_for(answers), labels)
    assert (low, high) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.03)
    assert low < metric(labels, answers) < high


@pytest.mark.parametrize("name", ["cola", "mrpc"])
def test_an_interval_where_nothing_can_be_told_is_a_point(name):
    labels = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0])
    assert metrics.interval(TASKS[name], outputs_for(np.zeros(9, int)), labels) == (0.0, 0.0)


def test_the_interval_of_a_correlation_brackets_it():
    random = np.random.default_rng(0)
    labels = random.uniform(0, 5, 300).astype(np.float32)
    answers = labels + random.normal(0, 1, 300).astype(np.float32)
    low, high = metrics.interval(TASKS["stsb"], answers[:, None], labels)
    spearman = stats.spearmanr(labels, answers).statistic
    assert low < spearman < high and high - low < 0.1
    assert (low, high) == metrics.interval(TASKS["stsb"], answers[:, None], labels)


@pytest.mark.parametrize("name, labels, by_hand", [
    ("sst2", [1, 1, 1, 0], 0.75), ("cola", [1, 1, 1, 0], 0.0), ("mrpc", [1, 1, 1, 0], 6 / 7),
    ("mnli", [2, 2, 0, 1], 0.5), ("stsb", [1.0, 2.0], 0.0)])
def test_what_the_majority_class_scores_by_hand(name, labels, by_hand):
    examples = Examples([("x",)] * len(labels), np.array(labels))
    assert metrics.majority_score(TASKS[name], examples) == pytest.approx(by_hand)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("count, size", [(64, 8), (1000, 32), (7, 32), (65, 8)])
def test_every_example_comes_once_per_epoch(count, size):
    lengths = np.random.default_rng(0).integers(3, 60, count)
    per_epoch = math.ceil(count / size)
    batches = encoding.training_batches(lengths, size, (0, 0))
    for _ in range(3):
        epoch = list(islice(batches, per_epoch))
        assert sorted(np.concatenate(epoch)) == list(range(count))
        assert max(map(len, epoch)) <= size


def test_the_order_is_a_function_of_the_seed():
    lengths = np.random.default_rng(0).integers(3, 60, 200)

    def order(*seed):
        return np.concatenate(list(islice(encoding.training_batches(lengths, 8, seed), 50))).tolist()

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(4, 1) and order(3, 1) != order(3, 2)
    assert order(3, 1)[:200] != order(3, 1)[200:]


def test_dev_batches_cover_all_shortest_first():
    lengths = np.array([5, 3, 9, 3, 7])
    batches = encoding.dev_batches(lengths, 2)
    assert sorted(np.concatenate(batches)) == [0, 1, 2, 3, 4]
    assert [lengths[i] for batch in batches for i in batch] == [3, 3, 5, 7, 9]


def test_a_batch_is_padded_on_the_right_with_the_tokenizers_pad():
    inputs = {"input_ids": [[5, 6, 7], [8], [9, 9]], "token_type_ids": [[0, 1, 1], [0], [0, 1]]}
    encoded = Encoded(inputs, np.array([1, 0, 1]), pad=4)
    inputs, labels = encoded.batch([1, 0])
    assert inputs["input_ids"].tolist() == [[8, 4, 4], [5, 6, 7]]
    assert inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 1, 1]]
    assert labels.tolist() == [0, 1]


def test_padding_changes_no_answer(tiny_model):
    """A sentence alone, and beside a longer one: the same outputs."""
    import torch

    from prune_core.models import encoders

    encoder = encoders.load(str(tiny_model), 2)
    encoder.model.eval()
    texts = [("a fine film",), ("the soup was very cold and dull here today",)]
    encoded = encoding.encode(Examples(texts, np.array([1, 0])), encoder.tokenizer, 32)
    with torch.no_grad():
        both, alone = (encoder.model(**encoded.batch(at)[0]).logits[0] for at in ([0, 1], [0]))
    assert torch.allclose(both, alone, atol=1e-5)


def test_pairs_are_joined_as_the_tokenizer_joins_them_and_cut_at_the_length():
    tokenizer = tiny.tokenizer("bert")
    examples = Examples([("a film", "the soup"), ("a a a a a a", "the the the the")], np.array([0, 1]))
    encoded = encoding.encode(examples, tokenizer, 8)
    v = tiny.VOCABULARY
    words = ("[CLS]", "a", "film", "[SEP]", "the", "soup", "[SEP]")
    assert encoded.inputs["input_ids"][0] == [v[word] for word in words]
    assert encoded.inputs["token_type_ids"][0] == [0, 0, 0, 0, 1, 1, 1]
    assert encoded.lengths.tolist() == [7, 8]


def test_some_spreads_evenly_and_keeps_texts_with_labels():
    examples = Examples([(str(i),) for i in range(10)], np.arange(10))
    part = examples.some(4)
    assert [text for text, in part.texts] == [str(label) for label in part.labels] == ["0", "3", "6", "9"]
    assert examples.some(None) is examples and examples.some(99) is examples


# ---------------------------------------------------------------- reading a folder


@pytest.mark.parametrize("name", list(TASKS))
def test_a_folder_in_the_hubs_layout_is_read_whole(tiny_data, name):
    task, data = TASKS[name], glue.load(name, str(tiny_data))
    columns = tiny.table(task, 64, 1)
    assert data.task is task and data.note == "" and set(data.dev) == set(task.dev)
    assert list(data.train.texts) == list(zip(*(columns[c] for c in task.columns), strict=True))
    assert data.train.labels.tolist() == pytest.approx(columns["label"])
    assert [len(examples) for examples in data.dev.values()] == [24] * len(task.dev)


def refused(task: str, folder) -> str:
    with pytest.raises(InputError) as error:
        glue.load(task, str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("columns, named", [
    ({"text": ["x"], "label": [0]}, ("column 'sentence' is missing", "text, label")),
    ({"sentence": ["x"]}, ("column 'label' is missing",)),
    ({"sentence": ["x", "y", "z"], "label": [0, 1, 2]}, ("label 2", "row 2", "0 to 1")),
    ({"sentence": ["x", "y"], "label": [0, -1]}, ("label -1", "row 1")),
    ({"sentence": ["x", "y", "z"], "label": [0.0, 1.0, 0.5]}, ("label 0.5", "row 2")),
    ({"sentence": ["x", "y"], "label": [0.0, float("nan")]}, ("label nan", "row 1")),
    ({"sentence": ["x", "y"], "label": [0, None]}, ("label None", "row 1")),
    ({"sentence": ["x", "y"], "label": ["negative", "positive"]}, ("labels must be numbers", "negative")),
    ({"sentence": ["x", None], "label": [0, 1]}, ("row 1 has no text",)),
    ({"sentence": [1, 2], "label": [0, 1]}, ("row 0 has no text",)),
], ids=["no-text-column", "no-label-column", "label-too-large", "label-negative", "label-not-whole", "label-nan",
        "label-none", "label-text", "text-none", "text-number"])
def test_bad_data_is_refused_with_what_is_wrong_and_where(tmp_path, columns, named):
    tiny.data_folder(tmp_path, ("sst2",))
    for split in ("train", "validation"):
        tiny.write_split(tmp_path, "sst2", split, columns)
    message = refused("sst2", tmp_path)
    assert [part for part in (*named, "sst2", "train", str(tmp_path)) if part not in message] == []


@pytest.mark.parametrize("columns, named", [
    ({"text": ["x"], "label": [0]}, "column 'sentence' is missing; there are: text, label"),
    ({"sentence": ["x"]}, "column 'label' is missing"),
    ({"sentence": [], "label": []}, "no examples"), ({"sentence": ["x"], "label": ["positive"]}, "positive"),
    ({"sentence": ["x"], "label": [0.5]}, "0.5"), ({"sentence": ["x"], "label": [2], "idx": [0]}, "label 2 in row 0")])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_bad_split_is_enough_to_be_refused(tmp_path, capfd, split, columns, named):
    """Here `datasets` itself gives up, as the splits differ; what it logs about that stays inside."""
    message = refused("sst2", tiny.spoiled(tmp_path, columns, split))
    if not (split == "train" and named in ("positive", "0.5")):  # then it is the other split that does not fit
        assert named in message
    assert str(tmp_path) in message and "sst2" in message
    assert capfd.readouterr() == ("", "")


def test_a_regression_label_must_be_finite(tmp_path):
    tiny.data_folder(tmp_path, ("stsb",))
    tiny.write_split(tmp_path, "stsb", "validation", {"sentence1": ["x"], "sentence2": ["y"], "label": [float("inf")]})
    assert "finite" in refused("stsb", tmp_path)


def test_a_missing_split_is_named(tmp_path):
    tiny.data_folder(tmp_path, ("sst2",))
    tiny.write_readme(tmp_path, {"sst2": ("train",)})
    assert "split 'validation' is missing" in refused("sst2", tmp_path)


def test_a_task_that_the_folder_lacks(tmp_path):
    tiny.data_folder(tmp_path, ("sst2",))
    assert "'rte'" in refused("rte", tmp_path)


def test_a_file_that_is_no_parquet(tmp_path):
    tiny.data_folder(tmp_path, ("sst2",))
    (tmp_path / "sst2" / "train-00000-of-00001.parquet").write_bytes(b"not parquet at all")
    assert "sst2/train-00000-of-00001.parquet cannot be read as parquet" in refused("sst2", tmp_path)


def test_an_empty_folder(tmp_path):
    assert str(tmp_path) in refused("sst2", tmp_path)


def test_what_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert all("is not a folder" in refused("sst2", tmp_path / name) for name in ("file", "nowhere"))


def test_data_that_changed_is_read_anew_and_folders_of_one_name_are_told_apart(tmp_path):
    """`datasets` itself would give back what it cached under the folder's last name."""
    one, other = (tmp_path / name / "glue" for name in ("one", "other"))
    for folder in (one, other):
        folder.mkdir(parents=True)
        tiny.data_folder(folder, ("sst2",))
    before = glue.load("sst2", str(one)).main_dev
    tiny.write_split(other, "sst2", "validation", {"sentence": ["the soup"], "label": [1], "idx": [0]})
    assert list(glue.load("sst2", str(other)).main_dev.texts) == [("the soup",)]
    assert list(glue.load("sst2", str(one)).main_dev.texts) == list(before.texts)
    tiny.write_split(one, "sst2", "validation", {"sentence": ["a film"], "label": [0], "idx": [0]})
    assert list(glue.load("sst2", str(one)).main_dev.texts) == [("a film",)]


# ---------------------------------------------------------------- the practice set, the hub


def test_the_practice_set_is_balanced_and_says_that_it_is_not_glue():
    data = glue.load("sst2", "practice")
    assert data.source == data.task.name == "practice" and "practice" not in TASKS
    for examples in (data.train, data.main_dev):
        assert len(examples) >= 500 and 0.45 < examples.labels.mean() < 0.55
    assert len(data.train) == data.task.train_examples
    assert "not GLUE" in NOT_GLUE


def test_practice_dev_sentences_are_not_in_its_training_set():
    data = glue.load("sst2", "practice")
    assert not set(data.train.texts) & set(data.main_dev.texts)


def test_without_the_hub_it_is_the_practice_set_with_one_line_that_says_so(no_hub, monkeypatch):
    monkeypatch.setattr(hub, "load_dataset", _no_cache)
    data = glue.load("rte")
    assert data.source == "practice" and data.task is PRACTICE_TASK
    assert all(part in data.note for part in ("hub did not answer", "nyu-mll/glue rte", "not GLUE", "--data"))
    assert "\n" not in data.note


def _no_cache(path: str, name: str, offline: bool = False, cache: str | None = None):
    assert offline, "the hub must not be asked when it did not answer"
    raise ConnectionError("nothing cached")


def test_a_folder_that_lacks_the_task_is_an_error_and_not_the_practice_set(tmp_path, no_hub):
    assert "holds no task" in refused("sst2", tmp_path)


def test_a_silent_hub_is_given_up_on(monkeypatch):
    """A server that takes the connection and never answers."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        said: list[bool] = []
        asking = threading.Thread(target=lambda: said.append(hub.hub_answers(0.3)), daemon=True)
        asking.start()
        asking.join(10)
    assert said == [False]


def test_a_hub_that_answers_is_seen(monkeypatch):
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        threading.Thread(target=_answer_once, args=(server,), daemon=True).start()
        assert hub.hub_answers(8.0)


def _answer_once(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


# ---------------------------------------------------------------- real GLUE


@pytest.mark.parametrize("name", LOCAL)
def test_real_glue_reads_as_the_table_says(glue_folder, name):
    data = glue.load(name, str(glue_folder))
    assert data.task is TASKS[name] and set(data.dev) == set(data.task.dev)
    for examples in (data.train, *data.dev.values()):
        assert len(examples) > 50 and {len(text) for text in examples.texts} == {len(data.task.columns)}
        if data.task.labels:
            assert set(examples.labels.tolist()) == set(range(len(data.task.labels)))
        else:
            assert 0 <= examples.labels.min() < examples.labels.max() <= 5


def test_real_rte_dev_set_has_the_known_majority(glue_folder):
    data = glue.load("rte", str(glue_folder))
    assert (len(data.main_dev), int((data.main_dev.labels == 0).sum())) == (277, 146)
    assert metrics.majority_score(data.task, data.main_dev) == 146 / 277
