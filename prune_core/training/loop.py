"""The training loop: dense, penalty, threshold, masked retraining. It yields what happens and never prints.

    pruning = Pruning(encoder, data, config)
    for event in pruning:          # Snapshot after every step, Working during evaluations
        recorder.append(event)     # pruning.state() is a checkpoint, valid whenever a Snapshot has come

One penalty phase serves all compressions: the controlled lambda drives the share of zero groups up in
a straight line to the largest compression, and as it passes each smaller one the weights are kept
there (saved as penalty-1.5x, penalty-2x, ...); retraining starts from those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import torch

from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import sparsity_of
from prune_core.methods.rankings import RANKINGS
from prune_core.methods.table import METHODS
from prune_core.models import devices
from prune_core.models.encoders import Encoder
from prune_core.models.teacher import Teacher
from prune_core.runs.config import PruneConfig
from prune_core.runs.estimate import Size, work
from prune_core.runs.snapshots import Snapshot, Working
from prune_core.runs.stages import DENSE, Stage, kind_of
from prune_core.training.data import EncodedTask
from prune_core.training.forecast import Spent
from prune_core.training.importance import importance, measured
from prune_core.training.placement import ALONE, Placement, check_batch
from prune_core.training.position import Position
from prune_core.training.scoring import Scorer
from prune_core.training.step import taught_rows, zero_share

Events = Iterator[Snapshot | Working]


class Pruning:
    """A run of the whole method on one encoder and one task, from wherever `restore_` puts it to its end."""

    def __init__(self, encoder: Encoder, data: EncodedTask, config: PruneConfig,
                 saved: Callable[[str], Mapping[str, torch.Tensor]] | None = None, placed: Placement = ALONE):
        """`saved` gives back the weights of an earlier Snapshot by name; without it they stay in memory.

        `placed`: the process, where several share the batches; all get the same events. Raises InputError where a
        batch has fewer examples than there are processes.
        """
        check_batch(placed.count, config.batch_size, len(data.train))
        self.encoder, self.data, self.config, self.placed = encoder, data, config, placed
        self.layout = encoder.layout(BlockShape.parse(config.block))
        self.work = work(config, _size(data, self.layout.encoder_weights))
        self.plan, self.spent = self.work.plan, Spent()
        self.teacher: Teacher | None = None
        self.at_rest = True  # whether `state` may be asked for: not between the snapshots of one step
        self._kept: dict[str, Mapping[str, torch.Tensor]] | None = None if saved else {}
        self.position = Position(encoder, data.train, config, self.layout, self.plan,
                                 saved or (lambda name: self._kept[name]), self.spent, placed)
        self.scorer = Scorer(encoder, data, self.layout, config.scope, self.spent, config.formats, placed)
        torch.set_num_threads(placed.threads(config.threads))

    def __iter__(self) -> Events:
        while not self.position.at_end:
            self.position.begin_()
            phases = {"dense": self._dense, "penalty": self._penalty, "retrain": self._retrain}
            yield from phases[kind_of(self.position.phase)]()

    def _dense(self) -> Events:
        """Fine-tune as it is; nothing to do, but to score it, where the encoder came fine-tuned."""
        if not self.plan.dense:
            yield from self._end(DENSE)
        else:
            if self.position.step == 0:
                yield Snapshot(DENSE, 0, norms=self.encoder.norms(self.layout.block))
            yield from self._train_plainly(_evenly(self.plan.dense, 4))

    def _penalty(self) -> Events:
        """Train under the penalty, lambda controlled or given; keep the weights at every compression passed."""
        yield from self._teach()
        if not self.plan.penalty:
            yield from self._cut_in_closed_form()
            return
        method, position = self.position.steps.method, self.position
        looks = _evenly(self.plan.penalty, self.config.moments)
        milestones = _inside(self.plan.penalty, self.config.milestones)
        for loss, last in self._steps():
            step, milestone = position.step, position.step in milestones
            if milestone:
                method.refresh_()
            zeros = zero_share(method.norms, self.layout)
            now = {"loss": loss, "penalty": method.penalty(), "milestone": milestone, "zero_share": zeros,
                   "lam": float(np.mean(list(method.lam.values()))), "residuals": position.steps.residuals()}
            for compression in position.just_crossed(zeros, last):
                yield from self._cross(compression)
            if last or milestone or step in looks:
                now |= self.scorer.look()
            if last:
                position.next_()
            self.at_rest = True
            yield Snapshot("penalty", step, **now)

    def _cut_in_closed_form(self) -> Events:
        """A method without steps: every compression is cut from the dense weights and repaired, at once."""
        self.at_rest = False
        yield Working("penalty", "ranking the blocks", 0, 1)
        config, dense = self.config, self.encoder.copies()
        if self.placed.main:
            seen = measured(self.encoder, self.data.train, config.seed)
            cutting = METHODS[config.method].build(self.encoder, self.layout, config.scope, *seen, **config.of_method)
        for compression in config.compressions:
            self.encoder.load_(dense)
            if self.placed.main:
                cutting.cut_(sparsity_of(compression), config.formats)
            self.same_()
            self.position.cut_pattern_(compression)
            end = self._end if compression == config.compressions[-1] else self._keep
            yield from end(Stage.of("penalty", compression), sparsity_of(compression))

    def _retrain(self) -> Events:
        """Masked retraining: what is cut stays exactly zero, no penalty; weights end on their levels."""
        yield from self._teach()
        yield from self._train_plainly(())

    def _teach(self) -> Iterator[Working]:
        """Have the dense model as a teacher, once; and have it say what norms count, where the ranking weighs them."""
        config, train, method = self.config, self.data.train, self.position.steps.method
        if self.teacher is None and config.taught:
            self.teacher = Teacher(self.encoder, self.position.saved(DENSE), config.temperature)
            rows = taught_rows(self.plan, train.lengths, config, self.placed)
            for done, total in self.teacher.prepare(train, rows, config.precision == "bf16"):
                yield Working(self.position.phase, "asking the dense model", done, total)
        if method and RANKINGS[config.ranking].build:
            yield Working(self.position.phase, "weighing the inputs", 0, 1)
            dense = self.position.saved(DENSE)
            counts = None
            if self.placed.main:
                counts = importance(config.ranking, self.encoder, self.layout, dense, train, config.seed)
                counts = {name: one.cpu() for name, one in counts.items()}
            counts = devices.moved(self.placed.from_main(counts), devices.of(self.encoder.model))
            method.weigh_(counts, fresh=self.position.step == 0)

    def same_(self) -> None:
        """Give all processes the weights of the first."""
        if self.placed.count > 1:
            mine = {name: one.cpu() for name, one in self.encoder.copies().items()} if self.placed.main else None
            self.encoder.load_(self.placed.from_main(mine))

    def _steps(self) -> Iterator[tuple[float, bool]]:
        """Train to the end of the phase; (loss, whether it was the last step) after each step."""
        steps = self.position.steps
        for rows in steps.batches():
            self.at_rest = False
            yield steps.step_(rows, self.teacher), steps.done == steps.count

    def _train_plainly(self, looks: Collection[int]) -> Events:
        """Steps to the end of a phase that has no method; norms and a score after those in `looks`."""
        phase = self.position.phase
        for loss, last in self._steps():
            if last:
                yield from self._end(phase, loss=loss, quantization=self.position.steps.quantization)
            else:
                now = self.scorer.look() if self.position.step in looks else {}
                self.at_rest = True
                yield Snapshot(phase, self.position.step, loss, residuals=self.position.steps.residuals(), **now)

    def _cross(self, compression: float) -> Events:
        """Keep and score the weights at a compression, cut but not retrained; then train on as if nothing was."""
        exact = self.encoder.copies()
        self.position.crossed.append(compression)
        self.position.steps.method.harden_()
        self.position.cut_pattern_(compression, self.position.steps.method.importance)
        yield from self._keep(Stage.of("penalty", compression), sparsity_of(compression))
        self.encoder.load_(exact)

    def _end(self, name: str, sparsity: float = 0.0, **now) -> Events:
        """The end of a phase: keep and score what has come out. The next begins when the consumer has taken that."""
        for event in self._keep(name, sparsity, **now):
            if isinstance(event, Snapshot):
                self.position.next_()
                self.at_rest = True
            yield event

    def _keep(self, name: str, sparsity: float, **now) -> Events:
        """Keep the weights as they are under this name, and score them cut at `sparsity`."""
        for event in self.scorer.keep_(self.position.phase, self.position.step, name, sparsity, **now):
            if isinstance(event, Snapshot) and self._kept is not None:
                self._kept[name] = event.weights()
            yield event

    steps_done = property(lambda self: self.position.steps_done, doc="Training steps done, over all phases.")

    def seconds_left(self) -> float:
        """Expected seconds to the end: as counted at first, then by what steps and scores take here."""
        once = self.position.once(self.work, asked=self.teacher is not None)
        return self.spent.seconds_left(self.work, self.steps_done, once)

    def state(self) -> tuple[dict[str, torch.Tensor], dict]:
        """(tensors, numbers) from which `restore_` goes on bit for bit. Only while `at_rest`."""
        if not self.at_rest:
            raise RuntimeError("state() between the snapshots of one step would lose some of them")
        return self.position.state()

    def restore_(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping) -> None:
        """Continue from a `state`."""
        self.position.restore_(tensors, numbers)


def _size(data: EncodedTask, weights: int) -> Size:
    train, dev = data.train.lengths, data.surface.lengths
    return Size(len(train), float(train.mean()), tuple(map(len, data.dev.values())), float(dev.mean()), weights)


def _evenly(steps: int, count: int) -> set[int]:
    """So many of these steps, the last among them: after them norms and a score are taken."""
    return {round(steps * (i + 1) / count) for i in range(count)}


def _inside(steps: int, count: int) -> set[int]:
    """So many of these steps, without the last: after them gamma is refreshed (paper: epochs 4, 8, 12, 16 of 20)."""
    return {round(steps * (i + 1) / (count + 1)) for i in range(count)} - {steps, 0}
