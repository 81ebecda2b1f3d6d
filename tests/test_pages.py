"""Every page under AppTest, on runs made here: what it shows equals what prune_core counts."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save
from sample_run import make_norms, make_profile, make_run
from streamlit.testing.v1 import AppTest

from pages.explore import take_away
from pages.prune import estimate
from pages.shared import jobs, loaders, processes, timings
from pages.shared.processes import Failed, Report
from pages.shared.score_client import Answer
from prune_core import files, machine
from prune_core.cutting.answers import Sensitivity, predict
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import mask_at, mask_at_sparsity, thresholds_for, zero_share
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch
from prune_core.runs import places, results, trash
from prune_core.runs.config import PruneConfig, preset
from prune_core.runs.recorder import Recorder
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.showing import bits, compare, exercises, lesson
from prune_core.showing.exercises import SENTENCES

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"prune": "pages/1_Prune.py", "explore": "pages/2_Explore.py", "compare": "pages/3_Compare.py",
         "speed": "pages/4_Speed.py", "learn": "pages/5_Learn.py", "report": "pages/6_Report.py"}


@pytest.fixture
def runs_dir(tmp_path, monkeypatch) -> Path:
    """An empty runs folder that the app uses, with no shipped runs beside it."""
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(places, "RECORDED", tmp_path / "recorded")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # latency profiles: none but those made here
    monkeypatch.setattr(profile_files, "shipped", list)
    return tmp_path / "runs"


def opened(page: str = "", **query) -> AppTest:
    """The page, run once, without an exception."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    for name, value in query.items():
        app.query_params[name] = value
    app.session_state["drawn"] = True  # as the map says in a browser
    app.run()
    if page:
        app.switch_page(PAGES[page]).run()
    return checked(app)


def checked(app: AppTest) -> AppTest:
    assert not app.exception, [e.value for e in app.exception]
    return app


def texts(app: AppTest) -> str:
    """All text on the page, markdown's escapes taken out."""
    kinds = (app.title, app.header, app.subheader, app.markdown, app.caption,
             app.info, app.warning, app.error, app.success)
    return re.sub(r"\\(.)", r"\1", "\n".join(str(element.value) for kind in kinds for element in kind))


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


# ---------------------------------------------------------------- home


def test_home_lists_runs_and_unreadable_folders(runs_dir):
    make_run(runs_dir, "good")
    make_run(runs_dir, "stopped", finish=False)
    (runs_dir / "broken").mkdir()
    (runs_dir / "broken" / "run.json").write_text('{"format": 99}')
    said = texts(opened())
    assert "**good**" in said and "**stopped**" in said
    assert "dense **0.900**, retrained at 2x **0.885**" in said
    assert "Best: **half of the encoder cut, 0.885** of 0.900 dense, 1.5 points lost" in said
    assert "| **SST-2** accuracy | half | **0.885** of 0.900 | 1.5 points less, which may be chance (±2.0) | –" in said
    assert "interrupted" in said and "complete" in said and "unreadable" in said
    assert "broken" in said and "has format 99" in said


def test_home_has_three_doors(runs_dir):
    make_run(runs_dir)
    profile_files.write(make_profile(), loaders.own_profile_file())
    app = opened()
    assert [b.label for b in app.button][:3] == ["Open the lesson", "Explore the best run", "Make a report"]
    speedup = compare.predicted(make_profile())(loaders.run("sample"), {"compression": 2.0})
    assert f"| {speedup:.1f}x |" in texts(app) and "Speedups are predicted for this machine" in texts(app)


def test_what_is_near_chance_is_said_in_a_sentence(runs_dir):
    dense, rows = {"accuracy": 0.9}, [{"compression": c, "score_thresholded": 0.52, "score_retrained": 0.6}
                                      for c in (2.0, 3.0, 5.0)]
    assert results.near_chance(dense, rows[1:2], "accuracy", 0.51) == [
        "At 3x, before retraining, it is no better than guessing (0.520; majority class 0.510)."]
    assert results.near_chance(dense, rows, "accuracy", 0.51)[0].startswith("At 2x, 3x and 5x, before retraining")
    assert results.near_chance({"accuracy": 0.5}, [], "accuracy", 0.51) == [
        "The dense model is no better than guessing (0.500; majority class 0.510)."]
    assert results.near_chance(dense, [], "accuracy", 0.51) == []
    path = make_run(runs_dir)
    about = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(about | {"majority_score": 0.845, "notes": ["a note"]}))
    badges = [element.value for element in opened().markdown if "-badge[" in element.value]
    assert any("near chance" in badge for badge in badges) and any("note" in badge for badge in badges)


def test_empty_states_say_what_to_do(runs_dir):
    assert "no runs yet. Start one on the **Prune** page." in texts(opened())
    assert "Start one on the **Prune** page." in texts(opened("explore"))
    assert "press **Start**" in texts(opened("prune"))


def test_speed_says_what_to_do_where_there_is_nothing(runs_dir):
    assert "Start one on the **Prune** page." in texts(opened("speed"))
    make_run(runs_dir)
    app = opened("speed")
    assert "Calibrate this machine" in texts(app) and not app.metric
    assert [b.label for b in app.button] == ["Calibrate this machine (about 6 min)"]


@pytest.mark.parametrize("page", ["", "explore", "prune"])
def test_practice_scores_say_that_they_are_not_glue(runs_dir, page):
    make_run(runs_dir, "practised", data="practice")
    assert "not GLUE" in texts(opened(page, run="practised"))


# ---------------------------------------------------------------- speed


def test_speed_shows_what_the_profile_predicts(runs_dir):
    run, profile = Run(make_run(runs_dir)), make_profile()
    profile_files.write(profile, loaders.own_profile_file())
    app = opened("speed", batch="8", length="32")
    app.slider(key="sparsity").set_value(75.0).run()
    mask, setting = mask_at_sparsity(run.norms(run.saved("penalty-2x")), run.layout, 0.75), Batch(8, 32)
    (rival, dense), fast = profile.best_rival(run.layout, setting), profile.compact_ms(mask, setting, run.heads)
    assert metrics(checked(app)) == {
        "Sparsity": "75.0%", "Encoder compression": f"{mask.compression_encoder:.2f}x",
        "Dense, predicted": f"{dense:.1f} ms", "Compact, predicted": f"{fast:.1f} ms",
        "Predicted speedup": f"{dense / fast:.2f}x"}
    assert rival == "openvino bf16" and {one.delta for one in app.metric} >= {rival, "bf16 avx512", f"over {rival}"}
    assert "error 6%" in texts(app) and "30 held-out masks" in texts(app) and "reak-even point" in texts(app)
    assert loaders.speedups(run, run.saved("penalty-2x"), "global", profile, setting)[0][0] >= 1.0


def test_speed_follows_run_and_stage_and_begins_at_what_is_zero_already(runs_dir):
    run = Run(make_run(runs_dir))
    make_run(runs_dir, "third", compression=3.0)
    profile_files.write(make_profile(), profile_files.own_file(machine.machine(), os.cpu_count() or 1))
    app = opened("speed", run="sample", phase="dense")
    slider = app.slider(key="sparsity")
    assert slider.min == 0.0 and metrics(app)["Sparsity"] == f"{slider.value:.1f}%"
    app = checked(slider.set_value(20.0).run())
    assert metrics(app)["Sparsity"] == "20.0%" and "already zero" not in texts(app)
    app = checked(app.selectbox(key="phase").select("retrain-2x").run())
    slider = app.slider(key="sparsity")
    assert (slider.min, slider.value, metrics(app)["Sparsity"]) == (50.0, 50.0, "50.0%")
    assert "50.0% already zero at retrain-2x" in texts(app)
    app = checked(slider.set_value(70.0).run())
    mask = mask_at_sparsity(run.norms(run.saved("retrain-2x")), run.layout, 0.7)
    assert metrics(app)["Sparsity"] == f"{mask.sparsity:.1%}" == "70.0%"
    app = checked(app.selectbox(key="run").select("third").run())
    slider = app.slider(key="sparsity")
    assert metrics(app)["Sparsity"] == f"{slider.value:.1f}%" and slider.value != 70.0
    linked = opened("speed", run="sample", phase="retrain-2x", sparsity="30")
    assert linked.slider(key="sparsity").value == 50.0 and metrics(linked)["Sparsity"] == "50.0%"
    assert "the link's 30.0% is shown as 50.0%" in texts(linked)


def test_speed_begins_at_what_is_zero_already_whatever_shares_a_threshold(runs_dir):
    """What training left of one matrix is not cut because another has more zeros."""
    run = Run(make_run(runs_dir, scope="matrix"))
    profile_files.write(make_profile(), profile_files.own_file(machine.machine(), os.cpu_count() or 1))
    at = run.saved("retrain-2x")
    norms = {m.name: run.norms(at)[m.name] * np.float32(m.layer) for m in run.layout.matrices}  # no first layer
    path = run.path / "norms" / f"{run.progress.lines[at]['i']:06d}.safetensors"
    path.write_bytes(save(norms))
    app = opened("speed", run="sample", phase="retrain-2x")
    app = checked(app.slider(key="sparsity").set_value(app.slider(key="sparsity").min).run())
    least = f"{app.slider(key='sparsity').min:.1f}%"
    assert metrics(app)["Sparsity"] == least == f"{zero_share(norms, run.layout):.1%}"


