"""The device of a run: which there are, and what is said of one that is not there."""

from __future__ import annotations

import pytest
import torch

from prune_core import InputError
from prune_core.models import devices

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def gpus(monkeypatch, count: int) -> None:
    """As on a machine with so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("count", "text", "taken"), [
    (0, "auto", "cpu"), (0, "CPU ", "cpu"), (2, "auto", "cuda:0"), (2, "cuda", "cuda:0"), (2, "cuda:1", "cuda:1"),
    (2, "cpu", "cpu")])
def test_a_device_is_picked_by_name_and_auto_takes_a_gpu_where_there_is_one(monkeypatch, count, text, taken):
    gpus(monkeypatch, count)
    assert str(devices.pick(text)) == taken


def test_auto_takes_the_gpu_of_a_mac(monkeypatch):
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert str(devices.pick("auto")) == "mps" and devices.there() == ["cpu", "mps"]


@pytest.mark.parametrize(("count", "text", "says"), [
    (0, "cuda", "'cuda' is not there"), (1, "cuda:1", "needed: one of auto, cpu, cuda:0"), (0, "mps", "'mps' is not"),
    (1, "gpu", "'gpu' is unknown; needed: one of auto, cpu, cuda"), (1, "cuda:x", "unknown"), (0, "", "unknown")])
def test_a_device_that_is_not_there_is_one_line(monkeypatch, count, text, says):
    gpus(monkeypatch, count)
    with pytest.raises(InputError, match=says) as told:
        devices.pick(text)
    assert "\n" not in str(told.value)


def test_a_record_says_which_device_and_how_much_memory_it_has():
    told = devices.describe(CPU)
    assert told["device"] == told["kind"] == "cpu" and told["name"] and told["memory"] > 2**28


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_matrices_multiply_in_the_precision_that_was_asked_for(precision, dtype):
    a = torch.ones(4, 4)
    with devices.autocast(CPU, precision):
        assert (a @ a).dtype == dtype


def test_spans_count_what_is_inside_and_begin_anew_when_they_were_read():
    spans = devices.Spans(CPU)
    with spans.part():
        pass
    with spans.part():
        sum(range(100_000))
    assert spans.taken() > 0 and spans.taken() == 0


@needs_gpu
def test_a_gpu_is_described_and_timed_by_its_own_clock():
    gpu = devices.pick("auto")
    a = torch.ones(2048, 2048, device=gpu)
    assert devices.describe(gpu)["kind"] == "cuda" and devices.milliseconds(gpu, lambda: a @ a) > 0
    spans = devices.Spans(gpu)
    with spans.part():
        a @ a
    devices.synchronize(gpu)
    assert spans.taken() > 0
