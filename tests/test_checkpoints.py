"""Checkpoints as people have them: each is read as it was saved, or refused in one line that says what does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.execution.probe import TESTED, probe
from prune_core.models import encoders, tensors

READ = {  # of ../shared/inputs: name -> what is said of it
    "bert": "",
    "prefix": "'module.' was taken off", "prefix2": "'model.' was taken off", "gamma": "", "vocab_only": "",
    "roberta_types": "room for 1 kinds", "distil_types": "", "bert_types": "", "pad_last": "", "pad_3": "",
    "pad_3_roberta": "", "fp16": "", "bf16": "", "sharded": "", "no_arch": "", "no_meta": "", "bertweet": "",
    "st_new": "new, drawn from the seed: classifier", "st_old": "new, drawn from the seed: classifier",
    "regression_head": "the file's is for 1", "multi": "the file's is for 5", "deberta_spm": "",
    "decoder": "no token sees a later one",
    "chunk": "", "moving": "", "mobilebert": "", "esm": "", **{f"act_{name}": "" for name in (
        "gelu_new", "relu", "tanh", "silu", "gelu_python", "quick_gelu", "gelu_10")}}
REFUSED = {
    "prefix3": ("lacks bert.embeddings", "nothing uses roberta.embeddings"),
    "cofi_ffn": ("40 in the file, 128 by config.json", "intermediate.dense"),
    "cofi_hidden": ("60 in the file, 64 by config.json",),
    "vocab_more": ("39 x 64 in the file, 36 x 64", "set vocab_size"),
    "vocab_pad": ("36 x 64 in the file, 41 x 64", "set vocab_size"),
    "positions": ("64 x 64 in the file, 128 x 64", "set max_position_embeddings"),
    "layers_fewer": ("2 layers, config.json says 4", "num_hidden_layers"),
    "layers_more": ("4 layers, config.json says 2", "num_hidden_layers"),
    "relkey": ("nothing uses", "distance_embedding"),
    "added": ("38 tokens", "36 rows", "'<url>'"),
    "no_tokenizer": ("no tokenizer files", "tokenizer.json"),
    **{f"notok_{kind}": ("no tokenizer files",) for kind in (
        "bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "albert", "xlm-roberta")},
    "adapter": ("adapter", "merge"),
    "no_type": ("model_type",),
}


def loaded(folder: Path, labels: tuple[str, ...] = ()):
    return encoders.load(str(folder), len(labels) or 2, labels=labels)


def refused(folder: Path, labels: tuple[str, ...] = ()) -> str:
    """The one line."""
    with pytest.raises(InputError) as error:
        loaded(folder, labels)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


@pytest.mark.parametrize("name", READ)
def test_what_fits_is_read_as_plain_transformers_reads_it(inputs, name):
    from transformers import AutoModelForSequenceClassification

    encoder = loaded(inputs / name)
    said = " ".join(encoder.notes)
    assert READ[name] in said and ("drawn" in said) == ("drawn" in READ[name] or "the file's is" in READ[name])
    twin = {"prefix": "bert", "prefix2": "bert", "st_old": "st_old/0_Transformer"}.get(name, name)
    with encoders.quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = AutoModelForSequenceClassification.from_pretrained(
            inputs / twin, num_labels=2, ignore_mismatched_sizes=True, dtype=torch.float32).eval()
    ids = torch.tensor([[5, 9, 17, 30, 7, 6, 21, 8]])
    with torch.no_grad():
        assert torch.allclose(encoder.model.eval()(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-6)
    if encoder.model.config.model_type in TESTED:  # the others: test_probe.py
        probe(encoder, BlockShape.parse("16x1"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_what_came_and_what_was_needed(inputs, name):
    message = refused(inputs / name)
    assert all(words in message for words in REFUSED[name]), message


# ---------------------------------------------------------------- the same kinds in other clothes


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "copy")


def rewrite(folder: Path, change: Callable[[dict], dict]) -> dict:
    """Change the tensors of a checkpoint; returns those it had."""
    before = load_file(folder / tensors.ONE)
    save_file({name: one.contiguous() for name, one in change(dict(before)).items()}, folder / tensors.ONE)
    return before


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in (config | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "pl_module.net.", "0.auto_model.", "encoder_q."])
def test_any_wrappers_prefix_is_taken_off_where_the_rest_is_the_models(folder, prefix):
    more = {"loss.temperature": torch.ones(1)}
    before = rewrite(folder, lambda t: {prefix + name: one for name, one in t.items()} | more)
    encoder = loaded(folder)
    assert "taken off" in encoder.notes[0] and "loss" in " ".join(encoder.notes)
    assert all(torch.equal(one, before[name]) for name, one in encoder.model.state_dict().items())


def test_a_prefix_before_the_encoders_own_names(folder):
    """As a person's own class saves it: self.backbone = AutoModel..., with a head of its own."""
    before = rewrite(folder, lambda t: {"backbone." + name.removeprefix("bert."): one for name, one in t.items()
                                        if name.startswith("bert.")} | {"head.weight": torch.ones(2, tiny.HIDDEN)})
    encoder = loaded(folder)
    assert "'backbone.'" in encoder.notes[0] and "drawn from the seed: classifier" in " ".join(encoder.notes)
    assert all(torch.equal(one, before[name]) for name, one in encoder.model.state_dict().items() if "bert." in name)


