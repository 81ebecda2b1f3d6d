"""What every test shares: one thread, caches of their own, checkpoints made once."""

from __future__ import annotations

import os
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


@pytest.fixture(scope="session")
def glue_folder() -> Path:
    """Real GLUE in the hub's layout, beside the repository."""
    folder = REPO.parent / "shared" / "glue"
    if not folder.is_dir():
        pytest.skip("no real GLUE data at ../shared/glue")
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
