"""What can be asked of a run afterwards: its weights, and the exact dev score at any cut."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError, encoders, files, glue, latency, native, repair
from prune_core import measure as timing
from prune_core.compact import compact, heads_of
from prune_core.evaluate import Running, Score, masked, outputs, stream
from prune_core.masks import BlockMask, by_scope, mask_at, mask_at_sparsity, thresholds_for
from prune_core.recorder import machine
from prune_core.runs import Run, RunError
from prune_core.unpadded import unpad_

GRAM_SENTENCES = 1024  # of the training set, behind a repair


@dataclass(frozen=True)
class Cut:
    """A question to a run: which weights, cut where. Either `sparsity` or `threshold` is given."""

    run: Run
    sparsity: float | None
    threshold: float | Mapping[str, float] | None
    scope: str | None = None
    phase: str | None = None
    score: str = "norm"  # what thresholds are on: norm, or a kind of saliency that was recorded for the phase

    def resolved(self) -> tuple[str, str, BlockMask, dict[str, float]]:
        """(saved phase, scope, mask, thresholds by scope key). Raises InputError."""
        phase = self.phase or default_phase(self.run, self.sparsity)
        scope = self.scope or self.run.config.scope
        norms, layout = self.run.ranks(phase, self.score), self.run.layout
        if self.sparsity is not None:
            thresholds = thresholds_for(norms, layout, self.sparsity, scope)
        elif isinstance(self.threshold, Mapping):
            thresholds = dict(self.threshold)
        else:
            thresholds = dict.fromkeys(by_scope(layout, scope), self.threshold)
        return phase, scope, mask_at(norms, layout, thresholds, scope), thresholds


def default_phase(run: Run, sparsity: float | None, weights: bool = True) -> str:
    """The most trained end of a phase that is not already sparser than asked; the last one if nothing was asked.

    Of those whose `weights` are there, unless only norms are needed. Raises RunError, saying how to get them.
    """
    there = {p.stem for p in (run.path / "weights").glob("*.safetensors")} if weights else set(run.saved_names)
    names = [s.saved for s in run.snapshots if s.saved in there
             and (sparsity is None or s.point["sparsity"] <= sparsity + 0.01 or s.saved == "dense")]
    if not names:
        if weights:
            run.weights_file("dense")  # raises, and says how to get them
        raise RunError(f"run {run.name!r} has no end of a phase yet")
    order = {"dense": 0, "penalty": 1, "retrain": 2}
    ends = {s.saved: s.point["sparsity"] for s in run.snapshots if s.saved}
    return max(names, key=lambda name: (order[name.split("-")[0]], ends[name]))


def encoder_of(run: Run, phase: str, labels: int) -> encoders.Encoder:
    """The run's encoder with the weights of a saved phase. Raises RunError where they are not there or do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = run.weights_file(phase)
    encoder = encoders.load(run.config.model, labels, run.config.seed, run.config.train_embeddings)
    try:
        tensors = load_file(file)
        with torch.no_grad():
            for name, parameter in encoder.trainable().items():
                parameter.copy_(tensors[name])
    except (KeyError, RuntimeError, OSError, SafetensorError) as error:
        raise RunError(f"run {run.name!r}: weights {phase!r} do not fit {run.config.model!r}: {' '.join(str(error).split())[:160]}") from None
    if not all(torch.isfinite(p).all() for p in encoder.trainable().values()):
        raise RunError(f"run {run.name!r}: weights {phase!r} have NaN or infinite values")
    return encoder


def data_of(run: Run, source: str | None) -> glue.TaskData:
    """The data of a run's task: from `source`, else from where the run had it. Raises InputError, never the practice set instead."""
    if run.is_practice and source in (None, "practice"):
        return glue.load(run.config.task, "practice")
    run.check_data(source)
    data = glue.load_for(run.config, source or run.data)
    if data.task.name != run.task:
        raise InputError(f"run {run.name!r} needs {run.task}, which is not at {source or run.data} now; give --data FOLDER "
                         "in the layout of nyu-mll/glue")
    return data


