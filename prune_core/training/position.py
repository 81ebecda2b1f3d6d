"""Where a run stands, and how it begins a phase; this is what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask, mask_at_sparsity, sparsity_of
from prune_core.evaluation import dev_score
from prune_core.methods.qat import Quantization, kept_by
from prune_core.methods.table import METHODS, USUAL
from prune_core.models.encoders import Encoder
from prune_core.runs.config import PruneConfig
from prune_core.runs.estimate import Work
from prune_core.runs.schedule import Schedule
from prune_core.runs.stages import Stage, kind_of
from prune_core.tasks.encoding import Encoded
from prune_core.training.forecast import Spent
from prune_core.training.placement import ALONE, Placement
from prune_core.training.step import Steps


class Position:
    """The phase, its steps once it has begun, and the compressions whose weights the penalty phase has kept."""

    def __init__(self, encoder: Encoder, train: Encoded, config: PruneConfig, layout: Layout, plan: Schedule,
                 saved: Callable[[str], Mapping[str, torch.Tensor]], spent: Spent, placed: Placement = ALONE):
        self.encoder, self.train, self.config, self.layout, self.plan = encoder, train, config, layout, plan
        self.spent, self.placed = spent, placed
        self.saved = lambda name: placed.from_main(saved(name) if placed.main else None)
        self.number = 0  # of the phase
        self.steps: Steps | None = None
        self.crossed: list[float] = []

    @property
    def at_end(self) -> bool:
        """Whether no phase is left."""
        return self.number >= len(self.plan.phases)

    @property
    def phase(self) -> str:
        """dense, penalty, retrain-2x ..."""
        return self.plan.phases[self.number][0]

    @property
    def step(self) -> int:
        """Steps done in this phase."""
        return self.steps.done if self.steps else 0

    @property
    def steps_done(self) -> int:
        """Training steps done, over all phases."""
        return sum(steps for _, steps in self.plan.phases[: self.number]) + self.step

    def once(self, work: Work, asked: bool) -> float:
        """Seconds of the work that comes once and is still to come: the teacher's answers, and choosing the groups."""
        if self.at_end:
            return 0.0
        chosen = self.number > 1 or (self.number == 1 and (self.step or self.crossed))
        return work.asking * (not asked) + work.cutting * (not chosen)

    def begin_(self) -> None:
        """Set up the phase, unless it has begun: method, mask, optimizer."""
        if self.steps:
            return
        config, (phase, count), formats = self.config, self.plan.phases[self.number], self.config.formats
        method = mask = quantization = None
        self.encoder.model.train(kind_of(phase) == "dense" or config.dropout)
        if phase == "penalty":
            row = METHODS[config.method]
            if not row.closed_form:
                method = row.build(self.encoder.weights, self.layout, config.scope, **config.of_method)
            if row.quantizes:
                everything = {name: torch.ones_like(w, dtype=torch.bool) for name, w in self.encoder.weights.items()}
                quantization = Quantization(self.encoder, self.layout, formats, USUAL, everything, count,
                                            self.placed.widest)
        elif kind_of(phase) == "retrain":
            compression = self.plan.compressions[self.number - 2]
            self.encoder.load_(self.saved(Stage.of("penalty", compression)))
            norms = self.encoder.norms(self.layout.block)
            mask = mask_at_sparsity(norms, self.layout, sparsity_of(compression), config.scope)
            dev_score.apply_mask_(self.encoder.weights, mask)
            if not formats.plain:
                kept = self.patterned_(mask)
                quantization = Quantization(self.encoder, self.layout, formats, config.quantizer, kept, count,
                                            self.placed.widest)
        self.steps = Steps(self.encoder, self.train, config, phase, self.number, count, self.spent, method, mask,
                           quantization, placed=self.placed)

    def cut_pattern_(self, compression: float, importance: Mapping[str, torch.Tensor] | None = None) -> None:
        """Cut what a compression cuts of the weights as they are, and of what is kept what the run's pattern cuts."""
        if any(one.pattern for one in self.config.formats.weights):
            norms = self.encoder.norms(self.layout.block)
            sparsity = sparsity_of(compression)
            self.patterned_(mask_at_sparsity(norms, self.layout, sparsity, self.config.scope), importance)

    @torch.no_grad()
    def patterned_(self, mask: BlockMask,
                   importance: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """Zero what the blocks of `mask` and the run's pattern cut; matrix name -> (m, n) bool: what they keep."""
        weights = self.encoder.weights
        kept = kept_by(mask, self.config.formats.of(self.layout), weights, importance)
        for name, weight in weights.items():
            weight *= kept[name]
        return kept

    def next_(self) -> None:
        """Go to the next phase, without beginning it: the weights are those of this one."""
        self.number, self.steps = self.number + 1, None

    def just_crossed(self, zeros: float, last: bool) -> list[float]:
        """Compressions whose sparsity the zero groups have just reached; at the last step all that are left."""
        left = [c for c in self.config.compressions if c not in self.crossed]
        return [c for c in left if last or (c > 1 and zeros >= sparsity_of(c))]

    def state(self) -> tuple[dict[str, torch.Tensor], dict]:
        """(tensors, numbers) from which `restore_` goes on bit for bit."""
        tensors = {f"weight.{name}": p.detach() for name, p in self.encoder.trainable().items()}
        method = self.steps and self.steps.method
        numbers = {"phase_index": self.number, "step": self.step, "crossed": self.crossed,
                   "spent": dict(vars(self.spent)), "lam": method.lam if method else {}}
        return tensors | (self.steps.tensors() if self.step else {}), numbers

    def restore_(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping) -> None:
        """Continue from a `state`."""
        self.number, self.crossed = numbers["phase_index"], list(numbers["crossed"])
        vars(self.spent).update(numbers["spent"])
        if self.at_end:
            return
        if numbers["step"]:  # else it stands between two phases, and this one begins as always
            self.begin_()
        self.encoder.load_({name: tensors[f"weight.{name}"] for name in self.encoder.trainable()})
        if numbers["step"]:
            self.steps.restore_(tensors, numbers["lam"], numbers["step"])
