"""The import table of the design, as code: who may import whom, and what stays out of whose way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
CORE = REPO / "prune_core"
HEAVY = {"torch", "transformers", "datasets", "sklearn", "scipy"}

# Module of the core -> modules of the core that it may import. `record` starts and resumes runs and `recall`
# answers questions to finished ones: they and the command line stand above the rest.
LOWER = {"blocks", "config", "files", "recorder", "masks", "trajectory", "runs", "glue", "encoders", "distill", "evaluate", "methods", "own", "pruning"}
MAY_IMPORT = {
    "__init__": set(),
    "blocks": set(),
    "masks": {"blocks"},
    "methods": {"blocks", "encoders", "glue", "masks", "repair", "saliency"},
    "repair": {"blocks", "masks"},
    "plans": {"blocks", "masks"},
    "native": {"files", "plans"},
    "compact": {"blocks", "masks", "native", "plans"},
    "unpadded": {"native"},
    "config": {"blocks", "masks"},
    "trajectory": {"blocks"},
    "files": set(),
    "cuts": {"blocks", "masks", "runs", "trajectory"},
    "canvas": {"blocks", "cuts", "latency", "masks", "plans", "runs", "trajectory"},
    "notebook": {"cuts", "files", "runs"},
    "report": {"blocks", "canvas", "config", "cuts", "files", "latency", "masks", "runs", "settings", "trajectory"},
    "settings": {"cuts", "masks", "runs", "trajectory"},
    "flips": {"masks", "recall", "runs", "trajectory"},
    "findings": {"cuts", "flips", "latency", "masks", "recall", "recorder", "report", "runs", "trajectory"},
    "trash": {"files", "runs"},
    "licences": {"files"},
    "own": set(),
    "runs": {"blocks", "config", "files", "masks", "own", "trajectory"},
    "recorder": {"files", "masks", "runs", "trajectory"},
    "glue": {"config", "encoders", "files", "own"},
    "encoders": {"blocks", "glue"},
    "evaluate": {"glue", "masks"},
    "latency": {"blocks", "files", "masks", "plans"},
    "engines": set(),
    "measure": {"blocks", "compact", "encoders", "engines", "latency", "masks", "native", "plans", "recorder", "unpadded"},
    "distill": {"glue"},
    "pruning": {"blocks", "distill", "repair", "saliency", "methods", "masks", "encoders", "glue", "trajectory", "config", "evaluate"},
    "figures": {"blocks", "masks", "published", "trajectory"},
    "lesson": {"blocks"},
    "published": {"files"},
    "export": LOWER | {"compact", "engines", "recall"},
    "record": LOWER | {"compact", "recall"},
    "recall": LOWER - {"pruning", "methods"} | {"native", "compact", "repair", "saliency", "unpadded", "latency", "measure"},
    "sensitivity": {"files", "masks", "native", "recall", "runs", "trajectory"},
    "surface": {"files", "masks", "native", "recall", "runs", "trajectory"},
    "compare": {"config", "runs"},
    "allocate": {"blocks", "masks", "trajectory"},
    "saliency": {"blocks", "encoders", "glue", "repair"},
    "serve": {"evaluate", "recall", "runs"},
    "pack": {"config", "files", "masks", "runs"},
    "__main__": LOWER | {"compare", "cuts", "export", "findings", "flips", "latency", "licences", "measure", "notebook", "pack", "recall", "record", "report",
                         "sensitivity", "serve", "settings", "surface", "trash"},
}
NEVER = {name: {"streamlit", "app", "pages"} for name in MAY_IMPORT} | {
    name: {"streamlit", "app", "pages", "transformers", "datasets"} for name in (
        "blocks", "masks", "methods", "config", "trajectory", "files", "runs", "recorder", "repair", "compact", "evaluate", "pruning", "figures", "report")}
TORCH_FREE = ("blocks", "masks", "config", "trajectory", "files", "runs", "recorder", "glue", "pack", "plans", "latency", "allocate", "published", "compare",
              "lesson", "notebook", "own", "cuts", "canvas", "report", "trash", "licences", "settings")
NEEDS_TORCH = {"findings", "flips", "engines", "export", "measure", "native", "compact", "unpadded", "distill", "encoders", "evaluate", "methods",
               "pruning", "record", "recall", "repair", "saliency", "sensitivity", "serve", "surface"}


def name_of(path: Path) -> str:
    """prune_core/methods/group_lasso.py -> methods; prune_core/masks.py -> masks."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """Full names of all that a file imports, inside functions too or only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if everywhere else _at_import(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative imports hide the table"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _at_import(node: ast.AST):
    """All nodes that run when the module is imported: not those in functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_import(child)


def core_parts(names: set[str]) -> set[str]:
    """Modules of the core among these names; names of the package itself (InputError) are none."""
    parts = {name.split(".")[1] for name in names if name.startswith("prune_core.")}
    return {part for part in parts if (CORE / f"{part}.py").exists() or (CORE / part).is_dir()}


CORE_FILES = sorted(CORE.rglob("*.py"))
PAGES = [REPO / "app.py", *sorted((REPO / "pages").rglob("*.py"))]


def relative(path: Path) -> str:
    return str(path.relative_to(REPO))


def test_the_table_knows_every_module():
    assert {name_of(path) for path in CORE_FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", CORE_FILES, ids=relative)
def test_a_module_of_the_core_imports_only_what_the_table_allows(path):
    name = name_of(path)
    assert core_parts(imported(path)) - {name} <= MAY_IMPORT[name]
    assert not {full.split(".")[0] for full in imported(path)} & NEVER[name]


def test_the_table_has_no_way_round_from_what_is_torch_free():
    """What a torch-free module may import when it is imported is itself torch-free."""
    for name in TORCH_FREE:
        at_import = imported(next(path for path in (CORE / f"{name}.py", CORE / name / "__init__.py") if path.exists()), everywhere=False)
        assert core_parts(at_import) <= set(TORCH_FREE), name
        assert not {full.split(".")[0] for full in at_import} & HEAVY, name


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_pages_import_no_torch_when_they_are_opened(path):
    names = imported(path, everywhere=False)
    assert not {name.split(".")[0] for name in names} & HEAVY
    assert not core_parts(names) & NEEDS_TORCH


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_pages_import_only_the_core_and_what_pages_share(path):
    own = {name for name in imported(path) if name.split(".")[0] in ("pages", "app")}
    assert all(name.startswith("pages.shared") for name in own)


def loaded_after(code: str) -> set[str]:
    """Top-level modules that are loaded after this code has run in a fresh process."""
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"],
                          cwd=REPO, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_the_pages_read_loads_without_torch():
    loaded = loaded_after("import " + ", ".join(f"prune_core.{name}" for name in TORCH_FREE))
    assert "numpy" in loaded and not loaded & (HEAVY | {"streamlit"})


def test_reading_a_whole_run_needs_no_torch(tmp_path):
    import numpy as np
    import tiny

    from prune_core.recorder import Recorder
    from prune_core.trajectory import Snapshot

    layout = tiny.layout()
    norms = {m.name: np.ones(layout.block.grid(m.m, m.n), np.float32) for m in layout.matrices}
    with Recorder.create(tmp_path, "one", tiny.about(layout)) as recorder:
        recorder.append(Snapshot("dense", 0, norms=norms))
    code = ("from pathlib import Path; from prune_core import masks, runs\n"
            f"run = runs.listing(Path({str(tmp_path)!r}))[0].run\n"
            "assert masks.mask_at_sparsity(run.norms(0), run.layout, 0.5).sparsity == 1.0\n"
            "run.status, run.points, run.warnings, run.now")
    assert not loaded_after(code) & HEAVY


def test_the_core_never_loads_streamlit():
    names = sorted(name for name in {name_of(path) for path in CORE_FILES} - {"__main__", "__init__"})
    assert "streamlit" not in loaded_after("import " + ", ".join(f"prune_core.{name}" for name in names))


def axes(call: ast.Call) -> int:
    """Axes that a view, reshape or unfold call names."""
    return max([len(call.args), *(len(a.elts) for a in call.args if isinstance(a, ast.Tuple | ast.List))])


@pytest.mark.parametrize("path", [p for p in CORE_FILES if p.name != "blocks.py"], ids=relative)
def test_only_blocks_cuts_a_weight_into_groups(path):
    """A cut needs four axes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    cuts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and (node.func.attr in ("view", "reshape") and axes(node) >= 4 or node.func.attr in ("unfold", "unflatten", "rearrange"))]
    assert cuts == []


def test_this_check_would_find_the_cut():
    tree = ast.parse((CORE / "blocks.py").read_text(encoding="utf-8"))
    assert any(isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "reshape" and axes(n) == 4 for n in ast.walk(tree))
