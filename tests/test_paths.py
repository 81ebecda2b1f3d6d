"""Which path is taken: found at run time, timed, and said where it is another than the one asked for."""

from __future__ import annotations

import pytest
import tiny
import torch
from test_whole import RUNNABLE, batch, case, fresh  # noqa: F401

from prune_core import InputError
from prune_core.execution import native, paths, race
from prune_core.execution.whole import small_model

ALL = [path for own in paths.PATHS.values() for path in own]
pytestmark = pytest.mark.skipif(not RUNNABLE, reason=f"kernels: {native.why_not()}")


@pytest.fixture
def machine(fresh, monkeypatch):  # noqa: F811
    """A machine whose paths take these milliseconds; what is left out does not run there."""
    def made(**ms: float) -> None:
        times = {name.replace("_", " "): value for name, value in ms.items()}
        monkeypatch.setattr(paths, "why_not", lambda path: "" if path in times else "the processor lacks it")
        monkeypatch.setattr(paths, "timed", lambda: times)
    return made


def test_the_fastest_path_of_an_arithmetic_is_taken(machine):
    machine(fp32=4.0, bf16_amx=1.0, bf16_avx512=2.0, int8_vnni=1.5)
    assert paths.choose("bf16").path == "bf16 amx" and paths.choose("int8").path == "int8 vnni"
    assert paths.choose("auto") == paths.Choice("auto", "bf16", "bf16 amx")
    assert paths.choose("fp32") == paths.Choice("fp32", "fp32", "fp32")
    machine(fp32=4.0, bf16_amx=3.0, bf16_avx512=2.0)
    assert paths.choose("bf16").path == "bf16 avx512"


def test_what_gains_nothing_is_not_taken_and_it_is_said(machine):
    machine(fp32=4.0, bf16_avx512=4.1, int8_vnni=2.0)
    choice = paths.choose("bf16")
    assert (choice.dtype, choice.path) == ("fp32", "fp32") and "not faster than fp32" in choice.why
    assert paths.choose("auto").path == "int8 vnni"
    machine(fp32=4.0, bf16_avx512=4.1)
    assert paths.choose("auto") == paths.Choice("auto", "fp32", "fp32")


def test_what_does_not_run_is_said(machine):
    machine(fp32=4.0)
    choice = paths.choose("int8")
    assert choice.path == "fp32"
    assert choice.why == "int8 amx: the processor lacks it; int8 vnni: the processor lacks it"


def test_unknown_names_are_refused(machine):
    machine(fp32=4.0, bf16_avx512=1.0)
    for asked, path, word in (("fp16", None, "dtype 'fp16' is unknown; needed: one of fp32, bf16, int8, auto"),
                              ("bf16", "int8 vnni", "is not for bf16"), ("auto", "neon", "path 'neon' is unknown"),
                              ("bf16", "bf16 amx", "does not run here: the processor lacks it")):
        with pytest.raises(InputError, match=word):
            paths.choose(asked, path)
    assert paths.choose("auto", "bf16 avx512") == paths.Choice("auto", "bf16", "bf16 avx512")


def test_the_processor_is_asked_and_then_the_system(fresh, monkeypatch):  # noqa: F811
    monkeypatch.setattr(paths, "flags", lambda: frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"}))
    assert paths.why_not("bf16 amx") == "the processor lacks avx512_bf16, amx_tile, amx_bf16"
    assert paths.why_not("fp32") == ""
    paths.why_not.cache_clear()
    monkeypatch.setattr(paths, "flags", lambda: frozenset(flag for each in paths._NEEDED.values() for flag in each))
    monkeypatch.setattr(paths, "_permission", lambda: "the system refuses the tile registers (No space left on device)")
    assert "refuses the tile registers" in paths.why_not("int8 amx")


def test_kernels_that_do_not_build_are_left_out(fresh, monkeypatch):  # noqa: F811
    if "bf16 avx512" not in RUNNABLE:
        pytest.skip("no second path on this processor")
    monkeypatch.setitem(native.PASSES, "bf16 avx512", ("pass_avx512.cpp", ("-DNO_SUCH", "-include", "missing.hpp")))
    choice = paths.choose("bf16")
    assert choice.path != "bf16 avx512" and (choice.dtype == "bf16" or "could not build the kernels" in choice.why)
    encoder, mask, dense = case("bert", "16x1")
    small = small_model(encoder.model, mask, "bf16")
    with torch.inference_mode():
        assert torch.allclose(small(**batch()).logits, dense(**batch()).logits.float(), atol=0.05)


def test_without_a_compiler_stock_torch_runs(fresh, monkeypatch):  # noqa: F811
    monkeypatch.setattr(native, "compiler", lambda: None)
    native.library.cache_clear()
    try:
        encoder, mask, dense = case("bert", "16x1")
        small = small_model(encoder.model, mask, "auto")
        assert small.choice.path == "modules" and "no C++ compiler" in small.choice.why
        with torch.inference_mode():
            assert torch.allclose(small(**batch()).logits, dense(**batch()).logits.float(), atol=1e-5)
    finally:
        native.library.cache_clear()


def test_the_race_times_every_path_once_and_is_kept(fresh, monkeypatch, tmp_path):  # noqa: F811
    runs = []
    monkeypatch.setattr(paths.files, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(race, "run", lambda names: runs.append(names) or dict.fromkeys(names, 1.5))
    monkeypatch.setattr(paths, "why_not", lambda path: "" if path in RUNNABLE else "no")
    assert paths.timed() == dict.fromkeys(RUNNABLE, 1.5)
    paths.timed.cache_clear()
    assert paths.timed() == dict.fromkeys(RUNNABLE, 1.5) and len(runs) == 1
    next(tmp_path.glob("paths-*.json")).write_text("[]")
    paths.timed.cache_clear()
    assert set(paths.timed()) == set(RUNNABLE) and len(runs) == 2


def test_a_race_is_run():
    times = race.run(RUNNABLE, seconds=0.05)
    assert set(times) == set(RUNNABLE) and all(ms > 0 for ms in times.values())
    assert tiny.LAYERS and set(ALL) >= set(RUNNABLE)
