"""Finds the server that a key lives on: a fixed one, the primary that Sentinel names, or a node of a cluster."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.crc import key_slot

from broker.connections.link import Command, LinkLost, NotRedis
from broker.connections.replies import Redirection, ReplyError
from broker.connections.url import Address, Endpoint
from broker.errors import AuthenticationFailed

#: Asks one server one plain command, on a connection of its own.
Ask = Callable[[Endpoint, Command], Awaitable[Any]]


class Topology:
    """Where the keys are: here all on one server.

    Attributes:
        has_slots: whether keys are on different servers, and only those of one hash slot may share a command.
        sole: the server that has everything for ever, None where that can change or there are several.
    """

    has_slots: bool = False
    sole: Endpoint | None = None

    def __init__(self, address: Address) -> None:
        self.sole = self._endpoint = address.endpoints[0]

    async def locate(self, key: str | None, ask: Ask) -> Endpoint:
        """The server of a key (None: any primary); raises LinkLost when nobody can say."""
        return self._endpoint

    async def primaries(self, ask: Ask) -> list[Endpoint | None]:
        """Those that together have all keys; None: the one that there is."""
        return [None]

    def forget(self) -> None:
        """Something there changed or broke: the next `locate` asks again."""

    def moved(self, to: Redirection, told_by: Endpoint) -> Endpoint | None:
        """Notes that a node of a cluster sent us elsewhere; None: there is no cluster here."""
        return None


class SentinelPrimary(Topology):
    """Everything is on the primary that the sentinels name."""

    def __init__(self, address: Address) -> None:
        self._service = address.service
        self._sentinels = list(address.endpoints)
        self._primary: Endpoint | None = None

    async def locate(self, key: str | None, ask: Ask) -> Endpoint:
        """As `Topology.locate`."""
        if self._primary is not None:
            return self._primary
        answers: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                reply = await ask(sentinel, ("SENTINEL", "get-master-addr-by-name", self._service))
            except (LinkLost, NotRedis) as error:
                answers.append(f"{sentinel}: {error}")
                continue
            if isinstance(reply, ReplyError) and reply.code in ("NOAUTH", "WRONGPASS", "NOPERM"):
                raise AuthenticationFailed(url=str(sentinel), error=f"{reply.text} (option sentinel_password)")
            if isinstance(reply, list) and reply:
                # The next question goes to the one that knew first.
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                host, port = (part.decode() for part in cast("list[bytes]", reply))
                self._primary = Endpoint(host, int(port))
                return self._primary
            answers.append(f"{sentinel}: {reply.text if isinstance(reply, ReplyError) else 'knows no such service'}")
        raise LinkLost(f"no sentinel names a primary for {self._service!r} ({'; '.join(answers)})")

    def forget(self) -> None:
        """As `Topology.forget`."""
        self._primary = None


class ClusterNodes(Topology):
    """Each hash slot is on the node that owns it."""

    has_slots = True

    def __init__(self, address: Address) -> None:
        self._seeds = list(address.endpoints)
        #: Whom to ask, the most promising first.
        self._known = list(address.endpoints)
        self._owners: dict[int, Endpoint] = {}
        self._stale = True

    async def locate(self, key: str | None, ask: Ask) -> Endpoint:
        """As `Topology.locate`."""
        if self._stale:
            await self._discover(ask)
        if key is None:
            return next(iter(self._owners.values()))
        slot = key_slot(key.encode())
        if slot not in self._owners:
            self._stale = True
            raise LinkLost(f"no node of the cluster serves hash slot {slot}")
        return self._owners[slot]

    async def primaries(self, ask: Ask) -> list[Endpoint | None]:
        """As `Topology.primaries`."""
        if self._stale:
            await self._discover(ask)
        return list(dict.fromkeys(self._owners.values()))

    async def _discover(self, ask: Ask) -> None:
        """Reads the table of slots from the first node that has one."""
        answers: list[str] = []
        for node in list(self._known):
            try:
                reply = await ask(node, ("CLUSTER", "SLOTS"))
            except (LinkLost, NotRedis) as error:
                answers.append(f"{node}: {error}")
                continue
            if isinstance(reply, ReplyError):
                answers.append(f"{node}: {reply.text}")
                continue
            owners: dict[int, Endpoint] = {}
            for first, last, primary, *_ in reply:
                host = (primary[0] or b"").decode() or node.host
                owners.update(dict.fromkeys(range(first, last + 1), Endpoint(host, primary[1])))
            if owners:
                self._owners, self._stale = owners, False
                self._known = list(dict.fromkeys([node, *owners.values(), *self._seeds]))
                return
            answers.append(f"{node}: serves no slots")
        raise LinkLost(f"no node of the cluster has a table of slots ({'; '.join(answers)})")

    def forget(self) -> None:
        """As `Topology.forget`."""
        # The one that answered last may be the one that is gone.
        self._known.append(self._known.pop(0))
        self._stale = True

    def moved(self, to: Redirection, told_by: Endpoint) -> Endpoint | None:
        """As `Topology.moved`."""
        owner = Endpoint(to.host or told_by.host, to.port)
        if not to.asking:
            self._owners[to.slot] = owner
        return owner


def make_topology(address: Address) -> Topology:
    """The topology that a URL names."""
    if address.mode == "sentinel":
        return SentinelPrimary(address)
    if address.mode == "cluster":
        return ClusterNodes(address)
    return Topology(address)
