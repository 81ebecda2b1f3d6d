"""Rivals: every dense engine is really run, one that is missing or fails is said, and the headline's arithmetic."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from prune_core import InputError, files, machine
from prune_core.cli import time as command
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.execution import engines, paths, rivals, timing
from prune_core.execution.timing import Sitting, Timing, alternate, sentences
from prune_core.latency.profile import Batch
from prune_core.models import encoders

HERE = tuple(name for name in rivals.NAMES if not rivals.missing(name.split()[0]))
SETTING = Batch(2, 12)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return files.cache_folder() / "graphs"


@pytest.fixture
def encoder():
    return encoders.describe("tiny", tiny.model("bert"), tiny.tokenizer("bert"))


def masked(encoder, share: float = 0.5) -> BlockMask:
    layout, random = encoder.layout(BlockShape.parse("16x1")), np.random.default_rng(0)
    return BlockMask(layout, {m.name: random.random(layout.block.grid(m.m, m.n)) < share for m in layout.matrices})


def measured(encoder, **more) -> dict:
    return timing.measure(encoder.model.eval(), masked(encoder), SETTING, 1, seconds=0.0, **more)


def test_names_that_are_asked_for():
    assert rivals.chosen("all") == rivals.NAMES and rivals.chosen("none") == (rivals.DENSE,)
    assert rivals.chosen("openvino bf16, torch bf16") == ("torch fp32", "torch bf16", "openvino bf16")
    with pytest.raises(InputError, match="all, none, or some of torch fp32, torch bf16") as error:
        rivals.chosen("torch bf16,tensorrt")
    assert "\n" not in str(error.value)


def test_all_are_timed_and_the_best_is_named(encoder):
    answer = measured(encoder, rivals="all")
    assert tuple(answer["rivals_ms"]) == HERE and set(answer["rivals_left_out"]) == set(rivals.NAMES) - set(HERE)
    best = min(answer["rivals_ms"], key=answer["rivals_ms"].get)
    assert answer["best_rival"] == best and answer["dense_ms"] == answer["rivals_ms"]["torch fp32"]
    assert answer["speedup_over_best"] == pytest.approx(answer["rivals_ms"][best] / answer["compact_ms"])
    assert answer["from_pass"] * answer["from_pruning"] == pytest.approx(answer["speedup_over_best"])
    assert answer["from_pruning"] == pytest.approx(answer["unpruned_ms"] / answer["compact_ms"])
    assert answer["processor"] == machine.processor() and answer["executed"]["path"] in sum(paths.PATHS.values(), ())


def test_every_rival_gives_the_logits_of_the_dense_model(encoder, tmp_path):
    """Each is really run, in its own arithmetic: near the dense logits, and not the same bits but in torch fp32."""
    model, inputs = encoder.model.eval(), sentences(encoder.model, SETTING)
    with torch.inference_mode():
        wanted = model(**inputs).logits.numpy()
    calls, left_out = rivals.calls(model, inputs, HERE, tmp_path)
    assert tuple(calls) == HERE and not left_out
    for name, call in calls.items():
        given = np.asarray(torch.as_tensor(call()).float())
        off = np.abs(given - wanted).max() / np.abs(wanted).max()
        assert off < (1e-4 if name.endswith("fp32") else 0.2) and (off > 0) >= ("8" in name or name == "torch bf16")


def test_an_engine_that_is_not_installed_is_left_out_and_said(encoder, monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else known(name))
    answer = measured(encoder, rivals="torch bf16,openvino fp32,openvino bf16")
    assert list(answer["rivals_ms"]) == ["torch fp32", "torch bf16"]
    assert answer["rivals_left_out"] == dict.fromkeys(("openvino fp32", "openvino bf16"), "openvino is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else known(name))
    assert "onnxscript is not installed" in measured(encoder, rivals="onnxruntime fp32")["rivals_left_out"].values()


@pytest.mark.parametrize("when", ["opened", "called"])
def test_an_engine_that_fails_does_not_end_the_measurement(encoder, monkeypatch, when):
    def fail(*_):
        raise RuntimeError("no such\n  instruction")

    monkeypatch.setattr(engines, "to_onnx", lambda model, path: Path(path).write_bytes(b"x") and path)
    monkeypatch.setattr(engines, "session", lambda *_: fail() if when == "opened" else fail)
    answer = measured(encoder, rivals="torch bf16,onnxruntime fp32")
    assert answer["rivals_left_out"] in ({"onnxruntime fp32": "RuntimeError: no such instruction"},
                                         {"onnxruntime fp32": "onnxruntime is not installed"})
    assert list(answer["rivals_ms"]) == ["torch fp32", "torch bf16"] and answer["compact_ms"] > 0


def test_a_graph_is_written_once_for_a_shape_and_again_when_it_is_damaged(encoder, monkeypatch, tmp_path, cache):
    pytest.importorskip("onnxruntime")
    written, write = [], engines.to_onnx
    monkeypatch.setattr(engines, "to_onnx", lambda model, path: written.append(path) or write(model, path))
    names, inputs = ("onnxruntime fp32", "onnxruntime int8"), sentences(encoder.model, SETTING)

    def ready(model) -> tuple[str, ...]:
        described = encoders.describe("tiny", model, tiny.tokenizer("bert"))
        return tuple(rivals.calls(described.model.eval(), inputs, names, tmp_path)[0])

    assert ready(encoder.model) == names and len(written) == 1 and len(list(cache.glob("*.onnx"))) == 2
    assert ready(tiny.model("bert", seed=1)) == names and len(written) == 1  # other values take the same time
    assert ready(tiny.model("bert", intermediate_size=32)) == names and len(written) == 2
    for path in cache.glob("*.onnx"):
        path.write_bytes(b"no graph")
    assert ready(encoder.model) == () and ready(encoder.model) == names and len(written) == 3


def test_few_graphs_are_kept_and_the_last_used_stay(monkeypatch, tmp_path):
    for age in range(5):
        (tmp_path / f"{age}.onnx").write_bytes(b"x" * 10)
        rivals.os.utime(tmp_path / f"{age}.onnx", (1000 - age, 1000 - age))
    monkeypatch.setattr(rivals, "KEPT", 4)
    rivals._make_room(tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    monkeypatch.setattr(rivals, "KEPT_BYTES", 25)
    rivals._make_room(tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["0", "1"]


def test_where_nothing_can_be_kept_the_rivals_are_timed_all_the_same(encoder, monkeypatch, tmp_path, cache):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(files, "_protected", {cache.resolve()})
    inputs = sentences(encoder.model, SETTING)
    calls, left_out = rivals.calls(encoder.model.eval(), inputs, ["onnxruntime int8"], tmp_path)
    assert list(calls) == ["onnxruntime int8"] and not left_out and not cache.exists()


def test_settings_are_compared_in_one_sitting(encoder):
    heard = []
    answers = timing.in_turn(encoder.model, [masked(encoder), masked(encoder, 0.2)], SETTING, 1, 0.0,
                             rivals="torch bf16", told=lambda share, words: heard.append((share, words)))
    assert answers[0]["rivals_ms"] == answers[1]["rivals_ms"] and answers[0]["unpruned_ms"] == answers[1]["unpruned_ms"]
    assert answers[0]["sparsity"] < answers[1]["sparsity"] and answers[0]["compact_ms"] != answers[1]["compact_ms"]
    assert [share for share, _ in heard] == sorted(share for share, _ in heard) and heard[-1][0] == 1.0
    assert "timing 5 in turn on " + machine.processor() in heard[-1][1]


def test_what_is_quick_is_called_once_before_each_timing():
    order = []
    alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0.0, least=2, settles=1e3)
    assert order == ["a", "b"] * 2 + ["a", "a", "b", "b"] * 2


def test_the_headline_by_hand():
    def took(ms: float) -> Timing:
        return Timing(ms, ms - 1, ms + 1, 5)

    sitting = Sitting({"torch fp32": took(700), "openvino bf16": took(300)}, {"onnxruntime int8": "is not installed"},
                      took(250), [took(100)], [], [])
    numbers = sitting.numbers()
    assert (numbers["best_rival"], numbers["speedup_over_best"], numbers["speedup"]) == ("openvino bf16", 3.0, 7.0)
    assert (numbers["from_pass"], numbers["from_pruning"]) == (1.2, 2.5)
    assert command._headline(numbers | {"engine": "torch"}) == (
        "compact 100.0 ms against the best dense engine found (openvino bf16, 300.0 ms): 3.00x; "
        "of it 1.20x from the pass and 2.50x from pruning; over dense torch fp32 7.00x")
    ran = {"dtype": "bf16", "engine": "torch", "executed": {"dtype": "fp32", "path": "fp32", "why": "no gain here"}}
    assert command._executed(ran) == "fp32 instead of bf16: no gain here"
    ran["executed"] = {"dtype": "bf16", "path": "bf16 avx512", "why": ""}
    assert command._executed(ran) == command._executed(ran | {"dtype": "auto"}) == "bf16 (bf16 avx512)"


@pytest.mark.parametrize("flags, said", [
    ("fpu avx512_bf16 avx512_vnni", "A CPU, AVX512_BF16, VNNI, no AMX"), ("amx_tile amx_int8", "A CPU, AMX"),
    ("fpu avx2", "A CPU, no AMX"), ("", "A CPU")])
def test_the_processor_says_what_it_has(monkeypatch, flags, said):
    told = {"model name": "A CPU", "flags": flags}
    monkeypatch.setattr(machine, "_told", told.get)
    assert machine.processor() == said
