"""The gateway without HTTP: the run, its rollouts and events, and what has to be done now and then."""

from __future__ import annotations

import contextlib
import secrets

from broker.errors import ConfigMismatch, NoRun
from broker.integrations.agent_lightning_1.changes import Changes
from broker.integrations.agent_lightning_1.controllers import Controllers
from broker.integrations.agent_lightning_1.events import Events
from broker.integrations.agent_lightning_1.models import Models
from broker.integrations.agent_lightning_1.proxy import Proxy, ProxyConfig, Send
from broker.integrations.agent_lightning_1.rollouts import Rollouts
from broker.integrations.agent_lightning_1.storage import Storage
from broker.integrations.http_server.gateway import BaseGateway
from broker.protocol import anyone, trainer
from broker.values.config import RunConfig

#: Freeing, and the search for ends that nobody noted, happen once in so many of these looks.
_TIDY_EVERY = 20
#: The config of a run that the gateway creates. An attempt may take five minutes longer than agent-lightning's default.
RUN_CONFIG = RunConfig(
    consumer_batch_size=1,
    max_staleness=None,
    max_concurrent_rollouts=1_000_000_000,
    attempt_timeout_ms=3_900_000,
    max_attempts=3,
    halt_after_failures=0,  # agent-lightning has no word for a halt, and its trainer no call that ends one
)


class Gateway(BaseGateway):
    """One gateway of a run. It has no state of its own: any other gateway of the run can go on.

    Args:
        url: the server.
        run: name of the run; it is created if it is not there.
        config: of a run that is created; None: `RUN_CONFIG`.
        proxy: how the proxy changes requests to models.
        send: how it sends them; None: by HTTP.

    Raises:
        BadUrl, BadName: an argument cannot be used.
    """

    def __init__(
        self,
        url: str,
        run: str,
        *,
        config: RunConfig | None = None,
        proxy: ProxyConfig | None = None,
        send: Send | None = None,
    ) -> None:
        super().__init__(url, run)
        self._config = config or RUN_CONFIG
        self.storage = Storage(self._transport, self.run)
        self.controllers = Controllers(self.storage)
        self.rollouts = Rollouts(self.storage)
        self.changes = Changes(self.storage, self.controllers)
        self.events = Events(self.storage)
        self.models = Models(self._transport, self.run)
        self.proxy = Proxy(self.models, self.events, proxy or ProxyConfig(), send)
        self._died_at = 0  # of the last death that was noted, ms of the run's clock
        self._ready_cursor = 0  # of the search for results whose ends nobody noted
        self._seen_ends = 0  # the number of the last end that was looked at whether its task is freed

    async def _find_run(self) -> None:
        """Creates the run if it is not there."""
        try:
            await self.storage.call(anyone.stats(self.run))
        except NoRun:
            # Of several gateways that start at once one creates it, and the others find it.
            with contextlib.suppress(ConfigMismatch):
                await self.storage.call(
                    trainer.open_run(self.run, secrets.token_hex(8), self._config.to_fields(), update=False)
                )

    async def close(self) -> None:
        """Closes the connections. Controllers keep what they have until its lease runs out."""
        await self.proxy.close()
        await super().close()

    async def note_deaths(self) -> None:
        """Notes the rollouts that the broker ended itself: their last attempt's lease or time ran out."""
        while True:
            died, last = await self.storage.died_since(self._died_at)
            await self.storage.note_ends(died)
            if last == self._died_at or not died:
                return
            self._died_at = last

    async def _look(self, number: int) -> None:
        if number % _TIDY_EVERY:
            return
        await self.note_deaths()
        unnoted, self._ready_cursor = await self.storage.unnoted_results(self._ready_cursor)
        await self.storage.note_ends(unnoted)
        await self.storage.call(anyone.trim(self.run))
        self._seen_ends = await self.storage.forget_freed(self._seen_ends)
        await self.storage.forget_signs()
        await self.models.keep_counting()
        self.controllers.forget_silent()
