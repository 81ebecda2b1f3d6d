"""Settings that are good under a limit, and which of them is the best: uniform ones, and those that a search finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation import limits, rivals
from prune_core.evaluation.limits import Target
from prune_core.evaluation.losses import HeldOut
from prune_core.evaluation.matrices import Matrices
from prune_core.evaluation.rivals import Uniform
from prune_core.precision.descent import Found, Search
from prune_core.precision.formats import Format, Formats
from prune_core.precision.mixture import Errors, Setting, Table

RIVALS = 3  # uniform settings that are judged and scored, the best by loss of those that are likely
MEASURED = 6  # of so many the loss is measured at most
LIKELY = 3.0  # and only of those whose errors are at most as many times the least
JUDGED = 6  # settings on the way of the swaps that are judged
LATER = 24  # steps after the search, about
Model = tuple[str, BlockMask, Mapping[str, Format]]  # what it is called in losses, its mask, formats by matrix
Step = tuple[int, int, object]  # done, of about how many, what is done; at last the answer


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


@dataclass(frozen=True)
class Outcome:
    """What was found; `chosen` of all `candidates`, which are the best first, as are the `uniforms` among them."""

    found: Found
    chosen: Candidate
    uniforms: Sequence[Candidate]
    candidates: Sequence[Candidate]


class Finder:
    """Finds what is best under a target by the loss of this name; `find` does it. `by`: the ranking that cuts.

    `first` finds, `second` decides. After it `table` and `limit` are those of what was chosen.
    """

    def __init__(self, target: Target, loss: str, dtype: str, by: str, first: HeldOut, second: HeldOut,
                 matrices: Matrices):
        self.run, self.target, self.by, self.matrices = matrices.bench.run, target, by, matrices
        self.first, self.second, self.done, self.loss, self._dtype = first, second, 0, loss, dtype
        self._asked: set[tuple[HeldOut, str]] = set()

    def find(self, whole: Table) -> Iterator[Step]:
        """Step by step; returns an Outcome."""
        errors = yield from self._errors(whole)
        uniforms = yield from self._uniforms(whole, errors)
        found = yield from self._search(*whole.promising(errors), uniforms)
        return (yield from self._judge(found, uniforms))

    @property
    def measured(self) -> int:
        """Losses that were not known before."""
        return self.first.measured + self.second.measured

    @property
    def asked(self) -> int:
        """Losses that decided, uniform settings' too, whether they were known before or not."""
        return len(self._asked)

    def _loss(self, held_out: HeldOut, model: Model, near: Model | None = None) -> float:
        self._asked.add((held_out, model[0]))
        return held_out.loss(*model, near)[self.loss]

    def count(self, doing: str, left: int) -> Step:
        """`left`: how much there is still to do."""
        self.done += 1
        return self.done - 1, self.done + left, doing

    def _errors(self, table: Table) -> Iterator[Step]:
        """Of each matrix's options; each matrix is a step."""
        for done, _ in enumerate(self.matrices.measure(table)):
            yield self.count("errors of every matrix", 20 * (len(table.options) - done))
        return self.matrices.errors(table)

    def _uniforms(self, table: Table, errors: Errors) -> Iterator[Step]:
        """Those with the least loss, the best first."""
        limit, found = limits.of(self.run, table, self.target, self._dtype), []
        ordered = sorted(((rivals.expected(one, table, errors), at, one)
                          for at, one in enumerate(rivals.uniforms(table, limit))))
        likely = [one for off, at, one in ordered if off <= LIKELY * ordered[0][0]][:MEASURED]
        for at, one in enumerate(max(likely, [one for *_, one in ordered[:RIVALS]], key=len)):
            yield self.count("uniform settings", 15 * len(errors) - at)
            loss = self._loss(self.first, (one.text, one.mask, one.formats))
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
        self.table, self.limit = table, limits.of(self.run, table, self.target, self._dtype)
        looking = Search(self.limit.costs, self.limit.most, self.limit.total, starts, errors, own).run()
        try:
            asked = next(looking)
            while True:
                yield self.count(asked.doing, asked.total - asked.done + LATER)
                asked = looking.send(self._loss(self.first, self.model(asked.setting), self.model(asked.near)))
        except StopIteration as ended:
            return ended.value

    def _judge(self, found: Found, uniforms: Sequence[Candidate]) -> Iterator[Step]:
        """By the loss on the second sentences; returns an Outcome."""
        last = len(found.trail) - 1
        some = sorted({round(last * i / (JUDGED - 1)) for i in range(JUDGED)})
        settings = [(f"{at} swaps", found.trail[at]) for at in some if at or found.start is None]
        if found.path[-1] not in found.trail:
            settings = [("descent", found.path[-1]), *settings]
        ours = [Candidate(what, *self.model(one), self._loss(self.first, self.model(one)), setting=one)
                for what, one in settings]
        judged = []
        for at, one in enumerate((*ours, *uniforms)):
            yield self.count("other sentences", len(ours) + len(uniforms) - at + LATER)
            judged.append(replace(one, second=self._loss(self.second, (one.text, one.mask, one.formats))))
        judged.sort(key=lambda one: one.second)
        return Outcome(found, self._as_mixture(judged[0]), [one for one in judged if one.uniform], judged)

    def _as_mixture(self, one: Candidate) -> Candidate:
        """With thresholds of every matrix, where it is a uniform setting."""
        if one.uniform is None:
            return one
        self.table, setting = self.table.joined(one.mask, one.uniform.format)
        return replace(one, uniform=None, setting=setting, mask=self.table.mask(setting))

    # ---- settings

    def model(self, setting: Setting) -> Model:
        """(text, mask, formats by matrix) of a setting."""
        options = self.table.at(setting)
        return ("; ".join(map(str, options.values())), self.table.mask(setting),
                {name: option.format for name, option in options.items()})

    def cut(self, one: Candidate) -> Cut:
        if one.uniform:
            formats = Formats(weights=(one.uniform.format,))
            return Cut(one.uniform.scope, one.uniform.share, None, self.by, True, str(formats))
        return self.cut_of(one.setting)

    def cut_of(self, setting: Setting) -> Cut:
        return Cut("matrix", None, self.table.thresholds(setting), self.by, True, str(self.table.formats(setting)))
