"""The steps of one phase: forward, backward, gradient of the method, optimizer, proximal step."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask, sparsity_of
from prune_core.evaluation import dev_score
from prune_core.methods.method import Method
from prune_core.methods.qat import Quantization
from prune_core.models import devices
from prune_core.models.devices import CPU
from prune_core.models.encoders import Encoder
from prune_core.models.teacher import MIX, Teacher, hidden_loss, mixed
from prune_core.runs.config import PruneConfig
from prune_core.runs.schedule import Schedule
from prune_core.runs.stages import kind_of
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded
from prune_core.training.forecast import Spent
from prune_core.training.placement import ALONE, Placement

RAMP = 0.9  # share of the penalty phase in which the wanted sparsity rises; the rest settles
CONTROLS = 200  # times in a phase
HORIZON = 0.1  # lambda is set to be on the line this share of the phase ahead
MAX_GRADIENT = 1.0


@dataclass
class Steps:
    """The training steps of one phase, after those done: optimizer, learning rate, losses, control of lambda."""

    encoder: Encoder
    train: Encoded
    config: PruneConfig
    phase: str  # dense, penalty, retrain-2x ...
    number: int  # of the phase in the run: what is drawn hangs on it
    count: int
    spent: Spent
    method: Method | None = None  # under the penalty
    mask: BlockMask | None = None  # in retraining: what it cuts gets no gradient
    quantization: Quantization | None = None  # where weights or activations are trained to be in few bits
    done: int = 0
    placed: Placement = ALONE

    def __post_init__(self):
        decayed = [p for p in self.encoder.trainable().values() if p.ndim > 1]
        others = [p for p in self.encoder.trainable().values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.config.weight_decay},
                  {"params": others, "weight_decay": 0.0}] + (self.quantization.group if self.quantization else [])
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        self.device = devices.of(self.encoder.model)
        self._spans, self._kept = devices.Spans(self.device), None

    @property
    def kind(self) -> str:
        """dense, penalty, retrain"""
        return kind_of(self.phase)

    def batches(self) -> Iterator[np.ndarray]:
        """The training sentences of every step that is left, in turn."""
        return _batches(self.train.lengths, self.config, self.number, self.done, self.count)

    def step_(self, rows: np.ndarray, teacher: Teacher | None) -> float:
        """One step on these training sentences; the task's loss. Raises InputError where that is no number any more."""
        start = time.perf_counter()
        loss = self._step_(rows, teacher)
        self.spent.method_seconds += self._spans.taken()
        seconds = time.perf_counter() - start
        self.spent.step_seconds += seconds
        self.spent.penalty_seconds += seconds * (self.kind == "penalty")
        self.spent.steps += 1
        if not np.isfinite(loss):
            raise InputError(f"training diverged: loss {loss} at step {self.done} of {self.phase}; needed: "
                             f"a smaller {self.kind}_lr")
        return loss

    def _step_(self, rows: np.ndarray, teacher: Teacher | None) -> float:
        lr = self._lr(self.done)
        # All randomness of a step comes from where it stands, so a resumed run needs no generator state.
        seed = np.random.SeedSequence([self.config.seed, self.number, self.done]).generate_state(1, np.uint64)
        torch.manual_seed((int(seed[0]) >> 1) + self.placed.rank)  # each process drops out other units
        mixed_precision = devices.autocast(self.device, self.config.precision)
        if self.quantization:
            self.quantization.before_(self.done, self.optimizer)
        with mixed_precision, _plain_attention(self.encoder.model, self.device), self.rounding(learning=True):
            loss, whole = self._losses(teacher, rows)
        whole.backward()
        gradients = [one.grad for one in self.encoder.trainable().values() if one.grad is not None]
        loss = self.placed.sum_(gradients, loss)
        if self.quantization:
            self.quantization.after_()
        if self.method:
            self._timed(self._control_)
            self._timed(self.method.before_step_)
        if self.mask:
            grads = {name: weight.grad for name, weight in self.encoder.weights.items()}
            self._kept = self._kept or dev_score.kept_groups(grads, self.mask)
            dev_score.scale_groups_(grads, self._kept, self.mask)
        nn.utils.clip_grad_norm_(self.encoder.trainable().values(), MAX_GRADIENT)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)
        self.optimizer.step()
        if self.quantization:
            self.quantization.stepped_()
        self.optimizer.zero_grad()
        self.done += 1
        if self.method:
            self._timed(self.method.after_step_, lr)
        return float(loss.detach())  # waits for all that was asked of a GPU

    def _losses(self, teacher: Teacher | None, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(the task's loss, what is minimised: that mixed with the distance to the teacher), of this batch.

        In one of several processes its share of both: means over its rows, times the part of all rows that they are.
        """
        config, model, (mine, part) = self.config, self.encoder.model, self.placed.share_of(rows)
        inputs, labels = self.train.batch(mine, self.device)
        out = model(**inputs, labels=labels, output_hidden_states=bool(teacher and config.distill_hidden))
        if teacher is None:
            return part * out.loss, part * out.loss
        whole = (1 - config.distill) * out.loss + config.distill * teacher.loss(out.logits, teacher.at(mine))
        whole = part * whole
        if config.distill_hidden:
            distance = hidden_loss(out.hidden_states, teacher.hidden(inputs), inputs["attention_mask"])
            whole = whole + config.distill_hidden * self._part_of_tokens(mine, rows, part) * distance
        if config.mixkd:
            share = float(np.random.default_rng([config.seed, self.number, self.done]).beta(MIX, MIX))
            own, others = self._pairs(inputs, rows)
            there = teacher.model(**mixed(teacher.model, own, share, others)).logits.float()
            whole = whole + part * teacher.loss(model(**mixed(model, own, share, others)).logits, there)
        return part * out.loss, whole

    def _part_of_tokens(self, mine: np.ndarray, rows: np.ndarray, part: float) -> float:
        """What part of a batch's tokens these rows have, whose part of the rows is `part`."""
        if part in (0.0, 1.0):
            return part
        tokens = [sum(len(self.train.inputs["input_ids"][at]) for at in some) for some in (mine, rows)]
        return tokens[0] / tokens[1]

    def _pairs(self, inputs: Mapping[str, torch.Tensor], rows: np.ndarray) -> tuple[Mapping, Mapping | None]:
        """(this process's sentences, of each its neighbour in the whole batch), equally long; None in one alone."""
        if self.placed.count == 1:
            return inputs, None
        mine, before = (self.placed.share_of(some)[0] for some in (rows, np.roll(rows, 1)))
        both, _ = self.train.batch(np.concatenate([mine, before]), self.device)
        return ({name: one[: len(mine)] for name, one in both.items()},
                {name: one[len(mine) :] for name, one in both.items()})

    def rounding(self, learning: bool = False) -> AbstractContextManager[None]:
        """Inside, the model runs with its activations and embeddings rounded, where they are."""
        return self.quantization.running(learning) if self.quantization else contextlib.nullcontext()

    def residuals(self) -> dict[str, float] | None:
        """How far ADMM's weights are from its constraint, and how far that moved; None where there is no ADMM."""
        return getattr(self.method, "residuals", None) or (self.quantization and self.quantization.residuals()) or None

    def _timed(self, part: Callable, *arguments) -> None:
        """Time what the method adds to a step."""
        with self._spans.part():
            part(*arguments)

    def _lr(self, step: int) -> float:
        """Warm-up, then linear decay to zero; constant under the penalty, whose last steps matter like the first."""
        warm = max(1, round(self.config.warmup * self.count))
        peak = getattr(self.config, f"{self.kind}_lr")
        if step < warm:
            return peak * (step + 1) / warm
        return peak if self.kind == "penalty" else peak * (self.count - step) / max(1, self.count - warm)

    def _control_(self) -> None:
        """Set lambda anew CONTROLS times in the phase, or as the method has it, aiming at the line HORIZON ahead."""
        controls = getattr(self.method, "rounds", CONTROLS)
        if self.config.lam is not None or self.done % max(1, self.count // controls):
            return
        ahead = max(1, round(HORIZON * self.count))
        share = self.method.share(min(1.0, (self.done + ahead) / (RAMP * self.count)))
        wanted = sparsity_of(max(self.config.compressions)) * share
        self.method.control_(wanted, sum(self._lr(self.done + i) for i in range(ahead)))

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold beside the weights: the optimizer's moments, and what the method says."""
        names = {p: name for name, p in self._named().items()}
        moments = {f"adam.{slot}.{names[p]}": value for p, slots in self.optimizer.state.items()
                   for slot, value in slots.items()}
        moments |= self.quantization.tensors() if self.quantization else {}
        return moments | (self.method.tensors() if self.method else {})

    def _named(self) -> dict[str, nn.Parameter]:
        """All that the optimizer changes."""
        return self.encoder.trainable() | (self.quantization.learned if self.quantization else {})

    def restore_(self, tensors: Mapping[str, torch.Tensor], lam: Mapping[str, float], done: int) -> None:
        """Continue after so many steps, from `tensors` and the method's lambda."""
        self.done, tensors = done, devices.moved(tensors, self.device)
        slots = {key.split(".", 2)[1] for key in tensors if key.startswith("adam.")}
        for name, parameter in self._named().items():
            self.optimizer.state[parameter] = {slot: tensors[f"adam.{slot}.{name}"].clone() for slot in slots}
        if self.quantization:
            self.quantization.restore_(tensors)
        if self.method:
            self.method.restore_(tensors, lam)


def _batches(lengths: np.ndarray, config: PruneConfig, number: int, start: int, stop: int) -> Iterator[np.ndarray]:
    """The training sentences of these steps of a phase, drawn by the seed and the phase's number."""
    return itertools.islice(encoding.training_batches(lengths, config.batch_size, (config.seed, number)), start, stop)


def taught_rows(plan: Schedule, lengths: np.ndarray, config: PruneConfig, placed: Placement = ALONE) -> np.ndarray:
    """The training examples that come up after the dense phase, in this process, ascending."""
    rows = [np.empty(0, int)]
    for number, (_, count) in enumerate(plan.phases):
        if number:
            rows += [placed.share_of(batch)[0] for batch in _batches(lengths, config, number, 0, count)]
    return np.unique(np.concatenate(rows))


def zero_share(norms: Mapping[str, torch.Tensor], layout: Layout) -> float:
    """Share of the prunable weights that lie in groups of norm exactly 0; one number for each matrix is fetched."""
    kept = torch.stack([(norms[matrix.name] > 0).sum() for matrix in layout.matrices]).tolist()
    weights = sum(count * layout.group_size(m) for count, m in zip(kept, layout.matrices, strict=True))
    return 1.0 - weights / layout.encoder_weights


def faster_precision(tries: int = 5, device: torch.device = CPU) -> str:
    """'bf16' if this device multiplies bf16 at least 1.2 times as fast as fp32, else 'fp32'. Takes about 50 ms."""
    def milliseconds(dtype: torch.dtype) -> float:
        a, b = (torch.ones(rows, 512, dtype=dtype, device=device) for rows in (1024, 512))
        return float(np.median([devices.milliseconds(device, lambda: a @ b) for _ in range(tries + 2)][2:]))

    if not devices.has_bf16(device):
        return "fp32"
    return "bf16" if milliseconds(torch.float32) > 1.2 * milliseconds(torch.bfloat16) else "fp32"


@contextlib.contextmanager
def _plain_attention(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Attention written out, not torch's fused one, whose backward is slow on processors; on CUDA as it is.

    A step of MiniLM takes 0.44 s instead of 0.70 without dropout, 0.59 instead of 0.65 with it (MRPC, bf16, two
    threads); forward alone the fused one is the faster.
    """
    if device.type == "cuda":
        yield
        return
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
