"""The official GLUE metrics, and how sure a score is."""

from __future__ import annotations

import numpy as np

from prune_core.tasks.glue import Examples, Task

_WORDS = {"f1": "F1", "matthews_correlation": "Matthews correlation", "pearson": "Pearson correlation",
          "spearman": "Spearman correlation"}


def in_words(metric: str, first: bool = False) -> str:
    """As a sentence has it: 'accuracy', 'F1', 'Matthews correlation'; `first`: at its beginning."""
    words = _WORDS.get(metric, metric.replace("_", " "))
    return words[:1].upper() + words[1:] if first else words


def score(task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's official metrics. outputs (examples, classes), or (examples, 1) for regression."""
    answers = outputs[:, 0] if not task.labels else outputs.argmax(1)
    return {metric: _METRICS[metric](labels, answers) for metric in task.metrics}


def _matthews(labels, answers) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, answers))


def _f1(labels, answers) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, answers, zero_division=0))


def _of_counts(metric: str, counts: np.ndarray) -> np.ndarray:
    """F1 or Matthews of many confusion matrices at once: counts (draws, label, answer) -> (draws,); 0 if undefined."""
    (rejected, alarms), (missed, hits) = np.moveaxis(counts.astype(np.float64), 0, -1)
    if metric == "f1":
        above, below = 2 * hits, 2 * hits + alarms + missed
    else:
        above = hits * rejected - alarms * missed
        below = np.sqrt((hits + alarms) * (hits + missed) * (rejected + alarms) * (rejected + missed))
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)


def _accuracy(labels, answers) -> float:
    return float(np.mean(labels == answers))


def _correlation(kind: str, labels, answers) -> float:
    """Pearson or Spearman; 0 when all answers are equal, where neither is defined."""
    from scipy import stats

    if np.ptp(answers) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(getattr(stats, kind)(labels, answers).statistic)


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": lambda labels, answers: _correlation("pearsonr", labels, answers),
    "spearman": lambda labels, answers: _correlation("spearmanr", labels, answers),
}


def interval(task: Task, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """95% interval of the headline metric over the examples: Wilson for accuracy, else bootstrap (200 draws)."""
    answers = outputs[:, 0] if not task.labels else outputs.argmax(1)
    metric, count = task.metrics[0], len(labels)
    if metric == "accuracy":
        from scipy.stats import binomtest

        wilson = binomtest(int((answers == labels).sum()), count).proportion_ci(0.95, method="wilson")
        return float(wilson.low), float(wilson.high)
    random = np.random.default_rng(0)
    if task.labels:  # resampling examples is resampling the four cells of the confusion matrix
        cells = np.bincount(2 * labels + answers, minlength=4)
        values = _of_counts(metric, random.multinomial(count, cells / count, size=200).reshape(-1, 2, 2))
    else:
        at = random.integers(0, count, (200, count))
        values = [_METRICS[metric](labels[i], answers[i]) for i in at]
    return tuple(float(v) for v in np.quantile(values, [0.025, 0.975]))


CELLS = [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]  # label, answer, other answer


def paired(task: Task, one: np.ndarray, other: np.ndarray, labels: np.ndarray, draws: int = 1000,
           ) -> tuple[float, float, float]:
    """The headline score of `one` minus that of `other`, (examples, outputs) each, with its 95% interval.

    Bootstrap over examples, the same ones for both: what both answer alike adds no spread.
    """
    metric, random = task.metrics[0], np.random.default_rng(0)
    answers = [outputs[:, 0] if not task.labels else outputs.argmax(1) for outputs in (one, other)]
    difference = _METRICS[metric](labels, answers[0]) - _METRICS[metric](labels, answers[1])
    if metric == "accuracy":
        gained = (answers[0] == labels).astype(int) - (answers[1] == labels)
        cells = np.bincount(gained + 1, minlength=3)
        values = random.multinomial(len(labels), cells / len(labels), size=draws) @ np.array([-1, 0, 1]) / len(labels)
    elif task.labels:  # resampling examples is resampling the eight cells of label, answer, other answer
        cells = np.bincount(4 * labels + 2 * answers[0] + answers[1], minlength=8)
        drawn = random.multinomial(len(labels), cells / len(labels), size=draws)[:, CELLS]
        values = _of_counts(metric, drawn.sum(3)) - _of_counts(metric, drawn.sum(2))
    else:
        drawn = random.integers(0, len(labels), (draws, len(labels)))
        values = [_METRICS[metric](labels[i], answers[0][i]) - _METRICS[metric](labels[i], answers[1][i])
                  for i in drawn]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(difference), float(low), float(high)


def majority_score(task: Task, examples: Examples) -> float:
    """The headline score of giving every example the most frequent answer.

    0 for regression: a constant correlates with nothing.
    """
    if not task.labels:
        return 0.0
    outputs = np.zeros((len(examples), len(task.labels)), np.float32)
    outputs[:, np.bincount(examples.labels, minlength=len(task.labels)).argmax()] = 1
    return score(task, outputs, examples.labels)[task.metrics[0]]


def class_shares(task: Task, examples: Examples) -> list[float]:
    """What share of the examples each class has; [] for regression."""
    return (np.bincount(examples.labels, minlength=len(task.labels)) / len(examples)).tolist() if task.labels else []
