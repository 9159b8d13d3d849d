"""A server: its pools of connections, the facts that are known of it, and how it is sent script calls."""

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from broker.connections.allowed import Allowed
from broker.connections.connection import Connection, RedisCommand
from broker.connections.credentials import Login
from broker.connections.endpoint import Endpoint
from broker.connections.error_reply import ErrorReply
from broker.connections.failures import GARBLED, NO_PRIMARY, NOT_REDIS, Failure, cut, refusal
from broker.connections.retrying import silence_s
from broker.connections.server_info import ServerInfo, greet
from broker.connections.url import Address
from broker.protocol import rights, scripts
from broker.protocol.keys import NEVER_THERE
from broker.protocol.script_call import ScriptCall

Limiter = AbstractAsyncContextManager[Any]


class Pool:
    """Connections to one server; each carries one exchange at a time.

    Args:
        opened: opens a connection. Its argument is the moment, on the monotonic clock, until which this may take.
        greet: asks the server what it is, on a new connection.
        limiter: limits the exchanges under way; None: no limit.
        timeout_s: how long the server may be silent after a connection was opened, seconds.
        interrupted: whether exchanges are to fail now. The caller makes it true before it calls `interrupt`, so that
            an exchange that has not begun by then sees it.
    """

    def __init__(
        self,
        *,
        opened: Callable[[float], Awaitable[Connection]],
        greet: Callable[[Connection], Awaitable[None]],
        limiter: Limiter | None,
        timeout_s: float,
        interrupted: Callable[[], bool],
    ) -> None:
        self._opened, self._greet, self._limiter, self._interrupted = opened, greet, limiter, interrupted
        self._timeout_s = timeout_s
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._generation = 0

    async def exchange(self, commands: Sequence[RedisCommand], until: float, wait_s: float = 0.0) -> list[Any]:
        """As `Connection.exchange`, on one of the connections.

        A connection is opened when none is idle; then the server may be silent until `until`, on the monotonic clock.
        """
        if self._limiter is None:
            return await self._exchange(commands, until, wait_s)
        async with self._limiter:
            return await self._exchange(commands, until, wait_s)

    async def _exchange(self, commands: Sequence[RedisCommand], until: float, wait_s: float) -> list[Any]:
        generation = self._generation
        try:
            connection = self._idle.pop()
        except IndexError:  # another thread may have taken the last connection
            connection = None
        if connection is not None and connection.until is not math.inf and connection.until <= time.monotonic():
            connection.abort()  # its login is about to end
            connection = None
        is_new = connection is None
        if connection is None:
            # Outside of the `except` block: an error in it would carry the IndexError along.
            connection = await self._opened(until)
        self._busy.add(connection)
        try:
            if self._interrupted():
                connection.interrupt()
            if is_new:
                connection.be_patient(silence_s(self._timeout_s, until - time.monotonic()))
                await self._greet(connection)
                connection.be_patient(silence_s(self._timeout_s, until - time.monotonic()))
            replies = (
                await self._first(connection, commands, wait_s)
                if is_new
                else await connection.exchange(commands, wait_s)
            )
        except BaseException:
            # The connection broke, or the exchange was cancelled: the rest of a reply may still come.
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
        if generation == self._generation:
            self._idle.append(connection)
        else:
            connection.abort()
        return replies

    async def _first(self, connection: Connection, commands: Sequence[RedisCommand], wait_s: float) -> list[Any]:
        """The first exchange of a connection after the greeting."""
        try:
            replies = await connection.exchange(commands, wait_s)
        except Failure as failure:
            raise cut(failure) from failure
        connection.be_patient(self._timeout_s)
        return replies

    def interrupt(self) -> None:
        """Breaks the connections that are waiting for replies."""
        for connection in list(self._busy):
            connection.interrupt()

    def drop(self) -> None:
        """Closes the connections; a connection in use is closed after its exchange."""
        self._generation += 1
        while self._idle:
            self._idle.pop().abort()


