"""Finds the server that a key lives on: a fixed one, the primary that Sentinel names, or a node of a cluster."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.crc import key_slot

from broker.connections.connection import RedisCommand
from broker.connections.endpoint import Endpoint
from broker.connections.error_reply import ErrorReply, Redirection
from broker.connections.failures import (
    LOGIN,
    NO_PRIMARY,
    NO_SERVICE,
    NO_SLOTS,
    OTHER_MODE,
    RIGHTS,
    Failure,
    nobody,
    of_reply,
)
from broker.connections.url import Address

#: Asks one server one plain command, on a connection of its own, by a moment on the monotonic clock; raises Failure.
SendCommands = Callable[[Endpoint, RedisCommand, float], Awaitable[Any]]

#: Hosts that a node of a cluster names when it does not know the host of another node, or its own.
_UNKNOWN_HOSTS = frozenset({"", "?"})


class Topology:
    """Which server has a key; in this base class one server has all.

    Attributes:
        has_slots: whether keys are on different servers, and a command may name keys of one hash slot only.
        sole: the server that always has all keys; None if that can change, or there are several.
    """

    has_slots: bool = False
    sole: Endpoint | None = None

    def __init__(self, address: Address) -> None:
        self.sole = self._endpoint = address.endpoints[0]

    async def locate(self, key: str | None, ask: SendCommands, until: float) -> Endpoint:
        """The server of a key (None: any primary), by a moment on the monotonic clock; raises Failure."""
        return self._endpoint

    async def primaries(self, ask: SendCommands, until: float) -> list[Endpoint | None]:
        """The servers that together have all keys; None stands for the only server."""
        return [None]

    def forget(self) -> None:
        """Makes the next `locate` ask again: a server changed or broke."""

    def moved(self, to: Redirection, told_by: Endpoint) -> Endpoint | None:
        """Notes that a node of a cluster redirected a call. Returns the right node; None: this is no cluster."""
        return None


class SentinelPrimary(Topology):
    """All keys are on the primary that the sentinels name.

    Threads may share it: what it knows is replaced, not changed.
    """

    def __init__(self, address: Address) -> None:
        self._service = address.service
        self._sentinels = list(address.endpoints)
        self._primary: Endpoint | None = None

    async def locate(self, key: str | None, ask: SendCommands, until: float) -> Endpoint:
        """As `Topology.locate`."""
        primary, sentinels = self._primary, self._sentinels
        if primary is not None:
            return primary
        failures: list[tuple[Endpoint, Failure]] = []
        for sentinel in sentinels:
            try:
                reply = await ask(sentinel, ("SENTINEL", "get-master-addr-by-name", self._service), until)
                primary = self._named(reply)
            except Failure as failure:
                failures.append((sentinel, _of_sentinel(failure)))
                if time.monotonic() > until:
                    break
                continue
            # The next question goes first to the sentinel that answered.
            self._sentinels = [sentinel, *(other for other in sentinels if other is not sentinel)]
            self._primary = primary
            return primary
        raise nobody(f"no sentinel names a primary for {self._service!r}", failures)

    def _named(self, reply: Any) -> Endpoint:
        """The primary that a sentinel names."""
        if isinstance(reply, ErrorReply):
            failure = of_reply(reply)
            if failure is not None and (failure.kind.passes or failure.kind in (LOGIN, RIGHTS)):
                raise failure
            raise Failure(OTHER_MODE, f"it is no sentinel ({reply.text}); connect with redis://")
        if not reply:
            raise Failure(NO_SERVICE, "knows no such service")
        host, port = (part.decode() for part in cast("list[bytes]", reply))
        if not port.isdigit() or not host:
            raise Failure(NO_PRIMARY, "names no primary now")
        return Endpoint(host, int(port))

    def forget(self) -> None:
        """As `Topology.forget`."""
        if self._primary is not None:
            # The sentinel that named the primary may be wrong: the others are asked before it.
            self._sentinels = _first_last(self._sentinels)
        self._primary = None


class ClusterNodes(Topology):
    """The keys of a hash slot are on the node that owns it. Threads may share it."""

    has_slots = True

    def __init__(self, address: Address) -> None:
        self._seeds = list(address.endpoints)
        #: The nodes to ask, the most promising first.
        self._known = list(address.endpoints)
        self._owners: dict[int, Endpoint] = {}
        self._stale = True

    async def locate(self, key: str | None, ask: SendCommands, until: float) -> Endpoint:
        """As `Topology.locate`."""
        if self._stale:
            await self._discover(ask, until)
        owners = self._owners
        if key is None:
            return next(iter(owners.values()))
        slot = key_slot(key.encode())
        owner = owners.get(slot)
        if owner is None:
            self._stale = True
            raise Failure(NO_SLOTS, f"no node of the cluster serves hash slot {slot}")
        return owner

    async def primaries(self, ask: SendCommands, until: float) -> list[Endpoint | None]:
        """As `Topology.primaries`."""
        if self._stale:
            await self._discover(ask, until)
        return list(dict.fromkeys(tuple(self._owners.values())))  # another thread may add a slot meanwhile

    async def _discover(self, ask: SendCommands, until: float) -> None:
        """Reads the table of slots from the first node that has one."""
        failures: list[tuple[Endpoint, Failure]] = []
        for node in self._known:
            try:
                owners = _table(node, await ask(node, ("CLUSTER", "SLOTS"), until))
            except Failure as failure:
                failures.append((node, failure))
                if time.monotonic() > until:
                    break
                continue
            self._owners, self._stale = owners, False
            self._known = list(dict.fromkeys([node, *owners.values(), *self._seeds]))
            return
        raise nobody("no node of the cluster has a table of slots", failures)

    def forget(self) -> None:
        """As `Topology.forget`."""
        # The node that answered last may be the one that is gone.
        self._known = _first_last(self._known)
        self._stale = True

    def moved(self, to: Redirection, told_by: Endpoint) -> Endpoint | None:
        """As `Topology.moved`."""
        owner = _named_by(told_by, to.host, to.port)
        if not to.asking:
            self._owners[to.slot] = owner
        return owner


def _first_last(places: list[Endpoint]) -> list[Endpoint]:
    """The same places, the first of them last."""
    return [*places[1:], *places[:1]]


def _of_sentinel(failure: Failure) -> Failure:
    """Adds to a failure which of the URL's passwords is meant."""
    if failure.kind not in (LOGIN, RIGHTS):
        return failure
    return Failure(failure.kind, f"{failure} (options sentinel_username and sentinel_password)")


def _table(node: Endpoint, reply: Any) -> dict[int, Endpoint]:
    """The owner of each slot, read from the answer of a node."""
    if isinstance(reply, ErrorReply):
        failure = of_reply(reply)
        if failure is not None and (failure.kind.passes or failure.kind in (LOGIN, RIGHTS)):
            raise failure
        raise Failure(OTHER_MODE, f"it is no node of a cluster ({reply.text}); connect with redis://")
    owners: dict[int, Endpoint] = {}
    for first, last, primary, *_ in reply:
        host = (primary[0] or b"").decode()
        owners.update(dict.fromkeys(range(first, last + 1), _named_by(node, host, primary[1])))
    if not owners:
        raise Failure(NO_SLOTS, "serves no slots")
    return owners


def _named_by(node: Endpoint, host: str, port: int) -> Endpoint:
    """The address of a node in another node's answer. An unknown host stands for the answering node's own."""
    return Endpoint(node.host if host in _UNKNOWN_HOSTS else host, port)


def make_topology(address: Address) -> Topology:
    """The topology that a URL names."""
    if address.mode == "sentinel":
        return SentinelPrimary(address)
    if address.mode == "cluster":
        return ClusterNodes(address)
    return Topology(address)
