"""Bundles of resources, kept in the run's namespace for every gateway to serve."""

from __future__ import annotations

from broker.connections import AsyncTransport
from broker.integrations.agent_lightning.messages import ResourcesUpdate
from broker.protocol import keys

#: Bundles that are kept; older ones are forgotten.
KEPT = 1000


class Resources:
    """The resources of one run.

    Args:
        transport: the server.
        run: name of the run.
    """

    def __init__(self, transport: AsyncTransport, run: str) -> None:
        self._transport, self._run = transport, run
        self._order = keys.key(run, "gateway:resources")

    async def publish(self, update: ResourcesUpdate) -> None:
        """Makes a bundle the latest one."""
        body = update.model_dump_json().encode()
        # Sending this again after a lost connection has the same effect.
        *_, old = await self._transport.pipeline(
            [
                ("SET", self._key(update.resources_id), body),
                ("LREM", self._order, 0, update.resources_id),
                ("LPUSH", self._order, update.resources_id),
                ("LRANGE", self._order, KEPT, -1),
            ]
        )
        if old:
            forgotten = [self._key(name.decode()) for name in old]
            await self._transport.pipeline([("UNLINK", *forgotten), ("LTRIM", self._order, 0, KEPT - 1)])

    async def latest(self) -> bytes | None:
        """The newest bundle as JSON, or None."""
        newest: bytes | None = await self._transport.command("LINDEX", self._order, 0)
        return None if newest is None else await self.by_id(newest.decode())

    async def by_id(self, resources_id: str) -> bytes | None:
        """One bundle as JSON; None if no bundle has that id, or it was forgotten."""
        return await self._transport.command("GET", self._key(resources_id))

    def _key(self, resources_id: str) -> str:
        return keys.key(self._run, f"gateway:resources:{resources_id}")
