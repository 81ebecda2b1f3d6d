"""The rooms and their one rule: a room imports only rooms above it, and torch is a matter of the room."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
CORE = REPO / "prune_core"

# From the top down. Nothing imports what stands last.
LADDER = (("files", "machine"), "cutting", "precision", "tasks", "latency", "hardware",
          "models", "methods", "runs", "showing", "execution", "evaluation", "training", "export", "cli", "__main__")
TORCH = {"models", "methods", "execution", "evaluation", "training", "export"}  # rooms that load it on import
TORCH_FREE_IN_METHODS = {"prune_core.methods.table", "prune_core.methods.rankings"}  # tables, which pages read
HEAVY = {"torch", "transformers", "datasets", "sklearn", "scipy"}

STEP = {room: step for step, rooms in enumerate(LADDER) for room in ([rooms] if isinstance(rooms, str) else rooms)}
CORE_FILES = sorted(path for path in CORE.rglob("*.py") if path != CORE / "__init__.py")
PAGES = [REPO / "app.py", *sorted((REPO / "pages").rglob("*.py"))]


def relative(path: Path) -> str:
    return str(path.relative_to(REPO))


def module(path: Path) -> str:
    """prune_core/cutting/masks.py -> prune_core.cutting.masks"""
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module(path) for path in CORE_FILES}


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """Full names of all that a file imports, inside functions too or only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree) if everywhere else _at_import(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative imports hide the room"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _at_import(node: ast.AST):
    """All nodes that run when the module is imported: not those in functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_import(child)


def core_modules(names: set[str]) -> set[str]:
    """Modules of the core among these names; names of the package itself (InputError) are none."""
    parents = {name.rpartition(".")[0] for name in names}
    return {name for name in names | parents if name in MODULES}


def room(name: str) -> str:
    """prune_core.cutting.masks -> cutting"""
    return name.split(".")[1]


def needs_torch(name: str) -> bool:
    return room(name) in TORCH and name not in TORCH_FREE_IN_METHODS | {"prune_core.methods"}


def test_every_room_has_its_step():
    assert {room(name) for name in MODULES} <= set(STEP)


@pytest.mark.parametrize("path", CORE_FILES, ids=relative)
def test_a_room_imports_only_rooms_above_it(path):
    own = room(module(path))
    below = {name for name in core_modules(imported(path)) if room(name) != own and STEP[room(name)] >= STEP[own]}
    assert not below
    assert not {name.split(".")[0] for name in imported(path)} & {"streamlit", "app", "pages"}


def test_inside_a_room_there_is_no_circle():
    graph = {module(path): core_modules(imported(path)) - {module(path)} for path in CORE_FILES}
    graph = {name: {to for to in targets if room(to) == room(name) and to.count(".") > 1}
             for name, targets in graph.items()}
    left = dict(graph)
    while leaves := [name for name, targets in left.items() if not targets & set(left)]:
        for name in leaves:
            del left[name]
    assert not left


@pytest.mark.parametrize("path", [path for path in CORE_FILES if not needs_torch(module(path))], ids=relative)
def test_what_is_torch_free_imports_nothing_that_is_not(path):
    names = imported(path, everywhere=False)
    assert not {name for name in core_modules(names) if needs_torch(name)}
    assert not {name.split(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_pages_import_numpy_rooms_only(path):
    names = imported(path)
    assert not {name for name in core_modules(names) if needs_torch(name) or room(name) == "cli"}
    assert not {name.split(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_a_page_imports_the_core_what_pages_share_and_the_folder_of_its_own_name(path):
    inside = path.parent.name if path.parent.name != "pages" else path.stem.partition("_")[2].lower()
    inside = "home" if path.name == "app.py" else inside
    others = {name for name in imported(path) if name.split(".")[0] in ("pages", "app")}
    assert all(name.startswith(("pages.shared", f"pages.{inside}")) for name in others), others


def loaded_after(code: str) -> set[str]:
    """Top-level modules that are loaded after this code has run in a fresh process."""
    listed = "import sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{listed}"], cwd=REPO,
                          capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_the_pages_read_loads_without_torch():
    names = sorted(name for name in MODULES if not needs_torch(name) and name != "prune_core.__main__")
    loaded = loaded_after("import " + ", ".join(names))
    assert "numpy" in loaded and not loaded & (HEAVY | {"streamlit"})


def test_reading_a_whole_run_needs_no_torch(tmp_path):
    import numpy as np
    import tiny

    from prune_core.runs.recorder import Recorder
    from prune_core.runs.snapshots import Snapshot

    layout = tiny.layout()
    norms = {m.name: np.ones(layout.block.grid(m.m, m.n), np.float32) for m in layout.matrices}
    with Recorder.create(tmp_path, "one", tiny.about(layout)) as recorder:
        recorder.append(Snapshot("dense", 0, norms=norms))
    code = ("from pathlib import Path; from prune_core.cutting import masks; from prune_core.runs import shelf\n"
            f"run = shelf.listing(Path({str(tmp_path)!r}))[0].run\n"
            "assert masks.mask_at_sparsity(run.norms(0), run.layout, 0.5).sparsity == 1.0\n"
            "run.status, run.points, run.warnings, run.now")
    assert not loaded_after(code) & HEAVY


def test_the_core_never_loads_streamlit():
    assert "streamlit" not in loaded_after("import " + ", ".join(sorted(MODULES - {"prune_core.__main__"})))


def axes(call: ast.Call) -> int:
    """Axes that a view, reshape or unfold call names."""
    return max([len(call.args), *(len(a.elts) for a in call.args if isinstance(a, ast.Tuple | ast.List))])


def divides(node: ast.AST) -> bool:
    """Whether this divides a weight into groups, which needs four axes."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    name = node.func.attr
    return name in ("view", "reshape") and axes(node) >= 4 or name in ("unfold", "unflatten", "rearrange")


@pytest.mark.parametrize("path", [p for p in CORE_FILES if p.name != "blocks.py"], ids=relative)
def test_only_blocks_divides_a_weight_into_groups(path):
    assert [node.lineno for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if divides(node)] == []


def test_this_check_would_find_it():
    assert any(map(divides, ast.walk(ast.parse((CORE / "cutting" / "blocks.py").read_text(encoding="utf-8")))))
