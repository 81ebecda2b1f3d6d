"""The best mixture of settings for a run under a limit: losses decide, the dev set judges at the end.

Everything that is measured is kept as it comes (runs/mixtures.py): a killed search goes on, a second limit is nearly
free. Beside the mixture stands the best uniform setting within the same limit, chosen by the same loss.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.evaluation import exact, limits, losses, trials
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.limits import Limit, Target
from prune_core.evaluation.losses import HeldOut
from prune_core.execution import native, paths
from prune_core.precision import mixture, storage
from prune_core.precision.formats import Format, Formats
from prune_core.precision.mixture import Found, Search, Setting, Table
from prune_core.runs import best, mixtures, tried
from prune_core.runs.data import data_of
from prune_core.runs.run import Run
from prune_core.runs.tried import Tried
from prune_core.tasks import metrics

ORDER = ("The order of this search is ours: that of NxMiFormer (arXiv 2206.15014) is not known from its abstract. "
         "Losses of one matrix alone, greedy by least loss per byte saved, measured anew on the way, then swaps.")
BY = "outputs"  # the loss that decides (losses.py)
SCORED = 10  # steps of the descent that are scored on the dev set
RIVALS = 3  # uniform settings that are scored, the best by loss first
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
class Uniform:
    """One setting for all matrices, cut as little as the limit allows: a rival."""

    scope: str
    share: float
    format: Format
    mask: BlockMask

    @property
    def words(self) -> str:
        if not self.share:
            return mixture.Option(0.0, self.format).words
        where = "one threshold" if self.scope == "global" else "of every matrix"
        return f"blocks {self.share:.3f} ({where}), {self.format.words}"

    @property
    def text(self) -> str:
        return f"uniform {self.scope} {self.share!r} {self.format}"


def search(run: Run, stage: str, target: Target, wanted: Wanted = Wanted(), source: str | None = None,
           threads: int = 0) -> Iterator[Step]:
    """(done, of about how many, what) as it goes on; at last (done, done, answer): what `search --json` prints.

    Raises InputError: no weights, no data, a limit that cannot be met, no calibration for a speedup.
    """
    target.check()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    start, by = time.perf_counter(), wanted.by or best.ranking(run, stage)
    table = limits.table_for(run, stage, by, target, wanted.shares, wanted.patterns, wanted.bits)
    limit = limits.of(run, table, target, wanted.dtype)
    native.build()
    bench = Bench(run, stage, source)
    examples, note = losses.held_out(data_of(run, source).train, wanted.sentences)
    about = b"".join(name.encode() + values.tobytes() for name, values in sorted(table.ranking.items()))
    made = _Search(run, stage, target, wanted, by, table, limit, HeldOut(bench, examples, about), bench)
    answer = yield from made.steps()
    answer |= {"sentences": len(examples), "notes": [note] * bool(note), "seconds": time.perf_counter() - start}
    mixtures.keep(run, target.name, answer)
    yield made.done, made.done, answer


class _Search:
    """One search of one run; `steps` does it."""

    def __init__(self, run: Run, stage: str, target: Target, wanted: Wanted, by: str, table: Table, limit: Limit,
                 held_out: HeldOut, bench: Bench):
        self.run, self.stage, self.target, self.wanted, self.by = run, stage, target, wanted, by
        self.table, self.limit, self.held_out, self.bench, self.done = table, limit, held_out, bench, 0

    def steps(self) -> Iterator[Step]:
        """The search, its rivals, their dev scores; returns the answer."""
        found = yield from self._search()
        total = self.done + len(rivals := self._uniforms()) + SCORED + RIVALS + 1
        by_loss = []
        for uniform in rivals:
            yield self._count(total, "uniform settings")
            said = self.held_out.loss(uniform.text, uniform.mask, self._alike(uniform.format))
            by_loss.append((said[self.wanted.loss], uniform))
        by_loss.sort(key=lambda one: one[0])
        path = yield from self._path(found, total)
        cuts = [self._cut(found.setting), *(self._uniform_cut(uniform) for _, uniform in by_loss[:RIVALS])]
        answers = []
        for cut in cuts:
            yield self._count(total, "exact scores")
            answers.append(exact.evaluate(self.run, self.stage, cut, bench=self.bench))
        return self._answer(found, by_loss, path, cuts[0], answers)

    def _count(self, total: int, doing: str) -> Step:
        self.done += 1
        return self.done - 1, max(total, self.done), doing

    def _search(self) -> Iterator[Step]:
        looking = Search(self.limit.costs, self.limit.most, self.limit.total).run()
        try:
            asked = next(looking)
            while True:
                yield asked.done, asked.total + 2 * SCORED + RIVALS, asked.doing
                self.done = asked.done + 1
                said = self.held_out.loss(*self._model(asked.setting), self._model(asked.near))
                asked = looking.send(said[self.wanted.loss])
        except StopIteration as ended:
            return ended.value

    # ---- settings

    def _model(self, setting: Setting) -> tuple[str, BlockMask, Mapping[str, Format]]:
        """(text, mask, formats by matrix) of a setting."""
        options = self.table.at(setting)
        return ("; ".join(map(str, options.values())), self.table.mask(setting),
                {name: option.format for name, option in options.items()})

    def _cut(self, setting: Setting) -> Cut:
        return Cut("matrix", None, self.table.thresholds(setting), self.by, True, str(self.table.formats(setting)))

    def _uniform_cut(self, uniform: Uniform) -> Cut:
        return Cut(uniform.scope, uniform.share, None, self.by, True, str(Formats(weights=(uniform.format,))))

    def _alike(self, format: Format) -> dict[str, Format]:
        return dict.fromkeys((m.name for m in self.run.layout.matrices), format)

    def _uniforms(self) -> list[Uniform]:
        """Every format, alone and with as few blocks cut as the limit asks for."""
        formats = dict.fromkeys(option.format for one in self.table.options for option in one)
        rivals: dict[tuple, Uniform] = {}
        for format in formats:
            for scope in ("global", "matrix"):
                uniform = self._least_cut(scope, format)
                if uniform is not None:
                    rivals.setdefault((format, uniform.mask.digest()), uniform)
        return list(rivals.values())

    def _least_cut(self, scope: str, format: Format) -> Uniform | None:
        """The smallest share of this scope that is within the limit, to a ten-thousandth; None where none up to 0.95
        is."""
        def at(share: float) -> Uniform:
            return Uniform(scope, share, format, mask_at_sparsity(self.table.ranking, self.run.layout, share, scope))

        def fits(uniform: Uniform) -> bool:
            return self.limit.of_mask(uniform.mask, self._alike(format)) <= self.limit.most

        low, high = 0, 9500
        if not fits(at(high / 1e4)):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(at(middle / 1e4)) else (middle + 1, high)
        return at(high / 1e4)

    # ---- scores

    def _path(self, found: Found, total: int) -> Iterator[Step]:
        """[{step, bytes, ...}] of some steps of the descent and of what was found; each kept with the run."""
        last = len(found.path) - 1
        chosen = sorted({round(last * i / (SCORED - 1)) for i in range(SCORED)})
        rows, task = [], self.bench.task
        labels = self.bench.dev[task.dev[0]].labels
        for step in chosen:
            yield self._count(total, "scores of the path")
            setting = found.path[step]
            mask, formats = self.table.mask(setting), self.table.formats(setting)
            outputs = self.held_out.dev_answers(mask, formats.of(self.run.layout))
            score, interval = metrics.score(task, outputs, labels), metrics.interval(task, outputs, labels)
            stored = storage.storage(mask, formats)
            one = Tried(cut_json(self._cut(setting)), score[task.metrics[0]], *interval, len(labels), stored.bytes,
                        stored.encoder.stored, storage.counts(mask, formats)["sparsity"],
                        ms=trials.predicted_ms(self.run, mask, formats, paths.choose("fp32")),
                        search=self.target.name, step=step)
            tried.keep(self.run, self.stage, one)
            rows.append({name: getattr(one, name) for name in ("step", "bytes", "encoder_bytes", "score", "low",
                                                               "high")})
        return rows

    def _answer(self, found: Found, rivals: list[tuple[float, Uniform]], path: list[dict], cut: Cut,
                answers: list[dict]) -> dict:
        mask, formats = self.table.mask(found.setting), self.table.formats(found.setting)
        stored, first = storage.storage(mask, formats), rivals[0][1] if rivals else None
        mine, *others = answers
        uniforms = [{"setting": uniform.words, "cut": cut_json(self._uniform_cut(uniform)), "loss": loss,
                     **storage.storage(uniform.mask, Formats(weights=(uniform.format,))).to_json(),
                     "score": one["score"], "low": one["low"], "high": one["high"]}
                    for (loss, uniform), one in zip(rivals, others, strict=False)]
        answer = {
            "run": self.run.name, "phase": str(self.stage), "metric": self.run.metric, "name": self.target.name,
            "target": self.target.to_json(), "by": self.by,
            "setting": {name: option.words for name, option in self.table.at(found.setting).items()},
            "cut": cut_json(cut), **stored.to_json(), "ratio": stored.encoder.dense / stored.encoder.stored,
            "sparsity": mine["sparsity"], "dense_score": self.run.dense_score,
            "score": mine["score"], "low": mine["low"], "high": mine["high"], "examples": mine["examples"],
            "loss": found.loss, "loss_of": self.wanted.loss, "swaps": found.swaps, "steps": len(found.path) - 1,
            "path": path, "asked": found.asked, "measured": self.held_out.measured, "order": ORDER,
            "commands": commands(self.run, self.stage, self.target.name),
            **self.limit.told(mask), "uniforms": uniforms, "uniform": None, "uniform_score": None,
            "difference": None, "words": "no uniform setting is within the limit"}
        return answer if first is None else answer | self._against(found, first, uniforms[0], mine["score"])

    def _against(self, found: Found, uniform: Uniform, told: dict, score: float) -> dict:
        """The mixture beside the best uniform setting, on the same dev sentences."""
        task = self.bench.task
        mine = self.held_out.dev_answers(*self._model(found.setting)[1:])
        other = self.held_out.dev_answers(uniform.mask, self._alike(uniform.format))
        apart, low, high = metrics.paired(task, mine, other, self.bench.dev[task.dev[0]].labels)
        said = {"difference": apart, "low": low, "high": high, "interval": 0.95, "beats": low > 0}
        return {"uniform": uniform.words, "uniform_cut": told["cut"], "uniform_bytes": told["bytes"],
                "uniform_score": told["score"], "uniform_loss": told["loss"], "difference": said,
                "words": in_words(apart, low, high)}


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