class Server:
    """One server.

    Args:
        endpoint: its address.
        address: what the URL says.
        opened, limiter, timeout_s: as `Pool`.
        closed: whether the client was closed: all exchanges are to fail.
        interrupted: whether the next wait is to end at once.
        on_new: the failure of a connection's first exchange, after a look at the server.
        login: the login of a new connection.

    Attributes:
        endpoint: its address.
        pool: connections for calls that do not block in the server.
        waits: connections for calls that do.
        info: its kind and version, once it was asked.
        known: the scripts that it has.
        allowed: the scripts that this client's user may call.
        calls_functions: whether script calls are called as functions of a library
            (see `broker.protocol.function_library`).
        reads_apart: whether scripts that only read are called by FCALL_RO and EVALSHA_RO, which a user may call who may
            only read the run's keys. Servers before Redis 7 have neither.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        address: Address,
        *,
        opened: Callable[[float], Awaitable[Connection]],
        limiter: Limiter | None,
        timeout_s: float,
        closed: Callable[[], bool],
        interrupted: Callable[[], bool],
        on_new: Callable[[Failure, Endpoint, Address, bool], Awaitable[Failure]],
        login: Callable[[], Awaitable[Login]],
    ) -> None:
        self.endpoint, self._address = endpoint, address
        self._on_new, self._login = on_new, login
        self.info: ServerInfo | None = None
        self.known: set[str] = set()
        self.allowed = Allowed(address.shown)
        self._user: str = ""  # of the newest connection
        self.calls_functions = False
        self.reads_apart = False
        greet = self._greet
        self.pool = Pool(opened=opened, greet=greet, limiter=limiter, timeout_s=timeout_s, interrupted=closed)
        self.waits = Pool(opened=opened, greet=greet, limiter=None, timeout_s=timeout_s, interrupted=interrupted)

    @property
    def supports_shebang(self) -> bool:
        """Whether scripts may begin with a `#!lua` line."""
        return self.info is not None and self.info.supports_shebang

    def may_run(self, calls: Sequence[ScriptCall[Any]]) -> bool:
        """Whether the client's user is known to have the rights that script calls need."""
        known = self.allowed.places
        for call in calls:  # noqa: SIM110 - a generator would cost more than all else here
            if (call.script, call.keys[0]) not in known:
                return False
        return True

    def commands(self, calls: Sequence[ScriptCall[Any]]) -> tuple[list[RedisCommand], list[str]]:
        """The commands of script calls, and the names of the scripts that the first of the commands load."""
        commands: list[RedisCommand] = []
        in_cluster = self.info is not None and self.info.cluster
        reading: frozenset[str] = rights.READING if self.reads_apart else frozenset()
        if self.calls_functions:
            functions = scripts.library().functions
            for call in calls:
                commands += call.before
                keys = _keys_in_cluster(call) if in_cluster else call.keys
                name = "FCALL_RO" if call.script in reading else "FCALL"
                commands.append((name, functions[call.script], len(keys), *keys, *call.args))
            return commands, []
        shebang = self.supports_shebang
        loads = list(dict.fromkeys(call.script for call in calls if call.script not in self.known))
        commands += (("SCRIPT", "LOAD", scripts.load(name, shebang).source) for name in loads)
        for call in calls:
            commands += call.before
            keys = _keys_in_cluster(call) if in_cluster else call.keys
            name = "EVALSHA_RO" if call.script in reading else "EVALSHA"
            commands.append((name, scripts.load(call.script, shebang).sha1, len(keys), *keys, *call.args))
        return commands, loads

    def outcomes(self, calls: Sequence[ScriptCall[Any]], replies: Sequence[Any]) -> list[Any]:
        """Reads the replies of script calls: an error of a command sent ahead of a script is the error of its call."""
        outcomes: list[Any] = []
        start = 0
        for call in calls:
            end = start + len(call.before) + 1
            error = next((reply for reply in replies[start:end] if isinstance(reply, ErrorReply)), None)
            if error is not None:
                if error.code == "NOPERM":  # the user's rights have changed: the next call asks before it is made
                    self.allowed.forget()
                outcomes.append(refusal(error, self._address.shown, call.script, self.supports_shebang))
            else:
                outcomes.append(call.outcome(list(replies[start:end]) if call.with_before else replies[end - 1]))
            start = end
        return outcomes

    def forget_scripts(self) -> None:
        """Another server, or one that was restarted: it has none of the scripts, and its users may be others."""
        self.known.clear()
        self.allowed.forget()

    def drop(self) -> None:
        """As `Pool.drop`."""
        self.pool.drop()
        self.waits.drop()

    async def _greet(self, connection: Connection) -> None:
        login = await self._login()
        connection.until = login.until
        if login.user != self._user:  # with other rights
            self._user = login.user
            self.allowed.forget()
        try:
            info = await greet(connection, self._address, login)
        except Failure as failure:
            judged = await self._on_new(failure, self.endpoint, self._address, self.info is None)
            raise judged from failure
        if self._address.mode == "sentinel" and info.replica:
            raise Failure(NO_PRIMARY, "it is not a primary any more")
        if info != self.info:
            # Another server has this address now; it has none of the scripts.
            self.forget_scripts()
            self.info = info
            self.calls_functions = self.reads_apart = info.supports_shebang


def on_new(failure: Failure, endpoint: Endpoint, address: Address) -> Failure:
    """The failure of the first exchange on a new connection. An answer that no Redis gives is permanent here."""
    if failure.kind is not GARBLED:
        return failure
    tls = "" if address.tls is not None else "; if it speaks TLS, connect with rediss://"
    return Failure(NOT_REDIS, f"what listens at {endpoint} is neither Redis nor Valkey ({failure}){tls}")


def _keys_in_cluster(call: ScriptCall[Any]) -> tuple[str, ...]:
    """The keys of a call, and one key that never exists.

    While a hash slot moves to another node, each of the two nodes has some of a run's keys. A script fails at the
    first key that its node lacks, after it has written others. A call that names several keys, of which one is
    missing, is refused as a whole (`TRYAGAIN`), and is sent again until the slot has moved.
    """
    return (*call.keys, call.keys[0] + NEVER_THERE)
