"""The app's command lines: what the Prune page starts is parsed by the command line to the very same settings."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from pages.shared import processes
from prune_core import InputError
from prune_core.__main__ import main
from prune_core.cli import train
from prune_core.cli.app import COMMANDS, app
from prune_core.cutting.masks import SCOPES
from prune_core.methods.rankings import in_training
from prune_core.methods.table import METHODS, QUANTIZERS
from prune_core.runs.config import (
    CONTROLS,
    OPTIONS,
    PENALTIES,
    PRECISIONS,
    PRESETS,
    PruneConfig,
    preset,
)
from prune_core.tasks.glue import HUB_DATA, TASKS
from prune_core.training import session

PAGE = Path(__file__).resolve().parent.parent / "pages" / "1_Prune.py"
NAMES = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters=","), min_size=1, max_size=8)
RATES = st.floats(1e-7, 1.0)
STEPS = st.none() | st.integers(1, 10**9)
CHOICES = {  # what each setting that has an option may be
    "revision": st.none() | st.sampled_from(["v1.0", "refs/pr/1", "0" * 40]),
    "model": st.sampled_from(["minilm", "bert-base-uncased", "-odd", "a b/c=d", "/x"]),
    "task": st.sampled_from(list(TASKS)),
    "data": st.sampled_from([HUB_DATA, "practice", "my moods.csv", "--x.tsv"]),
    "columns": st.lists(NAMES, max_size=2).map(tuple),
    "label": st.just("") | NAMES,
    "regression": st.booleans(),
    "start_from": st.none() | st.just("other-run"),
    "block": st.sampled_from(["64x1", "1x64", "16x16", "allx1", "1xall"]),
    "compressions": st.lists(st.floats(1.0, 1e6), min_size=1, max_size=4).map(tuple),
    "lam": st.none() | st.floats(0.0, 1e9),
    "method": st.sampled_from(list(METHODS)),
    "penalty": st.sampled_from(PENALTIES),
    "reweighted": st.booleans(),
    "control": st.sampled_from(CONTROLS),
    "progressive": st.booleans(),
    "spare": st.booleans(),
    "scope": st.none() | st.sampled_from(SCOPES),
    "ranking": st.sampled_from(in_training()),
    "distill": st.floats(0.0, 1.0),
    "temperature": st.floats(1e-6, 1e6),
    "distill_hidden": st.floats(0.0, 1e6),
    "dropout": st.none() | st.booleans(),
    "mixkd": st.booleans(),
    "bits": st.sampled_from(["", "8", "type:8,8,8,4,4,2", "8;a8-tensor"]),
    "pattern": st.sampled_from(["", "2:4"]),
    "activation_bits": st.none() | st.just(8),
    "embedding_bits": st.none() | st.sampled_from([8, 32]),
    "quantizer": st.sampled_from(list(QUANTIZERS)),
    "preset": st.sampled_from(list(PRESETS)),
    "dense_steps": STEPS,
    "penalty_steps": STEPS,
    "retrain_steps": STEPS,
    "penalty_lr": RATES,
    "retrain_lr": RATES,
    "surface_examples": st.integers(1, 10**9),
    "precision": st.sampled_from(PRECISIONS),
    "allow_unknown": st.booleans(),
    "seed": st.integers(0, 2**63 - 1),
    "threads": st.integers(0, 4096),
}
RESULT = {"run": "x", "data": "d", "metric": "m", "dense_score": 1.0, "points": [], "warnings": [], "seconds": 1.0,
          "seconds_per_step": 1.0, "penalty_share": 0.0}


@st.composite
def configs(draw) -> PruneConfig:
    """Any config that options can ask for; most settings as usual, so that the others are seen alone too."""
    changed = draw(st.sets(st.sampled_from(sorted(set(CHOICES) - {"preset"}))))
    chosen = {field: draw(CHOICES[field]) for field in sorted(changed)}
    try:
        return preset(draw(CHOICES["preset"]), **chosen)
    except InputError:  # of group Lasso alone
        return preset("quick", **chosen | {"method": "group-lasso", "penalty": "proximal", "lam": None, "bits": "8",
                                           "pattern": "", "quantizer": "ste", "control": "line"})


@pytest.fixture(scope="module")
def parsed():
    """A command line -> (config, runs folder, name) that `prune` would start with."""
    seen = []

    def start(config, runs_dir, name, command, report, agree, placed):
        seen.append((config, runs_dir, name))
        return RESULT

    def of(arguments: list[str]) -> tuple[PruneConfig, Path, str]:
        patch.setattr(sys, "argv", ["prune_core", *arguments])
        assert main() == 0
        return seen.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "start", start)
        patch.setattr(train, "_record_repaired", lambda name, runs_dir, device: None)
        yield of


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs())
def test_config_arguments_config(parsed, config):
    assert parsed(processes.arguments(config, "one", Path("/runs here"))) == (config, Path("/runs here"), "one")


@pytest.mark.parametrize("field", sorted(CHOICES))
def test_every_setting_alone_arrives(parsed, field):
    """Each setting that has an option, at a value that is not the usual one."""
    other = {"control": "dynamic", "lam": 0.25, "label": "mood", "columns": ("a b", "c"), "compressions": (1.5, 10 / 3),
             "task": "rte", "data": "practice", "model": "-odd", "start_from": "dense-one", "revision": "v2",
             "block": "1x64", "method": "admm", "penalty": "in-loss", "scope": "layer", "ranking": "surgeon",
             "preset": "quick", "precision": "fp32", "distill": 0.15, "dropout": True, "bits": "4", "pattern": "2:4",
             "activation_bits": 8, "embedding_bits": 8, "quantizer": "lsq"}
    usual = preset("full", method="group-lasso", bits="8" if field == "quantizer" else "")
    now = getattr(usual, field)
    value = other[field] if field in other else not now if isinstance(now, bool) else (now or 0) + 1
    changed = replace(usual, **{field: value})
    if field == "preset":
        changed = preset(value, method="group-lasso")
    assert getattr(changed, field) != now
    assert parsed(processes.arguments(changed, "one", Path("runs")))[0] == changed


def test_the_table_of_options_is_that_of_prune():
    """Every option of `prune` that is a setting is named as its field is, and every field of the table is one."""
    command = get_command(app).commands["prune"]
    options = {parameter.name: parameter.opts[0].removeprefix("--") for parameter in command.params}
    others = ("run", "runs_dir", "as_json", "practice", "device", "processes")  # on another device it is the same run
    assert {name: option for name, option in options.items() if name not in others} == OPTIONS
    assert set(OPTIONS) == set(CHOICES) <= {field.name for field in fields(PruneConfig)}


def test_the_usual_options_are_the_usual_settings():
    """Where the command line has a value of its own, it is the config's."""
    for name, parameter in inspect.signature(train.prune).parameters.items():
        if name in OPTIONS and parameter.default not in (None, "") and name != "compressions":
            assert parameter.default == getattr(PruneConfig, name), name
    assert train.numbers(inspect.signature(train.prune).parameters["compressions"].default) == PruneConfig.compressions


def test_what_the_page_offers_has_an_option():
    nodes = [*ast.walk(ast.parse(PAGE.read_text(encoding="utf-8")))]
    presets = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "preset"]
    more = next(node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "how").body[-1].value
    offered = {word.arg for call in presets for word in call.keywords if word.arg} | {key.value for key in more.keys}
    assert {"method", "distill", "columns", "seed"} <= offered <= set(OPTIONS)


@pytest.mark.parametrize("field, value", [("milestones", 5), ("dense_lr", 0.5), ("surface_examples", None)])
def test_a_setting_that_cannot_be_said_is_not_dropped(field, value):
    with pytest.raises(InputError, match=f"{field} {value} cannot be told .* from preset 'quick'"):
        processes.arguments(replace(preset("quick"), **{field: value}), "one", Path("runs"))


def test_what_each_command_may_do_is_in_the_table():
    assert {row.name for row in COMMANDS if row.writes} == {
        "prune", "resume", "compare", "sweep", "score", "search", "surface", "sensitivity", "calibrate", "pack",
        "unpack", "relocate", "delete", "restore"}
    assert len({row.name for row in COMMANDS}) == len(COMMANDS) == len(app.registered_commands)
