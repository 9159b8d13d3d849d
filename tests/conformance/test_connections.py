"""Connections of both clients, on every kind of server that this machine has."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from broker.connections import Transport, open_transport
from broker.connections.aio import AsyncConnection
from broker.connections.endpoint import Endpoint
from broker.connections.failures import Failure
from broker.connections.sync import BlockingConnection, run_blocking
from broker.connections.url import parse_url
from broker.errors import (
    AuthenticationFailed,
    BrokerError,
    NoRun,
    OutOfMemory,
    ReadOnlyServer,
    ServerUnavailable,
    UnsupportedServer,
)
from broker.operator import Operator
from broker.protocol import scripts
from broker.protocol.script_call import ScriptCall
from tests.child import finished
from tests.conformance.clients import LoopClient, make_client
from tests.lossy_proxy import LossyProxy, ScriptedServer, bulk
from tests.servers import (
    ServerKind,
    ServerUnderTest,
    begin_move,
    cluster,
    end_move,
    free_port,
    real_kinds,
    redis_kinds,
    sentinel,
    server_kinds,
)
from tests.threads import InThread
from tests.waiting import wait_until

Connect = Callable[..., Transport | LoopClient]

STATE = "rb1:{run}:state"
WAKE = "rb1:{run}:wake"
SCRIPTS = {
    "bump": ["-- Flags: none", "return redis.call('INCRBY', KEYS[1], ARGV[1])"],
    "read": ["-- Flags: no-writes", "return redis.call('GET', KEYS[1])"],
    "free": ["-- Flags: allow-oom", "return redis.call('DEL', KEYS[1])"],
    "refuse": ["-- Flags: none", "return redis.error_reply('NORUN run=math%207b')"],
    "fault": ["-- Flags: none", "", "local nothing", "return nothing.there"],
}


@pytest.fixture(autouse=True)
def _lua(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Tiny scripts instead of the broker's."""
    for name, lines in SCRIPTS.items():
        (tmp_path / f"{name}.lua").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(scripts, "_PLACES", (tmp_path,))
    scripts.load.cache_clear()
    scripts.library.cache_clear()
    yield
    scripts.load.cache_clear()
    scripts.library.cache_clear()


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Generator[Connect]:
    """Makes clients of one flavour, and closes them."""
    clients: list[Transport | LoopClient] = []

    def connected(url: str, **options: float) -> Transport | LoopClient:
        clients.append(make_client(request.param, url, **options))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


