"""Explore: the formats of what is kept. Which are in force, what they take, what is predicted of them, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from pages.shared import loaders
from pages.shared.loaders import SETTING
from prune_core import InputError
from prune_core.cutting.answers import GRID, SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.cutting.cuts import Cut, SurfaceKind
from prune_core.cutting.masks import BlockMask
from prune_core.latency import executed
from prune_core.precision.formats import Formats, parse
from prune_core.precision.storage import Storage, counts, storage
from prune_core.runs import settings
from prune_core.runs.run import Run

SAME = 1e-6  # sparsities of one and the same cut
FP32 = "32"  # in an address: said, not left out


class Foreseen(NamedTuple):
    """A score that recorded ones say of a cut: recorded itself, or predicted from those around it, 95% interval."""

    score: float
    low: float
    high: float
    how: str


def checked(run: Run, text: str) -> str:
    """Formats as they are kept, '' for fp32. Raises InputError where they do not fit this run."""
    made = parse(text, run.layout)
    if made.embeddings == 8 and run.embeddings is None:
        raise InputError("8 bits for the embeddings, whose size is not known here; needed: the checkpoint, or no ;e8")
    return str(made)


def in_force(run: Run, text: object) -> str | None:
    """The same of what a browser or an address says; None where it is none."""
    try:
        return checked(run, text) if isinstance(text, str) else None
    except InputError:
        return None


def wrong(run: Run, text: str) -> str:
    """Why a text is no formats of this run, in one line; '' where it is."""
    try:
        checked(run, text)
    except InputError as error:
        return str(error)
    return ""


def usual(run: Run, at: int) -> str:
    """What is meant where nothing is said: the formats that the stage at this position was trained for."""
    return settings.usual(run, at).formats


def of_address(run: Run, at: int, text: str | None) -> str:
    """The formats that an address names; those that go without saying where it names none that fit."""
    found = in_force(run, text)
    return usual(run, at) if found is None else found


def to_address(run: Run, at: int, formats: str) -> str:
    """What an address says of formats: '' where they go without saying."""
    return "" if formats == usual(run, at) else formats or FP32


def word(run: Run, at: int, formats: str) -> list[str]:
    """The same as a word of a pin's, if there is any: ['f=8']."""
    said = to_address(run, at, formats)
    return [f"f={said}"] if said else []


# ---------------------------------------------------------------- what they take


def stored(run: Run, cut: Cut, mask: BlockMask) -> Storage:
    """The bytes of this cut. Its formats fit the run."""
    return storage(mask, parse(cut.formats, run.layout), run.embeddings)


def numbers(run: Run, cut: Cut, mask: BlockMask, surfaces: Mapping[SurfaceKind, Sequence[SurfacePoint]],
            dtype: str) -> dict:
    """What a pin keeps: sparsity, compressions, bytes, speedup in this precision, the score with how it is known."""
    profile, one, formats = loaders.usual_profile(), stored(run, cut, mask), parse(cut.formats, run.layout)
    counted, said = counts(mask, formats), foreseen(cut, mask, surfaces)
    encoder = counted["compression_encoder"]
    return {"sparsity": counted["sparsity"], "encoder": encoder if encoder != float("inf") else None,
            "model": counted["compression_model"],
            "bytes": one.bytes, "encoderBytes": one.encoder.stored,
            "speedup": executed.speedup(profile, formats, dtype, mask, SETTING, run.heads) if profile else None,
            "score": said.score if said else None, "how": said.how if said else None}


def rounded(formats: Formats) -> bool:
    """Whether weights are not stored as they are: in few bits, or thinned out by a pattern."""
    return any(one.pattern or one.kind != "float" for one in formats.weights)


def megabytes(count: int) -> str:
    """'6.7 MB', '48.2 kB', as the map writes it."""
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def words(formats: Formats, one: Storage) -> str:
    """In what the kept weights are stored, and the bytes with their denominators."""
    encoder = one.encoder
    less = encoder.stored - encoder.index
    how = "" if formats.plain else f" in {formats.words}"
    return (f"Stored{how}: the prunable matrices (encoder) take {megabytes(encoder.stored)} of "
            f"{megabytes(encoder.dense)} in fp32, {encoder.dense / encoder.stored:.2f}x, without the index "
            f"{encoder.dense / max(1, less):.2f}x; the whole model {megabytes(one.bytes)} of {megabytes(one.dense)}, "
            f"{one.dense / one.bytes:.2f}x.")


# ---------------------------------------------------------------- what is predicted


def recorded(run: Run, at: int, cut: Cut) -> dict[SurfaceKind, Sequence[SurfacePoint]]:
    """The whole surfaces recorded at this snapshot for cuts of every scope, ranked and repaired as this one, in all
    formats."""
    saved = run.snapshots[at].saved
    whole = {kind: points for kind, points in run.surfaces(saved).items() if len(points) == len(GRID)} if saved else {}
    return {kind: points for kind, points in whole.items()
            if (kind.ranking, kind.repaired) == (cut.ranking, cut.repaired)}


def foreseen(cut: Cut, mask: BlockMask, surfaces: Mapping[SurfaceKind, Sequence[SurfacePoint]]) -> Foreseen | None:
    """What recorded scores say of a cut that keeps `mask`; None where they say nothing."""
    told = settings.foretold(cut, mask, surfaces)
    if told is None:
        return None
    same = any(abs(point.sparsity - mask.sparsity) < SAME for point in cut.predicted_from(surfaces) or ())
    return Foreseen(*told, "recorded" if same else "predicted")


def uniform(formats: Formats, layout: Layout) -> dict[str, float]:
    """Formats that are one for all -> the share of the weights that have this one."""
    shares: dict[str, float] = {}
    of = formats.of(layout)
    for matrix in layout.matrices:
        text = str(replace(formats, scope="global", weights=(of[matrix.name],)))
        shares[text] = shares.get(text, 0.0) + matrix.m * matrix.n / layout.encoder_weights
    return shares


def missing(cut: Cut, formats: Formats, layout: Layout, surfaces: Mapping[SurfaceKind, object]) -> list[str]:
    """The formats, each for all, whose surfaces would have this cut predicted and are not recorded."""
    wanted = [*([""] if formats.scope != "global" else []), *uniform(formats, layout)]
    return [one for one in dict.fromkeys(wanted) if cut.kind._replace(formats=one) not in surfaces]
