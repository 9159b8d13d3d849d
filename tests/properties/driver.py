"""Drives the real script calls and scripts. Each step is one round trip: a call, its answer, and the whole state."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from broker.protocol import keys, scripts
from broker.protocol.script_call import ScriptCall

from .calls import Answer, Call, SetBytes
from .decode import Dump, view_from_dump
from .dump import DUMP_SOURCE
from .ghost import Violation
from .reads import compare_reads
from .view import View
from .wire import Wire

RUN = "math-7b/p1"
Command = Sequence[str | bytes | int]
# hiredis's own types say that a command has one word.
pack_command = cast("Callable[[Command], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


class Connection:
    """A bare connection, which returns error replies and does not raise them."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._reader = hiredis.Reader()

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands in one round trip."""
        self._socket.sendall(b"".join(pack_command(tuple(command)) for command in commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 18))
            else:
                replies.append(reply)
        return replies

    def close(self) -> None:
        """Closes it."""
        self._socket.close()


def on_injected_server_clock(source: bytes) -> bytes:
    """Scripts that take the injected time for the server's time, which may step both ways, and stand still."""
    injected, server = b"if ARGV[1] ~= '' then", b"redis.call('TIME')"
    assert source.count(injected) == source.count(server) == 1, "scripts read the clock in another way"
    return source.replace(injected, b"if false then").replace(server, b"{ ARGV[1] / 1000, 0 }")


class Scripts:
    """The sources of the scripts; `change` may put a fault into them, to test the tests."""

    def __init__(self, change: Callable[[str, bytes], bytes] = lambda _, source: source, shebang: bool = True) -> None:
        self._change = change
        self._shebang = shebang
        self._sources: dict[str, tuple[bytes, str]] = {}

    def source(self, name: str) -> tuple[bytes, str]:
        """Text and hash of a script."""
        if name not in self._sources:
            text = on_injected_server_clock(self._change(name, scripts.load(name, self._shebang).source))
            self._sources[name] = (text, hashlib.sha1(text).hexdigest())
        return self._sources[name]


#: Long enough never to pass during a test.
RESULT_TTL_MS = 3_600_000
DUMP = ("EVALSHA", hashlib.sha1(DUMP_SOURCE).hexdigest(), 1, keys.state(RUN))


class ScriptDriver:
    """One run on a real server.

    Args:
        sources: the scripts, called by EVALSHA.
        library: call them as functions of the library instead, as clients do where the server has functions.
    """

    def __init__(self, connection: Connection, sources: Scripts, library: scripts.Library | None = None) -> None:
        self._connection = connection
        self._sources = sources
        self._library = library
        self._wire = Wire(RUN)
        self._view: View = {}
        self._loaded: set[str] = set()
        connection.exchange([("FLUSHALL",), ("SCRIPT", "LOAD", DUMP_SOURCE)])
        if library:
            connection.exchange([("FUNCTION", "LOAD", "REPLACE", on_injected_server_clock(library.source))])

    def apply(self, call: Call, now_ms: int) -> Answer:
        """Executes a call and reads the state after it."""
        if isinstance(call, SetBytes):
            command = ("SET", keys.result(RUN, call.attempt), call.data, "NX", "PX", RESULT_TTL_MS)
            self._view = view_from_dump(self._connection.exchange([command, DUMP])[1])
            return {}
        script_call = self._wire.script_call(call, now_ms)
        raw, dump = self._execute(script_call)
        self._view = view_from_dump(dump)
        if isinstance(raw, hiredis.ReplyError):
            code = str(raw).split(" ", 1)[0]
            if not code.isupper() or code == "ERR":
                raise Violation(f"{script_call.script} broke: {raw}")
            return {"error": code}
        return self._wire.answer(call, script_call.parse(raw))

    def _execute(self, script_call: ScriptCall[Any]) -> tuple[Any, Dump]:
        commands: list[Command] = []
        if self._library:
            call: Command = ("FCALL", self._library.functions[script_call.script])
        else:
            text, sha = self._sources.source(script_call.script)
            call = ("EVALSHA", sha)
            if script_call.script not in self._loaded:
                self._loaded.add(script_call.script)
                commands.append(("SCRIPT", "LOAD", text))
        commands += script_call.before
        commands.append((*call, len(script_call.keys), *script_call.keys, *script_call.args))
        commands.append(DUMP)
        replies = self._connection.exchange(commands)
        for reply in (*replies[:-2], replies[-1]):
            if isinstance(reply, hiredis.ReplyError):
                raise Violation(f"{script_call.script}: {reply}")
        return replies[-2], replies[-1]

    def view(self) -> View:
        """The state after the last call."""
        return self._view

    def read(self, view: View, now_ms: int) -> None:
        """Makes every script call that only reads, and compares the answers with the view. They must change nothing."""
        before = self._connection.exchange([DUMP])

        def execute(script_call: ScriptCall[Any]) -> Any:
            raw, _ = self._execute(script_call)
            if isinstance(raw, hiredis.ReplyError):
                raise Violation(f"{script_call.script}{script_call.args}: {raw}")
            return script_call.parse(raw)

        compare_reads(execute, RUN, view, now_ms)
        if _content(self._connection.exchange([DUMP])) != _content(before):
            raise Violation("a read changed the state")

    def save(self) -> Any:
        """Every key, with its time to live."""
        names: list[bytes] = self._connection.exchange([("KEYS", "*")])[0]
        dumps = self._connection.exchange([("DUMP", name) for name in names]) if names else []
        lives = self._connection.exchange([("PTTL", name) for name in names]) if names else []
        return [(name, max(0, ttl), dump) for name, ttl, dump in zip(names, lives, dumps, strict=True)]

    def restore(self, saved: Any) -> None:
        """Restores the saved store; the scripts stay loaded."""
        self._connection.exchange([("FLUSHALL",), *(("RESTORE", name, ttl, dump) for name, ttl, dump in saved)])

    def pop_marker(self, name: str) -> bool:
        """Takes a marker, as a woken client does. Returns whether it was there."""
        return bool(self._connection.exchange([("ZPOPMIN", keys.key(RUN, name))])[0])


def _content(replies: list[Any]) -> dict[bytes, Any]:
    """The stored data, without times to live and without the order of hash tables, which may change at any time."""
    found: dict[bytes, Any] = {}
    for name, value in replies[0]:
        found[name] = value[0] if name.startswith(b"result:") else dict(zip(value[::2], value[1::2], strict=True))
    return found