@pytest.mark.parametrize("page", ["explore", "speed", "report"])
def test_a_link_to_a_run_that_is_not_here_says_so(runs_dir, page):
    make_run(runs_dir)
    said = "There is no run `gone` here; showing sample instead"
    assert said in texts(opened(page, run="gone")).replace("*", "")
    assert "There is no run" not in texts(opened(page, run="sample"))


@pytest.mark.parametrize("address, said", [
    ({"at": "nowhere"}, "There is no snapshot `nowhere` in this run; showing retrain-2x instead"),
    ({"cut": "rows@2"}, "The link's cut `rows@2` does not fit this run"), ({"at": "dense", "cut": "global@0.4"}, "")])
def test_a_link_to_a_snapshot_or_cut_that_is_not_here_says_so(runs_dir, address, said):
    make_run(runs_dir)
    text = texts(opened("explore", run="sample", **address)).replace("*", "")
    assert said in text if said else "instead" not in text


def test_where_only_norms_are_there_the_ranking_is_shown_with_the_reason(runs_dir):
    make_run(runs_dir)
    chosen = opened("explore").selectbox(key="score")
    assert chosen.disabled and chosen.options == ["norm"] and "Only the norms" in chosen.help


def test_another_ranking_keeps_what_thresholds_cut(runs_dir):
    """Before the map has said anything, from a link; the map itself: test_walk.py."""
    run = Run(make_run(runs_dir))
    at = run.saved("dense")
    random, norms = np.random.default_rng(0), run.norms(at)
    files.write_whole(run.answers.ranking_file("dense", "taylor"), save({
        name: (values * random.uniform(0.1, 9, values.shape)).astype(np.float32) for name, values in norms.items()}))
    app = opened("explore", run="sample", at="dense", cut="layer:0.4,0.7", score="norm")
    before = sent(app)["start"]["cut"]
    app = checked(app.selectbox(key="score").select("taylor").run())
    mask = mask_at(norms, run.layout, {"layer 0": 0.4, "layer 1": 0.7}, "layer")
    assert f"sparsity {mask.sparsity:.1%}" in texts(app)
    assert sent(app)["value"] == "taylor" and sent(app)["start"]["cut"]["thresholds"] != before["thresholds"]


def test_explore_predicts_the_speedup_where_a_profile_is(runs_dir):
    run = Run(make_run(runs_dir))
    assert "No speedup is predicted" in texts(opened("explore")) and "profile" not in sent(opened("explore"))
    profile_files.write(make_profile(), loaders.own_profile_file())
    app, profile = opened("explore"), make_profile()
    header = sent(app)["profile"]
    name, ms = profile.best_rival(run.layout, Batch(32, 128))
    assert header["rival"] == {"name": name, "ms": ms} and header["mark"] == ""
    assert {one["name"]: one["prices"] for one in header["paths"]} == {
        name: dict(profile.paths[name].ms) for name in ("fp32", "bf16 avx512")}, "int8 is slower than fp32"
    said = "against the best dense engine of this machine (openvino bf16), for bf16, the fastest there, 32 sentences"
    assert said in texts(app) and "median error 6%" in texts(app) and "ot calibrated" not in texts(app)


@pytest.mark.parametrize("dtype, path, said", [
    ("bf16", "bf16 avx512", "for bf16, 32 sentences"), ("fp32", "fp32", "for fp32, 32 sentences"),
    ("int8", "fp32", "for fp32 (int8 was slower than fp32 in every timing), 32 sentences")])
def test_explore_predicts_for_the_precision_of_the_address(runs_dir, dtype, path, said):
    make_run(runs_dir)
    profile_files.write(make_profile(), loaders.own_profile_file())
    app = opened("explore", run="sample", dtype=dtype)
    assert app.segmented_control(key="dtype").value == dtype and said in texts(app)
    header = sent(app)
    assert header["precision"] == dtype and header["profile"]["takes"]["plain"]["names"] == [path]


def test_a_pin_of_the_address_keeps_its_precision(runs_dir):
    run, profile = Run(make_run(runs_dir)), make_profile()
    profile_files.write(profile, loaders.own_profile_file())
    app = opened("explore", run="sample", pin=["dense~global@0.5~for-fp32", "dense~global@0.5"])
    pins = sent(app)["start"]["pins"]
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.5)
    assert [pin["precision"] for pin in pins] == ["fp32", "auto"]
    assert [pin["numbers"]["speedup"] for pin in pins] == pytest.approx(
        [profile.speedup(mask, Batch(32, 128), run.heads, dtype) for dtype in ("fp32", "auto")])


def test_a_prediction_for_another_machine_is_marked_on_the_number(runs_dir, monkeypatch):
    """Where this one was never calibrated: on Explore's card, in Home's table, in Compare's answer and table."""
    make_run(runs_dir)
    files.write_json(runs_dir.parent / "other.json", make_profile("Another Chip").to_json())
    monkeypatch.setattr(profile_files, "shipped", lambda: [runs_dir.parent / "other.json"])
    mark = "on Another Chip, not this machine"
    app = opened("explore")
    assert sent(app)["profile"]["mark"] == mark and "Not calibrated here" in texts(app)
    assert "the best dense engine of Another Chip, not this machine (openvino bf16)" in texts(app)
    assert f"**Predicted speedup over compression {mark}**" in texts(app)
    assert f"x {mark} |" in texts(opened())
    compared = opened("compare")
    assert f"times as fast (predicted {mark})" in compared.subheader[0].value
    assert mark in compared.dataframe[0].proto.columns


def test_explore_says_where_a_machine_was_never_calibrated(runs_dir, monkeypatch):
    make_run(runs_dir)
    monkeypatch.setattr(profile_files, "shipped", lambda: [])
    app = opened("explore")
    assert "Not calibrated here." in texts(app) and sent(app)["precision"] == "auto" and "profile" not in sent(app)
    assert [link.label for link in app.get("page_link") if "Calibrate" in link.label] == [
        "Calibrate on Speed (about 6 min)"]


MEASURED = {
    "run": "sample", "phase": "penalty-2x", "sparsity": 0.5, "batch": 32, "length": 128, "threads": os.cpu_count(),
    "dense_ms": 70.0, "compact_ms": 10.0, "unpruned_ms": 25.0, "speedup": 7.0, "best_rival": "openvino bf16",
    "rivals_ms": {"torch fp32": 70.0, "openvino bf16": 30.0}, "rivals_left_out": {"torch bf16": "it has no bf16"},
    "speedup_over_best": 3.0, "from_pass": 1.2, "from_pruning": 2.5, "compression_encoder": 2.0, "mask": "m",
    "dtype": "auto", "path": None, "engine": "torch", "layers_ms": [[0, 15.0, 5.0], [1, 14.0, 4.0]],
    "executed": {"dtype": "bf16", "path": "bf16 avx512", "why": "", "matrices": {"strips": 12}},
    "machine": machine.machine(), "processor": machine.processor(), "load": 0.0, "predicted_speedup": 2.8}


def measure_button(app: AppTest):
    return next(b for b in app.button if b.label.startswith("Measure now (about "))


def test_measure_now_starts_the_command_and_says_where_while_it_runs(runs_dir, monkeypatch):
    make_run(runs_dir)
    profile_files.write(make_profile(), loaders.own_profile_file())
    asked = []
    monkeypatch.setattr(processes, "launch", lambda args, name, runs: asked.append(args))
    app = opened("speed", phase="penalty-2x", dtype="int8", batch="8")
    assert f"on {machine.processor()}, {os.cpu_count()} threads" in texts(app)
    measure_button(app).click().run()
    assert asked == [("measure", "sample", f"--runs-dir={runs_dir}", "--phase=penalty-2x", "--scope=global",
                      "--sparsity=0.5", "--batch=8", "--length=128", "--dtype=int8", "--json")]
    left = opened("speed", dtype="nothing")
    assert left.segmented_control(key="dtype").value == "auto"


def test_a_measurement_is_shown_over_the_best_dense_engine(runs_dir):
    run = Run(make_run(runs_dir))
    profile_files.write(make_profile(), loaders.own_profile_file())
    files.append_sealed(run.answers.timings_file, MEASURED)
    app = opened("speed", phase="penalty-2x")
    assert metrics(app).items() >= {
        "Compact": "10.0 ms", "Best dense engine": "30.0 ms", "Speedup": "3.00x", "From the pass": "1.20x",
        "From pruning": "2.50x", "Over dense torch": "7.00x"}.items()
    assert "torch bf16 is left out: it has no bf16" in texts(app) and machine.processor() in texts(app)
    (table,) = app.dataframe
    row = table.value.iloc[0]
    mask = mask_at_sparsity(run.norms(run.saved("penalty-2x")), run.layout, 0.5)
    foretold = make_profile().speedup(mask, Batch(32, 128), run.heads, "bf16")
    assert (row["Speedup"], row["Over torch fp32"], row["From pruning"]) == (3.0, 7.0, 2.5)
    assert row["Predicted"] == pytest.approx(foretold)
    assert (row["Best dense engine"], row["Ran"], row["Executed"]) == ("openvino bf16", "bf16 avx512", "strips")
    files.append_sealed(run.answers.timings_file, MEASURED | {"speedup_over_best": 1.1 * foretold})
    assert "Measured" not in texts(opened("speed", phase="penalty-2x")).replace("**Measured**", "")
    files.append_sealed(run.answers.timings_file, MEASURED | {"speedup_over_best": 0.5, "load": 9.0})
    said = texts(opened("speed", phase="penalty-2x"))
    assert f"Measured 0.50x, predicted {foretold:.2f}x: the machine was busy (load 9.0" in said


