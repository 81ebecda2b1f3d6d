"""Checkpoint -> model and tokenizer; the prunable weights of any encoder. Only safetensors, never remote code."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.models import flavours, tensors, tokenizers
from prune_core.models.checkpoints import first_line, locate
from prune_core.models.checkpoints import json_of as _json
from prune_core.tasks import labels as labels_of

# The type of a linear layer by the end of its name: the one table that knows architectures apart.
_TYPES = {
    "query": ("attention.self.query", "attention.self.query_proj", "attention.q_lin", "attention.attn.q",
              "attention.query"),
    "key": ("attention.self.key", "attention.self.key_proj", "attention.k_lin", "attention.attn.k", "attention.key"),
    "value": ("attention.self.value", "attention.self.value_proj", "attention.v_lin", "attention.attn.v",
              "attention.value"),
    "attention.output": ("attention.output.dense", "attention.out_lin", "attention.attn.o", "attention.dense"),
    "intermediate": ("intermediate.dense", "ffn.lin1", "ffn"),
    "output": ("output.dense", "ffn.lin2", "ffn_output"),
}
TYPES = tuple(_TYPES)
_LAYER = re.compile(r"^(?:\w+\.)?(?:encoder|transformer)\."
                    r"(?:layer\.(\d+)|albert_layer_groups\.(\d+)\.albert_layers\.(\d+))\.(.+)$")


@dataclass(frozen=True)
class Encoder:
    """A classification model with its tokenizer, and its prunable linear layers by name, in layer order."""

    name: str
    model: nn.Module
    tokenizer: object
    linears: dict[str, nn.Linear]
    matrices: tuple[Matrix, ...]
    notes: tuple[str, ...] = ()  # what was guessed, drawn, permuted or left out when it was loaded
    folder: Path | None = None  # where it was read
    commit: str | None = None  # of a hub's repository

    def layout(self, block: BlockShape) -> Layout:
        """How `block` divides this encoder. Raises InputError where it does not fit."""
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

    def copies(self) -> dict[str, torch.Tensor]:
        """A copy of all that is trainable, as `load_` takes it."""
        return {name: p.detach().clone() for name, p in self.trainable().items()}

    @torch.no_grad()
    def load_(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy these into all that is trainable, by name. Raises KeyError or RuntimeError where they do not fit."""
        for name, parameter in self.trainable().items():
            parameter.copy_(tensors[name])

    @torch.no_grad()
    def norms(self, block: BlockShape) -> dict[str, np.ndarray]:
        """Matrix name -> (groups down, groups across) float32, of the weights as they are."""
        return {name: block.norms(weight).cpu().numpy() for name, weight in self.weights.items()}

    def max_length(self, wanted: int) -> int:
        """`wanted` tokens, or as many as the checkpoint's position table holds."""
        return min(wanted, tokenizers.room(self.model, wanted), self.tokenizer.model_max_length)


# long: the steps of reading a checkpoint, in their order
def load(name: str, outputs: int, seed: int = 0, train_embeddings: bool = False, labels: Sequence[str] = (),
         revision: str | None = None, rest: Mapping[str, torch.Tensor] | None = None) -> Encoder:
    """The checkpoint `name` (minilm, a hub name or a folder) with a head of `outputs`, drawn from `seed` if new.

    `labels`: the task's classes, by which the order of the head's outputs is checked; `rest`: tensors that a folder
    leaves out. Whatever does not fit raises InputError: names, only pickles, remote code, tensors, tokenizer, NaN in a
    weight. `.notes` says what was done.
    """
    where = f"model {name!r}"
    located = locate(name, revision)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            config = config_of(located.folder, outputs, where)
            tokenizer = tokenizers.load(located.folder, where)
            torch.manual_seed(seed)
            model, notes = tensors.load(located.folder, config, where, rest)
            notes = [located.note] * bool(located.note) + notes
    except InputError:
        raise
    except Exception as error:  # transformers raises a dozen kinds for a config that makes no sense
        raise InputError(f"{where} cannot be loaded: {type(error).__name__}: {first_line(error)}") from None
    encoder = describe(name, model, tokenizer)
    notes += [*encoder.notes, *tokenizers.fit(tokenizer, model, where)]
    if labels and not any(note.startswith("new, drawn") for note in notes):
        theirs = labels_of.names_of(_json(located.folder / "config.json", where))
        notes += _order_head_(model, theirs, labels) if theirs else [
            f"config.json names no labels; the head's outputs are taken as {', '.join(labels[:6])}"]
    encoder.embeddings.requires_grad_(train_embeddings)
    return replace(encoder, notes=tuple(notes), folder=located.folder, commit=located.commit)


