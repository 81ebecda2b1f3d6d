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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from prune_core.cutting.cuts import Cut
from prune_core.evaluation import exact, limits, losses, trials
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.candidates import RIVALS, Candidate, Finder, Outcome, Step
from prune_core.evaluation.limits import Target
from prune_core.evaluation.losses import HeldOut
from prune_core.evaluation.matrices import Matrices
from prune_core.execution import native, paths
from prune_core.models.devices import CPU
from prune_core.precision import mixture, storage
from prune_core.precision.formats import Formats
from prune_core.precision.mixture import Setting, Table
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


@dataclass(frozen=True)
class Wanted:
    """What a search may choose from, and what decides. `patterns`: None: the usual ones that fit the blocks.

    `by`: a ranking; None: the best that is recorded.
    """

    shares: Sequence[float] = mixture.SHARES
    patterns: Sequence[str] | None = None
    bits: Sequence[str] = mixture.BITS
    by: str | None = None
    loss: str = BY
    sentences: int = losses.SENTENCES
    dtype: str = "auto"  # arithmetic of a predicted speedup


def search(run: Run, stage: str, target: Target, wanted: Wanted = Wanted(), source: str | None = None,
           threads: int = 0, device: torch.device = CPU) -> Iterator[Step]:
    """(done, of about how many, what) as it goes on; at last (done, done, answer): what `search --json` prints.

    Raises InputError: no weights, no data, a limit that cannot be met, no calibration for a speedup.
    """
    target.check()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    start, by = time.perf_counter(), wanted.by or best.ranking(run, stage)
    patterns = mixture.usual_patterns(run.layout)[0] if wanted.patterns is None else wanted.patterns
    table = limits.table_for(run, stage, by, target, wanted.shares, patterns, wanted.bits)
    limits.of(run, table, target, wanted.dtype)
    native.build()
    bench = Bench(run, stage, source, device)
    first, second, note = losses.held_out(data_of(run, source).train, wanted.sentences)
    matrices = Matrices(bench, b"".join(name.encode() + values.tobytes() for name, values in
                                        sorted(table.ranking.items())))
    finder = Finder(target, wanted.loss, wanted.dtype, by, *(HeldOut(matrices, one) for one in (first, second)),
                    matrices)
    answer = yield from _Search(run, stage, target, finder).steps(table)
    answer |= {"sentences": len(first), "second_sentences": len(second), "notes": [note] * bool(note),
               "patterns": [] if target.speedup else list(patterns),
               "seconds": time.perf_counter() - start}
    mixtures.keep(run, target.name, answer)
    yield finder.done, finder.done, answer


class _Search:
    """One search of one run; `steps` does it."""

    def __init__(self, run: Run, stage: str, target: Target, finder: Finder):
        self.run, self.stage, self.target, self.finder = run, stage, target, finder
        self.matrices, self.bench = finder.matrices, finder.matrices.bench

    def steps(self, whole: Table) -> Iterator[Step]:
        """What is found, dev scores; returns the answer."""
        outcome = yield from self.finder.find(whole)
        path = yield from self._path(outcome)
        answers = []
        for one in (outcome.chosen, *outcome.uniforms):
            yield self.finder.count("exact scores", RIVALS + 1 - len(answers))
            answers.append(exact.evaluate(self.run, self.stage, self.finder.cut(one), bench=self.bench))
        return self._answer(outcome, path, answers)

    def _path(self, outcome: Outcome) -> Iterator[Step]:
        """[{step, bytes, ...}] of some steps of the descent and of what was chosen; each kept with the run."""
        last_of_all = outcome.chosen.setting
        path = [*(one for one in outcome.found.path if one != last_of_all), last_of_all]
        rows, last = [], len(path) - 1
        for step in sorted({round(last * i / (SCORED - 1)) for i in range(SCORED)}):
            yield self.finder.count("scores of the path", SCORED - len(rows) + RIVALS + 1)
            one = self._scored(path[step], step)
            rows.append({name: getattr(one, name) for name in ("step", "bytes", "encoder_bytes", "score", "low",
                                                               "high")})
        return rows

    def _scored(self, setting: Setting, step: int) -> Tried:
        """A setting on the dev set."""
        task = self.bench.task
        mask, formats, labels = self.finder.table.mask(setting), self.finder.table.formats(setting), self._labels
        outputs = self.matrices.dev_answers(mask, formats.of(self.run.layout))
        score, interval = metrics.score(task, outputs, labels), metrics.interval(task, outputs, labels)
        stored = storage.storage(mask, formats)
        one = Tried(cut_json(self.finder.cut_of(setting)), score[task.metrics[0]], *interval, len(labels), stored.bytes,
                    stored.encoder.stored, storage.counts(mask, formats)["sparsity"],
                    ms=trials.predicted_ms(self.run, mask, formats, paths.choose("fp32", device=self.bench.device)),
                    search=self.target.name, step=step)
        tried.keep(self.run, self.stage, one)
        return one

    @property
    def _labels(self):
        return self.bench.dev[self.bench.task.dev[0]].labels

    def _answer(self, outcome: Outcome, path: list[dict], answers: list[dict]) -> dict:
        found, chosen, uniforms = outcome.found, outcome.chosen, outcome.uniforms
        formats = self.finder.table.formats(chosen.setting)
        stored, (mine, *others) = storage.storage(chosen.mask, formats), answers
        told = [{"setting": one.uniform.words, "cut": cut_json(self.finder.cut(one)), "loss": one.loss,
                 "second_loss": one.second,
                 **storage.storage(one.mask, Formats(weights=(one.uniform.format,))).to_json(),
                 "score": score["score"], "low": score["low"], "high": score["high"]}
                for one, score in zip(uniforms, others, strict=True)]
        answer = {
            "run": self.run.name, "phase": str(self.stage), "metric": self.run.metric, "name": self.target.name,
            "target": self.target.to_json(), "by": self.finder.by,
            "setting": {name: option.words for name, option in self.finder.table.at(chosen.setting).items()},
            "cut": cut_json(self.finder.cut_of(chosen.setting)), **stored.to_json(),
            "ratio": stored.encoder.dense / stored.encoder.stored,
            "sparsity": mine["sparsity"], "dense_score": self.run.dense_score,
            "score": mine["score"], "low": mine["low"], "high": mine["high"], "examples": mine["examples"],
            "chosen": chosen.what, "loss": chosen.loss, "second_loss": chosen.second, "loss_of": self.finder.loss,
            "candidates": [one.to_json() for one in outcome.candidates],
            "started_from": "the descent" if found.start is None else "the best uniform setting",
            "swaps": found.swaps, "steps": len(found.path) - 1,
            "path": path, "asked": self.finder.asked, "measured": self.finder.measured, "order": ORDER,
            "commands": commands(self.run, self.stage, self.target.name),
            **self.finder.limit.told(chosen.mask), "uniforms": told, "uniform": None, "uniform_score": None,
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


SAME = ("The mixture does not beat the best uniform setting: it is that setting, as no other had less loss on the "
        "sentences that decide.")


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