def test_what_was_timed_otherwise_is_not_mixed(runs_dir):
    run = Run(make_run(runs_dir))
    profile_files.write(make_profile(), loaders.own_profile_file())
    old = {name: value for name, value in MEASURED.items() if name not in (
        "rivals_ms", "rivals_left_out", "best_rival", "speedup_over_best", "from_pass", "from_pruning", "unpruned_ms",
        "path", "processor")} | {"dtype": "fp32", "executed": {"strips": 12}}
    for other in (MEASURED, old, old | {"dtype": "bf16"}, MEASURED | {"dtype": "bf16"}, MEASURED | {"threads": 99},
                  MEASURED | {"processor": "another"}, MEASURED | {"path": "bf16 avx512"},
                  MEASURED | {"machine": MEASURED["machine"] | {"cpu": "another"}}):
        files.append_sealed(run.answers.timings_file, other)
    for dtype, speedups in (("auto", [3.0]), ("fp32", [7.0]), ("bf16", [3.0])):
        (table,) = checked(opened("speed", phase="penalty-2x", dtype=dtype)).dataframe
        assert table.value["Speedup"].tolist() == speedups
    assert not opened("speed", phase="penalty-2x", dtype="int8").dataframe


def test_a_measurement_that_could_not_be_kept_is_read_from_what_the_command_said(runs_dir, monkeypatch):
    make_run(runs_dir)
    profile_files.write(make_profile(), loaders.own_profile_file())
    log = processes.log_file(jobs._name("measurement of sample"), runs_dir)
    files.write_whole(log, b"100%|##| timing 8 in turn\n" + json.dumps(MEASURED).encode() + b"\n")
    (table,) = checked(opened("speed")).dataframe
    assert table.value["Speedup"].tolist() == [3.0]


def test_another_devices_profile_is_loaded_kept_and_chosen(runs_dir):
    make_run(runs_dir)
    app = opened("speed")
    content = json.dumps(make_profile("a processor").to_json()).encode()
    app.file_uploader[0].set_value(("phone.json", content, "application/json")).run()
    checked(app)
    assert app.selectbox(key="profile").options == ["a processor, 2 threads"] and "Predicted speedup" in metrics(app)
    assert "a processor, 2 threads" in opened("speed").selectbox(key="profile").options


@pytest.mark.parametrize("content", [b"no json", b"[1]", b'{"format": 1}', b"\xff"])
def test_what_is_no_profile_is_refused_in_one_line(runs_dir, content):
    make_run(runs_dir)
    app = opened("speed")
    app.file_uploader[0].set_value(("odd.json", content, "application/json")).run()
    assert len(checked(app).error) == 1 and not profile_files.loaded()


def test_a_measurement_that_fails_is_one_line(runs_dir):
    make_run(runs_dir)
    profile_files.write(make_profile(), loaders.own_profile_file())
    log = processes.log_file(jobs._name("measurement of sample"), runs_dir)
    files.write_whole(log, b"error: length 128 is more than this model has positions for\n")
    app = opened("speed")
    assert "more than this model has positions for" in texts(app)
    assert any(b.label.startswith("Try again") for b in app.button)


def test_a_damaged_profile_is_left_out(runs_dir):
    make_run(runs_dir)
    loaders.own_profile_file().parent.mkdir(parents=True)
    loaders.own_profile_file().write_text('{"format": 1}')
    assert "Calibrate this machine" in texts(opened("speed"))


# ---------------------------------------------------------------- explore


def sent(app: AppTest) -> dict:
    """The header of what the map in the browser was sent, its norms as `norms`."""
    (element,) = (one for one in app.get("bidi_component") if one.proto.component_name == "prunescope_map")
    blob = element.proto.bytes
    (length,) = struct.unpack("<I", blob[:4])
    said = json.loads(blob[4 : 4 + length])
    groups = sum(m["down"] * m["across"] for m in said["header"]["matrices"])
    norms = np.frombuffer(blob, "<f4", groups, 4 + length)
    return said["header"] | said["now"] | {"norms": norms, "rest": len(blob) - 4 - length - 4 * groups}


def test_explore_says_what_masks_count(runs_dir):
    run = Run(make_run(runs_dir))
    app = opened("explore", run="sample", at="penalty-2x", cut="global@0.52")
    at = run.saved("penalty-2x")
    mask = mask_at_sparsity(run.norms(at), run.layout, 0.52)
    kept, blocks = (sum(f(v) for v in mask.kept.values()) for f in (np.sum, np.size))
    score, low, high = predict(run.snapshots[at].surface, mask.sparsity)
    assert f"{kept:,} of {blocks:,} blocks are kept at penalty-2x, sparsity {mask.sparsity:.1%}" in texts(app)
    assert "estimated from recorded scores at nearby cuts" in texts(app) and f"{low:.3f} – {high:.3f}" in texts(app)
    recorded = opened("explore", run="sample", at="retrain-2x", cut="global@0.3")  # 50% is zero there already
    assert "is of this very cut" in texts(recorded)


def test_the_map_is_sent_the_norms_and_all_moments(runs_dir):
    run = Run(make_run(runs_dir))
    header = sent(opened("explore", at="dense"))
    expected = np.concatenate([v.ravel() for v in run.norms(run.saved("dense")).values()])
    np.testing.assert_array_equal(header["norms"], expected)
    assert header["rest"] == 0, "moments are sent only when they are played"
    assert [m["label"] for m in header["moments"]] == [run.snapshots[at].label for at in run.with_norms]
    assert [m["end"] for m in header["moments"]].count(True) == len(run.stages)
    assert header["modelWeights"] == run.layout.model_weights
    assert [len(points) for points in header["surfaces"].values()] == [20]


@pytest.mark.parametrize("scope, share", [("matrix", 0.375), ("layer", 0.6), ("type", 0.1), ("global", 0.0)])
def test_the_address_says_what_is_cut(runs_dir, scope, share):
    run = Run(make_run(runs_dir))
    app = opened("explore", at="dense", cut=f"{scope}@{share}")
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, share, scope)
    assert f"at dense, sparsity {mask.sparsity:.1%}" in texts(app)
    assert sent(app)["start"]["cut"] == {"scope": scope, "share": share, "thresholds": None, "formats": ""}
    hint = "Scores were recorded only for cuts with one threshold for the whole encoder"
    assert (hint in texts(app)) == (scope != "global")


def test_thresholds_in_the_address(runs_dir):
    run = Run(make_run(runs_dir))
    mask = mask_at(run.norms(run.saved("dense")), run.layout, {"layer 0": 0.3, "layer 1": 0.7}, "layer")
    app = opened("explore", at="dense", cut="layer:0.3,0.7", zoom=run.layout.matrices[2].name, key="layer 1",
                 pin="dense~global@0.5")
    assert f"at dense, sparsity {mask.sparsity:.1%}" in texts(app)
    start = sent(app)["start"]
    assert (start["key"], start["zoom"]) == ("layer 1", run.layout.matrices[2].name)
    (pin,) = start["pins"]
    pinned = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.5)
    assert (pin["name"], pin["numbers"]["sparsity"]) == ("A", pinned.sparsity)
    assert "Pinned settings" in texts(app)


@pytest.mark.parametrize("address", [
    {"at": "nowhere"}, {"cut": "rows@2"}, {"cut": "layer:1"}, {"zoom": "nothing"}, {"key": "layer 99"}, {"pin": "x~y"},
    {"cut": "global@1e999"}, {"pin": "dense~global@7"}])
def test_a_wrong_address_opens_the_run_as_it_cuts_itself(runs_dir, address):
    run = Run(make_run(runs_dir))
    app = opened("explore", **address)
    start = sent(app)["start"]
    assert start["cut"]["share"] == 0 and start["zoom"] is None and start["pins"] == [] and start["key"] is None
    assert run.snapshots[run.with_norms[sent(app)["moment"]]].label == "retrain-2x"


def test_a_moment_without_a_surface_predicts_no_score(runs_dir):
    run = Run(make_run(runs_dir))
    at = run.with_norms[1]
    app = opened("explore", at=run.snapshots[at].label)
    assert "No score is predicted here" in texts(app) and sent(app)["surfaces"] == {}


