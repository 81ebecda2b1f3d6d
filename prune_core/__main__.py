"""The command line, a function for each command. Bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

# Threads that wait for each other spin for a moment only, then sleep: two runs, or a run and the app,
# share the cores without halting each other (measured: 2.4 times as fast side by side).
# It must be set before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import typer  # noqa: E402
from typer import Argument, Option  # noqa: E402

from prune_core import InputError, files, out_of_memory
from prune_core.files import DATA
from prune_core.methods import rankings, table
from prune_core.runs import config, places, shelf
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run
from prune_core.runs.shelf import Listed  # noqa: E402
from prune_core.tasks.glue import HUB_DATA

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Prune a transformer encoder on a GLUE task by reweighted group Lasso, and keep what happened.")
RunsDir = Annotated[Path, Option(help="Folder of your own runs.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object as the last line.")]
Sparsity = Annotated[float | None, Option(help="Share of the prunable weights to cut, 0 to 1.")]
Threshold = Annotated[str | None, Option(help="Cut blocks of norm up to this; or JSON: scope key -> threshold.")]
Scope = Annotated[str | None, Option(help="global, layer, type, matrix; default: the run's.")]
Phase = Annotated[str | None, Option(help="dense, penalty-2x, retrain-2x ...; default: the most trained that is not sparser.")]
Threads = Annotated[int, Option(help="CPU threads; 0: all cores.")]


# What starts, changes or deletes something; all else only reads, and in read-only mode keeps nothing of what it finds
CHANGING = {"prune", "resume", "compare", "score", "surface", "sensitivity", "calibrate", "pack", "delete", "restore"}


@app.callback()
def before(context: typer.Context) -> None:
    if os.environ.get("PRUNESCOPE_READ_ONLY"):
        if context.invoked_subcommand in CHANGING:
            raise InputError(f"PRUNESCOPE_READ_ONLY is set: {context.invoked_subcommand} would start, change or delete something")
        files.protect([DATA, os.environ.get("PRUNESCOPE_RUNS_DIR") or places.RUNS, files.cache_folder() / "profiles"])


@app.command()
def prune(
    model: Annotated[str, Option(help="minilm, a hub name, or a folder.")] = "minilm",
    task: Annotated[str, Option(help="One of the nine GLUE tasks.")] = "sst2",
    data: Annotated[str, Option(help="nyu-mll/glue, a folder in its layout, or practice.")] = HUB_DATA,
    text: Annotated[str, Option(help="Of a table file: the column of the text, or two for pairs: a,b; default: guessed.")] = "",
    label: Annotated[str, Option(help="Of a table file: the column of the label; default: guessed.")] = "",
    start_from: Annotated[str | None, Option("--from", help="Start from the fine-tuned dense weights of this run.")] = None,
    block: Annotated[str, Option(help="ROWSxCOLS of one block: 64x1, 1x64, 16x16, allx1, 1xall.")] = "64x1",
    compression: Annotated[str, Option(help="Encoder compressions, for example 2 or 1.5,2,3.")] = "2",
    preset: Annotated[str, Option(help="quick (minutes), standard (at most an hour), full.")] = "standard",
    run: Annotated[str | None, Option(help="Name of the run.")] = None,
    runs_dir: RunsDir = places.RUNS,
    seed: Annotated[int, Option(help="Fixes the result.")] = 0,
    threads: Threads = 0,
    method: Annotated[str | None, Option(help=f"{', '.join(table.stepwise())}; {' and '.join(table.at_once())} cut at once; default: the preset's, "
                                         "surgeon for standard and full, group-lasso for quick and wherever one of its settings is given.")] = None,
    penalty: Annotated[str, Option(help="proximal (step after the optimizer's) or in-loss (as the paper has it).")] = "proximal",
    lam: Annotated[float | None, Option("--lambda", help="Fixed lambda instead of a controlled one.")] = None,
    reweighted: Annotated[bool, Option(help="Refresh gamma at milestones; --no-reweighted is plain group Lasso.")] = True,
    spare: Annotated[bool, Option(help="Penalise only blocks that are to go; --no-spare penalises all, as the paper does.")] = True,
    scope: Annotated[str | None, Option(help="What shares a threshold: global, layer, type, matrix (the same share of each); "
                                        "default: global where the surgeon ranks, else matrix.")] = None,
    score: Annotated[str, Option(help=f"What decides which groups go. {rankings.explained(rankings.in_training())}")] = PruneConfig.ranking,
    distill: Annotated[float, Option(help="Share of the loss that is the distance to the dense model's outputs; 0: none.")] = PruneConfig.distill,
    temperature: Annotated[float, Option(help="At which outputs are compared.")] = PruneConfig.temperature,
    distill_hidden: Annotated[float, Option(help="Weight of the distance between hidden states; a third slower.")] = 0.0,
    dropout: Annotated[bool | None, Option(help="Dropout under the penalty and in retraining; default: only without distillation.")] = None,
    control: Annotated[str, Option(help="Of lambda: line (follows the wanted share) or dynamic (bounded, falls with what is missing to the target).")] = "line",
    progressive: Annotated[bool, Option(help="ADMM: the share rises step by step; --no-progressive projects onto the whole from the start.")] = True,
    mixkd: Annotated[bool, Option("--mixkd", help="Distil on mixed pairs of sentences as well; twice as slow.")] = False,
    dense_steps: Annotated[int | None, Option(help="Fine-tuning steps, instead of the preset's.")] = None,
    penalty_steps: Annotated[int | None, Option(help="Steps under the penalty, instead of the preset's.")] = None,
    retrain_steps: Annotated[int | None, Option(help="Masked retraining steps per compression, instead of the preset's.")] = None,
    penalty_lr: Annotated[float, Option(help="Learning rate under the penalty.")] = PruneConfig.penalty_lr,
    retrain_lr: Annotated[float, Option(help="Peak learning rate of masked retraining.")] = PruneConfig.retrain_lr,
    surface_examples: Annotated[int | None, Option(help="Dev examples behind the score surface, instead of the preset's.")] = None,
    precision: Annotated[str, Option(help="bf16, fp32, or auto: the faster one here.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Fine-tune, penalise, threshold, retrain; record it all. With no options: the embedded model on SST-2."""
    from prune_core.training import session

    taught = {"distill": distill, "temperature": temperature, "distill_hidden": distill_hidden, "mixkd": mixkd, "dropout": dropout,
              "control": control, "progressive": progressive}
    settings = {"model": model, "task": task, "data": data, "start_from": start_from, "block": block, "compressions": _numbers(compression),
                "seed": seed, "threads": threads, "penalty": penalty, "lam": lam, "reweighted": reweighted, "spare": spare, "scope": scope,
                "dense_steps": dense_steps, "penalty_steps": penalty_steps, "retrain_steps": retrain_steps,
                "ranking": score, "penalty_lr": penalty_lr, "retrain_lr": retrain_lr, "precision": precision}
    if method is None and (lam is not None or not reweighted or not spare or penalty != "proximal" or control != "line"):
        method = "group-lasso"  # these are settings of it
    if method is not None:
        settings["method"] = method
    settings |= taught | {"columns": tuple(filter(None, text.split(","))), "label": label}
    if surface_examples is not None:  # None is a preset's own word: all of them
        settings["surface_examples"] = surface_examples
    asked = config.preset(preset, **settings)
    command = shlex.join(["python", "-m", "prune_core", *sys.argv[1:]])
    with _Progress() as progress:
        result = session.start(asked, runs_dir, run, command, progress)
    _record_repaired(result["run"], runs_dir)
    _tell(result, as_json, _result_text)


