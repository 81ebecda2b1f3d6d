"""What a report is asked for, and what was found out about each of its settings."""

from __future__ import annotations

from dataclasses import dataclass

from prune_core import InputError
from prune_core.cutting.answers import Flips
from prune_core.cutting.masks import BlockMask
from prune_core.latency.profile import Batch
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting

AUDIENCES, FORMS = ("short", "technical"), ("report", "markdown", "both")
LIMITS = {"title": 120, "words": 1200}  # characters, so that it stays two pages


@dataclass(frozen=True)
class Request:
    """What the person wants: a title, for whom, in their own words; how much score may be lost (0.01: one point).

    `better`: the result of another run that does better, in words; '' where none does. `dtype`: the arithmetic that
    was asked for, of scores and measured speedups.
    """

    title: str = ""
    audience: str = "short"
    words: str = ""
    allowed: float = 0.01
    better: str = ""
    dtype: str = "fp32"

    def __post_init__(self):
        if self.audience not in AUDIENCES:
            raise InputError(f"audience {self.audience!r} is unknown; one of {', '.join(AUDIENCES)}")
        for name, most in LIMITS.items():
            if (length := len(getattr(self, name))) > most:
                raise InputError(f"the {name} {'is' if name == 'title' else 'are'} {length:,} characters long; "
                                 f"at most {most:,} fit on two pages")
        if not 0 <= self.allowed <= 1:
            raise InputError(f"allowed loss {self.allowed:g} is out of range; needed: 0 to 1 (0.01 is one point)")


@dataclass(frozen=True)
class ReportedScore:
    """A dev score: exact (of all `examples`, or recorded with the run), or predicted from the recorded surface.

    `low` and `high` are None where there is no interval. `arithmetic`: what it was taken in, "bf16 (bf16 avx512)".
    """

    value: float
    low: float | None
    high: float | None
    examples: int
    exact: bool
    arithmetic: str = "fp32"


@dataclass(frozen=True)
class ReportedSpeed:
    """Dense / compact latency: measured, with both medians, or predicted by the latency model, with its error.

    `rival`: the engine that the dense model runs in; `mark`: of a prediction for another machine than made the report.
    """

    value: float
    batch: Batch
    threads: int
    cpu: str
    dense_ms: float
    compact_ms: float
    error: float | None = None  # median, of a prediction
    apart: str = ""  # of a measurement far from what is predicted: why, as far as that is known
    busy: bool = False  # whether other programs were at work when it was measured
    arithmetic: str = "fp32"  # of the compact model
    rival: str = "torch fp32"
    mark: str = ""

    @property
    def kind(self) -> str:
        """'measured', 'predicted', 'predicted on AMD EPYC, not this machine'."""
        return "measured" if self.measured else f"predicted {self.mark}".strip()

    @property
    def each_ms(self) -> tuple[float, float]:
        """(dense, compact) milliseconds for one sentence of the batch."""
        return self.dense_ms / self.batch.batch, self.compact_ms / self.batch.batch

    @property
    def measured(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class Finding:
    """All that is known of one setting. `run`: that it is a setting of; None for the one that the report is of."""

    setting: Setting
    mask: BlockMask
    score: ReportedScore | None
    speed: ReportedSpeed | None
    flips: Flips | None
    why_no_flips: str = ""
    bytes: int | None = None  # of the whole model, packed
    run: Run | None = None
