"""The hub: whether it answers, and reading a data set from it or from a folder in its layout."""

from __future__ import annotations

import threading


def hub_answers(seconds: float) -> bool:
    """Whether the hub answers within `seconds`, name look-up included (which no socket timeout bounds)."""
    answered = threading.Event()

    def ask() -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=seconds)
            answered.set()
        except Exception:  # any failure means the same: not reachable
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return answered.is_set()


def load_dataset(path: str, name: str, offline: bool = False, cache: str | None = None):
    """Split -> rows of the set `name` at `path`, a name on the hub or a folder; raises what `datasets` raises.

    `offline`: only what the local cache holds; `cache`: a folder for it, in place of the shared one.
    """
    import datasets
    import huggingface_hub.constants

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is raised, and told in one line
    before = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if offline:  # then the local cache is asked at once, without minutes of retries
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(path, name, cache_dir=cache)
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