@pytest.fixture(params=server_kinds(), ids=str)
def server(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    with ServerUnderTest(request.param) as started:
        yield started


@pytest.fixture(params=real_kinds(), ids=str)
def real_kind(request: pytest.FixtureRequest) -> ServerKind:
    return request.param


@pytest.fixture
def real_server(real_kind: ServerKind) -> Generator[ServerUnderTest]:
    with ServerUnderTest(real_kind, durable=True) as started:
        yield started


@pytest.fixture(params=redis_kinds(), ids=str)
def redis(request: pytest.FixtureRequest) -> ServerKind:
    return request.param


def script_call(
    script: str, *args: str | int, key: str = STATE, before: tuple[tuple[Any, ...], ...] = ()
) -> ScriptCall[Any]:
    return ScriptCall(script, (key,), args, lambda reply: reply, before)


def bump(by: int = 1, key: str = STATE) -> ScriptCall[Any]:
    return script_call("bump", by, key=key)


# -- scripts -----------------------------------------------------------------------------------------------------------


def test_a_pipeline_answers_in_order_with_errors_as_values(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)

    answers = client.execute([bump(1), script_call("refuse"), bump(10), script_call("read")])

    assert [answers[0], answers[2], answers[3]] == [1, 11, b"11"]
    assert isinstance(answers[1], NoRun)
    assert answers[1].fields == {"run": "math 7b"}


def test_nothing_to_execute_needs_no_server(connect: Connect):
    assert connect("redis://127.0.0.1:1").execute([]) == []


def test_scripts_are_loaded_again_when_the_server_forgot_them(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)
    client.execute([bump(), script_call("read")])

    client.command("SCRIPT", "FLUSH")
    # Half of the pipeline's scripts are known to the server, half are not.
    client.command("SCRIPT", "LOAD", scripts.load("read", client.server_info().supports_shebang).source)
    answers = client.execute([script_call("read"), bump(), script_call("read")])

    assert answers == [b"1", 2, b"2"]


def test_a_first_use_costs_no_failure(real_server: ServerUnderTest, connect: Connect):
    connect(real_server.url).execute([bump(), script_call("read"), bump()])
    assert b"NOSCRIPT" not in real_server.command("INFO", "errorstats")


def test_a_fault_in_a_script_names_its_file_and_line(server: ServerUnderTest, connect: Connect):
    (answer,) = connect(server.url).execute([script_call("fault")])
    assert isinstance(answer, BrokerError)
    assert answer.fields["where"] == "fault.lua:4"


def test_what_is_sent_before_a_script_runs_first_and_its_error_counts(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)

    ok, failed = client.execute(
        [
            script_call("read", before=(("SET", STATE, "x" * 100_000),)),
            script_call("read", before=(("LPUSH", STATE, "y"),)),
        ]
    )

    assert ok == b"x" * 100_000
    assert isinstance(failed, BrokerError)
    assert failed.code == "WRONGTYPE"


def test_an_answer_that_cannot_be_read_is_an_error_of_its_operation(server: ServerUnderTest, connect: Connect):
    def unreadable(reply: Any) -> Any:
        raise NoRun(run="other")

    first, second = connect(server.url).execute([ScriptCall("bump", (STATE,), (1,), unreadable), bump()])

    assert isinstance(first, NoRun)
    assert second == 2


@pytest.mark.parametrize("size", [32 * 1024 - 1, 32 * 1024, 20_000_000])
def test_large_values_arrive_whole(server: ServerUnderTest, connect: Connect, size: int):
    client = connect(server.url)
    value = bytes(range(256)) * (size // 256 + 1)
    client.pipeline([("SET", "before", "1"), ("SET", STATE, value[:size]), ("SET", "after", "2")])
    assert client.pipeline([("GET", "before"), ("GET", STATE), ("GET", "after")]) == [b"1", value[:size], b"2"]


def test_plain_commands_raise_what_the_server_says(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)
    client.command("SET", "text", "x")
    with pytest.raises(BrokerError) as caught:
        client.command("LPUSH", "text", "y")
    assert caught.value.code == "WRONGTYPE"


def test_the_server_is_known(server: ServerUnderTest, connect: Connect):
    info = connect(server.url).server_info()
    assert info.kind == server.kind.name
    assert info.supports_shebang == server.kind.supports_shebang
    if server.kind.is_real:
        assert info.version == server.kind.version


def test_a_scan_sees_all_keys(server: ServerUnderTest):
    with open_transport(server.url) as client:
        client.pipeline([("SET", f"a{i}", "x") for i in range(2_500)] + [("SET", "b", "x")])
        assert set(client.scan("a*")) == {f"a{i}" for i in range(2_500)}


def test_unix_sockets_and_databases(real_server: ServerUnderTest, connect: Connect):
    connect(f"{real_server.unix_url}?db=3").command("SET", "a", "three")
    assert connect(f"{real_server.url}/3").command("GET", "a") == b"three"
    assert connect(real_server.url).command("GET", "a") is None


def needs_functions(server: ServerUnderTest) -> None:
    if not server.kind.supports_shebang:
        pytest.skip(f"{server.kind} has no functions")


def test_a_server_that_may_not_have_functions_runs_scripts(real_server: ServerUnderTest, connect: Connect):
    """Given a user that may not load functions, then each script is loaded by itself."""
    needs_functions(real_server)
    real_server.command("FUNCTION", "FLUSH")
    real_server.command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-function", "-fcall")
    try:
        client = connect(real_server.url.replace("redis://", "redis://plain:pw@"))
        assert client.execute([bump(), bump()]) == [1, 2]
        assert real_server.command("FUNCTION", "LIST") == []
    finally:
        real_server.command("ACL", "DELUSER", "plain")


def without(command: str, folder: Path) -> dict[str, str]:
    """The setting of a server that does not know a command."""
    (folder / "more.conf").write_text(f'rename-command {command} ""\n')
    return {"include": str(folder / "more.conf")}


def errors_counted(server: ServerUnderTest) -> int:
    """How many errors without a code of their own the server has answered."""
    stats: bytes = server.command("INFO", "errorstats")
    return sum(int(line.split(b"=")[1]) for line in stats.splitlines() if line.startswith(b"errorstat_ERR:"))


@contextmanager
def no_refusals(*servers: ServerUnderTest) -> Generator[None]:
    """Within the block the servers refuse nothing. (A look itself needs a connection, whose greeting may be refused.)"""
    first = sum(map(errors_counted, servers))
    before = sum(map(errors_counted, servers))
    yield
    assert sum(map(errors_counted, servers)) - before == before - first


@pytest.mark.parametrize("command", ["FCALL", "FUNCTION"])
def test_a_server_without_the_commands_of_functions_runs_scripts(
    real_kind: ServerKind, connect: Connect, command: str, tmp_path: Path
):
    """Some managed servers refuse this. The client asks once, and not again with each call."""
    with ServerUnderTest(real_kind, settings=without(command, tmp_path)) as server:
        needs_functions(server)
        client = connect(server.url)
        assert client.execute([bump()]) == [1]
        with no_refusals(server):
            assert [client.execute([bump()]) for _ in range(3)] == [[2], [3], [4]]
            assert client.execute([bump(), bump()]) == [5, 6]


def test_a_server_that_loses_functions_in_mid_run_goes_on_with_scripts(
    real_server: ServerUnderTest, connect: Connect, tmp_path: Path
):
    needs_functions(real_server)
    client = connect(real_server.url)
    assert client.execute([bump()]) == [1]
    real_server.settings.update(without("FCALL", tmp_path))
    real_server.restart()
    assert client.execute([bump()]) == [2]
    with no_refusals(real_server):
        assert [client.execute([bump()]) for _ in range(2)] == [[3], [4]]


@pytest.mark.parametrize(
    "refusal",
    [
        "ERR unknown command 'FCALL', with args beginning with: 'broker_bump'",
        "ERR unknown command `fcall`, with args beginning with: `broker_bump`, `1`, ",
        "ERR unsupported command",
        "ERR command 'fcall' not support for normal user",
        "ERR FCALL is disabled on this service",
        "DENIED command fcall is not allowed by the proxy",
        "NOPERM this user has no permissions to run the 'fcall' command",
        "NOPERM User plain has no permissions to run the 'fcall' command",
    ],
)
def test_whoever_refuses_function_calls_gets_scripts(connect: Connect, refusal: str):
    seen: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        seen.append(command[0])
        match command[0]:
            case b"INFO":
                return bulk("redis_version:7.0.0\r\n")
            case b"FCALL":
                return f"-{refusal}\r\n".encode()
            case b"SCRIPT":
                return bulk("f" * 40)
            case _:
                return b":7\r\n"

    with ScriptedServer(answer) as server:
        client = connect(server.url)
        assert [client.execute([bump()]) for _ in range(3)] == [[7]] * 3
    assert (seen.count(b"FCALL"), seen.count(b"FUNCTION"), seen.count(b"EVALSHA")) == (1, 0, 3)


def test_a_wait_that_hears_of_no_functions_goes_on_with_scripts():
    """The claim that is sent along with a wait may be the first one that is refused."""
    seen: list[bytes] = []
    refuses = False

    def answer(command: list[bytes]) -> bytes:
        seen.append(command[0])
        match command[0]:
            case b"INFO":
                return bulk("redis_version:7.0.0\r\n")
            case b"BZPOPMIN":
                return b"*3\r\n$1\r\nk\r\n$1\r\n1\r\n$1\r\n0\r\n"
            case b"FCALL" if refuses:
                return b"-ERR unknown command 'FCALL', with args beginning with: 'broker_bump'\r\n"
            case b"SCRIPT":
                return bulk("f" * 40)
            case _:
                return b":7\r\n"

    with ScriptedServer(answer) as server, open_transport(server.url) as client:
        assert client.execute([bump()]) == [7]
        refuses = True
        for _ in range(3):
            answers = client.wait_and_execute([WAKE], 1.0, [bump()])
            assert answers in (None, [7])
            assert client.execute([bump()]) == [7]
    assert seen.count(b"FCALL") == 2


def test_a_library_that_was_flushed_is_loaded_again(real_server: ServerUnderTest, connect: Connect):
    needs_functions(real_server)
    client = connect(real_server.url)
    assert client.execute([bump()]) == [1]
    real_server.command("FUNCTION", "FLUSH")
    assert client.execute([bump(), bump()]) == [2, 3]
    assert len(real_server.command("FUNCTION", "LIST")) == 1


# -- lost messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 3])
def test_a_lost_reply_is_asked_for_again_once_for_each_loss(real_server: ServerUnderTest, connect: Connect, lost: int):
    with LossyProxy(real_server.port) as proxy:
        client = connect(proxy.url)
        client.execute([bump(0)])
        proxy.requests, proxy.lose_replies = 0, lost

        # This script is not replay-safe, so that it counts how often it ran.
        assert client.execute([bump()]) == [1 + lost]
        assert proxy.requests == 1 + lost


def test_a_request_that_never_arrived_is_sent_again(real_server: ServerUnderTest, connect: Connect):
    with LossyProxy(real_server.port) as proxy:
        client = connect(proxy.url)
        client.execute([bump(0)])
        proxy.requests, proxy.lose_requests = 0, 2
        assert client.execute([bump()]) == [1]
        assert proxy.requests == 3


def test_silence_counts_as_loss_after_the_time_out(real_server: ServerUnderTest, connect: Connect):
    with LossyProxy(real_server.port) as proxy:
        client = connect(proxy.url, timeout_s=0.2)
        client.execute([bump(0)])
        proxy.swallow_replies = 1
        assert client.execute([bump()]) == [2]


def test_a_reply_that_is_late_but_in_time_is_waited_for(real_server: ServerUnderTest, connect: Connect):
    with LossyProxy(real_server.port) as proxy:
        client = connect(proxy.url, timeout_s=5.0)
        client.execute([bump(0)])
        proxy.requests, proxy.delay_s = 0, 0.3
        assert client.execute([bump()]) == [1]
        assert proxy.requests == 1


def test_a_connection_that_the_server_closed_is_replaced_without_a_word(
    real_server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture
):
    client = connect(real_server.url)
    client.execute([bump()])
    real_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert client.execute([bump()]) == [2]
    assert not caplog.records


def test_a_restart_during_a_call_is_ridden_out(
    real_server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture
):
    client = connect(real_server.url)
    client.execute([bump()])
    real_server.kill()
    call = InThread(lambda: client.execute([bump(), script_call("read")]))
    wait_until(lambda: "trying for" in caplog.text, "the client says that it tries again")

    real_server.start()

    assert call.result() == [2, b"2"]
    assert "answers again" in caplog.text


@pytest.mark.parametrize("loss", ["lose_replies", "lose_requests", "swallow_replies"])
@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_the_client_library_sends_nothing_again_by_itself(real_server: ServerUnderTest, flavour: str, loss: str):
    async def once(port: int, kind: type[BlockingConnection | AsyncConnection]) -> None:
        connection = kind(Endpoint("127.0.0.1", port), "", parse_url("redis://"), 0.3)
        connected = connection.connect()
        if connected is not None:
            await connected
        with pytest.raises(Failure):
            await connection.exchange([("INCR", "counter")])
        connection.abort()

    with LossyProxy(real_server.port, b"INCR") as proxy:
        setattr(proxy, loss, 1)
        if flavour == "sync":
            run_blocking(once(proxy.port, BlockingConnection))
        else:
            asyncio.run(once(proxy.port, AsyncConnection))

        assert (proxy.connections, proxy.requests) == (1, 1)
        assert real_server.command("GET", "counter") == (None if loss == "lose_requests" else b"1")


# -- servers that are not there ----------------------------------------------------------------------------------------


def test_nobody_listens(connect: Connect):
    client = connect(f"redis://:secret@127.0.0.1:{free_port()}", retry_for_s=0.3)
    started = time.monotonic()
    with pytest.raises(ServerUnavailable) as caught:
        client.execute([bump()])
    assert time.monotonic() - started < 15
    assert "refused" in str(caught.value)
    assert "secret" not in f"{caught.value} {caught.value!r} {client!r}"


def test_a_frozen_server_is_given_up(real_server: ServerUnderTest, connect: Connect):
    client = connect(real_server.url, timeout_s=0.2, retry_for_s=0.5)
    client.execute([bump()])
    real_server.freeze()
    with pytest.raises(ServerUnavailable, match=r"no answer for 0\.2 s"):
        client.execute([bump()])
    real_server.thaw()
    # The frozen one still had the requests: the client could not know.
    assert client.execute([bump(0)])[0] >= 1


def test_a_host_that_does_not_exist(connect: Connect):
    with pytest.raises(ServerUnavailable, match="cannot connect"):
        connect("redis://no-such-host.invalid", retry_for_s=0.1).execute([bump()])


def test_what_speaks_http_is_no_redis(connect: Connect):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - the name that the base has

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        with pytest.raises(UnsupportedServer, match="neither Redis nor Valkey"):
            connect(f"redis://127.0.0.1:{http.server_port}").execute([bump()])
        http.shutdown()


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
def test_a_server_without_tls_is_silent_and_told_at_once(real_server: ServerUnderTest, connect: Connect, scheme: str):
    client = connect(real_server.url.replace("redis", scheme, 1), timeout_s=0.3, retry_for_s=30.0)
    with pytest.raises(UnsupportedServer, match=r"no TLS there.*answers without it") as caught:
        client.execute([bump()])
    assert "rediss" in str(caught.value)


def test_a_server_that_is_silent_in_the_tls_handshake_may_be_frozen(
    real_server: ServerUnderTest, connect: Connect, caplog: pytest.LogCaptureFixture
):
    client = connect(real_server.url.replace("redis", "rediss", 1), timeout_s=0.3, retry_for_s=30.0)
    real_server.freeze()
    call = InThread(lambda: client.execute([bump()]))
    wait_until(lambda: "does it speak TLS?" in caplog.text, "the client says that it tries again")
    real_server.thaw()
    with pytest.raises(UnsupportedServer, match="no TLS there"):
        call.result()


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ("redis_version:5.0.7\r\n", r"Redis 5\.0\.7; 6\.2 is the oldest"),
        ("redis_version:6.0.16\r\n", r"Redis 6\.0\.16"),
        ("nothing:here\r\n", "does not say which version"),
    ],
)
def test_a_server_that_is_too_old(connect: Connect, info: str, problem: str):
    with ScriptedServer(lambda _: bulk(info)) as old, pytest.raises(UnsupportedServer, match=problem):
        connect(old.url).execute([bump()])


