"""The weights of one stage of a run with its dev set, loaded once, and exact scores of any number of cuts of them."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import files
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.arithmetic import Answers
from prune_core.evaluation.dev_score import DevScore, Running, outputs, stream
from prune_core.evaluation.weights import encoder_of
from prune_core.execution import paths
from prune_core.execution.paths import Choice
from prune_core.execution.whole import small_model
from prune_core.methods import repair
from prune_core.methods.repair import DAMP, Gram
from prune_core.models.encoders import Encoder
from prune_core.runs import known
from prune_core.runs.data import data_of
from prune_core.runs.run import Run
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded

GRAM_SENTENCES = 1024  # of the training set, behind a repair
KEPT_ANSWERS = 8  # masks of which a bench keeps what the head gave, to compare arithmetics
Doing = Callable[[str, int, int], None]  # gets what comes before a score, and how much of how much is done


def quiet(what: str, done: int, total: int) -> None:
    """Nobody watches."""


class Bench:
    """The weights of one stage of a run and its dev set, loaded once: scores any number of masks, each only once ever.

    Scores are kept on the disk under what determines them: all weights, the mask, the encoded data and, where it is
    not fp32, the path of the arithmetic (paths.py): another path gives other bits.
    """

    def __init__(self, run: Run, stage: str, source: str | None = None):
        """Reads the weights and the data (from `source`, else from where the run had it). Raises InputError."""
        run.weights_file(stage)  # before the data is asked for: the nearer reason first
        data = data_of(run, source).limited(None, run.config.dev_examples)
        self.run, self.stage, self.task, self.examples = run, stage, data.task, data.main_dev
        self._known = {repaired: known.key(run, stage, source, repaired) for repaired in (False, True)}
        self.encoder = encoder_of(run, stage, data.task.outputs)
        length = self.encoder.max_length(run.config.max_length)
        self.dev = {split: encoding.encode(examples, self.encoder.tokenizer, length)
                    for split, examples in data.dev.items()}
        self._sentences, self._length = data.train.some(GRAM_SENTENCES), length
        self._folder = run.later if run.recorded else run.later / "scores"
        self._key = _digest(self.encoder, self.dev)
        self._grams: dict[str, Gram] | None = None
        self._choices: dict[tuple[str, str | None], Choice] = {}
        self._answers: OrderedDict[tuple[str, bool, str], Answers] = OrderedDict()

    def choice(self, dtype: str = "fp32", path: str | None = None) -> Choice:
        """What runs where this arithmetic is asked for, as the last such model of these weights took it, else as this
        machine would. Raises InputError."""
        return self._choices.get((dtype, path)) or paths.choose(dtype, path)

    def stream(self, mask: BlockMask, fresh: bool = False, repaired: bool = False, doing: Doing = quiet,
               dtype: str = "fp32", path: str | None = None) -> Iterator[Running]:
        """The dev score under `mask` in the arithmetic `dtype`, as it comes in: the compact model, sentences end to
        end.

        At once if it is known. `repaired`: what is kept is first moved to make up for what is cut (repair.py), which
        `doing` is told of and may raise to stop. `path` forces kernels. Raises InputError.
        """
        choice = self.choice(dtype, path)
        if not fresh and (kept := _read_score(self._file(mask, repaired, choice))):
            self._tell(mask, repaired, choice, kept)
            yield Running(kept.examples, kept.examples, kept.scores[self.task.metric], kept.low, kept.high, kept)
            return
        small = self._small(mask, repaired, doing, dtype, path)
        for running in stream(small, self.task, self.dev):
            if running.final:  # kept as what really ran, whatever was expected
                self.keep(mask, repaired, small.choice, running.final)
                self._answers[mask.digest(), repaired, known.kernels(small.choice.path)] = running.answers
                while len(self._answers) > KEPT_ANSWERS:
                    self._answers.popitem(last=False)
            yield running

    def answers(self, mask: BlockMask, repaired: bool, choice: Choice) -> Answers | None:
        """What the head gave for every dev example; None where this was not asked among the last KEPT_ANSWERS."""
        return self._answers.get((mask.digest(), repaired, known.kernels(choice.path)))

    def keep(self, mask: BlockMask, repaired: bool, choice: Choice, score: DevScore) -> None:
        """For whoever asks again, here or elsewhere; where nothing can be written it is computed again."""
        with contextlib.suppress(OSError):
            files.write_json(self._file(mask, repaired, choice), _to_json(score))
        self._tell(mask, repaired, choice, score)

    def _file(self, mask: BlockMask, repaired: bool, choice: Choice) -> Path:
        """Where a score is kept."""
        kernels = known.kernels(choice.path)
        path = "" if kernels == "fp32" else f"-{kernels.replace(' ', '-')}"
        return self._folder / f"{self._key}-{mask.digest()}{self._repair_key if repaired else ''}{path}.json"

    def _tell(self, mask: BlockMask, repaired: bool, choice: Choice, score: DevScore) -> None:
        """So that it is found without a model next time."""
        known.keep(self.run, self._known[repaired], mask, repaired,
                   asdict(score) | {"score": score.scores[self.task.metric]}, choice.path)

    def outputs(self, mask: BlockMask, repaired: bool = False, dtype: str = "fp32") -> np.ndarray:
        """(examples, outputs) of the head on the main dev split under `mask`, in the arithmetic `dtype`."""
        return outputs(self._small(mask, repaired, dtype=dtype), self.dev[self.task.dev[0]])

    def _small(self, mask: BlockMask, repaired: bool, doing: Doing = quiet, dtype: str = "fp32",
               path: str | None = None) -> nn.Module:
        """The model that executes only what `mask` keeps, in this arithmetic, made on one thread.

        That is thousands of short operations: MiniLM takes 0.1 s so, and 1 to 8 s where two threads wait for each
        other at every one of them on cores that are busy (Xeon, 2 cores).
        """
        model, threads = self.repaired(mask, doing) if repaired else self.encoder.model, torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            small = small_model(model, mask, dtype, path)
        finally:
            torch.set_num_threads(threads)
        self._choices[dtype, path] = small.choice
        return small

    @cached_property
    def train(self) -> Encoded:
        """The training sentences behind a repair; encoded when one is asked for."""
        return encoding.encode(self._sentences, self.encoder.tokenizer, self._length)

    @cached_property
    def _repair_key(self) -> str:
        """What a repair depends on beside weights and mask: the sentences that were weighed, and the damping."""
        sha = hashlib.sha256(repr((self.train.inputs, DAMP)).encode())
        return f"-repaired-{sha.hexdigest()[:12]}"

    def repaired(self, mask: BlockMask, doing: Doing = quiet) -> nn.Module:
        """A copy of the model, cut by `mask` and repaired; what repair leaves alone, the embeddings say, it shares."""
        linears, whole = self.encoder.linears.values(), self.encoder.model
        moved = {id(one) for linear in linears for one in linear.parameters(recurse=False)}
        shared = {id(one): one for one in (*whole.parameters(), *whole.buffers()) if id(one) not in moved}
        grams = self.grams(doing)
        model = copy.deepcopy(whole, shared)
        repair.repair_({name: model.get_submodule(name) for name in self.encoder.linears}, mask, grams,
                       report=lambda done, total: doing("repairing", done, total))
        return model

    def grams(self, doing: Doing = quiet, keep: bool = True) -> dict[str, Gram]:
        """Matrix name -> Gram of its inputs over GRAM_SENTENCES training sentences; taken once, `keep`: on the disk.

        `doing` may raise to stop: what is measured by then is not measured again.
        """
        path = self._folder / f"{self._key}{self._repair_key}.safetensors"
        self._grams = self._grams or _read_grams(path, self.encoder.linears)
        if self._grams is None:
            self._measure(doing)
            self._grams = self._collector.grams()
            if keep:
                _keep_grams(path, self._grams)
        return self._grams

    def _measure(self, doing: Doing) -> None:
        """What is left to be measured."""
        total = len(self.train)
        doing("measuring inputs", total - sum(map(len, self._left)), total)
        while self._left:
            try:
                self._collector.add(self.train.batch(self._left.pop())[0])
            except BaseException:  # a part of the batch may be in the sums: all anew
                del self._collector, self._left
                raise
            doing("measuring inputs", total - sum(map(len, self._left)), total)

    @cached_property
    def _left(self) -> list[np.ndarray]:
        """Batches of training sentences that are not measured yet, the next one last."""
        return encoding.dev_batches(self.train.lengths, 64)[::-1]

    @cached_property
    def _collector(self) -> repair.Collector:
        return repair.Collector(self.encoder.model, self.encoder.linears)


def _read_grams(path: Path, names: Collection[str]) -> dict[str, Gram] | None:
    """Grams that were kept; None where there are none, or not all of them can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())  # not mapped: whoever cuts the file short would end this process
        firsts = json.loads(bytes(tensors["firsts"].tolist()))  # matrices with one input share a Gram
        return {name: Gram(tensors[f"products.{firsts[name]}"], tensors[f"total.{firsts[name]}"],
                           int(tensors[f"count.{firsts[name]}"])) for name in names}
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _keep_grams(path: Path, grams: Mapping[str, Gram]) -> None:
    """Keep them; where nothing can be written they are taken again."""
    from safetensors.torch import save

    owners: dict[int, str] = {}
    firsts = {name: owners.setdefault(id(gram), name) for name, gram in grams.items()}
    tensors = {"firsts": torch.tensor(list(json.dumps(firsts).encode()), dtype=torch.uint8)}
    for name in set(firsts.values()):
        tensors |= {f"products.{name}": grams[name].products, f"total.{name}": grams[name].total,
                    f"count.{name}": torch.tensor(grams[name].count)}
    with contextlib.suppress(OSError):
        files.write_whole(path, save(tensors))


def _digest(encoder: Encoder, dev: Mapping[str, Encoded]) -> str:
    """The same text for the same weights (all of the model) and the same encoded dev sets."""
    sha = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        sha.update(name.encode() + memoryview(tensor.contiguous().numpy()).cast("B"))
    for split, data in sorted(dev.items()):
        sha.update(repr((split, data.inputs, data.labels.tolist())).encode())
    return sha.hexdigest()[:24]


def _read_score(path: Path) -> DevScore | None:
    """A score that was kept; None where there is none, or none that can be read."""
    try:
        return DevScore(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _to_json(score: DevScore) -> dict:
    """As it is kept: one in fp32 has nothing that was changed."""
    about = asdict(score)
    if score.changed is None:
        del about["changed"]
    return about
