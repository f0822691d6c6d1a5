"""A hub on this machine: what the real client asks one for, and ways to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "5eed" * 10
_PLAIN = (".json", ".txt", ".md")  # files that Git keeps itself; the others are large ones


def ask_hub(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the real client of this process ask a hub at an endpoint."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


class StandInHub:
    """Serves the folders of `repositories` at one commit.

    Attributes:
        repositories: owner/name -> its folder.
        requests: (method, path, Range) of all that was asked, in order.
        fail: called first with every request's handler; if it returns true, it has answered.
        change_listing: called with the rows of a listing before they are sent.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.requests: list[tuple[str, str, str | None]] = []
        self.fail: Callable[[Handler], bool] = lambda _: False
        self.change_listing: Callable[[list[dict[str, Any]]], object] = lambda _: None
        self.stopped = threading.Event()

    def heal(self) -> None:
        """Answer properly from now on, and forget what was asked."""
        self.fail, self.change_listing = (lambda _: False), (lambda _: None)
        self.requests.clear()

    @property
    def files(self) -> list[str]:
        """Names of the files that were asked for."""
        return [path.split(f"/{COMMIT}/")[1] for _, path, _ in self.requests if f"/resolve/{COMMIT}/" in path]

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Yields the endpoint."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            self.stopped.set()
            server.shutdown()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if not path.startswith("/api/models/") and "/resolve/" not in path:
            self.answer(404)  # the client asks for what else the hub offers
            return
        self.hub.requests.append((self.command, path, self.headers["Range"]))
        if self.hub.fail(self):
            return
        if path.startswith("/api/models/"):
            repository = "/".join(path.split("/")[3:5])
            if repository not in self.hub.repositories:
                self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
            elif "/tree/" in path:
                self.send_listing(repository, "path", "oid")
            else:
                self.send_listing(repository, "rfilename", "blobId")
            return
        repository, _, file = path.strip("/").partition("/resolve/")
        self.send_file(self.hub.repositories[repository] / file.partition("/")[2])

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def send_listing(self, repository: str, name: str, blob: str) -> None:
        folder = self.hub.repositories[repository]
        rows = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            row: dict[str, Any] = {
                name: path.relative_to(folder).as_posix(),
                "size": len(content),
                "type": "file",
            }
            row[blob] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if path.suffix not in _PLAIN:
                sha256 = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"size": len(content), "sha256": sha256, "oid": sha256, "pointerSize": 130}
            rows.append(row)
        self.hub.change_listing(rows)
        is_tree = name == "path"
        answer = rows if is_tree else {"id": repository, "sha": COMMIT, "siblings": rows}
        self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def send_file(self, path: Path) -> None:
        content = path.read_bytes()
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206 if start else 200, content[start:], headers)

    def break_off(self, path: Path, count: int) -> None:
        """The beginning of a file, then the end of the connection."""
        content = path.read_bytes()
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:count])
        self.close_connection = True
