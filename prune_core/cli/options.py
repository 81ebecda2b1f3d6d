"""Options that several commands have, and what is made of their text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from prune_core import InputError
from prune_core.cutting.cuts import Cut
from prune_core.methods import rankings
from prune_core.precision import formats
from prune_core.runs import mixtures, settings
from prune_core.runs.run import Run

RunsDir = Annotated[Path, Option(help="Folder of your own runs.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object as the last line.")]
Threads = Annotated[int, Option(help="CPU threads; 0: all cores.")]
Device = Annotated[str, Option("--device", envvar="PRUNESCOPE_DEVICE", help="Where to compute: auto (a GPU where there "
                                                                    "is one), cpu, cuda, cuda:1, mps.")]
Processes = Annotated[int, Option(help="Processes that share every batch, each with a GPU of its own where they train "
                                       "on GPUs.")]
Dtype = Annotated[str, Option(help="Arithmetic: fp32, bf16, int8, or auto for what is fastest here.")]
Data = Annotated[str | None, Option(help="Where the task's data lies; default: where the run had it.")]

# Where many runs are made, and how many at once
OnPlace = Annotated[str, Option(
    "--on", help="local, ray (RAY_ADDRESS, or a cluster of this machine), or ray://HOST:10001.")]
AtATime = Annotated[int | None, Option(
    "--at-a-time", help="Runs at a time, here; default: one for every two cores; of `compare` one.")]

# A cut, and of which weights
Sparsity = Annotated[float | None, Option(help="Share of the prunable weights to cut, 0 to 1.")]
Threshold = Annotated[str | None, Option(help="Cut blocks of norm up to this; or JSON: scope key -> threshold.")]
Scope = Annotated[str | None, Option(help="global, layer, type, matrix; default: the run's.")]
Phase = Annotated[str | None, Option(
    help="dense, penalty-2x, retrain-2x ...; default: the most trained that is not sparser.")]
Weights = Annotated[str, Option(help="Weights of which stage: dense, penalty-2x, retrain-2x ...")]
By = Annotated[str, Option(help="What is cut first: norm, or a ranking that `score` has recorded.")]
ByNamed = Annotated[str | None, Option(
    help=f"What is cut first: norm, the default, or a ranking that `score` has recorded: "
         f"{', '.join(rankings.recordable())}.")]
Repair = Annotated[bool, Option(
    "--repair", help="Move what is kept to make up for what is cut, in closed form, no training.")]

# In which number formats and patterns what stays is stored
Bits = Annotated[str | None, Option(
    help="Bits of the weights that stay: 32, 16, 8 to 2, ternary, binary, clusters-8 to clusters-2; with a pattern "
         "4/2:4; several as layer:8,8,4 in the order of the layers; default: as they were trained.")]
PatternOption = Annotated[str | None, Option(
    "--pattern", help="N:M: at most N of every M consecutive inputs of a row stay, as 2:4; or none.")]
ActivationBits = Annotated[int | None, Option(
    help="8: the inputs of every matrix in 8 bits, with a scale for each token; 32: not.")]
EmbeddingBits = Annotated[int | None, Option(
    help="8: word embeddings in 8 bits, with a scale for each row; 32: not.")]


def formats_of(run: Run, bits: str | None = None, pattern: str | None = None, activation_bits: int | None = None,
               embedding_bits: int | None = None, stage: str | None = None) -> str:
    """The formats that these options ask for, as Cut has them: what is not given is that of the stage's training.

    A mixture of both is told on stderr. Checked against the run's layout. Raises InputError.
    """
    trained = run.trained_formats(stage) if stage else ""
    if {bits, pattern, activation_bits, embedding_bits} == {None}:
        return trained
    if bits is not None and not bits.strip():
        raise InputError("bits '' are empty; needed: for example 8, 4/2:4, or 32 for fp32")
    asked = str(formats.chosen(bits, pattern, activation_bits, embedding_bits, run.layout))
    made = str(formats.over(formats.parse(trained, run.layout), run.layout, bits, pattern, activation_bits,
                            embedding_bits))
    if made != asked:
        print(f"note: {stage} was trained in {trained}, and what was not given is as trained: {made} is taken; "
              "32 stands for none, and --pattern none", file=sys.stderr, flush=True)
    return made


Mixture = Annotated[str | None, Option(
    help="A mixture that `search` found, by its name (8x): its blocks, patterns and bits, of its stage.")]


def mixture_of(run: Run, name: str, phase: str | None, **others) -> tuple[Cut, str]:
    """(its cut, its stage) of a mixture that was found. Raises InputError, also where `others` say what to cut too."""
    if given := [option for option, value in others.items() if value is not None]:
        raise InputError(f"--mixture and --{given[0].replace('_', '-')}; needed: one of the two, as a mixture has all "
                         "of it")
    mixture = mixtures.named(run, name, phase)
    return mixture.cut, mixture.stage


def numbers(text: str, what: str = "compression") -> tuple[float, ...]:
    """'1.5,2x' -> (1.5, 2.0). Raises InputError."""
    try:
        return tuple(float(part.strip().removesuffix("x")) for part in text.split(","))
    except ValueError:
        like = "1.5,2,3" if what == "compression" else "0.3,0.5"
        raise InputError(f"{what} {text!r} is not a number or a list of numbers like {like}") from None


def cut_of(run: Run, sparsity: float | None, threshold: str | None, scope: str | None, by: str | None = None,
           repair: bool = False, formats: str = "") -> Cut:
    """The cut that these options ask for; with `formats` alone nothing more is cut. Raises InputError."""
    if sparsity is None and threshold is None and formats:
        sparsity = 0.0
    if (sparsity is None) == (threshold is None):
        raise InputError("give either --sparsity or --threshold")
    return settings.cut_of(run, sparsity, _threshold(threshold), scope, by or "norm", repair, formats)


def _threshold(text: str | None) -> float | dict[str, float] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
        return {str(k): float(v) for k, v in value.items()} if isinstance(value, dict) else float(value)
    except (ValueError, TypeError):
        raise InputError(f"threshold {text!r} is neither a number nor a JSON object of scope key -> number") from None