def test_marks_of_a_wrapper_inside_the_names(folder):
    before = rewrite(folder, lambda t: {name.replace(".layer.0.", ".layer.0._checkpoint_wrapped_module."): one
                                        for name, one in t.items()})
    assert all(torch.equal(one, before[name]) for name, one in loaded(folder).model.state_dict().items())


def test_marks_of_several_wrappers_one_after_another(folder):
    marks = ".layer.0._fsdp_wrapped_module._checkpoint_wrapped_module."
    before = rewrite(folder, lambda t: {"_fsdp_wrapped_module._orig_mod." + name.replace(".layer.0.", marks): one
                                        for name, one in t.items()})
    assert all(torch.equal(one, before[name]) for name, one in loaded(folder).model.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "model.", "base_model.model."])
def test_a_wrappers_prefix_where_nothing_but_the_encoder_tells(folder, prefix):
    """As a wrapped masked language model is saved: 'model.' and 'model.bert.' fit as many tensors."""
    before = rewrite(folder, lambda t: {prefix + name: one for name, one in t.items() if ".encoder." in name
                                        or ".embeddings." in name} | {f"{prefix}cls.predictions.bias": torch.ones(3)})
    encoder = loaded(folder)
    assert f"{prefix!r} was taken off" in encoder.notes[0]
    now = encoder.model.state_dict()
    assert all(torch.equal(now[name], one) for name, one in before.items() if "encoder" in name or "embedding" in name)


def test_two_models_in_one_file_are_one_too_many(folder):
    both = ("teacher", "student")
    rewrite(folder, lambda t: {f"{who}.{name}": one.clone() for name, one in t.items() for who in both})
    assert all(who in refused(folder) for who in ("'student.'", "'teacher.'"))


def test_a_tensor_twice_under_two_names(folder):
    rewrite(folder, lambda t: t | {name.removeprefix("bert."): one + 1 for name, one in t.items() if "query" in name})
    assert "twice" in refused(folder)


@pytest.mark.parametrize("other", ["electra", "deberta", "xlm_roberta"])
def test_the_name_of_another_architecture_is_no_wrapper(folder, other):
    rewrite(folder, lambda t: {name.replace("bert.", f"{other}.", 1): one for name, one in t.items()})
    assert f"{other}.embeddings" in refused(folder)


def test_one_tensor_of_the_encoder_missing(folder):
    rewrite(folder, lambda t: {name: one for name, one in t.items() if "layer.1.output.dense.weight" not in name})
    assert "lacks bert.encoder.layer.1.output.dense.weight" in refused(folder)


