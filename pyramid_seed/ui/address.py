"""Where the page listens; nothing here is slow to import, so that a page can be announced at once."""

from __future__ import annotations

import ipaddress
import socket


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes any free port. Browsers that come before the page is there wait.

    Raises:
        OSError: the address does not exist, or is taken.
    """
    return socket.create_server((host, port), family=_family(host))


def url(host: str, listener: socket.socket) -> str:
    """The page's address for a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def loopback_names(host: str) -> list[str]:
    """Host headers that browsers send for an address that reaches only this machine; else none.

    Raises:
        OSError: the address does not exist.
    """
    # An empty host means every address.
    addresses = socket.getaddrinfo(host or "0.0.0.0", None, _family(host), socket.SOCK_STREAM)
    address = ipaddress.ip_address(addresses[0][4][0])
    if not address.is_loopback:
        return []
    return ["localhost", host.lower(), f"[{address}]" if address.version == 6 else str(address)]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
