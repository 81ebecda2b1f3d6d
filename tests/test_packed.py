"""Packed files: as large as counted to the byte, read back to equal bits, by us and by who has nothing of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import prune_core
from safetensors import safe_open

from prune_core import InputError, export
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.evaluation import weights
from prune_core.evaluation.bench import Bench
from prune_core.methods.compress import compress_
from prune_core.models import encoders, packed, stored
from prune_core.precision.formats import parse
from prune_core.precision.storage import storage
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of

FORMATS = ("", "16", "8", "3", "2:4", "4/2:4;e8", "ternary", "binary", "clusters-4;e8")
LOADED = """
import json, sys
sys.modules["prune_core"] = None  # an import of it fails, though it is installed
sys.path.insert(0, sys.argv[1])
import load, torch
with torch.inference_mode():
    print(json.dumps([load.model(**{k: torch.tensor(v) for k, v in one.items()}).logits.tolist()
                      for one in json.loads(sys.argv[2])]))
"""


def packed_model(folder: Path, architecture: str, text: str, share: float = 0.5):
    """(encoder, mask, what it is compressed to, the file)"""
    encoder = encoders.load(str(tiny.checkpoint(folder / "model", architecture)), 2)
    layout = encoder.layout(BlockShape.parse("16x1"))
    formats = parse(text, layout)
    mask = mask_at_sparsity(encoder.norms(layout.block), layout, share)
    table = encoder.model.get_input_embeddings()
    words = next((name, one) for name, one in encoder.model.named_modules() if one is table)
    made = compress_(encoder.linears, mask, formats, words=words)
    content = packed.write(dict(encoder.model.named_parameters()), mask, formats, made.matrices,
                           made.embeddings and (f"{words[0]}.weight", made.embeddings))
    (folder / "packed.safetensors").write_bytes(content)
    return encoder, mask, made, content


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("text", ["8", "matrix", "4/2:4;e8"])
def test_the_file_is_as_large_as_counted_whatever_the_architecture(tmp_path, architecture, text):
    if text == "matrix":  # a format for each: the longest header
        encoder = encoders.load(str(tiny.checkpoint(tmp_path / "other", architecture)), 2)
        text = "matrix:" + ",".join(["clusters-4/2:4"] + ["8/2:4"] * (len(encoder.matrices) - 1))
    encoder, mask, made, content = packed_model(tmp_path, architecture, text)
    table = tuple(encoder.model.get_input_embeddings().weight.shape)
    assert len(content) == storage(mask, made.formats, table).bytes
    tensors = stored.read(tmp_path / "packed.safetensors", mask.layout)
    for name, parameter in encoder.model.named_parameters():
        assert torch.equal(tensors[name], parameter), name


@pytest.mark.parametrize("text", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_codes_scales_and_values_come_back_to_the_last_bit(tmp_path, text, share):
    encoder, mask, made, content = packed_model(tmp_path, "bert", text, share)
    with safe_open(tmp_path / "packed.safetensors", framework="pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert (about["form"], about["block"], about["formats"]) == ("packed", "16x1", text)
    matrices, others = packed.read(tensors, about, mask.layout)
    for name, one in made.matrices.items():
        back, alive = matrices[name], one.kept.any(1)
        assert np.array_equal(back.values, one.values) and np.array_equal(back.kept, one.kept), name
        for ours, theirs in ((one.codes, back.codes), (one.codebook, back.codebook)):
            assert (ours is None) == (theirs is None) and (ours is None or np.array_equal(ours, theirs))
        assert one.scales is None or np.array_equal(one.scales[alive], back.scales[alive])
    in_bits = {name for name in tensors if name.endswith(".packed")}
    assert in_bits == {f"{m.name}.weight.packed" for m in encoder.matrices}
    real = {name for name, _ in encoder.model.named_parameters()} - {f"{m.name}.weight" for m in encoder.matrices}
    assert {name for name in others if not name.endswith(".scale")} == real


def test_a_damaged_or_foreign_file_is_one_clear_line(tmp_path):
    encoder, mask, _, content = packed_model(tmp_path, "bert", "4/2:4")
    layout = mask.layout
    with safe_open(tmp_path / "packed.safetensors", framework="pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = f"{layout.matrices[0].name}.weight.packed"
    for changed, words in (({name: tensors[name][:-1]}, "ends .* bytes early"),
                           ({name: torch.cat([tensors[name], tensors[name][:3]])}, "3 bytes are left over"),
                           ({name: tensors[name].float()}, "needed: bytes"), ({name: tensors[name][:0]}, "early")):
        with pytest.raises(ValueError, match=words):
            packed.read(tensors | changed, about, layout)
    for changed, words in (({"block": "8x1"}, "its blocks are 8x1"), ({"matrices": "{"}, ""), ({"matrices": "{}"}, "")):
        with pytest.raises((ValueError, KeyError), match=words):
            packed.read(tensors, about | changed, layout)


def test_weights_off_their_levels_are_refused(tmp_path):
    encoder, mask, made, _ = packed_model(tmp_path, "bert", "8")
    tensors = {name: one.detach().clone() for name, one in encoder.model.named_parameters()}
    tensors |= {f"{name}.weight.scale": torch.from_numpy(one.scales) for name, one in made.matrices.items()}
    tensors[f"{encoder.matrices[0].name}.weight"][0] += 1e-4
    with pytest.raises(InputError, match="are not what 8 bits can store"):
        packed.stage(tensors, mask.layout, made.formats)


# ---------------------------------------------------------------- runs that ship


@pytest.mark.parametrize("more", [{"bits": "4", "pattern": "2:4"}, {"bits": "8", "activation_bits": 8},
                                  {"pattern": "2:4"}])
def test_a_stage_that_was_trained_in_few_bits_ships_packed(tiny_model, tiny_data, tmp_path, more):
    run = tiny.make_run(tiny.settings(tiny_model, tiny_data, compressions=(2.0,), **more), tmp_path / "runs")
    before = weights.tensors_of(run, "retrain-2x")
    file, whole = tmp_path / "small.safetensors", run.weights_file("retrain-2x").stat().st_size
    weights.write_weights(run, "retrain-2x", file)
    after = stored.read(file, run.layout)
    assert file.stat().st_size < 0.8 * whole and after.keys() == before.keys()
    for name, one in before.items():
        theirs = after[name]
        if name.endswith(".weight.scale"):  # a row of which nothing is kept has none
            alive = before[name.removesuffix(".scale")].float().abs().sum(1) > 0
            one, theirs = one[alive], theirs[alive]
        assert torch.equal(one.float(), theirs.float()), name
    shutil.copyfile(file, run.weights_file("retrain-2x"))
    again = Bench(Run(run.path), "retrain-2x")
    mask = cut_of(run, 0.0, scope="global").mask(run.ranking("retrain-2x"), run.layout)
    formats = parse(run.trained_formats("retrain-2x"), run.layout)
    assert np.isfinite(again.outputs(mask, formats=formats)).all()
    run.weights_file("retrain-2x").write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RunError) as raised:
        weights.tensors_of(Run(run.path), "retrain-2x")
    assert len(str(raised.value).splitlines()) == 1


# ---------------------------------------------------------------- export --to packed


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


def compared(run: Run, text: str, folder: Path, repaired: bool = False):
    """(ours, theirs: logits (examples, classes) of the first dev sentences, what export told)"""
    cut = replace(cut_of(run, 0.5, scope="matrix", repaired=repaired), formats=text)
    ours = Bench(run, "dense").outputs(cut.mask(run.ranking("dense"), run.layout), repaired, formats=parse(text))
    taken = export.take(run, "dense", cut)
    told = export.packed(taken, folder)
    sentences = taken.dev[1]["validation"]
    inputs = [{name: one.tolist() for name, one in sentences.batch([at])[0].items()} for at in range(6)]
    done = subprocess.run([sys.executable, "-I", "-c", LOADED, str(folder), json.dumps(inputs)], cwd=folder,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return ours[:6], np.array(json.loads(done.stdout.splitlines()[-1]))[:, 0], told


@pytest.mark.parametrize(("text", "repaired"), [("", False), ("8", True), ("4/2:4;e8", False), ("ternary", False),
                                                ("clusters-3", False), ("8;a8", False), ("8;a8-tensor", False)])
def test_who_has_nothing_of_ours_gets_the_same_logits(made, tmp_path, text, repaired):
    ours, theirs, told = compared(made, text, tmp_path / "out", repaired)
    assert np.abs(ours - theirs).max() < 2e-6 and np.abs(ours).max() > 0.05
    size = (tmp_path / "out" / "packed.safetensors").stat().st_size
    assert told["bytes"] == told["weights_bytes"] == size and told["formats"] == text and told["to"] == "packed"
    with pytest.raises(OSError, match="model.safetensors"):  # never read as if it were whole, with drawn weights
        from transformers import AutoModelForSequenceClassification

        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_the_script_answers_and_the_card_says_how_large_it_is(made, tmp_path):
    command = ["export", "made", tmp_path / "out", "--to=packed", "--sparsity=0.5", "--phase=dense", "--bits=4",
               "--pattern=2:4", "--embedding-bits=8", f"--runs-dir={made.path.parent}"]
    done = prune_core(*command, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["bytes"] == (tmp_path / "out" / "packed.safetensors").stat().st_size
    assert told["formats"] == "4/2:4;e8" and told["sparsity"] == pytest.approx(0.5, abs=0.3)
    assert told["bytes_without_index"] < told["bytes"] < told["bytes_dense"]
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in ("4 bits, 2:4, embeddings 8 bits", f"{told['bytes']:,} bytes ({told['bytes_without_index']:,}",
                 f"{told['encoder_bytes']:,} ({told['encoder_bytes_without_index']:,})", "python load.py"):
        assert fact in card
    answer = subprocess.run([sys.executable, "load.py", "a warm film"], cwd=tmp_path / "out", capture_output=True,
                            text=True, check=False)
    assert list(json.loads(answer.stdout.strip().splitlines()[-1])) == made.labels, answer.stderr[-1000:]
    assert (tmp_path / "out" / "unpack.py").read_text() == (
        Path(packed.__file__).parent.parent / "precision" / "unpack.py").read_text()
    for wrong, words in ((["--bits=9"], "bits '9' are none"), (["--pattern=5:4"], "pattern '5:4'")):
        done = prune_core(*[*command[:2], tmp_path / "new", *command[3:6], f"--runs-dir={made.path.parent}"], *wrong)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr
    assert not (tmp_path / "new").exists()


def test_nothing_kept_at_all_is_stored_and_read(tmp_path):
    encoder, mask, made, _ = packed_model(tmp_path, "bert", "8")
    nothing = BlockMask(mask.layout, {name: np.zeros_like(kept) for name, kept in mask.kept.items()})
    made = compress_(encoder.linears, nothing, made.formats)
    content = packed.write(dict(encoder.model.named_parameters()), nothing, made.formats, made.matrices)
    assert len(content) == storage(nothing, made.formats).bytes
