"""What the gateway refuses, and that it never keeps a client waiting."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker import RunConfig, Task, Trainer
from broker.connections import open_transport
from broker.inspection.metrics import CONTENT_TYPE
from broker.integrations.agent_lightning import application
from broker.integrations.agent_lightning.gateway import Gateway
from broker.integrations.http_server import protocols, requests
from broker.integrations.http_server import serving as serving_module
from broker.local_server.embedded import EmbeddedServer
from broker.operator import Operator
from broker.protocol.worker import release
from tests.integrations.agent_lightning.test_protocol import RUN, gateway_of, played, serving
from tests.integrations.agent_lightning.wire import Reply, aget, apost, atask, request

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


def test_probes_need_no_token_and_metrics_do(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url, token=TOKEN) as server:
            for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 401)):
                assert (await aget(server.endpoint, path)).status == status
            scraped = await aget(server.endpoint, "/metrics", Authorization=f"Bearer {TOKEN}")
            assert scraped.headers["content-type"] == CONTENT_TYPE
            assert f'broker_policy_version{{run="{RUN}"}} 0' in scraped.text.splitlines()
            with Operator(url) as operator:
                operator.purge(RUN)
            for path, status in (("/healthz", 200), ("/readyz", 503)):
                assert (await aget(server.endpoint, path)).status == status


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


@pytest.mark.parametrize("brings", [True, False], ids=["brought", "claimed once"])
@pytest.mark.parametrize(
    ("unfit", "status", "reason"),
    [({"logs": ["x" * 2000]}, 413, "TooBig"), ({"metadata": {"a": 10**30}}, 422, "CodecError")],
    ids=["too large", "not to be encoded"],
)
def test_a_rollout_that_cannot_be_stored_ends_its_attempt_at_once_and_for_good(
    url: str, unfit: dict[str, Any], status: int, reason: str, brings: bool
) -> None:
    config = RunConfig(consumer_batch_size=1, max_concurrent_rollouts=1, max_result_bytes=1000)
    with Trainer(url, RUN, config) as trainer, Operator(url) as operator:
        trainer.enqueue([Task(id="unfit"), Task(id="next")])

        @played
        async def _scenario() -> None:
            async with gateway_of(url, task_timeout_s=3600) as endpoint:
                task = await atask(endpoint)
                own = {"attempt_id": task["attempt_id"]} if brings else {}
                answer = await apost(endpoint, {"rollout_id": "unfit", **unfit, **own})
                assert answer.status == status
                assert (await atask(endpoint))["rollout_id"] == "next"

        row = operator.task(RUN, "unfit")
        assert row is not None
        assert (row.state, reason in row.reason) == ("dead", True)


def test_a_rollout_that_cannot_be_stored_ends_no_other_attempt_for_good(url: str) -> None:
    config = RunConfig(consumer_batch_size=1, max_result_bytes=1000, retry_backoff_ms=0)
    unfit: dict[str, Any] = {"rollout_id": "t", "logs": ["x" * 2000]}
    with Trainer(url, RUN, config) as trainer, Operator(url) as operator:
        trainer.enqueue(Task(id="t"))

        @played
        async def _scenario() -> None:
            async with gateway_of(url) as endpoint:
                first = await atask(endpoint)
                with open_transport(url) as transport:
                    transport.execute([release(RUN, [first["attempt_id"]])])
                assert (await atask(endpoint))["num_claims"] == 2
                assert (await apost(endpoint, {**unfit, "attempt_id": first["attempt_id"]})).status == 413
                row = operator.task(RUN, "t")
                assert row is not None
                assert (row.state, row.slots[0].tries) == ("running", 0)
                assert (await apost(endpoint, unfit)).status == 413  # of one of two that nobody can tell apart
                assert (await atask(endpoint))["num_claims"] == 3
                row = operator.task(RUN, "t")
                assert row is not None
                assert row.slots[0].tries == 1


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
    assert requests.ANSWER_WITHIN_S < 10
    monkeypatch.setattr(requests, "ANSWER_WITHIN_S", 0.3)

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
    monkeypatch.setattr(requests, "BODY_WITHIN_S", 0.2)

    def half_a_request(endpoint: str) -> bytes:
        with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall(b"POST /rollout HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
            return connection.recv(1000)

    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            assert b" 408 " in await asyncio.to_thread(half_a_request, server.endpoint)


@pytest.fixture(params=["installed parser", "h11"])
def _each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser is httptools where it is installed, and h11 elsewhere."""
    if request.param == "h11":
        monkeypatch.setattr(protocols, "CONNECTION", protocols.H11Connection)


@pytest.mark.usefixtures("_each_parser")
def test_headers_that_do_not_end_are_given_up_however_they_trickle(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEADERS_WITHIN_S", 0.3)

    def trickle(endpoint: str) -> int:
        """How many headers were sent until the gateway closed the connection."""
        with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall(b"GET /task HTTP/1.1\r\nHost: h\r\n")
            connection.settimeout(0.02)
            for number in range(1000):
                with suppress(ConnectionError):
                    connection.sendall(b"X-%d: x\r\n" % number)
                with suppress(TimeoutError, ConnectionError):
                    if connection.recv(1000) == b"":
                        return number
        raise AssertionError("the connection was kept")

    def silent(endpoint: str) -> bytes:
        with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=10) as connection:
            return connection.recv(1000)

    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            await asyncio.to_thread(trickle, server.endpoint)
            assert await asyncio.to_thread(silent, server.endpoint) == b""
            assert (await aget(server.endpoint, "/task")).status == 200


