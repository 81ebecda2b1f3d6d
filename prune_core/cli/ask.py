"""Commands that ask a run: sentences, exact scores, what a part or a kind of cut costs."""

from __future__ import annotations

import sys
from typing import Annotated

from typer import Argument, Option

from prune_core import InputError
from prune_core.cli.options import (
    ActivationBits,
    AsJson,
    Bits,
    By,
    ByNamed,
    Data,
    Device,
    Dtype,
    EmbeddingBits,
    Mixture,
    PatternOption,
    Phase,
    Repair,
    RunsDir,
    Scope,
    Sparsity,
    Threads,
    Threshold,
    Weights,
    cut_of,
    formats_of,
    mixture_of,
    numbers,
)
from prune_core.cli.tell import say_taken, scored, tell
from prune_core.cutting.blocks import Layout
from prune_core.cutting.cuts import SurfaceKind
from prune_core.cutting.masks import SCOPES, times
from prune_core.methods import rankings
from prune_core.precision.formats import parse
from prune_core.runs import places, shelf
from prune_core.runs.settings import default_stage
from prune_core.tasks import glue
from prune_core.tasks.metrics import in_words


def predict(
    run: str,
    sentence: Annotated[list[str], Argument(help="A sentence; of a pair, both.")],
    each: Annotated[bool, Option("--each", help="Several sentences, each on its own.")] = False,
    sparsities: Annotated[str, Option(
        help="How much is cut: shares of the weights, or one.")] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    scope: Scope = None,
    phase: Weights = "dense",
    by: By = "norm",
    runs_dir: RunsDir = places.RUNS,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """What the model says of a sentence, and how sure it is, as more and more is cut."""
    from prune_core.evaluation import sentences
    from prune_core.models import devices

    asked = shelf.find(run, runs_dir)
    wanted = len(asked.about["task"].get("columns") or glue.task_named(asked.task).columns)
    texts = [(one,) for one in sentence] if each else [tuple(sentence)]
    if len(texts[0]) != wanted:
        raise InputError(f"{len(texts[0])} sentences; needed for {asked.task}: {wanted}")
    result = sentences.predict(asked, phase, texts, numbers(sparsities, "sparsity"), scope, by,
                               devices.pick(device))
    tell(result, as_json, _predicted_text)


def _predicted_text(r: dict) -> str:
    lines = []
    for sparsity, rows in zip(r["sparsities"], r["probabilities"], strict=True):
        told = ("  ".join(f"{label} {share:.3f}" for label, share in zip(r["labels"], row, strict=True))
                for row in rows)
        lines.append(f"{sparsity:6.1%}  " + "  |  ".join(told))
    return "\n".join(lines)


def flips(
    run: str,
    sparsities: Annotated[str, Option(help="How much is cut, rising.")] = "0.1,0.2,0.3,0.4,0.5",
    scope: Scope = None,
    by: By = "norm",
    repair: Repair = False,
    bits: Bits = None,
    pattern: PatternOption = None,
    activation_bits: ActivationBits = None,
    embedding_bits: EmbeddingBits = None,
    data: Data = None,
    runs_dir: RunsDir = places.RUNS,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Which dev sentences the dense weights answer wrongly first, as more and more is cut, and how many are lost
    and won."""
    from prune_core.evaluation.flips import first
    from prune_core.models import devices

    asked = shelf.find(run, runs_dir)
    formats = formats_of(asked, bits, pattern, activation_bits, embedding_bits)
    result = first(asked, numbers(sparsities, "sparsity"), scope, by, repair, data, formats,
                   devices.pick(device))
    tell(result, as_json, _flips_text)


def _flips_text(r: dict) -> str:
    lines = [f"{r['run']}: {r['right_before']:,} of {r['examples']:,} right before"]
    lines += [f"{sparsity:6.1%} cut: {lost:4} lost, {won:4} won"
              for sparsity, lost, won in zip(r["sparsities"], r["lost"], r["won"], strict=True)]
    lines += [f"from {f['sparsity']:.1%} on {f['after']}, was {f['before']} ({f['sure']:.0%} sure): "
              f"{' / '.join(f['texts'])}" for f in r["first"]]
    return "\n".join(lines)


def evaluate(
    run: str,
    sparsity: Sparsity = None,
    threshold: Threshold = None,
    scope: Scope = None,
    phase: Phase = None,
    data: Data = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    by: ByNamed = None,
    repair: Repair = False,
    bits: Bits = None,
    pattern: PatternOption = None,
    activation_bits: ActivationBits = None,
    embedding_bits: EmbeddingBits = None,
    dtype: Dtype = "fp32",
    mixture: Mixture = None,
    path: Annotated[str | None, Option(
        help="Kernels to force: bf16 amx, bf16 avx512, int8 amx, int8 vnni; default: the fastest here.")] = None,
    exact: Annotated[bool, Option(
        "--exact", help="Compute it even if it is known, and show it as it comes in.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """The exact dev score of a run's weights, cut at a sparsity or a threshold, what stays in few bits, and the bytes
    that it takes; a score that is known is not computed again. In bf16 and int8 it tells how many answers are others
    than in fp32."""
    from prune_core.evaluation.exact import evaluate as evaluated
    from prune_core.models import devices

    asked, where = shelf.find(run, runs_dir), {"sparsity": sparsity, "threshold": threshold, "scope": scope, "by": by}
    few = {"bits": bits, "pattern": pattern, "activation_bits": activation_bits, "embedding_bits": embedding_bits}
    if mixture is not None:
        cut, stage = mixture_of(asked, mixture, phase, **where, **few)
    else:
        stage = phase or default_stage(asked, sparsity)
        cut = cut_of(asked, **where, repair=repair, formats=formats_of(asked, **few, stage=stage))
    result = evaluated(asked, stage, cut, data, threads, _show_running if exact else lambda running: None, exact,
                       dtype=dtype, path=path, taken=say_taken, compare=True, device=devices.pick(device))
    tell(result, as_json, _evaluated_text)


def _show_running(running) -> None:
    print(f"{running.done:6} of {running.total}: {running.score:.4f}, "
          f"95% interval {running.low:.4f} to {running.high:.4f}", file=sys.stderr)


def _evaluated_text(r: dict) -> str:
    synthetic = " (practice set, not GLUE)" if r["data"] == "practice" else ""
    repaired = ", repaired," if r["repaired"] else ""
    score = f"{r['metric']} {r['score']:.4f}" if r["dtype"] == "fp32" else _score_in(r)
    formats = f" in {parse(r['formats']).words}" if r["formats"] else ""
    return (f"{r['run']} {r['phase']}{repaired}{formats}: {score}{synthetic} at sparsity "
            f"{r['sparsity']:.4f}, encoder {times(r['compression_encoder'])}, model {r['compression_model']:.2f}x, "
            f"{r['examples']} examples, {r['seconds']:.2f} s (first after {r['seconds_to_first']:.2f} s)"
            + (f"\n{_bytes_text(r)}" if r["formats"] else ""))


def _bytes_text(r: dict) -> str:
    """How many times fewer bytes than in fp32 with nothing cut, the whole model's and the prunable matrices'."""
    said = []
    for what, each in (("encoder", "encoder_bytes"), ("model", "bytes")):
        dense, less = r[f"{each}_dense"], r[f"{each}_without_index"]
        said.append(f"{what} {r[each]:,} bytes, {dense / r[each]:.1f}x fewer than in fp32, index included "
                    f"({dense / less:.1f}x without)" if less else f"{what} {r[each]:,} bytes of index, nothing kept")
    return "; ".join(said)


def _score_in(r: dict) -> str:
    """A score with its arithmetic; in another than fp32 how far it is from that: its score, the answers that differ."""
    from prune_core.evaluation import arithmetic

    score = f"exact dev {in_words(r['metric'])} in {arithmetic.named(r['executed'])}: {r['score']:.4f}"
    if not (changed := r["changed"]):
        return score
    apart = (f"outputs differ by at most {changed['largest']:.2g}" if changed["largest"] is not None else
             f"{changed['answers']} of {r['examples']:,} answers differ ({changed['share']:.2%})")
    return f"{score}, fp32 {changed['fp32']:.4f}, {apart},"


def propose(
    run: str,
    loss: Annotated[float | None, Option(help="The score may lie so many points below the dense one.")] = None,
    speedup: Annotated[float | None, Option(help="How many times as fast at least, as predicted.")] = None,
    compression: Annotated[float | None, Option(help="Encoder compression of at least, dense / kept weights.")] = None,
    phase: Weights = "dense",
    repair: Repair = False,
    dtype: Dtype = "auto",
    data: Data = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Where to cut for a loss, a speedup or a compression: the best of several cuts, each scored exactly in fp32;
    speedups are predicted for --dtype."""
    from prune_core.evaluation.propose import propose as proposed
    from prune_core.models import devices
    from prune_core.runs.proposal import Aim

    asked = shelf.find(run, runs_dir)
    aim = Aim(None if loss is None else loss / 100, speedup, compression)
    *_, (*_, last) = scored(proposed(asked, phase, aim, repair, data, threads, dtype, devices.pick(device)))
    tell({"run": asked.name, "phase": phase, "metric": asked.metric, "dtype": dtype, "dense_score": last.dense,
          "words": last.words(),
          "best": last.best and last.best.to_json(), "candidates": [one.to_json() for one in last.candidates]},
         as_json, _proposed_text)


def _proposed_text(r: dict) -> str:
    lines = [f"{c['sparsity']:6.1%} zero, {times(c['compression_encoder']):>6}"
             + (f", {c['speedup']:5.2f} times as fast" if c["speedup"] else "")
             + f": {r['metric']} {c['score']:.4f} ({c['low']:.3f} to {c['high']:.3f}), "
             f"{-100 * c['loss']:+.1f} points  {c['how']}" for c in r["candidates"]]
    return "\n".join([*lines, r["words"]])


def score(
    run: str,
    phase: Weights = "dense",
    by: Annotated[str, Option(
        help=f"{', '.join(rankings.recordable())}, or several.")] = ",".join(rankings.recordable()),
    data: Data = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Record other rankings of the groups than their norms, for `evaluate --by` and Explore: by the inputs they meet,
    gradients, least squares."""
    from prune_core.evaluation import rank
    from prune_core.models import devices

    asked = shelf.find(run, runs_dir)
    ranked = rank.rank(asked, phase, by.split(","), data, threads, devices.pick(device))
    made = {name: str(path) for name, path in ranked}
    tell({"run": asked.name, "phase": phase, "files": made}, as_json,
         lambda r: "\n".join(f"{name}: {path}" for name, path in r["files"].items()))


def sensitivity(
    run: str,
    phase: Weights = "dense",
    by: Annotated[str, Option(help="layer, type, matrix, or several.")] = "layer,matrix",
    shares: Annotated[str, Option(help="Shares of a part's weights to cut.")] = "0.25,0.5,0.75,0.9",
    data: Data = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """What cutting one layer or matrix alone costs: exact dev scores over a grid, kept with the run; what is known is
    not computed again."""
    from prune_core.evaluation.sensitivity import sensitivity as asked_of
    from prune_core.models import devices

    asked = shelf.find(run, runs_dir)
    steps = asked_of(asked, phase, by.split(","), numbers(shares, "share"), data, threads, devices.pick(device))
    points = [vars(point) for *_, point in scored(steps)]
    tell({"run": asked.name, "phase": phase, "metric": asked.metric, "dense_score": asked.dense_score,
          "points": points}, as_json, _sensitivity_text)


def _sensitivity_text(r: dict) -> str:
    return "\n".join(f"{p['key']:40} {p['share']:6.0%} cut: {r['metric']} {p['score']:.4f}  "
                     f"({p['low']:.3f} to {p['high']:.3f})" for p in r["points"])


def surface(
    run: str,
    phase: Weights = "dense",
    by: Annotated[str, Option(help="What is cut first: norm, or recorded rankings "
                                   f"({', '.join(rankings.recordable())}), or several.")] = "norm",
    scope: Annotated[str, Option(help="global, layer, type, matrix, or several.")] = "global,matrix",
    repair: Annotated[str, Option(help="no, yes, or both: repaired after cutting.")] = "both",
    bits: Annotated[str, Option(
        help="Bits and patterns of what stays, or several: 8,4,4/2:4,2:4; 8;a8 with activations in 8 bits as well; "
             "default: fp32.")] = "",
    data: Data = None,
    runs_dir: RunsDir = places.RUNS,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Record more score surfaces of a run: exact scores at 20 sparsities for other kinds of cuts, in few bits as well,
    which Explore then predicts from."""
    from prune_core.evaluation.surface import surfaces
    from prune_core.models import devices

    repaired = {"no": (False,), "yes": (True,), "both": (False, True)}.get(repair)
    if repaired is None:
        raise InputError(f"repair {repair!r} is none of no, yes, both")
    asked = shelf.find(run, runs_dir)
    formats = _several(bits, asked.layout) if bits else [asked.trained_formats(phase)]
    kinds = [SurfaceKind(ranking, where, after, each)
             for each in formats for ranking in by.split(",") for where in scope.split(",") for after in repaired]
    steps = scored(surfaces(asked, phase, kinds, data, threads, devices.pick(device)))
    rows = [kind.to_json() | vars(point) for *_, kind, point in steps]
    tell({"run": asked.name, "phase": phase, "metric": asked.metric, "points": rows}, as_json, _surface_text)


def _several(text: str, layout: Layout) -> list[str]:
    """Formats of surfaces, each one for all matrices. Raises InputError."""
    if named := next((scope for scope in SCOPES if text.strip().startswith(f"{scope}:")), None):
        raise InputError(f"bits {text[:80]!r}: a surface cannot be recorded of a format for each {named}; needed: one "
                         "format for all, or several of these, as 8,4,4/2:4; a mixture is predicted from theirs")
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"bits {text[:80]!r} has an empty part; needed: formats between commas, as 8,4; fp32 is 32")
    return list(dict.fromkeys(str(parse(part, layout)) for part in parts))


def _surface_text(r: dict) -> str:
    return "\n".join(f"{p['by']:10} {p['scope']:7} {'repaired' if p['repaired'] else 'cut':9} "
                     f"{p.get('formats') or 'fp32':8} {p['sparsity']:6.1%}: {r['metric']} {p['score']:.4f}"
                     for p in r["points"])


def serve(
    threads: Annotated[int, Option(
        help="CPU threads; 0: as many as there are cores that other work leaves over.")] = 0,
    device: Device = "auto",
) -> None:
    """Exact dev scores as JSON lines, from weights that stay loaded: what the app asks. serve.py has the lines."""
    from prune_core.evaluation.serve import main
    from prune_core.models import devices

    main(threads, devices.pick(device))
