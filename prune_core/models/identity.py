"""Which checkpoint a run was made of: digests of what it read and does not keep itself, so that no two are mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

# Keys of config.json that say who wrote it, not what the model computes
_ASIDE = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "id2label", "label2id",
          "problem_type", "finetuning_task")
_TOKENIZER = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "dict", "entity_vocab")
_WORDS = {"config": "config.json", "tokenizer": "tokenizer", "frozen": "frozen tensors", "weights": "tensors"}


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that make a tokenizer, by name; not what else a trainer writes beside them (eval_results.txt)."""
    return sorted(path for path in folder.iterdir() if path.is_file() and (
        path.suffix in (".model", ".codes")
        or path.suffix in (".txt", ".json") and path.name.startswith(_TOKENIZER)))


def digests(folder: Path, model: nn.Module, parts: Sequence[str] = tuple(_WORDS)) -> dict[str, str]:
    """Of config, tokenizer, what training leaves as it is (`frozen`), and all tensors as they are now (`weights`).

    `parts`: which of them; `weights` reads every tensor once.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _ASIDE}
    files = ((path.name, path.read_bytes()) for path in tokenizer_files(folder))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    tensors = sorted(model.state_dict().items())
    ways = {"config": lambda: _sha([("", json.dumps(kept, sort_keys=True).encode())]),
            "tokenizer": lambda: _sha(files),
            "frozen": lambda: _sha((name, _bytes(one)) for name, one in tensors if name not in trained),
            "weights": lambda: _sha((name, _bytes(one)) for name, one in tensors)}
    return {part: ways[part]() for part in parts}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In words, which of the parts are no longer what they were; parts that were not recorded do not count."""
    return [_WORDS[part] for part, digest in now.items() if before.get(part, digest) != digest]


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().numpy()).cast("B")


def _sha(parts: Iterable[tuple[str, bytes | memoryview]]) -> str:
    sha = hashlib.sha256()
    for name, content in parts:
        sha.update(f"{name} {len(content)} ".encode())
        sha.update(content)
    return sha.hexdigest()[:24]