def config_of(folder: Path, outputs: int, where: str):
    """config.json as transformers reads it, for a head of `outputs`. Raises InputError."""
    from transformers import AutoConfig

    said = _json(folder / "config.json", where)
    if said.get("quantization_config"):
        raise InputError(f"{where}: quantization_config in config.json says that it is quantized; "
                         "needed: the checkpoint before that, in fp32, fp16 or bf16")
    if "model_type" not in said:
        raise InputError(f"{where}: config.json has no model_type, so its architecture is not known; "
                         'add it, for example "model_type": "bert"')
    rows, pad = (said.get(key) for key in ("vocab_size", "pad_token_id"))
    if isinstance(pad, int) and isinstance(rows, int) and not 0 <= pad < rows:
        raise InputError(f"{where}: pad_token_id {pad} in config.json is none of its {rows:,} tokens; needed: the id "
                         "of the tokenizer's padding")
    problem = "regression" if outputs == 1 else "single_label_classification"
    config = AutoConfig.from_pretrained(folder, num_labels=outputs, problem_type=problem, trust_remote_code=False,
                                        local_files_only=True, attn_implementation=None, output_attentions=False)
    config._attn_implementation = None  # how attention is computed is a matter of this machine, not of the checkpoint
    return config


@torch.no_grad()
def _order_head_(model: nn.Module, theirs: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Let the head's outputs stand in the order of the task's labels, in place; returns what to say of it."""
    if len(theirs) != len(ours):
        return []
    found = labels_of.order(theirs, ours)
    inside = set(model.base_model.modules())
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inside
             and module.out_features == len(ours)]
    if not heads:
        return []
    at = torch.tensor(found.at, device=heads[-1].weight.device)
    for parameter in heads[-1].parameters():
        parameter.copy_(parameter[at])
    return [found.words] if found.words else []


def describe(name: str, model: nn.Module, tokenizer) -> Encoder:
    """Find the prunable linear layers of a loaded model, and settle how it answers (flavours.py).

    Raises InputError: there are none, NaN in a weight, a setting whose numbers are not known here.
    """
    notes = flavours.settle_(name, model)
    for parameter_name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"model {name!r}: {parameter_name} has NaN or infinite values")
    matrices, modules = prunable(name, model), dict(model.named_modules())
    linears = {path: modules[path] for path in matrices}
    return Encoder(name, model, tokenizer, linears, tuple(matrices.values()), tuple(notes))


def prunable(name: str, model: nn.Module) -> dict[str, Matrix]:
    """Path -> matrix of every prunable linear layer of the model of this name, in layer order. Raises InputError where
    there are none."""
    found = sorted(((layer, TYPES.index(kind), path, module) for layer, kind, path, module in _walk(model)),
                   key=lambda one: one[:3])
    if not found:
        raise InputError(f"model {name!r} ({type(model).__name__}) has no query, key, value or feed-forward layers "
                         "that are known here")
    return {path: Matrix(path, layer, TYPES[kind], module.out_features, module.in_features)
            for layer, kind, path, module in found}


def _walk(model: nn.Module) -> Iterator[tuple[int, str, str, nn.Linear]]:
    """(layer, type, name, linear) of every prunable matrix; a shared layer (ALBERT) comes once, as modules do."""
    for name, module in model.named_modules():
        place = _LAYER.match(name)
        if isinstance(module, nn.Linear) and place and (kind := _type_of(place[4])):
            inside = getattr(model.config, "inner_group_num", 1)  # of ALBERT: the layers of a group
            layer = int(place[1]) if place[1] else int(place[2]) * inside + int(place[3])
            yield layer, kind, name, module


def _type_of(ending: str) -> str | None:
    return next((kind for kind, endings in _TYPES.items() if ending in endings), None)


def heads_of(model: nn.Module, matrices: Iterable[Matrix]) -> int | None:
    """Heads per layer where attention counts them by the width it is given, as transformers' own does; else None."""
    modules, matrices = dict(model.named_modules()), list(matrices)
    values = [modules[m.name.rpartition(".")[0]] for m in matrices if m.type == "value"]
    if {m.m for m in matrices if m.type == "value"} != {m.n for m in matrices if m.type == "attention.output"}:
        return None  # what comes out of attention is more than heads (ConvBERT)
    return model.config.num_attention_heads if values and all(hasattr(one, "scaling") for one in values) else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
