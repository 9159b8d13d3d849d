"""Failures that pass are tried again, others are raised at once: plain servers, TLS, Cluster, Sentinel, both clients."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from broker import Rollout, RunConfig, Task, Trainer, Worker, aio
from broker.connections import Transport
from broker.connections.aio import AsyncConnection
from broker.connections.endpoint import Endpoint
from broker.connections.failures import CROWDED, NO_WRITES, UNREACHABLE, Failure, nobody
from broker.connections.sync import BlockingConnection
from broker.connections.url import parse_url
from broker.errors import (
    AuthenticationFailed,
    BadUrl,
    BrokerError,
    ServerUnavailable,
    TooBig,
    UnsupportedServer,
)
from broker.local_server.socket_paths import socket_path
from tests.conformance.clients import LoopClient, make_client
from tests.lossy_proxy import ScriptedServer, bulk
from tests.servers import ServerKind, ServerUnderTest, cluster, free_port, real_kinds, redis_kinds, sentinel
from tests.threads import InThread
from tests.waiting import wait_until

Connect = Callable[..., Transport | LoopClient]

#: A call that is tried again goes on for so long, seconds: a permanent failure that is taken for a passing one shows.
PATIENT_S = 30.0


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Generator[Connect]:
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(make_client(request.param, url, **options))


@pytest.fixture(params=real_kinds(), ids=str)
def server(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    with ServerUnderTest(request.param) as started:
        yield started


@pytest.fixture
def redis_server(redis: ServerKind) -> Generator[ServerUnderTest]:
    """One that counts values in its output buffer: Valkey 9 sends large ones from where they lie."""
    with ServerUnderTest(redis) as started:
        yield started


@pytest.fixture(params=redis_kinds(), ids=str)
def redis(request: pytest.FixtureRequest) -> ServerKind:
    return request.param


def told_at_once(connect: Connect, url: str, kind: type[BrokerError], caplog: pytest.LogCaptureFixture) -> BrokerError:
    """Returns the error of a call that is not tried again."""
    with pytest.raises(BrokerError) as caught:
        connect(url, retry_for_s=PATIENT_S).command("GET", "a")
    assert type(caught.value) is kind, caught.value
    assert "trying for" not in caplog.text
    return caught.value


# -- what passes -------------------------------------------------------------------------------------------------------


def test_one_of_several_servers_that_may_come_back_makes_it_pass():
    first, second = (Endpoint("h", 1), Failure(NO_WRITES, "a")), (Endpoint("h", 2), Failure(UNREACHABLE, "b"))
    assert nobody("nobody", [first, second]).kind.passes


def test_a_full_server_is_waited_for_and_named(
    server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture
):
    """The client's connection broke, and the server accepts no other: all places are taken."""
    client = connect(server.url, retry_for_s=PATIENT_S)
    client.command("SET", "a", "1")
    with ExitStack() as places:
        others = [places.enter_context(make_client("sync", server.url)) for _ in range(3)]
        for other in others:
            other.command("PING")
        others[0].command("CONFIG", "SET", "maxclients", "3")
        others[0].command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for other in others:
            other.command("PING")
        call = InThread(lambda: client.command("GET", "a"))
        wait_until(lambda: "trying for" in caplog.text, "the client says that it tries again")
        assert "maxclients" in caplog.text
        with pytest.raises(ServerUnavailable, match=r"maxclients"):
            connect(server.url, retry_for_s=0.1).command("GET", "a")
    assert call.result() == b"1"


