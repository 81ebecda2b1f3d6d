"""A checkpoint's tensors against the model that its config describes: what does not fit is refused, never redrawn.

transformers says what was missing, mismatched and unexpected. Only a head may be missing or of another size (it is
drawn anew, and said), only a head may be left over.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from prune_core import InputError
from prune_core.models.checkpoints import refuse_pointer

Notes = list[str]
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Anywhere in a name
_INSIDE = re.compile(r"(^|\.)(?:(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.)+")
_ADAPTER = re.compile(r"\.lora_|lora_A|\.(base_layer|original_module|modules_to_save)\.")  # peft's
_NO_WEIGHTS = re.compile(r"(^|\.)(position_ids|token_type_ids|inv_freq|num_batches_tracked)$")  # computed, or counted
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
MOST_LAYERS, HEADS = 1000, 100_000_000  # deeper is no encoder; numbers that a new head may have
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def load(folder: Path, config, where: str,
         rest: Mapping[str, torch.Tensor] | None = None) -> tuple[nn.Module, Notes]:
    """The classification model of `config` with the tensors of `folder`, fp32, and what is to be said of it.

    Draws a missing head from torch's random state. `rest`: tensors by the model's own names, which stand in for those
    of the folder. Raises InputError, which begins with `where`.
    """
    from transformers import AutoModelForSequenceClassification

    stored = _plain(read(folder, where) | dict(rest or {}), where)
    _refuse_deep(config, where)
    with torch.device("meta"):
        empty = AutoModelForSequenceClassification.from_config(config)
    wanted = empty.state_dict()
    tensors, notes = _unwrapped(stored, wanted, empty.base_model_prefix, where)
    _refuse_larger(tensors, empty, where)
    model, told = type(empty).from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch.float32, ignore_mismatched_sizes=True,
        output_loading_info=True)
    mismatched = {name: (tuple(came), tuple(needed)) for name, came, needed in told["mismatched_keys"]}
    own = _own_names(model)
    _refuse_mismatched({n: s for n, s in mismatched.items() if n in own}, where)
    _refuse_missing(own & set(told["missing_keys"]), told["unexpected_keys"], config, where)
    spare = [name for name in told["unexpected_keys"] if not _NO_WEIGHTS.search(name)]
    _refuse_twice(spare, own, where)
    _refuse_left([name for name in spare if _of_encoder(name, model)], own, where)
    drawn = sorted({*mismatched, *(set(told["missing_keys"]) - own)} & set(dict(model.named_parameters())))
    return model, notes + _said(drawn, mismatched, spare)


# ---------------------------------------------------------------- what the files hold


def files_of(folder: Path, where: str) -> list[Path]:
    """The files that hold a checkpoint's tensors. Raises InputError: none, or an index that they do not fit."""
    if (folder / ONE).is_file():
        return [folder / ONE]
    if not (folder / INDEX).is_file():
        there = sorted(path.name for path in folder.glob("*.safetensors"))
        came = f"there is only {', '.join(there[:3])}" if there else "no safetensors file is there"
        raise InputError(f"{where}: {ONE} is missing, {came}; needed: a whole checkpoint, as save_pretrained writes it")
    try:
        names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        shards = [folder / name for name in sorted(set(names))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{where}: {INDEX} cannot be read; copy the checkpoint again") from None
    if not shards or any(path.parent != folder or path.name in ("", ".", "..") for path in shards):
        raise InputError(f"{where}: {INDEX} names no files of this folder; copy the checkpoint again")
    if others := [path.name for path in shards if path.suffix != ".safetensors"]:
        raise InputError(f"{where}: {INDEX} names {_few(others)}; needed: all tensors as safetensors, as "
                         "save_pretrained writes them")
    if absent := [path.name for path in shards if not path.is_file()]:
        raise InputError(f"{where}: {_few(absent)} of {len(shards)} parts is missing; copy the checkpoint again")
    return shards


def read(folder: Path, where: str) -> dict[str, torch.Tensor]:
    """Name -> tensor, as all files together hold them. Raises InputError: damaged, or not what the index lists."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    paths, tensors = files_of(folder, where), {}
    for path in paths:
        try:
            part = load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            refuse_pointer(path, where)
            said = " ".join(str(error).split())[:120]
            raise InputError(f"{where}: {path.name} cannot be loaded, it is damaged or cut off ({said}); "
                             "copy it again") from None
        if twice := sorted(tensors.keys() & part.keys()):
            raise InputError(f"{where}: {_few(twice)} stands in two files; copy the checkpoint again")
        tensors |= part
    if paths[0].name != ONE:
        listed = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
        if differ := sorted(listed ^ tensors.keys()):
            raise InputError(f"{where}: {_few(differ)} is in {INDEX} or in the files, not in both; "
                             "copy the checkpoint again")
    return tensors


def _plain(tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """The same, where all weights are plain numbers of floating point. Raises InputError."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS and not _NO_WEIGHTS.search(name):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"{where}: {name} holds {kind}, so the checkpoint is quantized or packed; "
                             "needed: weights in fp32, fp16 or bf16")
    if wrapped := [name for name in tensors if _ADAPTER.search(name)]:
        raise InputError(f"{where}: {_few(wrapped)} is an adapter's; merge it into its base model first "
                         "(peft: merge_and_unload), and save that")
    return dict(tensors)