def test_redis_6_gets_scripts_without_a_shebang(connect: Connect):
    loaded: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"INFO":
            return bulk("redis_version:6.2.14\r\n")
        if command[0] == b"SCRIPT":
            loaded.append(command[2])
        return b":1\r\n"

    with ScriptedServer(answer) as six:
        client = connect(six.url)
        assert client.execute([bump()]) == [1]
        assert not client.server_info().supports_shebang
    assert loaded == [scripts.load("bump", shebang=False).source]


def test_errors_inside_scripts_of_redis_6_are_recognised(connect: Connect):
    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"INFO":
            return bulk("redis_version:6.2.14\r\n")
        if command[0] == b"EVALSHA":
            return (
                b"-ERR Error running script (call to f_60aa): @user_script:1: @user_script: 1: "
                b"-OOM command not allowed when used memory > 'maxmemory'. \r\n"
            )
        return b"+OK\r\n"

    with ScriptedServer(answer) as six:
        (answered,) = connect(six.url).execute([bump()])
    assert isinstance(answered, OutOfMemory)


def test_a_server_that_reads_its_data_back_is_waited_for(connect: Connect):
    loading = iter([True, True, False])

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"INFO":
            return bulk("redis_version:7.0.0\r\n")
        if command[0] == b"FCALL" and next(loading):
            return b"-LOADING Redis is loading the dataset in memory\r\n"
        return b":7\r\n"

    with ScriptedServer(answer) as server:
        assert connect(server.url).execute([bump()]) == [7]


