"""A second device made of this processor, to which torch refuses to mix tensors of the first: run as a script.

Its tensors hold one of the processor's each, and every operation is done on those, so that numbers are equal to the
last bit. What a GPU would refuse is refused here: an operation on tensors of two devices, `.numpy()` of one that is not
the processor's. What is fetched and sent is counted. Prints one JSON object: case -> what came out.
"""

from __future__ import annotations

import collections
import contextlib
import json
import sys
import traceback
from pathlib import Path

import torch
from torch.utils import _pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("second")
SECOND = torch.device("second:0")
MOVES = ("copy_", "_copy_from", "_to_copy")  # the only operations between two devices
FETCHES = ("_local_scalar_dense", "_to_copy", "nonzero")  # what a GPU is waited for
counted: collections.Counter = collections.Counter()


class There(torch.Tensor):
    """A tensor of the second device; `raw` is the processor's that it stands for."""

    @staticmethod
    def __new__(cls, raw: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=SECOND)

    def __init__(self, raw: torch.Tensor):
        self.raw = raw

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), settings=None):
        return on_raw(operation, *arguments, **(settings or {}))

    def __deepcopy__(self, memory: dict) -> torch.Tensor:
        made = There(self.raw.clone()).requires_grad_(self.requires_grad)
        memory[id(self)] = made = torch.nn.Parameter(made) if isinstance(self, torch.nn.Parameter) else made
        return made

    @property
    def data(self) -> torch.Tensor:
        return There(self.raw)

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        self.raw = other.raw

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError("can't convert second:0 device type tensor to numpy; use Tensor.cpu() first")


def on_raw(operation, *arguments, **settings):
    """The operation on what the tensors stand for; theirs again, and the same objects where it was in place."""
    name, owners = operation._schema.name.partition("::")[2], {}

    def raw(one):
        if isinstance(one, There):
            owners[id(one.raw)] = one
            return one.raw
        if isinstance(one, torch.Tensor) and one.dim() and name not in MOVES:
            raise RuntimeError(f"{operation}: a tensor of {one.device}, {tuple(one.shape)}, among those of {SECOND}")
        return torch.device("cpu") if isinstance(one, torch.device) and one.type == SECOND.type else one

    to, given = settings.get("device"), _pytree.tree_map(raw, (arguments, settings))
    made = operation(*given[0], **given[1])
    leaves = name == "_to_copy" and to is not None and to.type == "cpu" or (
        name in ("copy_", "_copy_from") and not isinstance(arguments[0], There))
    if leaves or name in ("_local_scalar_dense", "nonzero"):
        counted[name] += 1
    if leaves:
        return made
    return _pytree.tree_map(lambda one: owners.get(id(one)) if id(one) in owners else
                            There(one) if isinstance(one, torch.Tensor) else one, made)


torch.inference_mode = torch.no_grad  # in which such tensors cannot be views of others
_library = torch.library.Library("_", "IMPL")
_library.fallback(on_raw, "PrivateUse1")


# ---------------------------------------------------------------- what is tried on it


def snapshots(asked, device: torch.device) -> tuple[list, dict]:
    """(of a whole run on this device its losses, penalties, scores, norms and weights; what each step fetched)"""
    import tiny

    from prune_core.models import encoders
    from prune_core.runs.snapshots import Snapshot
    from prune_core.tasks import glue
    from prune_core.training.data import EncodedTask
    from prune_core.training.loop import Pruning
    from prune_core.training.step import Steps

    data = glue.load(asked.task, asked.data)
    encoder = encoders.load(asked.model, data.task.outputs, asked.seed, asked.train_embeddings)
    encoded = EncodedTask.of(data, encoder, asked)
    encoder.model.set_attn_implementation("eager")  # the fused one is another on every device
    encoder.model.to(device)
    fetched, plain = collections.defaultdict(collections.Counter), Steps._step_

    def step(self, *arguments):
        before = collections.Counter(counted)
        loss = plain(self, *arguments)
        fetched[self.kind][json.dumps(dict(counted - before))] += 1
        return loss

    Steps._step_, told = step, []
    try:
        for event in Pruning(encoder, encoded, asked):
            if isinstance(event, Snapshot):
                weights = event.weights() if event.weights else {}
                told.append((event, event.norms, {name: one.cpu() for name, one in weights.items()}))
    finally:
        Steps._step_ = plain
    assert tiny and all(p.device == device for p in encoder.model.parameters())
    return told, {kind: dict(counts) for kind, counts in fetched.items()}


