"""Sends operations and judges the answers: scripts, redirections, waits. Does no I/O itself; both clients use it."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from broker import scripts
from broker.connections.link import Command, LinkLost
from broker.connections.nodes import Node, Nodes, Sockets
from broker.connections.replies import ReplyError, passes, redirection, refusal
from broker.connections.retrying import Again, Patience, pause_s
from broker.connections.server import ServerInfo
from broker.connections.topology import make_topology
from broker.connections.url import Address, Endpoint
from broker.errors import BrokerError, ServerUnavailable
from broker.operation import Operation

log = logging.getLogger("broker")

#: How often in a row a server may forget scripts that it was just given.
_MOST_TURNS = 5
#: How long a call that waits on several servers in turns stays with one, seconds.
_TURN_S = 0.1


class Core:
    """The transport without its sockets.

    Args:
        address: what the URL says.
        sockets: makes connections.
        timeout_s: how long a server may be silent, seconds.
        retry_for_s: how long to try again before giving up, seconds.
    """

    def __init__(self, address: Address, sockets: Sockets, timeout_s: float, retry_for_s: float) -> None:
        self._address = address
        self._topology = make_topology(address)
        self._sockets = sockets
        self._nodes = Nodes(address, self._topology, sockets, timeout_s)
        self._patience = Patience(address.shown, retry_for_s, sockets.pause)
        self._failed_waits = 0

    async def execute(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """As `Transport.execute`."""
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

        if operations:
            await self._patience.persist(once)
        return results

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """As `Transport.pipeline`. All keys must be on the server of the first command's first argument."""

        async def once() -> list[Any]:
            first = commands[0][1] if len(commands[0]) > 1 else ""
            key = str(first, "utf-8", "replace") if isinstance(first, bytes) else str(first)
            node = await self._nodes.node(await self._nodes.locate(key))
            return await self._plain(node, commands)

        return await self._patience.persist(once) if commands else []

    async def wait_marker(self, keys: Sequence[str], timeout_s: float) -> str | None:
        """As `Transport.wait_marker`."""
        deadline = time.monotonic() + timeout_s
        try:
            groups: dict[tuple[Endpoint, str], list[str]] = {}
            for key in keys:
                # Keys in different slots may not share a command, not even those of one node.
                slot = key.partition("}")[0] if self._topology.has_slots else ""
                groups.setdefault((await self._nodes.locate(key), slot), []).append(key)
            while (left_s := deadline - time.monotonic()) > 0:
                for (endpoint, _), part in groups.items():
                    if self._nodes.interrupted:
                        self._nodes.interrupted = False
                        return None
                    turn_s = left_s if len(groups) == 1 else min(_TURN_S, left_s)
                    if (key := await self._wait_on(endpoint, part, turn_s)) is not None:
                        return key
            return None
        except Again as again:
            # The caller looks for work now and comes back; without a pause that could be a busy loop.
            log.debug("waiting on %s ended early: %s", self._address.shown, again)
            if self._nodes.interrupted:
                self._nodes.interrupted = False
                return None
            self._failed_waits = min(self._failed_waits + 1, 10)
            with suppress(ServerUnavailable):  # closed meanwhile
                await self._sockets.pause(min(pause_s(self._failed_waits), max(0.0, deadline - time.monotonic())))
            return None

    async def server_info(self) -> ServerInfo:
        """As `Transport.server_info`."""

        async def once() -> ServerInfo:
            node = await self._nodes.node(await self._nodes.locate(None))
            assert node.info is not None, "set by `node`"
            return node.info

        return await self._patience.persist(once)

    def interrupt(self) -> None:
        """As `Transport.interrupt`."""
        self._nodes.interrupt_waits()

    def close(self) -> None:
        """Ends calls under way and closes all connections."""
        self._nodes.close()

    def abandon(self) -> None:
        """In a forked child: leaves the parent's connections alone."""
        self._nodes.abandon()

    # -- one try ---------------------------------------------------------------------------------------------------

    async def _placed(self, operations: Sequence[Operation[Any]], left: list[int]) -> list[tuple[Endpoint, list[int]]]:
        """The operations that are left, by the server of their run."""
        if not self._topology.has_slots:
            return [(await self._nodes.locate(None), list(left))]
        groups: dict[Endpoint, list[int]] = {}
        for i in left:
            groups.setdefault(await self._nodes.locate(operations[i].keys[0]), []).append(i)
        return list(groups.items())

    async def _run(self, endpoint: Endpoint, operations: Sequence[Operation[Any]], asking: bool = False) -> list[Any]:
        """Sends operations to one server, with the scripts that it may lack in front.

        Returns:
            For each operation what it parsed, or its error.
        """
        node = await self._nodes.node(endpoint)
        for _ in range(_MOST_TURNS):
            commands, loads = self._commands(node, operations)
            replies = await self._nodes.exchange(node, commands, asking)
            errors = [reply for reply in replies if isinstance(reply, ReplyError)] if any_error(replies) else []
            if any(error.code == "NOSCRIPT" for error in errors):
                # Restarted, flushed or newly promoted. What ran already in this pipeline runs again: replay-safe.
                node.known.clear()
                continue
            for error in errors:
                if (owner := self._redirect(node, error)) is not None:
                    return await self._run(owner, operations, asking=True)
                self._pass(error)
            for name, reply in zip(loads, replies, strict=False):
                if isinstance(reply, ReplyError):
                    raise refusal(reply, self._address.shown, name, self._shebang(node))
                node.known.add(name)
            return self._results(node, operations, replies[len(loads) :])
        raise Again(f"{endpoint} forgets its scripts at once")

    async def _plain(self, node: Node, commands: Sequence[Command], asking: bool = False) -> list[Any]:
        """Sends plain commands to one server; raises the first error."""
        replies = await self._nodes.exchange(node, commands, asking)
        for reply in replies:
            if isinstance(reply, ReplyError):
                if (owner := self._redirect(node, reply)) is not None:
                    return await self._plain(await self._nodes.node(owner), commands, asking=True)
                self._pass(reply)
                raise refusal(reply, self._address.shown)
        return replies

    def _commands(self, node: Node, operations: Sequence[Operation[Any]]) -> tuple[list[Command], list[str]]:
        """The pipeline of some operations, and the scripts that its first commands load."""
        shebang = self._shebang(node)
        loads = list(dict.fromkeys(op.script for op in operations if op.script not in node.known))
        commands: list[Command] = [("SCRIPT", "LOAD", scripts.load(name, shebang).source) for name in loads]
        for operation in operations:
            sha1 = scripts.load(operation.script, shebang).sha1
            commands.extend(operation.before)
            commands.append(("EVALSHA", sha1, len(operation.keys), *operation.keys, *operation.args))
        return commands, loads

    def _results(self, node: Node, operations: Sequence[Operation[Any]], replies: list[Any]) -> list[Any]:
        """Reads the replies of operations: an error of a command sent ahead of a script is the operation's."""
        results: list[Any] = []
        start = 0
        for operation in operations:
            end = start + len(operation.before) + 1
            error = next((reply for reply in replies[start:end] if isinstance(reply, ReplyError)), None)
            if error is not None:
                results.append(refusal(error, self._address.shown, operation.script, self._shebang(node)))
            else:
                try:
                    results.append(operation.parse(replies[end - 1]))
                except BrokerError as problem:
                    results.append(problem)
            start = end
        return results

    async def _wait_on(self, endpoint: Endpoint, keys: Sequence[str], timeout_s: float) -> str | None:
        """Waits for a marker on one server; the key that had one, or None."""
        node = await self._nodes.node(endpoint)
        # Redis reads "0" as "for ever".
        command: Command = ("BZPOPMIN", *keys, f"{max(timeout_s, 0.001):.3f}")
        try:
            (reply,) = await node.waits.exchange([command], timeout_s)
        except LinkLost as error:
            raise Again(f"{endpoint}: {error}") from error
        if isinstance(reply, ReplyError):
            if self._redirect(node, reply) is not None:
                raise Again(reply.text)
            self._pass(reply)
            raise refusal(reply, self._address.shown)
        self._failed_waits = 0
        return None if reply is None else reply[0].decode()

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
            self._nodes.forget_all()
            raise Again(error.text, refusal(error, self._address.shown))

    def _shebang(self, node: Node) -> bool:
        return node.info is not None and node.info.supports_shebang


def any_error(replies: list[Any]) -> bool:
    """Whether one of the replies is an error."""
    return any(isinstance(reply, ReplyError) for reply in replies)
