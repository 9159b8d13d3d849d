"""What both transports do: send script calls, judge the answers, send again."""

import asyncio
import logging
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from broker.connections.allowed import run_others
from broker.connections.connection import Connection, RedisCommand
from broker.connections.credentials import Credentials, Login, asked_for
from broker.connections.endpoint import Endpoint
from broker.connections.error_reply import (
    ErrorReply,
    lacks_function,
    redirection,
    refuses_functions,
    refuses_reading_apart,
)
from broker.connections.failures import (
    CLOSED,
    LOGIN,
    MOVED,
    NO_SLOTS,
    NOT_READY,
    OTHER_MODE,
    REPLACED,
    SILENT,
    Failure,
    of_connecting,
    of_reply,
    passes,
    refusal,
    speaks_plainly,
    speaks_tls,
)
from broker.connections.partial_reads import PartialReads
from broker.connections.retrying import Patience, silence_s
from broker.connections.server import Limiter, Server, on_new
from broker.connections.server_info import ServerInfo, refuse_login
from broker.connections.tls_probe import ANSWERS_WITHIN_S, answers_plainly, answers_with_tls
from broker.connections.topology import make_topology
from broker.connections.url import Address
from broker.connections.wake_markers import MarkerWaits
from broker.errors import BrokerError, ClientClosed
from broker.local_server.socket_paths import socket_path
from broker.protocol import scripts
from broker.protocol.script_call import ScriptCall

T = TypeVar("T")

log = logging.getLogger(__name__)

#: How often in a row a server may forget scripts that it was just given.
_MOST_TURNS = 5
#: How long a sentinel, or a node that is asked for the table of slots, may be silent, seconds: there are others.
_ASK_S = 2.0


class Turn(Protocol):
    """Calls of one client that are made one after the other."""

    async def take(self, call: Callable[[], Awaitable[T]]) -> T:
        """Makes a call when its turn has come."""
        ...


