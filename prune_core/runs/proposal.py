"""Which cut to make for a loss, a speedup or a compression: a search that is decided by exact scores. Numpy only.

    search = proposal.search(run, stage, Aim(loss=0.01), profile)
    asked = next(search)                                   a Step: which cut to score next
    asked = search.send({"score": ..., "low": ..., "high": ...})    ... until StopIteration.value is the Proposal

Who asks scores the cuts: a page through its scoring process, a command with a Bench.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prune_core import InputError
from prune_core.cutting import allocate
from prune_core.cutting.answers import SurfacePoint, predict
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import Norms, by_scope, mask_at, thresholds_for, zero_share
from prune_core.latency.profile import PLAIN, Batch, Foretold, Profile
from prune_core.machine import machine
from prune_core.methods.rankings import RANKINGS
from prune_core.runs.run import Run

EACH, ALL = 4, 12  # exact scores of one way to cut, of all ways, where a loss is given
MOST = 0.98  # of the weights are cut at most
CLOSE = 0.01  # between the largest share that keeps within a loss and the smallest that does not
SETTING = Batch(32, 128)  # what a speedup is for
PARTS = {"layer": "layers", "matrix": "matrices", "type": "types"}


@dataclass(frozen=True)
class Aim:
    """One of: at most this loss of the dense score (0.01 is a point), at least this speedup or encoder compression."""

    loss: float | None = None
    speedup: float | None = None
    compression: float | None = None

    def __post_init__(self):
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise InputError("needed: one of a loss, a speedup and a compression")
        (name, value), = given.items()
        low, high = (0, 1) if name == "loss" else (1, 1000)
        if not low <= value <= high:
            needed = "0 to 100 points" if name == "loss" else "1 to 1000"
            raise InputError(f"{name} {100 * value if name == 'loss' else value:g} is out of range; needed: {needed}")

    @property
    def name(self) -> str:
        return next(name for name, value in vars(self).items() if value is not None)


@dataclass(frozen=True)
class Candidate:
    """A cut by thresholds, with its size, and its exact score once it has one."""

    how: str  # what decides where is cut, in words
    cut: Cut
    sparsity: float
    compression_encoder: float
    compression_model: float
    speedup: float | None  # predicted
    score: float | None = None
    low: float | None = None  # 95% interval
    high: float | None = None
    loss: float | None = None  # dense score - score
    fast: Foretold | None = None  # what that speedup is over, in which precision, on which machine

    def to_json(self) -> dict:
        cut, plain = self.cut, {name: value for name, value in vars(self).items() if name not in ("cut", "fast")}
        return {**plain, "fast": self.fast and self.fast._asdict(), "scope": cut.scope, "by": cut.ranking,
                "repaired": cut.repaired, "thresholds": dict(cut.thresholds)}


@dataclass(frozen=True)
class Step:
    """This candidate is to be scored next, after `done` others of at most `total`."""

    done: int
    total: int
    candidate: Candidate


@dataclass(frozen=True)
class Proposal:
    """All candidates as they were scored, and the best; None where none keeps within the loss."""

    aim: Aim
    dense: float
    candidates: tuple[Candidate, ...]
    best: Candidate | None

    def words(self) -> str:
        """One sentence: the best of them, or that there is none."""
        if self.best is None:
            mildest = min(self.candidates, key=lambda candidate: candidate.loss)
            return (f"No cut within {100 * self.aim.loss:g} points was found: the mildest that was scored, "
                    f"{mildest.sparsity:.1%} zero, loses {100 * mildest.loss:.1f} points.")
        best, points = self.best, 100 * self.best.loss
        side = f"{abs(points):.1f} points {'below' if points > 0 else 'above'} dense"
        side = side if round(points, 1) else "as dense"
        faster, alike = (f", {best.fast.words}", best.fast.dtype == PLAIN) if best.fast else ("", True)
        return (f"Best: {best.how}, {best.sparsity:.1%} zero, {best.compression_encoder:.2f}x compression; "
                f"exact {'' if alike else f'in {PLAIN} '}{best.score:.4f}, {side}{faster}.")


@dataclass
class Way:
    """One way to cut, at any share: what of it was scored."""

    how: str
    cut: Cut  # its scope, ranking and repair
    ranking: Norms
    thresholds: Callable[[float], Mapping[str, float]]  # of a share of all prunable weights; raises InputError
    surface: Sequence[SurfacePoint] | None
    dtype: str  # that its speedups are for
    scored: list[tuple[float, float]] = field(default_factory=list)  # (share, score), rising
    over: bool = False  # what it would cut next is what another way has cut

    def within(self, limit: float) -> float:
        """The largest share that scored at least `limit`."""
        return max(share for share, score in self.scored if score >= limit)

    def at(self, run: Run, share: float, profile: Profile | None) -> Candidate:
        """The cut of this share. Raises InputError where it does not reach that far."""
        thresholds = dict(self.thresholds(share))
        mask = mask_at(self.ranking, run.layout, thresholds, self.cut.scope)
        fast = (profile.foretold(mask, SETTING, run.heads, machine(), self.dtype)
                if profile and mask.kept_weights else None)
        return Candidate(self.how, replace(self.cut, thresholds=tuple(thresholds.items())), mask.sparsity,
                         mask.compression_encoder, mask.compression_model, fast and fast.speedup, fast=fast)


Search = Generator[Step, Mapping, Proposal]


def search(run: Run, stage: str, aim: Aim, profile: Profile | None = None, repaired: bool = False,
           dtype: str = "auto") -> Search:
    """Yields what to score, is sent {score, low, high} in fp32, returns the Proposal; speedups are for `dtype`.

    Ways to cut: by norm with one threshold or the same share of each matrix, by each other recorded ranking, by the
    recorded sensitivities. Raises InputError where no cut reaches the aim, saying what can be reached.
    """
    run.weights_file(stage)
    dense, own = run.dense_score, run.snapshots[run.saved(stage)].scores[run.metric]
    zeros = zero_share(run.ranking(stage), run.layout)
    known = ways(run, stage, own, repaired, dtype)
    if aim.name == "loss":
        return _within(run, aim, dense, own, zeros, known, profile)
    if aim.name == "speedup" and profile is None:
        raise InputError("no latency profile is here, so no speedup can be predicted; "
                         "make one with: python -m prune_core calibrate")
    return _reaching(run, aim, dense, zeros, known, profile)


def ways(run: Run, stage: str, own: float, repaired: bool, dtype: str) -> list[Way]:
    """What makes sense for the weights of this stage: rankings that do not compare matrices cut the same of each."""
    surfaces, layout, found = run.surfaces(stage), run.layout, []
    for name in run.rankings(stage):
        ranking, row = run.ranking(stage, name), RANKINGS[name]
        for scope in ("global", "matrix") if name == "norm" else ("global",) if row.compares_matrices else ("matrix",):
            cut = Cut(scope, None, (), name, repaired)
            where = "one threshold" if scope == "global" else "the same share of each matrix"
            found.append(Way(f"by {row.label}, {where}", cut, ranking,
                             lambda share, ranking=ranking, scope=scope: thresholds_for(ranking, layout, share, scope),
                             surfaces.get(cut.kind), dtype))
    points, norms = run.sensitivity(stage), run.ranking(stage)
    for scope in _sensitivities(run, stage):
        found.append(Way(f"by norm, sensitive {PARTS[scope]} cut less", Cut(scope, None, (), "norm", repaired),
                         norms, lambda share, scope=scope: allocate.cheapest(norms, layout, points, scope,
                                                                             1 / (1 - share), own), None, dtype))
    return found


def _sensitivities(run: Run, stage: str) -> list[str]:
    """Kinds of parts of which each one's cost of cutting it alone was recorded."""
    points = run.sensitivity(stage)
    return [scope for scope in ("layer", "matrix", "type")
            if {p.key for p in points if p.scope == scope} >= by_scope(run.layout, scope).keys()]


