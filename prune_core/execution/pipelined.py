"""A pipeline executed for real: each stage of the compact model in a process of its own, on gloo, by
torch.distributed.pipelining, in turn with the same model in one process.

    run(model, mask, stages, setting, micro_batches)    starts `python -m prune_core.execution.pipelined FOLDER RANK`

On one machine a pipeline saves memory for each process, not time: its processes share the cores.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask
from prune_core.execution import footprint, stages, timing
from prune_core.execution.stages import Stage
from prune_core.execution.whole import small_model
from prune_core.files import PROJECT
from prune_core.hardware.pipelines import Unit
from prune_core.latency.work import Batch
from prune_core.models import encoders, skeleton

ROUNDS = 5
PATIENCE = 300.0  # seconds: of a process that says nothing for so long nothing more is expected
HOST = "127.0.0.1"
_PLAN, _WEIGHTS, _KEPT, _OUTPUTS = "plan.json", "model.safetensors", "kept.npz", "outputs.npy"


def run(model: nn.Module, mask: BlockMask, of_stages: Sequence[Sequence[Unit]], setting: Batch, micro_batches: int,
        dtype: str = "fp32", rounds: int = ROUNDS) -> dict:
    """The stages, each in a process with one thread, against one process with one thread, timed in turn.

    `ms`, `one_ms` (medians), `speedup`, `largest_difference` of the logits, and of each stage `ms` a micro-batch and
    `mb`, the peak of what its process takes; `one_mb` of weights in one process. Raises InputError.
    """
    choice = stages.check(model, mask, dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inputs = timing.sentences(model, setting)
        small = small_model(model.eval(), mask, dtype)
        with tempfile.TemporaryDirectory(prefix="prunescope-") as folder, torch.inference_mode():
            _write(Path(folder), model, mask, {
                "stages": [[[unit.layer, unit.half] for unit in units] for units in of_stages],
                "batch": setting.batch, "length": setting.length, "micro_batches": micro_batches, "rounds": rounds,
                "dtype": dtype})
            with _Processes(Path(folder), len(of_stages)) as processes:
                one, many = [], []
                for at in range(rounds + 1):  # the first warms both up
                    start = time.perf_counter()
                    outputs = small(**inputs).logits
                    one.append(1e3 * (time.perf_counter() - start))
                    many.append(processes.round(at))
                told = processes.ended()
            theirs = torch.from_numpy(np.load(Path(folder) / _OUTPUTS))
    finally:
        torch.set_num_threads(threads)
    ms, one_ms = (float(np.median(times[1:])) for times in (many, one))
    return {"ms": ms, "one_ms": one_ms, "speedup": one_ms / ms, "path": choice.path, "rounds": rounds,
            "largest_difference": float((theirs - outputs).abs().max()), "stages": told}


def _write(folder: Path, model: nn.Module, mask: BlockMask, plan: dict) -> None:
    """What the processes read: the plan, the model's config and weights, what is kept. Raises InputError."""
    from safetensors.torch import save_file

    plan |= {"config": model.config.to_dict(), "layout": mask.layout.to_json()}
    try:
        (folder / _PLAN).write_text(json.dumps(plan))
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / _WEIGHTS)
        np.savez(folder / _KEPT, **mask.kept)
    except OSError as error:
        raise InputError(f"{folder}: the stages cannot be written there: {error.strerror or error}") from None


class _Processes:
    """The stages' processes, which begin a round when they are told to; none is left when this is closed."""

    def __init__(self, folder: Path, count: int):
        wait = datetime.timedelta(seconds=PATIENCE)
        self._store = torch.distributed.TCPStore(HOST, 0, is_master=True, timeout=wait, wait_for_workers=False)
        paths = filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self._folder, self._all = folder, [subprocess.Popen(
            [sys.executable, "-m", "prune_core.execution.pipelined", str(folder), str(rank), str(self._store.port)],
            env=env, stdout=subprocess.DEVNULL, stderr=(folder / f"{rank}.log").open("w")) for rank in range(count)]

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_) -> None:
        for process in self._all:
            process.kill()
            process.wait()

    def round(self, at: int) -> float:
        """Milliseconds of one batch through all stages. Raises InputError where a process ends instead."""
        self._told([f"ready {rank} {at}" for rank in range(len(self._all))])
        self._store.set(f"go {at}", "1")
        return float(self._told([f"took {at}"])[0])

    def ended(self) -> list[dict]:
        """What each said of itself at the end."""
        return [json.loads(word) for word in self._told([f"ended {rank}" for rank in range(len(self._all))])]

    def _told(self, keys: list[str]) -> list[bytes]:
        end = time.monotonic() + PATIENCE
        while not self._store.check(keys):
            for rank, process in enumerate(self._all):
                if process.poll() not in (None, 0):
                    lines = (self._folder / f"{rank}.log").read_text().strip().splitlines() or ["no reason"]
                    raise InputError(f"stage {rank} of the pipeline ended with code {process.returncode}: "
                                     f"{' '.join(lines[-1].split())[:200]}")
            if time.monotonic() > end:
                raise InputError(f"a stage of the pipeline said nothing for {PATIENCE:.0f} s, so all were ended; "
                                 "needed: fewer devices, or a smaller batch")
            time.sleep(0.001)
        return [self._store.get(key) for key in keys]


