"""The workflow with which AReaL's controller starts the claims in each of its workers."""

from __future__ import annotations

import logging
import threading
from typing import Any

from broker.integrations.areal.pull.puller import Puller, RolloutWorkflow

_log = logging.getLogger(__name__)
#: Pause before the claims begin again after an error, seconds.
_AGAIN_S = 5.0


class PullLoop(RolloutWorkflow):
    """Starts a thread that claims for the engine, and makes no trajectory.

    Args:
        settings: arguments of `Puller`.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> None:
        """Returns at once."""
        puller = Puller(engine, **self._settings)
        threading.Thread(target=_work, args=(engine, puller), name="broker-areal-pull", daemon=True).start()


def _work(engine: Any, puller: Puller) -> None:
    wait = threading.Event()
    while engine.initialized and not puller.is_over:
        try:
            puller.work()
        except Exception:  # noqa: BLE001 - a worker that claims no more would be idle until the training ends
            _log.exception("claiming failed and begins again")
            wait.wait(_AGAIN_S)
