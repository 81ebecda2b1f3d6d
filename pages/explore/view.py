"""What is in view on Explore: snapshot, cut, zoom, pinned settings.

It lives in the map; the address holds it for whoever opens the link.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import streamlit as st

from pages.explore import bits, live_map
from pages.explore.bits import Foreseen
from pages.shared import loaders, widgets
from pages.shared.loaders import SETTING
from prune_core.cutting import cuts, masks
from prune_core.cutting.answers import SurfacePoint
from prune_core.cutting.cuts import Cut, SurfaceKind
from prune_core.cutting.masks import BlockMask, Norms, by_scope
from prune_core.latency.profile import ASKED
from prune_core.methods.rankings import RANKINGS
from prune_core.precision import formats
from prune_core.precision.formats import Formats
from prune_core.precision.storage import counts
from prune_core.runs import settings
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.runs.snapshots import Snapshot
from prune_core.showing import canvas
from prune_core.showing.canvas import Start

ADDRESS = ("at", "cut", "formats", "key", "zoom", "pin")
SETTLED = 2.5  # seconds after which the browser has what a pin asked for


@dataclass(frozen=True)
class View:
    """One setting of the map, and what it keeps of the norms."""

    at: int  # position of the snapshot
    label: str
    cut: Cut
    norms: Norms
    mask: BlockMask
    thresholds: Mapping[str, float]
    zoom: str | None
    pins: Sequence[Mapping]
    frames: str  # none, want or have: whether the snapshots of the whole run are in the browser
    snapshot: Snapshot
    surfaces: Mapping[SurfaceKind, Sequence[SurfacePoint]]  # recorded here for cuts ranked and repaired alike, in
    # whatever formats
    dtype: str = "fp32"  # the arithmetic of exact scores; those of surfaces are fp32

    @property
    def surface(self) -> Sequence[SurfacePoint] | None:
        """Recorded for cuts of this very kind; None where nothing was."""
        return self.cut.predicted_from(self.surfaces)

    @property
    def formats(self) -> Formats:
        return formats.parse(self.cut.formats, self.mask.layout)

    @property
    def foreseen(self) -> Foreseen | None:
        """What recorded scores say of this cut; None where they say nothing."""
        return bits.foreseen(self.cut, self.mask, self.surfaces)

    @property
    def sparsity(self) -> float:
        """The share of zero weights, what a pattern leaves out included."""
        return counts(self.mask, self.formats)["sparsity"]


def forget() -> None:
    """Another run has other snapshots, thresholds and matrices."""
    for name in (*ADDRESS, "score"):
        st.query_params.pop(name, None)
    st.session_state.pop("score", None)


def current(run: Run) -> View:
    """What the map says; before it has said anything, what the address says, or what the run itself did.

    Raises RunError.
    """
    said = live_map.said()
    if said.get("run") != run.name:
        said = {}
        if (st.session_state.get("start") or ("",))[0] != run.name:
            st.session_state["start"] = (run.name, _start(run), opening(run).at)
            st.session_state["wrong"] = _wrong(run)
            st.session_state.pop("command", None)
    _, start, first = st.session_state["start"]
    at = _position(run, said.get("moment"), first)
    snapshot = run.snapshots[at]
    cut, norms = _cut(run, at, said)
    thresholds = cut.resolved(norms, run.layout)
    mask = masks.mask_at(norms, run.layout, thresholds, cut.scope)
    pins = [pin for pin in said.get("pins", start.pins)
            if isinstance(pin, Mapping) and isinstance(pin.get("numbers"), Mapping)]
    view = View(at, snapshot.label, cut, norms, mask, thresholds, said.get("zoom", start.zoom), pins,
                said.get("frames", "none"), snapshot, bits.recorded(run, at, cut), score_dtype())
    if said:
        _write(run, view, said.get("key"))
    return view


def _cut(run: Run, at: int, said: Mapping) -> tuple[Cut, Norms]:
    """What is cut at snapshot `at`, ranked as far as was recorded there, and that ranking.

    Thresholds on another ranking cut the same shares of this one: the sparsity stays.
    """
    ranking, told = st.session_state.get("score") or "norm", said.get("cut") or {}
    ranking = ranking if ranking in rankings(run, at) else "norm"
    norms = _ranked(run, at, ranking)
    cut = cuts.in_force(told, run.layout, ranking, norms)
    if cut:
        cut = _stored(run, cut, told)
    else:  # the map has not said anything yet
        name, start, first = st.session_state["start"]
        cut, on = start.cut, start.cut.ranking
        if cut.share is None and on != ranking and on in rankings(run, at):
            shares = masks.shares_up_to(_ranked(run, at, on), run.layout, dict(cut.thresholds), cut.scope)
            cut = replace(cut, thresholds=masks.thresholds_of(norms, run.layout, shares, cut.scope))
        cut = replace(cut, ranking=ranking)
        st.session_state["start"] = (name, replace(start, cut=cut), first)
    return replace(cut, repaired=bool(st.session_state.get("repair"))), norms


def _stored(run: Run, cut: Cut, told: Mapping) -> Cut:
    """The cut in the formats that the browser says of it, where they are any."""
    text = told.get("formats", "")
    found = bits.in_force(run, text)
    st.session_state["wrong formats"] = "" if found is not None else (
        f"The map's formats {widgets.code(str(text)[:80])} do not fit this run; counted here as fp32.")
    return replace(cut, formats=found or "")


def precision() -> str:
    """The arithmetic for which speedups are predicted: as the sidebar has it; auto before it was asked."""
    return one if (one := st.session_state.get("dtype")) in ASKED else "auto"


def score_dtype() -> str:
    """The arithmetic in which exact scores are asked for: fp32, unless the sidebar says another."""
    return one if (one := st.session_state.get("score dtype")) in ASKED else "fp32"


def _ranked(run: Run, at: int, ranking: str) -> Norms:
    """What thresholds are on at this snapshot: norms, or another ranking recorded there. Raises RunError."""
    return loaders.norms(run, at) if ranking == "norm" else loaders.ranking(run, run.snapshots[at].saved, ranking)


def _wrong(run: Run) -> str:
    """What the address names that is not there, in one line; '' where all of it is."""
    at, cut = st.query_params.get("at"), st.query_params.get("cut")
    lines = []
    if at and at not in [run.snapshots[position].label for position in run.with_norms]:
        lines.append(f"There is no snapshot {widgets.code(at[:80])} in this run; showing "
                     f"**{widgets.plain(run.snapshots[opening(run).at].label)}** instead.")
    if cut and cuts.parse(cut, run.layout) is None:
        lines.append(f"The link's cut {widgets.code(cut[:80])} does not fit this run; showing the run's own instead.")
    if why := bits.wrong(run, st.query_params.get("formats", "")):
        lines.append(f"The link's number formats are not shown: {widgets.plain(why)}.")
    return " ".join(lines)


def _position(run: Run, number: object, first: int) -> int:
    """Position of the snapshot that is number `number` of those with norms; `first` where there is none."""
    with_norms = run.with_norms
    return with_norms[number] if isinstance(number, int) and 0 <= number < len(with_norms) else first


def rankings(run: Run, at: int) -> list[str]:
    """What a threshold may be on at this snapshot."""
    saved = run.snapshots[at].saved
    return run.rankings(saved) if saved else ["norm"]


def content(run: Run, view: View, present: int) -> bytes:
    """What the map in the browser is sent for this view; `present`: pixels around it before a room, else 0.

    Raises RunError.
    """
    _, start, _ = st.session_state["start"]
    st.session_state["commanded"] = st.session_state.get("command")
    profile = loaders.usual_profile()
    head = canvas.header(run, view.at, _high(run, view), start, settings.usual(run, view.at), profile,
                         SETTING, view.surfaces, precision(), widgets.mark(profile) if profile else "")
    # What was asked for: alike for all snapshots, also where only norms were recorded
    kind = f"{st.session_state.get('score')} {st.session_state.get('repair')} {precision()} {view.dtype}"
    head |= {"value": view.cut.ranking, "repaired": view.cut.repaired, "dtype": view.dtype, "kind": kind,
             "asks": st.session_state.get("score") or "norm"}
    now = {"command": st.session_state.get("command"), "present": present}
    if view.frames != "want" or not canvas.playable(run):
        return canvas.pack(head, view.norms, None, now, live_map.there())
    frames, scale = loaders.frames(run)
    return canvas.pack(head, view.norms, frames, now | {"frames": {"scale": scale}}, live_map.there())


def _high(run: Run, view: View) -> float:
    """The top of the colour scale: that of the run for norms, of this snapshot for another ranking."""
    return loaders.norm_scale(run) if view.cut.ranking == "norm" else masks.norm_scale([view.norms])


def remember() -> None:
    """The map has said something new: the next run of the page reads it.

    A pin that was ranked, repaired or scored otherwise has the sidebar follow.
    """
    asked = live_map.said().get("asked")
    if isinstance(asked, Mapping) and asked.get("id") != st.session_state.get("asked"):
        ranking = asked["ranking"] if asked.get("ranking") in RANKINGS else "norm"
        st.session_state["asked"] = asked.get("id")
        ask_of_sidebar(**{
            "score": ranking, "repair": asked.get("repaired") is True,
            "dtype": asked["precision"] if asked.get("precision") in ASKED else "auto",
            "score dtype": asked["dtype"] if asked.get("dtype") in ASKED else "fp32"})


def ask_of_sidebar(**wanted) -> None:
    """Have the sidebar show these values, by their keys, from the page's next run on."""
    st.session_state["wanted"] = (time.monotonic(), wanted)


