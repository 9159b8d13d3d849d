"""How much Python a result passes from a worker's `submit` to the socket: each call costs time, each file a reader."""

from __future__ import annotations

import _socket
import asyncio
import ssl
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import broker
from broker import Task, aio
from tests.conformance.lab import Lab

_PACKAGE = f"{Path(broker.__file__).parent}/"
_SENDING = frozenset({"send", "sendall", "sendmsg"})
#: A coroutine has a method `send`, too.
_SOCKETS = (_socket.socket, ssl.SSLSocket)


@contextmanager
def calls_until_sent() -> Generator[list[tuple[str, str]]]:
    """The Python functions that a block calls until the first bytes go to a socket: the package's file, and the name."""
    calls: list[tuple[str, str]] = []
    sent = False

    def look(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal sent
        if event == "c_call" and argument.__name__ in _SENDING and isinstance(argument.__self__, _SOCKETS):
            sent = True
        elif event == "call" and not sent and frame.f_code.co_filename.startswith(_PACKAGE):
            calls.append((frame.f_code.co_filename.removeprefix(_PACKAGE), frame.f_code.co_name))

    sys.setprofile(look)
    try:
        yield calls
    finally:
        sys.setprofile(None)
    assert sent


@pytest.fixture
def with_work(lab: Lab) -> Lab:
    """A run with two tasks, on a server with a socket."""
    if lab.url.startswith("fakeredis"):
        pytest.skip("it has no socket")
    lab.trainer(max_concurrent_rollouts=2, max_staleness=None).enqueue([Task(id=f"t{i}") for i in range(2)])
    return lab


def test_a_result_passes_few_calls_in_few_files_to_the_socket(with_work: Lab) -> None:
    worker = with_work.worker()
    first, second = worker.claim(2)
    worker.submit(first, b"x")

    with calls_until_sent() as calls:
        worker.submit(second, b"x")

    assert calls[0] == ("clients/worker.py", "submit")
    assert len(calls) <= 23, calls
    assert len({file for file, _ in calls}) <= 9, calls


def test_so_does_a_result_of_asyncio(with_work: Lab) -> None:
    """Five calls, in two files more: results of several tasks are grouped, and a client may not be open yet."""

    async def submitted() -> list[tuple[str, str]]:
        async with aio.Worker(with_work.url, with_work.run, clock=with_work.clock, heartbeat=False) as worker:
            first, second = await worker.claim(2)
            await worker.submit(first, b"x")
            with calls_until_sent() as calls:
                await worker.submit(second, b"x")
            return calls

    calls = asyncio.run(submitted())

    assert calls[0] == ("clients/aio_worker.py", "submit")
    assert len(calls) <= 27, calls
    assert len({file for file, _ in calls}) <= 11, calls
