"""Latency profiles: prices, which path is taken, whose number it is, and how they are read and kept as files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sample_run import make_mask, make_profile

from prune_core import InputError
from prune_core.latency import profile_files
from prune_core.latency.profile import ASKED, Profile, brief, not_timed
from prune_core.latency.strips import Blocking
from prune_core.latency.work import Batch
from prune_core.machine import machine


def test_prices_by_hand():
    mask, setting = make_mask(), Batch(2, 4)
    hidden = 64 * 64  # eight tokens are one tile of 32, two first tokens another
    multiplied, weights = 32 * (8 + 8) * hidden, mask.layout.encoder_weights
    assert make_profile().compact_ms(mask, setting, dtype="fp32") == pytest.approx(0.5 + multiplied * 1e-6)
    assert make_profile().compact_ms(mask, setting) == pytest.approx(0.5 + multiplied * 5e-7)
    assert make_profile().unpruned_ms(mask.layout, setting) == make_profile().compact_ms(mask, setting)
    assert make_profile().dense_ms(mask.layout, setting) == pytest.approx(0.5 + 8 * weights * 2e-6)
    assert make_profile().best_rival(mask.layout, setting) == ("openvino bf16", pytest.approx(0.5 + 8 * weights * 5e-7))
    best, torch_ms = (0.5 + 8 * weights * each for each in (5e-7, 2e-6))
    assert make_profile().speedup(mask, setting) == pytest.approx(best / (0.5 + multiplied * 5e-7))
    assert make_profile().speedup(mask, setting, dtype="fp32") == pytest.approx(best / (0.5 + multiplied * 1e-6))
    assert make_profile().speedup_over_torch(mask, setting) == pytest.approx(torch_ms / (0.5 + multiplied * 5e-7))


def test_layers_add_up_to_the_whole():
    mask, setting = make_mask(0.5), Batch(4, 32)
    for dtype in ASKED:
        rows = make_profile().layers_ms(mask, setting, 4, dtype)
        assert [layer for layer, _, _ in rows] == [0, 1] and rows[0][2] > rows[1][2]
        assert sum(dense for _, dense, _ in rows) + 0.5 == pytest.approx(make_profile().dense_ms(mask.layout, setting))
        assert sum(ms for *_, ms in rows) + 0.5 == pytest.approx(make_profile().compact_ms(mask, setting, 4, dtype))


@pytest.mark.parametrize("dtype, left_out, path, why", [
    ("auto", (), "bf16 avx512", ""), ("bf16", (), "bf16 avx512", ""), ("fp32", (), "fp32", ""),
    ("int8", (), "fp32", "int8 was slower than fp32 in every timing"),
    ("int8", ("int8 vnni",), "fp32", "int8 was not calibrated"),
    ("auto", ("bf16 avx512",), "fp32", ""), ("bf16", ("bf16 avx512",), "fp32", "bf16 was not calibrated")])
def test_which_path_is_taken(dtype, left_out, path, why):
    paths = {name: one for name, one in make_profile().paths.items() if name not in left_out}
    known = replace(make_profile(), paths=paths)
    taken = known.path_of(dtype, make_mask(), Batch())
    assert (taken.path, taken.dtype, taken.why) == (path, path.split()[0], why)
    assert taken.ms == known.path_ms(path, make_mask(), Batch()) == known.compact_ms(make_mask(), Batch(), None, dtype)


def test_of_two_paths_of_one_arithmetic_the_faster_is_taken():
    """One has the cheaper multiplication, the other the cheaper call: which is faster depends on the mask."""
    quick = make_profile().paths["bf16 avx512"]
    call = replace(quick, ms=quick.ms | {"call": 30.0, "multiply": 1e-8}, blocking=Blocking(32, 32, 32, 16))
    both = replace(make_profile(), paths=make_profile().paths | {"bf16 amx": call})
    assert both.path_of("bf16", make_mask(), Batch()).path == "bf16 amx"
    assert both.path_of("bf16", make_mask(0.05), Batch(1, 8)).path == "bf16 avx512"


def test_an_unknown_precision_or_path_is_one_line():
    with pytest.raises(InputError, match="needed: one of fp32, bf16, int8, auto"):
        make_profile().speedup(make_mask(), Batch(), None, "fp16")
    with pytest.raises(InputError, match="'bf16 amx' was not calibrated; needed: one of fp32, bf16 avx512, int8 vnni"):
        make_profile().path_ms("bf16 amx", make_mask(), Batch())


@pytest.mark.parametrize("machine, said", [
    ({"cpu": "AMD EPYC", "cores": 2}, ""), ({"cpu": "Intel", "cores": 2}, "on AMD EPYC, not this machine"),
    ({"cpu": "AMD EPYC", "cores": 8}, "on AMD EPYC with 2 cores, not this machine")])
def test_a_number_of_another_machine_is_marked(machine, said):
    other = replace(make_profile(), machine={"cpu": "AMD EPYC", "cores": 2})
    assert other.elsewhere(machine) == said
    told = other.foretold(make_mask(), Batch(), None, machine)
    assert told.on == said and told.over == "openvino bf16" and told.dtype == "bf16"
    long = replace(other, machine={"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": 2})
    assert long.elsewhere(machine) == "on Intel Xeon, not this machine"
    assert told.words.endswith(f" times as fast as openvino bf16, in bf16 ({f'predicted {said}'.strip()})")


def test_a_profile_is_this_machines_only_where_it_is_its_own_file(monkeypatch, tmp_path):
    """Processor and cores look alike on many machines that are not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here, content = machine(), json.dumps(make_profile().to_json()).encode()
    profile_files.write(make_profile(), profile_files.own_file(here, 2))
    profile_files.write(make_profile(), tmp_path / "shipped.json")
    assert make_profile().elsewhere(here) == profile_files.read(profile_files.own_file(here, 2)).elsewhere(here) == ""
    said = f"on another {brief(here['cpu'])}, not this machine"
    imported = profile_files.keep(content)
    assert imported.elsewhere(here) == profile_files.read(profile_files.loaded()[0]).elsewhere(here) == said
    alike = profile_files.read(tmp_path / "shipped.json")
    assert alike.elsewhere(here) == alike.foretold(make_mask(), Batch(), None, here).on == said


