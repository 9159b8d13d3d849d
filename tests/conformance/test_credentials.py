"""Users and passwords that a callable gives, for tokens that are replaced; and the names of connections."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import pytest

from broker import RunConfig, Task, Trainer, Worker, aio
from broker.connections import Transport
from broker.errors import AuthenticationFailed, BadArgument
from broker.operator import Operator
from tests.conformance.clients import LoopClient, make_client
from tests.servers import ServerKind, ServerUnderTest, cluster, free_port, real_kinds, redis_kinds, sentinel
from tests.waiting import wait_until

Connect = Callable[..., Transport | LoopClient]
WRONG: list[Any] = ["app:pw", ("app",), ("app", None), ("app", "pw", 0), ("app", "pw", "soon"), ("a", "b", 1, 2), None]


@pytest.fixture(params=real_kinds(), ids=str)
def server(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    with ServerUnderTest(request.param) as started:
        yield started


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Generator[Connect]:
    """Makes clients of one flavour, and closes them."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(make_client(request.param, url, **options))


class Tokens:
    """Tokens of the user `app`: a server accepts only the newest.

    Attributes:
        asked: how often the token was asked for.
        latest: what is answered from now on.
    """

    def __init__(self, *servers: ServerUnderTest, valid_s: float | None = None) -> None:
        self._servers, self._valid_s = servers, valid_s
        self.asked, self.latest = 0, ""
        self.replace()

    def replace(self, *, tell: bool = True) -> None:
        """Makes a new token, and closes the connections of the old one."""
        token = f"token{time.monotonic_ns()}"
        for server in self._servers:
            server.command("ACL", "SETUSER", "app", "reset", "on", f">{token}", "~*", "&*", "+@all")
            server.command("CLIENT", "KILL", "USER", "app")
        if tell:
            self.latest = token

    def __call__(self) -> tuple[str, str] | tuple[str, str, float]:
        self.asked += 1
        return ("app", self.latest) if self._valid_s is None else ("app", self.latest, self._valid_s)

    async def awaited(self) -> Any:
        """The same, as a coroutine function."""
        await asyncio.sleep(0)
        return self()


def test_each_new_connection_asks_for_the_credentials(server: ServerUnderTest, connect: Connect) -> None:
    tokens = Tokens(server)
    client = connect(server.url, credentials=tokens)
    assert client.command("ACL", "WHOAMI") == b"app"
    assert client.command("ACL", "WHOAMI") == b"app"
    assert tokens.asked == 1
    tokens.replace()
    assert client.command("ACL", "WHOAMI") == b"app"
    assert tokens.asked == 2


def test_a_refused_login_asks_anew_until_the_token_is_there(server: ServerUnderTest, connect: Connect) -> None:
    """The server has the new token some time before who gives the tokens does."""
    tokens = Tokens(server)
    client = connect(server.url, credentials=tokens)
    assert client.command("ACL", "WHOAMI") == b"app"
    tokens.replace(tell=False)
    late = threading.Timer(0.5, tokens.replace)
    late.start()
    assert client.command("ACL", "WHOAMI") == b"app"
    late.join()
    assert tokens.asked > 2


def test_a_login_that_stays_refused_is_told_as_such(server: ServerUnderTest, connect: Connect) -> None:
    tokens = Tokens(server)
    tokens.latest = "wrong"
    with pytest.raises(AuthenticationFailed, match="WRONGPASS"):
        connect(server.url, credentials=tokens, retry_for_s=0.5).command("PING")
    assert tokens.asked > 1


def test_a_live_connection_whose_login_ended_is_replaced(server: ServerUnderTest, connect: Connect) -> None:
    """Servers that take the login away without closing answer NOAUTH."""
    tokens = Tokens(server)
    client = connect(server.url, credentials=tokens)
    assert client.command("ACL", "WHOAMI") == b"app"
    server.command("ACL", "SETUSER", "default", "on", "resetpass", ">other")
    client.command("RESET")  # the connection is nobody's from here on
    try:
        assert client.command("ACL", "WHOAMI") == b"app"
        assert tokens.asked == 2
    finally:
        client.command("ACL", "SETUSER", "default", "on", "nopass")


def test_a_connection_is_replaced_before_its_login_ends(server: ServerUnderTest, connect: Connect) -> None:
    tokens = Tokens(server, valid_s=0.5)
    client = connect(server.url, credentials=tokens)
    ids = {client.command("CLIENT", "ID") for _ in range(5)}
    assert (len(ids), tokens.asked) == (1, 1)
    time.sleep(0.45)
    assert client.command("CLIENT", "ID") not in ids
    assert tokens.asked == 2


def test_who_gives_the_credentials_may_be_away_for_a_while(server: ServerUnderTest, connect: Connect) -> None:
    tokens, calls = Tokens(server), itertools.count()

    def credentials() -> Any:
        if next(calls) < 3:
            raise OSError("no route to the tokens")
        return tokens()

    assert connect(server.url, credentials=credentials).command("ACL", "WHOAMI") == b"app"

    def never() -> Any:
        raise OSError("no route to the tokens")

    with pytest.raises(AuthenticationFailed, match="no route to the tokens"):
        connect(server.url, credentials=never, retry_for_s=0.3).command("PING")