# ---------------------------------------------------------------- wrappers


def _unwrapped(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], base: str,
               where: str) -> tuple[dict[str, torch.Tensor], Notes]:
    """The tensors by the names that the model knows, without what a wrapper put before them; and what to say of it.

    A prefix is taken off where more of the model's names are found without it, but never the name of another
    architecture. Raises InputError where two tensors would be one, or two sets of them fit.
    """
    notes: Notes = []
    names = {name: _INSIDE.sub(r"\1", name) for name in tensors}
    if any(old != new for old, new in names.items()):
        notes.append("a wrapper's marks inside the tensors' names were taken off")
    known = {*wanted, *(name.removeprefix(f"{base}.") for name in wanted)}
    counts = Counter(prefix for name in names.values() for prefix in _prefixes(name)
                     if _today(name.removeprefix(prefix)) in known)
    best = max(counts.values(), default=0)
    if best > counts[""]:
        fit = [prefix for prefix, count in counts.items() if count == best]
        fit = [prefix for prefix in fit if prefix.removesuffix(f"{base}.") == prefix  # the base's name may stay
               or prefix.removesuffix(f"{base}.") not in fit]
        if len(fit) > 1:
            raise InputError(f"{where}: the tensors begin with {' and with '.join(map(repr, sorted(fit)[:3]))}, and "
                             "each would fit; needed: the tensors of one model")
        if not _is_architecture(fit[0], base):
            notes.append(f"{fit[0]!r} was taken off the names of {best} tensors, as a wrapper had put it there")
            names = {old: new.removeprefix(fit[0]) for old, new in names.items()}
    ends = Counter(_today(name).removeprefix(f"{base}.") for name in names.values())
    if twice := [name for name, count in ends.items() if count > 1]:
        raise InputError(f"{where}: {_few(twice)} is in the file twice, under different prefixes; "
                         "needed: the tensors of one model")
    return {new: tensors[old] for old, new in names.items()}, notes


def _prefixes(name: str) -> Iterable[str]:
    """'a.b.c' -> '', 'a.', 'a.b.'"""
    parts = name.split(".")
    return ("".join(f"{part}." for part in parts[:count]) for count in range(len(parts)))


def _today(name: str) -> str:
    """The name as transformers reads it: norms of the first BERTs have gamma and beta."""
    return re.sub(r"LayerNorm\.(gamma|beta)$",
                  lambda found: "LayerNorm." + {"gamma": "weight", "beta": "bias"}[found[1]], name)