def wanted() -> dict:
    """What a pin has asked of the sidebar a moment ago: what the browser says meanwhile may still be the old state."""
    at, wanted = st.session_state.get("wanted") or (0.0, {})
    return wanted if time.monotonic() - at < SETTLED else {}


def follows() -> bool:
    """Whether the sidebar has yet to show what a pin asked for: the whole page then runs again."""
    return any(st.session_state.get(name) != value for name, value in wanted().items())


def settle() -> None:
    """Before the sidebar is drawn: it shows what a pin asked for."""
    st.session_state.update(wanted())


def send(new: Cut, moment: int | None = None) -> None:
    """Have the map take over this cut, as if a hand had set it; it can be undone there.

    `moment`: and show this snapshot, by its number among those with norms.
    """
    number = (st.session_state.get("command") or {"id": 0})["id"] + 1
    where = {} if moment is None else {"moment": moment}
    # Else the sidebar would go back to norms, to auto and to scores in fp32
    how = {"ranking": new.ranking, "repaired": new.repaired, "precision": precision(), "dtype": score_dtype()}
    st.session_state["command"] = {"id": number, "cut": canvas.as_sent(new)} | how | where


def go(run: Run, stage: str) -> None:
    """Have the map show a stage, cut as it is."""
    at = run.saved(stage)
    cut = replace(settings.usual(run, at), ranking=st.session_state.get("score") or "norm",
                  repaired=bool(st.session_state.get("repair")))
    send(cut, run.with_norms.index(at))


