"""Commands that train: one run, an interrupted one, a comparison of many."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Context, Option

from prune_core import InputError, files
from prune_core.cli.options import AsJson, AtATime, Device, OnPlace, Processes, RunsDir, Threads, numbers
from prune_core.cli.sweep import carry_out
from prune_core.cli.tell import Progress, scored, tell
from prune_core.machine import machine
from prune_core.methods import rankings, table
from prune_core.runs import best, config, places, shelf
from prune_core.runs.config import OPTIONS, PruneConfig
from prune_core.runs.run import Run
from prune_core.showing.compare import AIMS, Row, answer, as_csv, as_markdown, predicted, sentences, sorted_rows
from prune_core.tasks.glue import HUB_DATA

Model = Annotated[str, Option(help="minilm, a hub name, or a folder.")]
Revision = Annotated[str | None, Option(help="Of a hub name: a branch, a tag or a commit; default: its main branch.")]
Practice = Annotated[bool, Option(
    "--practice", help="Go on with the synthetic practice set where the data cannot be had, without asking.")]
GlueData = Annotated[str, Option(help="nyu-mll/glue, a folder in its layout, or practice.")]

Text = Annotated[str, Option("--text", help="Of a table file: the column of the text, or two for pairs: a,b; "
                                            "default: guessed.")]
Label = Annotated[str, Option(help="Of a table file: the column of the label; default: guessed.")]
Score = Annotated[bool, Option("--regression", help="Of a table file: labels are a score, whole numbers too; "
                                                    "else whole numbers are classes.")]


# long: the options are the settings of a run
def prune(
    context: Context,
    model: Model = "minilm",
    revision: Revision = None,
    task: Annotated[str, Option(help="One of the nine GLUE tasks.")] = "sst2",
    data: GlueData = HUB_DATA,
    columns: Text = "",
    label: Label = "",
    regression: Score = False,
    start_from: Annotated[str | None, Option(
        "--from", help="Start from the fine-tuned dense weights of this run.")] = None,
    block: Annotated[str, Option(help="ROWSxCOLS of one block: 64x1, 1x64, 16x16, allx1, 1xall.")] = "64x1",
    compressions: Annotated[str, Option(
        "--compression", help="Encoder compressions, for example 2 or 1.5,2,3.")] = "2",
    preset: Annotated[str, Option(help="quick (minutes), standard (at most an hour), full.")] = "standard",
    run: Annotated[str | None, Option(help="Name of the run.")] = None,
    runs_dir: RunsDir = places.RUNS,
    seed: Annotated[int, Option(help="Fixes the result.")] = 0,
    threads: Threads = 0,
    method: Annotated[str | None, Option(
        help=f"{', '.join(table.stepwise())}; {' and '.join(table.at_once())} cut at once; default: the preset's, "
             "surgeon for standard and full, group-lasso for quick and wherever one of its settings is given.")] = None,
    penalty: Annotated[str, Option(
        help="proximal (step after the optimizer's) or in-loss (as the paper has it).")] = "proximal",
    lam: Annotated[float | None, Option("--lambda", help="Fixed lambda instead of a controlled one.")] = None,
    reweighted: Annotated[bool, Option(
        help="Refresh gamma at milestones; --no-reweighted is plain group Lasso.")] = True,
    spare: Annotated[bool, Option(
        help="Penalise only blocks that are to go; --no-spare penalises all, as the paper does.")] = True,
    scope: Annotated[str | None, Option(
        help="What shares a threshold: global, layer, type, matrix (the same share of each); "
             "default: global where the surgeon ranks, else matrix.")] = None,
    ranking: Annotated[str, Option("--score", help="What decides which groups go. "
                                   + rankings.explained(rankings.in_training()))] = PruneConfig.ranking,
    distill: Annotated[float, Option(help="Share of the loss that is the distance to the dense model's outputs; "
                                          "0: none.")] = PruneConfig.distill,
    temperature: Annotated[float, Option(help="At which outputs are compared.")] = PruneConfig.temperature,
    distill_hidden: Annotated[float, Option(
        help="Weight of the distance between hidden states; a third slower.")] = 0.0,
    dropout: Annotated[bool | None, Option(
        help="Dropout under the penalty and in retraining; default: only without distillation.")] = None,
    control: Annotated[str, Option(help="Of lambda: line (follows the wanted share) or dynamic (bounded, falls with "
                                        "what is missing to the target).")] = "line",
    progressive: Annotated[bool, Option(help="ADMM: the share rises step by step; --no-progressive projects onto the "
                                             "whole from the start.")] = True,
    bits: Annotated[str, Option(
        help="Of the weights, in retraining: 8 to 2, ternary, binary, clusters-4, or one for each layer, type or "
             "matrix: layer:8,8,4,...; default: fp32.")] = "",
    pattern: Annotated[str, Option(help="N:M of the weights: at most N of every M inputs of a row stay, for example "
                                        "2:4.")] = "",
    activation_bits: Annotated[int | None, Option(
        help="8: what goes into the pruned matrices is rounded as well, as int8 arithmetic has it.")] = None,
    embedding_bits: Annotated[int | None, Option(help="8: word embeddings in 8 bits.")] = None,
    quantizer: Annotated[str, Option(help="How weights come onto their levels. "
                                          + table.quantizers_explained())] = table.USUAL,
    mixkd: Annotated[bool, Option(
        "--mixkd", help="Distil on mixed pairs of sentences as well; twice as slow.")] = False,
    dense_steps: Annotated[int | None, Option(help="Fine-tuning steps, instead of the preset's.")] = None,
    penalty_steps: Annotated[int | None, Option(help="Steps under the penalty, instead of the preset's.")] = None,
    retrain_steps: Annotated[int | None, Option(
        help="Masked retraining steps per compression, instead of the preset's.")] = None,
    penalty_lr: Annotated[float, Option(help="Learning rate under the penalty.")] = PruneConfig.penalty_lr,
    retrain_lr: Annotated[float, Option(help="Peak learning rate of masked retraining.")] = PruneConfig.retrain_lr,
    surface_examples: Annotated[int | None, Option(
        help="Dev examples behind the score surface, instead of the preset's.")] = None,
    precision: Annotated[str, Option(help="bf16, fp32, or auto: the faster one here.")] = "auto",
    allow_unknown: Annotated[bool, Option("--allow-unknown", help="Go on although over a fifth of the task's words "
                                                                  "are unknown to the tokenizer.")] = False,
    practice: Practice = False,
    device: Device = "auto",
    processes: Processes = 1,
    as_json: AsJson = False,
) -> None:
    """Fine-tune, penalise, threshold, retrain; record it all. With no options: the embedded model on SST-2."""
    asked = _asked(dict(locals()))  # all options, as long as there is nothing else; a setting's is named as its field

    from prune_core.training import placement, session

    agree = Agreement(practice or not _named(context))
    placement.check_batch(processes, asked.batch_size, asked.batch_size)  # before so many are started
    with placement.joined(device, processes) as placed:
        if not placed.main:
            return session.follow(placed)
        with Progress() as progress:
            result = session.start(asked, runs_dir, run, _command(), progress, agree, placed)
    _record_repaired(result["run"], runs_dir, placed.device)
    tell(result, as_json, _result_text)


def _named(context: Context) -> bool:
    """Whether the person named what to train, or on what; who did not is content with what there is."""
    return any(context.get_parameter_source(name).name == "COMMANDLINE" for name in ("model", "task", "data"))


class Agreement:
    """Asks, once, whether the practice set may stand in for what was asked; raises InputError if it may not."""

    def __init__(self, agreed: bool):
        self._agreed, self._said = agreed, False

    def __call__(self, note: str) -> None:
        if not self._agreed and not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InputError(f"{note}, or --practice to train on the practice set")
        if not self._said:
            print(note, file=sys.stderr, flush=True)
        self._said = True
        if not self._agreed:
            print("Train on the practice set? [y/N] ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise InputError("nothing was started; give --data FOLDER, or try again when the hub answers")
        self._agreed = True


def _asked(given: Mapping[str, Any]) -> PruneConfig:
    """The config that the options of `prune` ask for; None leaves a setting to the preset. Raises InputError."""
    settings = {field: given[field] for field in OPTIONS if given[field] is not None}
    settings["compressions"] = numbers(given["compressions"])
    settings["columns"] = _columns(given["columns"])
    lasso = table.METHODS["group-lasso"].settings  # one of its own that is not as usual asks for it
    if any(given[field] != getattr(PruneConfig, field) for field in lasso):
        settings.setdefault("method", "group-lasso")
    return config.preset(settings.pop("preset"), **settings)


def _columns(typed: str) -> tuple[str, ...]:
    """'a,b' -> ('a', 'b')"""
    return tuple(filter(None, typed.split(",")))


def resume(
    run: str,
    runs_dir: RunsDir = places.RUNS,
    device: Annotated[str | None, Option(
        help="Where to go on: as for prune; default: the kind of device that the run began on.")] = None,
    processes: Annotated[int | None, Option(
        help="Processes that share every batch; default: as many as the run began in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take an interrupted run to its end, with the same numbers as if it had never stopped."""
    from prune_core.training import loading, placement, session

    asked = shelf.find(run, runs_dir)
    usual = 1 if placement.launched() else loading.processes_of(asked)  # as many as a launcher has started
    many, batch = processes or usual, asked.config.batch_size
    placement.check_batch(many, batch, batch)
    with placement.joined(device or loading.device_of(asked), many) as placed:
        if not placed.main:
            return session.follow(placed)
        with Progress() as progress:
            result = session.resume(asked, progress, placed)
    _record_repaired(run, runs_dir, placed.device)
    tell(result, as_json, _result_text)


