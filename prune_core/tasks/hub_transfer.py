"""How files come from the hub: asked for a few times and no more, with one bar over all of them."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from prune_core.tasks.hub_errors import GaveUp, wait_of

WAIT_SECONDS = 10  # a hub that asks for more patience is not waited for
PIECE = 1 << 20  # bytes that are kept at a time: of 10 MiB, as usual, nothing is kept where it breaks off before


@contextlib.contextmanager
def limited(tries: int) -> Iterator[None]:
    """Within this, huggingface_hub sends the same request at most `tries` times, and waits at most WAIT_SECONDS for
    leave to ask again, HF_HUB_DOWNLOAD_TIMEOUT for a byte.

    By itself it retries for minutes. What it logs is not shown: what goes wrong is raised. SIGTERM is as Ctrl-C, so
    that no half file stays.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    sent: Counter = Counter()
    logger = logging.getLogger("huggingface_hub")
    before = constants.DOWNLOAD_CHUNK_SIZE, logger.level
    constants.DOWNLOAD_CHUNK_SIZE = PIECE
    logger.setLevel(logging.CRITICAL)
    here = threading.current_thread() is threading.main_thread()  # signals are its alone
    stop = signal.signal(signal.SIGTERM, signal.default_int_handler) if here else None
    set_client_factory(lambda: _counting(default_client_factory(), sent, tries))
    try:
        yield
    finally:
        set_client_factory(default_client_factory)
        if here:
            signal.signal(signal.SIGTERM, stop or signal.SIG_DFL)
        constants.DOWNLOAD_CHUNK_SIZE = before[0]
        logger.setLevel(before[1])


def _counting(client, sent: Counter, tries: int):
    """The client, whose `send` raises once the same was asked `tries` times: HfHubHTTPError or GaveUp."""
    from httpx2 import TransportError
    from huggingface_hub import constants
    from huggingface_hub.utils import hf_raise_for_status

    send, most = client.send, float(constants.HF_HUB_DOWNLOAD_TIMEOUT)  # seconds without a byte

    def counted(request, **how):
        asked = request.method, str(request.url), request.headers.get("Range")
        sent[asked] += 1
        waits = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {what: min(waits.get(what) or most, most) for what in
                                         ("connect", "read", "write", "pool")}
        if sent[asked] > tries:  # what came was no answer's status: the body broke off, again and again at one place
            raise GaveUp(f"{request.method} {request.url.path}")
        try:
            response = send(request, **how)
        except TransportError as error:
            if sent[asked] < tries:
                raise
            raise GaveUp(f"{request.method} {request.url.path}") from error
        if response.is_success and "-token/" in request.url.path:  # asked for again and again in a long download
            sent[asked] = 0
        last = sent[asked] >= tries or wait_of(response) > WAIT_SECONDS
        if last and (response.status_code == 429 or response.status_code >= 500):
            hf_raise_for_status(response)
        return response

    client.send = counted
    return client


class Bar:
    """One bar on stderr over all files that are to come, with the time left; there once the first bytes are."""

    def __init__(self, name: str, sizes: Mapping[str, int]):
        """`sizes`: file -> bytes, 0 where the hub does not say."""
        self._name, self._sizes, self._bar = name, dict(sizes), None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def _begun(self, file: str, total: int):
        """The bar, now at this file of `total` bytes."""
        from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
        from tqdm import tqdm

        self._sizes[file] = max(self._sizes[file], total)
        what = f"{self._name}: {file}"
        if self._bar is None:
            layout = "downloading {desc} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt}, {remaining} left"
            self._bar = tqdm(total=0, unit="B", unit_scale=True, unit_divisor=1024, desc=what, bar_format=layout,
                             mininterval=0.5, disable=bool(HF_HUB_DISABLE_PROGRESS_BARS))
        self._bar.total = sum(self._sizes.values())
        self._bar.set_description_str(what)
        return self._bar

    def of(self, file: str) -> type:
        """What huggingface_hub takes for a bar of this file."""
        begun = self._begun

        class Part:
            def __init__(self, *_, total: int | None = None, initial: int = 0, **__):
                self._bar = begun(file, total or 0)
                self._bar.update(initial)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def update(self, count: float | None = 1) -> None:
                self._bar.update(count)

            def _ignored(self, *_, **__) -> None:
                pass

            update_transfer = set_postfix_str = set_transfer_postfix_str = set_description_str = refresh = _ignored
            close = _ignored

        return Part
