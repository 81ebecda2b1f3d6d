"""A cut as a person sets it: what shares a threshold, how much goes, by which ranking, is what stays repaired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from prune_core.cutting.answers import SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import SCOPES, BlockMask, Norms, by_scope, mask_at, thresholds_for, thresholds_of

Thresholds = tuple[tuple[str, float], ...]  # (scope key, threshold) of each


class SurfaceKind(NamedTuple):
    """Cuts that differ in nothing but how much goes: what a score surface is recorded for."""

    ranking: str = "norm"
    scope: str = "global"
    repaired: bool = False
    formats: str = ""  # of what stays

    def to_json(self) -> dict:
        said = {"by": self.ranking, "scope": self.scope, "repaired": self.repaired}
        return said | ({"formats": self.formats} if self.formats else {})


@dataclass(frozen=True)
class Cut:
    """Given is either `share`, of the weights of every scope key, lowest-ranked first, or `thresholds` on the ranking.

    `thresholds` may be given as a mapping scope key -> number; it is kept as pairs, so that a cut can be hashed.
    """

    scope: str
    share: float | None = None
    thresholds: Thresholds | None = None
    ranking: str = "norm"  # what decides which groups go: their norm, or another ranking that was recorded
    repaired: bool = False  # what stays is moved, in closed form, to make up for what goes
    formats: str = ""  # in which number formats and patterns it is stored, as precision/formats.py reads it; "": fp32

    def __post_init__(self):
        if isinstance(self.thresholds, Mapping):
            object.__setattr__(self, "thresholds", tuple(self.thresholds.items()))

    @property
    def kind(self) -> SurfaceKind:
        return SurfaceKind(self.ranking, self.scope, self.repaired, self.formats)

    def resolved(self, ranking: Norms, layout: Layout) -> dict[str, float]:
        """Scope key -> threshold, for these norms or this other ranking of the groups. Raises InputError."""
        if self.share is None:
            return dict(self.thresholds)
        return thresholds_for(ranking, layout, self.share, self.scope)

    def mask(self, ranking: Norms, layout: Layout) -> BlockMask:
        """What this cut keeps. Raises InputError where a scope key has no threshold."""
        return mask_at(ranking, layout, self.resolved(ranking, layout), self.scope)

    def predicted_from(self, surfaces: Mapping[SurfaceKind, Sequence[SurfacePoint]]) -> Sequence[SurfacePoint] | None:
        """Of these surfaces, the one for cuts of this kind; None where there is none: surfaces are of even cuts."""
        return surfaces.get(self.kind) if self.scope == "global" or self.share is not None else None

    def to_json(self) -> dict:
        """How much goes, as the map in the browser has it, and in which formats the rest stays, where not in fp32."""
        said = {"scope": self.scope, "share": self.share, "thresholds": self.thresholds and dict(self.thresholds)}
        return said | ({"formats": self.formats} if self.formats else {})

    def text(self, layout: Layout) -> str:
        """'global@0.5' (a share) or 'layer:0.31,0.29' (thresholds, in the order of the layers), as in the address."""
        if self.share is not None:
            return f"{self.scope}@{self.share:.12g}"
        given = dict(self.thresholds)
        return f"{self.scope}:" + ",".join(f"{given.get(key, 0.0):.9g}" for key in by_scope(layout, self.scope))


def from_json(said: Mapping, layout: Layout) -> Cut | None:
    """A cut by norm from what a browser said, {scope, share, thresholds, formats}; None where it is none.

    Formats are taken as they are said; precision/formats.py reads them.
    """
    try:
        scope, share, thresholds, formats = said["scope"], said["share"], said["thresholds"], said.get("formats") or ""
        if not isinstance(formats, str):
            return None
        if scope in SCOPES and share is not None and 0 <= float(share) < 1:
            return Cut(scope, float(share), formats=formats)
        given = tuple((key, float(thresholds[key])) for key in by_scope(layout, scope))
        fits = all(0 <= threshold < math.inf for _, threshold in given)
        return Cut(scope, None, given, formats=formats) if fits else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def in_force(said: Mapping, layout: Layout, ranking: str, norms: Norms) -> Cut | None:
    """What a browser's cut cuts where groups are ranked by `norms`, the ranking of this name; None where it is none.

    Thresholds that were set on another ranking cut the same share of every scope key: {ranking, shares}.
    """
    cut = from_json(said, layout)
    if cut is None or cut.share is not None or said.get("ranking", ranking) == ranking:
        return cut and replace(cut, ranking=ranking)
    try:
        shares = {key: float(said["shares"][key]) for key in by_scope(layout, cut.scope)}
    except (KeyError, TypeError, ValueError):
        return None
    if not all(0 <= share <= 1 for share in shares.values()):
        return None
    return Cut(cut.scope, None, thresholds_of(norms, layout, shares, cut.scope), ranking, formats=cut.formats)


def parse(text: str, layout: Layout) -> Cut | None:
    """A cut by norm from an address; None where it is none, or one of another run."""
    for sign in "@:":
        scope, separated, value = text.partition(sign)
        if separated and scope in SCOPES:
            break
    else:
        return None
    if sign == "@":
        return from_json({"scope": scope, "share": value, "thresholds": None}, layout)
    keys, values = list(by_scope(layout, scope)), value.split(",")
    if len(keys) != len(values):
        return None
    return from_json({"scope": scope, "share": None, "thresholds": dict(zip(keys, values, strict=True))}, layout)
