"""The memory that a model really takes, measured: the peak of a fresh process on a CPU, the allocator's peak on a GPU.

    measure(config, asked)    starts `python -m prune_core.execution.footprint`, which reads what is asked as JSON

What the process held with its libraries loaded and warm is told apart, and not counted. On a CPU large blocks are given
back to the system as soon as they are free, so that the peak is of what is in use; `held` leaves that to the C library,
which keeps freed blocks for later, as any other command of this process would.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError, out_of_memory
from prune_core.cutting.blocks import BlockShape, Layout
from prune_core.cutting.masks import BlockMask
from prune_core.execution.whole import small_model
from prune_core.files import PROJECT
from prune_core.latency.profile import uncut
from prune_core.latency.strips import living
from prune_core.models import devices, encoders, skeleton

KINDS = ("dense", "smaller", "compact")  # as it is; heads and neurons taken out, in torch; our pass
STEPS = 2  # the first makes what the second finds there: Adam's moments, workspaces
LARGE = 1 << 16  # bytes of a block that is given back at once
_STATUS, _CLEAR, _PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _MOST_MAPS = -3, -1, -4  # of mallopt


@dataclass(frozen=True)
class Asked:
    """What to measure: a kind of KINDS, in a batch of random sentences, training or not, as hardware.memory.Way says.

    `dtype`: the arithmetic of our pass; `held`: as the C library keeps memory.
    """

    kind: str
    batch: int
    length: int
    training: bool = False
    attention: str = "fused"
    precision: str = "fp32"
    dropout: bool = True
    teacher: bool = False
    train_embeddings: bool = False
    threads: int = 1
    device: str = "cpu"
    dtype: str = "fp32"
    held: bool = False
    layout: Mapping = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)  # matrix name -> its groups, as bits in hexadecimal


def with_mask(asked: Asked, mask: BlockMask) -> Asked:
    """The same of what `mask` keeps."""
    kept = {name: np.packbits(groups).tobytes().hex() for name, groups in mask.kept.items()}
    return replace(asked, layout=mask.layout.to_json(), kept=kept)


def measure(config: object, asked: Asked, seconds: float = 600.0) -> dict[str, float]:
    """Megabytes in a fresh process: `mb`, the peak of what the model takes; `libraries_mb`, what was there before it;
    `path` that ran. Raises InputError where it does not fit, or cannot be measured."""
    said = json.dumps({"config": config.to_dict(), "asked": asdict(asked)})
    env = os.environ | {"OMP_NUM_THREADS": str(asked.threads), "TOKENIZERS_PARALLELISM": "false"}
    paths = filter(None, [str(PROJECT), env.get("PYTHONPATH")])
    try:
        done = subprocess.run([sys.executable, "-m", "prune_core.execution.footprint"], input=said, text=True,
                              capture_output=True, timeout=seconds, env=env | {"PYTHONPATH": os.pathsep.join(paths)},
                              check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"measuring took more than {seconds:.0f} s and was ended; needed: a smaller batch or length"
                         ) from None
    lines = done.stdout.strip().splitlines()
    answer = json.loads(lines[-1]) if done.returncode == 0 and lines else {"error": _why(done)}
    if "error" in answer:
        raise InputError(answer["error"])
    return answer


def _why(done: subprocess.CompletedProcess) -> str:
    """Why the process gave no answer, in one line."""
    if done.returncode < 0:
        return (f"the process that measured was ended by signal {-done.returncode}, as the system does where memory "
                "runs out; needed: a smaller batch or length")
    last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
    return f"it cannot be measured: {' '.join(last.split())[:200]}"


# ---------------------------------------------------------------- in the fresh process


def main() -> None:
    """Reads {config, asked} from stdin and prints what was measured, or {error}, as a line of JSON."""
    said = json.load(sys.stdin)
    try:
        answer = _measured(said["config"], Asked(**said["asked"]))
    except InputError as error:
        answer = {"error": str(error)}
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) and not isinstance(error, torch.OutOfMemoryError):
            raise
        answer = {"error": "it does not fit into memory; needed: a smaller batch or length"}
    print(json.dumps(answer), flush=True)


def _measured(config: dict, asked: Asked) -> dict[str, float | str]:
    from transformers import AutoConfig

    torch.set_num_threads(asked.threads)
    config = AutoConfig.for_model(**config)
    device = devices.pick(asked.device)
    before = warmed(config, asked, device)
    model = _made(config, asked, device)
    path = getattr(getattr(model, "choice", None), "path", "torch")
    reset(device)
    with torch.random.fork_rng(devices=[]):
        _run(model, asked, device)
    return {"mb": peak(device) - before, "libraries_mb": before, "path": path} | (
        {"reserved_mb": torch.cuda.max_memory_reserved(device) / 1e6} if device.type == "cuda" else {})


def warmed(config, asked: Asked, device: torch.device) -> float:
    """Megabytes that this process holds before there is a model, once all that is loaded as it is first used is there.
    """
    spare(asked)
    _run(_tiny(config, asked, device), replace(asked, batch=4, length=8), device)
    spare(asked)
    return in_use(device)


def _tiny(config, asked: Asked, device: torch.device) -> nn.Module:
    """One layer of the model, run as it will be: it warms up what is loaded as it is first used."""
    config = type(config).from_dict(config.to_dict() | {"num_hidden_layers": 1, "n_layers": 1})
    if asked.kind != "compact":
        return _made(config, replace(asked, kind="dense"), device)
    with encoders.quiet():
        model = skeleton.from_config(config).eval()
    return small_model(model, uncut(encoders.describe("warm", model, None).layout(BlockShape(1, 1))), asked.dtype)


def _made(config, asked: Asked, device: torch.device) -> nn.Module:
    """The model to measure on its device, with weights that transformers draws."""
    with encoders.quiet():
        model = skeleton.from_config(config)
    if asked.kind == "dense":
        return model.to(device)
    layout = Layout.from_json(asked.layout)
    bits = {m.name: np.frombuffer(bytes.fromhex(asked.kept[m.name]), np.uint8) for m in layout.matrices}
    grids = {m.name: layout.block.grid(m.m, m.n) for m in layout.matrices}
    mask = BlockMask(layout, {name: np.unpackbits(bits[name])[:grid[0] * grid[1]].reshape(grid).astype(bool)
                              for name, grid in grids.items()})
    if asked.kind == "smaller":
        take_out_(model, mask)
        return model.to(device)
    small = small_model(model.eval(), mask, asked.dtype)
    let_go_(model, layout)
    spare(asked)  # building kernels has set it otherwise
    return small


@torch.no_grad()
def take_out_(model: nn.Module, mask: BlockMask) -> None:
    """Make the matrices smaller by the heads and neurons that are gone, in place: rows and columns of what dies. It can
    be trained on; a cut inside what lives is not made, nor do the constants of dead neurons move on."""
    modules, live = dict(model.named_modules()), living(mask, encoders.heads_of(model, mask.layout.matrices))
    for name, of in live.items():
        linear, rows, cols = modules[name], torch.from_numpy(of.rows), torch.from_numpy(of.cols)
        linear.weight = nn.Parameter(linear.weight[rows][:, cols].contiguous())
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias[rows].contiguous())
        linear.out_features, linear.in_features = linear.weight.shape


def let_go_(model: nn.Module, layout: Layout) -> None:
    """Give back the dense matrices of a model whose compact twin has packed what it keeps of them: from then on only
    the twin's pass answers."""
    modules = dict(model.named_modules())
    for matrix in layout.matrices:
        modules[matrix.name].weight.data = torch.empty(0)


