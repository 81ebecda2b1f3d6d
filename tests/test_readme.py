"""README's two commands and its table say what the project does."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/"


@pytest.mark.parametrize("ending", ["streamlit run app.py", "python -m pytest"])
def test_one_line_sets_up_and_runs(ending):
    assert f"\n{SET_UP}{ending}\n" in README


def test_ci_runs_the_test_command_of_the_readme():
    pattern = re.search(r"grep -m1 -E '([^']+)'", (ROOT / ".ci/run").read_text()).group(1)
    assert re.search(pattern, README, re.MULTILINE).group(0) == f"{SET_UP}python -m pytest"


def test_everything_is_pinned():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if line and line != "-e .")
    assert {"-e .", "torch==2.13.0"} <= set(lines)


def test_what_the_package_needs_is_pinned():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = re.findall(r"^[\w.-]+(?===)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(about["project"]["dependencies"]) <= set(pinned)
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert set(about["build-system"]["requires"]) <= set(lines)


def test_commands_of_the_readme_exist():
    from prune_core.cli.app import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"^\| `([a-z]+)(?=[ `])", README, re.MULTILINE)) | set(re.findall(r"python -m prune_core (\w+)", README))
    assert named and named <= known


def test_pictures_are_there():
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).stat().st_size > 10_000
