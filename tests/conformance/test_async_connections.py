"""Calls of the asyncio client may overlap, and may be cancelled."""

import asyncio
import tracemalloc
from collections.abc import Generator

import pytest

from broker.connections import AsyncTransport, open_async_transport
from broker.errors import ServerUnavailable
from tests.lossy_proxy import LossyProxy
from tests.servers import ServerUnderTest, real_kinds


@pytest.fixture(params=real_kinds(), ids=str)
def server(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    with ServerUnderTest(request.param) as started:
        yield started


async def until_blocked(transport: AsyncTransport, clients: int) -> None:
    """Waits until this many clients are blocked in the server."""
    async with asyncio.timeout(10):
        while b"blocked_clients:%d\r\n" % clients not in await transport.command("INFO", "clients"):
            pass


def test_overlapping_calls_share_few_connections_and_get_their_own_answers(server: ServerUnderTest):
    async def scenario() -> None:
        async with open_async_transport(server.url) as transport:
            calls = [transport.pipeline([("ECHO", str(i)), ("ECHO", str(-i))]) for i in range(500)]
            answers = await asyncio.gather(*calls)
            assert answers == [[b"%d" % i, b"%d" % -i] for i in range(500)]
            clients = await transport.command("CLIENT", "LIST")
            assert clients.count(b"id=") <= 4

    asyncio.run(scenario())


def test_a_cancelled_call_does_not_shift_the_answers_of_the_others(server: ServerUnderTest):
    async def scenario() -> None:
        async with open_async_transport(server.url) as transport:
            await transport.server_info()
            for i in range(200):
                cancelled = asyncio.ensure_future(transport.command("ECHO", "cancelled"))
                kept = asyncio.ensure_future(transport.command("ECHO", str(i)))
                await asyncio.sleep(0)
                cancelled.cancel()
                assert await kept == b"%d" % i
                with pytest.raises(asyncio.CancelledError):
                    await cancelled

    asyncio.run(scenario())


def test_a_cancelled_wait_takes_no_marker_afterwards(server: ServerUnderTest):
    async def scenario() -> None:
        async with open_async_transport(server.url) as transport:
            wait = asyncio.ensure_future(transport.wait_marker(["wake"], 10))
            await until_blocked(transport, 1)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            await until_blocked(transport, 0)
            await transport.command("ZADD", "wake", 1, "m")
            assert await transport.wait_marker(["wake"], 10) == "wake"

    asyncio.run(scenario())


def test_a_cancelled_connect_harms_no_other_caller(server: ServerUnderTest):
    async def scenario() -> None:
        async with open_async_transport(server.url) as transport:
            first = asyncio.ensure_future(transport.command("ECHO", "first"))
            second = asyncio.ensure_future(transport.command("ECHO", "second"))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == b"second"

    asyncio.run(scenario())


def test_a_broken_connection_fails_over_every_call_on_it(server: ServerUnderTest):
    async def scenario(proxy: LossyProxy) -> None:
        async with open_async_transport(proxy.url) as transport:
            await transport.server_info()
            proxy.lose_replies = 1
            answers = await asyncio.gather(*(transport.command("ECHO", str(i)) for i in range(50)))
            assert answers == [b"%d" % i for i in range(50)]

    with LossyProxy(server.port, b"ECHO") as proxy:
        asyncio.run(scenario(proxy))


def test_silence_is_noticed_while_calls_keep_coming(server: ServerUnderTest):
    async def scenario() -> None:
        async with open_async_transport(server.url, timeout_s=0.2, retry_for_s=0.3) as transport:
            await transport.server_info()
            server.freeze()
            answers = await asyncio.gather(*(transport.command("PING") for _ in range(20)), return_exceptions=True)
            assert all(isinstance(answer, ServerUnavailable) for answer in answers)
            server.thaw()
            assert await transport.command("PING") == b"PONG"

    asyncio.run(scenario())


def test_closing_ends_calls_under_way(server: ServerUnderTest):
    async def scenario() -> None:
        transport = open_async_transport(server.url)
        await transport.server_info()
        server.freeze()
        call = asyncio.ensure_future(transport.command("PING"))
        await asyncio.sleep(0)
        await transport.close()
        with pytest.raises(ServerUnavailable, match="closed"):
            await call
        server.thaw()

    asyncio.run(scenario())


def test_a_large_value_is_not_queued_as_a_whole(server: ServerUnderTest):
    async def scenario() -> int:
        async with open_async_transport(server.url, timeout_s=5) as transport:
            await transport.server_info()
            server.freeze()
            value = b"x" * 64_000_000
            tracemalloc.start()
            call = asyncio.ensure_future(transport.command("SET", "large", value))
            await asyncio.sleep(0.5)
            queued = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            server.thaw()
            assert await call == b"OK"
            assert await transport.command("GET", "large") == value
            return queued

    assert asyncio.run(scenario()) < 8_000_000


def test_a_cancelled_large_call_leaves_no_half_of_it_behind(server: ServerUnderTest):
    async def scenario() -> None:
        async with open_async_transport(server.url) as transport:
            value = b"x" * 20_000_000
            await transport.command("SET", "large", value)
            for delay_s in (0.0, 0.002, 0.005, 0.01):
                for command in (("GET", "large"), ("SET", "other", value)):
                    call = asyncio.ensure_future(transport.command(*command))
                    await asyncio.sleep(delay_s)
                    call.cancel()
                    assert await transport.command("ECHO", "after") == b"after"
                    await asyncio.wait([call])

    asyncio.run(scenario())
