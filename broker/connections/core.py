"""What both clients do: send operations, judge the answers, send again."""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError

from broker import scripts
from broker.connections.calls import commands_of, outcomes_of
from broker.connections.link import Command, Link, LinkLost, NotRedis, unreachable
from broker.connections.nodes import Gate, Node, not_redis
from broker.connections.paths import socket_path
from broker.connections.replies import ReplyError, lacks_function, passes, redirection, refusal, refuses_functions
from broker.connections.retrying import Again, Patience, pause_s
from broker.connections.server import ServerInfo
from broker.connections.topology import make_topology
from broker.connections.url import Address, Endpoint
from broker.errors import ClientClosed
from broker.operation import Operation

log = logging.getLogger("broker")

#: How often in a row a server may forget scripts that it was just given.
_MOST_TURNS = 5
#: How long a call that waits on several servers in turns stays with one, seconds.
TURN_S = 0.1
#: How long a sentinel, or a node that is asked where the others are, may be silent, seconds: there are more to ask.
_ASK_S = 2.0


class Core(ABC):
    """The calls of a transport, as coroutines. Those of the synchronous client never suspend (`run_blocking`).

    Args:
        address: what the URL says.
        timeout_s: how long a server may be silent, seconds.
        retry_for_s: how long to try again before giving up, seconds.
        closing: set when the transport is closed.
    """

    def __init__(
        self, address: Address, timeout_s: float, retry_for_s: float, closing: threading.Event | asyncio.Event
    ) -> None:
        self._address = address
        self._topology = make_topology(address)
        self._timeout_s = timeout_s
        self._closing = closing
        self._patience = Patience(address.shown, retry_for_s, timeout_s, self.pause)
        self._nodes: dict[Endpoint, Node] = {}
        #: Whether the next wait is to end at once.
        self._interrupted = False
        self._failed_waits = 0

    @abstractmethod
    async def _connected(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> Link:
        """A new connection, logged in; raises what redis-py raises."""

    @abstractmethod
    def _gate(self) -> Gate | None:
        """What limits the exchanges with one server at a time, if anything does."""

    @abstractmethod
    async def _until_closing(self, seconds: float) -> None:
        """Waits for some time, or until the transport is closed."""

    async def pause(self, seconds: float) -> None:
        """Waits; raises ClientClosed when the transport is closed meanwhile."""
        await self._until_closing(seconds)
        self._refuse_when_closed()

    async def execute(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """As `Transport.execute`."""
        if not operations:
            return []
        failed: Again | None = None
        since = time.monotonic()
        if (sole := self._topology.sole) is not None:
            # As nearly all calls go: there is one server, and it answers.
            try:
                return await self._run(sole, operations)
            except Again as again:
                failed = again
        results: list[Any] = [None] * len(operations)
        left = list(range(len(operations)))

        async def once() -> None:
            again: Again | None = None
            for endpoint, indexes in await self._placed(operations, left):
                try:
                    answers = await self._run(endpoint, [operations[i] for i in indexes])
                except Again as error:
                    again = error
                    continue
                for i, answer in zip(indexes, answers, strict=True):
                    results[i] = answer
                done = set(indexes)
                left[:] = [i for i in left if i not in done]
            if again:
                raise again

        await self._patience.persist(once, failed, since)
        return results

    async def command(self, *args: str | bytes | int) -> Any:
        """As `Transport.command`."""
        return (await self.pipeline([args]))[0]

    async def pipeline(self, commands: Sequence[Sequence[str | bytes | int]], at: Endpoint | None = None) -> list[Any]:
        """As `Transport.pipeline`; `at` names the server, instead of the first command's first argument."""
        tuples = [tuple(command) for command in commands]

        async def once() -> list[Any]:
            first = tuples[0][1] if len(tuples[0]) > 1 else ""
            key = str(first, "utf-8", "replace") if isinstance(first, bytes) else str(first)
            return await self._plain(at or await self._locate(key), tuples)

        return await self._patience.persist(once) if commands else []

    async def wait_marker(self, keys: Sequence[str], timeout_s: float, turn_s: float = TURN_S) -> str | None:
        """As `Transport.wait_marker`."""
        deadline = time.monotonic() + timeout_s
        try:
            groups: dict[tuple[Endpoint, str], list[str]] = {}
            for key in keys:
                # Keys in different slots may not share a command, not even those of one node.
                slot = key.partition("}")[0] if self._topology.has_slots else ""
                groups.setdefault((await self._locate(key), slot), []).append(key)
            while (left_s := deadline - time.monotonic()) > 0:
                for (endpoint, _), part in groups.items():
                    if self._was_interrupted():
                        return None
                    stay_s = left_s if len(groups) == 1 else min(turn_s, left_s)
                    (reply,) = await self._wait_on(self._node_at(endpoint), part, stay_s)
                    if reply is not None:
                        return reply[0].decode()
        except Again as again:
            await self._after_failed_wait(again, deadline)
        return None

    async def wait_and_execute(
        self, keys: Sequence[str], timeout_s: float, operations: Sequence[Operation[Any]]
    ) -> list[Any] | None:
        """As `Transport.wait_and_execute`."""
        sole = self._topology.sole
        node = None if sole is None else self._nodes.get(sole)
        commands, loads = ([], []) if node is None or node.info is None else commands_of(node, operations)
        if node is None or not commands or loads:
            await self.wait_marker(keys, timeout_s)
            return None
        if self._was_interrupted():
            return None
        deadline = time.monotonic() + timeout_s
        try:
            _, *replies = await self._wait_on(node, keys, timeout_s, commands)
        except Again as again:
            await self._after_failed_wait(again, deadline)
            return None
        errors = [reply for reply in replies if isinstance(reply, ReplyError)]
        if node.calls_functions and any(refuses_functions(error) for error in errors):
            self._use_scripts(node)
            return None
        if any(passes(error) or lacks_function(error) or error.code == "NOSCRIPT" for error in errors):
            return None
        return outcomes_of(operations, replies, node, self._address.shown)

    async def _after_failed_wait(self, again: Again, deadline: float) -> None:
        """The caller looks for work now and comes back; without a pause that could be a busy loop."""
        log.debug("waiting on %s ended early: %s", self._address.shown, again)
        if not self._was_interrupted():
            self._topology.forget()
            self._failed_waits += 1
            with suppress(ClientClosed):
                await self.pause(min(pause_s(self._failed_waits), max(0.0, deadline - time.monotonic())))

    async def server_info(self) -> ServerInfo:
        """As `Transport.server_info`."""

        async def once() -> ServerInfo:
            node = await self._node(await self._locate(None))
            assert node.info is not None, "set by `_node`"
            return node.info

        return await self._patience.persist(once)

    async def primaries(self) -> list[Endpoint | None]:
        """The servers that together have all keys, for `pipeline`."""

        async def once() -> list[Endpoint | None]:
            try:
                return await self._topology.primaries(self._ask)
            except LinkLost as error:
                raise Again(str(error)) from error

        return await self._patience.persist(once)

    def interrupt(self) -> None:
        """As `Transport.interrupt`."""
        self._interrupted = True
        for node in list(self._nodes.values()):
            node.waits.interrupt()

    def end(self) -> None:
        """Closes all connections; calls under way fail."""
        self._closing.set()
        self.interrupt()
        for node in list(self._nodes.values()):
            node.pool.interrupt()
            node.drop()

    def abandon(self) -> None:
        """In a forked child: closes its copies of the connections, which are the parent's."""
        for node in list(self._nodes.values()):
            node.drop()

    # -- servers ---------------------------------------------------------------------------------------------------

    async def _locate(self, key: str | None) -> Endpoint:
        """The server of a key (None: any)."""
        try:
            return await self._topology.locate(key, self._ask)
        except LinkLost as error:
            raise Again(str(error)) from error

    def _node_at(self, endpoint: Endpoint) -> Node:
        """A server, whether or not it was asked what it is."""
        node = self._nodes.get(endpoint)
        if node is None:

            async def dial(to: Endpoint) -> Link:
                return await self._dial(to, self._address, self._timeout_s)

            node = self._nodes[endpoint] = Node(
                endpoint, self._address, dial, self._gate(), self._closing.is_set, lambda: self._interrupted
            )
        return node

    async def _node(self, endpoint: Endpoint) -> Node:
        """A server, after a first connection told what it is."""
        node = self._node_at(endpoint)
        if node.info is None:
            await self._exchange(node, [("PING",)])
        return node

    async def _dial(self, endpoint: Endpoint, address: Address, timeout_s: float) -> Link:
        """A new connection; raises LinkLost, ReplyError (logging in failed), or what is to be told."""
        self._refuse_when_closed()
        if address.mode == "fakeredis":
            from broker.connections.fake import FakeLink

            return FakeLink(address.path, self.pause)
        try:
            with socket_path(endpoint.path) as path:
                return await self._connected(endpoint, path, address, timeout_s)
        except (RedisError, OSError) as error:
            problem = unreachable(error, address, timeout_s)
            raise not_redis(problem, endpoint, address) if isinstance(problem, NotRedis) else problem from error

    def _refuse_when_closed(self) -> None:
        if self._closing.is_set():
            raise ClientClosed(url=self._address.shown)

    async def _exchange(self, node: Node, commands: Sequence[Command], asking: bool = False) -> list[Any]:
        """One round trip; a broken connection asks for another try, and for a new look at where the keys are.

        With `asking`, each command is let through by a node that is still being given the slot.
        """
        try:
            if asking:
                both = [part for command in commands for part in (("ASKING",), command)]
                return (await node.pool.exchange(both))[1::2]
            return await node.pool.exchange(commands)
        except (LinkLost, NotRedis) as error:
            node.drop()
            self._topology.forget()
            raise Again(f"{node.endpoint}: {error}") from error

    async def _ask(self, endpoint: Endpoint, command: Command) -> Any:
        """One command on a connection of its own: to a sentinel, or a node of a cluster that may own nothing."""
        address = self._address
        if address.mode == "sentinel":
            user, password = address.sentinel_username, address.sentinel_password
            address = replace(address, username=user, password=password, db=0)
        try:
            link = await self._dial(endpoint, address, min(self._timeout_s, _ASK_S))
        except ReplyError as error:
            return error
        try:
            return (await link.exchange([command]))[0]
        finally:
            link.abort()

    def _was_interrupted(self) -> bool:
        """Whether this wait is to end; the next one is not, unless the client was closed."""
        was, self._interrupted = self._interrupted, self._closing.is_set()
        return was

    # -- one try ---------------------------------------------------------------------------------------------------

    async def _placed(self, operations: Sequence[Operation[Any]], left: list[int]) -> list[tuple[Endpoint, list[int]]]:
        """The operations that are left, by the server of their run."""
        if not self._topology.has_slots:
            return [(await self._locate(None), list(left))]
        groups: dict[Endpoint, list[int]] = {}
        for i in left:
            groups.setdefault(await self._locate(operations[i].keys[0]), []).append(i)
        return list(groups.items())

    async def _run(self, endpoint: Endpoint, operations: Sequence[Operation[Any]], asking: bool = False) -> list[Any]:
        """Sends operations to one server, with the scripts that it may lack in front.

        Returns:
            For each operation what it parsed, or its error.
        """
        node = self._nodes.get(endpoint)
        if node is None or node.info is None:
            node = await self._node(endpoint)
        for _ in range(_MOST_TURNS):
            commands, loads = commands_of(node, operations)
            replies = await self._exchange(node, commands, asking)
            errors = [reply for reply in replies if type(reply) is ReplyError]
            if not errors and len(replies) == len(operations):
                return [operation.outcome(reply) for operation, reply in zip(operations, replies, strict=True)]
            if node.calls_functions and any(refuses_functions(error) for error in errors):
                self._use_scripts(node)
                continue
            if node.calls_functions and any(lacks_function(error) for error in errors):
                await self._load_functions(node)
                continue
            for name, reply in zip(loads, replies, strict=False):
                if isinstance(reply, ReplyError) and not passes(reply) and redirection(reply) is None:
                    raise refusal(reply, self._address.shown, name, node.supports_shebang)
            if any(error.code == "NOSCRIPT" for error in errors):
                # Restarted, flushed or newly promoted. What ran already in this pipeline runs again: replay-safe.
                node.known.clear()
                continue
            for error in errors:
                if (owner := self._redirect(node, error)) is not None:
                    return await self._run(owner, operations, asking=True)
                self._pass(error)
            node.known.update(loads)
            return outcomes_of(operations, replies[len(loads) :], node, self._address.shown)
        raise Again(f"{endpoint} forgets its scripts at once")

    async def _plain(self, endpoint: Endpoint, commands: Sequence[Command], asking: bool = False) -> list[Any]:
        """Sends plain commands to one server; raises the first error."""
        node = await self._node(endpoint)
        replies = await self._exchange(node, commands, asking)
        for reply in replies:
            if isinstance(reply, ReplyError):
                if (owner := self._redirect(node, reply)) is not None:
                    return await self._plain(owner, commands, asking=True)
                self._pass(reply)
                raise refusal(reply, self._address.shown)
        return replies

    async def _load_functions(self, node: Node) -> None:
        """Gives a server the function library; where it may not have it, scripts are called one by one."""
        (reply,) = await self._exchange(node, [("FUNCTION", "LOAD", scripts.library().source)])
        if not isinstance(reply, ReplyError) or "already exists" in reply.text:
            return
        if reply.code != "READONLY":  # a replica may still run scripts that only read
            self._pass(reply)
        self._use_scripts(node)

    def _use_scripts(self, node: Node) -> None:
        """From here on, until another server has its place, scripts are called one by one."""
        log.debug("%s takes no functions, scripts are used", node.endpoint)
        node.calls_functions = False

    async def _wait_on(
        self, node: Node, keys: Sequence[str], timeout_s: float, then: Sequence[Command] = ()
    ) -> list[Any]:
        """Waits for a marker on one server, which then executes other commands at once.

        Returns:
            The reply of BZPOPMIN (None: there was no marker) and those of the others.
        """
        # Redis reads "0" as "for ever".
        command: Command = ("BZPOPMIN", *keys, f"{max(timeout_s, 0.001):.3f}")
        try:
            replies = await node.waits.exchange([command, *then], timeout_s)
        except (LinkLost, NotRedis) as error:
            raise Again(f"{node.endpoint}: {error}") from error
        if isinstance(reply := replies[0], ReplyError):
            if self._redirect(node, reply) is not None:
                raise Again(reply.text)
            self._pass(reply)
            raise refusal(reply, self._address.shown)
        self._failed_waits = 0
        return replies

    def _redirect(self, node: Node, error: ReplyError) -> Endpoint | None:
        """Follows MOVED with another try; the node that ASK names; None for other errors, and without a cluster."""
        to = redirection(error)
        if to is None or (owner := self._topology.moved(to, node.endpoint)) is None:
            return None
        if not to.asking:
            raise Again(error.text)
        return owner

    def _pass(self, error: ReplyError) -> None:
        """Asks for another try where that may help."""
        if passes(error):
            # Names are resolved, and primaries looked up, again: this server is not the right one any more.
            for node in list(self._nodes.values()):
                node.pool.drop()
            self._topology.forget()
            raise Again(error.text, refusal(error, self._address.shown))
