"""What visitors may send: how much at once, how much in all, and how long it is kept."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_FILE = 32 * 2**20
"""Bytes of one picture."""

MAX_TOTAL, MAX_NUMBER = 256 * 2**20, 100
"""Bytes and number of all pictures that are kept."""

KEPT_SECONDS = 3600.0
"""A page may use a picture for so long; a job has read it when it is queued."""

MAX_BODY = 2**20
"""Bytes of any other request: two prompts of the longest, with room to spare."""

_FULL = (
    f"there is no room for another picture: this page keeps at most {MAX_NUMBER}, of {MAX_TOTAL // 2**20} MB "
    f"together, each for {KEPT_SECONDS / 60:.0f} minutes; try again later"
)
_PATHS = ("/upload", "/gradio_api/upload")


class BodyLimitMiddleware:
    """Refuses what is too long before any of it is read, and pictures for which there is no room.

    Args:
        app: what it protects.
        folder: where that keeps pictures; what lies there before the first request stays.
    """

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app = app
        self.folder = folder
        self._own = set(folder.glob("*"))
        self._coming = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdecimal():
            await PlainTextResponse("A request must say how long it is.", 411)(scope, receive, send)
        elif scope["path"] not in _PATHS:
            # The page shows the field `detail` of a refusal, and of one of a picture the whole text.
            refusal = {
                "detail": f"a request must be at most {MAX_BODY} bytes, got {length}; use a shorter prompt"
            }
            is_short = int(length) <= MAX_BODY
            await (self.app if is_short else JSONResponse(refusal, 413))(scope, receive, send)
        elif self._has_room(int(length)):
            self._coming += int(length)
            try:
                await self.app(scope, receive, send)
            finally:
                self._coming -= int(length)
        else:
            await PlainTextResponse(_FULL, 413)(scope, receive, send)

    def _has_room(self, length: int) -> bool:
        pictures = [path for path in self.folder.glob("*") if path not in self._own]
        for path in pictures:
            if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        kept = [path for path in pictures if path.exists()]
        size = sum(
            file.stat().st_size for path in kept for file in (path, *path.rglob("*")) if file.is_file()
        )
        return size + self._coming + length <= MAX_TOTAL and len(kept) < MAX_NUMBER
