"""The training loop: dense, penalty, threshold, masked retraining. It yields what happens and never prints.

    pruning = Pruning(encoder, data, config)
    for event in pruning:          # Snapshot after every step, Working during evaluations
        recorder.append(event)     # pruning.state() is a checkpoint, valid whenever a Snapshot has come

One penalty phase serves all compressions: the controlled lambda drives the share of zero groups up in
a straight line to the largest compression, and as it passes each smaller one the weights are kept
there (saved as penalty-1.5x, penalty-2x, ...); retraining starts from those.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.answers import GRID, SurfacePoint
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask, mask_at_sparsity, sparsity_of, zero_share
from prune_core.evaluation import dev_score
from prune_core.methods import repair
from prune_core.methods.method import Method
from prune_core.methods.rankings import RANKINGS, SENTENCES
from prune_core.methods.repair import Gram
from prune_core.methods.table import METHODS
from prune_core.models.encoders import Encoder
from prune_core.models.teacher import MIX, Teacher, hidden_loss, mixed
from prune_core.runs.config import PruneConfig
from prune_core.runs.schedule import plan, saved_name
from prune_core.runs.snapshots import Snapshot, Working
from prune_core.tasks import encoding, metrics
from prune_core.tasks.encoding import Encoded
from prune_core.training.data import EncodedTask

RAMP = 0.9  # share of the penalty phase in which the wanted sparsity rises; the rest settles
HORIZON = 0.1  # lambda is set to be on the line this share of the phase ahead
MAX_GRADIENT = 1.0
WEIGHED = 1024  # training sentences whose inputs are weighed


def faster_precision(tries: int = 5) -> str:
    """'bf16' if this machine multiplies bf16 at least 1.2 times as fast as fp32, else 'fp32'. Takes about 50 ms."""
    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(tries + 2):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        return float(np.median(times[2:]))

    return "bf16" if seconds(torch.float32) > 1.2 * seconds(torch.bfloat16) else "fp32"


@contextlib.contextmanager
def _plain_attention(model: nn.Module) -> Iterator[None]:
    """Attention written out: a step of MiniLM takes 0.44 s instead of 0.70 without dropout, 0.59 instead of 0.65 with it, than with torch's
    own fused one, whose backward is slow on processors (MRPC, bf16, two threads; forward alone the fused one is the faster)."""
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


class Pruning:
    """A run of the whole method on one encoder and one task, from wherever `restore_` puts it to its end."""

    def __init__(self, encoder: Encoder, data: EncodedTask, config: PruneConfig,
                 saved: Callable[[str], Mapping[str, torch.Tensor]] | None = None):
        """`saved` gives back the weights of an earlier Snapshot by name; without it they stay in memory."""
        self.encoder, self.data, self.config = encoder, data, config
        self.layout = encoder.layout(BlockShape.parse(config.block))
        self.plan = plan(config, len(data.train), float(data.train.lengths.mean()), self.layout.encoder_weights)
        self.phase_index, self.step = 0, 0
        self.crossed: list[float] = []  # compressions whose weights the penalty phase has kept
        self.at_rest = True  # whether `state` may be asked for: not between the snapshots of one step
        self.spent = dict.fromkeys(("steps", "step_seconds", "penalty_seconds", "method_seconds", "evals", "eval_seconds"), 0.0)
        self.method: Method | None = None
        self.teacher: Teacher | None = None
        self.mask: BlockMask | None = None
        self._kept: dict[str, Mapping[str, torch.Tensor]] | None = None if saved else {}
        self._saved = saved or (lambda name: self._kept[name])
        self._begun = False
        torch.set_num_threads(config.threads)

    # ------------------------------------------------------------ the flow, in the paper's order

    def __iter__(self) -> Iterator[Snapshot | Working]:
        while self.phase_index < len(self.plan.phases):
            if not self._begun:
                self._begin_()
            yield from {"dense": self._dense, "penalty": self._penalty}.get(self.phase, self._retrain)()

    def _dense(self) -> Iterator[Snapshot | Working]:
        """Fine-tune as it is; nothing to do, but to score it, where the encoder came fine-tuned."""
        if not self.plan.dense:
            yield from self._end("dense", 0.0)
            return
        if self.step == 0:
            yield Snapshot("dense", 0, norms=self._norms())
        for loss, last in self._steps():
            if last:
                yield from self._end("dense", 0.0, loss=loss)
            else:
                self.at_rest = True
                moment = self.step in self._moments(4)
                yield Snapshot("dense", self.step, loss, norms=self._norms() if moment else None, **self._quick_scores(moment))

    def _penalty(self) -> Iterator[Snapshot | Working]:
        """Train under the penalty, lambda controlled or given; keep the weights at every compression passed."""
        yield from self._teach()
        if not self.plan.penalty:
            yield from self._cut_in_closed_form()
            return
        moments, milestones = self._moments(self.config.moments), self._milestones()
        for loss, last in self._steps():
            milestone = self.step in milestones
            if milestone:
                self.method.refresh_()
            now = {"loss": loss, "penalty": self.method.penalty(), "milestone": milestone,
                   "lam": float(np.mean(list(self.method.lam.values()))), "zero_share": self._zero_share()}
            for compression in self._just_crossed(now["zero_share"], last):
                yield from self._cross(compression)
            if last or milestone or self.step in moments:
                now |= {"norms": self._norms()} | self._quick_scores(True)
            snapshot = Snapshot("penalty", self.step, **now)
            if last:
                self._next_phase_()
            self.at_rest = True
            yield snapshot

    def _cut_in_closed_form(self) -> Iterator[Snapshot | Working]:
        """A method without steps: every compression is cut from the dense weights and repaired, at once."""
        self.at_rest = False
        yield Working(self.phase, "ranking the blocks", 0, 1)
        dense = {name: p.detach().clone() for name, p in self.encoder.trainable().items()}
        build, settings = METHODS[self.config.method].build, self.config.of_method
        cutting = build(self.encoder, self.layout, self.config.scope, *self._weighed(), **settings)
        for compression in self.config.compressions:
            self._load_(dense)
            cutting.cut_(sparsity_of(compression))
            end = self._end if compression == self.config.compressions[-1] else self._keep
            yield from end(saved_name("penalty", compression), sparsity_of(compression))

    def _retrain(self) -> Iterator[Snapshot | Working]:
        """Masked retraining: cut groups stay exactly zero, no penalty."""
        phase = self.phase
        yield from self._teach()
        for loss, last in self._steps():
            if last:
                yield from self._end(phase, 0.0, loss=loss)
            else:
                self.at_rest = True
                yield Snapshot(phase, self.step, loss)

    def _teach(self) -> Iterator[Working]:
        """Have the dense model as a teacher, once: its outputs on the training set."""
        weighs = self.method is not None and RANKINGS[self.config.ranking].build is not None
        if self.teacher is None and self.config.taught:
            self.teacher = Teacher(self.encoder.model, self._saved("dense"), self.encoder.trainable(), self.config.temperature)
            for done, total in self.teacher.prepare(self.data.train, self._taught_rows(), self.config.precision == "bf16"):
                yield Working(self.phase, "asking the dense model", done, total)
        if weighs:
            yield Working(self.phase, "weighing the inputs", 0, 1)
            self.method.weigh_(self._importance(), fresh=self.step == 0)

    def _taught_rows(self) -> np.ndarray:
        """The training examples that come up in the penalty phase and after, ascending."""
        rows = [np.empty(0, int)]
        for index, (_, steps) in enumerate(self.plan.phases):
            if index:
                batches = encoding.training_batches(self.data.train.lengths, self.config.batch_size, (self.config.seed, index))
                rows += itertools.islice(batches, steps)
        return np.unique(np.concatenate(rows))

    def _weighed(self) -> tuple[dict[str, Gram], Encoded, np.ndarray]:
        """(Gram matrices of the model as it is, the training set, the examples of it that they were taken from)."""
        some = np.random.default_rng(self.config.seed).permutation(len(self.data.train))[:WEIGHED]
        batches = [some[at] for at in encoding.dev_batches(self.data.train.lengths[some], 64)]
        grams = repair.collect(self.encoder.model, self.encoder.linears, (self.data.train.batch(at)[0] for at in batches))
        return grams, self.data.train, some

    def _importance(self) -> dict[str, torch.Tensor]:
        """Matrix name -> (groups down, groups across): what a group's norm counts, seen on the dense model, mean 1."""
        now = {name: p.detach().clone() for name, p in self.encoder.trainable().items()}
        self._load_(self._saved("dense"))
        grams, data, some = self._weighed()
        ranking = RANKINGS[self.config.ranking].build(grams, data, some[:SENTENCES])
        found = ranking.factors(self.encoder, self.layout)
        self._load_(now)
        mean = float(torch.cat([one.flatten() for one in found.values()]).mean())
        return {name: one / mean for name, one in found.items()}

    # ------------------------------------------------------------ one step

    def _steps(self) -> Iterator[tuple[float, bool]]:
        """Train to the end of the phase; (loss, whether it was the last step) after each step."""
        phase, steps = self.plan.phases[self.phase_index]
        batches = encoding.training_batches(self.data.train.lengths, self.config.batch_size, (self.config.seed, self.phase_index))
        for at in itertools.islice(batches, self.step, steps):
            self.at_rest = False
            start = time.perf_counter()
            loss = self._step_(at)
            self.spent["step_seconds"] += time.perf_counter() - start
            self.spent["penalty_seconds"] += (time.perf_counter() - start) * (phase == "penalty")
            self.spent["steps"] += 1
            if not np.isfinite(loss):
                raise InputError(f"training diverged: loss {loss} at step {self.step} of {phase}; needed: a smaller {phase.split('-')[0]}_lr")
            yield loss, self.step == steps

    def _step_(self, at: np.ndarray) -> float:
        """One batch: forward, backward, gradient of the method, optimizer, proximal step. Returns the task loss."""
        lr = self._lr(self.step)
        # All randomness of a step comes from where it stands, so a resumed run needs no generator state.
        seed = np.random.SeedSequence([self.config.seed, self.phase_index, self.step]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]) >> 1)
        inputs, labels = self.data.train.batch(at)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"), _plain_attention(self.encoder.model):
            loss, whole = self._losses(inputs, labels, at)
        whole.backward()
        if self.method:
            self._timed(self._control_)
            self._timed(self.method.before_step_)
        if self.mask:
            dev_score.apply_mask_({name: w.grad for name, w in self.encoder.weights.items()}, self.mask)
        nn.utils.clip_grad_norm_(self.encoder.trainable().values(), MAX_GRADIENT)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.method:
            self._timed(self.method.after_step_, lr)
        return float(loss.detach())

    def _losses(self, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, at: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(the task's loss, what is minimised: that mixed with the distance to the teacher)."""
        config, teacher, model = self.config, self.teacher, self.encoder.model
        out = model(**inputs, labels=labels, output_hidden_states=bool(teacher and config.distill_hidden))
        if teacher is None:
            return out.loss, out.loss
        whole = (1 - config.distill) * out.loss + config.distill * teacher.loss(out.logits, teacher.at(at))
        if config.distill_hidden:
            whole = whole + config.distill_hidden * hidden_loss(out.hidden_states, teacher.hidden(inputs), inputs["attention_mask"])
        if config.mixkd:
            share = float(np.random.default_rng([config.seed, self.phase_index, self.step]).beta(MIX, MIX))
            there = teacher.model(**mixed(teacher.model, inputs, share)).logits.float()
            whole = whole + teacher.loss(model(**mixed(model, inputs, share)).logits, there)
        return out.loss, whole

    def _timed(self, part: Callable, *arguments) -> None:
        """Time what the method adds to a step, for `penalty_share`."""
        start = time.perf_counter()
        part(*arguments)
        self.spent["method_seconds"] += time.perf_counter() - start

    def _lr(self, step: int) -> float:
        """Warm-up, then linear decay to zero; constant under the penalty, whose last steps matter as much as its first."""
        steps, kind = self.plan.phases[self.phase_index][1], self.phase.split("-")[0]
        warm = max(1, round(self.config.warmup * steps))
        peak = getattr(self.config, f"{kind}_lr")
        if step < warm:
            return peak * (step + 1) / warm
        return peak if kind == "penalty" else peak * (steps - step) / max(1, steps - warm)

    def _control_(self) -> None:
        """Set lambda anew about 200 times in the phase, aiming at the line HORIZON ahead."""
        steps = self.plan.penalty
        if self.config.lam is not None or self.step % max(1, steps // 200):
            return
        ahead = max(1, round(HORIZON * steps))
        wanted = sparsity_of(max(self.config.compressions)) * self.method.share(min(1.0, (self.step + ahead) / (RAMP * steps)))
        self.method.control_(wanted, sum(self._lr(self.step + i) for i in range(ahead)))

    # ------------------------------------------------------------ when

    def _moments(self, count: int) -> set[int]:
        """Steps of this phase at which norms or a score are taken in between, evenly spread."""
        steps = self.plan.phases[self.phase_index][1]
        return {round(steps * (i + 1) / count) for i in range(count)}

    def _milestones(self) -> set[int]:
        """Steps after which gamma is refreshed: evenly inside the phase, as epochs 4, 8, 12, 16 of 20 in the paper."""
        count = self.config.milestones
        return {round(self.plan.penalty * (i + 1) / (count + 1)) for i in range(count)} - {self.plan.penalty, 0}

    def _just_crossed(self, zeros: float, last: bool) -> list[float]:
        """Compressions whose sparsity the zero groups have just reached; at the last step all that are left."""
        left = [c for c in self.config.compressions if c not in self.crossed]
        return [c for c in left if last or zeros >= sparsity_of(c)]

    # ------------------------------------------------------------ phases: begin, cross, end

    @property
    def phase(self) -> str:
        """dense, penalty, retrain-2x ...: where it stands."""
        return self.plan.phases[self.phase_index][0]

    def _begin_(self) -> None:
        """Set up the phase at `phase_index`: optimizer, method, mask."""
        decayed = [p for p in self.encoder.trainable().values() if p.ndim > 1]
        others = [p for p in self.encoder.trainable().values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        self.method = self.mask = None
        self.encoder.model.train(self.phase == "dense" or self.config.dropout)
        if self.phase == "penalty":
            row, weights = METHODS[self.config.method], self.encoder.weights
            self.method = None if row.closed_form else row.build(weights, self.layout, self.config.scope, **self.config.of_method)
        elif self.phase != "dense":
            compression = self.plan.compressions[self.phase_index - 2]
            self._load_(self._saved(saved_name("penalty", compression)))
            self.mask = self._mask(sparsity_of(compression))
            dev_score.apply_mask_(self.encoder.weights, self.mask)
        self._begun = True

    def _next_phase_(self) -> None:
        """The next phase begins when the consumer has taken the last snapshot of this one: it may need its weights."""
        self.phase_index, self.step, self._begun = self.phase_index + 1, 0, False

    def _cross(self, compression: float) -> Iterator[Snapshot | Working]:
        """Keep and score the weights at a compression, cut but not retrained; then train on as if nothing was."""
        exact = {name: p.detach().clone() for name, p in self.encoder.trainable().items()}
        self.crossed.append(compression)
        self.method.harden_()
        yield from self._keep(saved_name("penalty", compression), sparsity_of(compression))
        self._load_(exact)

    def _end(self, name: str, sparsity: float, **now) -> Iterator[Snapshot | Working]:
        """The end of a phase: keep and score what has come out."""
        for event in self._keep(name, sparsity, **now):
            if isinstance(event, Snapshot):
                self._next_phase_()
                self.at_rest = True
            yield event

    def _keep(self, name: str, sparsity: float, **now) -> Iterator[Snapshot | Working]:
        """Round what was trained to bf16, in which it is kept, and score exactly that, cut at `sparsity`."""
        phase, step = self.phase, self.step
        rounded = {n: p.detach().to(torch.bfloat16) for n, p in self.encoder.trainable().items()}
        self._load_(rounded)
        if self._kept is not None:
            self._kept[name] = rounded
        norms, mask = self._norms(), self._mask(sparsity)
        surface = yield from self._surface(name, norms)
        yield Working(name, "scoring", len(GRID), len(GRID))
        start = time.perf_counter()
        with dev_score.masked(self.encoder.weights, mask):
            found = dev_score.dev_score(self.encoder.model, self.data.task, self.data.dev)
        self._evaluated_(start)
        point = {key: getattr(mask, key) for key in ("sparsity", "compression_encoder", "compression_model")}
        yield Snapshot(phase, step, saved=name, point=point, norms=norms, scores=found.scores, examples=found.examples,
                       surface=surface, surface_examples=len(self.data.surface), weights=lambda: rounded, **now)

    # ------------------------------------------------------------ scores

    def _surface(self, name: str, norms: Mapping[str, np.ndarray]) -> Iterator[Working]:
        """Dev score with the mask at every sparsity of the grid; equal masks are scored once. Returns SurfacePoints."""
        points: list[SurfacePoint] = []
        known: dict[str, tuple[float, float, float]] = {}
        for done, wanted in enumerate(GRID):
            yield Working(name, "scoring the surface", done, len(GRID))
            mask = mask_at_sparsity(norms, self.layout, wanted, self.config.scope)
            if (key := mask.digest()) not in known:
                with dev_score.masked(self.encoder.weights, mask):
                    known[key] = self._surface_score()
            points.append(SurfacePoint(wanted, mask.sparsity, *known[key]))
        return points

    def _surface_score(self) -> tuple[float, float, float]:
        """(headline score, low, high) on the surface's examples, of the model as it is."""
        start = time.perf_counter()
        found = dev_score.outputs(self.encoder.model, self.data.surface)
        task, labels = self.data.task, self.data.surface.labels
        result = metrics.score(task, found, labels)[task.metrics[0]], *metrics.interval(task, found, labels)
        self._evaluated_(start)
        return result

    def _quick_scores(self, wanted: bool) -> dict:
        """The headline score of the model as it is, on the surface's examples, for a Snapshot in between."""
        if not wanted:
            return {}
        return {"scores": {self.data.task.metric: self._surface_score()[0]}, "examples": len(self.data.surface)}

    def _evaluated_(self, start: float) -> None:
        self.spent["evals"] += 1
        self.spent["eval_seconds"] += time.perf_counter() - start

    def _norms(self) -> dict[str, np.ndarray]:
        """Matrix name -> (groups down, groups across) float32, of the weights as they are."""
        with torch.no_grad():
            return {name: self.layout.block.norms(w).numpy() for name, w in self.encoder.weights.items()}

    def _zero_share(self) -> float:
        return zero_share({name: norms.numpy() for name, norms in self.method.norms.items()}, self.layout)

    def _mask(self, sparsity: float) -> BlockMask:
        return mask_at_sparsity(self._norms(), self.layout, sparsity, self.config.scope)

    # ------------------------------------------------------------ how far, how long

    @property
    def steps_done(self) -> int:
        """Training steps done, over all phases."""
        return sum(steps for _, steps in self.plan.phases[: self.phase_index]) + self.step

    def seconds_left(self) -> float | None:
        """Expected seconds to the end, from what steps and evaluations took so far; None before the first steps."""
        if self.spent["steps"] < 3:
            return None
        per_step = self.spent["step_seconds"] / self.spent["steps"]
        per_eval = self.spent["eval_seconds"] / self.spent["evals"] if self.spent["evals"] else 2 * per_step
        evals = max(0.0, self._evals_in_all() - self.spent["evals"])
        return per_step * (self.plan.steps - self.steps_done) + per_eval * evals

    def _evals_in_all(self) -> int:
        """Evaluations of the whole run: surfaces without equal masks, scores at the ends and in between."""
        per_cut = [1 + len([s for s in GRID if s > sparsity_of(c)]) for c in self.config.compressions]
        ends = len(GRID) + 1 + 2 * sum(1 + count for count in per_cut)
        return ends + 3 + self.config.moments + self.config.milestones

    # ------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, torch.Tensor], dict]:
        """(tensors, numbers) from which `restore_` goes on bit for bit. Only while `at_rest`."""
        if not self.at_rest:
            raise RuntimeError("state() between the snapshots of one step would lose some of them")
        tensors = {f"weight.{name}": p.detach() for name, p in self.encoder.trainable().items()}
        if self._begun and self.step:
            names = {p: name for name, p in self.encoder.trainable().items()}
            for parameter, slots in self.optimizer.state.items():
                tensors |= {f"adam.{slot}.{names[parameter]}": value for slot, value in slots.items()}
            tensors |= self.method.tensors() if self.method else {}
        numbers = {"phase_index": self.phase_index, "step": self.step, "crossed": self.crossed, "spent": self.spent,
                   "lam": self.method.lam if self.method else {}}
        return tensors, numbers

    def restore_(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping) -> None:
        """Continue from a `state`."""
        self.phase_index, self.step = numbers["phase_index"], numbers["step"]
        self.crossed, self.spent = list(numbers["crossed"]), dict(numbers["spent"])
        weights = {name: tensors[f"weight.{name}"] for name in self.encoder.trainable()}
        if self.phase_index >= len(self.plan.phases):
            return
        if self.step == 0:  # between two phases: it begins as always
            self._load_(weights)
            return
        self._begin_()
        self._load_(weights)
        slots = {key.split(".", 2)[1] for key in tensors if key.startswith("adam.")}
        for name, parameter in self.encoder.trainable().items():
            self.optimizer.state[parameter] = {slot: tensors[f"adam.{slot}.{name}"].clone() for slot in slots}
        if self.method:
            self.method.restore_(tensors, numbers["lam"])

    @torch.no_grad()
    def _load_(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.encoder.trainable().items():
            parameter.copy_(tensors[name])