class Bench:
    """The weights of one phase of a run and its dev set, loaded once: scores any number of masks, each only once ever.

    Scores are kept on the disk under what determines them: all weights, the mask, the encoded data.
    """

    def __init__(self, run: Run, phase: str, source: str | None = None):
        """Reads the weights and the data (from `source`, else from where the run had it). Raises InputError."""
        run.weights_file(phase)  # before the data is asked for: the nearer reason first
        data = data_of(run, source).limited(None, run.config.dev_examples)
        self.run, self.phase, self.task, self.examples = run, phase, data.task, data.main_dev
        self.encoder = encoder_of(run, phase, data.task.outputs)
        length = self.encoder.max_length(run.config.max_length)
        self.dev = {split: glue.encode(examples, self.encoder.tokenizer, length) for split, examples in data.dev.items()}
        self._sentences, self._length = data.train.some(GRAM_SENTENCES), length
        self._folder = run.later if run.recorded else run.later / "scores"
        self._key = _digest(self.encoder, self.dev)
        self._grams: dict[str, repair.Gram] | None = None

    def stream(self, mask: BlockMask, fresh: bool = False, repaired: bool = False) -> Iterator[Running]:
        """The dev score under `mask`, fp32, as it comes in: the compact model on sentences end to end. At once if it is known.

        `repaired`: what is kept is first moved to make up for what is cut (repair.py).
        """
        path = self._folder / f"{self._key}-{mask.digest()}{self._repair_key if repaired else ''}.json"
        if not fresh and (known := _read_score(path)):
            yield Running(known.examples, known.examples, known.scores[self.task.metric], known.low, known.high, known)
            return
        small = compact(self.repaired(mask) if repaired else self.encoder.model, mask)
        unpad_(small)
        for running in stream(small, self.task, self.dev):
            if running.final:
                _keep_score(path, running.final)
            yield running

    def outputs(self, mask: BlockMask, repaired: bool = False) -> np.ndarray:
        """(examples, outputs) of the head on the main dev split under `mask`, fp32."""
        small = compact(self.repaired(mask) if repaired else self.encoder.model, mask)
        unpad_(small)
        return outputs(small, self.dev[self.task.dev[0]])

    @cached_property
    def train(self) -> glue.Encoded:
        """The training sentences behind a repair; encoded when one is asked for."""
        return glue.encode(self._sentences, self.encoder.tokenizer, self._length)

    @cached_property
    def _repair_key(self) -> str:
        """What a repair depends on beside weights and mask: the sentences that were weighed, and the damping."""
        sha = hashlib.sha256(repr((self.train.inputs, repair.DAMP)).encode())
        return f"-repaired-{sha.hexdigest()[:12]}"

    def repaired(self, mask: BlockMask) -> nn.Module:
        """A copy of the model, cut by `mask` and repaired."""
        model = copy.deepcopy(self.encoder.model)
        repair.repair_({name: model.get_submodule(name) for name in self.encoder.linears}, mask, self.grams())
        return model

    def grams(self) -> dict[str, repair.Gram]:
        """Matrix name -> Gram of its inputs over GRAM_SENTENCES training sentences of the dense model; taken once, kept on the disk."""
        path = self._folder / f"{self._key}{self._repair_key}.safetensors"
        self._grams = self._grams or _read_grams(path, self.encoder.linears)
        if self._grams is None:
            batches = glue.dev_batches(self.train.lengths, 64)
            self._grams = repair.collect(self.encoder.model, self.encoder.linears, (self.train.batch(at)[0] for at in batches))
            _keep_grams(path, self._grams)
        return self._grams


