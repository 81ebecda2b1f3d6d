"""A report of up to four settings of a run: one HTML file that works offline, with the live map in it, and the same as Markdown.

Everything said in it is counted from the run's files or was measured; what is predicted is called so. findings.py gathers it.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np

from prune_core import InputError, canvas, files
from prune_core.blocks import Layout
from prune_core.canvas import Start
from prune_core.config import CLOSED_FORM
from prune_core.cuts import Setting
from prune_core.latency import Profile
from prune_core.latency import Setting as Batch
from prune_core.masks import BYTES, BlockMask, norm_scale
from prune_core.runs import Run
from prune_core.settings import MOST, as_text
from prune_core.trajectory import GRID, Flips

HERE = Path(__file__).parent
AUDIENCES, FORMS = ("short", "technical"), ("report", "markdown", "both")
LIMITS = {"title": 120, "words": 1200}  # characters, so that it stays two pages
TEXT = 200  # characters of a sentence that is shown
MAPS = 1_000_000  # groups above which only the recommended setting gets its map: 4 bytes each, for each moment
METRICS = {
    "accuracy": "the share of dev examples that are answered rightly",
    "f1": "F1 on the dev set, which counts missed and wrongly found pairs alike; 1 is perfect",
    "matthews_correlation": "Matthews correlation on the dev set; 0 is guessing, 1 is perfect",
    "spearman": "rank correlation with the human scores of the dev set; 0 is guessing, 1 is perfect"}


@dataclass(frozen=True)
class Asked:
    """What the person wants: a title, for whom, in their own words; how much of the score may be lost (0.01: one point)."""

    title: str = ""
    audience: str = "short"
    words: str = ""
    allowed: float = 0.01

    def __post_init__(self):
        if self.audience not in AUDIENCES:
            raise InputError(f"audience {self.audience!r} is unknown; one of {', '.join(AUDIENCES)}")
        for name, most in LIMITS.items():
            if (length := len(getattr(self, name))) > most:
                raise InputError(f"the {name} {'is' if name == 'title' else 'are'} {length:,} characters long; at most {most:,} fit on two pages")
        if not 0 <= self.allowed <= 1:
            raise InputError(f"allowed loss {self.allowed:g} is out of range; needed: 0 to 1 (0.01 is one point)")


@dataclass(frozen=True)
class Score:
    """A dev score: exact (of all `examples`, or recorded with the run), or predicted from the recorded surface. No interval: None."""

    value: float
    low: float | None
    high: float | None
    examples: int
    exact: bool


@dataclass(frozen=True)
class Speed:
    """Dense / compact latency: measured, with both medians, or predicted by the latency model, with its median error."""

    value: float
    batch: Batch
    threads: int
    cpu: str
    dense_ms: float
    compact_ms: float
    error: float | None = None  # of a prediction

    @property
    def measured(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class Finding:
    """All that is known of one setting."""

    setting: Setting
    mask: BlockMask
    score: Score | None
    speed: Speed | None
    flips: Flips | None
    why_no_flips: str = ""


def recommended(dense: float, findings: Sequence[Finding], allowed: float) -> tuple[int | None, str]:
    """(position of the recommended setting, or of the nearest to it, the rule in words). None where no setting has a score.

    Of the settings within `allowed` of the uncut model: the fastest where all of these have a speedup, else the smallest.
    Where none is within: the one with the best score.
    """
    scored = [at for at, one in enumerate(findings) if one.score]
    if not scored:
        return None, "None of these settings has a score, so none is recommended."
    rule = f"Rule: among the settings whose score is at most {points(allowed)} below the uncut model's, "
    within = [at for at in scored if keeps(dense, findings[at], allowed)]
    if not within:
        best = max(scored, key=lambda at: findings[at].score.value)
        return best, (f"No setting keeps within {points(allowed)} of the uncut model. The one with the best score is named; it loses "
                      f"{points(dense - findings[best].score.value)}.")
    by_speed = all(findings[at].speed for at in within)
    size = (lambda one: one.speed.value) if by_speed else (lambda one: one.mask.compression_encoder)
    best = max(within, key=lambda at: (size(findings[at]), findings[at].score.value))
    predicted = by_speed and not all(findings[at].speed.measured for at in within)
    what = "the fastest" + (" (some speedups are predicted)" if predicted else "") if by_speed else "the smallest (not all have a speedup)"
    return best, f"{rule}{what}. {len(within)} of {len(findings)} keep{'s' * (len(within) == 1)} within."


def keeps(dense: float, one: Finding, allowed: float) -> bool:
    """Whether it loses no more of the uncut model's score than is allowed."""
    return one.score is not None and dense - one.score.value <= allowed + 1e-9


