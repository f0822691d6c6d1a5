"""Serves the page: by default only on this machine, no files but the clips, nothing from other hosts."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

# Gradio reads these when imported and when a page is built.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, PlainTextResponse
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .address import loopback_names
from .app import CSS, THEME, build_page
from .gallery import find_clip
from .html import CLIPS
from .studio import Studio
from .uploads import MAX_FILE, BodyLimitMiddleware

# The browser itself keeps the page from contacting other hosts, whatever gradio's assets request.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_OF_PROXIES = (b"x-forwarded-", b"forwarded", b"x-gradio-server")


class SecurityHeadersMiddleware:
    """Adds the headers above; refuses pages of other sites, and gradio's routes that fetch from other hosts.

    Headers added by proxies are dropped: gradio would use them in the page.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        if "headers" in scope:
            scope["headers"] = [pair for pair in scope["headers"] if not pair[0].startswith(_OF_PROXIES)]
        if scope["type"] == "http" and (_comes_from_elsewhere(scope) or _leads_elsewhere(scope["path"])):
            refusal = PlainTextResponse("Requests from other sites are refused.", 403)
            await refusal(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)


def build_server(studio: Studio, host: str) -> FastAPI:
    """The application: the clips in the studio's folder, and the page."""
    app = FastAPI(title="pyramid-seed", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimitMiddleware, folder=Path(get_upload_folder()))
    app.add_middleware(SecurityHeadersMiddleware)
    if names := loopback_names(host):
        # A foreign page whose host name was made to resolve to this machine sends a different Host.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)

    @app.api_route(CLIPS + "/{name}", methods=["GET", "HEAD"])
    def clip(name: str) -> FileResponse:
        try:
            path = find_clip(studio.folder, name)
        except (ValueError, FileNotFoundError) as error:
            raise HTTPException(404, str(error)) from error
        return FileResponse(path, media_type="video/mp4", headers={"Cache-Control": "no-cache"})

    return gradio.mount_gradio_app(
        app,
        build_page(studio),
        path="",
        server_name=host,
        allowed_paths=[],
        max_file_size=MAX_FILE,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=THEME,
        css=CSS,
    )


def serve(studio: Studio, host: str, listener: socket.socket) -> None:
    """Serve until interrupted.

    Args:
        studio: does the page's work.
        host: the address that the listener listens on; a loopback address keeps the page on this machine.
        listener: see `address.listen`.
    """
    with tempfile.TemporaryDirectory() as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        app = build_server(studio, host)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, proxy_headers=False)
        )
        # Pages still open are disconnected at the end; that is not an error.
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        try:
            server.run(sockets=[listener])
        finally:
            studio.queue.close()


def _comes_from_elsewhere(scope: Scope) -> bool:
    """Whether another site's page sent this; browsers say so except for plain links."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _leads_elsewhere(path: str) -> bool:
    return "/file=http" in path.lower() or "/proxy=" in path.lower()
