"""`fakeredis://name`: a server inside this process, for tests. All users of a name share it."""

import importlib
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from broker.connections.connection import RedisCommand, packed
from broker.connections.error_reply import ErrorReply
from broker.connections.failures import CLOSED, Failure
from broker.connections.server_info import ServerInfo
from broker.errors import ServerUnavailable, UnsupportedServer

#: The interval at which a waiting call looks for a marker, seconds: fakeredis' blocking calls stop the event loop.
_LOOK_EVERY_S = 0.002
#: The interval of a call that waits for longer than `_LONG_S`, as many heartbeats do at once, seconds.
_LOOK_AT_TIMES_S, _LONG_S = 0.05, 6.0
_VERSION = (7, 0)

_servers: dict[str, Any] = {}
_lock = threading.Lock()


def _server(name: str) -> Any:
    try:
        import fakeredis

        # fakeredis needs it to run Lua, and says so only when a script is called.
        importlib.import_module("lupa")
    except ImportError:
        raise UnsupportedServer(
            url=f"fakeredis://{name}", problem="it needs fakeredis: pip install 'fakeredis[lua]'"
        ) from None
    with _lock:
        if name not in _servers:
            _servers[name] = fakeredis.FakeServer(version=_VERSION)
        return _servers[name]


def forget_server(name: str) -> None:
    """Deletes the server of a name, with its data."""
    with _lock:
        _servers.pop(name, None)


class FakeConnection:
    """A connection to a server in this process."""

    def __init__(self, name: str, pause: Callable[[float], Awaitable[None]]) -> None:
        server = _server(name)  # says which package is missing; the import below would not
        import fakeredis

        self.until = math.inf
        self.info: ServerInfo | None = ServerInfo("fakeredis", (*_VERSION, 0), supports_shebang=False)
        self._pause = pause
        self._interrupted = False
        client: Any = fakeredis.FakeRedis(server=server, protocol=2)
        self._connection: Any = client.connection_pool.get_connection()

    async def exchange(self, commands: Sequence[RedisCommand], wait_s: float = 0.0) -> list[Any]:
        """As `Connection.exchange`."""
        packed(commands)  # refuses values that cannot be sent
        if wait_s:
            return [await self._wait(commands[0], wait_s), *map(self._call, commands[1:])]
        return [self._call(command) for command in commands]

    def _call(self, command: RedisCommand) -> Any:
        from redis.exceptions import ResponseError

        try:
            self._connection.send_command(*command)
            return self._connection.read_response()
        except ResponseError as error:
            return ErrorReply(_text(error))

    async def _wait(self, command: RedisCommand, wait_s: float) -> Any:
        """Does BZPOPMIN by polling."""
        keys = command[1:-1]
        deadline = time.monotonic() + wait_s
        every_s = _LOOK_EVERY_S if wait_s <= _LONG_S else _LOOK_AT_TIMES_S
        while not self._interrupted:
            for key in keys:
                found = self._call(("ZPOPMIN", key))
                if found:
                    return found if isinstance(found, ErrorReply) else [str(key).encode(), *found]
            if time.monotonic() >= deadline:
                return None
            try:
                await self._pause(every_s)
            except ServerUnavailable as error:
                raise Failure(CLOSED, "closed") from error
        raise Failure(CLOSED, "interrupted")

    def be_patient(self, timeout_s: float) -> None:
        """As `Connection.be_patient`: this server is never silent."""

    def interrupt(self) -> None:
        """As `Connection.interrupt`."""
        self._interrupted = True

    def abort(self) -> None:
        """As `Connection.abort`."""
        self._connection.disconnect()


#: Error codes that redis-py turns into classes and removes from the text.
_CODES = {
    "NoScriptError": "NOSCRIPT",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "BusyLoadingError": "LOADING",
}


def _text(error: Exception) -> str:
    """The error reply as the server sent it."""
    text = str(error)
    code = _CODES.get(type(error).__name__, "" if text.partition(" ")[0].isupper() else "ERR")
    return f"{code} {text}" if code else text