# ---------------------------------------------------------------- at least this speedup or compression


def _reaching(run: Run, aim: Aim, dense: float, zeros: float, known: Sequence[Way], profile: Profile | None) -> Search:
    """The least cut of every way that reaches the aim, each scored once."""
    wanted = aim.speedup or aim.compression

    def value(candidate: Candidate) -> float:
        return (candidate.speedup if aim.speedup else candidate.compression_encoder) or 0.0

    nothing = known[0].at(run, 0.0, profile)
    if value(nothing) >= wanted * (1 - 1e-9):
        raise InputError(f"these weights already have {zeros:.1%} zero and so {_said(aim, value(nothing))}; "
                         f"asked was {_said(aim, wanted)}; ask for more")
    found, most = [], 0.0
    for way in known:
        candidate, reached = _least(way, run, wanted, value, zeros, profile)
        most = max(most, reached)
        found += [candidate] if candidate else []
    if not found:
        raise InputError(f"no cut of these weights reaches {_said(aim, wanted)}; the most is {_said(aim, most)}")
    return _score_each(aim, dense, found)


def _score_each(aim: Aim, dense: float, found: Sequence[Candidate]) -> Search:
    scored = []
    for candidate in found:
        scored.append(answered(candidate, (yield Step(len(scored), len(found), candidate)), dense))
    best = max(scored, key=lambda one: (one.score, -one.sparsity))  # of equals the one that cuts less for the same aim
    return Proposal(aim, dense, tuple(scored), best)