def sensitivities(run: Run) -> list[Sensitivity]:
    """Layer 0 costs nothing, layer 1 much."""
    points = [Sensitivity("layer", f"layer {at}", share, 0.1, 0.1, 0.9 - at * share / 4, 0.0, 1.0, 872)
              for at in (0, 1) for share in (0.25, 0.5, 0.9)]
    run.answers.sensitivity_file("dense").write_bytes(b"".join(files.sealed(vars(p)) for p in points))
    return points


def test_parts_say_what_each_layer_costs_and_which_is_the_most_sensitive(runs_dir):
    run = Run(make_run(runs_dir))
    app = opened("explore", at="dense", view="Layers and matrices")
    assert "The cost of cutting only one layer was not recorded for dense yet." in texts(app)
    sensitivities(run)
    app = opened("explore", at="dense", view="Layers and matrices")
    table = app.dataframe[0].value if app.dataframe else app.get("arrow_data_frame")[0].value
    assert list(table["Part"]) == ["layer 0", "layer 1"]
    assert table["Alone"][0].startswith("robust: +0.0 at 25%")
    assert table["Alone"][1].startswith("sensitive: −6.2 at 25%")
    said = texts(app)
    assert "**Most sensitive: layer 1**: cutting half of it alone costs 12.5 points. " in said
    assert "**Least: layer 0**: costs nothing. " in said
    assert "cutting each layer alone at 25, 50 and 90% and scoring all 872 dev sentences" in said
    assert "They take weights, which are not included for dense" in said and "Propose" not in str(app.button)
    lines = run.answers.sensitivity_file("dense").read_bytes().splitlines(keepends=True)
    run.answers.sensitivity_file("dense").write_bytes(b"".join(lines[:4]))  # as while they are being recorded
    said = texts(opened("explore", at="dense", view="Layers and matrices"))
    assert "Most sensitive" not in said and "not recorded for dense yet: 4 scores are there" in said


def test_a_zoomed_matrix_shows_its_norms_over_time(runs_dir):
    run = Run(make_run(runs_dir))
    name = run.layout.matrices[3].name
    app = opened("explore", at="dense", view="Results", zoom=name)
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.5)
    assert f"{mask.matrix_sparsity(name):.1%} of it is cut" in texts(app) and len(app.get("plotly_chart")) == 1


def test_what_is_slow_to_draw_waits_for_the_map(runs_dir):
    make_run(runs_dir)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300).run()
    app.switch_page(PAGES["explore"]).run()
    assert sent(checked(app)) and not app.get("plotly_chart") and app.get("skeleton")


def test_presentation_hides_the_details(runs_dir):
    make_run(runs_dir)
    app = opened("explore", present="true")
    assert sent(app)["present"] > 0 and not app.get("plotly_chart")


@pytest.mark.parametrize("view", ["Score and speed", "Results", "Training history"])
def test_every_tab_opens(runs_dir, view):
    make_run(runs_dir)
    app = opened("explore", view=view)
    if view == "Results":
        assert list(app.dataframe[0].value["score_retrained"]) == [0.885]
    else:
        assert len(app.get("plotly_chart")) == 1


def test_a_run_without_norms_and_one_with_a_damaged_file(runs_dir):
    make_run(runs_dir, "fresh", finish=False, upto=3)
    assert "no block norms yet" in texts(opened("explore", run="fresh"))
    path = make_run(runs_dir, "damaged")
    for file in (path / "norms").iterdir():
        file.write_bytes(b"nonsense")
    assert "cannot be read" in texts(opened("explore", run="damaged"))


class FakeClient:
    """Answers as it is told, and keeps what was asked."""

    def __init__(self, *answers: Answer):
        self.answers, self.asked, self.left = list(answers), [], []

    def want(self, who, question, again=False):
        self.asked.append(question)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def ahead(self, question):
        return 2

    def waiting(self):
        return 1

    def failed_alike(self, question):
        return ""

    def leave(self, who):
        self.left.append(who)

    def forget_failures(self):
        self.answers = [Answer()]


def with_weights(runs_dir: Path, monkeypatch, *answers: Answer) -> FakeClient:
    """A run whose dense weights seem to be there, and a client that is told what to say."""
    path = make_run(runs_dir)
    (path / "weights").mkdir(exist_ok=True)
    (path / "weights" / "dense.safetensors").touch()
    client = FakeClient(*answers)
    monkeypatch.setattr(loaders, "score_client", lambda: client)
    return client


def test_the_exact_score_of_what_is_in_view_comes_by_itself(runs_dir, monkeypatch):
    result = {"sparsity": 0.5, "score": 0.8765, "low": 0.85, "high": 0.9, "examples": 872, "seconds": 1.4}
    client = with_weights(runs_dir, monkeypatch, Answer("done", 872, 872, 0.8765, 0.85, 0.9, result))
    app = opened("explore", at="dense")
    run = Run(runs_dir / "sample")
    (asked,) = set(client.asked)
    assert (asked.run, asked.stage, asked.cut.scope, asked.data) == (str(run.path), "dense", "global", "")
    assert dict(asked.cut.thresholds) == thresholds_for(run.norms(run.saved("dense")), run.layout, 0.5)
    assert "**0.8765**" in texts(app) and "872 examples, 1.4 s" in texts(app)
    assert "Try again" not in [b.label for b in app.button]


def test_the_running_score_stands_there_before(runs_dir, monkeypatch):
    with_weights(runs_dir, monkeypatch, Answer("scoring", 96, 872, 0.875, 0.79, 0.93))
    said = texts(opened("explore", at="dense"))
    assert "**0.875**" in said and "0.790 – 0.930" in said and "96 of 872" in said


def test_waiting_for_others_is_told(runs_dir, monkeypatch):
    with_weights(runs_dir, monkeypatch, Answer())
    assert "2 before it" in texts(opened("explore", at="dense"))


def test_an_exact_score_that_fails_is_one_line_and_can_be_tried_again(runs_dir, monkeypatch):
    with_weights(runs_dir, monkeypatch, Answer("failed", error="run 'sample' needs sst2, which is not at nowhere now"))
    app = opened("explore", at="dense")
    assert "needs sst2, which is not at nowhere now" in texts(app)
    next(b for b in app.button if b.label == "Try again").click().run()
    assert "starting" in texts(checked(app)) or "before it" in texts(app)


def test_without_weights_nothing_is_asked_and_the_page_says_why(runs_dir, monkeypatch):
    client = FakeClient(Answer())
    monkeypatch.setattr(loaders, "score_client", lambda: client)
    make_run(runs_dir)
    app = opened("explore", at="dense")
    assert "No exact score for this stage: its weights are not included." in texts(app) and not client.asked
    assert "Make the weights (about 2 min)" in [b.label for b in app.button]


# ---------------------------------------------------------------- from outside: addresses, texts

HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>`[x](javascript:alert(3))"
HOSTILE = ("../../etc/passwd", "-1", "1e999", "nan", "\0", "x" * 5000, HTML, "{{7*7}}", "%00",
           "sample'; DROP TABLE runs")


@pytest.mark.parametrize("page", PAGES)
def test_no_address_breaks_a_page(runs_dir, page):
    make_run(runs_dir)
    names = ("run", "at", "cut", "key", "zoom", "view", "present", "score", "repair",
             "sparsity", "phase", "batch", "step", "task", "others")
    for value in HOSTILE:
        app = opened(page, **dict.fromkeys(names, value))
        assert not any("Traceback" in one.value for one in app.error)
        app = opened(page, run="sample", **dict.fromkeys(names[1:], value), pin=[value] * 20)
        assert not any("Traceback" in one.value for one in app.error)


@pytest.mark.parametrize("page", ["", *PAGES])
def test_no_text_from_a_run_becomes_html_or_a_link(runs_dir, page):
    path = make_run(runs_dir)
    about = json.loads((path / "run.json").read_bytes())
    about |= {"notes": [HTML], "command": HTML, "data": HTML}
    about["task"] |= {"name": HTML, "labels": [HTML, HTML]}
    about["config"]["model"] = HTML
    for matrix in about["layout"]["matrices"]:
        matrix["type"] += HTML
    (path / "run.json").write_text(json.dumps(about))
    app = opened(page, run="sample")
    for kind in ("markdown", "caption", "header", "title", "info", "warning", "error", "success"):
        for one in app.get(kind):
            raw = getattr(one, "value", "") or ""
            assert not getattr(one, "allow_html", False) or "<script" not in raw
            assert "[x](javascript" not in re.sub("`[^`]*`", "", raw).replace("\\", "~"), raw[:300]


# ---------------------------------------------------------------- deleting


def test_a_run_is_deleted_after_asking_and_undone(runs_dir):
    make_run(runs_dir, "mine")
    app = opened()
    app.button(key="delete mine").click().run()
    assert "leaves the list" in texts(checked(app)) and (runs_dir / "mine").is_dir()  # asked, not done
    next(b for b in app.button if b.label == "Move to the trash").click().run()
    assert "is in the trash" in texts(checked(app)) and not (runs_dir / "mine").exists()
    assert "You have no runs yet" in texts(app)
    next(b for b in app.button if b.label == "Undo").click().run()
    assert "mine is back" in texts(checked(app)).replace("*", "") and Run(runs_dir / "mine").status == "complete"
    assert not [b for b in app.button if b.label == "Undo"]


def test_a_deleted_run_is_erased_only_from_the_trash(runs_dir):
    make_run(runs_dir, "mine")
    key = trash.delete("mine", runs_dir).key
    app = opened()
    assert "Trash (1)" in [one.label for one in app.expander]
    app.button(key=f"erase {key}").click().run()
    assert checked(app) and trash.deleted(runs_dir) == []
    assert not [one for one in app.expander if one.label.startswith("Trash")]


def test_a_run_that_is_written_cannot_be_deleted(runs_dir):
    path = make_run(runs_dir, "mine", finish=False, upto=6)
    with Recorder(path, 6):
        assert opened().button(key="delete mine").disabled
    assert not opened().button(key="delete mine").disabled


# ---------------------------------------------------------------- take away


def test_the_exploration_is_offered_as_a_notebook_and_a_model_only_where_weights_are(runs_dir, monkeypatch):
    run = Run(make_run(runs_dir))
    app = opened("explore", view="Export", at="penalty-2x", pin="dense~global@0.25")
    assert [b.label for b in app.get("download_button")] == ["Notebook"]
    assert "penalty-2x cannot be exported. Its weights are not included" in texts(app)
    (run.path / "weights" / "penalty-2x.safetensors").write_bytes(b"only its name is looked at")
    said = {"compression_encoder": 2.0, "score": 0.875, "dtype": "fp32", "executed": {"dtype": "fp32"},
            "folder_bytes": 91_000_000, "bytes_dense": 90_000_000, "bytes": 70_000_000,
            "bytes_without_index": 69_900_000}
    asked = []

    def export(*question):
        asked.append(question)
        question[3].mkdir()
        (question[3] / "config.json").write_text("{}")
        return said

    monkeypatch.setattr(processes, "export", export)
    app = opened("explore", view="Export", at="penalty-2x")
    assert "This cut was not retrained: retrain-2x of this run scores 0.885." in texts(app)
    next(b for b in app.button if b.label == "Prepare").click().run()
    assert asked[0][:3] == ("sample", runs_dir, "hf") and (asked[0][4], asked[0][5].scope) == ("penalty-2x", "global")
    text = texts(checked(app)).replace("\\", "")
    assert "accuracy 0.8750" in text and "neither smaller nor faster" in text
    assert list(app.table[0].value["Size"]) == ["91.0 MB", "90.0 MB", "70.0 MB", "69.9 MB"]
    assert "--to=hf --phase=penalty-2x --scope=global --sparsity=0.5" in app.code[0].value
    assert "--bits" not in app.code[0].value
    assert len(app.get("download_button")) == 2 and not [b for b in app.button if b.label == "Prepare"]

    app.segmented_control(key="take as").set_value("packed").run()
    next(b for b in checked(app).button if b.label == "Prepare").click().run()
    assert asked[1][2] == "packed" and "stores only what is kept" in texts(checked(app))

    def fail(*_):
        raise Failed("the model cannot be written")

    monkeypatch.setattr(processes, "export", fail)
    app = opened("explore", view="Export", at="penalty-2x")
    next(b for b in app.button if b.label == "Prepare").click().run()
    assert "the model cannot be written" in texts(checked(app))


def test_the_command_that_writes_a_model_says_its_formats(runs_dir):
    run = Run(make_run(runs_dir))
    cut = Cut("matrix", None, (("a", 0.5),), "surgeon", True, "8/2:4;a8;e8")
    assert take_away.command(run, "packed", "penalty-2x", cut, "int8") == (
        "python -m prune_core export sample FOLDER --to=packed --phase=penalty-2x --scope=matrix "
        """'--threshold={"a": 0.5}' --by=surgeon --bits=8 --pattern=2:4 --activation-bits=8 --embedding-bits=8 """
        "--repair --dtype=int8")


# ---------------------------------------------------------------- compare


def test_compare_without_runs_says_what_to_do(runs_dir):
    assert "Start one on the **Prune** page." in texts(opened("compare"))
    make_run(runs_dir, "begun", finish=False, upto=8)
    assert "No run has been retrained yet" in texts(opened("compare"))


def test_compare_takes_ones_own_of_two_runs_of_one_name(runs_dir, tmp_path):
    make_run(runs_dir, "twice", data="practice", upto=12, finish=False)  # before a run of this name was shipped
    for name in ("twice", "other"):
        (tmp_path / "recorded").mkdir(exist_ok=True)
        make_run(tmp_path / "made", name).rename(tmp_path / "recorded" / name)
    app = opened("compare")
    assert app.selectbox(key="task").options == ["sst2"] and app.multiselect(key="runs of sst2").value == ["other"]


def test_compare_shows_runs_in_a_curve_a_table_and_words(runs_dir):
    make_run(runs_dir, "one")
    make_run(runs_dir, "two", compression=3.0, scope="matrix")
    app = opened("compare")
    compared = app.dataframe[0].value
    assert sorted(compared["Runs"]) == ["one", "two"] and list(compared["Score"]) == [0.885, 0.885]
    assert len(app.get("plotly_chart")) == 1
    differ = app.dataframe[1].value
    assert set(differ["Setting"]) == {"scope", "compressions"}
    run = loaders.run("one")
    size, dense = run.points[0]["bytes"], 4 * run.layout.model_weights
    row = compared[compared["Runs"] == "one"].iloc[0]
    assert row["MB"] == pytest.approx(size / 1e6) and row["Fewer"] == pytest.approx(dense / size)
    assert "Formats" not in compared
    assert len(opened("compare", axis="bytes of the encoder").get("plotly_chart")) == 1
    for axis in ("compression of the whole model", "predicted speedup"):
        app = opened("compare", axis=axis)
    assert "calibrate this machine on **Speed**" in texts(app)
    profile_files.write(make_profile(), loaders.own_profile_file())
    assert len(opened("compare", axis="predicted speedup").get("plotly_chart")) == 1


def test_compare_answers_on_top_and_the_table_is_sorted_by_it(runs_dir):
    for name, compression, scope in (("one", 2.0, "global"), ("two", 3.0, "matrix")):
        make_run(runs_dir, name, compression=compression, scope=scope)
    app = opened("compare")
    assert app.subheader[0].value.replace("\\", "").startswith("None is within 1 point of dense (0.900): ")
    app.number_input(key="points").set_value(1.5).run()
    profile_files.write(make_profile(), loaders.own_profile_file())
    app.run()
    speedup = compare.predicted(make_profile())(loaders.run("two"), {"compression": 3.0})
    told = f"Within 1.5 points of dense (0.900): 3x by group-lasso, 0.885, {speedup:.1f} times as fast (predicted)"
    assert checked(app).subheader[0].value.replace("\\", "") == told
    table = app.dataframe[0].value
    assert list(table["Answer"]) == ["★", ""] and list(table["Runs"]) == ["two", "one"]
    assert list(table["Within"]) == ["yes", "yes"] and list(table["Loss"]) == pytest.approx([1.5, 1.5])
    assert "**group-lasso** adds a penalty" in texts(app) and "Speedups are predicted for this machine" in texts(app)
    asked = opened("compare", points="20", aim="Model compression")
    assert asked.number_input(key="points").value == 20.0 and "whole model" in asked.subheader[0].value


def test_compare_measures_what_was_not_timed_here(runs_dir, monkeypatch):
    run = Run(make_run(runs_dir, "one"))
    profile_files.write(make_profile("a processor"), loaders.own_profile_file())
    assert "timed on this machine" not in texts(opened("compare"))
    app = opened("compare", axis="measured speedup")
    assert "1 of these models has not been timed on this machine yet" in texts(app) and not app.get("plotly_chart")
    said = MEASURED | {"run": "one", "phase": "retrain-2x", "speedup_over_best": 1.75}
    busy = {"speedup_over_best": 0.5, "load": 99.0, "when": 1.8e9, "dense_ms": 1e6}
    others = ({"batch": 1, "speedup_over_best": 9.0}, {"machine": {"cpu": "another", "cores": 2}},
              {"sparsity": 0.9, "speedup_over_best": 7.0}, {"rivals_ms": {"torch fp32": 70.0}}, busy)
    asked = []

    def measure(question):
        asked.append(question[2:])
        for other in others:
            files.append_sealed(run.answers.timings_file, said | other)

    monkeypatch.setattr(processes, "measure", measure)
    next(b for b in app.button if b.label == "Measure 1 now, about 40 s").click().run()
    assert asked == [[f"--runs-dir={runs_dir}", "--phase=retrain-2x", "--scope=global", "--sparsity=0.5", "--batch=32",
                      "--length=128", "--dtype=auto"]]
    assert len(checked(app).get("plotly_chart")) == 1 and "not been timed on this machine" not in texts(app)
    assert timings.timed(run, "retrain-2x") == 0.5
    assert "Measured 1 model in " in texts(app) and "the machine was busy (load 99.0" in texts(app)
    assert "the dense model took 1,000,000 ms" in texts(app)
    assert "0.5 times as fast (measured)" in app.subheader[0].value  # all are measured, so the answer is by that


# ---------------------------------------------------------------- prune


def test_prune_estimates_and_refuses_bad_settings(runs_dir):
    app = opened("prune")
    told = metrics(app)["From Start to the end"]
    assert re.fullmatch(r"about \d+ (s|min)", told) and f"quick: {told}; to see" in texts(app)
    assert "GFLOP/s" in texts(app)
    plain, taught = (estimate.estimate(preset("quick", distill=share), []).seconds for share in (0.0, 0.9))
    assert 1.0 < taught / plain < 1.34  # the teacher's pass: a third of a step for each batch, at most
    make_run(runs_dir, "measured")
    app = opened("prune")
    next(one for one in app.segmented_control if one.label == "Preset").set_value("standard").run()
    assert "0.40 s a step, measured on this machine in run measured" in texts(app)
    app.multiselect[0].set_value(["0.5"]).run()
    assert "compression 0.5 is out of range" in texts(checked(app))
    assert not [button for button in app.button if button.label == "Start"]


def test_prune_tells_one_time_and_what_cannot_be_learned(runs_dir, tiny_model, monkeypatch):
    """The card, the preset's words and what stands there while the run starts are one number."""
    monkeypatch.setattr(processes, "start", lambda *_: None)
    monkeypatch.setattr(loaders, "models", lambda: ["minilm", "someone/model", str(tiny_model)])
    app = opened("prune")
    labelled(app.selectbox, "Task").select("rte").run()
    told = metrics(checked(app))["From Start to the end"]
    assert f"quick: {told}; " in texts(app) and "quick cannot teach rte anything" in texts(app)
    labelled(app.selectbox, "Task").select("mrpc").run()
    told = metrics(checked(app))["From Start to the end"]
    assert "cannot teach" not in texts(app)
    monkeypatch.setattr(processes, "starting", lambda *_: psutil.Process())
    next(button for button in app.button if button.label == "Start").click().run()
    assert [bar.text.endswith(f"{told} left") for bar in checked(app).get("progress")] == [True]
    labelled(app.selectbox, "Model").select("someone/model").run()
    assert metrics(checked(app))["From Start to the end"] == "known after a minute"
    labelled(app.selectbox, "Model").select(str(tiny_model)).run()
    assert metrics(checked(app))["From Start to the end"].startswith("about ")


def test_the_bar_says_nothing_that_is_not_known(runs_dir):
    path = make_run(runs_dir, "new", finish=False)
    (path / "status.json").unlink()
    with Recorder.reopen(path) as recorder:
        assert "so far" not in "".join(bar.text for bar in opened("prune", run="new").get("progress"))
        recorder.status(phase="dense", step=3, steps=90, seconds=2.0, seconds_left=88.0)
        (bar,) = opened("prune", run="new").get("progress")
    assert re.sub(r"\\(.)", r"\1", bar.text) == "dense: training · step 3 of 90 · 2 s so far · about 88 s left"


def test_own_data_is_uploaded_checked_and_started(runs_dir, monkeypatch):
    app = opened("prune")
    next(t for t in app.toggle if t.label == "Your own file").set_value(True).run()
    assert "Choose your file" in texts(checked(app))
    app.file_uploader[0].set_value(("moods.csv", b"words,mood\n" + b"a,1\n" * 30, "text/csv")).run()
    assert "which column is the label? There are: words, mood" in texts(checked(app))
    good = b"words,mood\n" + b"".join(f"a fine day {row},{('glad', 'sad')[row % 2]}\n".encode() for row in range(40))
    app.file_uploader[0].set_value(("moods.csv", good, "text/csv")).run()
    next(s for s in app.selectbox if s.label == "Label").select("mood").run()
    assert "40 rows, text words, 2 classes: glad, sad" in texts(checked(app)).replace("\\", "")
    assert metrics(app)["From Start to the end"].startswith("about ")  # by the length of its sentences
    started = []
    monkeypatch.setattr(processes, "start", lambda *given: started.append(given))
    next(button for button in app.button if button.label == "Start").click().run()
    ((config, name, folder),) = started
    table = Path(config.data)
    assert (config.columns, config.label, table.read_bytes(), table.name) == ((), "mood", good, "moods.csv")
    assert name.startswith("moods-own-") and "--label=mood" in processes.arguments(config, name, folder)
    assert runs_dir in Path(config.data).parents


def test_whole_numbers_of_own_data_are_a_score_by_a_switch(runs_dir, monkeypatch):
    app = opened("prune")
    next(t for t in app.toggle if t.label == "Your own file").set_value(True).run()
    stars = b"text,label\n" + b"".join(f"a day {row},{row * 7 % 101}\n".encode() for row in range(60))
    app.file_uploader[0].set_value(("stars.csv", stars, "text/csv")).run()
    assert "if they are a score, give --regression" in texts(checked(app)).replace("\\", "")
    next(t for t in app.toggle if t.label == "Labels are a score").set_value(True).run()
    assert "60 rows, text text, numbers." in texts(checked(app)).replace("\\", "")
    started = []
    monkeypatch.setattr(processes, "start", lambda *given: started.append(given))
    next(button for button in app.button if button.label == "Start").click().run()
    ((config, name, folder),) = started
    assert config.regression and "--regression" in processes.arguments(config, name, folder)


def test_data_that_the_hub_lacks_is_said_before_and_a_click_takes_the_practice_set(runs_dir, monkeypatch):
    asked: Future = Future()
    started = []
    monkeypatch.setattr(loaders, "hub_data", lambda task: asked)
    monkeypatch.setattr(processes, "start", lambda *given: started.append(given))
    app = opened("prune")
    instead = "Train on the practice set instead"
    assert "Asking whether the hub" in texts(app) and instead not in [button.label for button in app.button]
    asked.set_result("the hub did not answer; check the network")
    said = texts(checked(app.run()))
    assert "the hub did not answer; check the network" in said and "not GLUE" in said and "Asking" not in said
    next(button for button in app.button if button.label == instead).click().run()
    ((config, name, folder, more),) = started
    assert config.data == "nyu-mll/glue" and more == "--practice"
    next(box for box in app.selectbox if box.label == "Data").select("practice").run()
    assert instead not in [button.label for button in app.button]


def test_a_glue_folder_that_is_known_stands_in_the_field(runs_dir, tmp_path, monkeypatch):
    def data(app: AppTest) -> str:
        return next(box for box in app.selectbox if box.label == "Data").value

    assert data(opened("prune")) == "nyu-mll/glue"
    for name in ("last", "told", "typed"):
        (tmp_path / name).mkdir()
    make_run(runs_dir, "one", data=str(tmp_path / "last"))
    app = opened("prune")
    assert data(app) == str(tmp_path / "last") and "where run one had it" in texts(app)
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path / "told"))
    app = opened("prune")
    assert data(app) == str(tmp_path / "told") and "from PRUNESCOPE_DATA" in texts(app)
    app = opened("explore", run="one")
    app.text_input(key="data").set_value(str(tmp_path / "typed")).run()
    app.switch_page(PAGES["prune"]).run()
    assert data(checked(app)) == str(tmp_path / "typed") and "the field on Explore" in texts(app)
    assert processes.arguments(preset("quick", data=data(app)), "x", runs_dir)[0] == "prune"