def waits() -> bool:
    """Whether there is a command that the map has not been sent yet."""
    return st.session_state.get("command") != st.session_state.get("commanded")


def _write(run: Run, view: View, key: str | None) -> None:
    """Put the view into the address, so that its link opens it again."""
    pins = ["~".join([run.snapshots[at].label, cut.text(run.layout), *([cut.ranking] * (cut.ranking != "norm")),
                      *(["repaired"] * cut.repaired), *(["for-" + pin["precision"]] * _other(pin, "precision", "auto")),
                      *([pin["dtype"]] * _other(pin, "dtype", "fp32")),
                      *bits.word(run, at, cut.formats)])
            for pin, at, cut in _pins(run, view)]
    address = {"at": view.label, "cut": view.cut.text(run.layout),
               "formats": bits.to_address(run, view.at, view.cut.formats), "key": key, "zoom": view.zoom, "pin": pins}
    for name, value in address.items():
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)


def pinned(run: Run, view: View) -> list[tuple[str, int, Cut]]:
    """(name, position of the snapshot, cut) of every pin that holds a cut of this run."""
    return [(str(pin.get("name")), at, cut) for pin, at, cut in _pins(run, view)]


def _pins(run: Run, view: View) -> list[tuple[Mapping, int, Cut]]:
    """The same with the whole pin in place of its name."""
    return [(pin, run.with_norms[pin["moment"]],
             replace(cut, ranking=pin["ranking"] if pin.get("ranking") in RANKINGS else "norm",
                     repaired=pin.get("repaired") is True,
                     formats=bits.in_force(run, pin["cut"].get("formats")) or ""))
            for pin in view.pins if (cut := cuts.from_json(pin.get("cut") or {}, run.layout))
            and isinstance(pin.get("moment"), int) and 0 <= pin["moment"] < len(run.with_norms)]