# ---------------------------------------------------------------- in the processes


def main(folder: str, rank: str, port: str) -> None:
    """One stage: waits for each round, takes its part, tells what it took."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    plan, number = json.loads((Path(folder) / _PLAN).read_text()), int(rank)
    wait, size = datetime.timedelta(seconds=PATIENCE), len(plan["stages"])
    store = dist.TCPStore(HOST, int(port), is_master=False, timeout=wait)
    dist.init_process_group("gloo", store=dist.PrefixStore("stages", store), rank=number, world_size=size, timeout=wait)
    with torch.inference_mode():
        _rounds(Path(folder), plan, number, store)
    dist.destroy_process_group()


def _rounds(folder: Path, plan: dict, rank: int, store) -> None:
    import torch.distributed as dist
    import torch.distributed.pipelining  # noqa: F401  its own memory is not the stage's
    from transformers import AutoConfig

    asked = footprint.Asked("compact", plan["batch"], plan["length"])
    cpu, (first, last) = torch.device("cpu"), (rank == 0, rank == len(plan["stages"]) - 1)
    before = footprint.warmed(AutoConfig.for_model(**plan["config"]), asked, cpu)
    stage, model = _stage(folder, plan, rank)
    clock = _Clock(stage)
    schedule, inputs = _schedule(clock, plan, rank, model)
    footprint.spare(asked)
    footprint.reset(cpu)
    for at in range(plan["rounds"] + 1):
        store.set(f"ready {rank} {at}", "1")
        store.wait([f"go {at}"])
        dist.barrier()
        start = time.perf_counter()
        out = schedule.eval(*([inputs["input_ids"]] * first), attention_mask=inputs["attention_mask"])
        dist.barrier()
        if last:
            np.save(folder / _OUTPUTS, out.numpy())
        if first:
            store.set(f"took {at}", str(1e3 * (time.perf_counter() - start)))
    told = {"ms": float(np.median(clock.ms[plan["micro_batches"]:])), "mb": footprint.peak(cpu) - before}
    store.set(f"ended {rank}", json.dumps(told))


class _Clock(nn.Module):
    """A stage, and the milliseconds of each of its micro-batches."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.stage, self.ms = stage, []

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        out = self.stage(x, attention_mask)
        self.ms.append(1e3 * (time.perf_counter() - start))
        return out


def _stage(folder: Path, plan: dict, rank: int) -> tuple[Stage, nn.Module]:
    """The stage of this rank, and the model whose other weights were never read."""
    layout, kept = Layout.from_json(plan["layout"]), np.load(folder / _KEPT)
    mask = BlockMask(layout, {m.name: kept[m.name] for m in layout.matrices})
    units = [Unit(layer, half) for layer, half in plan["stages"][rank]]
    first, last = rank == 0, rank == len(plan["stages"]) - 1
    layers = {unit.layer for unit in units}
    needed = {m.name for m in layout.matrices if m.layer in layers}
    model = _read(folder, plan["config"], {m.name for m in layout.matrices} - needed, first)
    stage = Stage(model, mask, units, stages.check(model, mask, plan["dtype"]), first, last)
    footprint.let_go_(model, layout)
    return stage, model


def _read(folder: Path, config: dict, without: set[str], embeddings: bool) -> nn.Module:
    """The model with what is needed of its weights: memory that is never written takes no room."""
    from safetensors import safe_open
    from transformers import AutoConfig

    with encoders.quiet(), torch.device("meta"):
        model = skeleton.from_config(AutoConfig.for_model(**config))
    model = model.to_empty(device="cpu").eval()
    inside = id(model.base_model.embeddings.word_embeddings.weight)
    with safe_open(folder / _WEIGHTS, "pt") as file, torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name.rpartition(".")[0] not in without and (embeddings or id(tensor) != inside):
                tensor.copy_(file.get_tensor(name))
    return model


def _schedule(clock: _Clock, plan: dict, rank: int, model: nn.Module):
    """(GPipe's schedule over all stages, the batch that is given to every one of them)."""
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    size, setting = len(plan["stages"]), Batch(plan["batch"], plan["length"])
    inputs, micro = timing.sentences(model, setting), setting.batch // plan["micro_batches"]
    hidden = torch.empty(micro, setting.length, model.config.hidden_size)
    given = hidden if rank else inputs["input_ids"][:micro]
    out = hidden if rank < size - 1 else torch.empty(micro, model.config.num_labels)
    stage = PipelineStage(clock, rank, size, torch.device("cpu"), input_args=(given,), output_args=(out,))
    return ScheduleGPipe(stage, plan["micro_batches"]), inputs


if __name__ == "__main__":
    main(*sys.argv[1:])
