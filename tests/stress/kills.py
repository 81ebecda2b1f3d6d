"""kill -9 in every phase, in everything that is done there, and in the middle of every kind of file."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run
from safetensors.torch import load_file
from stress.child import Moment, live

RESUMING = ("resuming", "half a line", 0)  # comes in no run that nothing happens to


def loads(path: Path) -> int:
    """How many snapshots it has, all of whose norms and weights were read. Raises where one does not load."""
    run = Run(path)
    for at in run.with_norms:
        run.norms(at)
    for name in run.saved_names:
        load_file(run.weights_file(name))
    return len(run.snapshots)


def begun_alike(one: Run, whole: Run) -> bool:
    """Every snapshot so far with its norms, and all weights byte for byte."""
    count = len(one.snapshots)
    if one.snapshots != whole.snapshots[:count] or one.with_norms != [at for at in whole.with_norms if at < count]:
        return False
    norms = all(np.array_equal(values, whole.norms(at)[name])
                for at in one.with_norms for name, values in one.norms(at).items())
    return norms and all(one.weights_file(name).read_bytes() == whole.weights_file(name).read_bytes()
                         for name in one.saved_names)


def same(one: Path, other: Path) -> bool:
    """Every snapshot, all norms, all weights byte for byte, the points."""
    a, b = Run(one), Run(other)
    equal = len(a.snapshots) == len(b.snapshots) and begun_alike(a, b)
    return equal and (a.result or {}).get("points") == b.result["points"]


def chosen(moments: Sequence[Moment], chance: random.Random) -> list[Moment]:
    """One moment of everything that is done in each phase, drawn by chance, in the order of the run."""
    groups: dict[tuple[str, str], list[int]] = {}
    for at, (phase, doing, _) in enumerate(moments):
        groups.setdefault((phase, doing), []).append(at)
    picked = [moments[at] for at in sorted(chance.choice(places) for places in groups.values())]
    middle = len(picked) // 2
    return [*picked[:middle], RESUMING, *picked[middle:]]


class Victim:
    """A run that is killed over and over."""

    def __init__(self, config: PruneConfig, folder: Path, name: str):
        self.config, self.folder, self.name, self.path = config, folder, name, folder / name

    def killed(self, moment: Moment, whole: Run) -> str:
        """Go on until it kills itself there: '' where all that it left is well, else what is wrong."""
        if not live(self.config, self.folder, self.name, kill_at=moment).killed:
            return "it came through"
        if not self.path.exists():
            return "" if moment[0] == "starting" else "its folder is gone"
        run = Run(self.path)
        if run.status != ("complete" if run.result else "interrupted"):
            return f"it is shown as {run.status}"
        loads(self.path)
        return "" if begun_alike(run, whole) else "what it left is not what the whole run has"


def kills(config: PruneConfig, folder: Path, rounds: int, what: str) -> Iterator[dict]:
    """In each round one run, killed once in everything that it does, each time resumed.

    At its end it must be the run that nothing happened to.
    """
    chance = random.Random(0)
    start = time.monotonic()
    end = live(config, folder, "whole")
    yield {"what": f"{what}: the run that nothing happens to", "figure": time.monotonic() - start, "unit": "s",
           "ok": end.error is None, "needed": end.error or ""}
    if end.error:
        return
    whole = Run(folder / "whole")
    done, hit, wrong, endings, equal = 0, set(), [], [], []
    for number in range(rounds):
        victim = Victim(config, folder, f"victim-{number}")
        moments = chosen(end.passed, chance)
        for moment in moments:
            bad = victim.killed(moment, whole)
            done += 1
            hit |= {moment[:2]} if not bad else set()
            wrong += [f"{moment}: {bad}"] if bad else []
        endings.append(live(config, folder, victim.name).error)
        equal.append(endings[-1] is None and same(victim.path, folder / "whole"))
    yield {"what": f"{what}: kill -9 at chosen moments; dead, it is shown as interrupted, and what it left is right",
           "figure": done - len(wrong), "unit": f"of {done}", "ok": not wrong, "needed": "; ".join(wrong)}
    doings = {moment[:2] for moment in moments}
    missed = "; ".join(f"{phase}: {doing}" for phase, doing in sorted(doings - hit))
    yield {"what": f"{what}: all that is done in all phases was hit", "figure": len(hit), "unit": f"of {len(doings)}",
           "ok": hit == doings, "needed": missed or "each once a round"}
    yield {"what": f"{what}: resumed to the end, bit for bit the run that nothing happened to", "figure": sum(equal),
           "unit": f"of {rounds}", "ok": all(equal), "needed": "; ".join(filter(None, endings))}
