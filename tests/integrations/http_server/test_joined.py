"""An answer is one packet, and nothing that was written is lost or changes its place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from uvicorn.server import ServerState

from broker.integrations.http_server import protocols
from broker.integrations.http_server.routes import Route, Routes
from broker.integrations.http_server.serving import Listener

LARGE = 200_000


async def _small(request: Request) -> Response:
    return Response(b"small")


async def _large(request: Request) -> Response:
    return Response(b"x" * LARGE)


async def _in_pieces(request: Request) -> Response:
    async def pieces() -> object:
        for piece in ("one", "two", "three"):
            yield piece
            await asyncio.sleep(0.01)

    return StreamingResponse(pieces())  # pyright: ignore[reportArgumentType]


async def _asked(path: str) -> list[bytes]:
    """What arrives for one request, in the pieces in which it arrives."""
    listener = Listener("127.0.0.1", 0)
    routes = [Route("GET", "/small", _small), Route("GET", "/large", _large), Route("GET", "/pieces", _in_pieces)]
    await listener.start(Routes(routes, {}))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        pieces: list[bytes] = []
        async with asyncio.timeout(20):
            while piece := await reader.read(1_000_000):
                pieces.append(piece)
        writer.close()
        await writer.wait_closed()
        return pieces
    finally:
        await listener.stop()


class _Recorded(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None: ...


@pytest.mark.parametrize("kind", [protocols.CONNECTION, protocols.H11Connection])
def test_headers_and_body_of_a_small_answer_are_written_together(kind: Any) -> None:
    async def written() -> list[bytes]:
        config = uvicorn.Config(Routes([Route("GET", "/small", _small)], {}), lifespan="off", access_log=False)
        config.load()
        connection, transport = kind(config, ServerState(), {}), _Recorded()
        connection.connection_made(transport)
        connection.data_received(b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(20):
            while not b"".join(transport.written).endswith(b"small"):
                await asyncio.sleep(0)
        connection.connection_lost(ConnectionError())
        return transport.written

    assert len(asyncio.run(written())) == 1


def test_a_large_answer_arrives_whole() -> None:
    headers, _, body = b"".join(asyncio.run(_asked("/large"))).partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200")
    assert body == b"x" * LARGE


def test_pieces_arrive_in_their_order_and_none_waits_for_the_next_one() -> None:
    answer = asyncio.run(_asked("/pieces"))
    assert b"".join(answer).endswith(b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")
    assert any(piece.endswith(b"3\r\none\r\n") for piece in answer), answer