def test_a_download_is_shown_with_its_share_and_the_time_left(runs_dir, monkeypatch):
    log = processes.log_file("slow", runs_dir)
    log.parent.mkdir(parents=True)
    log.write_text("downloading a/b: model.safetensors   3%|#   | 1M/30M, 00:50 left\r"
                   "downloading a/b: model.safetensors  43%|##### | 13.0M/30.0M, 00:12 left")
    monkeypatch.setattr(processes, "starting", lambda name, runs_dir: psutil.Process())
    bars = opened("prune", run="slow").get("progress")
    assert [(bar.value, re.sub(r"\\(.)", r"\1", bar.text)) for bar in bars] == [
        (43, "Starting: downloading a/b: model.safetensors: 43%, 13.0M/30.0M, 00:12 left")]


def test_a_start_that_fails_shows_its_error_line(runs_dir, monkeypatch):
    """Before there is a run folder, the log is all there is."""

    app = opened("prune")
    app.text_input[0].set_value("doomed").run()
    python = runs_dir.parent / "python"
    python.write_text("#!/bin/sh\necho loading >&2\n"
                      "echo 'error: model no/such is neither a folder nor on the hub' >&2\nexit 2\n")
    python.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(python))
    next(button for button in app.button if button.label == "Start").click().run()
    wait(lambda: processes.starting("doomed", runs_dir.resolve()) is None)
    app.run()
    assert "model no/such is neither a folder nor on the hub" in texts(checked(app))
    assert app.query_params["run"] in ("doomed", ["doomed"])


def test_an_interrupted_run_can_be_resumed_and_a_name_cannot_be_taken_twice(runs_dir):
    make_run(runs_dir, "stopped", finish=False)
    app = opened("prune", run="stopped")
    assert "Stopped early" in texts(app)
    assert [button for button in app.button if button.label == "Resume"]
    app.text_input[0].set_value("stopped").run()
    next(button for button in app.button if button.label == "Start").click().run()
    assert "run 'stopped' exists" in texts(checked(app))


