"""The kind and version of a server, asked when a connection is opened, and whether the broker supports it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from broker.connections.connection import Connection, RedisCommand
from broker.connections.credentials import Login
from broker.connections.error_reply import ErrorReply
from broker.connections.failures import (
    NO_DATABASE,
    NOT_REDIS,
    RIGHTS,
    TOO_OLD,
    Failure,
    of_login,
    of_reply,
)
from broker.connections.url import Address

log = logging.getLogger(__name__)

Kind = Literal["redis", "valkey", "fakeredis"]

#: The oldest Redis that has every command the scripts use.
OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server at the other end.

    Attributes:
        kind: which software it is.
        version: (major, minor, patch) of it.
        supports_shebang: whether scripts may begin with a `#!lua` line.
        replica: whether it is a replica, which refuses writes.
        cluster: whether it is a node of a cluster.
        sentinel: whether it is a sentinel, which runs no scripts.
    """

    kind: Kind
    version: tuple[int, ...]
    supports_shebang: bool
    replica: bool = False
    cluster: bool = False
    sentinel: bool = False


async def greet(connection: Connection, address: Address, login: Login) -> ServerInfo:
    """Logs in on a new connection, names it and asks what the server is, in one round trip.

    Raises:
        Failure: the server refuses the login, is not ready, too old or unknown to this client, or the connection broke.
    """
    if connection.info is not None:
        return connection.info
    logging_in = login.commands(address.db)
    *logged_in, info = await connection.exchange([*logging_in, ("INFO",)])
    refuse_login(logging_in, logged_in)
    if not isinstance(info, ErrorReply):
        return _from_info(_info_fields(info), address)
    if info.code != "NOPERM":
        raise of_reply(info) or Failure(NOT_REDIS, f"it answers INFO with an error: {info.text}")
    # The user may not call INFO; HELLO says enough.
    (hello,) = await connection.exchange([("HELLO",)])
    if isinstance(hello, ErrorReply):
        raise Failure(RIGHTS, f"{hello.text} (the user needs the permission +info or +hello)")
    return _from_hello(hello)


def refuse_login(sent: Sequence[RedisCommand], replies: Sequence[Any]) -> None:
    """Raises Failure for the first login command that was refused. A connection without a name does as well."""
    for command, reply in zip(sent, replies, strict=True):
        if isinstance(reply, ErrorReply) and command[0] != "CLIENT":
            raise of_login(reply) if command[0] == "AUTH" else of_reply(reply) or Failure(NO_DATABASE, reply.text)


def _info_fields(reply: bytes) -> dict[str, str]:
    """INFO's `name:value` lines."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _from_info(fields: dict[str, str], address: Address) -> ServerInfo:
    """Judges a server by its INFO."""
    mode = fields.get("redis_mode", fields.get("server_mode"))
    is_valkey = "valkey_version" in fields or fields.get("server_name") == "valkey"
    text = fields.get("valkey_version") or fields.get("redis_version", "")
    info = _checked(
        "valkey" if is_valkey else "redis",
        text,
        replica=fields.get("role") == "slave",
        mode=mode,
    )
    policy = fields.get("maxmemory_policy", "noeviction")
    if fields.get("maxmemory", "0") != "0" and policy != "noeviction":
        _warn_of_eviction(address.shown, policy)
    return info


def _from_hello(reply: Sequence[Any]) -> ServerInfo:
    """Judges a server by its HELLO: a flat list of names and values."""
    words = [value.decode() if isinstance(value, bytes) else value for value in reply]
    fields = dict(zip(words[::2], words[1::2], strict=False))
    kind = "valkey" if fields.get("server") == "valkey" else "redis"
    return _checked(
        kind,
        str(fields.get("version", "")),
        replica=fields.get("role") in ("replica", "slave"),
        mode=fields.get("mode"),
    )


def _checked(kind: Literal["redis", "valkey"], text: str, replica: bool, mode: str | None) -> ServerInfo:
    """The ServerInfo, if the version will do."""
    version = tuple(int(part) for part in text.partition("-")[0].split(".") if part.isdigit())
    if not version:
        raise Failure(TOO_OLD, "it does not say which version of Redis or Valkey it is")
    if kind == "redis" and version < OLDEST:
        raise Failure(TOO_OLD, f"it is Redis {text}; {OLDEST[0]}.{OLDEST[1]} is the oldest that will do")
    return ServerInfo(
        kind, version, kind == "valkey" or version >= (7, 0), replica, mode == "cluster", mode == "sentinel"
    )


_warned: set[str] = set()


def _warn_of_eviction(url: str, policy: str) -> None:
    """Warns once for each server that may evict tasks."""
    if url not in _warned:
        _warned.add(url)
        log.warning(
            "%s has maxmemory-policy %s: when it is full it will delete leases, tasks and results of a run; "
            "set maxmemory-policy to noeviction",
            url,
            policy,
        )