@pytest.mark.parametrize("kind", [BlockingConnection, AsyncConnection])
def test_what_a_full_server_said_before_the_first_write_is_read(
    kind: type[BlockingConnection | AsyncConnection], tmp_path: Path
):
    """A write to a Unix socket that the other side has closed fails at once: asyncio closes it without reading."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def refuse() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"-ERR max number of clients reached\r\n")

        async def ask() -> None:
            connection = kind(Endpoint("", 0, path), path, parse_url(f"unix://{path}"), 5.0)
            server = InThread(refuse)
            connected = connection.connect()
            if connected is not None:
                await connected
            server.result()  # without a turn of the loop
            try:
                await connection.exchange([("PING",)])
            finally:
                connection.abort()

        with pytest.raises(Failure) as caught:
            asyncio.run(ask())
    assert caught.value.kind is CROWDED


def test_an_error_that_the_caller_handles_is_not_taken_for_the_reason(server: ServerUnderTest, connect: Connect):
    """Python chains the two errors; the text of the first has nothing to do with the server."""
    client = connect(f"redis://127.0.0.1:{free_port()}", retry_for_s=0.1)
    try:
        int("of the caller")
    except ValueError:
        with pytest.raises(ServerUnavailable, match="refused") as caught:
            client.command("PING")
    assert "of the caller" not in str(caught.value)


def test_a_sentinel_that_names_the_wrong_one_for_a_while(
    server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture
):
    with ServerUnderTest(server.kind, replica_of=server.port) as replica:
        named = [replica.port]
        with ScriptedServer(lambda _: b"*2\r\n" + bulk("127.0.0.1") + bulk(str(named[0]))) as one:
            client = connect(f"redis+sentinel://127.0.0.1:{one.port}/main", retry_for_s=PATIENT_S)
            call = InThread(lambda: client.command("SET", "a", "1"))
            wait_until(lambda: "not a primary any more" in caplog.text, "the client meets the demoted one")
            named[0] = server.port
            assert call.result() == b"OK"


def test_a_call_that_gave_up_leaves_no_wrong_primary_behind(server: ServerUnderTest, connect: Connect):
    with ServerUnderTest(server.kind, replica_of=server.port) as replica:
        named = [replica.port]
        with ScriptedServer(lambda _: b"*2\r\n" + bulk("127.0.0.1") + bulk(str(named[0]))) as one:
            client = connect(f"redis+sentinel://127.0.0.1:{one.port}/main", retry_for_s=0.1)
            with pytest.raises(ServerUnavailable, match="not a primary any more"):
                client.command("SET", "a", "1")
            assert client.wait_marker(["wake"], 0.1) is None
            named[0] = server.port
            assert client.command("SET", "a", "1") == b"OK"


def test_a_sentinel_that_stays_wrong_does_not_hide_the_others(server: ServerUnderTest, connect: Connect):
    def names(port: int) -> Callable[[list[bytes]], bytes]:
        return lambda _: b"*2\r\n" + bulk("127.0.0.1") + bulk(str(port))

    with (
        ServerUnderTest(server.kind, replica_of=server.port) as replica,
        ScriptedServer(names(replica.port)) as wrong,
        ScriptedServer(names(server.port)) as right,
    ):
        url = f"redis+sentinel://127.0.0.1:{wrong.port},127.0.0.1:{right.port}/main"
        assert connect(url, retry_for_s=PATIENT_S).command("SET", "a", "1") == b"OK"


def test_a_wait_asks_the_sentinels_again_too(server: ServerUnderTest, connect: Connect):
    with ServerUnderTest(server.kind, replica_of=server.port) as replica:
        named = [replica.port]
        with ScriptedServer(lambda _: b"*2\r\n" + bulk("127.0.0.1") + bulk(str(named[0]))) as one:
            client = connect(f"redis+sentinel://127.0.0.1:{one.port}/main", retry_for_s=0.1)
            assert client.wait_marker(["wake"], 0.1) is None
            named[0] = server.port
            server.command("ZADD", "wake", 1, "m")
            assert client.wait_marker(["wake"], 10) == "wake"


# -- what is permanent -------------------------------------------------------------------------------------------------


def test_a_cluster_s_password(redis: ServerKind, connect: Connect, caplog: pytest.LogCaptureFixture):
    settings = {"cluster-enabled": "yes", "requirepass": "secret"}
    with ServerUnderTest(redis, settings=settings) as node:
        for userinfo in ("", ":wrong@", "nobody:secret@"):
            url = f"redis+cluster://{userinfo}127.0.0.1:{node.port}"
            told_at_once(connect, url, AuthenticationFailed, caplog)


@pytest.mark.parametrize("option", ["", "?sentinel_password=wrong"])
def test_a_sentinel_s_password(connect: Connect, option: str, caplog: pytest.LogCaptureFixture):
    def answer(command: list[bytes]) -> bytes:
        return b"-WRONGPASS invalid password\r\n" if command[0] == b"AUTH" else b"-NOAUTH Authentication required.\r\n"

    with ScriptedServer(answer) as one, ScriptedServer(answer) as other:
        url = f"redis+sentinel://127.0.0.1:{one.port},127.0.0.1:{other.port}/main{option}"
        error = told_at_once(connect, url, AuthenticationFailed, caplog)
    assert "sentinel_password" in str(error)
    assert "=wrong" not in str(error)


def test_the_password_of_the_primary(server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture):
    with ScriptedServer(lambda _: b"*2\r\n" + bulk("127.0.0.1") + bulk(str(server.port))) as one:
        url = f"redis+sentinel://:wrong@127.0.0.1:{one.port}/main"
        told_at_once(connect, url, AuthenticationFailed, caplog)


@pytest.mark.parametrize(
    ("scheme", "end"), [("redis+cluster", ""), ("redis+sentinel", "/main")], ids=["cluster", "sentinel"]
)
def test_a_url_of_another_kind(
    server: ServerUnderTest, connect: Connect, scheme: str, end: str, caplog: pytest.LogCaptureFixture
):
    url = f"{scheme}://127.0.0.1:{server.port}{end}"
    error = told_at_once(connect, url, UnsupportedServer, caplog)
    assert "connect with redis://" in str(error)


def test_a_service_that_no_sentinel_knows(redis: ServerKind, connect: Connect, caplog: pytest.LogCaptureFixture):
    with (
        ServerUnderTest(redis) as primary,
        ServerUnderTest(redis, replica_of=primary.port),
        sentinel(redis, primary) as port,
    ):
        caplog.clear()
        error = told_at_once(connect, f"redis+sentinel://127.0.0.1:{port}/other", BadUrl, caplog)
        assert "knows no such service" in str(error)
        with pytest.raises(UnsupportedServer, match=r"redis\+sentinel://"):
            Trainer(f"redis://127.0.0.1:{port}", "r", RunConfig(consumer_batch_size=1))


def test_a_database_that_is_not_there(server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture):
    told_at_once(connect, f"{server.url}/99", BadUrl, caplog)


def test_a_socket_that_the_system_denies(
    server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", denied)
    monkeypatch.setattr("asyncio.open_unix_connection", denied)
    error = told_at_once(connect, "unix:///run/redis.sock", BadUrl, caplog)
    assert "permission denied" in str(error)


def test_a_call_whose_bytes_the_server_refuses(
    server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture
):
    """The server says why and closes the connection: it would refuse the same bytes again."""
    server.command("CONFIG", "SET", "proto-max-bulk-len", str(1024 * 1024))
    client = connect(server.url, retry_for_s=PATIENT_S)
    client.command("PING")
    for size in (2_000_000, 50_000_000):
        with pytest.raises(TooBig, match="proto-max-bulk-len"):
            client.command("SET", "a", bytes(size))
    assert "trying for" not in caplog.text


# -- silence -----------------------------------------------------------------------------------------------------------


def silent_for(error: BrokerError) -> float:
    assert isinstance(error, ServerUnavailable), error
    return error.fields["seconds"]


def test_a_silent_server_costs_no_more_than_the_patience(server: ServerUnderTest, connect: Connect):
    client = connect(server.url, timeout_s=60.0, retry_for_s=1.0)
    client.command("PING")
    fresh = connect(server.url, timeout_s=60.0, retry_for_s=1.0)
    server.freeze()
    for silent in (client, fresh):
        with pytest.raises(ServerUnavailable) as caught:
            silent.command("PING")
        assert silent_for(caught.value) < 30
    server.thaw()


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis+cluster", "rediss"])
def test_many_silent_servers_cost_no_more_than_the_patience(connect: Connect, scheme: str):
    """Each of them listens, and says nothing: a TLS client at a plain server sees the same."""
    never = threading.Event()

    def silent(_: list[bytes]) -> bytes:
        never.wait(60)
        return b""

    with ExitStack() as stack:
        hosts = [stack.enter_context(ScriptedServer(silent)) for _ in range(1 if scheme == "rediss" else 40)]
        places = ",".join(f"127.0.0.1:{host.port}" for host in hosts)
        client = connect(f"{scheme}://{places}/{'main' if 'sentinel' in scheme else ''}", timeout_s=60, retry_for_s=1)
        with pytest.raises(ServerUnavailable) as caught:
            client.command("GET", "a")
        never.set()
    assert silent_for(caught.value) < 30


# -- users and rights --------------------------------------------------------------------------------------------------


def test_a_user_without_password_is_that_user(server: ServerUnderTest, connect: Connect):
    server.command("ACL", "SETUSER", "open", "on", "nopass", "~*", "&*", "+@all")
    server.command("ACL", "SETUSER", "locked", "on", ">secret", "~*", "&*", "+@all")
    for userinfo in ("open@", "open:@"):
        assert connect(server.url.replace("redis://", f"redis://{userinfo}")).command("ACL", "WHOAMI") == b"open"
    for user in ("locked", "nobody"):
        with pytest.raises(AuthenticationFailed, match="WRONGPASS"):
            connect(server.url.replace("redis://", f"redis://{user}@")).command("ACL", "WHOAMI")


@pytest.mark.parametrize("takes", ["functions", "scripts"])
def test_missing_rights_inside_a_script_name_the_command(server: ServerUnderTest, takes: str):
    url = server.url.replace("redis://", "redis://w:pw@")
    rights = ["on", ">pw", "~*", "&*", "+@all", *(("-function", "-fcall") if takes == "scripts" else ())]
    server.command("ACL", "SETUSER", "w", *rights, "-hset")
    with pytest.raises(AuthenticationFailed, match=r"(?i)hset") as caught:
        Trainer(url, "r", RunConfig(consumer_batch_size=1))
    assert "script open" in str(caught.value)
    server.command("ACL", "SETUSER", "w", "+hset", "resetkeys", "~other:*")
    with pytest.raises(AuthenticationFailed, match=r"key(?!.*which calls)"):
        Trainer(url, "r", RunConfig(consumer_batch_size=1))


# -- clusters that do not know their hosts -----------------------------------------------------------------------------


@pytest.mark.parametrize("host", [b"$1\r\n?\r\n", b"$0\r\n\r\n", b"$-1\r\n"], ids=["?", "empty", "null"])
def test_a_node_without_a_host_is_on_that_of_the_node_asked(server: ServerUnderTest, connect: Connect, host: bytes):
    table = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n%s:%d\r\n$2\r\nid\r\n" % (host, server.port)
    with ScriptedServer(lambda _: table) as node:
        client = connect(f"redis+cluster://127.0.0.1:{node.port}")
        assert client.command("SET", "a", "1") == b"OK"


@pytest.mark.parametrize("host", ["?", ""])
def test_a_redirection_without_a_host_is_to_that_of_the_node_that_sent_it(
    server: ServerUnderTest, connect: Connect, host: str
):
    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"CLUSTER":
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:%d\r\n" % moving.port
        if command[0] == b"INFO":
            return bulk("redis_version:7.0.15\r\nredis_mode:cluster\r\n")
        if command[0] == b"PING":
            return b"+PONG\r\n"
        return f"-MOVED 15495 {host}:{server.port}\r\n".encode()

    with ScriptedServer(answer) as moving:
        assert connect(f"redis+cluster://127.0.0.1:{moving.port}").command("SET", "a", "1") == b"OK"


def test_a_real_cluster_that_names_no_hosts(redis: ServerKind, connect: Connect):
    with cluster(redis, primaries=2) as members:
        for member in members:
            member.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
        client = connect(f"redis+cluster://127.0.0.1:{members[0].port}")
        for i in range(20):
            assert client.command("SET", f"a{i}", "1") == b"OK"
        assert all(member.command("DBSIZE") for member in members)


# -- Unix sockets ------------------------------------------------------------------------------------------------------


def test_a_socket_s_path_may_hold_an_at_sign(server: ServerUnderTest, connect: Connect, tmp_path: Path):
    path = tmp_path / "a@b.sock"
    path.symlink_to(server.process.socket)
    server.command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all")
    assert connect(f"unix://{path}").command("ACL", "WHOAMI") == b"default"
    assert connect(f"unix://u:p@{path}?db=1").command("ACL", "WHOAMI") == b"u"


@pytest.mark.parametrize("what", ["a file", "a folder", "below a file", "of datagrams", "in a circle"])
@pytest.mark.parametrize("length", ["short", "long"])
def test_a_path_that_is_no_socket_of_a_server_is_told_at_once(
    connect: Connect, tmp_path: Path, what: str, length: str, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / ("d" * (120 if length == "long" else 1))
    folder.mkdir()
    path = folder / "s"
    with ExitStack() as stack:
        if what == "a folder":
            path.mkdir()
        elif what == "of datagrams":
            bound = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            with socket_path(str(path)) as short:
                bound.bind(short)
        elif what == "in a circle":
            path.symlink_to(path)
        else:
            path.write_text("")
        told_at_once(connect, f"unix://{path / 'x' if what == 'below a file' else path}", BadUrl, caplog)


@pytest.mark.parametrize("what", ["nothing", "no folder", "a socket that nobody listens at"])
def test_a_socket_that_is_not_there_yet_is_waited_for(connect: Connect, tmp_path: Path, what: str):
    path = tmp_path / ("no/s" if what == "no folder" else "s")
    if what.startswith("a socket"):
        with socket.socket(socket.AF_UNIX) as bound, socket_path(str(path)) as short:
            bound.bind(short)
    with pytest.raises(ServerUnavailable):
        connect(f"unix://{path}", retry_for_s=0.2).command("GET", "a")


# -- what is logged ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_an_outage_is_told_once_by_each_client_however_many_calls_meet_it(
    flavour: str, caplog: pytest.LogCaptureFixture
):
    port = free_port()
    with ExitStack() as stack:
        client = stack.enter_context(make_client(flavour, f"redis://127.0.0.1:{port}", retry_for_s=PATIENT_S))
        calls = [InThread(lambda: client.command("GET", "a")) for _ in range(8)]
        wait_until(lambda: "trying for" in caplog.text, "the client says that it tries again")
        time.sleep(1)
        server = stack.enter_context(ServerUnderTest(real_kinds()[0], port=port))
        assert [call.result() for call in calls] == [None] * 8
        assert (caplog.text.count("trying for"), caplog.text.count("answers again")) == (1, 1)
        server.kill()
        again = InThread(lambda: client.command("GET", "a"))
        wait_until(lambda: caplog.text.count("trying for") == 2, "the client says so of the next outage")
        server.start()
        assert again.result() is None


def test_an_outage_is_told_once_by_a_worker_for_asyncio_and_its_heartbeat(caplog: pytest.LogCaptureFixture):
    async def works(server: ServerUnderTest) -> None:
        async with aio.Worker(server.url, "r", lease_s=60, heartbeat_s=0.05) as worker:
            server.kill()
            claim = asyncio.create_task(worker.claim(timeout=0))
            await asyncio.sleep(2)  # both have met it
            await asyncio.to_thread(server.start)
            assert await claim == []
            await worker.renew()

    with ServerUnderTest(real_kinds()[0], durable=True) as server:
        Trainer(server.url, "r", RunConfig(consumer_batch_size=1)).close()
        caplog.clear()
        asyncio.run(works(server))
    assert (caplog.text.count("trying for"), caplog.text.count("answers again")) == (1, 1), caplog.text


# -- answers that the server cuts off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_results_are_read_in_pieces_that_the_server_lets_through(
    redis_server: ServerUnderTest, flavour: str, caplog: pytest.LogCaptureFixture
):
    """A few of many bytes, and many of a few: the batch is as it would be."""
    server = redis_server
    results = {f"t{i}": bytes([i]) * (3_000_000 if i < 2 else 200_000) for i in range(20)}
    config = RunConfig(consumer_batch_size=len(results))
    with Trainer(server.url, "r", config) as trainer, Worker(server.url, "r") as worker:
        trainer.enqueue(Task(id=name, payload=b"") for name in results)
        for attempt in worker.claim(len(results)):
            worker.submit(attempt, results[attempt.task])
        server.command("CONFIG", "SET", "client-output-buffer-limit", "normal 500000 0 0")
        batch = trainer.next_batch(timeout=30) if flavour == "sync" else asyncio.run(_batch_of(server.url))
        assert {rollout.task: rollout.samples[0].result for rollout in batch} == results
        assert "client-output-buffer-limit" in caplog.text


async def _batch_of(url: str, retry_for_s: float = 30) -> list[Rollout]:
    async with aio.Trainer(url, "r", retry_for_s=retry_for_s) as trainer:
        return await trainer.next_batch(timeout=30)


def test_an_answer_that_is_always_cut_off_says_so(redis_server: ServerUnderTest, connect: Connect):
    server = redis_server
    client = connect(server.url, retry_for_s=0.3)
    client.command("SET", "a", bytes(5_000_000))
    server.command("CONFIG", "SET", "client-output-buffer-limit", "normal 100000 0 0")
    with pytest.raises(ServerUnavailable, match=r"closed the connection.*client-output-buffer-limit"):
        client.command("GET", "a")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_batch_that_no_answer_can_hold_says_why(redis_server: ServerUnderTest, flavour: str):
    """Not even the least that is asked for comes."""
    server = redis_server
    config = RunConfig(consumer_batch_size=2)
    with Trainer(server.url, "r", config, retry_for_s=2) as trainer, Worker(server.url, "r") as worker:
        trainer.enqueue(Task(id=f"t{i}") for i in range(2))
        for attempt in worker.claim(2):
            worker.submit(attempt, bytes(3_000_000))
        server.command("CONFIG", "SET", "client-output-buffer-limit", "normal 30000 0 0")
        with pytest.raises(ServerUnavailable, match=r"closed the connection.*client-output-buffer-limit"):
            _ = trainer.next_batch(timeout=30) if flavour == "sync" else asyncio.run(_batch_of(server.url, 2))


def test_a_connection_that_is_closed_in_an_answer_says_after_how_many_bytes(connect: Connect):
    class Half(ScriptedServer):
        def serve(self, client: Any) -> None:
            client.recv(1 << 16)
            client.sendall(b"+OK\r\n" + bulk("redis_version:7.0.15\r\n"))  # to CLIENT SETNAME and INFO
            client.recv(1 << 16)
            client.sendall(b"$1000000\r\n" + bytes(1000))

    with (
        Half(lambda _: b"") as server,
        pytest.raises(ServerUnavailable, match=r"closed the connection after 1010 bytes of its answer"),
    ):
        connect(server.url, retry_for_s=0.1).command("GET", "a")


# -- a run that is gone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_run_that_is_gone_is_told_once(server: ServerUnderTest, flavour: str, caplog: pytest.LogCaptureFixture):
    """A worker tries again and again, as `run` does: it must not log a warning every second."""
    with Trainer(server.url, "r", RunConfig(consumer_batch_size=1)):
        pass

    async def looks() -> None:
        async with aio.Worker(server.url, "r") as worker:
            server.command("FLUSHALL")
            for _ in range(20):
                assert await worker.claim(1, timeout=0.01) == []

    if flavour == "aio":
        asyncio.run(looks())
    else:
        with Worker(server.url, "r") as worker:
            server.command("FLUSHALL")
            for _ in range(20):
                assert worker.claim(1, timeout=0.01) == []
    assert caplog.text.count("waiting for the run to come back") == 1
