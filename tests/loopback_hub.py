"""A hub on 127.0.0.1 that speaks the Hub's protocol to the real client, and can be out of order in many ways.

Small files are redirected within the hub, large ones (weights, parquet) to a server of another name, as the Hub does.
Each request is kept in `asked`. The client reads where the hub is as it is imported: `python` runs it in a process.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

REPO = Path(__file__).resolve().parent.parent
LARGE = (".safetensors", ".parquet", ".bin")
TOKEN = "hf_good"
PATIENCE = 120.0  # seconds


class Repository:
    """Files by path, commit by commit."""

    def __init__(self):
        self.commits: dict[str, dict[str, bytes]] = {}
        self.refs: dict[str, str] = {}
        self.gated = False

    def commit(self, files: Mapping[str, bytes], *refs: str) -> str:
        """A new commit with these files, at these branches or tags; its name."""
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs |= dict.fromkeys(refs or ("main",), sha)
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit."""
        return revision if revision in self.commits else self.refs.get(revision)


class LoopbackHub:
    """The server; use as a context. What is out of order is set as attributes, at any time."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}  # models/<id>, datasets/<id>
        self.asked: list[str] = []
        self.renamed: dict[str, str] = {}  # a model's name of before -> of now
        self.status: int | None = None  # answers all but HEAD / with this
        self.retry_after: int | None = None
        self.failures: int | None = None  # of those answers; None: for ever
        self.stalls = ""  # nothing comes of paths that hold this
        self.cut: int | None = None  # of a large file it gives no more than so many bytes, then the line breaks
        self.cuts: int | None = None  # for so many answers; None: for ever
        self.rate: int | None = None  # bytes a second of a large file
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """The hub is gone: connections are refused."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: Mapping[str, bytes] | Path, *refs: str) -> str:
        """A commit of `models/<id>` or `datasets/<id>`, from a folder or from contents by path."""
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        return self.repositories.setdefault(name, Repository()).commit(files, *refs)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Where the client finds this hub, and where it keeps what comes; no proxy in between."""
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith("HF_") and "proxy" not in name.lower()}
        return kept | {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost",
                       "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO),
                       "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "2"} | more

    def python(self, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
        """`python <arguments>` that asks this hub."""
        return subprocess.run([sys.executable, *arguments], env=self.environment(home, **more), cwd=REPO, text=True,
                              capture_output=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL)


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def do_GET(self) -> None:
            _answer(hub, self)

        do_HEAD = do_POST = do_GET

    return Handler


def _answer(hub: LoopbackHub, request: BaseHTTPRequestHandler) -> None:
    path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    hub.asked.append(f"{request.command} {path}" + (f" {part}" if (part := request.headers.get("Range")) else ""))
    old = next((old for old in hub.renamed if f"{path}/".startswith((f"/{old}/", f"/api/models/{old}/"))), None)
    if path == "/":
        _send(request, 200)
    elif old:
        _send(request, 307, Location=request.path.replace(old, hub.renamed[old], 1))
    elif hub.stalls and hub.stalls in path:
        time.sleep(20)
        request.close_connection = True
    elif hub.status and hub.failures != 0:
        hub.failures = hub.failures and hub.failures - 1
        _send(request, hub.status, Retry_After=str(hub.retry_after) if hub.retry_after else None)
    elif path.startswith("/cdn/"):
        _large(hub, request, path)
    elif path.startswith("/api/resolve-cache/"):
        kind, owner, name, commit, file = path.removeprefix("/api/resolve-cache/").split("/", 4)
        content = hub.repositories[f"{kind}/{owner}/{name}"].commits[commit][file]
        _send(request, 200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=commit)
    elif path.startswith("/api/"):
        _about(hub, request, path.removeprefix("/api/"), query, body)
    else:
        _resolve(hub, request, path)


def _send(request: BaseHTTPRequestHandler, status: int, content: bytes = b"", **headers: str | None) -> None:
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(content))} | headers).items():
        if value is not None:
            request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


def _json(request: BaseHTTPRequestHandler, value: object) -> None:
    _send(request, 200, json.dumps(value).encode(), Content_Type="application/json")


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    _send(request, status, X_Error_Code=code, X_Error_Message=message)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _about(hub: LoopbackHub, request: BaseHTTPRequestHandler, path: str, query: dict, body: bytes) -> None:
    """/api/models/<id>, .../revision/<revision>, .../tree/<revision>/<folder>, .../paths-info/<revision>"""
    kind, owner, name, what, revision, folder = (*path.split("/", 5), *[""] * 6)[:6]
    repository = hub.repositories.get(f"{kind}/{owner}/{name}")
    if repository is None:
        return _refuse(request, 401, "RepoNotFound", "Repository not found")
    commit = repository.resolve(unquote(revision) or "main")
    if commit is None:
        return _refuse(request, 404, "RevisionNotFound", "Invalid rev id")
    files = repository.commits[commit]
    if what in ("", "revision"):
        return _json(request, {"id": f"{owner}/{name}", "sha": commit, "private": False, "tags": [], "downloads": 0,
                               "gated": "auto" if repository.gated else False, "siblings": [
                                   {"rfilename": file} | ({"size": len(content)} if "blobs" in query else {})
                                   for file, content in files.items()]})
    if what == "tree":
        inside = {file: content for file, content in files.items() if file.startswith(f"{folder}/" if folder else "")}
        if folder and not inside:
            return _refuse(request, 404, "EntryNotFound", "Entry not found")
        deep = query.get("recursive", ["false"])[0].lower() == "true"
        return _json(request, _entries(inside, f"{folder}/" if folder else "", deep))
    if what == "paths-info":
        asked = parse_qs(body.decode()).get("paths") or json.loads(body or b"{}").get("paths", [])
        return _json(request, [one for one in _entries(files, "", True) if one["path"] in asked])
    return _send(request, 200, b"{}" if what != "discussions" else b'{"discussions": [], "count": 0, "start": 0}')


def _entries(files: Mapping[str, bytes], before: str, deep: bool) -> list[dict]:
    """Files and folders as a tree lists them."""
    entries: dict[str, dict] = {}
    for file, content in files.items():
        *parents, _ = file.removeprefix(before).split("/")
        for depth in range(1, len(parents) + 1):
            folder = before + "/".join(parents[:depth])
            if deep or depth == 1:
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        if deep or not parents:
            entries[file] = {"type": "file", "path": file, "oid": _oid(content), "size": len(content)}
            if file.endswith(LARGE):
                entries[file]["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content),
                                        "pointerSize": 130}
    return list(entries.values())


def _resolve(hub: LoopbackHub, request: BaseHTTPRequestHandler, path: str) -> None:
    """/<id>/resolve/<revision>/<file>, of data sets /datasets/<id>/..."""
    kind = "datasets" if path.startswith("/datasets/") else "models"
    owner, name, _, rest = (path.removeprefix("/datasets").removeprefix("/")).split("/", 3)
    repository = hub.repositories.get(f"{kind}/{owner}/{name}")
    if repository is None:
        return _refuse(request, 401, "RepoNotFound", "Repository not found")
    token = request.headers.get("Authorization")
    if token not in (None, f"Bearer {TOKEN}"):
        return _refuse(request, 401, "", "Invalid credentials in Authorization header")
    if repository.gated and not token:
        return _refuse(request, 401, "GatedRepo", f"Access to {owner}/{name} is restricted")
    revision, _, file = rest.partition("/")
    commit = repository.resolve(unquote(revision))
    if commit is None:
        return _refuse(request, 404, "RevisionNotFound", "Invalid rev id")
    content = repository.commits[commit].get(file)
    if content is None:
        return _refuse(request, 404, "EntryNotFound", "Entry not found")
    if not file.endswith(LARGE):
        return _send(request, 307, Location=f"/api/resolve-cache/{kind}/{owner}/{name}/{commit}/{file}")
    digest = hashlib.sha256(content).hexdigest()
    return _send(request, 302, X_Repo_Commit=commit, X_Linked_Etag=f'"{digest}"', X_Linked_Size=str(len(content)),
                 Location=f"http://localhost:{hub.port}/cdn/{kind}/{owner}/{name}/{commit}/{file}")


def _large(hub: LoopbackHub, request: BaseHTTPRequestHandler, path: str) -> None:
    """A large file, from where a Range says; in as many pieces as the line allows."""
    kind, owner, name, commit, file = path.removeprefix("/cdn/").split("/", 4)
    whole = hub.repositories[f"{kind}/{owner}/{name}"].commits[commit][file]
    said = request.headers.get("Range", "")
    start = int(said.removeprefix("bytes=").partition("-")[0] or 0)
    content = whole[start:]
    request.send_response(206 if said else 200)
    request.send_header("Content-Length", str(len(content)))
    if said:
        request.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
    request.end_headers()
    if hub.cut is not None and hub.cuts != 0:
        hub.cuts = hub.cuts and hub.cuts - 1
        content = content[:max(0, hub.cut - start)]
    try:
        for at in range(0, len(content), hub.rate or len(content) or 1):
            request.wfile.write(content[at:at + (hub.rate or len(content))])
            if hub.rate:
                request.wfile.flush()
                time.sleep(1.0)
    except OSError:  # the client has gone
        pass
    request.close_connection = True
