"""Nobody trains on the practice set unawares: said before, asked, and refused to a script."""

from __future__ import annotations

import io
import sys

import pytest

from prune_core import InputError
from prune_core.__main__ import main
from prune_core.cli import train
from prune_core.tasks import hub
from prune_core.training import session


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def asked(monkeypatch):
    """A command line -> what its run would be asked with, before anything is written."""
    seen = []

    def start(config, runs_dir, name, command, report, agree, _placed):
        seen.append(agree)
        raise InputError("started")

    monkeypatch.setattr(session, "start", start)
    monkeypatch.setattr(session, "agreed", lambda *_: None)  # `compare` asks before it keeps what it was asked for

    def of(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["prune_core", *arguments])
        assert main() == 2
        return seen.pop()

    return of


@pytest.mark.parametrize("arguments, named", [
    (["prune"], False), (["prune", "--preset", "quick", "--seed", "1"], False), (["prune", "--task", "sst2"], True),
    (["prune", "--data", "nyu-mll/glue"], True), (["prune", "--model", "minilm"], True),
    (["prune", "--task", "sst2", "--practice"], False), (["compare", "--task", "rte"], True),
    (["compare", "--task", "rte", "--practice"], False)], ids=str)
def test_a_script_that_named_something_is_refused_and_all_else_is_told(asked, tmp_path, capsys, arguments, named):
    agree = asked(*arguments, *(["--runs-dir", str(tmp_path)] if arguments[0] == "compare" else []))
    capsys.readouterr()
    if named:
        with pytest.raises(InputError, match="^the note, or --practice to train on the practice set$"):
            agree("the note")
        assert capsys.readouterr().err == ""
    else:
        agree("the note")
        agree("the note")
        assert capsys.readouterr().err == "the note\n"


@pytest.mark.parametrize("answer, goes_on", [("y\n", True), ("Yes\n", True), ("n\n", False), ("", False)])
def test_at_a_terminal_a_person_is_asked_once(monkeypatch, capsys, answer, goes_on):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    agree = train.Agreement(agreed=False)
    if goes_on:
        agree("the note")
        agree("the note")
    else:
        with pytest.raises(InputError, match="nothing was started"):
            agree("the note")
    said = capsys.readouterr().err
    assert said.count("the note") == 1 and said.count("[y/N]") == 1


@pytest.mark.parametrize("command", ["prune", "compare"])
def test_the_whole_command_without_a_hub(monkeypatch, capsys, no_hub, tmp_path, command):
    """One line with the cause and both ways; nothing is written."""
    monkeypatch.setattr(hub, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError()))
    monkeypatch.setattr(sys, "argv", ["prune_core", command, "--task", "rte", "--runs-dir", str(tmp_path / "runs")])
    assert main() == 2
    said = capsys.readouterr()
    line = said.err.splitlines()[-1]
    assert said.out == "" and line.startswith("error: data 'nyu-mll/glue': the hub did not answer")
    assert "--data FOLDER" in line and "--practice" in line and not (tmp_path / "runs").exists()
