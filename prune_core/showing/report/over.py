"""A report over all runs of a task: which of their results are looked at closely, which is the best, and the runner-up.

The rule is that of runs/best.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from prune_core import InputError
from prune_core.cutting.masks import mask_at
from prune_core.latency.profile import Batch, Profile
from prune_core.methods.table import METHODS
from prune_core.runs import best
from prune_core.runs.best import Result
from prune_core.runs.run import Run
from prune_core.runs.settings import MOST, Setting, ends
from prune_core.showing.report.finding import Finding
from prune_core.showing.report.recommend import keeps, points

ALIKE = 0.05  # of a speedup: less is called equally fast


@dataclass(frozen=True)
class Over:
    """All results of the runs of a task, and which of them are looked at closely: `shortlist`, by the rule."""

    subject: str
    results: tuple[Result, ...]
    shortlist: tuple[Result, ...]
    allowed: float
    by: str  # what put the shortlist in order, in words

    @property
    def runs(self) -> list[Run]:
        """Those that have a result."""
        return list(dict.fromkeys(result.run for result in self.results))

    @property
    def within(self) -> int:
        """Results that keep within what may be lost, of all of them."""
        return sum(best.keeps(result, self.allowed) for result in self.results)

    @property
    def pairs(self) -> list[tuple[Run, Setting]]:
        """The shortlist as settings: weights as they are after retraining."""
        return [(result.run, replace(ends(result.run)[result.stage], name=f"{result.run.name} {result.stage}"))
                for result in self.shortlist]


def over(runs: Sequence[Run], allowed: float, profile: Profile | None = None, batch: Batch | None = None,
         dtype: str = "fp32") -> Over:
    """The results of these runs, of one task, and the first MOST by the rule: by predicted speedup where `profile`
    tells one of each, else by size. Raises InputError where there is none."""
    results = [result for result in best.of(runs) if best.shown(result)]
    if not results:
        raise InputError("these runs have no result yet: nothing is retrained; needed: a run that has come that far")
    batch, worth = batch or Batch(), None
    if profile:
        fast, slowest = {}, max(profile.best_rival(result.run.layout, batch)[1] for result in results)
        for result in results:
            run = result.run
            mask = mask_at(run.norms(run.saved(result.stage)), run.layout, 0.0)
            # Against one dense model for all: a smaller model is not slower for being compared with its own
            fast[result] = slowest / profile.path_of(dtype, mask, batch, run.heads).ms
        worth = fast.get
    ranked = best.ranked(results, allowed, worth)
    return Over(best.subject(results[0].run), tuple(ranked), tuple(ranked[:MOST]), allowed,
                "predicted speed" if profile else "size")


@dataclass(frozen=True)
class _Candidate:
    """What the rule asks of a finding."""

    finding: Finding
    score: float
    dense: float
    worth: float


def ordered(findings: Sequence[Finding], allowed: float) -> tuple[list[Finding], str]:
    """(the findings by the rule, the best first; what they are worth, in words): speed where each has one, else size.

    Those without a score come last.
    """
    by_speed = all(one.speed for one in findings)
    slowest = max((one.speed.dense_ms for one in findings if one.speed), default=1.0)
    bits = any(one.setting.cut.formats for one in findings)
    scored = [_Candidate(one, one.score.value, one.run.dense_score,
                         slowest / one.speed.compact_ms if by_speed else 1e9 / one.bytes if bits else
                         one.mask.compression_encoder) for one in findings if one.score]
    ranked = [one.finding for one in best.ranked(scored, allowed, attrgetter("worth"))]
    measured = all(one.speed and one.speed.measured for one in findings)
    what = ("the fastest, as measured" if measured else "the fastest, as predicted") if by_speed else "the smallest"
    return [*ranked, *(one for one in findings if not one.score)], what


def rule(of: Over, what: str) -> str:
    """The rule in words, and how many meet it."""
    count, runs, close = len(of.results), len(of.runs), len(of.shortlist)
    told = (f"Rule: of all {count} results of {runs} run{'s' * (runs > 1)}, those whose score is at most "
            f"{points(of.allowed)} below their own dense model's; of these {what}, and of equally good ones (to a "
            f"tenth) the one with the better score. {of.within} of {count} meet{'s' * (of.within == 1)} the limit.")
    if count > close:
        told += f" The first {close} by {of.by} were looked at closely."
    return told


def why(findings: Sequence[Finding], allowed: float) -> tuple[str, str]:
    """(why the first is the best, what the runner-up is and what speaks for and against it); '' where there is none.

    `findings`: by the rule.
    """
    first, *others = findings
    if not first.score or not keeps(first.run.dense_score, first, allowed):
        return "", ""
    within = [one for one in others if keeps(one.run.dense_score, one, allowed)]
    beyond = [one for one in others if one not in within and one.speed and first.speed
              and one.speed.compact_ms < first.speed.compact_ms]
    told = "It is the only one of these within the limit." if others and not within else ""
    if within:
        told = "Of these it is " + ("the fastest" if first.speed else "the smallest") + " within the limit."
    if beyond:
        loss = beyond[0].run.dense_score - beyond[0].score.value if beyond[0].score else None
        told += f" {named(beyond[0])} is faster" + (f", but loses {points(loss)}." if loss else ".")
    if not others or not others[0].score:
        return told.strip(), ""
    return told.strip(), f"Runner-up: B, {named(others[0])}: {_beside(others[0], first)}."


def named(one: Finding) -> str:
    """'run sst2-surgeon, 2x by surgeon': run, stage and method of a result."""
    stage = one.run.snapshots[one.setting.at].saved
    return f"run {one.run.name}, {stage.compression:g}x by {METHODS[one.run.config.method].name}"


def _beside(one: Finding, first: Finding) -> str:
    """How one is beside the first: '12% more time, 0.4 points higher'."""
    told = []
    if one.speed and first.speed:
        ratio = one.speed.compact_ms / first.speed.compact_ms
        told.append("equally fast" if abs(ratio - 1) < ALIKE else
                    f"{ratio - 1:.0%} more time" if ratio > 1 else f"{1 - ratio:.0%} less time")
    more = one.score.value - first.score.value
    told.append("the same score" if abs(more) < 5e-4 else
                f"{points(abs(more))} {'higher' if more > 0 else 'lower'}")
    if one.bytes and first.bytes:
        told.append(f"{one.bytes / 1e6:.1f} MB instead of {first.bytes / 1e6:.1f}")
    return ", ".join(told)