# ---------------------------------------------------------------- profiles as files


def test_a_profile_comes_back_as_it_was(tmp_path):
    profile_files.write(make_profile(), tmp_path / "new" / "p.json")
    assert profile_files.read(tmp_path / "new" / "p.json") == make_profile()


OLD = {"format": 1, "machine": {"cpu": "AMD EPYC", "cores": 2}, "threads": 2, "lanes": 16, "vectors": 4, "masks": 30,
       "compact": {"multiply 1": 1e-6, "panels": 1e-3, "call": 0.5, "layers": 0.25}, "error": 0.05, "created": 1.0,
       "dense": {"multiply": 2e-6, "call": 0.5, "layers": 0.0}, "error_dense": 0.04}


def test_a_profile_of_format_1_is_read_and_loses_nothing(tmp_path):
    """One path and one rival; its prices are those of modules, whose panels are counted one by one."""
    (tmp_path / "p.json").write_text(json.dumps(OLD))
    old, mask = profile_files.read(tmp_path / "p.json"), make_mask()
    assert list(old.paths) == ["fp32"] and list(old.rivals) == ["torch fp32"]
    weights = mask.layout.encoder_weights
    assert old.compact_ms(mask, Batch(2, 4)) == pytest.approx(1.0 + 8 * weights * 1e-6 + 2 * (4 * 4 + 8 + 4) * 1e-3)
    assert old.speedup(mask, Batch()) == old.speedup_over_torch(mask, Batch(), dtype="bf16")
    assert "No other dense engine than torch fp32 was calibrated" in not_timed(old) and not not_timed(make_profile())
    profile_files.write(old, tmp_path / "again.json")
    assert profile_files.read(tmp_path / "again.json") == old
    assert (old.error, old.error_dense, old.masks, old.created) == (0.05, 0.04, 30, 1.0)