def _other(pin: Mapping, key: str, usual: str) -> bool:
    """Whether a pin's speedup ('precision') or exact score ('dtype') is of another arithmetic than the usual one."""
    return pin.get(key) in ASKED and pin[key] != usual


def opening(run: Run) -> Setting:
    """What the run is opened on: the snapshot that the address names, else the best (best.py), cut as it was there."""
    by_label = {run.snapshots[at].label: at for at in run.with_norms}
    return settings.opening(run, by_label.get(st.query_params.get("at", "")))


def _start(run: Run) -> Start:
    """What the address says of the cut; what it does not say, or says wrongly, is as the run itself did it."""
    address, names = st.query_params, {m.name for m in run.layout.matrices}
    opened = opening(run)
    cut = cuts.parse(address.get("cut", ""), run.layout) or opened.cut
    cut = replace(cut, formats=bits.of_address(run, opened.at, address.get("formats")))
    key, zoom = address.get("key"), address.get("zoom")
    pins = [pin for letter, text in zip("ABCDEFGH", address.get_all("pin"), strict=False)
            if (pin := _pin(run, letter, text))]
    return Start(cut, key if key in by_scope(run.layout, cut.scope) else None, zoom if zoom in names else None,
                 tuple(pins))


def _pin(run: Run, name: str, text: str) -> dict | None:
    """A pinned setting from the address, 'snapshot~cut', then its ranking, 'repaired', 'for-bf16', the precision of its
    speedup, 'bf16', the arithmetic of its exact score, and 'f=8', its formats.

    Its numbers are counted anew.
    """
    where, what, *how = [*text.split("~"), ""][:7]
    at = {run.snapshots[at].label: at for at in run.with_norms}.get(where)
    if at is None or (cut := cuts.parse(what, run.layout)) is None:
        return None
    words = {"for-" + dtype: dtype for dtype in ASKED}
    wanted = next((words[word] for word in how if word in words), "auto")
    dtype = next((word for word in how if word in ASKED), "fp32")
    said = next((word.removeprefix("f=") for word in how if word.startswith("f=")), None)
    ranking = next((word for word in how if word not in ("", "repaired", *words, *ASKED) and word[:2] != "f="), "norm")
    if ranking not in rankings(run, at) or said is not None and bits.in_force(run, said) is None:
        return None
    cut = replace(cut, ranking=ranking, repaired="repaired" in how, formats=bits.of_address(run, at, said))
    norms = _ranked(run, at, ranking)
    thresholds = cut.resolved(norms, run.layout)
    mask = masks.mask_at(norms, run.layout, thresholds, cut.scope)
    more = {} if cut.share is not None else {
        "ranking": ranking, "shares": masks.shares_up_to(norms, run.layout, thresholds, cut.scope)}
    return {"name": name, "moment": run.with_norms.index(at), "cut": canvas.as_sent(cut) | more, "ranking": ranking,
            "repaired": cut.repaired, "precision": wanted, "dtype": dtype, "thresholds": thresholds,
            "numbers": bits.numbers(run, cut, mask, bits.recorded(run, at, cut), wanted)}
