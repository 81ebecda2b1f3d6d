"""What a report is asked for, and what was found out about each of its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from prune_core import InputError
from prune_core.cutting.answers import Flips
from prune_core.cutting.masks import BlockMask
from prune_core.latency.profile import Batch
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting

AUDIENCES = ("short", "technical")
FORMS = ("report", "markdown", "both", "slides", "pptx", "all")
LIMITS = {"title": 120, "words": 1200}  # characters, so that it stays two pages


@dataclass(frozen=True)
class Price:
    """What an hour of a machine costs, in whatever currency was typed."""

    amount: float
    currency: str

    @classmethod
    def parse(cls, text: str) -> Price | None:
        """Of '0.40 EUR', '$0.40 per hour' or '0,40 €'; None of ''. Raises InputError."""
        if not text.strip():
            return None
        said = re.fullmatch(r"([^\d\s.,/+-]{0,8})\s*(\d{1,9}(?:[.,]\d{1,4})?)\s*([^\d\s.,/+-]{0,8})", _per_hour(text))
        if said is None or bool(said[1]) == bool(said[3]) or re.search(r",\d{3}", said[2]):
            raise InputError(f"price {text[:40]!r} cannot be read; needed: a number and a currency, as in '0.40 EUR'")
        if not 0 < (amount := float(said[2].replace(",", "."))) <= 1e6:
            raise InputError(f"price {amount:g} an hour is out of range; needed: more than 0, at most a million")
        return cls(amount, said[1] or said[3])

    def words(self, hours: float) -> str:
        """What so many hours cost: '0.33 EUR'."""
        cost = self.amount * hours
        return f"{cost:,.2f} {self.currency}" if cost >= 0.1 else f"{cost:.2g} {self.currency}"


def _per_hour(text: str) -> str:
    return re.sub(r"\s*(/\s*h(our)?|(per|an|a) hour)\s*$", "", text.strip(), flags=re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What the person wants: a title, for whom, in their own words; how much score may be lost (0.01: one point).

    `better`: the result of another run that does better, in words; '' where none does. `dtype`: the arithmetic that
    was asked for, of scores and measured speedups. `price`: of an hour of this machine, '0.40 EUR'; '' for none.
    """

    title: str = ""
    audience: str = "short"
    words: str = ""
    allowed: float = 0.01
    better: str = ""
    dtype: str = "fp32"
    price: str = ""

    def __post_init__(self):
        Price.parse(self.price)
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
    def hours(self) -> tuple[float, float]:
        """(dense, compact) hours for a million sentences."""
        dense, compact = self.each_ms
        return dense / 3.6, compact / 3.6

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
