"""Waiting for a wake marker: a sorted set that a script fills, and that one waiting client takes (BZPOPMIN)."""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from broker.connections.connection import RedisCommand
from broker.connections.endpoint import Endpoint
from broker.connections.error_reply import ErrorReply, lacks_function, refuses_functions
from broker.connections.failures import MOVED, Failure, passes, refusal
from broker.connections.retrying import pause_s
from broker.connections.server import Server
from broker.connections.topology import Topology
from broker.connections.url import Address
from broker.errors import ClientClosed
from broker.protocol.script_call import ScriptCall

log = logging.getLogger(__name__)

#: How long a call that waits on several servers in turn waits on each, seconds.
TURN_S = 0.1


class MarkerWaits(ABC):
    """The waits of a transport: each is made on a connection of its own, and another thread may end it."""

    _address: Address
    _closing: threading.Event | asyncio.Event
    _topology: Topology
    _servers: dict[Endpoint, Server]
    #: Whether the next wait is to end at once.
    _interrupted: bool
    #: How many waits in a row have failed.
    _failed_waits: int

    @abstractmethod
    async def pause(self, seconds: float) -> None:
        """Waits; raises ClientClosed when the transport is closed meanwhile."""

    @abstractmethod
    async def _locate(self, key: str | None, until: float) -> Endpoint:
        """The server of a key (None: any)."""

    @abstractmethod
    def _server_at(self, endpoint: Endpoint) -> Server:
        """A server, whether or not it was asked what it is."""

    @abstractmethod
    def _note(self, failure: Failure) -> None:
        """Makes the next try ask again where the servers are, if the failure does not say so."""

    @abstractmethod
    def _redirect(self, server: Server, error: ErrorReply) -> Endpoint | None:
        """The node that ASK names; None for other errors, or without a cluster. Raises a Failure for MOVED."""

    @abstractmethod
    def _pass(self, error: ErrorReply) -> None:
        """Raises a Failure if another try may succeed."""

    @abstractmethod
    def _use_scripts(self, server: Server) -> None:
        """Calls scripts one by one from here on, until another server has this address."""

    async def wait_marker(self, keys: Sequence[str], timeout_s: float, turn_s: float = TURN_S) -> str | None:
        """As `Transport.wait_marker`."""
        deadline = time.monotonic() + timeout_s
        try:
            groups: dict[tuple[Endpoint, str], list[str]] = {}
            for key in keys:
                # Keys in different slots may not share a command, not even those of one node.
                slot = key.partition("}")[0] if self._topology.has_slots else ""
                groups.setdefault((await self._locate(key, deadline), slot), []).append(key)
            while (left_s := deadline - time.monotonic()) > 0:
                for (endpoint, _), part in groups.items():
                    if self._was_interrupted():
                        return None
                    stay_s = left_s if len(groups) == 1 else min(turn_s, left_s)
                    (reply,) = await self._wait_on(self._server_at(endpoint), part, stay_s)
                    if reply is not None:
                        return reply[0].decode()
        except Failure as failure:
            await self._after_failed_wait(failure, deadline)
        return None

    async def wait_and_execute(
        self, keys: Sequence[str], timeout_s: float, calls: Sequence[ScriptCall[Any]]
    ) -> list[Any] | None:
        """As `Transport.wait_and_execute`."""
        sole = self._topology.sole
        server = None if sole is None else self._servers.get(sole)
        commands, loads = ([], []) if server is None or server.info is None else server.commands(calls)
        if server is None or not commands or loads or not server.may_run(calls):
            await self.wait_marker(keys, timeout_s)
            return None
        if self._was_interrupted():
            return None
        deadline = time.monotonic() + timeout_s
        try:
            _, *replies = await self._wait_on(server, keys, timeout_s, commands)
        except Failure as failure:
            await self._after_failed_wait(failure, deadline)
            return None
        errors = [reply for reply in replies if isinstance(reply, ErrorReply)]
        if server.calls_functions and any(refuses_functions(error) for error in errors):
            self._use_scripts(server)
            return None
        if any(passes(error) or lacks_function(error) or error.code == "NOSCRIPT" for error in errors):
            return None
        return server.outcomes(calls, replies)

    async def _wait_on(
        self, server: Server, keys: Sequence[str], timeout_s: float, then: Sequence[RedisCommand] = ()
    ) -> list[Any]:
        """Waits for a marker on one server, which then executes the other commands at once.

        Returns:
            The reply of BZPOPMIN (None: there was no marker), then the replies of the other commands.
        """
        # Redis reads "0" as "for ever".
        command: RedisCommand = ("BZPOPMIN", *keys, f"{max(timeout_s, 0.001):.3f}")
        try:
            replies = await server.waits.exchange([command, *then], time.monotonic() + timeout_s, timeout_s)
        except Failure as failure:
            raise (failure.at(server.endpoint) if failure.kind.passes else failure) from failure
        if isinstance(reply := replies[0], ErrorReply):
            if self._redirect(server, reply) is not None:
                raise Failure(MOVED, reply.text, stays=True)
            self._pass(reply)
            raise refusal(reply, self._address.shown)
        self._failed_waits = 0
        return replies

    async def _after_failed_wait(self, failure: Failure, deadline: float) -> None:
        """Pauses after a failed wait: the caller claims and waits again, which could be a busy loop."""
        self._note(failure)
        if not failure.kind.passes:
            raise failure.told(self._address.shown) from failure
        log.debug("waiting on %s ended early: %s", self._address.shown, failure)
        if not self._was_interrupted():
            self._failed_waits += 1
            with suppress(ClientClosed):
                await self.pause(min(pause_s(self._failed_waits), max(0.0, deadline - time.monotonic())))

    def _was_interrupted(self) -> bool:
        """Whether this wait is to end. The next wait does not end, unless the client was closed."""
        was, self._interrupted = self._interrupted, self._closing.is_set()
        return was

    def interrupt(self) -> None:
        """As `Transport.interrupt`."""
        self._interrupted = True
        for server in list(self._servers.values()):
            server.waits.interrupt()