def rank(run: Run, phase: str, kinds: Sequence[str], source: str | None = None, threads: int = 0) -> Iterator[tuple[str, Path]]:
    """Record other scores of all groups at the end of a phase: (kind, file) as each is done. Raises InputError."""
    from safetensors.numpy import save

    from prune_core import saliency

    for kind in kinds:
        saliency.named(kind, {}, glue.Encoded({"input_ids": []}, np.zeros(0), 0))  # a wrong name is told before the work
    torch.set_num_threads(threads or os.cpu_count() or 1)
    bench = Bench(run, phase, source)
    for kind in kinds:
        found = saliency.named(kind, bench.grams(), bench.train).of(bench.encoder, run.layout)
        path = run.ranks_file(phase, kind)
        try:
            files.write_whole(path, save(found))
        except OSError as error:
            raise RunError(f"scores cannot be written to {str(path)!r}: {error.strerror or error}") from None
        yield kind, path


def _read_grams(path: Path, names: Collection[str]) -> dict[str, repair.Gram] | None:
    """Grams that were kept; None where there are none, or not all of them can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())  # not mapped: whoever cuts the file short would end this process
        firsts = json.loads(bytes(tensors["firsts"].tolist()))  # matrices with one input share a Gram
        return {name: repair.Gram(tensors[f"products.{firsts[name]}"], tensors[f"total.{firsts[name]}"], int(tensors[f"count.{firsts[name]}"]))
                for name in names}
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _keep_grams(path: Path, grams: Mapping[str, repair.Gram]) -> None:
    """Keep them; where nothing can be written they are taken again."""
    from safetensors.torch import save

    owners: dict[int, str] = {}
    firsts = {name: owners.setdefault(id(gram), name) for name, gram in grams.items()}
    tensors = {"firsts": torch.tensor(list(json.dumps(firsts).encode()), dtype=torch.uint8)}
    for name in set(firsts.values()):
        tensors |= {f"products.{name}": grams[name].products, f"total.{name}": grams[name].total,
                    f"count.{name}": torch.tensor(grams[name].count)}
    with contextlib.suppress(OSError):
        files.write_whole(path, save(tensors))


def _digest(encoder: encoders.Encoder, dev: Mapping[str, glue.Encoded]) -> str:
    """The same text for the same weights (all of the model) and the same encoded dev sets."""
    sha = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        sha.update(name.encode() + memoryview(tensor.contiguous().numpy()).cast("B"))
    for split, data in sorted(dev.items()):
        sha.update(repr((split, data.inputs, data.labels.tolist())).encode())
    return sha.hexdigest()[:24]


def _read_score(path: Path) -> Score | None:
    """A score that was kept; None where there is none, or none that can be read."""
    try:
        return Score(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _keep_score(path: Path, score: Score) -> None:
    """Keep it for whoever asks again; where nothing can be written it is computed again."""
    with contextlib.suppress(OSError):
        files.write_json(path, asdict(score))


def evaluate(cut: Cut, source: str | None = None, threads: int = 0, report: Callable[[Running], None] = lambda running: None,
             fresh: bool = False, bench: Bench | None = None, repaired: bool = False) -> dict:
    """The exact dev score of a cut, on the run's dev examples, fp32. What `evaluate --json` prints.

    `report` gets every running score and may raise to stop; `fresh` does not look whether the answer is known; `bench`:
    weights and data that are loaded already; `repaired`: what is kept is first moved to make up for what is cut. Seconds count
    from the question, with weights and data loaded.
    """
    run, (phase, scope, mask, thresholds) = cut.run, cut.resolved()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    bench = bench or Bench(run, phase, source)
    native.library()  # built, where that is still to be done, before the clock starts
    start, first = time.perf_counter(), None
    for running in bench.stream(mask, fresh, repaired):
        first = first or time.perf_counter() - start
        report(running)
    found, single = running.final, next(iter(thresholds.values())) if len(set(thresholds.values())) == 1 else thresholds
    return {"run": run.name, "phase": phase, "scope": scope, "data": run.data, "by": cut.score, "repaired": repaired, "sparsity": mask.sparsity,
            "threshold": single, "compression_encoder": mask.compression_encoder, "compression_model": mask.compression_model, "metric": run.metric,
            "score": found.scores[run.metric], "low": found.low, "high": found.high, "scores": dict(found.scores),
            "examples": found.examples, "seconds_to_first": first, "seconds": time.perf_counter() - start}


def predict(run: Run, phase: str, texts: Sequence[tuple[str, ...]], sparsities: Sequence[float], scope: str | None = None, by: str = "norm") -> dict:
    """How sure the model is of every label, for each text, as more and more is cut. What `predict --json` prints. Raises InputError.

    `probabilities`: (sparsities, texts, labels); with one output (regression) the output itself.
    """
    encoder = encoder_of(run, phase, run.outputs)
    scope, ranks = scope or run.config.scope, run.ranks(phase, by)
    columns = [list(column) for column in zip(*texts, strict=True)]
    inputs = encoder.tokenizer(*columns, truncation=True, max_length=encoder.max_length(run.config.max_length), padding=True, return_tensors="pt")
    found, reached = [], []
    for sparsity in sparsities:
        mask = mask_at_sparsity(ranks, run.layout, sparsity, scope)
        with torch.inference_mode(), masked(encoder.weights, mask):
            logits = encoder.model.eval()(**inputs).logits.float()
        found.append((logits.softmax(-1) if run.outputs > 1 else logits).tolist())
        reached.append(mask.sparsity)
    return {"run": run.name, "phase": phase, "scope": scope, "by": by, "labels": run.labels or [run.metric],
            "sparsities": reached, "probabilities": found}


def measure(cut: Cut, batch: int, length: int, threads: int, dtype: str, seconds: float, profile: Path | None,
            engine: str = "torch") -> dict:
    """Time the dense and the compact model of a cut. What `measure --json` prints. Raises InputError.

    Works for runs whose weights are not there: a latency does not depend on values, only on what is kept.
    """
    run = cut.run
    setting = latency.Setting(batch, length)
    threads = threads or os.cpu_count() or 1
    priced = latency.read(profile) if profile else _own_profile(threads)
    phase = cut.phase or default_phase(run, cut.sparsity, weights=False)
    phase, scope, mask, _ = replace(cut, phase=phase).resolved()
    there = (run.path / "weights" / f"{phase}.safetensors").exists()
    model = (encoder_of(run, phase, run.outputs) if there else encoders.load(run.config.model, run.outputs, run.config.seed)).model
    found = timing.measure(model, mask, setting, threads, dtype, seconds, engine)
    heads = heads_of(model, mask.layout.matrices)
    predicted = priced.compact_ms(mask, setting, heads) if priced and (dtype, engine) == ("fp32", "torch") else None
    weights = "of the run" if there else "of the checkpoint: those of the run do not ship; a latency does not depend on them"
    answer = {"run": run.name, "phase": phase, "scope": scope, "mask": mask.digest(), "weights": weights} | found | {
            "predicted_ms": predicted, "predicted_speedup": priced.speedup(mask, setting, heads) if predicted else None,
            "predicted_error": priced.error if predicted else None}
    with contextlib.suppress(OSError):  # kept for whoever asks again; where nothing can be written it is only told
        files.append_sealed(run.timings_file, answer)
    return answer


def usual_profile() -> latency.Profile | None:
    """This machine's latency profile, else the first that was loaded or ships; None where there is none."""
    for path in latency.known(latency.own_file(machine(), os.cpu_count() or 1)):
        with contextlib.suppress(OSError, InputError):
            return latency.read(path)
    return None


def _own_profile(threads: int) -> latency.Profile | None:
    """This machine's latency profile; None where it was never calibrated."""
    path = latency.own_file(machine(), threads)
    return latency.read(path) if path.exists() else None
