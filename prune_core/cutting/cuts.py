"""A cut as a person sets it: what shares a threshold, and either the share of it that goes or the thresholds; as text for an address."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prune_core.cutting.answers import SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import SCOPES, BlockMask, Norms, by_scope, mask_at, thresholds_for


@dataclass(frozen=True)
class Cut:
    """Either `share` (of the weights of every scope key, lowest norms first) or `thresholds` (scope key -> norm) is given."""

    scope: str
    share: float | None
    thresholds: Mapping[str, float] | None = None

    def resolved(self, norms: Norms, layout: Layout) -> dict[str, float]:
        """The threshold of every scope key, for these norms."""
        if self.share is not None:
            return thresholds_for(norms, layout, self.share, self.scope)
        return {key: float(self.thresholds.get(key, 0.0)) for key in by_scope(layout, self.scope)}

    def mask(self, norms: Norms, layout: Layout) -> BlockMask:
        """What this cut keeps of `norms`."""
        return mask_at(norms, layout, self.resolved(norms, layout), self.scope)

    def predicted_from(self, surfaces: Mapping[str, Sequence[SurfacePoint]]) -> Sequence[SurfacePoint] | None:
        """Of the surfaces by scope, the one for cuts of this kind; None where there is none: surfaces are of even cuts."""
        return surfaces.get(self.scope) if self.scope == "global" or self.share is not None else None

    def to_json(self) -> dict:
        return {"scope": self.scope, "share": self.share, "thresholds": self.thresholds and dict(self.thresholds)}

    def text(self, layout: Layout) -> str:
        """'global@0.5' (a share) or 'layer:0.31,0.29' (thresholds, in the order of the layers): what the address says."""
        if self.share is not None:
            return f"{self.scope}@{self.share:.12g}"
        return f"{self.scope}:" + ",".join(f"{self.thresholds.get(key, 0.0):.9g}" for key in by_scope(layout, self.scope))


def from_json(said: Mapping, layout: Layout) -> Cut | None:
    """A cut from what a browser said; None where it is none."""
    try:
        scope, share, thresholds = said["scope"], said["share"], said["thresholds"]
        if scope in SCOPES and share is not None and 0 <= float(share) < 1:
            return Cut(scope, float(share))
        keys = by_scope(layout, scope)
        found = {key: float(thresholds[key]) for key in keys}
        return Cut(scope, None, found) if all(0 <= t < math.inf for t in found.values()) else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def parse(text: str, layout: Layout) -> Cut | None:
    """A cut from an address; None where it is none, or one of another run."""
    for sign in "@:":
        scope, found, value = text.partition(sign)
        if found and scope in SCOPES:
            break
    else:
        return None
    if sign == "@":
        return from_json({"scope": scope, "share": value, "thresholds": None}, layout)
    keys, values = list(by_scope(layout, scope)), value.split(",")
    return from_json({"scope": scope, "share": None, "thresholds": dict(zip(keys, values, strict=True))}, layout) if len(keys) == len(values) else None