def points(share: float) -> str:
    """0.012 -> '1.2 points'"""
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text} point{'s' * (text != '1')}"


def described(one: Finding, run: Run, audience: str) -> dict[str, str]:
    """What the setting is, in words: `cut` (how much, and for technical readers by what), `weights` (of which moment)."""
    setting, snapshot = one.setting, run.snapshots[one.setting.at]
    where = {"global": "one threshold for all", "layer": "each layer", "type": "each type of matrix", "matrix": "each matrix"}[setting.scope]
    own = bool(snapshot.saved and setting.by == "norm" and 0 < one.mask.sparsity and abs(one.mask.sparsity - snapshot.point["sparsity"]) < 1e-9)
    how = "as the run cut it" if own else "the same share of " + where if setting.share is not None and setting.scope != "global" else (
        where if setting.scope == "global" else "a threshold for " + where)
    ranked = "" if setting.by == "norm" else f", ranked by {setting.by}"
    words = f"{one.mask.sparsity:.1%} of the encoder cut" if one.mask.sparsity else "nothing cut"
    words += f" ({how}{ranked})" if audience == "technical" and one.mask.sparsity else ""
    cut = "cut and repaired at once, not retrained" if run.config.method in CLOSED_FORM else "trained under the method, not retrained"
    trained = {"dense": "fine-tuned, never pruned", "penalty": cut, "retrain": "retrained after the cut"}
    phase = snapshot.label.split("-")[0].split(" ")[0]
    return {"cut": words + (", then repaired" if setting.repaired else ""), "weights": f"{snapshot.label}: {trained.get(phase, 'in training')}"}


def contents(run: Run, findings: Sequence[Finding], asked: Asked, made: date) -> dict:
    """Everything that a report says, as plain values for a template. Raises InputError."""
    if not 1 <= len(findings) <= MOST:
        raise InputError(f"{len(findings)} settings; a report takes 1 to {MOST}")
    if run.dense_score is None:
        raise InputError(f"run {run.name!r} has no dense score yet: a report needs the end of its dense phase")
    best, rule = recommended(run.dense_score, findings, asked.allowed)
    rows = [_row(letter, one, run, asked.audience) for letter, one in zip("ABCD", findings, strict=False)]
    of = "the practice set (synthetic, not GLUE)" if run.is_practice else f"{run.task} (own data)" if run.is_own else f"GLUE {run.task.upper()}"
    return {
        "title": asked.title.strip() or f"How small can {run.config.model} be on {of}?", "audience": asked.audience,
        "words": [part.strip() for part in asked.words.split("\n") if part.strip()], "made": f"{made.day} {made:%B %Y}", "of": of, "run": run,
        "metric": run.metric.replace("_", " "), "explained": METRICS.get(run.metric.removesuffix("_matched"), "the task's metric on the dev set"),
        "allowed": points(asked.allowed), "rule": rule, "best": None if best is None else rows[best],
        "verdict": "Recommended" if best is not None and keeps(run.dense_score, findings[best], asked.allowed) else "None recommended; nearest",
        "rows": rows, "dense": run.dense_score,
        "dense_mb": BYTES * run.layout.model_weights / 1e6, "weights": run.layout.model_weights, "majority": run.majority_score,
        "doubts": _doubts(run, findings[best], asked.allowed) if best is not None else [], "block": run.layout.block, "warnings": run.warnings,
        "lost": _lost(findings[best], run) if best is not None else None, "known": _known(findings, run), "types": _types(findings, run.layout),
        "commands": [_command(run, one) for one in findings], "made_by": run.command(), "machine": run.about.get("machine") or {},
        "long": len(asked.words) > 400 or (asked.audience == "technical" and len(rows) > 2),
        "settings": shlex.quote(as_text([one.setting for one in findings], run))}