def _record_repaired(name: str, runs_dir: Path, device) -> None:
    """With a bar; the run itself is complete, so that what hinders this is told and no more."""
    from prune_core.training import session

    run = shelf.find(name, runs_dir)
    try:
        session.record_repaired(run, scored, device)
    except InputError as error:
        print(f"without repaired scores: {error}", file=sys.stderr)


def _command() -> str:
    """What was typed, as the run keeps it."""
    return shlex.join(["python", "-m", "prune_core", *sys.argv[1:]])


def _result_text(r: dict) -> str:
    synthetic = " on the practice set, which is not GLUE" if r["data"] == "practice" else ""
    lines = [f"{r['run']}: {r['metric']} dense {r['dense_score']:.4f}{synthetic}"]
    lines += [f"  {p['compression']:g}x asked: encoder {p['compression_encoder']:.2f}x, "
              f"model {p['compression_model']:.2f}x, thresholded {p['score_thresholded']:.4f}, "
              f"retrained {p['score_retrained']:.4f}" for p in r["points"]]
    lines += [f"  note: {warning}" for warning in r["warnings"]]
    lines += [f"  {r['seconds']:.0f} s, {r['seconds_per_step']:.3f} s a step, "
              f"penalty {100 * r['penalty_share']:.1f}% of it"]
    return "\n".join(lines)