_CHUNKED = b"POST /rollout HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
#: What begins a request, and what goes on for ever.
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "many headers": (b"GET /task HTTP/1.1\r\nHost: h\r\n", b"X-Y: " + b"x" * 1000 + b"\r\n"),
    "a long header": (b"GET /task HTTP/1.1\r\nHost: h\r\nX-Y: ", b"x" * 1000),
    "a long path": (b"GET /", b"x" * 1000),
    "lines before a request": (b"", b"\r\n" * 500),
    "many trailers": (_CHUNKED + b"1\r\n{\r\n0\r\n", b"X-Y: " + b"x" * 1000 + b"\r\n"),
    "a long trailer": (_CHUNKED + b"1\r\n{\r\n0\r\nX-Y: ", b"x" * 1000),
    "a long name of a chunk": (_CHUNKED + b"1;", b"x" * 1000),
}


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize("kind", ENDLESS)
def test_what_does_not_end_is_cut_off_before_it_fills_the_memory(url: str, kind: str) -> None:
    def sent_until_closed(endpoint: str) -> int:
        begin, more = ENDLESS[kind]
        with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=5) as connection:
            sent = 0
            try:
                connection.sendall(begin)
                while sent < 50_000_000:
                    connection.sendall(more)
                    sent += len(more)
            except (ConnectionError, TimeoutError):
                pass
            return sent

    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            # What the sockets of both sides hold was sent, and is never read.
            assert await asyncio.to_thread(sent_until_closed, server.endpoint) < 20_000_000
            assert (await aget(server.endpoint, "/task")).status == 200


@pytest.mark.usefixtures("_each_parser")
def test_a_connection_goes_on_for_longer_than_headers_may_take(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEADERS_WITHIN_S", 0.3)

    def asks_for_a_second(endpoint: str) -> list[int]:
        connection = HTTPConnection("127.0.0.1", int(endpoint.rpartition(":")[2]), timeout=10)
        statuses: list[int] = []
        until = time.monotonic() + 1
        while time.monotonic() < until:
            connection.request("GET", "/task")
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()
        return statuses

    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            assert set(await asyncio.to_thread(asks_for_a_second, server.endpoint)) == {200}


def _accepted(listener: serving_module.Listener) -> list[Any]:
    assert listener._server is not None
    return [c.transport.get_extra_info("socket") for c in listener._server.server_state.connections]


def test_small_answers_do_not_wait_for_acknowledgements(url: str) -> None:
    """Each half of an answer leaves at once: Nagle's algorithm is off on every connection that is accepted."""

    @played
    async def _scenario() -> None:
        with Trainer(url, RUN, RunConfig(consumer_batch_size=1)):
            pass
        async with Gateway(url, RUN) as gateway:
            listener = serving_module.Listener("127.0.0.1", 0)
            await listener.start(application.application(gateway))
            connection = socket.create_connection(("127.0.0.1", listener.port), timeout=10)
            try:
                async with asyncio.timeout(10):
                    while not (accepted := _accepted(listener)):
                        await asyncio.sleep(0.01)
                assert [s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for s in accepted] == [1]
            finally:
                connection.close()
                await listener.stop()


@pytest.mark.usefixtures("_each_parser")
def test_bodies_wait_for_each_other_and_are_refused_when_that_takes_too_long(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 50_000

    def begun(endpoint: str) -> socket.socket:
        """A client that has announced a body, and sends the first half of it."""
        connection = socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=10)
        body = json.dumps({"rollout_id": "t", "logs": ["x" * size]}).encode()
        head = b"POST /rollout HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body[: size // 2])
        return connection

    def ended(connection: socket.socket) -> bytes:
        body = json.dumps({"rollout_id": "t", "logs": ["x" * size]}).encode()
        connection.sendall(body[size // 2 :])
        with connection:
            return b"".join(iter(lambda: connection.recv(65536), b""))

    @played
    async def _scenario() -> None:
        with Trainer(url, RUN, RunConfig(consumer_batch_size=1)):
            pass
        async with Gateway(url, RUN) as gateway:
            listener = serving_module.Listener("127.0.0.1", 0)
            app = application.application(gateway, max_request_bytes=60_000, max_bytes_in_flight=120_000)
            await listener.start(app)
            try:
                holders = [await asyncio.to_thread(begun, listener.endpoint) for _ in range(2)]
                # The third waits, and hears that there is no room.
                monkeypatch.setattr(requests, "ANSWER_WITHIN_S", 0.2)
                refused = await apost(listener.endpoint, {"rollout_id": "t", "logs": ["x" * size]})
                assert (refused.status, refused.headers["retry-after"]) == (503, "5")
                # One without a length finds no room at once.
                pieces: Any = (b"x" * 10_000 for _ in range(4))
                answer = await asyncio.to_thread(request, listener.endpoint, "POST", "/rollout", pieces)
                assert answer.status == 503
                # The fourth waits until one of the holders has its answer.
                monkeypatch.setattr(requests, "ANSWER_WITHIN_S", 10)
                waiting = asyncio.create_task(apost(listener.endpoint, {"rollout_id": "t", "logs": ["x" * size]}))
                await asyncio.sleep(0)
                assert b" 200 " in await asyncio.to_thread(ended, holders[0])
                assert (await waiting).status == 200
                assert b" 200 " in await asyncio.to_thread(ended, holders[1])
                assert (await aget(listener.endpoint, "/task")).status == 200
            finally:
                await listener.stop()
