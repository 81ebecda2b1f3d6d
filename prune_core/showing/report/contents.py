"""What a report says, before it takes a form."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import date

import numpy as np

from prune_core import InputError
from prune_core.cutting.answers import GRID
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BYTES
from prune_core.methods.table import METHODS
from prune_core.precision import formats
from prune_core.precision.storage import Storage, storage
from prune_core.runs.run import Run
from prune_core.runs.settings import MOST, as_text
from prune_core.runs.stages import kind_of
from prune_core.showing.report.finding import Finding, Price, Request
from prune_core.showing.report.over import Over, named, ordered
from prune_core.showing.report.over import rule as over_rule
from prune_core.showing.report.over import why as over_why
from prune_core.showing.report.recommend import NOT, advice, points, recommended, verdict, verdict_rule
from prune_core.tasks.glue_folders import FOLDERS
from prune_core.tasks.metrics import in_words

TEXT = 200  # characters of a sentence that is shown
METRICS = {
    "accuracy": "the share of dev examples that are answered correctly",
    "f1": "F1 on the dev set, which counts missed and wrongly found pairs alike; 1 is perfect",
    "matthews_correlation": "Matthews correlation on the dev set; 0 is guessing, 1 is perfect",
    "spearman": "rank correlation with the human scores of the dev set; 0 is guessing, 1 is perfect"}


def described(one: Finding, run: Run, audience: str) -> dict[str, str]:
    """What the setting is, in words: `cut` (how much; for technical readers by what), `weights` (of which snapshot)."""
    setting, snapshot = one.setting, run.snapshots[one.setting.at]
    how = _how(one, run)
    ranked = "" if setting.cut.ranking == "norm" else f", ranked by {setting.cut.ranking}"
    words = f"{one.mask.sparsity:.1%} of the encoder cut" if one.mask.sparsity else "nothing cut"
    words += f" ({how}{ranked})" if audience == "technical" and one.mask.sparsity else ""
    at_once = METHODS[run.config.method].closed_form
    cut = "cut and repaired at once, not retrained" if at_once else "trained under the method, not retrained"
    trained = {"dense": "fine-tuned, never pruned", "penalty": cut, "retrain": "retrained after the cut"}
    return {"cut": words + (", then repaired" if setting.cut.repaired else ""),
            "weights": f"{snapshot.label}: {trained.get(kind_of(snapshot.phase), 'in training')}"}


def _how(finding: Finding, run: Run) -> str:
    """How the setting is cut: as the run did it, or by what shares a threshold or a share."""
    cut, sparsity, snapshot = finding.setting.cut, finding.mask.sparsity, run.snapshots[finding.setting.at]
    if snapshot.saved and cut.ranking == "norm" and 0 < sparsity and abs(sparsity - snapshot.blocks) < 1e-9:
        return "as the run cut it"
    if cut.scope == "global":
        return "one threshold for all"
    where = {"layer": "each layer", "type": "each type of matrix", "matrix": "each matrix"}[cut.scope]
    return ("a threshold for " if cut.share is None else "the same share of ") + where


def contents(run: Run, findings: Sequence[Finding], request: Request, made: date, of: Over | None = None) -> dict:
    """Everything that a report says, as plain values for a template. Raises InputError.

    `of`: what a report over all runs of a task is over; its findings are by its rule, and `run` is that of the first.
    """
    if not 1 <= len(findings) <= MOST:
        raise InputError(f"{len(findings)} settings; a report takes 1 to {MOST}")
    if run.dense_score is None:
        raise InputError(f"run {run.name!r} has no dense score yet: a report needs the end of its dense phase")
    at, rule, why, runner_up = _chosen(run, findings, request, of)
    best = None if at is None else findings[at]
    rows = [_row(letter, finding, run, request.audience, of) for letter, finding in zip("ABCD", findings, strict=False)]
    told, sure = ("No advice: none of these settings has a score", "") if best is None else advice(
        run.dense_score, run.majority_score, best, "ABCD"[at], request.allowed)
    return {
        **_named(run, request, of), "made": f"{made.day} {made:%B %Y}", "run": run, "block": run.layout.block,
        "allowed": points(request.allowed), "rule": rule, "best": None if best is None else rows[at],
        "advice": told, "sure": sure, "better": request.better, "arithmetic": _arithmetic(findings),
        "verdict": NOT if best is None else verdict(run.dense_score, run.majority_score, best, request.allowed),
        "verdict_rule": verdict_rule(request.allowed), "why": why, "runner_up": runner_up, "over": of,
        "rows": rows, "of_formats": _of_formats(rows), "dense": run.dense_score, "majority": run.majority_score,
        "dense_mb": BYTES * run.layout.model_weights / 1e6, "weights": run.layout.model_weights,
        "doubts": [] if best is None else _doubts(best, request.audience, of), "warnings": _warnings(run, findings),
        "lost": None if best is None else _lost(best), "known": _known(findings),
        "costs": "" if best is None else costs(best, request.price),
        "types": _types(findings, run.layout), "speeds": _speeds(findings),
        "busy": any(finding.speed and finding.speed.busy for finding in findings),
        "commands": [_command(finding.run or run, finding, request) for finding in findings],
        "option": _option(request),
        "made_by": run.command(), "machine": run.about.get("machine") or {},
        "long": len(request.words) > 400 or (
            len(rows) > 2 and bool(request.audience == "technical" or _of_formats(rows) or of)),
        "settings": "" if of else shlex.quote(as_text([finding.setting for finding in findings], run))}


def _chosen(run: Run, findings: Sequence[Finding], request: Request,
            of: Over | None) -> tuple[int | None, str, str, str]:
    """(position of what is recommended, or of the nearest to it, the rule, why, the runner-up)."""
    if of is None:
        return *recommended(run.dense_score, findings, request.allowed), "", ""
    _, what = ordered(findings, request.allowed)
    return 0 if findings[0].score else None, over_rule(of, what), *over_why(findings, request.allowed)


def _warnings(run: Run, findings: Sequence[Finding]) -> list[str]:
    """What to beware of in the runs that are shown; with their names where there are several."""
    runs = list(dict.fromkeys(finding.run or run for finding in findings))
    return [warning if len(runs) == 1 else f"{one.name}: {warning}" for one in runs for warning in one.warnings]


def _named(run: Run, request: Request, of: Over | None) -> dict:
    """What the report is called and for whom, of which task, and what its metric means."""
    data = ("the practice set (synthetic, not GLUE)" if run.is_practice
            else f"{run.task} (own data)" if run.is_own else f"GLUE {FOLDERS.get(run.task, run.task)}")
    models = list(dict.fromkeys(model_words(one) for one in (of.runs if of else [run])))
    return {
        "title": request.title.strip() or f"How small can {' or '.join(models[:2])} be on {data}?",
        "audience": request.audience, "model": model_words(run), "models": models,
        "words": [part.strip() for part in request.words.split("\n") if part.strip()], "of": data,
        "metric": in_words(run.metric),
        "explained": METRICS.get(run.metric.removesuffix("_matched"), "the task's metric on the dev set")}


def model_words(run: Run) -> str:
    """The model by name: 'MiniLM', of a folder its last part."""
    return {"minilm": "MiniLM"}.get(run.config.model, run.config.model.rstrip("/").rpartition("/")[2])


def _row(letter: str, finding: Finding, run: Run, audience: str, of: Over | None = None) -> dict:
    """A setting as the table shows it."""
    run = finding.run or run
    mask, score, cut, stored = finding.mask, finding.score, finding.setting.cut, _stored(finding, run)
    row = {"letter": letter, "sparsity": mask.sparsity, "kept": 1 - mask.sparsity,
           "encoder": mask.compression_encoder, "model": mask.compression_model, "mb": stored.bytes / 1e6,
           "mb_without_index": stored.without_index / 1e6, "encoder_mb": stored.encoder.stored / 1e6,
           "fewer": stored.dense / stored.bytes, "formats": _formats(finding, run),
           "fewer_encoder": stored.encoder.dense / stored.encoder.stored,
           "score": score, "speed": finding.speed, "repaired": cut.repaired, "by": named(finding) if of else "",
           **described(finding, run, audience)}
    if score:
        row |= {"loss": score.value - run.dense_score, "useless": score.value <= run.majority_score,
                "interval": None if score.low is None else f"{score.low:.3f} – {score.high:.3f}"}
    return row


def costs(finding: Finding, price: str) -> str:
    """What a million sentences take, in time and, where a price was given, in money; '' where no speed was measured.
    """
    speed, paid = finding.speed, Price.parse(price)
    if not speed or not speed.measured:
        return "What a million sentences cost is not told: no speed was measured." if paid else ""
    dense, compact = speed.hours
    told = f"A million sentences take {_time(compact)} instead of {_time(dense)} on this machine"
    if paid:
        told += (f", and cost {paid.words(compact)} instead of {paid.words(dense)} at {paid.amount:g} {paid.currency} "
                 "an hour, the price that was given")
    batch = speed.batch
    return f"{told}: measured, in batches of {batch.batch} sentences of {batch.length} tokens, one after the other."


def _time(hours: float) -> str:
    """'48 min', '1.6 hours'"""
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.1f} hours" if hours < 100 else f"{hours:,.0f} hours"


def _stored(finding: Finding, run: Run) -> Storage:
    """What the setting takes, packed."""
    return storage(finding.mask, formats.parse(finding.setting.cut.formats, run.layout), run.embeddings)


def _formats(finding: Finding, run: Run) -> str:
    """'8 bits, 2:4, trained in them'; '' for fp32 without a pattern."""
    cut, saved = finding.setting.cut, run.snapshots[finding.setting.at].saved
    made = formats.parse(cut.formats, run.layout)
    if made.plain:
        return ""
    if saved and run.trained_formats(saved) == cut.formats:
        return f"{made.words}, trained in them"
    return f"{made.words}, rounded after training"


def _of_formats(rows: Sequence[Mapping]) -> str:
    """What a reader must know of sizes and speed where settings are in fewer bits or patterns; '' where none is."""
    if not any(row["formats"] for row in rows):
        return ""
    return ("Formats: weights that stay are stored in fewer bits, or so many of every few inputs are kept (N:M). MB "
            "counts all that a file needs: values, index, scales and the parts left in fp32; of the encoder, how many "
            "times fewer bytes than in fp32. Fewer bits of the weights alone, and N:M patterns, save bytes, not time: "
            "their speedup is that of the blocks.")


def _doubts(finding: Finding, audience: str, of: Over | None = None) -> list[str]:
    """What a reader must know before believing the advice, beside how sure its score is."""
    doubts, score, flips = [], finding.score, finding.flips
    if not score.exact:
        doubts.append(f"Its score is predicted from scores recorded at {len(GRID)} sparsities on {score.examples:,} "
                      "dev examples, not measured at this one.")
    if of and len(of.results) > 1:
        doubts.append(f"It is the best of {len(of.results)} results on the same dev examples: the best of many is a "
                      "little luckier than it is good. New examples tell.")
    if audience == "technical" and finding.speed and finding.speed.apart:
        doubts.append(finding.speed.apart)
    if flips and flips.lost is not None and flips.lost + flips.won:
        from scipy.stats import binomtest

        chance = binomtest(flips.won, flips.lost + flips.won).pvalue
        how = f"in {chance:.0%} of cases" if chance >= 0.01 else "in less than 1% of cases"
        doubts.append(f"Against the dense model it loses {flips.lost} answers and wins {flips.won} of "
                      f"{flips.examples:,}: if both were equally good, a difference this large would come about "
                      f"by chance {how}.")
    return doubts


def _speeds(findings: Sequence[Finding]) -> str:
    """'A 2.11x, B 2.90x': what was measured, beside a map that predicts; '' where nothing was."""
    return ", ".join(f"{letter} {finding.speed.value:.2f}x" for letter, finding in zip("ABCD", findings, strict=False)
                     if finding.speed and finding.speed.measured)


def _lost(finding: Finding) -> dict:
    """What the recommended setting answers wrongly that was right before, with a few sentences."""
    flips = finding.flips
    if flips is None:
        return {"why": finding.why_no_flips, "flips": []}
    shown = [{"text": " ⁄ ".join(_short(text, TEXT // len(flip.texts)) for text in flip.texts),
              "truth": _short(flip.truth, 40), "before": _short(flip.before, 40), "after": _short(flip.after, 40),
              "sure": flip.sure} for flip in flips.worst]
    return {"why": "", "flips": shown, "lost": flips.lost, "won": flips.won, "changed": flips.changed,
            "examples": flips.examples}


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most - 1].rstrip() + "…"


def _known(findings: Sequence[Finding]) -> dict[str, list[str]]:
    """What was counted, what measured, what predicted, in words."""
    def letters(fits: Callable[[Finding], object]) -> str:
        return ", ".join(letter for letter, finding in zip("ABCD", findings, strict=False) if fits(finding))

    measured, predicted = ["dev score of the dense model, recorded with the run"], []
    for one in dict.fromkeys(_arithmetic_of(finding) for finding in findings if finding.score):
        if exact := letters(lambda finding, one=one: finding.score and finding.score.exact
                            and _arithmetic_of(finding) == one):
            measured.append(f"dev score of {exact}, on all examples" + (f", in {one}" if one != "fp32" else ""))
    if read_off := letters(lambda finding: finding.score and not finding.score.exact):
        predicted.append(f"dev score of {read_off}, read off the score surface recorded with the run, "
                         f"straight lines between {len(GRID)} sparsities")
    for timed, where in ((True, measured), (False, predicted)):
        def fits(finding: Finding, timed: bool = timed) -> bool:
            return finding.speed is not None and finding.speed.measured is timed

        if fast := letters(fits):
            where.append(f"speedup of {fast}: {_timed(next(filter(fits, findings)))}")
    missing = [f"{what} of {absent}" for what, absent in (
        ("no score", letters(lambda finding: not finding.score)),
        ("no speedup", letters(lambda finding: not finding.speed))) if absent]
    counted = ["sparsity, compression and sizes (packed, with the index), from the recorded block norms"]
    return {"counted": counted, "measured": measured, "predicted": predicted, "missing": missing}


def _timed(finding: Finding) -> str:
    """What was timed against what, on which batch and processor, and how sure that is."""
    speed = finding.speed
    sure = ("; medians, all taken in turn, round by round" if speed.measured
            else f"; from a model of the latency with a median error of {speed.error:.0%}")
    return (f"compact model in {speed.arithmetic} against the dense one in {speed.rival}, {speed.batch.words}, "
            f"{speed.threads} thread{'s' * (speed.threads > 1)} of {speed.cpu}{sure}")


def _arithmetic_of(finding: Finding) -> str:
    """In which its score was taken: fp32 is fp32, in one pass or module by module."""
    return finding.score.arithmetic.removesuffix(" (modules)")


def _arithmetic(findings: Sequence[Finding]) -> str:
    """In which arithmetic scores were taken and speedups measured, in a sentence; '' where all of it is fp32."""
    scored = sorted({_arithmetic_of(one) for one in findings if one.score and one.score.exact})
    timed = sorted({one.speed.arithmetic for one in findings if one.speed and one.speed.measured})
    if {*scored, *timed} <= {"fp32"}:
        return ""
    kinds = (("Exact scores", scored), ("Measured speedups", timed))
    told = [f"{what} are in {' and '.join(of)}." for what, of in kinds if of]
    return " ".join([*told, "The dense model's score is in fp32."])


def _types(findings: Sequence[Finding], layout: Layout) -> list[tuple[str, list[float]]]:
    """Share that is cut of each type of matrix, for every setting."""
    names: dict[str, list[str]] = {}
    for matrix in layout.matrices:
        names.setdefault(matrix.type, []).append(matrix.name)
    return [(kind, [float(np.mean([finding.mask.matrix_sparsity(name) for name in mine])) for finding in findings])
            for kind, mine in names.items()]


def _option(request: Request) -> str:
    """The arithmetic that was asked for, as an option; '' for fp32."""
    return "" if request.dtype == "fp32" else f" --dtype {shlex.quote(request.dtype)}"


def _command(run: Run, finding: Finding, request: Request) -> str | None:
    """What scores this setting again; None where the snapshot has no weights."""
    cut, saved = finding.setting.cut, run.snapshots[finding.setting.at].saved
    if not saved:
        return None
    given = (f"--sparsity {cut.share!r}" if cut.share is not None
             else f"--threshold {shlex.quote(json.dumps(dict(cut.thresholds)))}")
    ranked = f" --by {cut.ranking}" if cut.ranking != "norm" else ""
    if (trained := run.trained_formats(saved)) or cut.formats:
        ranked += "".join(f" {shlex.quote(option)}" for option in formats.as_options(cut.formats, trained))
    options = f"--phase {saved} --scope {cut.scope} {given}{ranked}" + " --repair" * cut.repaired
    return f"python -m prune_core evaluate {run.name} {options}{_option(request)}"
