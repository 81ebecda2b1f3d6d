"""The best mixture of settings for a run under a limit: losses decide, the dev set judges at the end.

First every matrix is compressed alone in every way, which tells how far its outputs are off; what is beaten in bytes
and in that is not looked at again. Then losses on some training sentences find settings (precision/descent.py), from
the best uniform setting too; losses on other training sentences decide between those found.
Everything that is measured is kept as it comes (runs/mixtures.py): a killed search goes on, a second limit is nearly
free. Beside the mixture stands the best uniform setting within the same limit, chosen by the same losses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation import exact, limits, losses, rivals, trials
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.limits import Target
from prune_core.evaluation.losses import HeldOut
from prune_core.evaluation.matrices import Matrices
from prune_core.evaluation.rivals import Uniform
from prune_core.execution import native, paths
from prune_core.precision import mixture, storage
from prune_core.precision.descent import Found, Search
from prune_core.precision.formats import Format, Formats
from prune_core.precision.mixture import Errors, Setting, Table
from prune_core.runs import best, mixtures, tried
from prune_core.runs.data import data_of
from prune_core.runs.run import Run
from prune_core.runs.tried import Tried
from prune_core.tasks import metrics

ORDER = ("The order of this search is ours: that of NxMiFormer (arXiv 2206.15014) is not known from its abstract. "
         "Losses of one matrix alone, greedy by least loss per byte saved, measured anew on the way, then swaps, from "
         "the best uniform setting too; other sentences decide between what was found.")
BY = "outputs"  # the loss that decides (losses.py)
SCORED = 10  # steps of the descent that are scored on the dev set
MEASURED = 6  # uniform settings of which the loss is measured, those first that are likely to be the best
RIVALS = 3  # of these, how many are judged and scored
JUDGED = 6  # settings on the way of the swaps that are judged
Step = tuple[int, int, object]  # done, of about how many, what is done; at last the answer


@dataclass(frozen=True)
class Wanted:
    """What a search may choose from, and what decides. `by`: a ranking; None: the best that is recorded."""

    shares: Sequence[float] = mixture.SHARES
    patterns: Sequence[str] = mixture.PATTERNS
    bits: Sequence[str] = mixture.BITS
    by: str | None = None
    loss: str = BY
    sentences: int = losses.SENTENCES
    dtype: str = "auto"  # arithmetic of a predicted speedup


@dataclass(frozen=True)
class Candidate:
    """Something found. `loss` on the sentences that it was found with, `second` on those that decide."""

    what: str
    text: str
    mask: BlockMask
    formats: Mapping[str, Format]
    loss: float
    second: float = float("nan")
    uniform: Uniform | None = None
    setting: Setting = ()

    def to_json(self) -> dict:
        return {"what": self.what, "loss": self.loss, "second_loss": self.second}


def search(run: Run, stage: str, target: Target, wanted: Wanted = Wanted(), source: str | None = None,
           threads: int = 0) -> Iterator[Step]:
    """(done, of about how many, what) as it goes on; at last (done, done, answer): what `search --json` prints.

    Raises InputError: no weights, no data, a limit that cannot be met, no calibration for a speedup.
    """
    target.check()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    start, by = time.perf_counter(), wanted.by or best.ranking(run, stage)
    table = limits.table_for(run, stage, by, target, wanted.shares, wanted.patterns, wanted.bits)
    limits.of(run, table, target, wanted.dtype)
    native.build()
    bench = Bench(run, stage, source)
    first, second, note = losses.held_out(data_of(run, source).train, wanted.sentences)
    matrices = Matrices(bench, b"".join(name.encode() + values.tobytes() for name, values in
                                        sorted(table.ranking.items())))
    made = _Search(run, stage, target, wanted, by, matrices, HeldOut(matrices, first), HeldOut(matrices, second))
    answer = yield from made.steps(table)
    answer |= {"sentences": len(first), "second_sentences": len(second), "notes": [note] * bool(note),
               "seconds": time.perf_counter() - start}
    mixtures.keep(run, target.name, answer)
    yield made.done, made.done, answer


class _Search:
    """One search of one run; `steps` does it."""

    def __init__(self, run: Run, stage: str, target: Target, wanted: Wanted, by: str, matrices: Matrices,
                 first: HeldOut, second: HeldOut):
        self.run, self.stage, self.target, self.wanted, self.by = run, stage, target, wanted, by
        self.matrices, self.bench, self.first, self.second, self.done = matrices, matrices.bench, first, second, 0

    def steps(self, whole: Table) -> Iterator[Step]:
        """The rivals, the search, the choice, dev scores; returns the answer."""
        errors = yield from self._errors(whole)
        uniforms = yield from self._uniforms(whole, errors)
        found = yield from self._search(*whole.promising(errors), uniforms)
        chosen, uniforms, candidates = yield from self._judge(found, uniforms)
        path = yield from self._path(found, chosen)
        answers = []
        for one in (chosen, *uniforms):
            yield self._count("exact scores", RIVALS + 1 - len(answers))
            answers.append(exact.evaluate(self.run, self.stage, self._cut(one), bench=self.bench))
        return self._answer(found, chosen, uniforms, candidates, path, answers)

    def _count(self, doing: str, left: int) -> Step:
        """`left`: how much of this there is still to do."""
        self.done += 1
        return self.done - 1, self.done + left, doing

    # ---- what is found

    def _errors(self, table: Table) -> Iterator[Step]:
        """Of each matrix's options; each matrix is a step."""
        for done, _ in enumerate(self.matrices.measure(table)):
            yield self._count("errors of every matrix", 20 * (len(table.options) - done))
        return self.matrices.errors(table)

    def _uniforms(self, table: Table, errors: Errors) -> Iterator[Step]:
        """Those with the least loss, the best first."""
        limit, found = limits.of(self.run, table, self.target, self.wanted.dtype), []
        likely = sorted(rivals.uniforms(table, limit), key=lambda one: rivals.expected(one, table, errors))
        for at, one in enumerate(likely[:MEASURED]):
            yield self._count("uniform settings", 15 * len(errors) - at)
            loss = self.first.loss(one.text, one.mask, one.formats)[self.wanted.loss]
            found.append(Candidate(one.words, one.text, one.mask, one.formats, loss, uniform=one))
        return sorted(found, key=lambda one: one.loss)[:RIVALS]

    def _search(self, table: Table, errors: Errors, uniforms: Sequence[Candidate]) -> Iterator[Step]:
        """What the search finds, which may begin from the best uniform setting too."""
        own, starts = [len(one) for one in table.options], []
        if uniforms:
            joined, setting = table.joined(uniforms[0].mask, uniforms[0].uniform.format)
            if joined.mask(setting).digest() == uniforms[0].mask.digest():
                table, starts = joined, [setting]
                errors = yield from self._errors(table)
        self.table, self.limit = table, limits.of(self.run, table, self.target, self.wanted.dtype)
        looking = Search(self.limit.costs, self.limit.most, self.limit.total, starts, errors, own).run()
        try:
            asked = next(looking)
            while True:
                yield self._count(asked.doing, asked.total - asked.done + 2 * SCORED + RIVALS)
                said = self.first.loss(*self._model(asked.setting), self._model(asked.near))
                asked = looking.send(said[self.wanted.loss])
        except StopIteration as ended:
            return ended.value

    def _judge(self, found: Found, uniforms: Sequence[Candidate]) -> Iterator[Step]:
        """(the best, the uniform ones, all), the best first, by the loss on the second sentences."""
        last = len(found.trail) - 1
        some = sorted({round(last * i / (JUDGED - 1)) for i in range(JUDGED)})
        settings = [(f"{at} swaps", found.trail[at]) for at in some if at or found.start is None]
        if found.path[-1] not in found.trail:
            settings = [("descent", found.path[-1]), *settings]
        ours = [Candidate(what, *self._model(one), self.first.loss(*self._model(one))[self.wanted.loss], setting=one)
                for what, one in settings]
        judged = []
        for at, one in enumerate((*ours, *uniforms)):
            yield self._count("other sentences", len(ours) + len(uniforms) - at + SCORED + RIVALS)
            said = self.second.loss(one.text, one.mask, one.formats)
            judged.append(replace(one, second=said[self.wanted.loss]))
        judged.sort(key=lambda one: one.second)
        return self._as_mixture(judged[0]), [one for one in judged if one.uniform], judged

    def _as_mixture(self, one: Candidate) -> Candidate:
        """With thresholds of every matrix, where it is a uniform setting."""
        if one.uniform is None:
            return one
        self.table, setting = self.table.joined(one.mask, one.uniform.format)
        return replace(one, uniform=None, setting=setting, mask=self.table.mask(setting))

    # ---- settings

    def _model(self, setting: Setting) -> tuple[str, BlockMask, Mapping[str, Format]]:
        """(text, mask, formats by matrix) of a setting."""
        options = self.table.at(setting)
        return ("; ".join(map(str, options.values())), self.table.mask(setting),
                {name: option.format for name, option in options.items()})

    def _cut(self, one: Candidate) -> Cut:
        if one.uniform:
            formats = Formats(weights=(one.uniform.format,))
            return Cut(one.uniform.scope, one.uniform.share, None, self.by, True, str(formats))
        return self._cut_of(one.setting)

    def _cut_of(self, setting: Setting) -> Cut:
        return Cut("matrix", None, self.table.thresholds(setting), self.by, True, str(self.table.formats(setting)))

    # ---- scores

    def _path(self, found: Found, chosen: Candidate) -> Iterator[Step]:
        """[{step, bytes, ...}] of some steps of the descent and of what was chosen; each kept with the run."""
        path = list(dict.fromkeys((*(one for one in found.path if one != chosen.setting), chosen.setting)))
        rows, last = [], len(path) - 1
        for step in sorted({round(last * i / (SCORED - 1)) for i in range(SCORED)}):
            yield self._count("scores of the path", SCORED - len(rows) + RIVALS + 1)
            one = self._scored(path[step], step)
            rows.append({name: getattr(one, name) for name in ("step", "bytes", "encoder_bytes", "score", "low",
                                                               "high")})
        return rows

    def _scored(self, setting: Setting, step: int) -> Tried:
        """A setting on the dev set."""
        task = self.bench.task
        mask, formats, labels = self.table.mask(setting), self.table.formats(setting), self._labels
        outputs = self.matrices.dev_answers(mask, formats.of(self.run.layout))
        score, interval = metrics.score(task, outputs, labels), metrics.interval(task, outputs, labels)
        stored = storage.storage(mask, formats)
        one = Tried(cut_json(self._cut_of(setting)), score[task.metrics[0]], *interval, len(labels), stored.bytes,
                    stored.encoder.stored, storage.counts(mask, formats)["sparsity"],
                    ms=trials.predicted_ms(self.run, mask, formats, paths.choose("fp32")),
                    search=self.target.name, step=step)
        tried.keep(self.run, self.stage, one)
        return one

    @property
    def _labels(self):
        return self.bench.dev[self.bench.task.dev[0]].labels

    def _answer(self, found: Found, chosen: Candidate, uniforms: Sequence[Candidate], candidates: Sequence[Candidate],
                path: list[dict], answers: list[dict]) -> dict:
        formats = self.table.formats(chosen.setting)
        stored, (mine, *others) = storage.storage(chosen.mask, formats), answers
        told = [{"setting": one.uniform.words, "cut": cut_json(self._cut(one)), "loss": one.loss,
                 "second_loss": one.second,
                 **storage.storage(one.mask, Formats(weights=(one.uniform.format,))).to_json(),
                 "score": score["score"], "low": score["low"], "high": score["high"]}
                for one, score in zip(uniforms, others, strict=True)]
        answer = {
            "run": self.run.name, "phase": str(self.stage), "metric": self.run.metric, "name": self.target.name,
            "target": self.target.to_json(), "by": self.by,
            "setting": {name: option.words for name, option in self.table.at(chosen.setting).items()},
            "cut": cut_json(self._cut_of(chosen.setting)), **stored.to_json(),
            "ratio": stored.encoder.dense / stored.encoder.stored,
            "sparsity": mine["sparsity"], "dense_score": self.run.dense_score,
            "score": mine["score"], "low": mine["low"], "high": mine["high"], "examples": mine["examples"],
            "chosen": chosen.what, "loss": chosen.loss, "second_loss": chosen.second, "loss_of": self.wanted.loss,
            "candidates": [one.to_json() for one in candidates],
            "started_from": "the descent" if found.start is None else "the best uniform setting",
            "swaps": found.swaps, "steps": len(found.path) - 1,
            "path": path, "asked": found.asked, "measured": self.first.measured + self.second.measured, "order": ORDER,
            "commands": commands(self.run, self.stage, self.target.name),
            **self.limit.told(chosen.mask), "uniforms": told, "uniform": None, "uniform_score": None,
            "difference": None, "words": "no uniform setting is within the limit"}
        return answer | self._against(chosen, uniforms[0], told[0]) if uniforms else answer

    def _against(self, chosen: Candidate, uniform: Candidate, told: dict) -> dict:
        """The mixture beside the best uniform setting, on the same dev sentences."""
        mine, other = (self.matrices.dev_answers(one.mask, one.formats) for one in (chosen, uniform))
        apart, low, high = metrics.paired(self.bench.task, mine, other, self._labels)
        said = {"difference": apart, "low": low, "high": high, "interval": 0.95, "beats": low > 0}
        same = chosen.mask.digest() == uniform.mask.digest() and chosen.formats == uniform.formats
        return {"uniform": told["setting"], "uniform_cut": told["cut"], "uniform_bytes": told["bytes"],
                "uniform_score": told["score"], "uniform_loss": told["loss"], "difference": said,
                "words": SAME if same else in_words(apart, low, high)}


SAME = "The best mixture that was found is a uniform setting: no other had less loss on the sentences that decide."


def in_words(apart: float, low: float, high: float) -> str:
    """Whether the mixture beats the uniform setting, in a sentence."""
    said = f"{100 * apart:+.1f} points (95% interval {100 * low:+.1f} to {100 * high:+.1f})"
    if low > 0:
        return f"The mixture beats the best uniform setting of the same size by {said}."
    if high < 0:
        return f"The mixture does not beat the best uniform setting of the same size; it is worse: {said}."
    return f"The mixture does not beat the best uniform setting of the same size by more than the spread: {said}."


def commands(run: Run, stage: str, name: str) -> list[str]:
    """Command lines that open exactly this mixture."""
    of = f"{run.name} --mixture {name} --phase {stage}"
    return [f"python -m prune_core evaluate {of}", f"python -m prune_core export {run.name} OUT "
            f"--mixture {name} --phase {stage}"]


def cut_json(cut: Cut) -> dict:
    """All of it, as tried settings are kept."""
    return cut.to_json() | {"by": cut.ranking, "repaired": cut.repaired, "formats": cut.formats}
