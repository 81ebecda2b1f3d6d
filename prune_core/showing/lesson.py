"""The small experiments behind the lesson, in numpy, on matrices that fit on a page.

Every number is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prune_core.cutting.blocks import BlockShape

EPS = 1e-3  # of the reweighting factor, as in methods/group_lasso.py
ROWS, COLS = 16, 24  # of the matrix that blocks are shown on


# ---------------------------------------------------------------- 1: what a block is


@dataclass(frozen=True)
class CutMatrix:
    """A small matrix with its groups of the lowest norm cut.

    `weight` (m, n); `norms` and `kept` (groups down, groups across).
    """

    weight: np.ndarray
    norms: np.ndarray
    kept: np.ndarray
    size: int  # weights in a group

    @property
    def sparsity(self) -> float:
        """Share of the weights that is cut."""
        return 1.0 - float(self.kept.mean())

    @property
    def energy(self) -> float:
        """Share of the sum of all squared weights that is kept: how much of the matrix is still there."""
        squares = self.norms**2
        return float(squares[self.kept].sum() / squares.sum())


def small_matrix(seed: int = 0) -> np.ndarray:
    """(16, 24) random numbers; some columns, and some pieces of columns, are larger, as in trained weights."""
    random = np.random.default_rng(seed)
    strips = random.gamma(1.2, 1.0, (4, COLS)).repeat(ROWS // 4, 0)
    return random.normal(size=(ROWS, COLS)) * strips * random.gamma(3.0, 0.33, (ROWS, COLS))


def cut_matrix(weight: np.ndarray, block: BlockShape, share: float) -> CutMatrix:
    """Cut the share of groups whose norm is lowest."""
    norms = block.norms(weight)
    gone = round(share * norms.size)
    kept = np.ones(norms.size, bool)
    kept[np.argsort(norms, axis=None, kind="stable")[:gone]] = False
    rows, cols = block.sides(*weight.shape)
    return CutMatrix(weight, norms, kept.reshape(norms.shape), rows * cols)


# ---------------------------------------------------------------- 2: the penalty


def soft_threshold(norms: np.ndarray, amount: np.ndarray | float) -> np.ndarray:
    """The proximal step on norms: each loses `amount`, and stops at exactly zero."""
    return np.maximum(norms - amount, 0.0)


def two_groups(lam: float, wanted: tuple[float, float] = (1.0, 0.25), lr: float = 0.1, steps: int = 60) -> np.ndarray:
    """(steps + 1, 2) norms of two groups that start at 1, while the task pulls each towards the norm it is `wanted` at.

    Each step: a gradient step of 1/2 (norm - wanted)^2, then the proximal step of lam * norm. They end at
    max(0, wanted - lam).
    """
    norms = [np.ones(2)]
    for _ in range(steps):
        norms.append(soft_threshold(norms[-1] - lr * (norms[-1] - np.array(wanted)), lr * lam))
    return np.array(norms)


# ---------------------------------------------------------------- 3: why reweight


@dataclass(frozen=True)
class Recovery:
    """A group Lasso on data whose truth is known: norms (groups,) of the truth and of what was found, and the error."""

    truth: np.ndarray
    found: np.ndarray
    error: float  # mean squared error on data that was not used, over the variance of what is to be predicted

    @property
    def kept(self) -> int:
        """Groups that are not zero."""
        return int((self.found > 0).sum())

    @property
    def shrunk(self) -> float:
        """By what share the norms of the groups that matter and were kept are too small, on average."""
        both = (self.truth > 0) & (self.found > 0)
        return float(1 - (self.found[both] / self.truth[both]).mean()) if both.any() else 0.0

    @property
    def wrong(self) -> int:
        """Groups that were kept and do not matter, and groups that matter and were cut."""
        return int(((self.truth > 0) != (self.found > 0)).sum())


GROUPS, EACH, EXAMPLES = 12, 4, 80
_TRUTH = np.array([3.0, 2.0, 1.2, 0.8] + [0.0] * (GROUPS - 4))


def recover(lam: float, reweighted: bool, seed: int = 0, rounds: int = 4, steps: int = 150) -> Recovery:
    """Least squares with a group Lasso by proximal steps, on 80 noisy examples of 12 groups, 4 of which matter.

    Reweighted: after each round, lam counts for a group as 1 / (norm + 0.1) times what it did; the last norms start
    the next round.
    """
    random = np.random.default_rng(seed)
    truth = random.normal(size=(GROUPS, EACH))
    truth *= (_TRUTH / np.linalg.norm(truth, axis=1))[:, None]
    x, unseen = (random.normal(size=(count, GROUPS * EACH)) for count in (EXAMPLES, 2000))
    y = x @ truth.ravel() + random.normal(size=EXAMPLES)
    lr = EXAMPLES / np.linalg.eigvalsh(x.T @ x)[-1]
    w, gamma = np.zeros((GROUPS, EACH)), np.ones(GROUPS)
    for _ in range(rounds):
        for _ in range(steps):
            w = w - lr * (x.T @ (x @ w.ravel() - y) / EXAMPLES).reshape(w.shape)
            norms = np.linalg.norm(w, axis=1)
            w *= (soft_threshold(norms, lr * lam * gamma) / np.maximum(norms, 1e-300))[:, None]
        if reweighted:
            gamma = 1.0 / (np.linalg.norm(w, axis=1) + 0.1)
    wanted = unseen @ truth.ravel()
    error = float(((unseen @ w.ravel() - wanted) ** 2).mean() / wanted.var())
    return Recovery(_TRUTH, np.linalg.norm(w, axis=1), error)


# ---------------------------------------------------------------- 4: a sentence


def changes_at(sparsities: Sequence[float], sure: np.ndarray) -> float | None:
    """The first sparsity at which another answer is the likeliest than at the first one; None: nowhere.

    `sure`: (sparsities, answers) probabilities.
    """
    other = np.flatnonzero(sure.argmax(1) != sure[0].argmax())
    return float(sparsities[other[0]]) if len(other) else None


# ---------------------------------------------------------------- 6: three faults


def refreshes(epochs: int, milestones: tuple[int, ...] = (4, 8, 12, 16)) -> list[int]:
    """The milestones that a training of so many epochs reaches: after each, gamma is refreshed and training goes on."""
    return [milestone for milestone in milestones if milestone < epochs]


def reweighted_norms(
    epochs: int, start: np.ndarray, lam: float = 0.002, milestones: tuple[int, ...] = (4, 8, 12, 16),
) -> np.ndarray:
    """(epochs + 1, groups) norms under the penalty alone, one proximal step of lam * gamma an epoch.

    gamma = 1 / (norm + eps) of the last milestone; `start`: (groups,).
    """
    norms, gamma = [np.asarray(start, float)], 1.0 / (np.asarray(start, float) + EPS)
    for epoch in range(1, epochs + 1):
        norms.append(soft_threshold(norms[-1], lam * gamma))
        if epoch in milestones:
            gamma = 1.0 / (norms[-1] + EPS)
    return np.array(norms)


def adam_against_proximal(
    lam: float, steps: int = 234, lr: float = 2e-5, start: float = 0.04, group: int = 64, pull: float = 1e-3,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Two paths (steps + 1,) of a group's norm: the penalty in the loss under Adam, and as a proximal step.

    The group has `group` weights around `start`; the task's gradient is noise of size `pull`. In the loss, Adam
    divides the penalty's gradient by the gradient's own size, so a weight moves by about lr a step whatever lambda
    is; the proximal step takes lr * lam * gamma from the norm, undivided. gamma = 1 / (norm + eps).
    """
    random = np.random.default_rng(seed)
    first = random.normal(size=group) * start
    noise = random.normal(size=(steps, group)) * pull
    gamma = 1.0 / (np.linalg.norm(first) + EPS)
    paths = []
    for proximal in (False, True):
        w, m, v = first.copy(), np.zeros(group), np.zeros(group)
        path = [float(np.linalg.norm(w))]
        for step in range(1, steps + 1):
            norm = np.linalg.norm(w)
            gradient = noise[step - 1] + (0.0 if proximal else lam * gamma * w / max(norm, 1e-12))
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            w = w - lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            if proximal:
                norm = np.linalg.norm(w)
                w *= soft_threshold(norm, lr * lam * gamma) / max(norm, 1e-300)
            path.append(float(np.linalg.norm(w)))
        paths.append(np.array(path))
    return paths[0], paths[1]
