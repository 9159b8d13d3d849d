"""What every gateway does: it connects to its run, looks for what ran out, and closes."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from broker.connections import open_async_transport
from broker.errors import BrokerError
from broker.inspection.stats import Stats, stats_of
from broker.protocol import anyone
from broker.values.names import check_name

_log = logging.getLogger(__name__)

#: How long a call tries to reach a server that does not answer, seconds: well within a client's 10 s.
PATIENCE_S = 5.0
#: Pause between two looks for leases and attempts that ran out, seconds.
REQUEUE_EVERY_S = 0.5


class BaseGateway(ABC):
    """One gateway of a run. It has no state of its own: any other gateway of the run can go on.

    Args:
        url: the server.
        run: name of the run.

    Raises:
        BadUrl, BadName: an argument cannot be used.
    """

    def __init__(self, url: str, run: str) -> None:
        self.run = check_name("run", run)
        self._transport = open_async_transport(url, timeout_s=PATIENCE_S, retry_for_s=PATIENCE_S)
        self._upkeep: asyncio.Task[None] | None = None

    @abstractmethod
    async def _find_run(self) -> None:
        """Makes sure that the run is there. Raises ServerUnavailable."""

    async def _look(self, number: int) -> None:  # noqa: B027 - a gateway may have nothing else to do
        """What else is done at a look for what ran out.

        Args:
            number: of the look, from 0.
        """

    async def open(self) -> Self:
        """Connects, and begins its upkeep.

        Raises:
            ServerUnavailable: no answer.
            NoRun: the run is not there, and this gateway creates none.
        """
        try:
            await self._find_run()
        except BaseException:
            await self._transport.close()
            raise
        self._upkeep = asyncio.create_task(self._keep_up(), name=f"gateway-{self.run}")
        return self

    async def close(self) -> None:
        """Closes the connections. Clients keep what they have until its time runs out."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        await self._transport.close()

    async def stats(self) -> Stats:
        """The run's numbers. Raises NoRun, ServerUnavailable."""
        return stats_of(self.run, await self._transport.call(anyone.stats(self.run)))

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _keep_up(self) -> None:
        """Takes back what ran out, also while no client asks; every gateway does."""
        looks, failing = 0, False
        while True:
            try:
                await self._transport.call(anyone.requeue(self.run))
                await self._look(looks)
                looks += 1
                failing = False
            except BrokerError as error:
                if not failing:
                    _log.warning("attempts that ran out are not requeued for now: %s", error)
                failing = True
            await asyncio.sleep(REQUEUE_EVERY_S)