# -- access ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("userinfo", "said"), [("", "NOAUTH"), (":wrong@", "WRONGPASS"), ("nobody:secret@", "WRONGPASS")]
)
def test_wrong_passwords(real_kind: ServerKind, connect: Connect, userinfo: str, said: str):
    with ServerUnderTest(real_kind, settings={"requirepass": "secret"}) as server:
        url = server.url.replace("redis://", f"redis://{userinfo}")
        with pytest.raises(AuthenticationFailed, match=said) as caught:
            connect(url).execute([bump()])
        assert "secret@" not in str(caught.value)
        assert "wrong" not in str(caught.value)
        assert ".:" not in str(caught.value)
        assert connect(server.url.replace("redis://", "redis://:secret@")).execute([bump()]) == [1]


def test_a_password_where_none_is_set(real_server: ServerUnderTest, connect: Connect):
    with pytest.raises(AuthenticationFailed):
        connect(real_server.url.replace("redis://", "redis://:secret@")).execute([bump()])


def test_a_user_with_few_rights(real_server: ServerUnderTest, connect: Connect):
    real_server.command("ACL", "SETUSER", "w", "on", ">pw", "~rb1:*", "+script", "+evalsha", "+get")
    client = connect(real_server.url.replace("redis://", "redis://w:pw@"))

    assert client.server_info().version == real_server.kind.version
    assert client.execute([script_call("read")]) == [None]
    (denied,) = client.execute([script_call("read", before=(("SET", "elsewhere", "x"),))])
    assert isinstance(denied, AuthenticationFailed)
    assert "password" not in str(denied)


