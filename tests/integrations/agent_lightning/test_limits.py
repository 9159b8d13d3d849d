"""What the gateway refuses, and that it never keeps a client waiting."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker.embedded import EmbeddedServer
from broker.integrations.agent_lightning import application
from tests.integrations.agent_lightning.test_protocol import played, serving
from tests.integrations.agent_lightning.wire import Reply, aget, apost, request

TOKEN = "correct horse"


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"worker:{password}".encode()).decode()


HEADERS: list[tuple[dict[str, str], int]] = [
    ({}, 401),
    ({"Authorization": ""}, 401),
    ({"Authorization": "Bearer"}, 401),
    ({"Authorization": "Bearer wrong"}, 401),
    ({"Authorization": f"Bearer {TOKEN}x"}, 401),
    ({"Authorization": f"Token {TOKEN}"}, 401),
    ({"Authorization": "Basic %%%"}, 401),
    ({"Authorization": basic("wrong")}, 401),
    ({"Authorization": "Bearer \xe9\xff"}, 401),
    ({"Authorization": f"Bearer {TOKEN}"}, 200),
    ({"Authorization": f"bearer   {TOKEN} "}, 200),
    ({"authorization": basic(TOKEN)}, 200),  # what stock clients send for http://worker:TOKEN@host:port
]


def test_without_the_token_nothing_is_answered(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url, token=TOKEN) as server:
            for header, status in HEADERS:
                assert (await aget(server.endpoint, "/task", **header)).status == status, header
                assert (await aget(server.endpoint, "/nowhere", **header)).status == (404 if status == 200 else 401)
                posted = await apost(server.endpoint, {"rollout_id": "t"}, **header)
                assert posted.status == status, header
                if status == 401:
                    assert posted.json == {"detail": "Missing or wrong token."}
                    assert posted.headers["www-authenticate"] == "Bearer"


REQUESTS: list[tuple[str, str, bytes | None, int]] = [
    ("POST", "/rollout", b"", 422),
    ("POST", "/rollout", b"{", 422),
    ("POST", "/rollout", b"\xff\xfe", 422),
    ("POST", "/rollout", b"[]", 422),
    ("POST", "/rollout", b"null", 422),
    ("POST", "/rollout", b"{}", 422),
    ("POST", "/rollout", b'{"rollout_id": 7}', 422),
    ("POST", "/rollout", b'{"rollout_id": "t", "metadata": null}', 422),
    ("POST", "/rollout", b'{"rollout_id": "t", "metadata": []}', 422),
    ("POST", "/rollout", b'{"rollout_id": "t", "final_reward": "much"}', 422),
    ("POST", "/rollout", b'{"rollout_id": "t", "triplets": [{"prompt": 1}]}', 422),
    ("POST", "/rollout", b'{"rollout_id": "t", "task": {"rollout_id": "t"}}', 422),
    ("POST", "/rollout", b'{"rollout_id": "t", "metadata": ' + b"[" * 100_000, 422),
    ("POST", "/rollout", b'{"rollout_id": "t", "metadata": {"a": ' + b"[" * 150 + b"]" * 150 + b"}}", 422),
    ("POST", "/rollout", b'{"rollout_id": "t", "metadata": {"a": 1' + b"0" * 30 + b"}}", 422),
    ("POST", "/rollout", b'{"rollout_id": "\\ud800"}', 422),
    ("POST", "/task", b"", 405),
    ("GET", "/rollout", None, 405),
    ("GET", "/", None, 404),
    ("GET", "/api/task", None, 404),
    ("GET", "/resources/", None, 404),
    ("GET", "/resources/%00%ff..%2f", None, 404),
]


def test_bad_input_is_refused_without_a_traceback(url: str, caplog: pytest.LogCaptureFixture) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            for method, path, body, status in REQUESTS:
                answer = await asyncio.to_thread(request, server.endpoint, method, path, body)
                assert answer.status == status, (method, path, body and body[:100], answer)
                assert answer.json["detail"]
                assert "Traceback" not in answer.text
            assert (await aget(server.endpoint, "/task")).status == 200

    assert not [record for record in caplog.records if record.exc_info]


def test_a_request_that_is_too_large_is_refused_whether_it_says_so_or_not(url: str) -> None:
    def chunked(endpoint: str) -> Reply:
        pieces: Any = (b"x" * 1000 for _ in range(3))
        return request(endpoint, "POST", "/rollout", pieces)

    @played
    async def _scenario() -> None:
        async with serving(url, max_request_bytes=2000) as server:
            fits = await apost(server.endpoint, {"rollout_id": "t", "logs": ["x" * 1900]})
            assert fits.status == 200
            announced = await apost(server.endpoint, {"rollout_id": "t", "logs": ["x" * 3000]})
            assert (announced.status, "2000 bytes" in announced.json["detail"]) == (413, True)
            assert (await asyncio.to_thread(chunked, server.endpoint)).status == 413


def test_a_rollout_above_the_limit_of_the_run_is_refused(url: str) -> None:
    from broker import RunConfig

    config = RunConfig(consumer_batch_size=1, max_staleness=None, max_result_bytes=1000)

    @played
    async def _scenario() -> None:
        async with serving(url, config=config) as server:
            rollout_id = await server.queue_task("q")
            answer = await apost(server.endpoint, {"rollout_id": rollout_id, "logs": ["x" * 2000]})
            assert (answer.status, "1000" in answer.json["detail"]) == (413, True)


@contextmanager
def frozen(server: EmbeddedServer) -> Generator[None]:
    assert server.pid
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_client_is_answered_although_the_broker_hangs(
    url: str, embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert application.ANSWER_WITHIN_S < 10
    monkeypatch.setattr(application, "ANSWER_WITHIN_S", 0.3)

    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            rollout_id = await server.queue_task("q")
            with frozen(embedded):
                answers = await asyncio.gather(
                    aget(server.endpoint, "/task"),
                    aget(server.endpoint, "/resources/latest"),
                    apost(server.endpoint, {"rollout_id": rollout_id}),
                )
                assert [answer.status for answer in answers] == [503, 503, 503]
            assert (await aget(server.endpoint, "/task")).status == 200


def test_a_body_that_does_not_arrive_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "BODY_WITHIN_S", 0.2)

    def half_a_request(endpoint: str) -> bytes:
        with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall(b"POST /rollout HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
            return connection.recv(1000)

    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            assert b" 408 " in await asyncio.to_thread(half_a_request, server.endpoint)
