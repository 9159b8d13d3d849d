"""A server for the tests of the folders below this one."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from broker.connections import open_transport
from broker.local_server.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def embedded() -> Generator[EmbeddedServer]:
    server = EmbeddedServer(port=0)
    yield server
    server.stop()


@pytest.fixture
def url(embedded: EmbeddedServer) -> str:
    """An empty server, which other processes reach too."""
    with open_transport(embedded.url) as transport:
        transport.command("FLUSHALL")
    return embedded.url
