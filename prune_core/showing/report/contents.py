"""What a report says, before it takes a form."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import date

import numpy as np

from prune_core import InputError
from prune_core.cutting.answers import GRID
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BYTES
from prune_core.methods.table import METHODS
from prune_core.runs.run import Run
from prune_core.runs.settings import MOST, as_text
from prune_core.runs.stages import kind_of
from prune_core.showing.report.finding import Finding, Request
from prune_core.showing.report.recommend import keeps, points, recommended

TEXT = 200  # characters of a sentence that is shown
METRICS = {
    "accuracy": "the share of dev examples that are answered rightly",
    "f1": "F1 on the dev set, which counts missed and wrongly found pairs alike; 1 is perfect",
    "matthews_correlation": "Matthews correlation on the dev set; 0 is guessing, 1 is perfect",
    "spearman": "rank correlation with the human scores of the dev set; 0 is guessing, 1 is perfect"}


def described(one: Finding, run: Run, audience: str) -> dict[str, str]:
    """What the setting is, in words: `cut` (how much, and for technical readers by what), `weights` (of which moment)."""
    setting, snapshot = one.setting, run.snapshots[one.setting.at]
    where = {"global": "one threshold for all", "layer": "each layer", "type": "each type of matrix", "matrix": "each matrix"}[setting.cut.scope]
    own = bool(snapshot.saved and setting.cut.ranking == "norm" and 0 < one.mask.sparsity and abs(one.mask.sparsity - snapshot.point["sparsity"]) < 1e-9)
    how = "as the run cut it" if own else "the same share of " + where if setting.cut.share is not None and setting.cut.scope != "global" else (
        where if setting.cut.scope == "global" else "a threshold for " + where)
    ranked = "" if setting.cut.ranking == "norm" else f", ranked by {setting.cut.ranking}"
    words = f"{one.mask.sparsity:.1%} of the encoder cut" if one.mask.sparsity else "nothing cut"
    words += f" ({how}{ranked})" if audience == "technical" and one.mask.sparsity else ""
    at_once = METHODS[run.config.method].closed_form
    cut = "cut and repaired at once, not retrained" if at_once else "trained under the method, not retrained"
    trained = {"dense": "fine-tuned, never pruned", "penalty": cut, "retrain": "retrained after the cut"}
    return {"cut": words + (", then repaired" if setting.cut.repaired else ""), "weights": f"{snapshot.label}: {trained[kind_of(snapshot.phase)]}"}


def contents(run: Run, findings: Sequence[Finding], asked: Request, made: date) -> dict:
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
             "mb": one.mask.stored_bytes / 1e6, "score": one.score, "speed": one.speed, "repaired": one.setting.cut.repaired,
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
    cut, saved = one.setting.cut, run.snapshots[one.setting.at].saved
    if not saved:
        return None
    given = (f"--sparsity {cut.share!r}" if cut.share is not None
             else f"--threshold {shlex.quote(json.dumps(dict(cut.thresholds)))}")
    ranked = f" --by {cut.ranking}" if cut.ranking != "norm" else ""
    options = f"--phase {saved} --scope {cut.scope} {given}{ranked}" + " --repair" * cut.repaired
    return f"python -m prune_core evaluate {run.name} {options}"