# -- servers that take no writes ---------------------------------------------------------------------------------------


def test_a_replica_is_told_from_a_broken_server(real_kind: ServerKind, real_server: ServerUnderTest, connect: Connect):
    with ServerUnderTest(real_kind, replica_of=real_server.port) as replica:
        client = connect(replica.url, retry_for_s=0.3)
        with pytest.raises(ReadOnlyServer):
            client.execute([bump()])
        assert client.execute([script_call("read")]) == [None]


def test_a_replica_that_is_promoted_in_time_is_used(
    real_kind: ServerKind, connect: Connect, caplog: pytest.LogCaptureFixture
):
    with ServerUnderTest(real_kind, replica_of=free_port()) as replica:
        client = connect(replica.url)
        call = InThread(lambda: client.execute([bump()]))
        wait_until(lambda: "READONLY" in caplog.text, "the write is refused")

        replica.command("REPLICAOF", "NO", "ONE")

        assert call.result() == [1]


def test_a_full_server_refuses_before_it_starts_and_still_frees(real_kind: ServerKind, connect: Connect):
    with ServerUnderTest(real_kind) as server:
        client = connect(server.url)
        client.execute([bump()])
        server.command("CONFIG", "SET", "maxmemory", 1)

        refused, freed = client.execute([bump(), script_call("free")])

        assert isinstance(refused, OutOfMemory)
        assert freed == 1


