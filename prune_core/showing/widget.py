"""The live map as a widget of Jupyter, VS Code, Colab and marimo, and the handle that Python has on it.

The browser runs the same module as the app (canvas.module). What it shows is the widget's `_state`: whoever changes it,
a hand in one of any number of views or Python, gives it a number above the last, so that an old word undoes nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import anywidget
import traitlets

from prune_core import InputError
from prune_core.cutting.masks import BlockMask
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.showing import canvas, cells, in_view, still
from prune_core.showing.in_view import InView

PYTHON = "python"  # who has set the state, beside views
UNKNOWN = {"score": None, "low": None, "high": None, "done": 0, "total": 0}
Scorer = Callable[[InView, Callable[..., None]], dict]


class MapView(anywidget.AnyWidget):
    """A run's live map. `cut`, `sparsity`, `mask`, `score` and `at` follow the hand and can be observed; setting `cut`,
    `sparsity` or `at` moves the map. What cannot be had raises InputError."""

    _esm = canvas.module()
    _packed = traitlets.Bytes().tag(sync=True)  # canvas.pack of the snapshot in view
    _frames = traitlets.Bytes().tag(sync=True)  # all snapshots, once they are to be played
    _scale = traitlets.Float(1.0).tag(sync=True)  # the norm that the largest number in a frame stands for
    _state = traitlets.Dict().tag(sync=True)
    _heard = traitlets.Int(0).tag(sync=True)  # the number of the last state that Python has taken in
    _exact = traitlets.Dict().tag(sync=True)  # how the exact score of a cut stands
    _answers = traitlets.List().tag(sync=True)  # those that are known
    _training = traitlets.Dict().tag(sync=True)  # how a training stands, while there is one
    _pressed = traitlets.Dict().tag(sync=True)

    cut = traitlets.Any(help="The Cut in view; may be set to one, or to a share of the weights.")
    at = traitlets.Unicode(help="The snapshot in view, by its label: 'dense', 'retrain-2x' ...; may be set.")
    sparsity = traitlets.Float(help="Share of zero weights in the prunable matrices; may be set.")
    mask = traitlets.Instance(BlockMask, read_only=True, help="What the cut keeps, matrix by matrix.")
    score = traitlets.Float(None, allow_none=True, read_only=True, help="The dev score as far as it is known.")
    how = traitlets.Unicode("", read_only=True, help="How the score is known: exact, recorded, predicted, or not.")

    def __init__(self, view: InView, scorer: Scorer, high: float | None = None):
        """`scorer` gives the exact score of what is in view, telling how it comes in. Raises InputError."""
        self._lock, self._own, self._known = threading.RLock(), False, {}
        self._scorer, self._profile = scorer, in_view.profile()
        self._high = in_view.colour_scale(view.run) if high is None else high
        self._pins, self._where, self._wish = [], {"key": None, "zoom": None}, (view.cut.ranking, view.cut.repaired)
        self.view = view
        super().__init__()
        self.press: Callable[[str], None] = lambda what: None  # what the buttons of a training do
        self._show(view, fresh=True)

    run: Run = property(lambda self: self.view.run, doc="The run that is shown.")
    stage = property(lambda self: self.view.stage, doc="The stage in view; None between stages.")
    numbers = property(lambda self: dict(self.view.numbers), doc="Sparsity, compressions and predicted score in view.")

    @property
    def settings(self) -> list[Setting]:
        """What is in view, and what was pinned under the map."""
        pins = (in_view.pinned(self.run, pin) for pin in self._pins)
        return [replace(self.view.setting, name="in view"), *(pin for pin in pins if pin)]

    def exact(self) -> dict:
        """The exact dev score of what is in view, streamed into the map as it comes in: what `evaluate --json` prints.

        Raises InputError where weights or data are not there.
        """
        view = self.view
        self._exact = view.sent | UNKNOWN | {"doing": "loading"}
        try:
            result = self._scorer(view, lambda **news: setattr(self, "_exact", view.sent | UNKNOWN | news))
        except BaseException:
            self._exact = view.sent | UNKNOWN | {"doing": "none"}
            raise
        answer = {name: result[name] for name in ("score", "low", "high")}
        self._exact = view.sent | answer | {"doing": "done", "done": result["examples"], "total": result["examples"]}
        self._answers = [*self._answers, self._exact]
        self._known[_key(view)] = result["score"]
        if self.view is view:
            self._publish(view)
        return result

    # ---- to the browser

    def _show(self, view: InView, fresh: bool = False) -> None:
        """Have this in view, here and in the browser. `fresh`: whether it has other norms than what was."""
        with self._lock:
            if fresh:
                self._packed = view.content(self._high, self._profile)
            self._publish(view)
            self._state = {"run": view.run.name, "moment": view.run.with_norms.index(view.at), "by": PYTHON,
                           "cut": canvas.as_sent(view.cut) | {"ranking": view.cut.ranking}, **self._where,
                           "pins": self._pins, "number": self._state.get("number", 0) + 1}

    def _publish(self, view: InView) -> None:
        """What observers see, all of it before the first of them is called."""
        known = self._known.get(_key(view))
        score, how = view.score if known is None else (known, "exact")
        self.view, self._own = view, True
        try:
            with self.hold_trait_notifications():
                self.cut, self.at, self.sparsity = view.cut, view.label, view.numbers["sparsity"]
                for name, value in (("mask", view.mask), ("score", score), ("how", how)):
                    self.set_trait(name, value)
        finally:
            self._own = False

    # ---- from Python: what is set is checked first, and shown

    @traitlets.validate("cut", "at", "sparsity")
    def _asked(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        if self._own:
            return value
        view = self.view
        if name == "at":
            at = in_view.position(self.run, value)
            self._show(in_view.turned(replace(view, at=at), *self._wish), fresh=True)
        else:
            new = replace(view, cut=in_view.checked(view, value))
            self._wish = new.cut.ranking, new.cut.repaired
            self._show(new, fresh=not new.shares_norms(view))
        return getattr(self, name)

    # ---- from the browser

    @traitlets.observe("_state")
    def _hear(self, change) -> None:
        said, before = change["new"], change["old"].get("number", 0)
        number = said.get("number")
        if said.get("by") in (PYTHON, None) or said.get("run") != self.run.name or not isinstance(number, int):
            return
        if number <= before:  # Python has set another since: the browser is told again
            self._state = change["old"] | {"by": PYTHON, "number": before + 1}
            return
        with self._lock, contextlib.suppress(InputError):  # what is no state of this run is not taken
            self._take(said)
        self._heard = number

    def _take(self, said: Mapping) -> None:
        """What a hand has done."""
        before, asked = self.view, said.get("asked") or {}
        if asked.get("id") != self._where.get("asked"):  # a pin that is ranked or repaired otherwise
            self._wish = str(asked.get("ranking")), asked.get("repaired") is True
        self._where = {"key": said.get("key"), "zoom": said.get("zoom"), "asked": asked.get("id")}
        self._pins = [pin for pin in said.get("pins") or [] if isinstance(pin, Mapping)]
        view = in_view.heard(before, said, *self._wish)
        if fresh := not view.shares_norms(before):
            self._packed = view.content(self._high, self._profile)
        if fresh or not in_view.same(view.cut, before.cut):
            self._publish(view)
        if said.get("frames") == "want" and canvas.playable(self.run):
            frames, self._scale = canvas.frames(self.run)
            self._frames = frames.astype("<u2").tobytes()

    @traitlets.observe("_pressed")
    def _press(self, change) -> None:
        self.press(str(change["new"].get("what")))

    # ---- in a cell

    words = property(lambda self: self.view.words(self.score, self.how), doc="What is in view, in one line.")

    def _ipython_display_(self) -> None:
        cells.display(self, self._repr_mimebundle_())

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The widget, and beside it a still picture for where none runs."""
        return still.bundle(self.view, self._high, self.words, self.model_id)


def grown_(shown: MapView, run: Run) -> None:
    """The same run, read anew while it is trained: who looks at its last snapshot goes on to the new last one."""
    with shown._lock:
        last = shown.view.at == shown.run.with_norms[-1]
        at = run.with_norms[-1] if last else shown.view.at
        own = at != shown.view.at and run.snapshots[at].saved  # a stage is shown cut as it is there
        cut = in_view.settings.usual(run, at) if own else shown.view.cut
        shown._frames = b""
        shown._show(in_view.turned(InView(run, at, cut), *shown._wish), fresh=True)


def _key(view: InView) -> tuple:
    return view.at, view.mask.digest(), view.cut.ranking, view.cut.repaired, view.cut.formats
