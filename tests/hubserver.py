"""A server on loopback that answers like the model hub to the hub's own client, and misbehaves on request.

/api/models/OWNER/NAME/revision/REV   the commit of a revision, and the names of its files
/OWNER/NAME/resolve/REV/FILE          headers; large files are redirected to /cdn, small ones are served
/cdn/SHA256                           bytes, with ranges
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LARGE = 10_000
"""Bytes from which a file lies apart, as the hub's large files do."""

Files = dict[str, Path | bytes]


def commit_of(number: int) -> str:
    return hashlib.sha1(b"%d" % number).hexdigest()


@dataclass
class Trouble:
    """What goes wrong, and how often; counts are used up. Paths are matched by a part of them."""

    statuses: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    """(part of path, status, headers): each is given once."""
    cut: list[int] = field(default_factory=list)
    """Bytes of a download after which the connection drops; each once."""
    spoil: bool = False
    """Bytes of large files are not those of their hash."""
    spoil_large: bool = False
    """The same of files above a megabyte only."""
    slow: float = 0.0
    """Seconds between pieces of a download."""
    token: str | None = None
    """Without it, the answer is 401."""
    nameless: bool = False
    """Answers for files that do not exist do not name the commit, as those of some mirrors."""
    headers: dict[str, str] = field(default_factory=dict)
    """Put over those of a file's answer."""


@dataclass
class Hub:
    repositories: dict[str, dict[str, Files]] = field(default_factory=dict)
    """{owner/name: {commit: files}}."""
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    """{owner/name: {branch: commit}}."""
    renamed: dict[str, str] = field(default_factory=dict)
    """{old owner/name: new}."""
    trouble: Trouble = field(default_factory=Trouble)
    asked: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes by path."""
    starts: list[int] = field(default_factory=list)
    """Where downloads of large files began."""
    url: str = ""
    elsewhere: str = ""
    """The same server under another host name: large files lie on another host."""
    on_download: Callable[[], None] | None = None
    """Called when a large file is asked for."""

    def add(self, repository: str, files: Files, number: int = 1) -> str:
        """Put a commit on the main branch."""
        commit = commit_of(number)
        self.repositories.setdefault(repository, {})[commit] = files
        self.branches.setdefault(repository, {})["main"] = commit
        return commit

    def environment(self, home: Path) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        }


def size_of(content: Path | bytes) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


_hashes: dict[Any, str] = {}


def sha256_of(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    key = (content, content.stat().st_mtime_ns)
    if key not in _hashes:
        with content.open("rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def etag_of(content: Path | bytes) -> str:
    if size_of(content) >= LARGE:
        return sha256_of(content)
    data = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, *, head: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked[f"{self.command} {path}"] += 1
        trouble = self.hub.trouble
        for n, (part, status, headers) in enumerate(trouble.statuses):
            if part in path:
                del trouble.statuses[n]
                return self.plain(status, b"trouble", headers)
        if (
            trouble.token is not None
            and not path.startswith("/cdn/")
            and self.headers.get("Authorization") != f"Bearer {trouble.token}"
        ):
            return self.plain(
                401, b"", {"X-Error-Message": "Invalid username or password.", "X-Error-Code": "RepoNotFound"}
            )
        for old, new in self.hub.renamed.items():
            if path.startswith((f"/{old}/", f"/api/models/{old}/")):
                return self.plain(307, b"", {"Location": path.replace(f"/{old}/", f"/{new}/")})
        if path.startswith("/cdn/"):
            return self.download(path.removeprefix("/cdn/"))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 6:
            return self.information("/".join(parts[2:4]), "/".join(parts[5:]))
        if len(parts) >= 5 and parts[2] == "resolve":
            return self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), head)
        return self.plain(404, b"", {"X-Error-Code": "RepoNotFound"})

    def commit(self, repository: str, revision: str) -> str | None:
        """The commit, after telling the client where there is none."""
        if repository not in self.hub.repositories:
            self.plain(401, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = self.hub.branches[repository].get(revision, revision)
        if commit not in self.hub.repositories[repository]:
            self.plain(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def information(self, repository: str, revision: str) -> None:
        if (commit := self.commit(repository, revision)) is None:
            return
        names = [{"rfilename": name} for name in self.hub.repositories[repository][commit]]
        body = {
            "_id": "0",
            "id": repository,
            "modelId": repository,
            "sha": commit,
            "siblings": names,
            "tags": [],
            "downloads": 0,
        }
        self.plain(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def file(self, repository: str, revision: str, name: str, head: bool) -> None:
        if (commit := self.commit(repository, revision)) is None:
            return None
        content = self.hub.repositories[repository][commit].get(name)
        if content is None:
            named = {} if self.hub.trouble.nameless else {"X-Repo-Commit": commit}
            return self.plain(404, b"", {"X-Error-Code": "EntryNotFound"} | named)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag_of(content)}"'}
        if size_of(content) >= LARGE:
            linked = {"X-Linked-Etag": f'"{etag_of(content)}"', "X-Linked-Size": str(size_of(content))}
            return self.plain(
                302,
                b"",
                headers
                | linked
                | {"Location": f"{self.hub.elsewhere}/cdn/{etag_of(content)}"}
                | self.hub.trouble.headers,
            )
        data = content.read_bytes() if isinstance(content, Path) else content
        return self.plain(200, data, headers | self.hub.trouble.headers)

    def download(self, digest: str) -> None:
        """By hash, in pieces, from where the client left off."""
        every = (
            c
            for commits in self.hub.repositories.values()
            for files in commits.values()
            for c in files.values()
        )
        content = next((c for c in every if size_of(c) >= LARGE and sha256_of(c) == digest), None)
        if content is None:
            return self.plain(404, b"")
        if self.hub.on_download:
            self.hub.on_download()
        size, start = size_of(content), 0
        asked = self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        if self.command == "GET":
            self.hub.starts.append(start)
        if start >= size:
            return self.plain(416, b"", {"Content-Range": f"bytes */{size}"})
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        cut = self.hub.trouble.cut.pop(0) if self.hub.trouble.cut else None
        for piece in pieces(content, start):
            if self.hub.trouble.spoil or (self.hub.trouble.spoil_large and size > 2**20):
                piece = bytes(len(piece))
            if cut is not None and len(piece) >= cut:
                self.wfile.write(piece[:cut])
                self.hub.sent["cdn"] += cut
                self.close_connection = True
                self.connection.close()
                return None
            cut = None if cut is None else cut - len(piece)
            try:
                self.wfile.write(piece)
            except OSError:
                return None  # the client was killed
            self.hub.sent["cdn"] += len(piece)
            if self.hub.trouble.slow:
                threading.Event().wait(self.hub.trouble.slow)
        return None

    def plain(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Tests read stderr."""


def pieces(content: Path | bytes, start: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        for at in range(start, len(content), 1 << 16):
            yield content[at : at + (1 << 16)]
        return
    with content.open("rb") as file:
        file.seek(start)
        while piece := file.read(1 << 20):
            yield piece


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.elsewhere = hub.url.replace("127.0.0.1", "localhost")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
