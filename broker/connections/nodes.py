"""The servers of an address: connections to them, and what is known of each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from broker.connections.link import Command, ExclusivePool, Link, LinkLost, NotRedis, Pool
from broker.connections.replies import ReplyError
from broker.connections.retrying import Again
from broker.connections.server import ServerInfo, greet
from broker.connections.topology import Topology
from broker.connections.url import Address, Endpoint
from broker.errors import UnsupportedServer

#: How long a sentinel, or a node that is asked where the others are, may be silent, seconds: there are more to ask.
_ASK_S = 2.0


class Sockets(Protocol):
    """What the core needs done: the only part that differs between the synchronous and the asyncio client."""

    async def dial(self, endpoint: Endpoint, address: Address, timeout_s: float) -> Link:
        """Opens a connection; raises LinkLost, NotRedis or AuthenticationFailed (a certificate that does not check)."""
        ...

    def pool(self, opened: Callable[[], Awaitable[Link]]) -> Pool:
        """A pool of connections for calls that do not block in the server."""
        ...

    async def pause(self, seconds: float) -> None:
        """Waits; raises ServerUnavailable when the transport is closed meanwhile."""
        ...


@dataclass(slots=True)
class Node:
    """One server: its connections, and which scripts it has."""

    endpoint: Endpoint
    pool: Pool
    waits: ExclusivePool
    info: ServerInfo | None = None
    known: set[str] = field(default_factory=set[str])


class Nodes:
    """The servers of an address.

    Args:
        address: what the URL says.
        topology: told when something there breaks.
        sockets: makes connections.
        timeout_s: how long a server may be silent, seconds.
    """

    def __init__(self, address: Address, topology: Topology, sockets: Sockets, timeout_s: float) -> None:
        self._address = address
        self._topology = topology
        self._sockets = sockets
        self._timeout_s = timeout_s
        self._nodes: dict[Endpoint, Node] = {}
        #: Whether the next wait is to end at once.
        self.interrupted = False

    async def locate(self, key: str | None) -> Endpoint:
        """The server of a key (None: any)."""
        try:
            return await self._topology.locate(key, self.ask)
        except LinkLost as error:
            raise Again(str(error)) from error

    async def node(self, endpoint: Endpoint) -> Node:
        """A server, after a first connection told what it is."""
        node = self._nodes.get(endpoint)
        if node is None:

            async def opened() -> Link:
                return await self._open(endpoint)

            node = self._nodes[endpoint] = Node(
                endpoint, self._sockets.pool(opened), ExclusivePool(opened, lambda: self.interrupted)
            )
        if node.info is None:
            await self.exchange(node, [("PING",)])
        return node

    async def _open(self, endpoint: Endpoint) -> Link:
        """Opens a connection, logs in and looks at the server."""
        link = await self._dial(endpoint, self._timeout_s)
        try:
            info = await greet(link, self._address)
        except BaseException as error:
            link.abort()
            if isinstance(error, NotRedis):
                raise self._not_redis(endpoint, error) from error
            raise
        if isinstance(info, ReplyError):
            link.abort()
            raise Again(info.text)
        if self._address.mode == "sentinel" and info.replica:
            link.abort()
            raise Again(f"{endpoint} is not a primary any more")
        node = self._nodes.get(endpoint)
        if node is not None:
            if node.info is not None and node.info != info:
                # Another server has its place now; it has none of the scripts.
                node.known.clear()
            node.info = info
        return link

    async def _dial(self, endpoint: Endpoint, timeout_s: float) -> Link:
        try:
            return await self._sockets.dial(endpoint, self._address, timeout_s)
        except NotRedis as error:
            raise self._not_redis(endpoint, error) from error

    def _not_redis(self, endpoint: Endpoint, error: NotRedis) -> UnsupportedServer:
        tls = "" if self._address.tls else "; if it speaks TLS, connect with rediss://"
        return UnsupportedServer(
            url=self._address.shown, problem=f"what listens at {endpoint} is neither Redis nor Valkey ({error}){tls}"
        )

    async def exchange(self, node: Node, commands: Sequence[Command], asking: bool = False) -> list[Any]:
        """One round trip; a broken connection asks for another try, and for a new look at where the keys are.

        With `asking`, each command is let through by a node that is still being given the slot.
        """
        try:
            if asking:
                both = [part for command in commands for part in (("ASKING",), command)]
                return (await node.pool.exchange(both))[1::2]
            return await node.pool.exchange(commands)
        except (LinkLost, NotRedis) as error:
            self.forget(node)
            raise Again(f"{node.endpoint}: {error}") from error

    def forget(self, node: Node) -> None:
        """Drops the connections to a server and what was known of it."""
        node.pool.drop()
        node.waits.drop()
        self._topology.forget()

    async def ask(self, endpoint: Endpoint, command: Command) -> Any:
        """One command on a connection of its own: to a sentinel, or a node of a cluster that may own nothing."""
        address = self._address
        username, password = address.username, address.password
        if address.mode == "sentinel":
            username, password = address.sentinel_username, address.sentinel_password
        link = await self._dial(endpoint, min(self._timeout_s, _ASK_S))
        try:
            if password:
                (reply,) = await link.exchange([("AUTH", username, password) if username else ("AUTH", password)])
                if isinstance(reply, ReplyError):
                    return reply
            (reply,) = await link.exchange([command])
            return reply
        finally:
            link.abort()

    def forget_all(self) -> None:
        """Names are resolved, and primaries looked up, again: the server that answers is not the right one any more."""
        for node in list(self._nodes.values()):
            node.pool.drop()
        self._topology.forget()

    def interrupt_waits(self) -> None:
        """Ends the waits for markers, or the next one."""
        self.interrupted = True
        for node in list(self._nodes.values()):
            node.waits.interrupt()

    def close(self) -> None:
        """Closes all connections; calls under way fail."""
        self.interrupted = True
        for node in list(self._nodes.values()):
            for pool in (node.pool, node.waits):
                pool.interrupt()
                pool.drop()

    def abandon(self) -> None:
        """In a forked child: closes its copies of the connections, which are the parent's."""
        for node in list(self._nodes.values()):
            node.pool.drop()
            node.waits.drop()