@app.command()
def resume(run: str, runs_dir: RunsDir = places.RUNS, as_json: AsJson = False) -> None:
    """Take an interrupted run to its end, with the same numbers as if it had never stopped."""
    from prune_core.training import session

    with _Progress() as progress:
        result = session.resume(shelf.find(run, runs_dir), progress)
    _record_repaired(run, runs_dir)
    _tell(result, as_json, _result_text)


def _record_repaired(name: str, runs_dir: Path) -> None:
    """Have a complete run record what could be kept without training."""
    from prune_core.evaluation import surface as surface_

    run = shelf.find(name, runs_dir)
    if run.recorded or run.config.preset == "quick":
        return
    try:
        for _ in _scored(surface_.repaired(run)):
            pass
    except InputError as error:  # the run itself is complete
        print(f"without repaired scores: {error}", file=sys.stderr)


@app.command()
def compare(
    task: Annotated[str, Option(help="One of the nine GLUE tasks.")],
    methods: Annotated[str, Option(help=f"Some of {', '.join(table.variants())}; group-lasso is the plain one.")] = "surgeon,reweighted,magnitude",
    compressions: Annotated[str, Option(help="Encoder compressions.")] = "1.5,2,3,5",
    seeds: Annotated[int, Option(help="Runs of each method.")] = 3,
    budget_steps: Annotated[int, Option(help="Steps of each run at one compression: two thirds under the method, one third of retraining.")] = 450,
    dense_steps: Annotated[int | None, Option(help="Fine-tuning steps, once for each seed; default: the preset's.")] = None,
    model: Annotated[str, Option(help="minilm, a hub name, or a folder.")] = "minilm",
    data: Annotated[str, Option(help="nyu-mll/glue, a folder in its layout, or practice.")] = HUB_DATA,
    block: Annotated[str, Option(help="ROWSxCOLS of one block.")] = "64x1",
    scope: Annotated[str | None, Option(help="What shares a threshold; default: global where the surgeon ranks, else matrix.")] = None,
    score: Annotated[str, Option(help=f"What decides which groups go: {', '.join(rankings.in_training())}.")] = PruneConfig.ranking,
    distill: Annotated[float, Option(help="Share of the loss from the dense model, for all methods alike.")] = PruneConfig.distill,
    lr: Annotated[float, Option(help="Learning rate under the method and in retraining.")] = PruneConfig.penalty_lr,
    to: Annotated[Path | None, Option(help="Write the table to this path, as .csv and .md; default: the runs folder.")] = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Compare methods under one budget: the same steps, seeds and dense weights. Goes on where it was stopped; writes one table."""
    from prune_core.showing import compare as compare_
    from prune_core.showing.compare import as_csv, as_markdown, sentences
    from prune_core.training import comparison, session

    base = config.preset("standard", method="group-lasso", task=task, model=model, data=data, block=block, compressions=_numbers(compressions),
                         scope=scope, ranking=score, distill=distill, penalty_lr=lr, retrain_lr=lr, dense_steps=dense_steps, threads=threads)
    planned = comparison.plan(base, methods.split(","), seeds, budget_steps)
    there = [comparison.standing(name, asked, runs_dir) for name, asked in planned]  # wrong settings are told before any work
    command = shlex.join(["python", "-m", "prune_core", *sys.argv[1:]])
    for number, ((name, asked), run) in enumerate(zip(planned, there, strict=True), 1):
        print(f"{number} of {len(planned)}: {name}" + (" is there" if run and run.result else ""), file=sys.stderr)
        with _Progress() as progress:
            session.resume(run, progress) if run else session.start(asked, runs_dir, name, command, progress)
    found = comparison.rows(planned, runs_dir)
    done = [Run(Path(runs_dir) / name) for name, _ in planned]
    table = as_markdown(found, task, done[0].metric, [run.dense_score for run in done])
    path = to or Path(runs_dir) / f"compare-{task}"
    try:
        files.write_whole(path.with_suffix(".csv"), as_csv(found).encode())
        files.write_whole(path.with_suffix(".md"), table.encode())
    except OSError as error:
        raise InputError(f"the table cannot be written to {str(path)!r}: {error.strerror or error}") from None
    result = {"task": task, "metric": done[0].metric, "csv": str(path.with_suffix(".csv")), "markdown": str(path.with_suffix(".md")),
              "rows": [vars(row) | {"mean": row.mean, "spread": row.spread} for row in found], "sentences": list(sentences(found, done[0].metric))}
    _tell(result, as_json, lambda r: table)


@app.command()
def predict(
    run: str,
    sentence: Annotated[list[str], Argument(help="A sentence; of a pair, both.")],
    sparsities: Annotated[str, Option(help="How much is cut: shares of the weights, or one.")] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    scope: Scope = None,
    phase: Annotated[str, Option(help="Weights of which end of a phase.")] = "dense",
    by: Annotated[str, Option(help="What is cut first: norm, or a score that `score` has recorded.")] = "norm",
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """What the model says of a sentence, and how sure it is, as more and more is cut."""
    from prune_core.evaluation import sentences
    from prune_core.tasks import glue

    found = shelf.find(run, runs_dir)
    wanted = len(found.about["task"].get("columns") or glue.task_named(found.task).columns)
    if len(sentence) != wanted:
        raise InputError(f"{len(sentence)} sentences; needed for {found.task}: {wanted}")
    answer = sentences.predict(found, phase, [tuple(sentence)], _numbers(sparsities, "sparsity"), scope, by)
    _tell(answer, as_json, lambda r: "\n".join(f"{sparsity:6.1%}  " + "  ".join(f"{label} {share:.3f}" for label, share in zip(r["labels"], row, strict=True))
                                              for sparsity, (row,) in zip(r["sparsities"], r["probabilities"], strict=True)))


@app.command()
def flips(
    run: str,
    sparsities: Annotated[str, Option(help="How much is cut, rising.")] = "0.1,0.2,0.3,0.4,0.5",
    scope: Scope = None,
    by: Annotated[str, Option(help="What is cut first: norm, or a score that `score` has recorded.")] = "norm",
    repair: Annotated[bool, Option("--repair", help="Move what is kept to make up for what is cut, in closed form, no training.")] = False,
    data: Annotated[str | None, Option(help="Where the task's data lies; default: where the run had it.")] = None,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Which dev sentences the dense weights answer wrongly first, as more and more is cut, and how many are lost and won."""
    from prune_core.evaluation.flips import first

    _tell(first(shelf.find(run, runs_dir), _numbers(sparsities, "sparsity"), scope, by, repair, data), as_json, _flips_text)


@app.command()
def export(
    run: str,
    out: Annotated[Path, Argument(help="Folder to write (new or empty); for a notebook or a report, a new file.")],
    to: Annotated[str, Option(help="hf (a folder for transformers), onnx (the compact graph, with a script that runs it), notebook, report (one HTML "
                              "file with the live map), markdown, or both.")] = "hf",
    sparsity: Sparsity = None,
    threshold: Threshold = None,
    scope: Scope = None,
    phase: Phase = None,
    repair: Annotated[bool, Option("--repair", help="Move what is kept to make up for what is cut, in closed form, no training.")] = False,
    by: Annotated[str, Option(help=f"What is cut first: norm, or a score that `score` has recorded: {', '.join(rankings.recordable())}.")] = "norm",
    data: Annotated[str | None, Option(help="Where the task's data lies, for scores; default: where the run had it.")] = None,
    settings: Annotated[str | None, Option(help="Report: up to four, as a JSON list of {at, scope, share or thresholds, by, repaired}; default: the one "
                                           "that the options name, else the run's own results.")] = None,
    title: Annotated[str, Option(help="Of a report.")] = "",
    audience: Annotated[str, Option(help="Of a report: short or technical.")] = "short",
    words: Annotated[str, Option(help="Your own words in a report.")] = "",
    allow: Annotated[float, Option(help="Report: how much of the score may be lost, 0.01 for one point; the recommendation rests on it.")] = 0.01,
    measure: Annotated[bool, Option(help="Report: measure the speedups that were not measured on this machine yet.")] = True,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Write the pruned model for use elsewhere, with a card that has its figures; or a notebook or a report of what was found."""
    from prune_core import export as exporting
    from prune_core.evaluation.exact import default_phase
    from prune_core.runs.settings import Setting, from_json, results
    from prune_core.showing.report import finding

    if to not in (known := (*exporting.FORMS, "notebook", *finding.FORMS)):
        raise InputError(f"--to {to!r} is unknown; one of {', '.join(known)}")
    if settings is not None and to not in finding.FORMS:
        raise InputError("--settings is for a report; the model and the notebook take --sparsity or --threshold")
    if settings is not None and (sparsity is not None or threshold is not None):
        raise InputError("give either --settings or one of --sparsity and --threshold")
    asked = finding.Request(title, audience, words, allow)
    if to in finding.FORMS and sparsity is None and threshold is None:
        found = shelf.find(run, runs_dir)
        _report(to, found, results(found) if settings is None else from_json(settings, found), asked, out, data, measure, as_json)
        return
    cut = replace(_cut(run, sparsity, threshold, scope, phase, runs_dir), score=by)
    if to in exporting.FORMS:
        _tell(exporting.FORMS[to](exporting.take(cut, repair, data), out), as_json, _exported_text)
        return
    cut = replace(cut, phase=cut.phase or default_phase(cut.run, sparsity, weights=False))
    saved, where, _, thresholds = cut.resolved()
    one = Setting("setting", cut.run.saved(saved), where, sparsity, None if sparsity is not None else thresholds, by, repair)
    if to == "notebook":
        from prune_core.showing import notebook

        _tell(notebook.write(cut.run, [one], out), as_json, lambda r: f"{r['path']}: {r['bytes']:,} bytes")
        return
    _report(to, cut.run, [one], asked, out, data, measure, as_json)


def _report(to: str, run: Run, settings: list, asked, out: Path, data: str | None, measure: bool, as_json: bool) -> None:
    """Gather what a report says and write it."""
    from datetime import date

    from prune_core.evaluation import findings, speedup
    from prune_core.showing.report import recommend, write

    made = date.today()
    paths = {"report": {out: "html"}, "markdown": {out: "md"}, "both": {out.with_suffix(".html"): "html", out.with_suffix(".md"): "md"}}[to]
    if there := [path for path in paths if path.exists()]:
        raise InputError(f"{str(there[0])!r} is there already; needed: a new file")  # before the work
    profile = speedup.usual_profile()
    found = findings.find(run, settings, data, measure, profile, lambda done, total, doing: print(f"{done}/{total} {doing}", file=sys.stderr, flush=True))
    best, rule = recommend.recommended(run.dense_score, found, asked.allowed)
    kept = best is not None and recommend.keeps(run.dense_score, found[best], asked.allowed)
    told = {"to": to, "run": run.name, "settings": len(found), "recommended": "ABCD"[best] if kept else None, "rule": rule}
    for path, form in paths.items():
        written = write.write(path, write.html(run, found, asked, made, profile) if form == "html" else write.markdown(run, found, asked, made))
    _tell(written | told, as_json, lambda r: f"{r['path']}: {r['bytes']:,} bytes; recommended: {r['recommended'] or 'none'}. {r['rule']}")


@app.command("runs")
def list_runs(runs_dir: RunsDir = places.RUNS, as_json: AsJson = False) -> None:
    """List your runs and the recorded ones, and the folders that hold none, with the reason."""
    rows = [_row(listed) for listed in shelf.listing(runs_dir)]
    _tell({"runs": rows}, as_json, lambda result: "\n".join(map(_row_text, result["runs"])) or f"no runs in {runs_dir}")


@app.command()
def delete(
    run: str,
    yes: Annotated[bool, Option("--yes", help="Do not ask.")] = False,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Move a run of yours into the trash; `restore` puts it back."""
    from prune_core.runs import trash

    if not yes and not typer.confirm(f"Move run {run!r} to the trash?", err=True):
        raise InputError("nothing was deleted")
    one = trash.delete(run, runs_dir)
    _tell({"run": one.name, "key": one.key}, as_json, lambda r: f"{r['run']} is in the trash; undo: python -m prune_core restore {r['key']}")


@app.command()
def restore(
    run: Annotated[str | None, Argument(help="Name or key of a deleted run; without it, list them.")] = None,
    erase: Annotated[bool, Option("--erase", help="Delete it for good instead.")] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask.")] = False,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Put a deleted run back, or list what is in the trash."""
    from prune_core.runs import trash

    if run is None:
        rows = [{"key": one.key, "run": one.name, "bytes": one.size} for one in trash.deleted(runs_dir)]
        _tell({"deleted": rows}, as_json, lambda r: "\n".join(f"{one['key']:48} {one['bytes'] / 1e6:8.1f} MB" for one in r["deleted"]) or "the trash is empty")
    elif erase:
        if not yes and not typer.confirm(f"Delete {run!r} for good?", err=True):
            raise InputError("nothing was deleted")
        trash.erase(run, runs_dir)
        _tell({"erased": run}, as_json, lambda r: f"{r['erased']} is gone")
    else:
        _tell({"run": trash.restore(run, runs_dir)}, as_json, lambda r: f"{r['run']} is back")


@app.command()
def evaluate(
    run: str,
    sparsity: Sparsity = None,
    threshold: Threshold = None,
    scope: Scope = None,
    phase: Phase = None,
    data: Annotated[str | None, Option(help="Where the task's data lies; default: where the run had it.")] = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    by: Annotated[str, Option(help=f"What is cut first: norm, or a score that `score` has recorded: {', '.join(rankings.recordable())}.")] = "norm",
    repair: Annotated[bool, Option("--repair", help="Move what is kept to make up for what is cut, in closed form, no training.")] = False,
    exact: Annotated[bool, Option("--exact", help="Compute it even if it is known, and show it as it comes in.")] = False,
    as_json: AsJson = False,
) -> None:
    """The exact dev score of a run's weights, cut at a sparsity or a threshold; a score that is known is not computed again."""
    from prune_core.evaluation import exact as exact_

    cut = replace(_cut(run, sparsity, threshold, scope, phase, runs_dir), score=by)
    _tell(exact_.evaluate(cut, data, threads, _running_text if exact else lambda running: None, exact, repaired=repair), as_json, _evaluated_text)


@app.command()
def measure(
    run: str,
    sparsity: Sparsity = None,
    threshold: Threshold = None,
    scope: Scope = None,
    phase: Phase = None,
    batch: Annotated[int, Option(help="Sentences in a batch.")] = 32,
    length: Annotated[int, Option(help="Tokens of a sentence.")] = 128,
    dtype: Annotated[str, Option(help="fp32, or bf16 (dense: as torch autocasts; compact: weights in bf16, arithmetic in fp32).")] = "fp32",
    engine: Annotated[str, Option(help="torch, onnxruntime or openvino: what runs both, the last two as ONNX graphs.")] = "torch",
    seconds: Annotated[float, Option(help="How long to measure.")] = 6.0,
    profile: Annotated[Path | None, Option(help="Latency profile to predict with; default: this machine's.")] = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Time the dense and the compact model in turn, here. Needs no weights of the run: a latency does not depend on their values."""
    from prune_core.evaluation import speedup

    cut = _cut(run, sparsity, threshold, scope, phase, runs_dir)
    _tell(speedup.measure(cut, batch, length, threads, dtype, seconds, profile, engine), as_json, _measured_text)


@app.command()
def score(
    run: str,
    phase: Annotated[str, Option(help="Weights of which end of a phase.")] = "dense",
    by: Annotated[str, Option(help=f"{', '.join(rankings.recordable())}, or several.")] = ",".join(rankings.recordable()),
    data: Annotated[str | None, Option(help="Where the task's data lies; default: where the run had it.")] = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Score every group in other ways than by its norm, for `evaluate --by` and Explore: inputs it meets, gradients, least squares."""
    from prune_core.evaluation import rank

    found = shelf.find(run, runs_dir)
    made = {kind: str(path) for kind, path in rank.rank(found, phase, by.split(","), data, threads)}
    _tell({"run": found.name, "phase": phase, "files": made}, as_json, lambda r: "\n".join(f"{kind}: {path}" for kind, path in r["files"].items()))


@app.command()
def sensitivity(
    run: str,
    phase: Annotated[str, Option(help="Weights of which end of a phase.")] = "dense",
    by: Annotated[str, Option(help="layer, type, matrix, or several.")] = "layer,matrix",
    shares: Annotated[str, Option(help="Shares of a part's weights to cut.")] = "0.25,0.5,0.75,0.9",
    data: Annotated[str | None, Option(help="Where the task's data lies; default: where the run had it.")] = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """What cutting one layer or matrix alone costs: exact dev scores over a grid, kept with the run; what is known is not computed again."""
    from prune_core.evaluation import sensitivity as sensitivity_

    found, points = shelf.find(run, runs_dir), []
    for *_, point in _scored(sensitivity_.sensitivity(found, phase, by.split(","), _numbers(shares, "share"), data, threads)):
        points.append(point)
    result = {"run": found.name, "phase": phase, "metric": found.metric, "dense_score": found.dense_score, "points": [vars(p) for p in points]}
    _tell(result, as_json, lambda r: "\n".join(f"{p['key']:40} {p['share']:6.0%} cut: {r['metric']} {p['score']:.4f}  ({p['low']:.3f} to {p['high']:.3f})"
                                               for p in r["points"]))


@app.command()
def surface(
    run: str,
    phase: Annotated[str, Option(help="Weights of which end of a phase.")] = "dense",
    by: Annotated[str, Option(help=f"What is cut first: norm, or recorded scores ({', '.join(rankings.recordable())}), or several.")] = "norm",
    scope: Annotated[str, Option(help="global, layer, type, matrix, or several.")] = "global,matrix",
    repair: Annotated[str, Option(help="no, yes, or both: repaired after cutting.")] = "both",
    data: Annotated[str | None, Option(help="Where the task's data lies; default: where the run had it.")] = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Record more score surfaces of a run: exact scores at 20 sparsities for other kinds of cuts, which Explore then predicts from."""
    from prune_core.cutting.answers import Kind
    from prune_core.evaluation.surface import surfaces

    if repair not in ("no", "yes", "both"):
        raise InputError(f"repair {repair!r} is none of no, yes, both")
    found, rows = shelf.find(run, runs_dir), []
    kinds = [Kind(one, where, after) for one in by.split(",") for where in scope.split(",") for after in (False, True)
             if after in {"no": (False,), "yes": (True,), "both": (False, True)}[repair]]
    for *_, kind, point in _scored(surfaces(found, phase, kinds, data, threads)):
        rows.append(vars(kind) | vars(point))
    result = {"run": found.name, "phase": phase, "metric": found.metric, "points": rows}
    _tell(result, as_json, lambda r: "\n".join(f"{p['by']:10} {p['scope']:7} {'repaired' if p['repaired'] else 'cut':9} {p['sparsity']:6.1%}: "
                                               f"{r['metric']} {p['score']:.4f}" for p in r["points"]))


@app.command()
def shapes(
    sparsity: Annotated[float, Option(help="Share of the weights that is zero, in every pattern alike.")] = 0.8,
    seconds: Annotated[float, Option(help="How long to measure.")] = 6.0,
    to: Annotated[Path | None, Option(help="Write the result to this file as well.")] = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Time one matrix with the same share of zeros in different patterns: single weights, tiles, strips; against the dense product."""
    from prune_core.execution import shapes as shapes_

    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity {sparsity:g} is out of range; needed: 0 up to but not including 1")
    found = shapes_.shapes(sparsity, threads, seconds)
    if to is not None:
        try:
            files.write_json(to, found)
        except OSError as error:
            raise InputError(f"the result cannot be written to {str(to)!r}: {error.strerror or error}") from None
    _tell(found, as_json, lambda r: "\n".join(f"{one['pattern']:18} {one['ms']:8.3f} ms  {one['speedup']:5.2f}x  {one['executed']}" for one in r["patterns"]))


@app.command()
def calibrate(
    to: Annotated[Path | None, Option(help="Write the profile here, to be read on another machine; default: this machine's place.")] = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Fit the latency model to this machine: a few minutes of timing random encoders under random masks."""
    from tqdm import tqdm

    from prune_core import machine
    from prune_core.execution import calibrate as calibrate_
    from prune_core.latency import profile_files

    threads = threads or os.cpu_count() or 1
    path = to or profile_files.own_file(machine.machine(), threads)
    profile_files.check_writable(path)  # now, not after minutes
    with tqdm(bar_format="{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} masks") as bar:
        for found in calibrate_.calibrate(threads):
            if isinstance(found, tuple):
                bar.n, bar.total = found
                bar.refresh()
    profile_files.write(found, path)
    result = found.to_json() | {"path": str(path)}
    _tell(result, as_json, lambda r: f"{r['path']}: median error {100 * r['error']:.1f}% (dense {100 * r['error_dense']:.1f}%) over {r['masks']} "
                                     f"masks not used to calibrate, {r['threads']} threads")


@app.command("pack")
def pack_run(
    run: str,
    to: Annotated[str, Option(help="Name among the recorded runs.")],
    weights: Annotated[str, Option(help="Saved phases whose weights ship too, for example dense.")] = "",
    data_name: Annotated[str, Option(help="What the data is called where it ships.")] = HUB_DATA,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Make a small read-only copy of a complete run in data/recorded: at most 10 MB beside the weights."""
    from prune_core.runs import pack

    result = pack.pack(shelf.find(run, runs_dir), to, weights.split(",") if weights else [], data_name)
    _tell(result, as_json, lambda r: f"{r['path']}: {r['bytes'] / 1e6:.1f} MB, {r['snapshots_with_norms']} snapshots with norms")


@app.command()
def licences(as_json: AsJson = False) -> None:
    """The licences of all packages that requirements.txt pins."""
    from prune_core.cli.licences import licences as listed

    _tell({"licences": listed()}, as_json, lambda r: "\n".join(f"{one['package']:26} {one['version']:14} {one['licence']}" for one in r["licences"]))


@app.command(hidden=True)
def serve(threads: Annotated[int, Option(help="CPU threads; 0: as many as there are cores that other work leaves over.")] = 0) -> None:
    """Exact dev scores as JSON lines, from weights that stay loaded: what the app asks. serve.py has the lines."""
    from prune_core.evaluation import serve as serve_

    serve_.main(threads)


def _scored(steps: Iterable[tuple]) -> Iterator[tuple]:
    """(done, total, ...) as they come, with a bar and the time left on stderr."""
    from tqdm import tqdm

    with tqdm(bar_format="{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} scores, {remaining} left", disable=None) as bar:
        for step in steps:
            bar.total = step[1]
            bar.update(step[0] - bar.n)
            yield step


def _numbers(text: str, what: str = "compression") -> tuple[float, ...]:
    try:
        return tuple(float(part.strip().removesuffix("x")) for part in text.split(","))
    except ValueError:
        raise InputError(f"{what} {text!r} is not a number or a list of numbers like {'1.5,2,3' if what == 'compression' else '0.3,0.5'}") from None


def _cut(run: str, sparsity: float | None, threshold: str | None, scope: str | None, phase: str | None, runs_dir: Path):
    """The recall.Cut that these options ask for. Raises InputError."""
    from prune_core.evaluation.exact import Cut

    if (sparsity is None) == (threshold is None):
        raise InputError("give either --sparsity or --threshold")
    return Cut(shelf.find(run, runs_dir), sparsity, _threshold(threshold), scope, phase)


def _threshold(text: str | None) -> float | dict[str, float] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
        return {str(k): float(v) for k, v in value.items()} if isinstance(value, dict) else float(value)
    except (ValueError, TypeError):
        raise InputError(f"threshold {text!r} is neither a number nor a JSON object of scope key -> number") from None


def _row(listed: Listed) -> dict:
    """One entry of `runs --json`."""
    row = {"run": listed.name, "status": listed.status, "path": str(listed.path), "recorded": listed.path.parent == places.RECORDED}
    if listed.run is None:
        return row | {"reason": listed.reason}
    run = listed.run
    return row | {"task": run.task, "model": run.config.model, "data": run.data, "block": run.config.block, "metric": run.metric,
                  "dense_score": run.dense_score, "points": run.points, "seed": run.config.seed, "warnings": run.warnings,
                  "seconds": (run.result or {}).get("seconds")}


def _row_text(row: dict) -> str:
    if "reason" in row:
        return f"{row['run']:32} {row['status']:12} {row['reason']}"
    dense = "-" if row["dense_score"] is None else f"{row['dense_score']:.3f}"
    scores = "  ".join(f"{p['compression']:g}x {p['score_retrained']:.3f}" for p in row["points"] if p["score_retrained"] is not None)
    synthetic = "  (not GLUE)" if row["data"] == "practice" else ""
    return f"{row['run']:32} {row['status']:12} {row['task']:8} {row['block']:7} {row['metric']} dense {dense}  {scores}{synthetic}"


def _result_text(result: dict) -> str:
    synthetic = " on the practice set, which is not GLUE" if result["data"] == "practice" else ""
    lines = [f"{result['run']}: {result['metric']} dense {result['dense_score']:.4f}{synthetic}"]
    lines += [f"  {p['compression']:g}x asked: encoder {p['compression_encoder']:.2f}x, model {p['compression_model']:.2f}x, "
              f"thresholded {p['score_thresholded']:.4f}, retrained {p['score_retrained']:.4f}" for p in result["points"]]
    lines += [f"  note: {warning}" for warning in result["warnings"]]
    return "\n".join([*lines, f"  {result['seconds']:.0f} s, {result['seconds_per_step']:.3f} s a step, "
                      f"penalty {100 * result['penalty_share']:.1f}% of it"])


def _evaluated_text(result: dict) -> str:
    synthetic = " (practice set, not GLUE)" if result["data"] == "practice" else ""
    repaired = ", repaired," if result["repaired"] else ""
    return (f"{result['run']} {result['phase']}{repaired}: {result['metric']} {result['score']:.4f}{synthetic} at sparsity "
            f"{result['sparsity']:.4f}, encoder {result['compression_encoder']:.2f}x, model {result['compression_model']:.2f}x, "
            f"{result['examples']} examples, {result['seconds']:.2f} s (first after {result['seconds_to_first']:.2f} s)")


def _exported_text(r: dict) -> str:
    score = "not scored: the data is not there" if r["score"] is None else f"{r['metric']} {r['score']:.4f}"
    return (f"{r['path']}: {r['bytes']:,} bytes, encoder {r['compression_encoder']:.2f}x, {score}; weights dense {r['dense_bytes']:,} bytes, "
            f"with only kept blocks stored {r['sparse_bytes']:,}")


def _flips_text(r: dict) -> str:
    lines = [f"{r['run']}: {r['right_before']:,} of {r['examples']:,} right before"]
    lines += [f"{s:6.1%} cut: {lost:4} lost, {won:4} won" for s, lost, won in zip(r["sparsities"], r["lost"], r["won"], strict=True)]
    lines += [f"from {f['sparsity']:.1%} on {f['after']}, was {f['before']} ({f['sure']:.0%} sure): {' / '.join(f['texts'])}" for f in r["first"]]
    return "\n".join(lines)


def _running_text(running) -> None:
    print(f"{running.done:6} of {running.total}: {running.score:.4f}, 95% interval {running.low:.4f} to {running.high:.4f}", file=sys.stderr)


def _measured_text(r: dict) -> str:
    predicted = f", predicted {r['predicted_ms']:.1f}" if r["predicted_ms"] else ""
    return (f"{r['run']} {r['phase']} at sparsity {r['sparsity']:.4f} (encoder {r['compression_encoder']:.2f}x), batch {r['batch']}, length {r['length']}, "
            f"{r['threads']} threads, {r['dtype']}, {r['engine']}: dense {r['dense_ms']:.1f} ms, compact {r['compact_ms']:.1f} ms{predicted}: "
            f"{r['speedup']:.2f}x")


def _tell(result: dict, as_json: bool, text) -> None:
    print(json.dumps(_finite(result), allow_nan=False) if as_json else text(result), flush=True)


def _finite(value):
    """JSON has no infinity: where nothing is kept, the encoder's compression is null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Progress:
    """A bar with time left on stderr; at most two updates a second."""

    def __enter__(self):
        self._bar, self._last = None, 0.0
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event, pruning) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=pruning.plan.steps, bar_format="{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} steps {desc}")
        if time.monotonic() - self._last < 0.5:
            return
        self._last = time.monotonic()
        left = pruning.seconds_left()
        doing = getattr(event, "doing", "training")
        self._bar.n = pruning.steps_done
        self._bar.set_description_str(f"{event.phase}: {doing}, {_clock(left)} left", refresh=True)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def main() -> int:
    """Run the command line; 0, or 2 for bad input, 130 for an interrupted run."""
    try:
        app(standalone_mode=False)
        return 0
    except InputError as error:
        message, code = str(error), 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except Exception as error:
        if type(error).__name__ == "Interrupted":
            message, code = str(error), 130
        elif out_of_memory(error):
            message, code = "out of memory; try a smaller batch, or close what else runs", 2
        elif hasattr(error, "format_message"):  # click's own: an unknown option, a missing argument
            message, code = error.format_message(), 2
        else:
            raise
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
