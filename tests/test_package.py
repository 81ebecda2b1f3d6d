"""The package: imported from any folder, started from any folder, and all its files come along."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest

import prune_core
from prune_core import __main__ as command_line

REPO = Path(__file__).resolve().parent.parent
ABOUT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_core_is_imported_from_any_folder(tmp_path):
    """As a notebook somewhere else does: requirements.txt has installed the project."""
    code = "import prune_core; print(prune_core.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == prune_core.__file__, done.stderr[-1000:]


def test_nothing_touches_the_path_for_the_core():
    paths = [path for folder in ("prune_core", "pages", "notebooks") for path in (REPO / folder).rglob("*")
             if path.suffix in (".py", ".ipynb")]
    assert paths and [str(path) for path in paths if "sys.path" in path.read_text(encoding="utf-8")] == []


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {prune_core.__version__}\n" in (REPO / "CITATION.cff").read_text(encoding="utf-8")
    changes = re.findall(r"^## (.+)$", (REPO / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes[0] == prune_core.__version__


def test_the_licence_is_the_same_everywhere():
    text = (REPO / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0" in text and "[yyyy]" not in text
    assert ABOUT["project"]["license"] == "Apache-2.0"
    assert "\nlicense: Apache-2.0\n" in (REPO / "CITATION.cff").read_text(encoding="utf-8")


def test_the_command_is_the_module():
    module, _, name = ABOUT["project"]["scripts"]["prunescope"].partition(":")
    assert module == command_line.__name__ and getattr(command_line, name) is command_line.main


def test_every_file_that_the_core_reads_comes_with_it():
    """What lies beside the Python files is named in the package's data, by its ending."""
    paths = [path for path in (REPO / "prune_core").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    endings = {f"*{path.suffix}" for path in paths}
    assert endings - {"*.py"} <= set(ABOUT["tool"]["setuptools"]["package-data"]["*"])


@pytest.fixture
def call(monkeypatch, capfd):
    """Call the command line in this process; (exit code, stderr, what it would have started)."""
    def called(*arguments: str) -> tuple[int, str, list[str]]:
        started: list[str] = []
        monkeypatch.setattr(os, "execv", lambda program, command: started.extend(command))
        monkeypatch.setattr(sys, "argv", ["prunescope", *arguments])
        return command_line.main(), capfd.readouterr().err, started

    return called


@pytest.mark.parametrize("options", [[], ["--server.port", "8502"], ["--", "--server.port=8502", "--help"]])
def test_app_hands_its_options_to_streamlit(call, monkeypatch, options):
    monkeypatch.setenv("PRUNESCOPE_READ_ONLY", "1")
    command = [sys.executable, "-m", "streamlit", "run", str(REPO / "app.py")]
    assert call("app", *options) == (0, "", command + [one for one in options if one != "--"])


def test_app_without_its_folder_says_so_in_one_line(call, monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    code, said, started = call("app")
    assert (code, started) == (2, []) and said.count("\n") == 1 and "app.py" in said and "requirements.txt" in said


def test_app_starts_from_any_folder_with_the_projects_settings(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    paths = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "prune_core", "app", "--server.port", str(port), "--server.headless", "true"]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths},
                                   stdout=out, stderr=out)
    try:
        assert answers(f"http://localhost:{port}/_stcore/health", 60), log.read_text()
        said = log.read_text()
        # As .streamlit/config.toml has it: this machine only
        assert f"http://localhost:{port}" in said and "Network URL" not in said
    finally:
        process.kill()
        process.wait()


def answers(address: str, seconds: float) -> bool:
    """Whether a server says that it is well within this time."""
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        try:
            return urllib.request.urlopen(address, timeout=5).read() == b"ok"
        except OSError:
            time.sleep(0.2)
    return False
