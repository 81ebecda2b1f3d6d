"""What every test shares: one thread, caches of their own, checkpoints made once.

Tests run in one process more than there are cores, as some wait for browsers, but at most four, each file in one of
them; what starts browsers, times something or stresses the machine goes one after the other. One file alone runs in
this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent

# Before torch and datasets are imported: one thread (tiny models gain nothing from two), and a data
# cache that neither fills nor trusts the user's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does: busy cores must not starve a test
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_CACHE = tempfile.TemporaryDirectory(prefix="prunescope-tests-", ignore_cleanup_errors=True)
os.environ["HF_DATASETS_CACHE"] = _CACHE.name

import pytest  # noqa: E402  after what it may import has its settings
from filelock import FileLock  # noqa: E402

GROUPS = {"test_stress": "stress", "test_browser": "browser", "test_browser_sweeps": "browser",
          "test_browser_lesson": "browser", "test_canvas": "browser", "test_report": "browser",
          "test_widget": "browser", "test_widget_marimo": "browser",
          "test_latency": "timing", "test_compact": "timing", "test_command_line": "timing"}
# The long ones, so that none is left alone at the end
FIRST = ("stress", "browser", "test_pages", "timing", "test_hub", "test_loop", "test_notebook", "test_export")


def pytest_xdist_auto_num_workers(config) -> int:
    """Processes for `-n auto`: none beside this one for a single file."""
    files = {str(word).partition("::")[0] for word in config.args}
    one = len(files) == 1 and next(iter(files)).endswith(".py")
    return 0 if one else min(4, 1 + len(os.sched_getaffinity(0)))


def group(file: str) -> str:
    """What goes to one process together: the tests of a file, or of several that must not run beside one another."""
    return GROUPS.get(Path(file).stem, Path(file).stem)


def pytest_collection_modifyitems(items) -> None:
    """The order of the groups; tests of one stay as they are."""
    items.sort(key=lambda item: FIRST.index(group(item.path)) if group(item.path) in FIRST else len(FIRST))


def pytest_xdist_make_scheduler(config, log):
    """By `group`; xdist's own marks for it (xdist_group) are lost on pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def glue_folder() -> Path:
    """Real GLUE in the hub's layout, beside the repository."""
    folder = REPO.parent / "shared" / "glue"
    if not folder.is_dir():
        pytest.skip("no real GLUE data at ../shared/glue")
    return folder


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """Checkpoints and tables as people have them, written by ../shared/inputs/make.py once for all processes.

    To be read only: copy what a test changes.
    """
    made_by = REPO.parent / "shared" / "inputs" / "make.py"
    if not made_by.is_file():
        pytest.skip("no ../shared/inputs/make.py, which writes them")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "inputs"
    with FileLock(folder.with_suffix(".lock")):
        if not (done := folder / ".whole").exists():
            made = subprocess.run([sys.executable, str(made_by), str(folder)], env=os.environ | {"HF_HUB_OFFLINE": "1"},
                                  capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr[-2000:]
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of a tiny random BERT with its tokenizer."""
    import tiny

    return tiny.checkpoint(tmp_path_factory.mktemp("model") / "tiny-bert", "bert")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """Folder of tiny tasks in the hub's layout."""
    import tiny

    return tiny.data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def no_hub(monkeypatch):
    """The hub is not reached, and nobody waits for it."""
    from prune_core.tasks import hub

    monkeypatch.setattr(hub, "hub_answers", lambda seconds: False)


@pytest.fixture
def none_recorded(monkeypatch, tmp_path_factory):
    """As if no runs shipped with the project; returns the folder where they would lie."""
    from prune_core.runs import places

    folder = tmp_path_factory.mktemp("recorded")
    monkeypatch.setattr(places, "RECORDED", folder)
    return folder
