"""Turns a URL into an address to connect to; for `embedded://` it starts the server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from broker.connections.endpoint import Endpoint
from broker.connections.url import Address, parse_url

if TYPE_CHECKING:
    from broker.local_server.embedded import EmbeddedServer


def opened_address(url: str) -> tuple[Address, EmbeddedServer | None]:
    """Reads a URL, and starts the embedded server if the URL asks for it.

    Returns:
        The address, and the embedded server to release when done.

    Raises:
        BadUrl: see `parse_url`.
        UnsupportedServer: the embedded server is not installed.
        ServerNotStarted: the embedded server did not start.
    """
    address = parse_url(url)
    if address.mode == "fakeredis":
        return replace(address, endpoints=(Endpoint(f"fakeredis:{address.path}"),)), None
    if address.mode != "embedded":
        return address, None
    from broker.local_server import embedded

    server = embedded.acquire(address.path)
    return replace(address, endpoints=(Endpoint("", 0, str(server.socket)),)), server
