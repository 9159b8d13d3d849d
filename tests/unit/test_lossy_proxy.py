"""The proxy loses the reply to a request, in however many pieces the request comes."""

from __future__ import annotations

import socket
from collections.abc import Generator

import pytest

from tests.lossy_proxy import LossyProxy, ScriptedServer
from tests.waiting import wait_until

PIECES = b"*2\r\n$4\r\nINCR\r\n$3\r\n", b"key\r\n"


@pytest.fixture
def proxy() -> Generator[LossyProxy]:
    with ScriptedServer(lambda _: b":1\r\n") as server, LossyProxy(server.port, b"INCR") as proxy:
        yield proxy


def answer(proxy: LossyProxy) -> bytes:
    """Sends a request in two pieces. Returns the reply, or nothing if the connection broke."""
    before = proxy.requests
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
        client.sendall(PIECES[0])
        wait_until(lambda: proxy.requests > before, "the first piece has arrived")
        client.sendall(PIECES[1])
        try:
            return client.recv(100)
        except ConnectionResetError:
            return b""


def test_a_reply_is_lost_and_the_next_one_is_not(proxy: LossyProxy) -> None:
    proxy.lose_replies = 1
    assert [answer(proxy), answer(proxy)] == [b"", b":1\r\n"]
    assert proxy.lose_replies == 0


def test_a_request_is_lost_and_the_next_one_is_not(proxy: LossyProxy) -> None:
    proxy.lose_requests = 1
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
        client.sendall(PIECES[0])
        assert client.recv(100) == b""
    assert answer(proxy) == b":1\r\n"
    assert proxy.requests == 2