class BaseTransport(MarkerWaits):
    """Everything that clients do outside of their process, as coroutines. A blocking client's never suspend.

    Args:
        address: what the URL says.
        timeout_s: how long a server may be silent, seconds.
        retry_for_s: how long to try again before giving up, seconds.
        closing: set when the transport is closed.
        credentials: the user's callable that gives user and password; None: the URL's are used.
        name: of its connections; "": they have none.
    """

    def __init__(
        self,
        address: Address,
        timeout_s: float,
        retry_for_s: float,
        closing: threading.Event | asyncio.Event,
        credentials: Credentials | None = None,
        name: str = "",
    ) -> None:
        self._address, self._credentials, self._name = address, credentials, name
        # The wait for a silent server is not longer than that for one that is away.
        self._timeout_s = silence_s(timeout_s, retry_for_s)
        self._closing = closing
        self._patience = Patience(address.shown, retry_for_s, self._timeout_s, self.pause, self._note)
        self._partial_reads = PartialReads(address.shown)
        self._forget_servers()

    def _forget_servers(self) -> None:
        """Resets the transport to its state before the first call."""
        self._topology = make_topology(self._address)
        self._servers: dict[Endpoint, Server] = {}
        #: Whether the next wait is to end at once.
        self._interrupted = False
        self._failed_waits = 0

    def log_outages_with(self, other: "BaseTransport") -> None:
        """Takes this transport for another one of the same client, which logs each outage once."""
        self._patience.outage = other._patience.outage  # noqa: SLF001 - of the same class

    @abstractmethod
    async def _connected(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> Connection:
        """A new connection; raises Failure."""

    @abstractmethod
    def _limiter(self) -> Limiter | None:
        """Limits how many exchanges with one server are under way; None: no limit."""

    @abstractmethod
    async def _until_closing(self, seconds: float) -> None:
        """Waits for some time, or until the transport is closed."""

    async def pause(self, seconds: float) -> None:
        """Waits; raises ClientClosed when the transport is closed meanwhile."""
        await self._until_closing(seconds)
        self._refuse_when_closed()

    @abstractmethod
    def turn(self) -> Turn:
        """A lock for calls that are made one after the other."""

    @abstractmethod
    def detached(self, call: Coroutine[Any, Any, T]) -> Callable[[], Awaitable[T]]:
        """Begins a call that goes on when its caller is interrupted or cancelled.

        Returns:
            A function that waits for the call's answer, and raises its error. It may be called again.
        """

    @abstractmethod
    async def ask(self, name: str, hook: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Calls the user's hook, and awaits the answer in a client for asyncio.

        Args:
            name: of the argument that the hook was given as.
            hook: the user's function.
            given: the hook's arguments by position.
            named: the hook's arguments by name.
        """

    @abstractmethod
    async def blocking(self, call: Callable[[], T]) -> T:
        """Makes a call that blocks, such as reading a file."""

    async def call(self, call: ScriptCall[T], patience_s: float = math.inf) -> T:
        """Sends one script call; raises its BrokerError, and what `execute` raises. `patience_s`: as `execute`."""
        (value,) = await self.execute((call,), patience_s)
        if isinstance(value, BrokerError):
            raise value
        return value

    async def execute(self, calls: Sequence[ScriptCall[Any]], patience_s: float = math.inf) -> list[Any]:
        """As `Transport.execute`; `patience_s`: as `Patience.persist`."""
        if not calls:
            return []
        failed: Failure | None = None
        since = time.monotonic()
        if (sole := self._topology.sole) is not None:
            # The usual case: there is one server, and it answers.
            try:
                return await self._run(sole, calls, since + min(patience_s, self._patience.retry_for_s))
            except Failure as failure:
                failed = failure
        results: list[Any] = [None] * len(calls)
        await self._finish(calls, results, list(range(len(calls))), patience_s, failed, since)
        return results

    async def execute_each(self, calls: Sequence[ScriptCall[Any]], patience_s: float = math.inf) -> list[Any]:
        """As `Transport.execute_each`; `patience_s`: as `Patience.persist`."""
        results: list[Any] = [None] * len(calls)
        left = list(range(len(calls)))
        try:
            if left:
                await self._finish(calls, results, left, patience_s)
        except BrokerError as error:
            for i in left:
                results[i] = error
        return results

    async def _finish(
        self,
        calls: Sequence[ScriptCall[Any]],
        results: list[Any],
        left: list[int],
        patience_s: float,
        failed: Failure | None = None,
        since: float | None = None,
    ) -> None:
        """Makes the calls whose places are in `left`, puts their results in place, and takes them out of `left`."""

        async def once(until: float) -> None:
            placed, failed = await self._placed(calls, left, until)
            for endpoint, indexes in placed:
                try:
                    answers = await self._run(endpoint, [calls[i] for i in indexes], until)
                except Failure as failure:
                    # `stays`: the failure names the right server. Such a failure must not replace one after which the
                    # client has to ask where the servers are.
                    failed = failure if failed is None or not failure.stays else failed
                    continue
                for i, answer in zip(indexes, answers, strict=True):
                    results[i] = answer
                done = set(indexes)
                left[:] = [i for i in left if i not in done]
            if failed:
                raise failed

        await self._patience.persist(once, failed, since, patience_s)

    async def command(self, *args: str | bytes | int) -> Any:
        """As `Transport.command`."""
        return (await self.pipeline([args]))[0]

    async def pipeline(self, commands: Sequence[Sequence[str | bytes | int]], at: Endpoint | None = None) -> list[Any]:
        """As `Transport.pipeline`; `at` names the server, instead of the first command's first argument."""
        tuples = [tuple(command) for command in commands]

        async def once(until: float) -> list[Any]:
            first = tuples[0][1] if len(tuples[0]) > 1 else ""
            key = str(first, "utf-8", "replace") if isinstance(first, bytes) else str(first)
            return await self._plain(at or await self._locate(key, until), tuples, until)

        return await self._patience.persist(once) if commands else []

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """As `Transport.fetch`."""

        async def once(until: float) -> list[bytes | None]:
            endpoint = await self._locate(keys[0], until)
            return await self._partial_reads.read(keys, lambda commands: self._plain(endpoint, commands, until))

        return await self._patience.persist(once)

    async def server_info(self) -> ServerInfo:
        """As `Transport.server_info`."""

        async def once(until: float) -> ServerInfo:
            server = await self._server(await self._locate(None, until), until)
            assert server.info is not None, "set by `_server`"
            return server.info

        return await self._patience.persist(once)

    async def primaries(self) -> list[Endpoint | None]:
        """The servers that together have all keys, for `pipeline`."""

        async def once(until: float) -> list[Endpoint | None]:
            return await self._topology.primaries(self._ask, until)

        return await self._patience.persist(once)

    def end(self) -> None:
        """Closes all connections; calls under way fail."""
        self._closing.set()
        self.interrupt()
        for server in list(self._servers.values()):
            server.pool.interrupt()
            server.drop()

    # -- servers ---------------------------------------------------------------------------------------------------

    async def _locate(self, key: str | None, until: float) -> Endpoint:
        """The server of a key (None: any)."""
        return await self._topology.locate(key, self._ask, until)

    def _server_at(self, endpoint: Endpoint) -> Server:
        """A server, whether or not it was asked what it is."""
        server = self._servers.get(endpoint)
        if server is None:

            async def opened(until: float) -> Connection:
                return await self._dial(endpoint, self._address, until, self._timeout_s)

            server = self._servers[endpoint] = Server(
                endpoint,
                self._address,
                opened=opened,
                limiter=self._limiter(),
                timeout_s=self._timeout_s,
                closed=self._closing.is_set,
                interrupted=lambda: self._interrupted,
                on_new=self._on_new,
                login=self._login,
            )
        return server

    async def _login(self) -> Login:
        """The login of a new connection; raises Failure."""
        credentials = self._credentials
        if credentials is None:
            return Login(self._address.username, self._address.password, self._name)
        return await asked_for(lambda: self.ask("credentials", credentials), self._name)

    async def _server(self, endpoint: Endpoint, until: float) -> Server:
        """A server, after a first connection told what it is."""
        server = self._server_at(endpoint)
        if server.info is None:
            await self._exchange(server, [("PING",)], until)
        return server

    async def _dial(self, endpoint: Endpoint, address: Address, until: float, timeout_s: float) -> Connection:
        """A new connection; raises Failure. The server may be silent for the time-out, but not beyond `until`."""
        self._refuse_when_closed()
        if address.mode == "fakeredis":
            from broker.connections.fake import FakeConnection

            return FakeConnection(address.path, self.pause)
        timeout_s = silence_s(timeout_s, until - time.monotonic())
        try:
            with socket_path(endpoint.path) as path:
                return await self._connected(endpoint, path, address, timeout_s)
        except Failure as failure:
            is_silent = failure.kind is SILENT and address.tls is not None
            if is_silent and await answers_plainly(partial(self._probed, endpoint), address):
                raise speaks_plainly() from failure
            raise
        except OSError as error:  # the directory of the socket does not exist
            raise of_connecting(error, path=endpoint.path, is_tls=False, timeout_s=timeout_s) from error

    async def _on_new(self, failure: Failure, endpoint: Endpoint, address: Address, is_first: bool = True) -> Failure:
        """The failure of a connection's first exchange.

        If it is the first exchange with the server, this looks whether the server speaks TLS instead. It does not where
        the client itself has broken the connection off: the server does not answer a TLS handshake, which takes time.
        """
        is_plain = is_first and address.tls is None and not endpoint.path
        is_plain = is_plain and not (self._interrupted or self._closing.is_set())
        if failure.kind is CLOSED and is_plain and await answers_with_tls(partial(self._probed, endpoint), address):
            return speaks_tls()
        return self._replaced(on_new(failure, endpoint, address))

    def _replaced(self, failure: Failure) -> Failure:
        """The failure of a login. Where the user's credentials gave it, it passes, as the next ones may do."""
        if failure.kind is LOGIN and self._credentials is not None:
            return Failure(REPLACED, failure.text)
        return failure

    async def _probed(self, endpoint: Endpoint, address: Address) -> Connection:
        """A connection that is used only to learn whether the server speaks TLS."""
        return await self._connected(endpoint, "", address, ANSWERS_WITHIN_S)

    def _refuse_when_closed(self) -> None:
        if self._closing.is_set():
            raise ClientClosed(url=self._address.shown)

    async def _exchange(
        self, server: Server, commands: Sequence[RedisCommand], until: float, asking: bool = False
    ) -> list[Any]:
        """Makes one round trip; a broken connection raises a Failure that passes.

        With `asking`, a node that is still receiving the slot executes the commands.
        """
        try:
            if asking:
                both = [part for command in commands for part in (("ASKING",), command)]
                return (await server.pool.exchange(both, until))[1::2]
            return await server.pool.exchange(commands, until)
        except Failure as failure:
            server.drop()
            raise (failure.at(server.endpoint) if failure.kind.passes else failure) from failure

    async def _ask(self, endpoint: Endpoint, command: RedisCommand, until: float) -> Any:
        """Sends one command on its own connection, to a sentinel or to any node of a cluster."""
        address = self._address
        if address.mode == "sentinel":
            login = Login(address.sentinel_username, address.sentinel_password, self._name)
            address = replace(address, username=login.user, password=login.password, db=0)
        else:
            login = await self._login()
        connection = await self._dial(endpoint, address, until, min(self._timeout_s, _ASK_S))
        logging_in = login.commands(0)
        try:
            *logged_in, reply = await connection.exchange([*logging_in, command])
            refuse_login(logging_in, logged_in)
        except Failure as failure:
            judged = await self._on_new(failure, endpoint, address)
            raise failure if self._address.mode == "sentinel" and judged.kind is REPLACED else judged from failure
        finally:
            connection.abort()
        return reply

    def _note(self, failure: Failure) -> None:
        """Makes the next try ask again where the servers are, except after MOVED, which has just said so."""
        if not failure.stays:
            self._topology.forget()

    # -- one try ---------------------------------------------------------------------------------------------------

    async def _placed(
        self, calls: Sequence[ScriptCall[Any]], left: list[int], until: float
    ) -> tuple[list[tuple[Endpoint, list[int]]], Failure | None]:
        """The script calls that are left, by the server of their run, and the failure if a run has no server now."""
        if not self._topology.has_slots:
            return [(await self._locate(None, until), list(left))], None
        groups: dict[Endpoint, list[int]] = {}
        failed: Failure | None = None
        for i in left:
            try:
                groups.setdefault(await self._locate(calls[i].keys[0], until), []).append(i)
            except Failure as failure:
                if failure.kind is not NO_SLOTS:
                    raise
                failed = failure
        return list(groups.items()), failed

    async def _run(
        self, endpoint: Endpoint, calls: Sequence[ScriptCall[Any]], until: float, asking: bool = False
    ) -> list[Any]:
        """Sends script calls to one server, after the scripts that it may lack.

        Returns:
            For each script call its value, or its error.
        """
        server = self._servers.get(endpoint)
        if server is None or server.info is None:
            server = await self._server(endpoint, until)
        if not server.may_run(calls):
            run = partial(self._run, endpoint, until=until, asking=asking)
            if refused := await server.allowed.ask(calls, run, can_ask=server.supports_shebang):
                return await run_others(calls, run, refused)
        for _ in range(_MOST_TURNS):
            commands, loads = server.commands(calls)
            replies = await self._exchange(server, commands, until, asking)
            errors = [reply for reply in replies if type(reply) is ErrorReply]
            if not errors and len(replies) == len(calls):
                return [call.outcome(reply) for call, reply in zip(calls, replies, strict=True)]
            if server.info is not None and server.info.sentinel:
                raise Failure(OTHER_MODE, "it is a sentinel; connect with redis+sentinel://host:port/service")
            if self._calls_otherwise(server, errors):
                continue
            if server.calls_functions and any(lacks_function(error) for error in errors):
                server.forget_scripts()
                await self._load_functions(server, until)
                continue
            self._check_loads(server, loads, replies)
            if any(error.code == "NOSCRIPT" for error in errors):
                # Restarted, flushed or newly promoted. Calls that were executed run again: they are replay-safe.
                server.forget_scripts()
                continue
            for error in errors:
                if (owner := self._redirect(server, error)) is not None:
                    return await self._run(owner, calls, until, asking=True)
                self._pass(error)
            server.known.update(loads)
            return server.outcomes(calls, replies[len(loads) :])
        raise Failure(NOT_READY, f"{endpoint} forgets its scripts at once")

    def _check_loads(self, server: Server, loads: Sequence[str], replies: Sequence[Any]) -> None:
        """Raises the error of a server that refuses for good to load a script."""
        for name, reply in zip(loads, replies, strict=False):
            if isinstance(reply, ErrorReply) and not passes(reply) and redirection(reply) is None:
                raise refusal(reply, self._address.shown, name, server.supports_shebang)

    async def _plain(
        self, endpoint: Endpoint, commands: Sequence[RedisCommand], until: float, asking: bool = False
    ) -> list[Any]:
        """Sends plain commands to one server; raises the first error."""
        server = await self._server(endpoint, until)
        replies = await self._exchange(server, commands, until, asking)
        for reply in replies:
            if isinstance(reply, ErrorReply):
                if (owner := self._redirect(server, reply)) is not None:
                    return await self._plain(owner, commands, until, asking=True)
                self._pass(reply)
                raise refusal(reply, self._address.shown)
        return replies

    async def _load_functions(self, server: Server, until: float) -> None:
        """Loads the function library; when the server refuses it, scripts are called one by one."""
        (reply,) = await self._exchange(server, [("FUNCTION", "LOAD", scripts.library().source)], until)
        if not isinstance(reply, ErrorReply) or "already exists" in reply.text:
            return
        if reply.code != "READONLY":  # a replica may still run scripts that only read
            self._pass(reply)
        self._use_scripts(server)

    def _calls_otherwise(self, server: Server, errors: Sequence[ErrorReply]) -> bool:
        """Whether errors say that this server, or the user, needs other commands for script calls from here on."""
        if server.reads_apart and any(refuses_reading_apart(error) for error in errors):
            server.reads_apart = False
        elif server.calls_functions and any(refuses_functions(error) for error in errors):
            self._use_scripts(server)
        else:
            return False
        return True

    def _use_scripts(self, server: Server) -> None:
        """Calls scripts one by one from here on, until another server has this address."""
        log.debug("%s takes no functions, scripts are used", server.endpoint)
        server.calls_functions = False

    def _redirect(self, server: Server, error: ErrorReply) -> Endpoint | None:
        """The node that ASK names; None for other errors, or without a cluster. Raises a Failure for MOVED."""
        to = redirection(error)
        if to is None or (owner := self._topology.moved(to, server.endpoint)) is None:
            return None
        if not to.asking:
            raise Failure(MOVED, error.text, stays=True)
        return owner

    def _pass(self, error: ErrorReply) -> None:
        """Raises a Failure if another try may succeed."""
        if self._credentials is not None and (failure := of_reply(error)) is not None and failure.kind is LOGIN:
            for server in list(self._servers.values()):
                server.drop()  # the login of these connections has ended
            raise self._replaced(failure)
        if passes(error):
            # This server is not the right one any more: names are resolved again for new connections.
            for server in list(self._servers.values()):
                server.pool.drop()
            raise of_reply(error) or Failure(NOT_READY, error.text)