def _row(letter: str, one: Finding, run: Run, audience: str) -> dict:
    """A setting as the table shows it."""
    found = {"letter": letter, "sparsity": one.mask.sparsity, "encoder": one.mask.compression_encoder, "model": one.mask.compression_model,
             "mb": one.mask.stored_bytes / 1e6, "score": one.score, "speed": one.speed, "repaired": one.setting.repaired,
             "kept": 1 - one.mask.sparsity, **described(one, run, audience)}
    if one.score:
        found |= {"loss": one.score.value - run.dense_score, "interval": None if one.score.low is None else f"{one.score.low:.3f} – {one.score.high:.3f}",
                  "useless": one.score.value <= run.majority_score}
    return found


def _doubts(run: Run, one: Finding, allowed: float) -> list[str]:
    """What a reader must know before believing the recommendation."""
    found, score = [], one.score
    if not score.exact:
        found.append(f"Its score is predicted from scores recorded at {len(GRID)} sparsities on {score.examples:,} dev examples, not measured at this one.")
    if score.low is not None and (half := (score.high - score.low) / 2) > allowed:
        found.append(f"With {score.examples:,} examples a score is known to about ±{points(half)}: more than the {points(allowed)} allowed. "
                     "Its real loss may be larger or smaller.")
    if score.value <= run.majority_score:
        found.append(f"Its score is no better than always giving the most frequent answer ({run.majority_score:.3f}).")
    if flips := one.flips:
        if flips.lost is not None and flips.lost + flips.won:
            from scipy.stats import binomtest

            chance = binomtest(flips.won, flips.lost + flips.won).pvalue
            how = f"in {chance:.0%} of cases" if chance >= 0.01 else "in less than 1% of cases"
            found.append(f"Against the uncut model it loses {flips.lost} answers and wins {flips.won} of {flips.examples:,}: if both were equally good, "
                         f"a difference this large would come about by chance {how}.")
    return found


