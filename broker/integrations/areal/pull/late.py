"""Workers that AReaL's controller did not make."""

from __future__ import annotations

from typing import Any


def pull_rollouts(engine: Any, url: str, run: str, *, concurrency: int = 16, proxy_addr: str | None = None) -> None:
    """Makes rollouts of a training with `install(..., pull=True)`, until Ctrl-C or SIGTERM.

    The process may start and end at any time, on any host. It loads the newest weights before a rollout that is to be
    made with them; AReaL's `weight_update_mode` must be `disk`, and the folder shared.

    Args:
        engine: AReaL's inference engine, initialized with the address of its server.
        url: the server of the broker.
        run: name of the run, as given to `install`.
        concurrency: rollouts at the same time.
        proxy_addr: of the proxy of this engine, for agent workflows.
    """
    from broker.integrations.areal.pull.puller import Puller

    Puller(engine, url, run, concurrency=concurrency, proxy_addr=proxy_addr).work()
