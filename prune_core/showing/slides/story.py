"""What the six slides say, before they take a form: the same words and numbers in HTML and in PowerPoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from prune_core.runs.run import Run
from prune_core.showing.report.contents import contents
from prune_core.showing.report.finding import Finding, Request
from prune_core.showing.report.over import Over
from prune_core.showing.report.recommend import CARE, NOT, SHIP, keeps, points

WORDS = 320  # characters of the person's own words that a slide has room for
MUCH = 1_000_000  # sentences: more are not worth asking for


@dataclass(frozen=True)
class Figure:
    """A number in large type: what it is, and what stands under it."""

    label: str
    value: str
    under: str = ""


@dataclass(frozen=True)
class Slide:
    """One slide. `kind` says what is drawn on it; `notes`: the rule and where each number comes from."""

    kind: str  # question, map, trade, recommendation, risk, next
    step: str  # what the slide is for, above its title
    title: str
    lines: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()


def story(run: Run, findings: Sequence[Finding], request: Request, made: date,
          of: Over | None = None) -> tuple[list[Slide], dict]:
    """(the six slides, all that the report says). Raises InputError."""
    said = contents(run, findings, request, made, of)
    at = next((at for at, row in enumerate(said["rows"]) if row is said["best"]), 0)
    best = findings[at]
    sources = [f"{kind.capitalize()}: {'; '.join(what)}." for kind, what in said["known"].items() if what]
    slides = [_question(said, best), _map(said, at), _trade(said), _recommendation(said), _risk(said),
              _next(said, run, best, request.allowed)]
    return [_with_notes(slide, said, sources) for slide in slides], said


def _with_notes(slide: Slide, said: Mapping, sources: Sequence[str]) -> Slide:
    """The rule and the sources on every slide that has numbers, after its own notes."""
    rules = {"question": (), "map": (), "trade": (said["rule"],),
             "recommendation": (said["rule"], said["verdict_rule"]), "risk": (said["verdict_rule"],),
             "next": (said["verdict_rule"],)}[slide.kind]
    more = [*rules, *sources, *([said["arithmetic"]] if said["arithmetic"] else [])]
    return Slide(slide.kind, slide.step, slide.title, slide.lines, slide.figures, (*slide.notes, *more))


def _question(said: Mapping, best: Finding) -> Slide:
    speed, over = best.speed, said["over"]
    lines = [f"Which setting of {said['model']} to use on {said['of']}, if at most {said['allowed']} of its "
             f"{said['metric']} may be lost?"]
    if over:
        runs = len(over.runs)
        lines.append(f"Compared: all {len(over.results)} results of {runs} run{'s' * (runs > 1)}; of these "
                     f"{len(said['rows'])} closely.")
    else:
        lines.append(f"Compared: {len(said['rows'])} setting{'s' * (len(said['rows']) > 1)} of one run.")
    if said["words"]:
        words = " ".join(said["words"])
        lines.append(words if len(words) <= WORDS else words[:WORDS - 1].rstrip() + "…")
    if said["run"].is_practice:
        lines.append("Scores are on the practice set, which is synthetic and not GLUE.")
    figures = [Figure(f"Dense {said['metric']}", f"{said['dense']:.3f}", "before pruning, dev set"),
               Figure("Dense size", f"{said['dense_mb']:.1f} MB", f"{said['weights']:,} weights")]
    if speed:
        figures.append(Figure("Dense time", f"{speed.each_ms[0]:.1f} ms",
                              f"a sentence, {_kind(speed)}, {speed.rival}"))
    figures.append(Figure("May be lost", said["allowed"], f"of the {said['metric']}"))
    notes = [f"The {said['metric']} is {said['explained']}."]
    return Slide("question", "The question", said["title"], tuple(lines), tuple(figures), tuple(notes))


def _map(said: Mapping, at: int) -> Slide:
    row = said["rows"][at]
    return Slide("map", "The map", f"{row['letter']}: {row['cut']}",
                 (f"One panel for each matrix, one dot for each block of {said['block']} weights. Bright: a large "
                  "norm. Pale: cut, neither stored nor computed.",
                  f"Where you drag, speedup and score are predicted{_where(row)}."),
                 notes=("In the HTML slides the map is live: drag the threshold in the histogram, or use the arrow "
                        "keys on its handle.",))


def _where(row: Mapping) -> str:
    """For which machine, where that is another one."""
    return f", the speedup {row['speed'].mark}" if row["speed"] and row["speed"].mark else ""


def _trade(said: Mapping) -> Slide:
    others = "Grey: the other results. " if said["over"] else ""
    kinds = dict.fromkeys(row["speed"].kind for row in said["rows"] if row["speed"])
    fast = f" Speedups: {' and '.join(kinds)}." if kinds else ""
    return Slide("trade", "The trade", f"What each setting saves, and what it costs in {said['metric']}",
                 (f"{others}Filled marks: exact scores, with 95% intervals. Open marks: predicted.{fast}",),
                 notes=tuple(f"{row['letter']}: {row['by'] or row['weights']}" for row in said["rows"]))


def _recommendation(said: Mapping) -> Slide:
    best = said["best"]
    if best is None:
        return Slide("recommendation", "The recommendation", said["advice"])
    speed = best["speed"]
    figures = [Figure(f"{said['metric']}".capitalize(), f"{best['score'].value:.3f}",
                      f"{_signed(best['loss'])} points against dense" + (
                          "" if best["score"].exact else ", predicted")),
               Figure("Size, packed", f"{best['mb']:.1f} MB", f"dense {said['dense_mb']:.1f} MB")]
    if speed:
        figures += [Figure("Speedup", f"{speed.value:.2f}x", f"{_kind(speed)}, over {speed.rival}"),
                    Figure("Time", f"{speed.each_ms[1]:.1f} ms", f"a sentence; dense {speed.each_ms[0]:.1f} ms")]
    lines = [line for line in (said["why"], said["runner_up"], said["costs"]) if line]
    _, _, title = said["advice"].partition(": ")  # the verdict stands beside it
    title = title if said["verdict"] == NOT else f"{best['letter']}: {title}"
    return Slide("recommendation", "The recommendation", title[:1].upper() + title[1:], tuple(lines), tuple(figures),
                 ((said["better"],) if said["better"] else ()))


def _risk(said: Mapping) -> Slide:
    lines = [line for line in (said["sure"], *said["doubts"]) if line]
    lost, best = said["lost"], said["best"]
    if lost and not lost["why"]:
        if lost["lost"] is None:
            lines.append(f"{lost['changed']} of {lost['examples']} answers moved by more than 0.5.")
        elif not any(line.startswith("Against the dense model it loses") for line in lines):
            lines.append(f"Of {lost['examples']:,} dev examples, {lost['lost']} that were right are now wrong, and "
                         f"{lost['won']} that were wrong are now right.")
        lines += [_example(flip) for flip in lost["flips"][:2]]
    lines += said["warnings"][:2]
    interval = best and best["interval"]
    title = f"95% interval of the {said['metric']}: {interval}" if interval else "How sure this is"
    return Slide("risk", "The risk", title, tuple(lines[:6]), tuple(_range(best)) if interval else ())


def _range(best: Mapping) -> list[Figure]:
    """The score and the ends of its interval, against the dense model."""
    score, dense = best["score"], best["score"].value - best["loss"]
    return [Figure(label, f"{value:.3f}", f"{_signed(value - dense)} points against dense") for label, value in (
        ("Score", score.value), ("Low end", score.low), ("High end", score.high))] + [
        Figure("Examples", f"{score.examples:,}", "of the dev set")]


def _example(flip: Mapping) -> str:
    """A sentence that is answered otherwise now, short enough for a slide."""
    text = flip["text"] if len(flip["text"]) <= 110 else flip["text"][:109].rstrip() + "…"
    return f"Lost: “{text}”: {flip['before']}, now {flip['after']}"


def _next(said: Mapping, run: Run, best: Finding, allowed: float) -> Slide:
    """What follows from the verdict."""
    title = {SHIP: "Hand it over, and keep watching it", CARE: "Try it on your own data, then hand it over",
             NOT: "Do not hand it over yet"}[said["verdict"]]
    time = "Time it on the machine that will run it: speedups are those of the machine named in the report."
    lines = {SHIP: ["Hand over the compact model: Explore, Export.",
                    "For the first weeks run the dense model beside it, and compare the answers.", time],
             CARE: [_more_examples(run, best, allowed),
                    "Run it beside the dense model on a part of the traffic, and compare the answers.",
                    "If that holds, hand over the compact model: Explore, Export.", time],
             NOT: _instead(run, best, allowed)}[said["verdict"]]
    return Slide("next", "The next step", title, tuple(line for line in lines if line))


def _more_examples(run: Run, best: Finding, allowed: float) -> str:
    """How many examples settle whether it keeps within, were the loss the same there."""
    score = best.score
    if not score.exact:
        return "Have its exact score taken: it is predicted so far."
    if score.low is None:
        return "Score it on labelled sentences of your own."
    half, room = (score.high - score.low) / 2, allowed - (run.dense_score - score.value)
    needed = score.examples * (half / room) ** 2 if room > 1e-9 else math.inf
    if needed > MUCH:
        return "Score it on labelled sentences of your own; its loss is at the limit, so no number of them settles it."
    about = math.ceil(needed / 10 ** (len(str(int(needed))) - 2)) * 10 ** (len(str(int(needed))) - 2)
    return (f"Score it on about {about:,} labelled sentences of your own: if the loss is the same there, even the low "
            f"end of the interval is within {points(allowed)}.")


def _instead(run: Run, best: Finding, allowed: float) -> list[str]:
    """What can be done where nothing is to be shipped."""
    score = best.score
    if score is None:
        return ["Have scores taken: none of these settings has one."]
    lost, lines = run.dense_score - score.value, []
    if score.value > run.majority_score and not keeps(run.dense_score, best, allowed):
        lines.append(f"If {points(math.ceil(1000 * lost - 1e-9) / 1000)} may be lost, this setting will do.")
    if score.low is not None and not keeps(run.dense_score, best, allowed) and run.dense_score - score.high <= allowed:
        lines.append("Score it on more data: its interval reaches into what is allowed.")
    return [*lines, "Prune less, train longer after the cut, or have the dense model teach the pruned one.",
            "Then make this report again."]


def _kind(speed: object) -> str:
    return "measured" if speed.measured else "predicted"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
