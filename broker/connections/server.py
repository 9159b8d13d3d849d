"""What a server says about itself when a connection is opened, and whether that will do."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from broker.connections.link import Link
from broker.connections.replies import ReplyError, passes, refusal
from broker.connections.url import Address
from broker.errors import AuthenticationFailed, UnsupportedServer

log = logging.getLogger("broker")

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
    """

    kind: Kind
    version: tuple[int, ...]
    supports_shebang: bool
    replica: bool = False
    cluster: bool = False


async def greet(link: Link, address: Address) -> ServerInfo | ReplyError:
    """Asks on a new connection what the server is.

    Returns:
        The server, or the error reply that passes with time (`LOADING`).

    Raises:
        AuthenticationFailed: the server wants a password.
        UnsupportedServer: it is too old or none that this client knows.
        LinkLost: the connection broke.
    """
    if link.info is not None:
        return link.info
    (info,) = await link.exchange([("INFO",)])
    if not isinstance(info, ReplyError):
        return _from_info(_info_fields(info), address)
    if info.code != "NOPERM":
        return judge(info, address)
    # The user may not call INFO; HELLO says as much as is needed here.
    (hello,) = await link.exchange([("HELLO",)])
    if isinstance(hello, ReplyError):
        raise AuthenticationFailed(
            url=address.shown, error=f"{hello.text} (the user needs the permission +info or +hello)"
        )
    return _from_hello(hello, address)


def judge(error: ReplyError, address: Address) -> ReplyError:
    """Lets an error pass that goes away; raises for the others, and for every answer to a wrong password."""
    if passes(error):
        return error
    if error.text.startswith("ERR AUTH") or "invalid password" in error.text:
        raise AuthenticationFailed(url=address.shown, error=error.text)
    raise refusal(error, address.shown)


def _info_fields(reply: bytes) -> dict[str, str]:
    """INFO's `name:value` lines."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _from_info(fields: dict[str, str], address: Address) -> ServerInfo:
    """Judges a server by its INFO."""
    is_valkey = "valkey_version" in fields or fields.get("server_name") == "valkey"
    text = fields.get("valkey_version") or fields.get("redis_version", "")
    info = _checked(
        "valkey" if is_valkey else "redis",
        text,
        address,
        replica=fields.get("role") == "slave",
        cluster=fields.get("redis_mode", fields.get("server_mode")) == "cluster",
    )
    policy = fields.get("maxmemory_policy", "noeviction")
    if fields.get("maxmemory", "0") != "0" and policy != "noeviction":
        _warn_of_eviction(address.shown, policy)
    return info


def _from_hello(reply: Sequence[Any], address: Address) -> ServerInfo:
    """Judges a server by its HELLO: a flat list of names and values."""
    words = [value.decode() if isinstance(value, bytes) else value for value in reply]
    fields = dict(zip(words[::2], words[1::2], strict=False))
    kind = "valkey" if fields.get("server") == "valkey" else "redis"
    return _checked(
        kind,
        str(fields.get("version", "")),
        address,
        replica=fields.get("role") in ("replica", "slave"),
        cluster=fields.get("mode") == "cluster",
    )


def _checked(kind: Literal["redis", "valkey"], text: str, address: Address, replica: bool, cluster: bool) -> ServerInfo:
    """The ServerInfo, if the version will do."""
    version = tuple(int(part) for part in text.partition("-")[0].split(".") if part.isdigit())
    if not version:
        raise UnsupportedServer(url=address.shown, problem="it does not say which version of Redis or Valkey it is")
    if kind == "redis" and version < OLDEST:
        raise UnsupportedServer(
            url=address.shown,
            problem=f"it is Redis {text}; {OLDEST[0]}.{OLDEST[1]} is the oldest that will do",
        )
    return ServerInfo(kind, version, kind == "valkey" or version >= (7, 0), replica, cluster)


_warned: set[str] = set()


def _warn_of_eviction(url: str, policy: str) -> None:
    """Says once for each server that it may throw away tasks."""
    if url not in _warned:
        _warned.add(url)
        log.warning(
            "%s has maxmemory-policy %s: when it is full it will delete leases, tasks and results of a run; "
            "set maxmemory-policy to noeviction",
            url,
            policy,
        )