def _is_architecture(prefix: str, base: str) -> bool:
    """Whether a prefix ends in the name of another architecture: its tensors may have the same names, yet differ."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    last = prefix.rstrip(".").rpartition(".")[2]
    return last != base and last.replace("_", "-") in {name.replace("_", "-") for name in CONFIG_MAPPING_NAMES}


# ---------------------------------------------------------------- what fits


def _own_names(model: nn.Module) -> set[str]:
    """All parameters but the heads' (and the pooler's, which feeds one); and buffers that hold weights."""
    base = model.base_model_prefix
    names = {*dict(model.named_parameters()), *model.state_dict()}
    heads = re.compile(rf"{re.escape(base)}\.([\w.]*\.)?pooler\.")
    return {name for name in names if name.startswith(f"{base}.") and not heads.match(name)
            and not _NO_WEIGHTS.search(name)}


def _of_encoder(name: str, model: nn.Module) -> bool:
    """Whether a tensor that nothing uses belongs to the encoder, here or in another architecture: not to a head."""
    base = model.base_model_prefix
    inner = name.removeprefix(f"{base}.")
    if "pooler." in inner:
        return False
    parts = {part for part, _ in model.base_model.named_children()} | {"embeddings", "encoder", "layer", "transformer"}
    return inner != name or inner.split(".")[0] in parts or bool(re.search(r"\.(layers?|h|block)\.\d+\.", inner))


def _refuse_deep(config, where: str) -> None:
    """Raises InputError before so many layers are built that nothing else would happen."""
    for word in ("num_hidden_layers", "num_hidden_groups", "inner_group_num"):
        count = getattr(config, word, 0)
        if isinstance(count, int) and count > MOST_LAYERS:
            raise InputError(f"{where}: config.json says {word} {count}; at most {MOST_LAYERS:,} are read")


def _refuse_larger(tensors: Mapping[str, torch.Tensor], empty: nn.Module, where: str) -> None:
    """Raises InputError where sizes differ, or make no sense, before memory is taken for them; `empty` has none."""
    own, base, wanted = _own_names(empty), f"{empty.base_model_prefix}.", empty.state_dict()
    named = {full: one for name, one in tensors.items() for full in (_today(name), base + _today(name)) if full in own}
    _refuse_mismatched({name: (tuple(one.shape), tuple(wanted[name].shape)) for name, one in named.items()
                        if one.shape != wanted[name].shape}, where)
    held, asked = (sum(one.numel() for one in some.values()) for some in (tensors, wanted))
    if asked > 4 * held + HEADS:
        raise InputError(f"{where}: the file holds {held:,} numbers, config.json describes {asked:,}; one of its sizes "
                         "makes no sense, or much of the file is missing")


def _refuse_twice(spare: Iterable[str], own: Iterable[str], where: str) -> None:
    """Raises InputError where what is left over is the encoder once more, under a prefix: which one is meant?"""
    known = set(own)
    twice = [name for name in spare if any(name.removeprefix(prefix) in known for prefix in _prefixes(name))]
    if twice:
        prefix = f"{twice[0].split('.')[0]}."
        raise InputError(f"{where}: the file has {_few(twice)} beside the same without {prefix!r}; "
                         "needed: the tensors of one model")


def _refuse_mismatched(shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]], where: str) -> None:
    if not shapes:
        return
    name = sorted(shapes)[0]
    came, needed = (" x ".join(map(str, shape)) for shape in shapes[name])
    more = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
    raise InputError(f"{where}: {name} is {came} in the file, {needed} by config.json{more}; "
                     f"{_advice(name)}, or save the model again with save_pretrained")


def _advice(name: str) -> str:
    """What to change in config.json where this tensor has another shape."""
    if "word_embeddings" in name or "embed_tokens" in name:
        return "set vocab_size in config.json to the rows in the file"
    if "position_embeddings" in name:
        return "set max_position_embeddings in config.json to the rows in the file"
    if "token_type_embeddings" in name:
        return "set type_vocab_size in config.json to the rows in the file"
    return "a checkpoint that was pruned to other sizes is not read; give the one it was made from"


def _refuse_missing(missing: Iterable[str], unexpected: Iterable[str], config, where: str) -> None:
    missing = sorted(missing)
    if not missing:
        return
    there = sorted(unexpected)
    came = f", while nothing uses {_few(there)}" if there else ""
    layers = _layers(missing)
    if not there and layers and min(layers) > 0:
        came = f": the file has {min(layers)} layers, config.json says {max(layers) + 1}; set num_hidden_layers there"
    advice = f"the tensors of the {config.model_type} that config.json describes"
    if any(name.endswith(".weight_orig") or ".parametrizations." in name for name in there):
        advice = ("plain weights; take torch's masks and parametrizations off (torch.nn.utils.prune.remove, "
                  "parametrize.remove_parametrizations), and save again")
    raise InputError(f"{where}: the file lacks {_few(missing)}{came}; needed: {advice}")


def _refuse_left(left: Sequence[str], own: Iterable[str], where: str) -> None:
    if not left:
        return
    here, there = _layers(own), _layers(left)
    why = "this version of transformers no longer knows what they are for, or config.json is another model's"
    if here and there and min(there) == max(here) + 1 and all(_LAYER.search(name) for name in left):
        why = f"the file has {max(there) + 1} layers, config.json says {len(here)}; set num_hidden_layers there"
    raise InputError(f"{where}: nothing uses {_few(left)} of the file, so the model would not be the one that was "
                     f"saved: {why}")


def _layers(names: Iterable[str]) -> set[int]:
    """Numbers of the layers that these tensors are of."""
    return {int(at) for name in names for at in _LAYER.findall(name)}


def _said(drawn: Sequence[str], mismatched: Mapping[str, tuple], spare: Sequence[str]) -> Notes:
    """What was drawn, and what was left over."""
    notes = []
    if drawn:
        sizes = [f"for {needed[0]} outputs; the file's is for {came[0]}"
                 for _, (came, needed) in sorted(mismatched.items()) if came and needed]
        why = f" ({sizes[0]})" if sizes else ""
        notes.append(f"new, drawn from the seed: {', '.join(drawn)}{why}")
    if heads := sorted({name.split(".")[0] if "pooler." not in name else "pooler" for name in spare}):
        notes.append(f"of the file nothing uses the head {', '.join(heads)}")
    return notes


def _few(names: Iterable[str]) -> str:
    """'a, b and 3 more'"""
    names = sorted(names)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
