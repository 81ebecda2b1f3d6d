"""What a study costs on paper: hours of one device, of several, of a cluster, from the seconds that one step takes.

    T = dense + rounds x each     rounds = settings / groups, rounded up; groups of d devices share the batches of a run
    a step on d devices = seconds / d + 2 (d - 1) / d x 4 bytes x trained parameters / link     (a ring of gradients)

The seconds of a step are measured, never assumed: by whoever has the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from prune_core import InputError

FP32 = 4


@dataclass(frozen=True)
class Study:
    """Settings on one task: dense weights are made once, then each setting has its own epochs."""

    examples: int
    batch: int = 32
    dense_epochs: float = 4
    epochs: float = 10
    settings: int = 20

    @property
    def dense(self) -> int:
        """Steps of the dense stage."""
        return self._steps(self.dense_epochs)

    @property
    def each(self) -> int:
        """Steps of one setting."""
        return self._steps(self.epochs)

    @property
    def steps(self) -> int:
        """Of everything."""
        return self.dense + self.settings * self.each

    def _steps(self, epochs: float) -> int:
        return math.ceil(epochs * math.ceil(self.examples / self.batch))


MNLI = Study(392_702)  # its training set; epochs as the preset `full` has them: 4, then 6 and 4


@dataclass(frozen=True)
class Cost:
    """Hours until all is there, hours that devices work or wait together, and how many share a run."""

    hours: float
    device_hours: float
    shared_by: int


def step(seconds: float, devices: int, trained: int, link: float) -> float:
    """Seconds of a step whose batch so many devices share; `link`: gigabytes a second between two of them."""
    exchange = 2 * (devices - 1) / devices * FP32 * trained / (1e9 * link) if devices > 1 else 0.0
    return seconds / devices + exchange


def cost(study: Study, seconds: float, devices: int, trained: int, link: float = 10.0) -> Cost:
    """Of a study on so many devices, each run shared by as many as makes it soonest. Raises InputError."""
    for name, value in (("seconds a step", seconds), ("devices", devices), ("link", link)):
        if not value > 0:
            raise InputError(f"{name} {value:g} is out of range; needed: more than 0")
    shares = [d for d in range(1, devices + 1) if study.batch % d == 0]
    dense = study.dense * min(step(seconds, d, trained, link) for d in shares)
    times = {d: math.ceil(study.settings / (devices // d)) * study.each * step(seconds, d, trained, link)
             for d in shares}
    best = min(times, key=times.get)
    hours = (dense + times[best]) / 3600
    return Cost(hours, hours * devices, best)
