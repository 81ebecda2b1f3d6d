"""Reports: of the settings of one run (`export`), or over all runs of a task (`report`), in whatever form."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prune_core import InputError
from prune_core.cli.options import AsJson, Data, Dtype, RunsDir
from prune_core.cli.tell import say_taken, tell
from prune_core.runs import best, index, places
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.showing.report import over
from prune_core.showing.report.finding import FORMS, Request
from prune_core.showing.report.over import Over

Title = Annotated[str, Option(help="Of a report.")]
Audience = Annotated[str, Option(help="Of a report: short or technical.")]
Words = Annotated[str, Option(help="Your own words in a report.")]
Allow = Annotated[float, Option(help="Report: how much of the score may be lost, 0.01 for one point; the "
                                     "recommendation rests on it.")]
Measure = Annotated[bool, Option(help="Report: measure all speedups now, in one sitting, on this machine; else they "
                                      "are predicted.")]
PriceOption = Annotated[str, Option("--price", help="Report: what an hour of this machine costs, with the currency, as "
                                                    "in '0.40 EUR'; then it says what a million sentences cost.")]


@dataclass(frozen=True)
class Asked:
    """What a report is made of: settings of one run, or, with `of`, of the runs that it is over."""

    pairs: Sequence[tuple[Run, Setting]]
    to: str
    out: Path
    data: str | None
    request: Request
    measure: bool
    of: Over | None = None


def write(asked: Asked) -> dict:
    """Gather what it says and write it. Raises InputError."""
    from prune_core.evaluation import findings, speedup
    from prune_core.showing.report import recommend
    from prune_core.showing.report import write as writing

    request, made, paths = asked.request, date.today(), free_paths(asked.to, asked.out)
    profile = speedup.usual_profile()
    known = findings.across(asked.pairs, asked.data, asked.measure, profile, show_step, request.dtype, say_taken)
    run, at, rule = asked.pairs[0][0], 0, ""
    if asked.of:
        known, what = over.ordered(known, request.allowed)
        run, rule, at = known[0].run, over.rule(asked.of, what), 0 if known[0].score else None
    else:
        at, rule = recommend.recommended(run.dense_score, known, request.allowed)
    word = recommend.NOT if at is None else recommend.verdict(run.dense_score, run.majority_score, known[at],
                                                              request.allowed)
    advice, sure = ("No advice", "") if at is None else recommend.advice(
        run.dense_score, run.majority_score, known[at], "ABCD"[at], request.allowed)
    written = {}
    for path, form in paths.items():
        written = writing.write(path, _content(form, run, known, request, made, profile, asked.of))
    return written | {
        "to": asked.to, "run": run.name, "runs": len({one.name for one, _ in asked.pairs}), "settings": len(known),
        "files": [str(path) for path in paths], "verdict": word,
        "recommended": None if word == recommend.NOT else "ABCD"[at],
        "results": len(asked.of.results) if asked.of else None, "rule": rule, "advice": advice, "sure": sure,
        "better": request.better}


def _content(form: str, run: Run, known: Sequence, request: Request, made: date, profile: object,
             of: Over | None) -> str | bytes:
    from prune_core.showing.report import write as writing
    from prune_core.showing.slides import deck, pptx

    if form == "pptx":
        return pptx.pptx(run, known, request, made, of)
    if form == "md":
        return writing.markdown(run, known, request, made, of)
    return (deck.html if form == "slides" else writing.html)(run, known, request, made, profile, of)


def free_paths(to: str, out: Path) -> dict[Path, str]:
    """File -> its form. Raises InputError where one is there, before the work."""
    beside = {out.with_suffix(".html"): "html", out.with_suffix(".md"): "md"}
    paths = {"report": {out: "html"}, "markdown": {out: "md"}, "both": beside, "slides": {out: "slides"},
             "pptx": {out: "pptx"},
             "all": beside | {out.with_name(f"{out.stem}-slides.html"): "slides", out.with_suffix(".pptx"): "pptx"}}[to]
    if there := [path for path in paths if path.exists()]:
        raise InputError(f"{str(there[0])!r} is there already; needed: a new file")
    return paths


def show_step(done: int, total: int, doing: str) -> None:
    """A line that a page reads."""
    print(f"{done}/{total} {doing}", file=sys.stderr, flush=True)


def text(r: dict) -> str:
    """What is printed of it."""
    return f"{', '.join(r['files'])}: {r['verdict']}. {r['advice']}. {r['rule']}"


def subject_of(task: str | None, runs: Sequence[Run]) -> list[Run]:
    """The runs of a task, as best.subjects names them; of the only one where none is named. Raises InputError."""
    known = best.subjects(runs)
    if not known:
        raise InputError("no run has retrained anything yet; needed: one that has come that far")
    if task is None and len(known) == 1:
        return next(iter(known.values()))
    alike = [name for name in known if name == task] or [name for name, own in known.items() if own[0].task == task]
    if len(alike) != 1:
        said = "several tasks have results" if task is None else f"task {task[:60]!r} has no results here" \
            if not alike else f"task {task!r} has results on several kinds of data"
        raise InputError(f"{said}; needed: --task with one of {', '.join(repr(name) for name in alike or known)}")
    return known[alike[0]]


def report(
    out: Annotated[Path, Argument(help="A new file.")],
    task: Annotated[str | None, Option(help="Of which task: sst2, or 'sst2 on the practice set'; default: the only "
                                            "one that has results.")] = None,
    to: Annotated[str, Option(help="report (one HTML file with the live map), markdown, both, slides (six, one HTML "
                                   "file), pptx (the same for PowerPoint), or all.")] = "report",
    data: Data = None,
    title: Title = "",
    audience: Audience = "short",
    words: Words = "",
    allow: Allow = best.ALLOWED,
    price: PriceOption = "",
    dtype: Dtype = "fp32",
    measure: Measure = True,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Report over all runs of a task: the best of all their results within the allowed loss, why, and the runner-up.
    The first four by the rule are scored exactly where their weights and the data are here, and timed in one sitting.
    For a report of one run: `export RUN OUT --to report`."""
    from prune_core.evaluation import speedup
    from prune_core.execution import paths

    if to not in FORMS:
        raise InputError(f"--to {to!r} is unknown; one of {', '.join(FORMS)}")
    paths.check(dtype)
    request = Request(title, audience, words, allow, dtype=dtype, price=price)
    free_paths(to, out)
    runs = subject_of(task, [one.run for one in index.listing(runs_dir) if one.run])
    of = over.over(runs, allow, speedup.usual_profile(), dtype=dtype)
    tell(write(Asked(of.pairs, to, out, data, request, measure, of)), as_json, text)