def _run(model: nn.Module, asked: Asked, device: torch.device) -> None:
    """STEPS training steps, or passes, on random sentences."""
    ids = torch.randint(model.config.vocab_size // 2, model.config.vocab_size, (asked.batch, asked.length)).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if asked.kind != "compact":
        model.set_attn_implementation("eager" if asked.attention == "plain" else "sdpa")
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=asked.precision == "bf16")
    if not asked.training:
        model.eval()
        with torch.inference_mode(), bf16:
            for _ in range(STEPS):
                model(**inputs)
        return
    embeddings = getattr(model.base_model, "embeddings", None) or model.base_model.get_input_embeddings()
    embeddings.requires_grad_(asked.train_embeddings)
    _train(model, inputs, asked, bf16)


def _train(model: nn.Module, inputs: Mapping[str, torch.Tensor], asked: Asked, bf16: torch.autocast) -> None:
    """As training/step.py steps: the loss, with a teacher's answers or without, clipped gradients, fused AdamW."""
    model.train(asked.dropout)
    trained = [p for p in model.parameters() if p.requires_grad]
    teacher = skeleton.from_config(model.config).eval().requires_grad_(False) if asked.teacher else None
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    for _ in range(STEPS):
        with bf16:
            logits = model(**inputs).logits
            wanted = torch.zeros_like(logits)
            if teacher is not None:
                with torch.no_grad():
                    wanted = teacher(**inputs).logits
            loss = (logits.float() - wanted.float()).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


# ---------------------------------------------------------------- what the process holds


def spare(asked: Asked) -> None:
    """Have the C library give large blocks back at once, unless what it keeps is to be counted too."""
    if asked.held:
        return
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL(None)
        for name, value in ((_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, LARGE), (_MOST_MAPS, 1 << 20)):
            libc.mallopt(name, value)
        libc.malloc_trim(0)


def in_use(device: torch.device) -> float:
    """Megabytes that are in use."""
    devices.synchronize(device)
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    return _told("VmRSS") if _STATUS.exists() else _most()


def reset(device: torch.device) -> None:
    """Forget the peak so far, where the system lets one: else that of the making counts too."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_PEAK)


def peak(device: torch.device) -> float:
    """Megabytes at most since `_reset`."""
    devices.synchronize(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _told("VmHWM") if _STATUS.exists() else _most()


def _told(what: str) -> float:
    lines: Iterator[str] = (line for line in _STATUS.read_text().splitlines() if line.startswith(what + ":"))
    return int(next(lines).split()[1]) * 1024 / 1e6


def _most() -> float:
    """The most that the process has held so far, where /proc is not there."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    main()
