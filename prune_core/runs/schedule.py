"""How many steps each phase of a run takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prune_core.methods.table import METHODS
from prune_core.runs.config import PruneConfig
from prune_core.runs.stages import DENSE, Stage

# Arithmetic that a MiniLM training step got through on two cores, bf16 (measured: 186e9 to 230e9).
# It turns a budget of minutes into a number of steps that is the same on every machine, so that a
# seed fixes the result; how long those steps really take is measured while they run.
NOMINAL_FLOPS = 200e9


@dataclass(frozen=True)
class Schedule:
    """Steps of each phase, in order: dense, penalty, and one retraining per compression."""

    dense: int
    penalty: int
    retrain: int
    compressions: tuple[float, ...]

    @property
    def phases(self) -> list[tuple[str, int]]:
        """(phase, its steps) in order; a phase is named as the stage it ends in, the penalty's as its kind."""
        retrains = [(Stage.of("retrain", c), self.retrain) for c in self.compressions]
        return [(DENSE, self.dense), ("penalty", self.penalty), *retrains]

    @property
    def steps(self) -> int:
        return sum(steps for _, steps in self.phases)


def step_flops(config: PruneConfig, tokens: float, encoder_weights: int) -> float:
    """Multiply-adds of a training step in the linear layers, times two: forward 2, backward 4 per weight and token."""
    return 6.0 * config.batch_size * min(tokens, config.max_length) * encoder_weights


def plan(config: PruneConfig, examples: int, tokens: float, encoder_weights: int) -> Schedule:
    """Steps of every phase for `examples` training sentences of `tokens` tokens on average."""
    examples = min(examples, config.train_examples or examples)
    epoch = max(1, math.ceil(examples / config.batch_size))
    nominal = step_flops(config, tokens, encoder_weights) / NOMINAL_FLOPS

    def steps(given: int | None, epochs: float, budget: float | None) -> int:
        if given:
            return given
        return max(1, min(round(epochs * epoch), int(budget / nominal) if budget else 10**9))

    share = config.retrain_budget and config.retrain_budget / len(config.compressions)
    return Schedule(
        0 if config.start_from else steps(config.dense_steps, config.dense_epochs, config.dense_budget),
        0 if METHODS[config.method].closed_form else
        steps(config.penalty_steps, config.penalty_epochs, config.penalty_budget),
        steps(config.retrain_steps, config.retrain_epochs, share),
        config.compressions,
    )