def test_the_pooler_and_the_head_may_be_missing_and_that_is_said(folder):
    gone = {"pooler", "classifier"}
    rewrite(folder, lambda t: {name: one for name, one in t.items() if not gone & {*name.split(".")}})
    (note,) = loaded(folder).notes
    assert note == "new, drawn from the seed: bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, " \
                   "classifier.weight"


def test_a_head_of_another_task_is_left_over_and_that_is_said(folder):
    rewrite(folder, lambda t: t | {"cls.predictions.bias": torch.ones(3), "lm_head.dense.weight": torch.ones(3, 3)})
    assert "nothing uses the head cls, lm_head" in " ".join(loaded(folder).notes)


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn, torch.uint8])
def test_quantized_tensors_are_no_weights(folder, kind):
    rewrite(folder, lambda t: {name: one.to(kind) if "query.weight" in name else one for name, one in t.items()})
    assert "quantized" in refused(folder) and "query.weight" in refused(folder)


def test_a_quantization_in_the_config(folder):
    edit(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantization_config" in refused(folder)


def test_an_adapter_inside_the_file(folder):
    query = "bert.encoder.layer.0.attention.self.query"
    rewrite(folder, lambda t: t | {f"{query}.lora_A.weight": torch.ones(2, tiny.HIDDEN)})
    assert "adapter" in refused(folder) and "merge" in refused(folder)


@pytest.mark.parametrize("part,mark", [("query.", "base_layer."), ("classifier.", "modules_to_save.default."),
                                       ("classifier.", "original_module.")])
def test_what_an_adapter_leaves_of_the_names(folder, part, mark):
    """Where only the base's tensors were kept, what was trained may be lost; a head inside would be drawn anew."""
    rewrite(folder, lambda t: {name.replace(part, part + mark): one for name, one in t.items()})
    assert mark in refused(folder) and "merge_and_unload" in refused(folder)


@pytest.mark.parametrize("names", [("weight_orig", "weight_mask"), ("parametrizations.weight.original",)])
def test_masks_that_torch_keeps_beside_the_weights_are_to_be_taken_off(folder, names):
    rewrite(folder, lambda t: {new: one.clone() for name, one in t.items() for new in (
        [name.removesuffix("weight") + end for end in names] if name.endswith("query.weight") else [name])})
    assert "prune.remove" in refused(folder) and names[0] in refused(folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:53aa5117\nsize 437951328\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "vocab.txt"])
def test_a_pointer_of_git_lfs_is_no_file(folder, name):
    (folder / name).write_text(POINTER)
    assert f"{name} cannot be read, it is only a pointer" in refused(folder) and "git lfs pull" in refused(folder)


@pytest.mark.parametrize("spoil", [lambda text: "\ufeff" + text, lambda text: "// mine\n" + text,
                                   lambda text: text.rstrip()[:-1] + ",}"])
def test_a_config_that_is_nearly_json_says_what_is_needed(folder, spoil):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(spoil(text), encoding="utf-8")
    assert "needed: JSON in UTF-8 without" in refused(folder)


def test_a_runs_folder_is_called_a_run(folder):
    (folder / "config.json").rename(folder / "run.json")
    assert "it is a run: start from it with --from, or export it" in refused(folder)


def test_the_folder_of_a_hubs_cache_names_the_one_inside(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "models--a--b" / "snapshots" / "0123")
    assert "there is one in snapshots/0123" in refused(tmp_path / "models--a--b")


@pytest.mark.parametrize("key,value,words", [
    ("hidden_size", 64, "32 in the file, 64 by config.json"), ("intermediate_size", 48, "config.json"),
    ("type_vocab_size", 3, "type_vocab_size"), ("vocab_size", 1000, "vocab_size"), ("num_attention_heads", 3, "heads"),
    ("num_hidden_layers", 7, "2 layers, config.json says 7"), ("pad_token_id", 900, "pad_token_id 900"),
    ("id2label", [1, 2], ""), ("hidden_act", "nothing", ""), ("num_hidden_layers", "two", ""), ("hidden_size", -4, ""),
])
def test_a_config_of_another_size(folder, key, value, words):
    edit(folder, **{key: value})
    try:
        message = refused(folder)
    except pytest.fail.Exception:
        assert key == "id2label"  # harmless: the task's labels are taken
    else:
        assert words in message


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size",
                                 "max_position_embeddings"])
