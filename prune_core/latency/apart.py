"""Why a measured speedup is another than the predicted one: what is known of the machine at the time."""

from __future__ import annotations

from collections.abc import Mapping

from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.latency.profile import DTYPES, TORCH, Batch, Profile

APART = 0.20  # of the prediction; less is within what either may be off
BUSY = 0.5  # other programs at work, for each core


def why(timing: Mapping, predicted: float | None, profile: Profile, layout: Layout) -> str:
    """One sentence where measured and predicted differ by more than APART, or why nothing is predicted; else ''.
    `timing`: `measure`'s answer."""
    if predicted is None:
        return _not_predicted(timing)
    measured = speedup(timing, profile)
    if abs(measured / predicted - 1) <= APART:
        return ""
    reasons = (busy(timing), *_another(timing, profile), _slow(timing, profile, layout))
    known = "; ".join(filter(None, reasons)) or "nothing recorded explains it; measure again while nothing else runs"
    over = "" if _over_best(timing, profile) or "rivals_ms" not in timing else f" over {TORCH}"  # not the headline's
    return f"Measured {measured:.2f}x{over}, predicted {predicted:.2f}x: {known}."


def speedup(timing: Mapping, profile: Profile) -> float:
    """The measured speedup, over what a predicted one of this profile is."""
    return timing["speedup_over_best"] if _over_best(timing, profile) else timing["speedup"]


def foretold(timing: Mapping, mask: BlockMask, profile: Profile, heads: int | None = None) -> float | None:
    """The predicted speedup that a measured one is to be held against: of the path that ran, and over the best dense
    engine where that was timed and has its price, else over torch fp32. None where that path has no prices."""
    setting, path = Batch(timing["batch"], timing["length"]), path_of(timing, mask, profile, heads)
    if path is None:
        return None
    best = _over_best(timing, profile)
    dense = profile.best_rival(mask.layout, setting)[1] if best else profile.dense_ms(mask.layout, setting)
    return dense / profile.path_ms(path, mask, setting, heads)


def path_of(timing: Mapping, mask: BlockMask, profile: Profile, heads: int | None = None) -> str | None:
    """The path that ran, as it was recorded, else the profile's own for its arithmetic; None where the profile has no
    prices of it, as of a model that ran module by module."""
    ran = timing.get("executed")
    ran = ran if isinstance(ran, Mapping) else {}
    if "path" in ran:
        return ran["path"] if ran["path"] in profile.paths else None
    dtype = ran.get("dtype", timing.get("dtype", "fp32"))
    return profile.path_of(dtype if dtype in DTYPES else "auto", mask, Batch(timing["batch"], timing["length"]),
                           heads).path


def _not_predicted(timing: Mapping) -> str:
    """Why the path that ran has no prediction; '' for an engine, whose graphs have none at all."""
    path = timing["executed"]["path"]
    if path.endswith("modules"):
        return "Nothing is predicted for it: models that run module by module are not."
    return f"Nothing is predicted for it: {path} was not calibrated." if timing.get("engine") == "torch" else ""


def _over_best(timing: Mapping, profile: Profile) -> bool:
    """Whether both sides know more dense engines than torch fp32."""
    return bool(timing.get("speedup_over_best")) and set(profile.rivals) != {TORCH}


def busy(timing: Mapping) -> str:
    """What other programs did before it was measured; '' where they did little, or where that is not known."""
    load, cores = timing.get("load"), timing["machine"].get("cores") or 1
    if load is None or load <= BUSY * cores:
        return ""
    return f"the machine was busy (load {load:.1f} on {cores} core{'s' * (cores > 1)} before it began)"


def _another(timing: Mapping, profile: Profile) -> list[str]:
    """What the profile was made on that this is not."""
    here, there = timing["machine"].get("cpu"), profile.machine.get("cpu", "an unknown processor")
    reasons = [f"the prediction is for another processor ({there})"] * (here != there)
    if timing["threads"] != profile.threads:
        reasons.append(f"it is for {profile.threads} threads, {timing['threads']} were used")
    return reasons


def _slow(timing: Mapping, profile: Profile, layout: Layout) -> str:
    """How far the dense model alone is off, which no cut explains."""
    expected = profile.dense_ms(layout, Batch(timing["batch"], timing["length"]))
    off = timing["dense_ms"] / expected if expected and "dense_ms" in timing else 1.0
    if abs(off - 1) <= APART:
        return ""
    return f"the dense model took {timing['dense_ms']:,.0f} ms, {off:.1f} times the {expected:,.0f} ms predicted for it"
