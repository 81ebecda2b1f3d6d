"""The weights of one stage of a run with its dev set, loaded once, and exact scores of any number of cuts of them."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import files
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.arithmetic import Answers
from prune_core.evaluation.dev_score import DevScore, Running, outputs, stream
from prune_core.evaluation.inputs import Doing, Inputs, quiet
from prune_core.evaluation.weights import Trained, encoder_of, trained_of
from prune_core.execution import paths
from prune_core.execution.paths import Choice
from prune_core.execution.whole import small_model
from prune_core.methods import compress, repair
from prune_core.methods.compress import Compressed
from prune_core.methods.repair import Gram
from prune_core.models.devices import CPU
from prune_core.models.encoders import Encoder
from prune_core.precision.formats import Formats
from prune_core.runs import known
from prune_core.runs.data import data_of
from prune_core.runs.run import Run
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded

GRAM_SENTENCES = 1024  # of the training set, behind a repair
KEPT_ANSWERS = 8  # masks of which a bench keeps what the head gave, to compare arithmetics
FP32 = Formats()


class Bench:
    """The weights of one stage of a run and its dev set, loaded once: scores any number of masks, each only once ever.

    Scores are kept on the disk under what determines them: all weights, the mask, the formats of what stays, the
    encoded data and, where it is not fp32, the path of the arithmetic (paths.py): another path gives other bits.
    """

    def __init__(self, run: Run, stage: str, source: str | None = None, device: torch.device = CPU):
        """Reads the weights, onto this device, and the data (from `source`, else from where the run had it).

        Raises InputError.
        """
        run.weights_file(stage)  # before the data is asked for: the nearer reason first
        data = data_of(run, source).limited(None, run.config.dev_examples)
        self.run, self.stage, self.task, self.examples = run, stage, data.task, data.main_dev
        self._known = {of_train: known.key(run, stage, source, of_train) for of_train in (False, True)}
        self.encoder = encoder_of(run, stage, data.task.outputs)
        length = self.encoder.max_length(run.config.max_length)
        self.dev = {split: encoding.encode(examples, self.encoder.tokenizer, length)
                    for split, examples in data.dev.items()}
        self._folder = run.later if run.recorded else run.later / "scores"
        self._key = _digest(self.encoder, self.dev)
        self.device = device
        self.encoder.model.to(device)
        self.inputs = Inputs(self.encoder, data.train.some(GRAM_SENTENCES), length, self._folder, self._key)
        self._choices: dict[tuple[str, str | None, str], Choice] = {}
        self._answers: OrderedDict[tuple[str, bool, str, str], Answers] = OrderedDict()

    train: Encoded = property(lambda self: self.inputs.train, doc="The training sentences behind a repair.")

    def grams(self, doing: Doing = quiet, keep: bool = True) -> dict[str, Gram]:
        """Matrix name -> Gram of its inputs over GRAM_SENTENCES training sentences, as Inputs has them."""
        return self.inputs.grams(doing, keep)

    def choice(self, dtype: str = "fp32", path: str | None = None, formats: Formats = FP32) -> Choice:
        """What runs where this arithmetic is asked for, as the last model of these weights in these formats took it,
        else as this machine would. Raises InputError."""
        return self._choices.get((dtype, path, str(formats))) or paths.choose(dtype, path, formats, self.device)

    def stream(self, mask: BlockMask, fresh: bool = False, repaired: bool = False, doing: Doing = quiet,
               dtype: str = "fp32", path: str | None = None, formats: Formats = FP32) -> Iterator[Running]:
        """The dev score under `mask` in the arithmetic `dtype`, as it comes in: the compact model, sentences end to
        end.

        At once if it is known. `repaired`: what is kept is first moved to make up for what is cut and rounded, which
        `doing` is told of and may raise to stop. `path` forces kernels. Raises InputError.
        """
        choice = self.choice(dtype, path, formats)
        if not fresh and (kept := _read_score(self._file(mask, repaired, choice, formats))):
            self._tell(mask, repaired, choice, kept, formats)
            yield Running(kept.examples, kept.examples, kept.scores[self.task.metric], kept.low, kept.high, kept)
            return
        small = self._small(mask, repaired, doing, dtype, path, formats)
        for running in stream(small, self.task, self.dev):
            if running.final:  # kept as what really ran, whatever was expected
                self.keep(mask, repaired, small.choice, running.final, formats)
                self._answers[_of(mask, repaired, small.choice, formats)] = running.answers
                while len(self._answers) > KEPT_ANSWERS:
                    self._answers.popitem(last=False)
            yield running

    def answers(self, mask: BlockMask, repaired: bool, choice: Choice, formats: Formats = FP32) -> Answers | None:
        """What the head gave for every dev example; None where this was not asked among the last KEPT_ANSWERS."""
        return self._answers.get(_of(mask, repaired, choice, formats))

    def keep(self, mask: BlockMask, repaired: bool, choice: Choice, score: DevScore, formats: Formats = FP32) -> None:
        """For whoever asks again, here or elsewhere; where nothing can be written it is computed again."""
        with contextlib.suppress(OSError):
            files.write_json(self._file(mask, repaired, choice, formats), _to_json(score))
        self._tell(mask, repaired, choice, score, formats)

    def _file(self, mask: BlockMask, repaired: bool, choice: Choice, formats: Formats) -> Path:
        """Where a score is kept."""
        kernels = known.kernels(choice.path)
        path = "" if kernels == "fp32" else f"-{kernels.replace(' ', '-')}"
        of = self.inputs.key if known.of_train(repaired, str(formats)) else ""
        if not formats.plain:
            of += f"-{'' if repaired else 'un'}moved-{hashlib.sha256(str(formats).encode()).hexdigest()[:12]}"
        return self._folder / f"{self._key}-{mask.digest()}{of}{path}.json"

    def _tell(self, mask: BlockMask, repaired: bool, choice: Choice, score: DevScore, formats: Formats) -> None:
        """So that it is found without a model next time."""
        text = str(formats)
        known.keep(self.run, self._known[known.of_train(repaired, text)], mask, repaired,
                   asdict(score) | {"score": score.scores[self.task.metric]}, choice.path, text)

    def outputs(self, mask: BlockMask, repaired: bool = False, dtype: str = "fp32",
                formats: Formats = FP32) -> np.ndarray:
        """(examples, outputs) of the head on the main dev split under `mask`, in the arithmetic `dtype`."""
        return outputs(self._small(mask, repaired, dtype=dtype, formats=formats), self.dev[self.task.dev[0]])

    def _small(self, mask: BlockMask, repaired: bool, doing: Doing = quiet, dtype: str = "fp32",
               path: str | None = None, formats: Formats = FP32) -> nn.Module:
        """The model that executes only what `mask` keeps, in this arithmetic, made on one thread.

        That is thousands of short operations: MiniLM takes 0.1 s so, and 1 to 8 s where two threads wait for each
        other at every one of them on cores that are busy (Xeon, 2 cores).
        """
        paths.check_formats(dtype, path, formats)
        model, stored = self.compressed(mask, repaired, formats, doing)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            small = small_model(model, mask, dtype, path, formats, stored.scales if stored else {},
                                stored.ranges if stored else {})
        finally:
            torch.set_num_threads(threads)
        self._choices[dtype, path, str(formats)] = small.choice
        return small

    def repaired(self, mask: BlockMask, doing: Doing = quiet) -> nn.Module:
        """A copy of the model, cut by `mask` and repaired; what repair leaves alone, the embeddings say, it shares."""
        return self.compressed(mask, True, FP32, doing)[0]

    def compressed(self, mask: BlockMask, repaired: bool, formats: Formats,
                   doing: Doing = quiet) -> tuple[nn.Module, Compressed | None]:
        """(a model, how it is stored), cut by `mask` and brought into `formats`: a copy that shares what is not moved.

        In fp32: without a repair the model itself, uncut; nothing is stored otherwise. `doing` may raise to stop.
        """
        if formats.plain and not repaired:
            return self.encoder.model, None
        ranges = self.trained.ranges_for(formats)
        weighed = repaired or formats.activations == "tensor" and not ranges
        grams = self.grams(doing) if weighed else None
        model = _copied(self.encoder, formats)
        linears = {name: model.get_submodule(name) for name in self.encoder.linears}
        if formats.plain:
            repair.repair_(linears, mask, grams, report=lambda done, total: doing("repairing", done, total))
            return model, None
        stored = compress.compress_(linears, mask, formats, grams if repaired else None,
                                    self.trained.grids_for(formats, mask.layout),
                                    lambda *at: doing("quantizing", *at),
                                    _words(model) if formats.embeddings == 8 else None)
        return model, replace(stored, ranges=ranges or compress.ranges(formats, grams))

    @cached_property
    def trained(self) -> Trained:
        """The grids and ranges that the stage was trained on."""
        return trained_of(self.run, self.stage)


def _copied(encoder: Encoder, formats: Formats) -> nn.Module:
    """The model, with copies of what `formats` or a repair move."""
    whole = encoder.model
    moved = list(encoder.linears.values()) + [whole.get_input_embeddings()] * (formats.embeddings == 8)
    own = {id(one) for module in moved for one in module.parameters(recurse=False)}
    return copy.deepcopy(whole, {id(one): one for one in (*whole.parameters(), *whole.buffers()) if id(one) not in own})


def _words(model: nn.Module) -> tuple[str, nn.Module]:
    """(name, module) of the word embeddings."""
    return next((name, one) for name, one in model.named_modules() if one is model.get_input_embeddings())


def _of(mask: BlockMask, repaired: bool, choice: Choice, formats: Formats) -> tuple[str, bool, str, str]:
    return mask.digest(), repaired, known.kernels(choice.path), str(formats)


def _digest(encoder: Encoder, dev: Mapping[str, Encoded]) -> str:
    """The same text for the same weights (all of the model) and the same encoded dev sets."""
    sha = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        sha.update(name.encode() + memoryview(tensor.cpu().contiguous().numpy()).cast("B"))
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