def test_eviction_is_warned_of_once(real_kind: ServerKind, connect: Connect, caplog: pytest.LogCaptureFixture):
    with ServerUnderTest(real_kind, settings={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        connect(server.url).execute([bump()])
        connect(server.url).execute([bump()])
    assert caplog.text.count("allkeys-lru") == 1


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_a_marker_ends_the_wait_and_is_taken(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)
    call = InThread(lambda: client.wait_marker(["rb1:{run}:other", WAKE], 10))
    connect(server.url).command("ZADD", WAKE, 1, "m")
    assert call.result() == WAKE
    assert client.command("EXISTS", WAKE) == 0


def test_a_wait_ends_after_its_time(server: ServerUnderTest, connect: Connect):
    client = connect(server.url, timeout_s=0.1)
    started = time.monotonic()
    assert client.wait_marker([WAKE], 0.4) is None
    assert 0.3 < time.monotonic() - started < 15


def test_waiting_does_not_hold_up_other_calls(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)
    wait = InThread(lambda: client.wait_marker([WAKE], 10))
    assert client.execute([bump()]) == [1]
    assert wait.is_running
    client.command("ZADD", WAKE, 1, "m")
    assert wait.result() == WAKE


@pytest.mark.parametrize("end", ["interrupt", "close"])
def test_a_wait_can_be_ended(server: ServerUnderTest, connect: Connect, end: str):
    client = connect(server.url)
    client.execute([bump()])
    wait = InThread(lambda: client.wait_marker([WAKE], 10))
    if server.kind.is_real:
        wait_until(lambda: b"blocked_clients:1" in server.command("INFO", "clients"), "the client waits")

    getattr(client, end)()

    assert wait.result(5) is None


def test_an_interrupt_that_comes_too_early_ends_the_next_wait(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)
    client.interrupt()
    assert client.wait_marker([WAKE], 10) is None
    client.command("ZADD", WAKE, 1, "m")
    assert client.wait_marker([WAKE], 10) == WAKE


@pytest.mark.parametrize("end", ["interrupt", "close"])
def test_a_wait_that_is_ended_while_it_connects_does_not_ask_whether_the_server_speaks_tls(connect: Connect, end: str):
    """A server without TLS does not answer that question: a worker that ended soon after its start waited for nothing."""
    greeted, is_over = threading.Event(), threading.Event()

    def answer(_: list[bytes]) -> bytes:
        greeted.set()
        is_over.wait(30)
        return b"+OK\r\n"

    with ScriptedServer(answer) as server:
        client = connect(server.url)
        wait = InThread(lambda: client.wait_marker([WAKE], 10))
        assert greeted.wait(30)

        getattr(client, end)()

        assert wait.result(5) is None
        assert server.connections == 1
        is_over.set()


def test_a_crash_of_the_server_ends_the_wait_and_the_next_one_works(real_server: ServerUnderTest, connect: Connect):
    client = connect(real_server.url)
    wait = InThread(lambda: client.wait_marker([WAKE], 30))
    wait_until(lambda: b"blocked_clients:1" in real_server.command("INFO", "clients"), "the client waits")

    real_server.kill()
    assert wait.result(5) is None
    assert client.wait_marker([WAKE], 0.1) is None

    real_server.start()
    client.command("ZADD", WAKE, 1, "m")
    assert client.wait_marker([WAKE], 10) == WAKE


def test_waits_on_a_dead_server_are_no_busy_loop(connect: Connect):
    client = connect(f"redis://127.0.0.1:{free_port()}")
    started, waits = time.monotonic(), 0
    while time.monotonic() - started < 1:
        assert client.wait_marker([WAKE], 5) is None
        waits += 1
    assert waits < 20


# -- threads, processes, tasks -----------------------------------------------------------------------------------------


def test_many_threads_share_a_client(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)
    calls = [InThread(lambda: [client.execute([bump()]) for _ in range(50)]) for _ in range(8)]
    counted = sorted(answer for call in calls for (answer,) in call.result(60))
    assert counted == list(range(1, 401))


def test_a_forked_child_has_connections_of_its_own(real_server: ServerUnderTest, tmp_path: Path):
    code = f"""
import os, pathlib
from broker.protocol import scripts
from broker.connections import open_transport
from broker.protocol.script_call import ScriptCall
scripts._PLACES = (pathlib.Path({str(tmp_path)!r}),)
bump = [ScriptCall("bump", ({STATE!r},), (1,), int)]
with open_transport({real_server.url!r}) as transport:
    own = transport.execute([*bump]), transport.command("CLIENT", "ID")
    child = os.fork()
    id = transport.command("CLIENT", "ID")
    for _ in range(100):
        transport.execute(bump)
    if not child:
        os._exit(0 if id != own[1] else 1)
    assert id == own[1], "the parent goes on with its own"
    assert os.waitpid(child, 0)[1] == 0
    assert transport.execute(bump) == [202]
"""
    done = finished("-c", code)
    assert (done.code, done.err) == (0, "")


def test_a_closed_client_says_so(server: ServerUnderTest, connect: Connect):
    client = connect(server.url)
    if isinstance(client, LoopClient):
        client.run(client.transport.close())
    else:
        client.close()
    with pytest.raises(ServerUnavailable, match=r"^this client of .* was closed: open another") as caught:
        client.execute([bump()])
    assert "did not answer" not in str(caught.value)


# -- cluster -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=redis_kinds(), ids=str)
def members(request: pytest.FixtureRequest) -> Generator[list[ServerUnderTest]]:
    with cluster(request.param) as nodes:
        yield nodes


def owner_of(slot: int, members: list[ServerUnderTest]) -> int:
    """Which of three nodes has a slot."""
    return slot // 5_462


def test_runs_of_a_cluster_are_on_their_nodes(members: list[ServerUnderTest], connect: Connect):
    for member in members:
        member.command("FLUSHALL")
    client = connect(f"redis+cluster://127.0.0.1:{members[0].port},127.0.0.1:{free_port()}")
    keys = [f"rb1:{{run{i}}}:state" for i in range(12)]

    assert client.execute([bump(i, key) for i, key in enumerate(keys)]) == list(range(12))

    assert sum(member.command("DBSIZE") for member in members) == 12
    assert all(member.command("DBSIZE") for member in members)
    assert client.command("GET", keys[5]) == b"5"
    assert client.server_info().cluster


def test_a_cluster_without_function_calls_runs_scripts(redis: ServerKind, connect: Connect, tmp_path: Path):
    with cluster(redis, more=without("FCALL", tmp_path)) as nodes:
        client = connect(f"redis+cluster://127.0.0.1:{nodes[0].port}")
        keys = [f"rb1:{{run{i}}}:state" for i in range(12)]
        assert client.execute([bump(i, key) for i, key in enumerate(keys)]) == list(range(12))
        with no_refusals(*nodes):
            assert client.execute([bump(i, key) for i, key in enumerate(keys)]) == [2 * i for i in range(12)]


def test_libraries_of_other_releases_are_deleted_on_all_primaries(members: list[ServerUnderTest]):
    """Other programs' libraries stay."""
    for member in members:
        for name in ("broker_0123456789ab", "broker_of_somebody"):
            source = f"#!lua name={name}\nredis.register_function('{name}_f', function() return 1 end)"
            member.command("FUNCTION", "LOAD", "REPLACE", source)
    with Operator(f"redis+cluster://127.0.0.1:{members[0].port}") as operator:
        old = [library for library in operator.libraries() if not library.of_this_release]
        assert {library.server for library in old} == {f"127.0.0.1:{member.port}" for member in members}
        assert "broker_0123456789ab" in {library.name for library in old}
        assert operator.delete_old_libraries() == old
        assert operator.delete_old_libraries() == []
    for member in members:
        listed = str(member.command("FUNCTION", "LIST"))
        assert "broker_of_somebody" in listed
        assert "broker_0123456789ab" not in listed
        member.command("FUNCTION", "FLUSH")


def test_a_scan_sees_all_primaries(members: list[ServerUnderTest]):
    for member in members:
        member.command("FLUSHALL")
    with open_transport(f"redis+cluster://127.0.0.1:{members[1].port}") as client:
        names = {f"rb1:{{run{i}}}:state" for i in range(2_500)}
        client.execute([bump(1, name) for name in [*names, "other:{a}"]])
        assert set(client.scan("rb1:{*}:state")) == names
        assert list(client.scan("nothing:*")) == []


def test_a_wait_on_runs_of_several_nodes(members: list[ServerUnderTest], connect: Connect):
    client = connect(f"redis+cluster://127.0.0.1:{members[1].port}")
    keys = [f"rb1:{{run{i}}}:wake" for i in range(6)]
    for key in keys:
        wait = InThread(lambda: client.wait_marker(keys, 10))
        client.command("ZADD", key, 1, "m")
        assert wait.result() == key
    assert client.wait_marker(keys, 0.3) is None


def test_a_slot_that_moves_is_followed(
    members: list[ServerUnderTest], connect: Connect, caplog: pytest.LogCaptureFixture
):
    key = "rb1:{moving}:state"
    slot: int = members[0].command("CLUSTER", "KEYSLOT", key)
    old = members[owner_of(slot, members)]
    new = members[(owner_of(slot, members) + 1) % 3]
    client = connect(f"redis+cluster://127.0.0.1:{members[0].port}", retry_for_s=60.0)
    client.pipeline([("DEL", key), ("SET", key, 2)])

    # On its way: the key is at the new node already, the slot still belongs to the old one, which answers ASK.
    begin_move(slot, old, new)
    old.command("MIGRATE", "127.0.0.1", new.port, key, 0, 5000)
    assert client.command("GET", key) == b"2"
    # A script waits: others of its run's keys may still be at the old node.
    call = InThread(lambda: client.execute([bump(1, key), script_call("read", key=key)]))
    wait_until(lambda: "trying for" in caplog.text, "the call is sent again")

    # Moved: the old node answers MOVED.
    end_move(slot, old, new, members)
    assert call.result() == [3, b"3"]
    assert client.execute([bump(1, key)]) == [4]

    # And back, for the tests to come.
    new.command("DEL", key)
    assert client.execute([script_call("read", key=key)]) == [None]
    begin_move(slot, new, old)
    end_move(slot, new, old, members)
    assert client.execute([bump(1, key)]) == [1]


@pytest.mark.slow
def test_a_failover_in_a_cluster_is_followed(redis: ServerKind, connect: Connect):
    with cluster(redis, replicas=1) as nodes:
        keys = [f"rb1:{{run{i}}}:state" for i in range(12)]
        client = connect(f"redis+cluster://127.0.0.1:{nodes[1].port}", retry_for_s=30.0)
        assert client.execute([bump(1, key) for key in keys]) == [1] * 12
        wait_until(lambda: nodes[3].command("DBSIZE") == nodes[0].command("DBSIZE"), "the replica has the writes")

        nodes[0].kill()

        # Those of the other nodes were not sent again.
        assert client.execute([bump(1, key) for key in keys]) == [2] * 12


def test_a_node_of_a_cluster_is_not_taken_for_a_server(members: list[ServerUnderTest], connect: Connect):
    client = connect(members[0].url)
    answers = client.execute([bump(1, f"rb1:{{run{i}}}:state") for i in range(6)])
    refused = [answer for answer in answers if isinstance(answer, UnsupportedServer)]
    assert refused
    assert "redis+cluster://" in str(refused[0])


# -- sentinel ----------------------------------------------------------------------------------------------------------


def test_a_failover_by_sentinel_is_followed(redis: ServerKind, connect: Connect):
    with ServerUnderTest(redis) as primary:
        primary.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        with ServerUnderTest(redis, replica_of=primary.port) as replica, sentinel(redis, primary) as port:
            client = connect(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main", retry_for_s=30.0)
            assert client.execute([bump()]) == [1]
            wait = InThread(lambda: client.wait_marker([WAKE], 30))
            wait_until(lambda: replica.command("GET", STATE) == b"1", "the replica has the write", 20)
            replica.command("SCRIPT", "FLUSH")

            primary.kill()

            assert client.execute([bump(), script_call("read")]) == [2, b"2"]
            assert replica.command("GET", STATE) == b"2"
            assert wait.result(5) is None