def _said(aim: Aim, value: float) -> str:
    """'2x the speed (predicted)'."""
    return f"{value:.3g}x the speed (predicted)" if aim.speedup else f"a compression of {value:.3g}x"


def _least(way: Way, run: Run, wanted: float, value: Callable[[Candidate], float], zeros: float,
           profile: Profile | None) -> tuple[Candidate | None, float]:
    """(the least cut of this way with the wanted value, the most it reaches); by halving the share in between."""
    low, high, best, most, share = zeros, MOST, None, 0.0, MOST
    for _ in range(11):
        try:
            candidate = way.at(run, share, profile)
            most = max(most, value(candidate))
            enough = value(candidate) >= wanted * (1 - 1e-9)
        except InputError:  # sensitivities were recorded up to some share only
            candidate, enough = None, best is None
        if enough:
            best, high = candidate, share
        elif share == MOST:
            return None, most
        else:
            low = share
        share = (low + high) / 2
    return best, most


# ---------------------------------------------------------------- at most this loss


def _within(run: Run, aim: Aim, dense: float, own: float, zeros: float, known: Sequence[Way],
            profile: Profile | None) -> Search:
    """The largest cut of each way that keeps within the loss, each scored at most EACH times, all together ALL times.

    Each way begins where its surface meets the limit; then always the way that promises most is scored again.
    """
    if own < dense - aim.loss - 1e-9:
        short = math.ceil(1000 * (dense - own) - 1e-6) / 10
        raise InputError(f"these weights lose {short:.1f} points of dense with nothing more cut; asked was at most "
                         f"{100 * aim.loss:g}, so allow {short:.1f} or more")
    return _narrow(run, aim, dense, own, zeros, known, profile)


def _narrow(run: Run, aim: Aim, dense: float, own: float, zeros: float, known: Sequence[Way],
            profile: Profile | None) -> Search:
    scored: list[Candidate] = []
    limit = dense - aim.loss - 1e-9
    for way in known:
        way.scored = [(zeros, own)]
    while len(scored) < ALL and (found := _promising(known, limit, zeros)):
        share, way = found
        try:
            candidate = way.at(run, share, profile)
        except InputError:  # sensitivities were recorded up to some share only
            way.scored = sorted([*way.scored, (share, -math.inf)])
            continue
        if candidate.sparsity <= zeros or any(one.cut == candidate.cut for one in scored):
            way.over = True
            continue
        scored.append(answered(candidate, (yield Step(len(scored), ALL, candidate)), dense))
        way.scored = sorted([*way.scored, (share, scored[-1].score)])
    if not scored:
        raise InputError(f"these weights already have {zeros:.1%} zero; nothing more can be cut of them")
    inside = [one for one in scored if one.score >= limit]
    best = max(inside, key=lambda one: (round(one.sparsity, 3), one.score), default=None)
    return Proposal(aim, dense, tuple(scored), best)