@pytest.mark.parametrize("name", ["../../etc", "no-such-run"])
def test_a_url_that_names_no_run(runs_dir, name):
    assert "run" in opened("prune", run=name).error[0].value


def wait(until, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


# ---------------------------------------------------------------- processes


def test_arguments_say_every_setting(tmp_path):

    args = processes.arguments(PruneConfig(compressions=(1.5, 2), model="-odd", threads=2), "name", tmp_path)
    assert args[0] == "prune" and args[-1] == "--json"
    assert {"--model=-odd", "--compression=1.5,2", "--run=name", f"--runs-dir={tmp_path}", "--block=64x1", "--seed=0",
            "--method=group-lasso", "--score=activation", "--distill=0.9"} <= set(args)


def test_cancel_stops_the_runs_process_and_no_other(runs_dir):

    path = make_run(runs_dir, "sample", finish=False)
    run = Run(path)
    assert processes.writer(run) is None  # status.json names the test's own process, which is no prune
    assert not processes.cancel("sample", runs_dir)
    command = [sys.executable, "-c", "import time; time.sleep(900)"]
    module, script = ["-m", "prune_core", "prune"], ["/usr/bin/prunescope", "prune"]
    started = [subprocess.Popen([*command, *how, f"--run={name}"])
               for how, name in ((module, "else"), (module, "sample"), (script, "else"), (script, "sample"))]
    try:
        for process, stopped in zip(started, (False, True, False, True), strict=True):
            (path / "status.json").write_text(json.dumps({"pid": process.pid, "updated": time.time() + 1}))
            assert processes.cancel("sample", runs_dir) is stopped
            assert process.wait(300) != 0 if stopped else process.poll() is None
    finally:
        for process in started:
            process.kill()
            process.wait()


# ---------------------------------------------------------------- what pages may load


def test_pages_load_neither_torch_nor_transformers(runs_dir):
    make_run(runs_dir)
    code = ("import sys\nfrom streamlit.testing.v1 import AppTest\n"
            "app = AppTest.from_file('app.py', default_timeout=300).run()\n"
            "for page in ('1_Prune', '3_Compare', '4_Speed', '5_Learn', '6_Report', '2_Explore'):\n"
            "    app.switch_page(f'pages/{page}.py').run()\n"
            "    assert not app.exception, app.exception[0].message\n"
            "assert app.get('bidi_component'), 'Explore showed nothing'\n"
            "loaded = {'torch', 'transformers', 'datasets'} & set(sys.modules)\nassert not loaded, loaded\n")
    environment = os.environ | {"PRUNESCOPE_RUNS_DIR": str(runs_dir)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_norms_are_shared_read_only(runs_dir):
    from pages.shared import loaders

    run = Run(make_run(runs_dir))
    norms = loaders.norms(run, run.saved("dense"))
    name = run.layout.matrices[0].name
    assert (norms[name] == make_norms(run.layout)[name]).all()
    with pytest.raises(ValueError, match="read-only"):
        norms[name][0, 0] = 1


# ---------------------------------------------------------------- learn


DENSE_WEIGHTS = ROOT / "data/recorded/sst2-minilm-64x1/weights/dense.safetensors"


def learn(number: int) -> AppTest:
    titles = ("1. Blocks", "2. The penalty", "3. Reweighting", "4. A sentence", "5. Speed", "6. Three faults",
              "7. Where it breaks", "8. Fewer bits")
    return checked(opened("learn", step=titles[number - 1]))


def test_learn_is_walked_from_the_first_step_to_the_last(runs_dir, monkeypatch):
    monkeypatch.setattr(processes, "predict", lambda *_: PREDICTED)
    loaders.predicted.clear()
    app, seen = opened("learn"), []
    for _ in range(8):
        seen.append(app.header[0].value)
        assert any(one.label.startswith("Question:") for one in app.expander) or "are not there" in texts(app)
        assert {one.label for one in app.expander} >= {f"{one.step}.{at} {one.asked}" for at, one in
                                                       enumerate(exercises.of_step(len(seen)), 1)}
        following = next(b for b in app.button if b.label == "Next")
        if not following.disabled:
            following.click().run()
            checked(app)
    assert [title[:2] for title in seen] == ["1.", "2.", "3.", "4.", "5.", "6.", "7.", "8."]


def test_learn_shows_what_the_lesson_computes(runs_dir):
    app = learn(1)
    app.radio(key="shape").set_value("4x4").run()
    cut = lesson.cut_matrix(lesson.small_matrix(), BlockShape.parse("4x4"), 0.5)
    assert metrics(app) == {"Blocks": "24", "Weights in each": "16",
                            "Sparsity": "50%", "Share of squared weights kept": f"{cut.energy:.1%}"}
    app = learn(2)
    app.slider(key="lambda").set_value(0.5).run()
    assert metrics(app) == {"Needed block ends at": "0.50", "Barely needed block ends at": "0.00"}
    app = learn(3)
    table = app.dataframe[0].value
    assert table["reweighted"].tolist()[:2] == ["4", "0"] and table["plain"].tolist()[:2] == ["11", "7"]
    app = learn(6)
    assert metrics(app) == {"Milestones reached": "none", "Blocks at zero": "0 of 4"}
    app.slider(key="epochs").set_value(20).run()
    assert metrics(app)["Milestones reached"] == "4, 8, 12, 16" and metrics(app)["Blocks at zero"] != "0 of 4"
    for fault, shown in (("detached", "Copied ends at"), ("cancelled by Adam", "Proximal ends at")):
        app.segmented_control(key="fault").set_value(fault).run()
        assert shown in metrics(checked(app))


PREDICTED = {"labels": ["negative", "positive"], "scope": "global", "sparsities": [0.0, 0.3, 0.6],
             "probabilities": [[pair] * 6 for pair in ([0.1, 0.9], [0.4, 0.6], [0.7, 0.3])]}  # of up to six sentences


def answered(app: AppTest) -> AppTest:
    """The page once what it asks in the background has been answered."""
    wait(lambda: "two idle cores" not in texts(app.run()), 30.0)
    return checked(app)


def test_learn_goes_on_while_the_model_is_asked(runs_dir, monkeypatch):
    held = threading.Event()
    monkeypatch.setattr(processes, "predict", lambda *_: held.wait(60) and PREDICTED)
    loaders.predicted.clear()
    app = learn(4)
    assert "s so far" in texts(app) and "The model says" not in metrics(app)
    next(b for b in app.button if b.label == "Next").click().run()
    assert app.header[0].value == "5. Speed"
    held.set()
    app = answered(learn(4))
    assert metrics(app)["The model says"] == "positive"


def test_learn_says_minutes_and_leads_to_the_real_run(runs_dir):
    for number in range(1, 9):
        app = learn(number)
        assert re.search(r"About \d+ minutes; all 8 steps: \d+", texts(app))
        links = [link.proto for link in app.get("page_link")]
        assert any("Explore" in link.label or "Speed" in link.label for link in links)


def test_learn_asks_the_model_for_a_sentence_once(runs_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(processes, "predict", lambda *question: asked.append(question) or PREDICTED)
    loaders.predicted.clear()
    app = answered(learn(4))
    assert metrics(app) == {"The model says": "positive", "Confidence": "90%", "It changes its mind at": "60%"}
    app.select_slider(key="cut the sentence").set_value(2).run()
    assert metrics(app)["The model says"] == "negative" and asked == [("sst2-minilm-64x1", runs_dir, *SENTENCES)]
    assert f"“{SENTENCES[0]}” at 60%" in texts(app)  # the exercise's answer is the model's
    answered(app.text_input(key="sentence").set_value("dull").run())
    assert asked[1] == ("sst2-minilm-64x1", runs_dir, "dull")

    def fail(*_):
        raise Failed("the weights are gone")

    monkeypatch.setattr(processes, "predict", fail)
    app.text_input(key="sentence").set_value("else").run()
    assert "the weights are gone" in texts(answered(app))


def test_learn_shows_which_dev_sentences_flip_first(runs_dir, monkeypatch):
    monkeypatch.setattr(processes, "predict", lambda *_: PREDICTED)
    flip = {"texts": ["dull *film*"], "sparsity": 0.1, "before": "negative", "after": "positive", "sure": 0.97}
    answer = {"examples": 24, "sparsities": [0.1, 0.5], "lost": [1, 5], "won": [0, 2], "first": [flip]}
    asked = []
    monkeypatch.setattr(processes, "flips", lambda *question: asked.append(question) or answer)
    loaders.flips.clear()
    app = learn(4)
    app.text_input(key="data").set_value("some/folder").run()
    answered(next(b for b in app.button if b.label.startswith("Show them, about")).click().run())
    assert asked == [("sst2-minilm-64x1", runs_dir, "some/folder")]
    assert app.dataframe[0].value["sentence"].tolist() == ["dull *film*"]
    assert "at 10%, 1 became wrong and 0 right; at 50%, 5 became wrong and 2 right" in texts(checked(app))
    app.text_input(key="data").set_value("other").run()
    assert not app.dataframe  # not those of another folder


def test_learn_says_what_is_missing_for_dev_sentences(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "predict", lambda *_: PREDICTED)
    app = learn(4)
    app.text_input(key="data").set_value(str(tmp_path / "nowhere")).run()
    answered(next(b for b in app.button if b.label.startswith("Show them, about")).click().run(timeout=120))
    assert len(app.error) == 1 and "nowhere" in app.error[0].value and "Traceback" not in app.error[0].value


# ---------------------------------------------------------------- report


def test_report_without_runs_says_what_to_do(runs_dir):
    assert "Start one on the **Prune** page." in texts(opened("report"))
    make_run(runs_dir, "begun", finish=False, upto=3)
    assert "There is no run to report on yet" in texts(opened("report"))


def test_report_is_made_from_the_page_and_offered(runs_dir):
    make_run(runs_dir)
    app = opened("report", run="sample")
    assert app.multiselect(key="settings").value == ["retrain-2x"]
    assert "dense, cut 3x by norm" in app.multiselect(key="settings").options
    app.multiselect(key="settings").set_value(["dense, cut 1.5x by norm", "retrain-2x"]).run()
    app.text_input(key="title").set_value("Ours <b>is</b> small").run()
    app.toggle(key="measure for the report").set_value(False).run()
    next(b for b in app.button if b.label == "Make the report").click().run(timeout=180)
    checked(app)
    (_, files, told) = app.session_state["made report"]
    html, markdown = files["html"], files["md"]
    assert "<h1>Ours &lt;b&gt;is&lt;/b&gt; small</h1>" in html and "# Ours &lt;b&gt;is" in markdown
    assert told["recommended"] is None
    assert [b.label.split(" ")[0] for b in app.get("download_button")] == [
        "HTML", "Markdown", "Slides", "PowerPoint"]
    assert files["slides"].count('<section class="slide') == 6 and files["pptx"][:2] == b"PK"
    assert "Do not ship: B, the nearest, loses 1.5 points" in texts(app)
    assert "No setting keeps within 1 point" in texts(app)
    assert "before you changed" not in texts(app)
    app.number_input(key="allowed").set_value(3.0).run()
    assert "before you changed" in texts(checked(app))


def test_report_over_all_runs_of_a_task_names_the_best_of_them(runs_dir):
    make_run(runs_dir, "small", compression=3.0)
    make_run(runs_dir, "large")
    app = opened("report", allowed="2")
    assert app.segmented_control(key="report on").value == "All runs of a task" and not app.multiselect
    assert app.selectbox(key="report task").options == ["sst2"]
    app.toggle(key="measure for the report").set_value(False).run()
    app.text_input(key="price").set_value("much").run()
    assert "cannot be read" in texts(app) and next(b for b in app.button if b.label == "Make the report").disabled
    app.text_input(key="price").set_value("0.40 EUR").run()
    next(b for b in app.button if b.label == "Make the report").click().run(timeout=180)
    checked(app)
    (request, files, told) = app.session_state["made report"]
    assert request[-1] == "0.40 EUR" and told["run"] == "small" and told["verdict"] == "ship with care"
    assert "Runner-up: B, run large, 2x by group-lasso" in files["md"].replace("\\", "")
    checked(app.segmented_control(key="report on").set_value("One run").run())
    assert app.multiselect(key="settings").value


def test_report_opens_on_the_best_stage_and_says_which_run_does_better(runs_dir):
    make_run(runs_dir, "small", compression=3.0)
    make_run(runs_dir, "large")
    app = opened("report", run="large", allowed="2")
    assert app.multiselect(key="settings").value == ["retrain-2x"] and app.number_input(key="allowed").value == 2.0
    assert "Another run does better: small, 3x by group-lasso, 0.885 of 0.900 dense." in texts(app)
    next(b for b in app.button if b.label == "Report on that run").click().run()
    assert checked(app).multiselect(key="settings").value == ["retrain-3x"] and "does better" not in texts(app)
    asked = opened("report", run="large", stage="penalty-2x")
    assert asked.multiselect(key="settings").value == ["penalty-2x", "retrain-2x"]
    for wrong in ({"allowed": "much"}, {"allowed": "-3"}, {"stage": "nowhere"}):
        assert opened("report", run="large", **wrong).multiselect(key="settings").value == ["retrain-2x"]


def test_report_takes_what_explore_sends(runs_dir):
    make_run(runs_dir)
    app = opened("explore", view="Export", pin="dense~global@0.25")
    assert app.session_state["report of"] == "sample"
    assert [one.name for one in app.session_state["report settings"][1]] == ["present", "A"]
    settings = [Setting("present", 10, Cut("global", 0.4)),
                Setting("A", 10, Cut("layer", None, {"layer 0": 0.1, "layer 1": 0.2}))]
    app = opened()
    make_run(runs_dir, "newer")
    app.session_state["report settings"], app.session_state["report of"] = ("sample", settings), "sample"
    app.switch_page(PAGES["report"]).run()
    assert checked(app).multiselect(key="settings").value == ["Explore: present", "Explore: A"]


def test_a_report_that_is_given_up_leaves_no_process(runs_dir):
    make_run(runs_dir)
    asked = ("sample", '[{"at": "dense", "share": 0.5}]', "", "short", "", 0.01, "", False, "fp32")
    steps = iter(Report(runs_dir, *asked))
    assert next(steps)[:2] == (0, 3)
    here = [child for child in psutil.Process().children(recursive=True) if "export" in child.cmdline()]
    steps.close()
    assert here and not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in here)


def test_report_that_fails_says_why_in_one_line(runs_dir):
    run = Run(make_run(runs_dir))
    app = opened("report", run="sample")
    for path in (run.path / "norms").iterdir():
        path.write_bytes(b"damaged")
    next(b for b in app.button if b.label == "Make the report").click().run(timeout=120)
    assert len(checked(app).error) == 1 and "cannot be read" in app.error[0].value and "\n" not in app.error[0].value


def test_learn_shows_recorded_speeds_until_it_measures_here(runs_dir, monkeypatch):
    app = learn(5)
    assert "Measured on " in texts(app)
    found = {"machine": {"cpu": "x"}, "threads": 2, "m": 8, "n": 4, "tokens": 2, "sparsity": 0.8,
             "patterns": [{"pattern": "dense", "speedup": 1.0, "spread": [1.0, 1.0], "ms": 1.0}]}
    monkeypatch.setattr(processes, "shapes", lambda: found)
    next(b for b in app.button if b.label.startswith("Measure on this machine, about")).click().run()
    assert "just now, here, 2 threads: a 8 x 4 matrix" in texts(checked(app))


def test_learn_shows_where_recorded_runs_break():
    app = learn(7)
    assert set(app.segmented_control(key="task that breaks").options) >= {"SST-2", "RTE", "MRPC", "CoLA"}
    assert len(app.get("plotly_chart")) == 1


def test_learn_counts_what_bits_cost():
    app = learn(8)
    row = bits.real_matrix(DENSE_WEIGHTS)[3]
    expected = [f"{bits.rounded(row, '4', rule).error:.2%}" for rule in (False, True)]
    assert [metrics(app)["Error by largest weight"], metrics(app)["Error by least squares"]] == expected
    app.select_slider(key="bits").set_value("ternary").run()
    assert metrics(checked(app))["Levels"] == "3"
    app.segmented_control(key="experiment").set_value("Which comes first").run()
    assert metrics(checked(app))["The sizes that are kept"] == "the same"
    app.segmented_control(key="levels").set_value("evenly from least to largest weight").run()
    assert metrics(checked(app))["The sizes that are kept"] == "differ"
    assert metrics(app)["Zeros pruned then rounded"] == "0 of 8"
    app.segmented_control(key="experiment").set_value("What an index costs").run()
    assert metrics(checked(app))["Removed without index"] == "93.75%"
    assert metrics(app)["Removed with index"] == "90.62%"
    app.segmented_control(key="experiment").set_value("At equal bytes").run()
    best = min(bits.at_equal_bytes(bits.real_matrix(DENSE_WEIGHTS), 8), key=lambda one: one.error)
    assert metrics(checked(app))["Of strips it cuts"] == f"{best.cut:.0%}"


def test_a_checkpoint_of_ones_own_has_a_revision_and_may_have_unknown_words(runs_dir, tiny_model, monkeypatch):
    for number, model in enumerate((str(tiny_model), "someone/model")):
        path = make_run(runs_dir, f"of-{number}")
        about = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps(about | {"config": about["config"] | {"model": model}}))
    started = []
    monkeypatch.setattr(processes, "start", lambda config, *_, **__: started.append(config))
    app = opened("prune")
    assert "Revision" not in [field.label for field in app.text_input]
    labelled(app.selectbox, "Data").select("practice").run()
    labelled(app.selectbox, "Model").select("someone/model").run()
    labelled(app.text_input, "Revision").set_value("v2").run()
    labelled(app.toggle, "Go on with unknown words").set_value(True).run()
    labelled(app.button, "Start").click().run()
    assert (started[0].model, started[0].revision, started[0].allow_unknown) == ("someone/model", "v2", True)
    labelled(app.selectbox, "Model").select(str(tiny_model)).run()
    assert "Revision" not in [field.label for field in app.text_input]


def labelled(elements, label: str):
    return next(one for one in elements if one.label == label)
