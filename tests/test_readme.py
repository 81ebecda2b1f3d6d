"""README and docs: what they name exists: commands, options, paths, links, pictures, tables."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/"
SET_UP_TESTS = SET_UP.replace("requirements.txt", "requirements.txt -r requirements-ray.txt -r tests/requirements.txt")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

COMMAND = re.compile(r"(?:prunescope|python -m prune_core|python -m tests\.(?:bench|stress))(?= )[^`\n]*")
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
ENDINGS = (".py", ".cpp", ".js", ".md", ".toml", ".txt", ".csv", ".json", ".ipynb", ".cff", ".png")
# Names with a slash or an ending that are no path of the project, or one that it makes itself
NO_PATHS = {"nyu-mll/glue", "data/runs", "run.json", "config.json", "utils.py", "7_Name.py", ".csv", "OUT.ipynb"}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ---------------------------------------------------------------- the two commands, what is pinned, the map


@pytest.mark.parametrize("line", [f"{SET_UP}streamlit run app.py", f"{SET_UP_TESTS}python -m pytest"])
def test_one_line_sets_up_and_runs(line):
    assert f"\n{line}\n" in README and line.count(" requirements.txt") == 1


def test_ci_runs_the_test_command_of_the_readme():
    pattern = re.search(r"grep -m1 -E '([^']+)'", (ROOT / ".ci/run").read_text()).group(1)
    assert re.search(pattern, README, re.MULTILINE).group(0) == f"{SET_UP_TESTS}python -m pytest"


@pytest.mark.parametrize("name, some", [("requirements.txt", {"-e .", "torch==2.13.0"}),
                                        ("requirements-ray.txt", {"ray[client]==2.60.0"}),
                                        ("tests/requirements.txt", {"jupyterlab==4.6.6", "marimo==0.25.2"})])
def test_everything_is_pinned(name, some):
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", line) for line in lines if line and line != "-e .")
    assert some <= set(lines)


def test_what_the_package_needs_is_pinned():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert set(about["project"]["dependencies"]) <= set(re.findall(r"^[\w.-]+(?===)", pinned, re.MULTILINE))
    assert set(about["build-system"]["requires"]) <= set(pinned.split())


def test_the_readme_is_a_map():
    assert len(README.splitlines()) <= 150
    assert all(f"({page.relative_to(ROOT)})" in README for page in PAGES if page.name != "README.md")


def test_the_readme_names_every_room():
    files = [path.relative_to(ROOT / "prune_core") for path in (ROOT / "prune_core").rglob("*.py")]
    rooms = {file.parts[0] + "/" * (len(file.parts) > 1) for file in files if not file.name.startswith("__main")}
    tree = re.search(r"```\nprune_core/\n(.*?)```", README, re.DOTALL).group(1)
    named = set(re.findall(r"^  ([\w./]+)  ", tree, re.MULTILINE))
    assert named == rooms - {"__init__.py"}


def test_the_scores_of_the_readme_are_those_of_the_results():
    rows = re.findall(r"^\| `([\w-]+)`[^|]*\| (.+) \|$", README.replace("**", ""), re.MULTILINE)
    lines = text_of(ROOT / "docs/results.md").replace("**", "").splitlines()
    for name, cells in rows:
        assert [line for line in lines if line.startswith(f"| `{name}` |") and line.endswith(f"| {cells} |")], name
    assert len(rows) == 2


# ---------------------------------------------------------------- commands


@cache
def known() -> dict[str, set[str]]:
    """Command -> its options, as the command line has them."""
    from prune_core.cli.app import app

    group = typer.main.get_command(app)
    return {name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            | {"--help"} for name, command in group.commands.items()}


@cache
def help_of(module: str, command: str) -> str:
    """What `python -m tests.bench speed --help` prints; '' where there is no such command."""
    done = subprocess.run([sys.executable, "-m", module, command, "--help"], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    return done.stdout if done.returncode == 0 else ""


def wrong(line: str) -> list[str]:
    """What a command line of the docs names that does not exist."""
    program, *words = shlex.split(line.split(" #")[0].partition(" && ")[0].rstrip(".,:;)"))
    module, words = (words[1], words[2:]) if program == "python" else ("prune_core", words)
    name, options = words[0] if words else "", [word.partition("=")[0] for word in words if word.startswith("--")]
    if name == "--help" or name == "app":  # what follows `app` is Streamlit's
        return []
    if module == "prune_core":
        return [f"{name} {option}" for option in options if option not in known()[name]] if name in known() else [name]
    said = help_of(module, name)
    return [f"{name} {option}" for option in options if option not in said] if said else [f"{module} {name}"]


@pages
def test_commands_and_their_options_exist(page):
    lines = [match.group(0) for match in COMMAND.finditer(text_of(page))]
    assert [bad for line in lines for bad in wrong(line)] == []


def test_this_check_hears_what_does_not_exist():
    assert wrong("prunescope prune --tusk rte") == ["prune --tusk"] and wrong("prunescope prone") == ["prone"]
    assert wrong("python -m prune_core prune --from RUN --block=64x1") == [] == wrong("prunescope app --server.port 1")
    assert wrong("python -m tests.bench speed --only engines") == []
    assert wrong("python -m tests.bench sped") == ["tests.bench sped"]


def test_the_table_of_commands_is_whole_and_right():
    """Every command stands in docs/operating.md, and its row names its own options."""
    rows = re.findall(r"^\| (`[a-z].*)\|$", text_of(ROOT / "docs/operating.md"), re.MULTILINE)
    rows = [row for row in rows if row.startswith(tuple(f"`{name}" for name in known()))]
    named = {code.split()[0] for row in rows for code in CODE.findall(row.partition("|")[0])}
    shown = {name for name in known() if name != "serve"}  # what the app alone speaks to
    assert named & set(known()) == shown
    for row in rows:
        name = CODE.search(row).group(1).split()[0]
        options = {option for code in CODE.findall(row) for option in re.findall(r"(?<!\S)--[\w-]+", code)}
        others = {code.split()[0] for code in CODE.findall(row)} & set(known())
        assert options <= set().union(*(known()[one] for one in others)), name


@pages
def test_options_that_stand_alone_belong_to_a_command(page):
    options = {code.split()[0].partition("=")[0] for code in CODE.findall(text_of(page)) if code.startswith("--")}
    assert options - {"--short"} <= set().union(*known().values())


# ---------------------------------------------------------------- paths and links


def paths(text: str) -> set[str]:
    """What stands in backticks and looks like a path of the project."""
    words = {code for code in CODE.findall(text) if FILE.fullmatch(code)}
    return {word for word in words if (word.endswith(ENDINGS) or "/" in word) and word not in NO_PATHS}


def exists(name: str) -> bool:
    """Under the project, or, as `runs/run.py` and `showing/canvas`, under the core."""
    return any((ROOT / start / name).exists() for start in ("", "prune_core"))


@pages
def test_paths_exist(page):
    assert sorted(name for name in paths(text_of(page)) if not name.startswith("..") and not exists(name)) == []


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(text_of(page)):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not link.startswith("https://") and (not path.exists() or (anchor and anchor not in anchors(path))):
            broken.append(link)
    assert broken == []


def test_modules_of_the_new_version_exist():
    """What CHANGELOG says to import after upgrading."""
    names = {name for row in re.findall(r"^ *\| `prune_core.+?\|(.+)\|$", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
             for name in CODE.findall(row)}
    places = [ROOT / name.replace(".", "/") for name in names]
    assert places and [str(place) for place in places
                       if not place.with_suffix(".py").is_file() and not (place / "__init__.py").is_file()] == []


def test_pictures_are_there():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures and all((ROOT / picture).stat().st_size > 10_000 for picture in pictures)