@pytest.mark.parametrize("answer", WRONG, ids=repr)
def test_an_answer_that_is_no_user_and_password_is_refused_at_once(
    server: ServerUnderTest, connect: Connect, answer: Any
) -> None:
    with pytest.raises(BadArgument, match="credentials") as caught:
        connect(server.url, credentials=lambda: answer, retry_for_s=600.0).command("PING")
    assert "pw" not in str(caught.value)


def test_a_cluster_asks_for_each_connection(connect: Connect) -> None:
    redis = _redis()
    with cluster(redis) as members:
        tokens = Tokens(*members)
        for member in members:
            member.command("ACL", "SETUSER", "default", "-@all", "+ping", "+cluster|slots", "+acl")
        client = connect(f"redis+cluster://127.0.0.1:{members[0].port}", credentials=tokens)
        for name in "abcdef":
            client.command("SET", name, name)
        assert tokens.asked > 3


def test_the_primary_of_sentinels_asks_and_the_sentinels_have_their_own_login(connect: Connect) -> None:
    redis = _redis()
    with (
        ServerUnderTest(redis, durable=True) as primary,
        ServerUnderTest(redis, replica_of=primary.port),
        sentinel(redis, primary) as port,
    ):
        tokens = Tokens(primary)
        client = connect(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main", credentials=tokens)
        assert client.command("ACL", "WHOAMI") == b"app"
        assert tokens.asked == 1


def _redis() -> ServerKind:
    kinds = redis_kinds()
    if not kinds:
        pytest.skip("needs redis-server")
    return kinds[0]


def test_plain_clients_work_with_tokens_that_are_replaced_all_the_time(server: ServerUnderTest) -> None:
    tokens = Tokens(server)
    with (
        Trainer(server.url, "r", RunConfig(consumer_batch_size=2), credentials=tokens) as trainer,
        Worker(server.url, "r", credentials=tokens, lease_s=30.0) as worker,
        Operator(server.url, credentials=tokens) as operator,
    ):
        trainer.enqueue(Task(id=f"t{i}") for i in range(6))
        for version in range(3):
            tokens.replace()
            for attempt in worker.claim(2, timeout=20):
                worker.submit(attempt, "x")
            tokens.replace()
            trainer.next_batch(timeout=20)
            tokens.replace()
            assert trainer.advance() == version + 1
            assert operator.stats("r").version == version + 1
        worker.renew()


def test_asyncio_clients_await_the_credentials_and_so_does_their_heartbeat(server: ServerUnderTest) -> None:
    tokens = Tokens(server)

    async def scenario() -> None:
        config = RunConfig(consumer_batch_size=2)
        async with (
            aio.Trainer(server.url, "r", config, credentials=tokens.awaited) as trainer,
            aio.Worker(server.url, "r", credentials=tokens.awaited, lease_s=3.0, heartbeat_s=0.05) as worker,
        ):
            await trainer.enqueue(Task(id=f"t{i}") for i in range(4))
            for version in range(2):
                await asyncio.to_thread(tokens.replace)
                for attempt in await worker.claim(2, timeout=20):
                    await asyncio.to_thread(tokens.replace)
                    await asyncio.sleep(0.3)  # the heartbeat renews in its thread
                    await worker.submit(attempt, "x")
                await trainer.next_batch(timeout=20)
                assert await trainer.advance() == version + 1
            await worker.renew()

    asyncio.run(scenario())


def test_a_coroutine_function_is_for_asyncio(server: ServerUnderTest) -> None:
    async def credentials() -> tuple[str, str]:
        return "app", ""

    for make in (lambda: Worker(server.url, "r", credentials=credentials), lambda: Trainer(server.url, "r", credentials=credentials)):  # fmt: skip
        with pytest.raises(BadArgument, match="credentials"):
            make()


def names_on(server: ServerUnderTest) -> set[str]:
    return set(re.findall(r" name=(\S+)", server.command("CLIENT", "LIST").decode())) - {"broker"}


def test_every_connection_has_a_name(server: ServerUnderTest) -> None:
    async def scenario() -> None:
        async with (
            aio.Trainer(server.url, "r", attach=True),
            aio.Worker(server.url, ["r"], name="w/2@host", lease_s=30.0),
        ):
            expected = {"broker:reader:r", "broker:worker:w/2@host", "broker:heartbeat:w/2@host"}
            await asyncio.to_thread(wait_until, lambda: expected <= names_on(server), "all of them are named")

    with (
        Trainer(server.url, "r", RunConfig(consumer_batch_size=1)),
        Worker(server.url, "r", name="w1", lease_s=30.0),
        Operator(server.url) as operator,
    ):
        operator.runs()
        expected = {"broker:trainer:r", "broker:worker:w1", "broker:heartbeat:w1", "broker:operator"}
        wait_until(lambda: expected <= names_on(server), "all of them are named")
        asyncio.run(scenario())


def test_a_user_who_may_not_name_connections_works_without(server: ServerUnderTest, connect: Connect) -> None:
    server.command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-client")
    client = connect(server.url.replace("redis://", "redis://plain:pw@"))
    assert client.command("PING") == b"PONG"
