"""How much Python a result passes from `Worker.submit` to the socket: each call costs time, each file a reader."""

from __future__ import annotations

import _socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import broker
from broker import Task
from tests.conformance.lab import Lab

_PACKAGE = f"{Path(broker.__file__).parent}/"
_SENDING = frozenset({"send", "sendall", "sendmsg"})
#: A coroutine has a method `send`, too.
_SOCKETS = (_socket.socket, ssl.SSLSocket)


def calls_until_sent(call: Callable[[], object]) -> list[tuple[str, str]]:
    """The Python functions that are called until the first bytes go to a socket: the package's file, and the name."""
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
        call()
    finally:
        sys.setprofile(None)
    assert sent
    return calls


def test_a_result_passes_few_calls_in_few_files_to_the_socket(lab: Lab) -> None:
    if lab.url.startswith("fakeredis"):
        pytest.skip("it has no socket")
    lab.trainer(max_concurrent_rollouts=2, max_staleness=None).enqueue([Task(id=f"t{i}") for i in range(2)])
    worker = lab.worker()
    first, second = worker.claim(2)
    worker.submit(first, b"x")

    calls = calls_until_sent(lambda: worker.submit(second, b"x"))

    assert calls[0] == ("clients/worker.py", "submit")
    assert len(calls) <= 23, calls
    assert len({file for file, _ in calls}) <= 9, calls
