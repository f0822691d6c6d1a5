"""Limits on what visitors may send: how much at once, how much in total, and how long it is kept."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_FILE = 32 * 2**20
"""Bytes per image."""

MAX_TOTAL, MAX_NUMBER = 256 * 2**20, 100
"""Bytes and number of all images kept."""

KEPT_SECONDS = 3600.0
"""Seconds for which a page may use an image; a job has read it when it is queued."""

MAX_BODY = 2**20
"""Bytes of any other request: room for two prompts of the greatest length."""

_FULL = (
    f"there is no room for another picture: this page keeps at most {MAX_NUMBER}, of {MAX_TOTAL // 2**20} MB "
    f"together, each for {KEPT_SECONDS / 60:.0f} minutes; try again later"
)
_PATHS = ("/upload", "/gradio_api/upload")


class BodyLimitMiddleware:
    """Refuses requests that are too long before reading them, and images for which there is no room.

    Args:
        app: the application it protects.
        folder: where the application keeps images; files from before the first request stay.
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
            # For a refusal the page shows the field `detail`, but for a refused image the whole text.
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