def test_a_profile_of_another_format_is_kept_aside(tmp_path):
    path = tmp_path / "p.json"
    assert profile_files.kept_aside(path) is None
    path.write_text(json.dumps(OLD))
    assert profile_files.kept_aside(path) == tmp_path / "p.json.before-1" and not path.exists()
    path.write_text("damaged")
    assert profile_files.kept_aside(path) == tmp_path / "p.json.before-2"
    assert json.loads((tmp_path / "p.json.before-1").read_text()) == OLD
    profile_files.write(make_profile(), path)
    assert profile_files.kept_aside(path) is None and profile_files.read(path) == make_profile()


def test_an_older_profile_does_not_replace_a_newer_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    newer = replace(make_profile(), created=9.0)
    profile_files.keep(json.dumps(newer.to_json()).encode())
    with pytest.raises(InputError, match="made later is here already"):
        profile_files.keep(json.dumps(make_profile().to_json()).encode())
    assert [profile_files.read(path) for path in profile_files.loaded()] == [newer]


def test_a_newer_format_is_told_apart():
    with pytest.raises(InputError, match="format 3, of a newer version"):
        Profile.from_json(make_profile().to_json() | {"format": 3})


def path_with(**changes):
    return lambda d: d | {"paths": d["paths"] | {"fp32": d["paths"]["fp32"] | changes}}


@pytest.mark.parametrize("damage", [
    lambda d: [], lambda d: d | {"format": 99}, lambda d: d | {"format": "2"},
    lambda d: {k: v for k, v in d.items() if k != "rivals"},
    lambda d: d | {"paths": {}}, lambda d: d | {"paths": 3}, lambda d: d | {"rivals": {"torch bf16": {}}},
    path_with(ms={"call": -1, "layers": 0}), path_with(ms={"call": "x", "layers": 0}), path_with(ms=3),
    path_with(ms={}), path_with(error=float("inf")), path_with(error=True), path_with(slower="no"),
    path_with(blocking={"tile": 32}), path_with(blocking={"tile": 0, "rows": 1, "step": 1, "unit": 1}),
    path_with(blocking={"lanes": 7, "vectors": 4}), path_with(blocking={"lanes": 16, "vectors": 99}),
    lambda d: d | {"machine": "x"}, lambda d: d | {"masks": None}, lambda d: d | {"created": "today"},
    lambda d: OLD | {"vectors": 99}, lambda d: OLD | {"dense": {}}, lambda d: OLD | {"compact": 3}])
def test_a_damaged_profile_is_one_line(tmp_path, damage):
    (tmp_path / "p.json").write_text(json.dumps(damage(make_profile().to_json())))
    with pytest.raises(InputError, match="latency profile") as error:
        profile_files.read(tmp_path / "p.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_one_line(tmp_path, content):
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        profile_files.read(tmp_path / "p.json")
    with pytest.raises(InputError, match="cannot be read"):
        profile_files.read(tmp_path / "none.json")


def test_the_profiles_that_ship_are_good_ones():
    profiles = [profile_files.read(path) for path in profile_files.shipped()]
    assert profiles and all(p.error <= 0.1 and p.masks >= 30 for p in profiles)


def test_another_machine_has_another_file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {profile_files.own_file({"cpu": cpu, "cores": cores}, threads)
             for cpu in ("AMD EPYC", "Intel(R) i7/../x") for cores in (2, 4) for threads in (1, 2)}
    assert len(files) == 8 and all(f.parent == tmp_path / "prunescope" for f in files)
