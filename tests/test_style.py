"""The house's style, as far as a machine can hold it: ruff runs clean, and what ships is short enough to be read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SHIPPED = [REPO / "app.py", *sorted((REPO / "pages").rglob("*.py")), *sorted((REPO / "prune_core").rglob("*.py"))]
TESTS = sorted((REPO / "tests").rglob("*.py"))
FILE, CLASS, FUNCTION = 350, 150, 40  # lines at most
WHOLE = {"figures.py"}  # pure functions, one a chart: longer than a file should be, and nowhere to divide


def relative(path: Path) -> str:
    return str(path.relative_to(REPO))


def test_ruff_runs_clean():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--output-format", "concise", "."], cwd=REPO,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def test_ruff_has_the_version_that_is_pinned():
    pinned = (REPO / "requirements.txt").read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "ruff", "--version"], capture_output=True, text=True, check=True)
    assert f"ruff=={done.stdout.split()[1]}" in pinned.split()


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.name not in WHOLE], ids=relative)
def test_a_file_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE


def too_long(text: str) -> list[str]:
    """Classes and functions of a source that are longer than they may be: `name: lines`.

    A function may be longer where a comment `# long: <reason>` stands on its first line or on the one above.
    """
    lines, names = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            size = node.end_lineno - node.lineno + 1
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            near = [lines[node.lineno - 1], *lines[max(first - 2, 0):first - 1]]
            allowed = CLASS if isinstance(node, ast.ClassDef) else FUNCTION
            reason = allowed == FUNCTION and any(line.partition("# long: ")[2].strip() for line in near)
            if size > allowed and not reason:
                names.append(f"{node.name}: {size}")
    return names


@pytest.mark.parametrize("path", [*SHIPPED, *TESTS], ids=relative)
def test_classes_and_functions_are_short_or_say_why_not(path):
    assert too_long(path.read_text(encoding="utf-8")) == []


def test_this_check_counts_lines_and_hears_reasons():
    body = "    x = 1\n" * FUNCTION
    assert too_long(f"def f():\n{body}") == ["f: 41"]
    assert too_long(f"# long: a table\ndef f():\n{body}") == too_long(f"def f():  # long: a table\n{body}") == []
    assert too_long(f"# long: a table\n@property\ndef f():\n{body}") == too_long(f"def f():\n{body[10:]}") == []
    assert too_long(f"# long: \ndef f():\n{body}") == ["f: 41"]
    assert too_long("class A:\n" + "    x = 1\n" * CLASS) == ["A: 151"]
