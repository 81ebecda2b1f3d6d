"""Where a run trains: on one device, or in several processes that share every batch, as accelerate joins them.

    with joined("auto", processes=2) as placed:      # this process is the first, the others are started
        mine = placed.share(rows)                    # of the global batch, the same whatever the number of processes
        loss = placed.sum_(gradients, loss)          # each with its share of the rows; then all have the same
        state = placed.from_main(state)              # what is decided or read once

All processes hold the same weights and do the same with them; the first alone writes. The gradients are summed in one
exchange of one array, in one order, so that a run that is taken up by as many processes ends in the same bits.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from prune_core import InputError
from prune_core.models import devices
from prune_core.models.devices import CPU
from prune_core.training.others import Others, end_with_the_first

PATIENCE = datetime.timedelta(hours=12)  # that processes wait for another: a ranking may take one of them long


class Lost(InputError):
    """Another process of the run has ended before its time."""


@dataclass(frozen=True)
class Placement:
    """One of `count` processes, by its number `rank`, on its device."""

    device: torch.device = CPU
    rank: int = 0
    count: int = 1
    here: int = 1  # of them on this machine
    why: Callable[[], str] = field(default=lambda: "", compare=False)  # what is known of one that has ended

    main = property(lambda self: self.rank == 0, doc="Whether this one reads, writes and speaks.")

    def to_json(self) -> dict:
        """What run.json says of it."""
        return devices.describe(self.device) | {"processes": self.count}

    def threads(self, asked: int) -> int:
        """Of this process, where the run was asked to take so many."""
        return max(1, asked // self.here) if self.device.type == "cpu" else asked

    def share(self, rows: Sequence) -> Sequence:
        """Those of this process: every so-manyth."""
        return rows[self.rank :: self.count]

    def share_of(self, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """(its rows of a batch, what part of it they are); where there are none one row that counts for nothing."""
        mine = self.share(rows)
        return (mine, len(mine) / len(rows)) if len(mine) else (rows[:1], 0.0)

    @torch.no_grad()
    def sum_(self, gradients: Sequence[torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
        """Make every gradient the sum over all processes, in place; the sum of their losses ()."""
        if self.count == 1:
            return loss
        flat = torch.cat([one.flatten() for one in (*gradients, loss.detach().float())])
        with self._exchange():
            torch.distributed.all_reduce(flat)
        parts = flat.split([one.numel() for one in (*gradients, loss)])
        for gradient, part in zip(gradients, parts[:-1], strict=True):
            gradient.copy_(part.view_as(gradient))
        return parts[-1].view(())

    def widest(self, range_: torch.Tensor) -> torch.Tensor:
        """(2,) the least and the largest of all processes' (2,)."""
        if self.count > 1:
            both = torch.stack([-range_[0], range_[1]])
            with self._exchange():
                torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
            range_ = torch.stack([-both[0], both[1]])
        return range_

    def from_main(self, value: Any = None) -> Any:
        """What the first process gives; others need give nothing."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        box = [value]
        with self._exchange():
            broadcast_object_list(box, from_process=0)
        return box[0]

    def whole(self, parts: Sequence) -> list:
        """All parts of what `share` has divided, in their order, of this process's own."""
        if self.count == 1:
            return list(parts)
        told: list = [None] * self.count
        with self._exchange():
            torch.distributed.all_gather_object(told, list(parts))
        made = [None] * sum(map(len, told))
        for rank, theirs in enumerate(told):
            made[rank :: self.count] = theirs
        return made

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        """Raises Lost where another process is gone."""
        try:
            yield
        except RuntimeError as error:
            time.sleep(0.5)  # until it is known how it ended
            said = self.why() or " ".join(str(error).split())[:120]
            raise Lost(f"one of its {self.count} processes has ended ({said})") from None


def check_batch(processes: int, batch: int, examples: int) -> None:
    """Raises InputError where a batch, of so many examples in all, has fewer than there are processes."""
    if processes > min(batch, examples):
        raise InputError(f"{processes} processes, and {min(batch, examples)} examples in a batch; needed: at most "
                         "as many processes as examples")


def launched() -> bool:
    """Whether a launcher has started this process among several."""
    return _world() > 1


def _world() -> int:
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdigit():
        raise InputError(f"WORLD_SIZE {said!r} in the environment is no number of processes; needed: as a launcher "
                         "sets it, or not at all")
    return int(said)


@contextlib.contextmanager
def joined(device: str = "auto", processes: int = 1) -> Iterator[Placement]:
    """The placement of this process. `processes`: to start as many but one beside it, unless a launcher (accelerate
    launch, torchrun) has started all of them. Raises InputError: no such device, too few GPUs, another number.
    """
    if processes < 1:
        raise InputError(f"processes {processes} are out of range; needed: 1 or more")
    world = _world()
    if world > 1 and processes not in (1, world):
        raise InputError(f"processes {processes}, but the launcher has started {world}; needed: as many, or none "
                         "said")
    picked, count = devices.pick(device), max(world, processes)
    if count == 1:
        yield Placement(picked)
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    _check(picked, device, here)
    with Others(0 if world > 1 else processes) as others:
        try:
            yield _met(picked, here, others.why)
        finally:
            _part()


def _part() -> None:
    """Leave the others, and forget them: a process may be joined again."""
    from accelerate import PartialState

    if torch.distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            torch.distributed.destroy_process_group()
    PartialState._reset_state()


def _check(picked: torch.device, said: str, here: int) -> None:
    """Raises InputError where so many processes of this machine have no device each."""
    if picked.type == "mps":
        raise InputError(f"device {said!r} cannot be shared by {here} processes; needed: cpu, or GPUs with CUDA")
    if picked.type == "cuda" and (":" in said or torch.cuda.device_count() < here):
        raise InputError(f"{here} processes on device {said!r}, and {torch.cuda.device_count()} GPUs here; needed: one "
                         "GPU for each process, and cuda without a number")


def _met(picked: torch.device, here: int, why: Callable[[], str]) -> Placement:
    """Wait for the others, as accelerate does it: gloo between processors, nccl between GPUs."""
    from accelerate import PartialState

    cpu = picked.type == "cpu"
    end_with_the_first()
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else accelerate would choose
    state = PartialState(cpu=cpu, timeout=PATIENCE, **({"backend": "gloo"} if cpu else {}))
    return Placement(CPU if cpu else state.device, state.process_index, state.num_processes, here, why)


ALONE = Placement()
