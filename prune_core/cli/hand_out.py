"""What is handed out of a run: the pruned model, a notebook, a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prune_core import InputError
from prune_core.cli import report
from prune_core.cli.options import (
    ActivationBits,
    AsJson,
    Bits,
    ByNamed,
    Dtype,
    EmbeddingBits,
    Mixture,
    PatternOption,
    Phase,
    Repair,
    RunsDir,
    Scope,
    Sparsity,
    Threshold,
    cut_of,
    formats_of,
    mixture_of,
)
from prune_core.cli.report import Allow, Asked, Audience, Measure, PriceOption, Title, Words
from prune_core.cli.tell import say_taken, tell
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import times
from prune_core.runs import advice, best, index, places, shelf
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting, default_stage, from_json, results
from prune_core.showing.report import finding
from prune_core.tasks.hub import say


@dataclass(frozen=True)
class Wanted:
    """What `export` is asked for."""

    to: str
    out: Path
    run: Run
    cut: Cut | None  # None for a report of `settings`, or of the run's own results
    phase: str | None
    data: str | None
    settings: str | None
    request: finding.Request
    measure: bool

    @property
    def setting(self) -> Setting:
        """The one cut, for which norms are enough: its weights need not be there. Raises InputError."""
        stage = self.phase or default_stage(self.run, self.cut.share, weights=False)
        return Setting("setting", self.run.saved(stage), self.cut)


def _model(wanted: Wanted) -> dict:
    """Write the model as a folder."""
    from prune_core import export as exporting

    exporting.ready(wanted.run, wanted.to, wanted.out)
    stage = wanted.phase or default_stage(wanted.run, wanted.cut.share)
    mask = wanted.cut.mask(wanted.run.ranking(stage, wanted.cut.ranking), wanted.run.layout)
    if line := advice.instead(wanted.run, wanted.run.snapshots[wanted.run.saved(stage)].saved, mask)[0]:
        say(f"note: {line}")
    taken = exporting.take(wanted.run, stage, wanted.cut, wanted.data, wanted.request.dtype, say_taken)
    return exporting.FORMS[wanted.to](taken, wanted.out)


def _model_text(r: dict) -> str:
    in_ = f" in {r['executed']['dtype']}" if r["executed"] and r["dtype"] != "fp32" else ""
    score = "not scored: the data is not there" if r["score"] is None else f"{r['metric']} {r['score']:.4f}{in_}"
    return (f"{r['path']}: {r['folder_bytes']:,} bytes, encoder {times(r['compression_encoder'])}, {score}; "
            f"the model packed {r['bytes']:,} bytes ({r['bytes_without_index']:,} without its index), dense in fp32 "
            f"{r['bytes_dense']:,}; of these the encoder {r['encoder_bytes']:,} "
            f"({r['encoder_bytes_without_index']:,}), dense {r['encoder_bytes_dense']:,}"
            + (f"\n{r['note']}" if r["note"] else ""))


def _notebook(wanted: Wanted) -> dict:
    """Write a notebook of the one setting."""
    from prune_core.showing import notebook

    return notebook.write(wanted.run, [wanted.setting], wanted.out)


def _notebook_text(r: dict) -> str:
    return f"{r['path']}: {r['bytes']:,} bytes"


def _report(wanted: Wanted) -> dict:
    """Write a report of settings of the run."""
    pairs = [(wanted.run, setting) for setting in _settings(wanted)]
    return report.write(Asked(pairs, wanted.to, wanted.out, wanted.data, wanted.request, wanted.measure))


def _settings(wanted: Wanted) -> list:
    """What a report is of: the one cut, else those of --settings, else the run's own results."""
    if wanted.cut is not None:
        return [wanted.setting]
    return results(wanted.run) if wanted.settings is None else from_json(wanted.settings, wanted.run)


FOLDERS = ("hf", "onnx", "packed")  # of a model

# `--to` -> what makes it, and how that is told
KINDS = {
    "hf": (_model, _model_text),
    "onnx": (_model, _model_text),
    "packed": (_model, _model_text),
    "notebook": (_notebook, _notebook_text),
} | dict.fromkeys(finding.FORMS, (_report, report.text))


# long: options of three kinds of things
def export(
    run: str,
    out: Annotated[Path, Argument(help="Folder to write (new or empty); for a notebook or a report, a new file.")],
    to: Annotated[str, Option(
        help="hf (a folder for transformers), onnx (the compact graph, with a script that runs it), packed (only what "
             "is kept, in its bits, and a script that loads it), notebook; of what was found: report (one HTML file "
             "with the live map), markdown, both, slides, pptx, or all of these. Over all runs of a task: `report`.")
    ] = "hf",
    sparsity: Sparsity = None,
    threshold: Threshold = None,
    scope: Scope = None,
    phase: Phase = None,
    repair: Repair = False,
    by: ByNamed = None,
    bits: Bits = None,
    pattern: PatternOption = None,
    activation_bits: ActivationBits = None,
    embedding_bits: EmbeddingBits = None,
    data: Annotated[str | None, Option(
        help="Where the task's data lies, for scores; default: where the run had it.")] = None,
    settings: Annotated[str | None, Option(
        help="Report: up to four, as a JSON list of {at, scope, share or thresholds, by, repaired} or {mixture}; "
             "default: the one that the options name, else the run's own results.")] = None,
    mixture: Mixture = None,
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
    """Write the pruned model for use elsewhere, with a card that has its figures; or a notebook or a report of what
    was found. --dtype is the arithmetic of scores and measured speedups; what is exported stays as it is."""
    from prune_core.execution import paths

    if to not in KINDS:
        raise InputError(f"--to {to!r} is unknown; one of {', '.join(KINDS)}")
    one = sparsity is not None or threshold is not None or mixture is not None
    if settings is not None and to not in finding.FORMS:
        raise InputError("--settings is for a report; the model and the notebook take --sparsity or --threshold")
    if settings is not None and one:
        raise InputError("give either --settings or one of --sparsity, --threshold and --mixture")
    if paths.check(dtype) != "fp32" and to == "notebook":
        raise InputError("--dtype is for the scores of a model or a report; a notebook computes in fp32")
    asked, cut = shelf.find(run, runs_dir), None
    request = finding.Request(title, audience, words, allow, dtype=dtype, price=price)
    if to in finding.FORMS:
        known = [one.run for one in index.listing(runs_dir) if one.run]
        request = replace(request, better=best.told(best.better(asked, known, allow)))
    if one or to not in finding.FORMS:
        if mixture is not None:
            cut, phase = mixture_of(asked, mixture, phase, sparsity=sparsity, threshold=threshold, scope=scope,
                                    by=by, bits=bits, pattern=pattern, activation_bits=activation_bits,
                                    embedding_bits=embedding_bits)
        else:
            cut = cut_of(asked, sparsity, threshold, scope, by, repair)
            stage = phase or default_stage(asked, cut.share, weights=to in FOLDERS)
            cut = replace(cut, formats=formats_of(asked, bits, pattern, activation_bits, embedding_bits, stage))
    make, text = KINDS[to]
    tell(make(Wanted(to, out, asked, cut, phase, data, settings, request, measure)), as_json, text)
