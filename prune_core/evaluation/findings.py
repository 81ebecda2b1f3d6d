"""What a report says of settings, gathered: exact scores, measured speedups and lost answers, else predictions.

What is exact or measured needs weights and data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prune_core import InputError
from prune_core.cutting.answers import predict
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.exact import evaluate
from prune_core.evaluation.flips import UncutAnswers
from prune_core.evaluation.speedup import measure
from prune_core.latency.profile import Batch, Profile
from prune_core.machine import machine
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.runs.stages import DENSE
from prune_core.showing.report.finding import Finding, ReportedScore, ReportedSpeed

BATCH = Batch()  # what speedups are for


def find(
    run: Run, settings: Sequence[Setting], source: str | None = None, measured: bool = True,
    profile: Profile | None = None, tell: Callable[[int, int, str], None] = lambda done, total, doing: None,
) -> list[Finding]:
    """One for each setting. `measured`: speedups not yet known here are measured now; else `profile` predicts them.

    `tell` gets (done, total, what comes now). Raises InputError for damaged runs; what is only missing is left out,
    and why is said.
    """
    benches = _Benches(run, source)
    findings = []
    for at, setting in enumerate(settings):
        mask = setting.mask(run)
        tell(3 * at, 3 * len(settings), f"{setting.name}: dev score")
        score, bench, why = exact(run, setting, mask, benches)
        tell(3 * at + 1, 3 * len(settings), f"{setting.name}: which answers change")
        flips = None
        if bench:
            try:
                flips = benches.known.against(bench.outputs(mask, setting.cut.repaired), mask.sparsity)
            except InputError as error:
                why = str(error)
        tell(3 * at + 2, 3 * len(settings), f"{setting.name}: speedup")
        speed = speedup(run, setting, mask, measured, profile)
        findings.append(Finding(setting, mask, score or predicted(run, setting, mask), speed, flips,
                                "" if flips else why.partition("; give --data ")[0].rstrip(".")))
    tell(3 * len(settings), 3 * len(settings), "writing")
    return findings


class _Benches:
    """The weights of each stage that is asked about, loaded once; the uncut answers likewise."""

    def __init__(self, run: Run, source: str | None):
        self.run, self.source, self._there, self._known = run, source, {}, None

    def of(self, stage: str) -> Bench:
        """Raises InputError where weights or data are not there."""
        if stage not in self._there:
            dense = {known: bench for known, bench in self._there.items() if known == DENSE}  # the last other one goes
            self._there = dense | {stage: Bench(self.run, stage, self.source)}
        return self._there[stage]

    @property
    def known(self) -> UncutAnswers:
        """Raises InputError likewise."""
        self._known = self._known or UncutAnswers(self.of("dense"))
        return self._known


def exact(
    run: Run, setting: Setting, mask: BlockMask, benches: _Benches,
) -> tuple[ReportedScore | None, Bench | None, str]:
    """(the exact score, what answered, else why nothing did). The score of a stage is recorded with the run."""
    snapshot = run.snapshots[setting.at]
    score = _recorded(run, setting, mask)
    if not snapshot.saved:
        return None, None, "weights are kept for stages only"
    try:
        bench = benches.of(snapshot.saved)
    except RunError as error:
        return score, None, str(error).partition(";")[0]
    except InputError as error:
        return score, None, str(error)
    answer = evaluate(run, snapshot.saved, setting.cut, bench=bench)
    return ReportedScore(answer["score"], answer["low"], answer["high"], answer["examples"], True), bench, ""


def _recorded(run: Run, setting: Setting, mask: BlockMask) -> ReportedScore | None:
    """The score that the run itself took of these weights, if nothing more is cut of them."""
    snapshot = run.snapshots[setting.at]
    if not snapshot.saved or not snapshot.scores or setting.cut.repaired:
        return None
    if abs(mask.sparsity - snapshot.point["sparsity"]) > 1e-9:
        return None
    value, low, high = snapshot.scores[run.metric], None, None
    if snapshot.surface and snapshot.surface_examples == snapshot.examples:
        first = min(snapshot.surface, key=lambda point: point.wanted)
        if abs(first.sparsity - mask.sparsity) < 1e-9 and abs(first.score - value) < 1e-6:
            low, high = first.low, first.high
    return ReportedScore(value, low, high, snapshot.examples, True)


def predicted(run: Run, setting: Setting, mask: BlockMask) -> ReportedScore | None:
    """The score read off the surface that was recorded for such cuts; None where there is none."""
    surface, snapshot = setting.surface(run), run.snapshots[setting.at]
    if not surface:
        return None
    return ReportedScore(*predict(surface, mask.sparsity), snapshot.surface_examples or snapshot.examples, False)


def speedup(
    run: Run, setting: Setting, mask: BlockMask, measured: bool, profile: Profile | None,
) -> ReportedSpeed | None:
    """As it was measured here for this mask, or is now; else predicted; None where neither can be."""
    saved, timings = run.snapshots[setting.at].saved, _timings(run, mask)
    if not timings and measured and saved:
        try:
            timings = [measure(run, saved, setting.cut, BATCH)]
        except InputError:
            pass  # a length that this model has no positions for: then it is predicted
    if timings:
        last = timings[-1]
        return ReportedSpeed(last["speedup"], BATCH, last["threads"], last["machine"]["cpu"],
                             last["dense_ms"], last["compact_ms"])
    if profile:
        return ReportedSpeed(profile.speedup(mask, BATCH, run.heads), BATCH, profile.threads,
                             profile.machine.get("cpu", "an unknown processor"),
                             profile.dense_ms(run.layout, BATCH), profile.compact_ms(mask, BATCH, run.heads),
                             profile.error)
    return None


def _timings(run: Run, mask: BlockMask) -> list[dict]:
    """What was measured of this mask on this processor, in torch, fp32, for BATCH; the latest last."""
    digest, cpu = mask.digest(), machine()["cpu"]
    return [timing for timing in run.answers.timings()
            if timing.get("mask") == digest and (timing["batch"], timing["length"]) == (BATCH.batch, BATCH.length)
            and (timing["dtype"], timing["engine"]) == ("fp32", "torch") and timing["machine"]["cpu"] == cpu]
