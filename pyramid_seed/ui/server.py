"""Serves the page: by default on this machine only, no files but the clips, nothing from other hosts."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

# Read by gradio when it is imported and when a page is built.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, PlainTextResponse
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .app import CSS, THEME, build_page
from .gallery import find_clip
from .html import CLIPS
from .studio import Studio
from .uploads import MAX_FILE, BodyLimitMiddleware

# The browser itself keeps the page from other hosts, whatever gradio's assets ask for.
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
    """Adds the headers above; refuses other sites' pages, and gradio's routes that fetch from other hosts.

    What a request says of the proxies that it came through is dropped: gradio would put it into the page.
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
    """The application: the clips of the studio's folder, and the page."""
    app = FastAPI(title="pyramid-seed", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimitMiddleware, folder=Path(get_upload_folder()))
    app.add_middleware(SecurityHeadersMiddleware)
    if names := loopback_names(host):
        # Another site's page whose name was made to resolve to this machine sends another Host.
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


def serve(studio: Studio, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        studio: what the page does.
        host: address to listen on; a loopback one keeps the page on this machine.
        port: 0 takes a free one.
        announce: called with the page's address once it can be opened.

    Raises:
        OSError: the address cannot be listened on.
    """
    with (
        tempfile.TemporaryDirectory() as uploads,
        socket.create_server((host, port), family=_family(host)) as listener,
    ):
        os.environ["GRADIO_TEMP_DIR"] = uploads
        app = build_server(studio, host)
        announce(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, proxy_headers=False)
        )
        # Pages that are still open are disconnected at the end; that is no error.
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        try:
            server.run(sockets=[listener])
        finally:
            studio.queue.close()


def loopback_names(host: str) -> list[str]:
    """What browsers call an address that reaches this machine only, as a Host header; none of any other.

    Raises:
        OSError: there is no such address.
    """
    # An empty one is every address.
    addresses = socket.getaddrinfo(host or "0.0.0.0", None, _family(host), socket.SOCK_STREAM)
    address = ipaddress.ip_address(addresses[0][4][0])
    if not address.is_loopback:
        return []
    return ["localhost", host.lower(), f"[{address}]" if address.version == 6 else str(address)]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _comes_from_elsewhere(scope: Scope) -> bool:
    """Whether a page of another site sent this; browsers say so for everything but plain links."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _leads_elsewhere(path: str) -> bool:
    return "/file=http" in path.lower() or "/proxy=" in path.lower()