def _promising(known: Sequence[Way], limit: float, zeros: float) -> tuple[float, Way] | None:
    """(share, way) to score next; None where none is left.

    Every way once, those with a surface first, unless that says that another cuts more; then what would cut most.
    """
    again = [(share, way) for way in known if len(way.scored) > 1 and not way.over
             and (share := _next(way, limit, zeros)) is not None]
    within = max(way.within(limit) for way in known)
    reach = max([within, *(share for share, way in again if way.surface)])  # what one of them cuts, or soon will
    begun = any(len(way.scored) > 1 for way in known)
    fresh = [(way.surface is not None, _start(way, limit, zeros, reach if begun else None), way)
             for way in known if len(way.scored) == 1 and not way.over]
    fresh = [(share, way) for recorded, share, way in sorted(fresh, key=lambda one: (one[0], one[1]), reverse=True)
             if not recorded or not begun or share > reach - CLOSE]
    if fresh:
        return fresh[0]
    better = [(share, way) for share, way in again if share > within + CLOSE / 4]
    return max(better, key=lambda pair: pair[0], default=None)


def _next(way: Way, limit: float, zeros: float) -> float | None:
    """The share of this way to score next; None where it has been scored enough."""
    low = way.within(limit)
    beyond = [(share, score) for share, score in way.scored if share > low]
    high, after = beyond[0] if beyond else (MOST, None)
    if len(way.scored) > EACH or high - low < CLOSE:
        return None
    if way.surface:
        share = _crossing(way, limit, zeros)
        return min(max(share, low + (high - low) / 10), high - CLOSE / 2) if beyond else min(high, max(
            share, low + CLOSE))
    before, own = dict(way.scored)[low], way.scored[0][1]
    if not beyond:  # half of what is left where nothing was lost so far, less the more of what may be lost is
        left = (before - limit) / (own - limit) if own > limit else 0.0
        return low + (high - low) * min(0.5, max(0.1, left / 2))
    straight = (before - limit) / (before - after) if before > after else 0.5  # where a line between both meets it
    return low + (high - low) * min(0.75, max(0.25, straight))


def _start(way: Way, limit: float, zeros: float, largest: float | None) -> float:
    """Where the recorded surface last is within the limit; without one, what another way has reached (`largest`)."""
    if way.surface is None:
        return zeros + 0.2 * (1 - zeros) if largest is None else max(largest, zeros + CLOSE)
    return _crossing(way, limit, zeros)


def _crossing(way: Way, limit: float, zeros: float) -> float:
    """Where the surface last is within the limit, moved up or down to what was scored nearest to there."""
    shares = np.linspace(zeros, 0.95, 400)
    heights = np.array([predict(way.surface, share)[0] for share in shares])
    scored = [(abs(score - limit), score - predict(way.surface, share)[0])
              for share, score in way.scored if share > zeros and score >= 0]
    heights += min(scored, default=(0.0, 0.0))[1]
    within = shares[heights >= limit]
    return float(within[-1]) if len(within) and within[-1] > zeros + CLOSE else min(MOST, zeros + 3 * CLOSE)


def answered(candidate: Candidate, answer: Mapping, dense: float) -> Candidate:
    """The candidate with its exact score."""
    return replace(candidate, loss=dense - answer["score"], **{name: answer[name] for name in ("score", "low", "high")})


def usual(run: Run, stage: str, aim: Aim) -> int:
    """About how many exact scores a search takes; where a loss is given, half of the most."""
    return ALL // 2 if aim.name == "loss" else 1 + len(run.rankings(stage)) + len(_sensitivities(run, stage))
