"""Threads share one view of where the servers are, and forget that view together when each had a failed call."""

import sys
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from broker.connections.connection import RedisCommand
from broker.connections.endpoint import Endpoint
from broker.connections.sync import run_blocking
from broker.connections.topology import make_topology
from broker.connections.url import parse_url

#: How often each thread looks for the server and forgets it.
LOOKS = 3000


@pytest.fixture
def often_switched() -> Generator[None]:
    """Threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often_switched")
@pytest.mark.parametrize("hosts", ["h:1", "h:1,h:2,h:3"])
@pytest.mark.parametrize(
    ("url", "reply"),
    [
        ("redis+sentinel://{}/main", [b"h", b"6379"]),
        ("redis+cluster://{}", [[0, 0, [b"h", 6379, b"name"]]]),
    ],
    ids=["sentinel", "cluster"],
)
def test_threads_that_forget_the_server_together_all_find_it_again(url: str, reply: list[Any], hosts: str):
    topology = make_topology(parse_url(url.format(hosts)))
    problems: list[BaseException | Endpoint] = []

    async def ask(_server: Endpoint, _command: RedisCommand, _until: float) -> list[Any]:
        return reply

    def look() -> None:
        try:
            for _ in range(LOOKS):
                found = run_blocking(topology.locate(None, ask, time.monotonic() + 60))
                if found != Endpoint("h", 6379):
                    problems.append(found)
                topology.forget()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is a problem
            problems.append(error)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
