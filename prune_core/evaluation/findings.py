"""What a report says of settings, gathered: exact scores, measured speedups and lost answers, else predictions.

What is exact or measured needs weights and data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prune_core import InputError
from prune_core.cutting.answers import Flips, predict
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation import arithmetic
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.exact import evaluate
from prune_core.evaluation.flips import UncutAnswers
from prune_core.evaluation.speedup import measure_in_turn
from prune_core.execution import paths
from prune_core.execution.paths import Choice
from prune_core.latency import apart
from prune_core.latency.profile import Batch, Profile
from prune_core.machine import machine
from prune_core.precision import formats
from prune_core.precision.storage import storage
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.runs.stages import DENSE
from prune_core.showing.report.finding import Finding, ReportedScore, ReportedSpeed

BATCH = Batch()  # what speedups are for


Pair = tuple[Run, Setting]


def find(
    run: Run, settings: Sequence[Setting], source: str | None = None, measured: bool = True,
    profile: Profile | None = None, tell: Callable[[int, int, str], None] = lambda done, total, doing: None,
    dtype: str = "fp32", taken: Callable[[Choice], None] = lambda choice: None,
) -> list[Finding]:
    """What `across` finds, of settings of one run."""
    return across([(run, setting) for setting in settings], source, measured, profile, tell, dtype, taken)


def across(
    pairs: Sequence[Pair], source: str | None = None, measured: bool = True, profile: Profile | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, doing: None, dtype: str = "fp32",
    taken: Callable[[Choice], None] = lambda choice: None,
) -> list[Finding]:
    """One for each setting, of whatever runs. `measured`: all speedups are measured now, in one sitting; else `profile`
    predicts all of them.

    `tell` gets (done, total, what comes now). Scores are taken and speedups measured in the arithmetic `dtype`; `taken`
    is told what that comes to here, before. Raises InputError for damaged runs; what is only missing is left out, and
    why is said.
    """
    taken(paths.choose(dtype))
    count, masks = len(pairs), [setting.mask(run) for run, setting in pairs]
    by_run: dict[str, list[int]] = {}  # its weights are loaded once, and those of one run at a time
    for at, (run, _) in enumerate(pairs):
        by_run.setdefault(str(run.path), []).append(at)
    known, done = {}, 0
    for places in by_run.values():
        benches = _Benches(pairs[places[0]][0], source)
        for at in places:
            known[at] = _answers(*pairs[at], masks[at], benches, dtype,
                                 lambda what, more, before=done: tell(before + more, 3 * count, what))
            done += 2
    tell(2 * count, 3 * count, "the speedups, measured in turn" if measured else "the speedups")
    speeds = speedups(pairs, masks, measured, profile, dtype)
    tell(3 * count, 3 * count, "writing")
    made = []
    for at, ((run, setting), mask, speed) in enumerate(zip(pairs, masks, speeds, strict=True)):
        score, flips, why = known[at]
        size = storage(mask, formats.parse(setting.cut.formats, run.layout), run.embeddings).bytes
        made.append(Finding(setting, mask, score, speed, flips, why.partition("; give --data ")[0].rstrip("."), size,
                            run))
    return made


def _answers(run: Run, setting: Setting, mask: BlockMask, benches: _Benches, dtype: str,
             tell: Callable[[str, int], None]) -> tuple[ReportedScore | None, Flips | None, str]:
    """(score, which answers change, why that is not known) of one setting."""
    tell(f"{setting.name}: dev score", 0)
    score, bench, why = exact(run, setting, mask, benches, dtype)
    tell(f"{setting.name}: which answers change", 1)
    flips = None
    if bench:
        try:
            flips = benches.known.against(bench.outputs(mask, setting.cut.repaired, dtype), mask.sparsity)
        except InputError as error:
            why = str(error)
    return score or predicted(run, setting, mask), flips, "" if flips else why


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
    run: Run, setting: Setting, mask: BlockMask, benches: _Benches, dtype: str = "fp32",
) -> tuple[ReportedScore | None, Bench | None, str]:
    """(the exact score, what answered, else why nothing did). The score of a stage, in fp32, is recorded with the run.
    """
    snapshot = run.snapshots[setting.at]
    score = _recorded(run, setting, mask)
    if not snapshot.saved:
        return None, None, "weights are kept at the end of a phase only"
    try:
        bench = benches.of(snapshot.saved)
    except InputError as error:
        if isinstance(error, RunError) and not run.has_weights(snapshot.saved):
            return score, None, f"the weights of {snapshot.saved} are not in this copy"
        return score, None, str(error).partition(";")[0] if isinstance(error, RunError) else str(error)
    answer = evaluate(run, snapshot.saved, setting.cut, bench=bench, dtype=dtype)
    return ReportedScore(answer["score"], answer["low"], answer["high"], answer["examples"], True,
                         arithmetic.named(answer["executed"])), bench, ""


def _recorded(run: Run, setting: Setting, mask: BlockMask) -> ReportedScore | None:
    """The score that the run itself took of these weights, if nothing more is cut of them."""
    snapshot = run.snapshots[setting.at]
    if not snapshot.saved or not snapshot.scores or setting.cut.repaired:
        return None
    if abs(mask.sparsity - snapshot.blocks) > 1e-9 or setting.cut.formats != run.trained_formats(snapshot.saved):
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


def speedups(
    pairs: Sequence[Pair], masks: Sequence[BlockMask], measured: bool, profile: Profile | None, dtype: str = "fp32",
) -> list[ReportedSpeed | None]:
    """Of one kind for all: measured now, in one sitting, in `dtype`, else predicted for it; None where neither can be.

    What was measured before is not used: the machine may have been busier then.
    """
    if measured:
        try:
            timings = measure_in_turn(pairs, BATCH, dtype=dtype)
        except InputError:
            pass  # a length that this model has no positions for, or a checkpoint that is gone: then it is predicted
        else:
            return [_measured(timing, run, mask, profile)
                    for timing, (run, _), mask in zip(timings, pairs, masks, strict=True)]
    return [profile and _foretold(run, mask, profile, dtype) for (run, _), mask in zip(pairs, masks, strict=True)]


def _foretold(run: Run, mask: BlockMask, profile: Profile, dtype: str) -> ReportedSpeed:
    """As the profile predicts it, over the dense engine that it predicts to be the best."""
    rival, ms = profile.best_rival(run.layout, BATCH)
    taken = profile.path_of(dtype, mask, BATCH, run.heads)
    return ReportedSpeed(ms / taken.ms, BATCH, profile.threads, profile.machine.get("cpu", "an unknown processor"), ms,
                         taken.ms, profile.paths[taken.path].error, rival=rival, mark=profile.elsewhere(machine()),
                         arithmetic=arithmetic.named({"dtype": taken.dtype, "path": taken.path}))


def _measured(timing: dict, run: Run, mask: BlockMask, profile: Profile | None) -> ReportedSpeed:
    """As it was measured; where that is far from what is predicted, with what is known of why."""
    why = apart.why(timing, apart.foretold(timing, mask, profile, run.heads), profile, run.layout) if profile else ""
    rival = timing["best_rival"]
    return ReportedSpeed(timing["speedup_over_best"], BATCH, timing["threads"], timing["machine"]["cpu"],
                         timing["rivals_ms"][rival], timing["compact_ms"], apart=why, busy=bool(apart.busy(timing)),
                         arithmetic=arithmetic.named(timing["executed"]), rival=rival)