def test_sizes_that_make_no_sense_take_neither_memory_nor_time(folder, key):
    edit(folder, **{key: 10**12})
    assert str(10**12) in refused(folder)


def test_a_new_part_of_a_size_that_makes_no_sense(tmp_path):
    tiny.checkpoint(tmp_path / "m", "deberta-v2")
    edit(tmp_path / "m", conv_kernel_size=10**6)
    assert "one of its sizes makes no sense" in refused(tmp_path / "m")


def test_the_encoder_a_second_time_under_a_prefix(folder):
    rewrite(folder, lambda t: t | {f"ema.{name}": one + 1 for name, one in t.items() if "query" in name})
    assert "beside the same without 'ema.'" in refused(folder)


def test_a_config_without_end(folder):
    (folder / "config.json").write_text("[" * 100_000)
    assert "config.json cannot be read" in refused(folder)


def test_no_quantization_that_is_written_down(folder):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"quantization_config": None}))
    assert loaded(folder).notes == ()


# ---------------------------------------------------------------- parts


@pytest.fixture
def parts(tmp_path) -> Path:
    """A checkpoint in three parts."""
    with encoders.quiet():
        tiny.model().save_pretrained(tmp_path / "parts", max_shard_size="20KB")
        tiny.tokenizer().save_pretrained(tmp_path / "parts")
    return tmp_path / "parts"


def test_parts_are_read_as_one(parts, tiny_model):
    whole = loaded(tiny_model).model.state_dict()
    assert all(torch.equal(one, whole[name]) for name, one in loaded(parts).model.state_dict().items())


def test_a_part_that_is_missing_is_named(parts):
    gone = sorted(parts.glob("model-*.safetensors"))[1]
    gone.unlink()
    assert gone.name in refused(parts)


def test_an_index_that_does_not_fit_its_parts(parts):
    index = json.loads((parts / tensors.INDEX).read_text())
    dropped = sorted(index["weight_map"])[3]
    del index["weight_map"][dropped]
    (parts / tensors.INDEX).write_text(json.dumps(index))
    assert dropped in refused(parts)
    (parts / tensors.INDEX).write_text("[]")
    assert "index.json cannot be read" in refused(parts)
    index["weight_map"][sorted(index["weight_map"])[0]] = "../elsewhere.safetensors"
    (parts / tensors.INDEX).write_text(json.dumps(index))
    assert "names no files of this folder" in refused(parts)


def test_an_index_that_names_pickles(parts):
    index = json.loads((parts / tensors.INDEX).read_text())
    index["weight_map"] |= dict.fromkeys(sorted(index["weight_map"])[:3], "pytorch_model-00002-of-00002.bin")
    (parts / tensors.INDEX).write_text(json.dumps(index))
    (parts / "pytorch_model-00002-of-00002.bin").write_bytes(b"PK")
    assert "pytorch_model-00002-of-00002.bin; needed: all tensors as safetensors" in refused(parts)


def test_only_parts_of_another_name(folder):
    (folder / tensors.ONE).rename(folder / "model.fp16.safetensors")
    assert "model.fp16.safetensors" in refused(folder)


def test_a_trainers_folder_with_checkpoints_inside(folder, tmp_path):
    (tmp_path / "out").mkdir()
    folder.rename(tmp_path / "out" / "checkpoint-500")
    assert "checkpoint-500" in refused(tmp_path / "out")


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.onnx", "model-q4.gguf"])
def test_weights_of_another_framework_are_named(folder, name):
    (folder / tensors.ONE).rename(folder / name)
    assert name in refused(folder)