# long: the options are the settings that all runs share
def compare(
    task: Annotated[str, Option(help="One of the nine GLUE tasks.")],
    methods: Annotated[str, Option(
        help=f"Some of {', '.join(table.variants())}; group-lasso is the plain one.")] = "surgeon,reweighted,magnitude",
    compressions: Annotated[str, Option(help="Encoder compressions.")] = "1.5,2,3,5",
    seeds: Annotated[int, Option(help="Runs of each method.")] = 3,
    budget_steps: Annotated[int, Option(help="Steps of each run at one compression: two thirds under the method, "
                                             "one third of retraining.")] = 450,
    dense_steps: Annotated[int | None, Option(
        help="Fine-tuning steps, once for each seed; default: the preset's.")] = None,
    model: Model = "minilm",
    revision: Revision = None,
    data: GlueData = HUB_DATA,
    columns: Text = "",
    label: Label = "",
    regression: Score = False,
    block: Annotated[str, Option(help="ROWSxCOLS of one block.")] = "64x1",
    scope: Annotated[str | None, Option(
        help="What shares a threshold; default: global where the surgeon ranks, else matrix.")] = None,
    score: Annotated[str, Option(
        help=f"What decides which groups go: {', '.join(rankings.in_training())}.")] = PruneConfig.ranking,
    distill: Annotated[float, Option(
        help="Share of the loss from the dense model, for all methods alike.")] = PruneConfig.distill,
    lr: Annotated[float, Option(
        help="Learning rate under the method and in retraining.")] = PruneConfig.penalty_lr,
    to: Annotated[Path | None, Option(
        help="Write the table to this path, as .csv and .md; default: the runs folder.")] = None,
    allow: Annotated[float, Option(
        help="For the answer: how much of the dense score may be lost, 0.01 for one point.")] = best.ALLOWED,
    aim: Annotated[str, Option(
        help=f"For the answer: what to make the most of among those: {', '.join(AIMS)}.")] = "speedup",
    on: OnPlace = "local",
    at_a_time: AtATime = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    practice: Practice = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare methods under one budget: the same steps, seeds and dense weights. Goes on where it was stopped; writes
    one table, with the answer on top: the best within what may be lost."""
    if aim not in AIMS or not 0 <= allow <= 1:
        raise InputError(f"--aim {aim!r} and --allow {allow:g}; needed: one of {', '.join(AIMS)}, and 0 to 1")
    from prune_core.evaluation import speedup
    from prune_core.models import devices
    from prune_core.training import comparison
    from prune_core.training.placement import Placement

    base = config.preset("standard", method="group-lasso", task=task, model=model, revision=revision, data=data,
                         columns=_columns(columns), label=label, regression=regression, block=block,
                         compressions=numbers(compressions), scope=scope, ranking=score, distill=distill,
                         penalty_lr=lr, retrain_lr=lr, dense_steps=dense_steps, threads=threads)
    planned = comparison.plan(base, methods.split(","), seeds, budget_steps)
    if on == "local" and at_a_time in (None, 1):
        placed = Placement(devices.pick(device))
        steps = comparison.carry_out(planned, runs_dir, _command(), Progress, Agreement(practice), placed)
        for number, name, there in steps:
            print(f"{number} of {len(planned)}: {name}" + (" is there" if there else ""), file=sys.stderr)
    else:
        carry_out(comparison.as_sweep(planned), runs_dir, on=on, at_a_time=at_a_time, threads=threads or None,
                  practice=practice, device=device)
    profile = speedup.usual_profile()
    rows = comparison.rows(planned, runs_dir, predicted(profile), profile.elsewhere(machine()) if profile else "")
    runs = [Run(Path(runs_dir) / name) for name, _ in planned]
    told = answer(rows, allow, aim)
    text = as_markdown(rows, task, runs[0].metric, [run.dense_score for run in runs], told)
    written = _write_table(to or Path(runs_dir) / f"compare-{task}", sorted_rows(rows, allow, aim), text, allow)
    first = sorted_rows(rows, allow, aim)[0]
    tell({"task": task, "metric": runs[0].metric, **written, "answer": told,
          "best": {"method": first.method, "compression": first.compression, "within": best.keeps(first, allow)},
          "rows": [vars(row) | {"mean": row.mean, "spread": row.spread} for row in rows],
          "sentences": list(sentences(rows, runs[0].metric))}, as_json, lambda r: text)


def _write_table(path: Path, rows: list[Row], table: str, allowed: float) -> dict[str, str]:
    """Write it as .csv and .md; where they lie. Raises InputError."""
    paths = {"csv": path.with_suffix(".csv"), "markdown": path.with_suffix(".md")}
    try:
        files.write_whole(paths["csv"], as_csv(rows, allowed).encode())
        files.write_whole(paths["markdown"], table.encode())
    except OSError as error:
        raise InputError(f"the table cannot be written to {str(path)!r}: {error.strerror or error}") from None
    return {form: str(path) for form, path in paths.items()}
