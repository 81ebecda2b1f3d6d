"""What people, programs and disks do to a checkpoint's folder: (what, how it must end, do the saved tensors tell).

'read': it must be read; 'refused': it must not; 'either': refused, or equal to what plain transformers makes of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
READ, REFUSED, EITHER = "read", "refused", "either"
Ending = tuple[str, str, bool]


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
            meta: bool = True) -> None:
    """Change the tensors of a checkpoint."""
    before = load_file(folder / ONE)
    after = {name: one.clone().contiguous() for name, one in change(dict(before)).items()}
    save_file(after, folder / ONE, {"format": "pt"} if meta else None)


def edit(folder: Path, name: str = "config.json", **changes) -> None:
    """Set keys of a JSON file; ... removes one."""
    about = json.loads((folder / name).read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in about.items() if value is not ...}
    (folder / name).write_text(json.dumps(kept), encoding="utf-8")


def inside(model: nn.Module) -> list[str]:
    """Names of the encoder's tensors that nothing may draw anew."""
    base = f"{model.base_model_prefix}."
    return [name for name, _ in model.named_parameters() if name.startswith(base) and "pooler." not in name]


# ---------------------------------------------------------------- stored otherwise, and all of it there


def stored(folder: Path, model: nn.Module, chance: random.Random) -> Ending:
    """Another way to store the same numbers."""
    base = f"{model.base_model_prefix}."
    what = chance.choice(("wrapper", "wrapper", "inner", "gamma", "parts", "bare", "head more", "backbone", "no meta",
                          "mixed", "ids", "f64", "no pooler"))
    if what == "wrapper":
        prefix = chance.choice(("module.", "model.", "_orig_mod.", "module._orig_mod.", "net.", "student.",
                                "0.auto_model.", "pl_module.model.", "_fsdp_wrapped_module.", "x.y.z.", "encoder_q."))
        rewrite(folder, lambda t: {prefix + name: one for name, one in t.items()})
    elif what == "inner":
        mark = chance.choice(("_checkpoint_wrapped_module.", "_orig_mod.", "_fsdp_wrapped_module."))
        at = chance.choice((".0.", ".layer."))
        rewrite(folder, lambda t: {name.replace(at, f"{at}{mark}", 1): one for name, one in t.items()})
    elif what == "gamma":
        rewrite(folder, lambda t: {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"): one for name, one in t.items()})
    elif what == "parts":
        in_parts(folder, chance)
    elif what == "bare":  # as a base model is saved
        rewrite(folder, lambda t: {name.removeprefix(base): one for name, one in t.items() if name.startswith(base)})
    elif what == "backbone":  # as a person's own class saves it
        rewrite(folder, lambda t: {"backbone." + name.removeprefix(base): one for name, one in t.items()
                                   if name.startswith(base)} | {"mine.weight": torch.ones(2, 3)})
    elif what == "head more":
        more = chance.choice(("cls.predictions.bias", "lm_head.dense.weight", "qa_outputs.weight", "crf.transitions"))
        rewrite(folder, lambda t: t | {more: torch.ones(3, 3)})
    elif what == "no meta":
        rewrite(folder, dict, meta=False)
    elif what == "mixed":
        return _mixed(folder, chance)
    elif what == "ids":
        rewrite(folder, lambda t: t | {f"{base}embeddings.position_ids": torch.arange(16)[None]})
    elif what == "f64":
        rewrite(folder, lambda t: {name: one.double() for name, one in t.items()})
    else:
        rewrite(folder, lambda t: {name: one for name, one in t.items() if "pooler" not in name})
    return f"stored: {what}", READ, True


def _mixed(folder: Path, chance: random.Random) -> Ending:
    """Some tensors in half precision, as some trainers save; exact, as the numbers are first rounded to that."""
    half = chance.choice((torch.float16, torch.bfloat16))
    rewrite(folder, lambda t: {name: one.to(half) if at % 2 else one for at, (name, one) in enumerate(t.items())})
    return f"stored: mixed {half}", READ, False


def in_parts(folder: Path, chance: random.Random, count: int = 3) -> None:
    """The same tensors in `count` files and an index."""
    tensors = load_file(folder / ONE)
    (folder / ONE).unlink()
    names = [f"model-{at + 1:05d}-of-{count:05d}.safetensors" for at in range(count)]
    place = {name: chance.choice(names) for name in tensors} | dict(zip(tensors, names, strict=False))
    for file in names:
        save_file({name: tensors[name].clone() for name in tensors if place[name] == file}, folder / file,
                  {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place}))


# ---------------------------------------------------------------- what does not fit


# long: a list of changes
def torn(folder: Path, model: nn.Module, chance: random.Random) -> Ending:
    """Tensors missing, too many, of another shape, kind or architecture; files damaged."""
    name = chance.choice(inside(model))
    base = model.base_model_prefix
    what = chance.choice(("missing", "missing", "renamed", "narrower", "wider", "turned", "one less", "flat", "empty",
                          "more layers", "more inside", "another", "whole number", "quantized", "NaN", "infinite",
                          "adapter", "two models", "twice", "cut off", "noise", "parts", "pickles", "complex",
                          "several missing", "bias missing"))
    if what == "missing":
        rewrite(folder, lambda t: {key: one for key, one in t.items() if key != name})
    elif what == "several missing":
        gone = set(chance.sample(inside(model), 5))
        rewrite(folder, lambda t: {key: one for key, one in t.items() if key not in gone})
    elif what == "bias missing":
        name = chance.choice([one for one in inside(model) if one.endswith("bias")])
        rewrite(folder, lambda t: {key: one for key, one in t.items() if key != name})
    elif what == "renamed":
        rewrite(folder, lambda t: {key + "_" if key == name else key: one for key, one in t.items()})
    elif what == "narrower":
        rewrite(folder, lambda t: {key: one[..., :-1] if key == name else one for key, one in t.items()})
    elif what == "wider":
        rewrite(folder, lambda t: {key: torch.cat([one, one[:1]]) if key == name else one for key, one in t.items()})
    elif what == "one less":
        rewrite(folder, lambda t: {key: one[:-1] if key == name else one for key, one in t.items()})
    elif what == "turned":
        wide = [key for key, one in model.named_parameters() if one.ndim == 2 and one.shape[0] != one.shape[1]]
        name = chance.choice([key for key in wide if key in inside(model)])
        rewrite(folder, lambda t: {key: one.T if key == name else one for key, one in t.items()})
    elif what == "flat":
        rewrite(folder, lambda t: {key: one[None] if key == name else one for key, one in t.items()})
    elif what == "empty":
        rewrite(folder, lambda t: {key: one[:0] if key == name else one for key, one in t.items()})
    elif what == "more layers":
        rewrite(folder, lambda t: t | {key.replace(".0.", ".7.", 1): one for key, one in t.items() if ".0." in key})
    elif what == "more inside":
        more = chance.choice(("distance_embedding.weight", "rotary.weight", "gate.bias", "adapter.down.weight"))
        place = name.rpartition(".")[0]
        rewrite(folder, lambda t: t | {f"{place}.{more}": torch.ones(3, 4)})
    elif what == "another":
        other = chance.choice([one for one in ("bert", "roberta", "electra", "distilbert", "mpnet", "xlm_roberta",
                                               "deberta", "albert") if one != base])
        rewrite(folder, lambda t: {key.replace(f"{base}.", f"{other}.", 1): one for key, one in t.items()})
    elif what in ("whole number", "quantized", "complex"):
        kind = {"whole number": torch.int64, "quantized": torch.int8, "complex": torch.complex64}[what]
        rewrite(folder, lambda t: {key: one.to(kind) if key == name else one for key, one in t.items()})
    elif what in ("NaN", "infinite"):
        value = float("nan") if what == "NaN" else float("inf")
        rewrite(folder, lambda t: {key: one.index_fill(0, torch.tensor([0]), value) if key == name else one
                                   for key, one in t.items()})
    elif what == "adapter":
        rewrite(folder, lambda t: t | {f"{name.rpartition('.')[0]}.lora_A.weight": torch.ones(2, 4)})
    elif what == "two models":
        rewrite(folder, lambda t: {f"{who}.{key}": one for key, one in t.items() for who in ("teacher", "student")})
    elif what == "twice":
        rewrite(folder, lambda t: t | {f"module.{name}": t[name] + 1})
    else:
        _damaged(folder, what, chance)
    return f"torn: {what} ({name})", REFUSED, True


def _damaged(folder: Path, what: str, chance: random.Random) -> None:
    content = (folder / ONE).read_bytes()
    if what == "cut off":
        (folder / ONE).write_bytes(content[: chance.choice((0, 7, 100, len(content) // 2, len(content) - 1))])
    elif what == "noise":
        (folder / ONE).write_bytes(chance.randbytes(chance.choice((8, 5000))))
    elif what == "pickles":
        (folder / ONE).rename(folder / chance.choice(("pytorch_model.bin", "tf_model.h5", "model.fp16.safetensors")))
    else:
        in_parts(folder, chance)
        parts, index = sorted(folder.glob("model-*")), json.loads((folder / INDEX).read_text())
        how = chance.choice(("gone", "index", "no map", "elsewhere", "cut off", "swapped"))
        if how == "gone":
            chance.choice(parts).unlink()
        elif how == "index":
            del index["weight_map"][chance.choice(list(index["weight_map"]))]
        elif how == "no map":
            index = chance.choice(([], {}, {"weight_map": []}, {"weight_map": {"a": 5}}, {"weight_map": {}}))
        elif how == "elsewhere":
            index["weight_map"][next(iter(index["weight_map"]))] = "../other.safetensors"
        elif how == "cut off":
            parts[0].write_bytes(parts[0].read_bytes()[:-3])
        else:
            index["weight_map"] |= {"more.weight": parts[0].name}
        (folder / INDEX).write_text(json.dumps(index))


# ---------------------------------------------------------------- config.json

STRANGE = (None, ..., ..., 0, -1, 1, 2, 3, 5, 7, 10**3, 10**9, 10**15, 10**400, 0.5, 1e-30, 1e308, True, False, "",
           "two", "16", "gelu", [], [1, 2], {}, {"a": 1})
LATER = {"model_type": ("bert", "roberta", "electra", "distilbert", "albert", "mpnet", "deberta", "deberta-v2",
                        "camembert", "xlm-roberta", "gpt2", "t5", "vit", "nothing", None, 5, "", "BERT", ...),
         "architectures": (None, [], ["BertModel"], ["NoSuch"], "BertModel", 5, ["T5ForConditionalGeneration"], ...),
         "position_embedding_type": ("relative_key", "relative_key_query", "absolute", "rotary", None, 5),
         "is_decoder": (True, "yes", 1, None), "add_cross_attention": (True, False, None),
         "is_encoder_decoder": (True, None), "torchscript": (True, None), "use_cache": (True, False, None),
         "quantization_config": ({}, {"quant_method": "bitsandbytes"}, None, []), 
         "pruned_heads": ({}, {"0": [1]}, None),
         "auto_map": ({"AutoModel": "x.Y"}, {}, None), "dtype": ("float16", "float8", None, 5, "bfloat16", "nothing"),
         "torch_dtype": ("float16", "nothing", 5), "attn_implementation": ("sdpa", "nothing", 5),
         "_attn_implementation": ("eager", "flash_attention_2"), "id2label": ({}, [], None, {"0": "a"}, {"x": "y"},
                                                                             {"0": 1, "1": 2}, {"5": "a", "6": "b"}),
         "label2id": ({}, [], None, {"a": "b"}), "num_labels": (0, -1, 5, "two", None),
         "problem_type": ("regression", "multi_label_classification", "nothing", None, 5),
         "return_dict": (False, None), "output_attentions": (True, "yes"), "output_hidden_states": (True, 3),
         "chunk_size_feed_forward": (1, 5, -1, "two", None), "tie_word_embeddings": (True, False, None),
         "rope_scaling": ({"type": "linear"}, None), "layer_norm_eps": (0, -1.0, "1e-12", None, 1e30),
         "hidden_act": ("gelu", "nothing", None, 5, "relu2", ["gelu"], ""), "pooler_hidden_act": ("nothing", None),
         "transformers_version": ("99.0", None, 5), "vocab_size": (10**9, 10**12)}


def configured(folder: Path, model: nn.Module, chance: random.Random) -> Ending:
    """A key of config.json gone, of another type, or of a value that makes no sense; or the whole file."""
    file = folder / "config.json"
    if chance.random() < 0.06:
        content = file.read_bytes()
        what, bad = chance.choice((
            ("cut off", content[:40]), ("empty", b""), ("a list", b"[]"), ("null", b"null"),
            ("noise", chance.randbytes(90)), ("UTF-16", content.decode().encode("utf-16")),
            ("with a mark", b"\xef\xbb\xbf" + content), ("nested", b"[" * 10**5),
            ("NaN", content.replace(b"0.", b"NaN, \"x\": 0.", 1)), ("only the type", b'{"model_type": "bert"}')))
        file.write_bytes(bad)
        return f"config.json: {what}", EITHER, False
    about = json.loads(file.read_text())
    if chance.random() < 0.4:
        key = chance.choice(list(LATER))
        value = chance.choice(LATER[key])
    else:
        key, value = chance.choice(list(about)), chance.choice(STRANGE)
    number = about.get(key)
    if isinstance(number, int) and not isinstance(number, bool) and chance.random() < 0.4:
        value = number + chance.choice((-2, -1, 1, 2, number, 100))
    edit(folder, **{key: value})
    return f"config.json: {key} {'gone' if value is ... else repr(value)[:40]}", EITHER, False