def _lost(one: Finding, run: Run) -> dict:
    """What the recommended setting answers wrongly that was right before, with a few sentences."""
    if one.flips is None:
        return {"why": one.why_no_flips, "flips": []}
    flips = one.flips
    shown = [{"text": " ⁄ ".join(_short(text, TEXT // len(flip.texts)) for text in flip.texts), "truth": _short(flip.truth, 40),
              "before": _short(flip.before, 40), "after": _short(flip.after, 40), "sure": flip.sure} for flip in flips.worst]
    return {"why": "", "flips": shown, "lost": flips.lost, "won": flips.won, "changed": flips.changed, "examples": flips.examples}


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most - 1].rstrip() + "…"


def _known(findings: Sequence[Finding], run: Run) -> dict[str, list[str]]:
    """What was counted, what measured, what predicted, in words."""
    def letters(ok) -> str:
        return ", ".join(letter for letter, one in zip("ABCD", findings, strict=False) if ok(one))

    measured, predicted = ["dev score of the uncut model, recorded with the run"], []
    for exact, where in ((True, measured), (False, predicted)):
        if said := letters(lambda one, exact=exact: one.score and one.score.exact is exact):
            where.append(f"dev score of {said}" + (", on all examples" if exact else f", read off the score surface recorded with the run, "
                                                   f"straight lines between {len(GRID)} sparsities"))
    for timed, where in ((True, measured), (False, predicted)):
        of = [one for one in findings if one.speed and one.speed.measured is timed]
        if of:
            speed = of[0].speed
            said = letters(lambda one, timed=timed: one.speed and one.speed.measured is timed)
            where.append(f"speedup of {said}: compact model against dense torch, fp32, {speed.batch.batch} sentences of {speed.batch.length} tokens, "
                         f"{speed.threads} thread{'s' * (speed.threads > 1)} of {speed.cpu}"
                         + ("; medians, taken in turn" if timed else f"; a model of the latency with a median error of {speed.error:.0%}"))
    missing = [f"{what} of {said}" for what, said in (("no score", letters(lambda one: not one.score)), ("no speedup", letters(lambda one: not one.speed)))
               if said]
    return {"counted": ["sparsity, compression and sizes (fp32, kept blocks only), from the recorded block norms"], "measured": measured,
            "predicted": predicted, "missing": missing}


def _types(findings: Sequence[Finding], layout: Layout) -> list[tuple[str, list[float]]]:
    """Share that is cut of each type of matrix, for every setting."""
    types = list(dict.fromkeys(m.type for m in layout.matrices))
    return [(kind, [float(np.mean([one.mask.matrix_sparsity(m.name) for m in layout.matrices if m.type == kind])) for one in findings]) for kind in types]


def _command(run: Run, one: Finding) -> str | None:
    """What scores this setting again; None where the moment has no weights."""
    setting, saved = one.setting, run.snapshots[one.setting.at].saved
    if not saved:
        return None
    how = f"--sparsity {setting.share!r}" if setting.share is not None else f"--threshold {shlex.quote(json.dumps(dict(setting.thresholds)))}"
    options = f"--phase {saved} --scope {setting.scope} {how}" + (f" --by {setting.by}" if setting.by != "norm" else "") + " --repair" * setting.repaired
    return f"python -m prune_core evaluate {run.name} {options}"


# ---------------------------------------------------------------- the files


def markdown(run: Run, findings: Sequence[Finding], asked: Asked, made: date) -> str:
    """The report as Markdown. Raises InputError."""
    return _templates().get_template("page.md").render(contents(run, findings, asked, made))


def html(run: Run, findings: Sequence[Finding], asked: Asked, made: date, profile: Profile | None = None) -> str:
    """The report as one HTML file: no part of it is fetched from anywhere. Raises InputError.

    `profile`: prices what the map's threshold would save, as in the app.
    """
    found = contents(run, findings, asked, made)
    best = next((at for at, row in enumerate(found["rows"]) if row is found["best"]), 0)
    shown = range(len(findings)) if sum(m.size for m in findings[0].mask.kept.values()) <= MAPS else [best]
    norms: dict[tuple, int] = {}
    data = {"first": best, "maps": [], "norms": []}
    for at in shown:
        setting = findings[at].setting
        key = (setting.at, setting.by)
        if key not in norms:
            norms[key] = len(data["norms"])
            values = setting.norms(run)
            data["norms"].append(base64.b64encode(canvas.norms_bytes([m.name for m in run.layout.matrices], values)).decode())
        data["maps"].append({"letter": found["rows"][at]["letter"], "norms": norms[key], "header": _header(run, findings[at], profile)})
    from prune_core.report import chart

    return _templates().get_template("page.html").render(
        found, chart=chart.places(run, findings, best), data=_in_script(data), script=canvas.script() + "\n" + (HERE / "page.js").read_text(encoding="utf-8"),
        map_html=canvas.part("html"), map_css=canvas.part("css"))


def _header(run: Run, one: Finding, profile: Profile | None) -> dict:
    """What the map is sent for this setting: one moment only."""
    setting, values = one.setting, one.setting.norms(run)
    high = norm_scale([values])
    surface = setting.surface(run)
    head = canvas.header(run, setting.at, high, Start(setting.cut), setting.cut, profile, Batch(), {setting.scope: surface} if surface else {})
    return head | {"moments": [head["moments"][head["moment"]]], "moment": 0, "value": "norm" if setting.by == "norm" else f"{setting.by} score"}


def _in_script(data: Mapping) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _templates():
    import jinja2

    made = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=jinja2.select_autoescape(["html"]), undefined=jinja2.StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"times": lambda value: "all cut" if value == float("inf") else f"{value:.2f}x",
                     "signed": lambda value: f"{100 * value:+.1f}".replace("-", "−"), "points": points, "cell": _cell}
    return made


def _cell(text: str) -> str:
    """Text from outside in Markdown: no marks, no HTML, no cell of a table ended."""
    return "".join("\\" + sign if sign in "\\`*_{}[]#|~" else {"<": "&lt;", ">": "&gt;", "\n": " "}.get(sign, sign) for sign in str(text))


def write(path: Path, content: str) -> dict:
    """Write it into a new file. Raises InputError."""
    path = Path(path)
    if path.exists():
        raise InputError(f"{str(path)!r} is there already; needed: a new file")
    try:
        files.write_whole(path, content.encode())
    except OSError as error:
        raise InputError(f"the report cannot be written to {str(path)!r}: {error.strerror or error}") from None
    return {"path": str(path), "bytes": len(content.encode())}
