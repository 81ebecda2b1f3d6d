"""What went wrong with the hub, in one clause that names the cause and what to do."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from urllib.request import getproxies

from prune_core import InputError


class HubError(InputError):
    """The hub did not give what was asked, nor did the cache; `silent`: it was not even heard."""

    def __init__(self, message: str, silent: bool = False):
        super().__init__(message)
        self.silent = silent


class GaveUp(Exception):
    """The same thing was asked often enough."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it came of, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def answer_in(error: BaseException):
    """The HTTP answer behind an error; None where the hub did not answer."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((one.response for one in chain(error) if isinstance(one, HfHubHTTPError)), None)


def passing(error: BaseException) -> bool:
    """Whether another time it may work: the network, a limit, an error of the hub's own; not a name that is wrong."""
    answer = answer_in(error)
    return answer is None or answer.status_code == 429 or answer.status_code >= 500


def cause(error: BaseException, address: str, revision: str | None = None) -> str:
    """Why, and what to do, in a clause. `address`: of the repository, for people."""
    from huggingface_hub import errors

    known = list(chain(error))
    for kind, words in (
        (errors.GatedRepoError, f"gated: accept its terms at {address} and log in with `hf auth login`"),
        (errors.RevisionNotFoundError, f"there is no revision {revision!r}; branches, tags and commits: "
                                       f"{address}/tree/main"),
        (errors.DisabledRepoError, f"the hub has disabled it; see {address}"),
        (errors.RemoteEntryNotFoundError, "a file that it lists is not there; try again, or another --revision"),
        (errors.HFValidationError, "no name that the hub can have; needed: owner/name"),
    ):
        if any(isinstance(one, kind) for one in known):
            return words
    if answered := next((one for one in known if isinstance(one, errors.HfHubHTTPError)), None):
        return _by_status(answered.response.status_code, answered, address)
    said = next((words for one in known if (words := _by_kind(one))), None)
    return said or f"{type(error).__name__}: {_words(error)}"


def _by_status(status: int, answered, address: str) -> str:
    from huggingface_hub import errors

    if status in (401, 403) and "redentials" in (answered.server_message or ""):
        return "the hub refuses the token; log in anew with `hf auth login`, or unset HF_TOKEN"
    if isinstance(answered, errors.RepositoryNotFoundError) or status == 404:
        return f"the hub has no such repository, or it is private: check {address}, or log in with `hf auth login`"
    if status in (401, 403):
        return f"the hub gives no access ({status}); see {address}, and log in with `hf auth login`"
    if status == 429:
        when = f"in {seconds} s" if (seconds := wait_of(answered.response)) else "in some minutes"
        return f"the hub was asked too often (429): try again {when}; logging in with `hf auth login` raises the limit"
    if status >= 500:
        return f"the hub has an error of its own ({status}): try again later"
    return f"the hub refuses ({status}); see {address}"


def wait_of(response) -> int:
    """Seconds to wait, as an answer's Retry-After says; 0 where it does not."""
    said = response.headers.get("Retry-After", "").strip()
    return int(said) if said.isdecimal() else 0


def _by_kind(error: BaseException) -> str | None:
    """Of what is no answer of the hub."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked; unset it"
    if isinstance(error, httpx2.ProxyError):
        return f"the proxy does not let it through ({_words(error)}); check HTTPS_PROXY and NO_PROXY"
    if isinstance(error, ssl.SSLError) or "CERTIFICATE_VERIFY" in str(error):
        return f"no safe connection ({_words(error)}); check the clock, the proxy, and SSL_CERT_FILE"
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        proxy = " and the proxy (HTTPS_PROXY, NO_PROXY)" if set(getproxies()) - {"no"} else ""
        return f"the hub did not answer; check the network{proxy}"
    if isinstance(error, httpx2.TimeoutException):
        return "the hub is slow: nothing came for a while; try again, or set HF_HUB_DOWNLOAD_TIMEOUT to more seconds"
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError) or "Consistency check" in str(error):
        return "the download broke off; files that came whole are kept, and the same command fetches the rest"
    if isinstance(error, errors.FileMetadataError | httpx2.UnsupportedProtocol | httpx2.InvalidURL | ValueError):
        return "what answers does not speak the hub's protocol; check HF_ENDPOINT, and the network's login page"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk of the cache is full; make room, or set HF_HOME to another disk"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT,
                                                          errno.ENOTDIR):
        return f"the cache cannot be written ({error.filename}); set HF_HOME to a folder of your own"
    if "xet" in f"{type(error).__module__} {error}".lower():
        return f"the download broke off ({_words(error)}); try again, or take the plain way with HF_HUB_DISABLE_XET=1"
    return None


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
