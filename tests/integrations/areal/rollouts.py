"""A process that runs rollouts through AReaL's dispatcher: `python rollouts.py URL RUN NAME C B S`.

Lines on standard input are ids of rollouts to submit; at the end of the input it finishes what it has.
Beside the staleness manager it counts in Redis by itself, for the test to compare: what runs in each process, the most
that ever ran in all, and what became of each rollout.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.connections import Transport, open_transport
from broker.integrations.areal import StalenessManager
from tests.integrations.areal.isolated import dispatcher_class
from tests.waiting import wait_until

LEASE_S = 1.5


@dataclass(frozen=True)
class Input:
    task_id: int


class Provider:
    """The version that the test's trainer writes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get_version(self) -> int:
        return int(self._transport.command("GET", "version") or 0)


class Rollouts:
    def __init__(self, transport: Transport, name: str, manager: StalenessManager) -> None:
        self._transport, self._name, self._manager = transport, name, manager

    def task(self, given: Input) -> Callable[[], Awaitable[int | None]]:
        async def run() -> int | None:
            self._count(1)
            await asyncio.sleep(random.uniform(0.02, 0.06))
            self._count(-1)
            accepted = given.task_id % 5 != 0
            # As AReaL does it: an exception out of the first call would also count a reject.
            try:
                if accepted:
                    self._manager.on_rollout_accepted()
                    return given.task_id
                self._manager.on_rollout_rejected()
                return None
            except Exception:
                self._manager.on_rollout_rejected()
                raise
            finally:
                self._transport.command("RPUSH", "ended", f"{given.task_id} {'accepted' if accepted else 'rejected'}")

        return run

    def _count(self, change: int) -> None:
        _, values = self._transport.pipeline([("HINCRBY", "now", self._name, change), ("HVALS", "now")])
        self._transport.command("RPUSH", "seen", sum(map(int, values)))


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main(url: str, run: str, name: str, *numbers: str) -> None:
    transport = open_transport(url)
    manager = StalenessManager(Provider(transport), *map(int, numbers), url=url, run=run, owner=name, lease_s=LEASE_S)
    rollouts = Rollouts(transport, name, manager)
    dispatcher = dispatcher_class()(max_queue_size=1000, task_factory=rollouts.task, staleness_manager=manager)
    dispatcher.initialize(logger=logging.getLogger("areal"))
    manager.attach(dispatcher)
    say("ready")
    submitted = 0
    for line in sys.stdin:
        for task in line.split():
            dispatcher.submit_task_input(Input(int(task)))
            submitted += 1
    if submitted:
        dispatcher.wait_results(submitted, timeout=60)
    dispatcher.destroy()
    wait_until(lambda: manager.flush() and not manager.unreported, "all is reported")
    say("done")
    manager.close()
    transport.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