def compared(asked) -> dict:
    """Whether both devices gave the same; what was fetched."""
    import numpy as np

    (here, _), (there, fetched) = snapshots(asked, torch.device("cpu")), snapshots(asked, SECOND)
    same = len(here) == len(there) and all(
        one == other and (norms is None) == (norms2 is None)
        and all(np.array_equal(values, norms2[name]) for name, values in (norms or {}).items())
        and all(torch.equal(values, weights2[name]) for name, values in weights.items())
        for (one, norms, weights), (other, norms2, weights2) in zip(here, there, strict=True))
    return {"same": bool(same), "snapshots": len(here), "fetched": fetched}


def asked(folder: Path, model: Path, data: Path) -> dict:
    """What commands ask of a run: on both devices, and how far the answers are from each other."""
    import numpy as np
    import tiny

    from prune_core.cutting.masks import mask_at_sparsity
    from prune_core.evaluation import flips, losses, sentences
    from prune_core.evaluation.bench import Bench
    from prune_core.evaluation.matrices import Matrices
    from prune_core.methods import rankings
    from prune_core.precision.formats import parse

    run = tiny.make_run(tiny.settings(model, data, train_examples=40), folder / "runs")
    mask, told = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.5, "matrix"), {}
    benches = [Bench(tiny.unasked(run, folder / str(device)), "dense", device=torch.device(device))
               for device in ("cpu", SECOND)]
    for repaired in (False, True):
        for formats in ("", "4/2:4", "8;a8", "8;a8-tensor", "clusters-3;e8"):
            here, there = (one.outputs(mask, repaired, formats=parse(formats, run.layout)) for one in benches)
            told[f"outputs, {repaired}, {formats}"] = float(np.abs(here - there).max())
    for name in rankings.recordable():
        here, there = (rankings.named(name, one.grams(), one.train).of(one.encoder, run.layout) for one in benches)
        told[f"ranked by {name}"] = max(float(np.abs(here[m] - there[m]).max() / here[m].max()) for m in here)
    some, formats = benches[0].inputs._sentences, parse("4", run.layout).of(run.layout)
    here, there = (losses.HeldOut(Matrices(one, b""), some).loss("4", mask, formats) for one in benches)
    told["losses"] = max(abs(here[name] - there[name]) for name in here)
    *_, last = benches[1].stream(mask)
    *_, first = benches[0].stream(mask)
    told["score"] = abs(last.score - first.score)
    there = benches[1].choice()
    told["kept apart"] = float(benches[0]._file(mask, False, benches[0].choice(), parse("")).name
                               == benches[1]._file(mask, False, there, parse("")).name)
    here, there = (flips.first(run, (0.3, 0.6), device=torch.device(device)) for device in ("cpu", SECOND))
    told["flips"] = float(here["lost"] != there["lost"])
    said = [sentences.predict(run, "dense", [("a fine film",)], (0.0, 0.5), device=torch.device(device))
            for device in ("cpu", SECOND)]
    here, there = (np.array(one["probabilities"]) for one in said)
    told["sentences"] = float(np.abs(here - there).max())
    return told


def main(folder: Path, cases: dict[str, dict]) -> None:
    import tiny

    model = tiny.checkpoint(folder / "tiny-bert", "bert")
    data, told = tiny.data_folder(folder / "data", ("sst2", "stsb")), {}
    told["asked"] = asked(folder, model, data)
    for name, settings in cases.items():
        try:
            told[name] = compared(tiny.settings(model, data, **settings))
        except Exception:  # told of this case; the others are tried
            told[name] = {"error": traceback.format_exc()[-3000:]}
    print(json.dumps(told))


if __name__ == "__main__":
    with contextlib.suppress(ValueError):
        torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
