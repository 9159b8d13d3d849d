"""A controller that calls its workers under its lock holds up nothing here."""

from __future__ import annotations

import threading
import time
from typing import Any

from broker.operator import Operator
from tests.integrations.areal.conftest import Make
from tests.integrations.areal.waiting_dispatcher import Dispatcher
from tests.waiting import wait_until

LEASE_S = 1.0


class Controller:
    """Locks as AReaL's does."""

    def __init__(self) -> None:
        self._version_lock, self._version = threading.Lock(), 0
        self.told, self.may_go_on = threading.Event(), threading.Event()

    def get_version(self) -> int:
        with self._version_lock:
            return self._version

    def set_version(self, version: int) -> None:
        with self._version_lock:
            self._version = version
            self.told.set()
            self.may_go_on.wait(60)


def test_a_version_that_workers_are_slow_to_hear_of_costs_no_lease(make: Make, areal_url: str, run: str) -> None:
    controller, dispatcher = Controller(), Dispatcher()
    manager = make(controller, 10, 4, 1, lease_s=LEASE_S)
    manager.attach(dispatcher)
    manager.on_rollout_enqueued()
    wait_until(lambda: manager.get_capacity() == 8, "the server answers in time", 10)
    manager.on_rollout_submitted()
    setting: Any = threading.Thread(target=controller.set_version, args=(1,))
    setting.start()
    controller.told.wait(10)
    try:
        with Operator(areal_url) as operator:
            until, answers = time.monotonic() + 3 * LEASE_S, set[int]()
            while time.monotonic() < until:
                began = time.monotonic()
                answers.add(manager.get_capacity())
                assert time.monotonic() - began < LEASE_S
                assert operator.stats(run).running == 1
                time.sleep(0.1)
            # By the version that the workers have; 0 where an answer did not come in time.
            assert {7} <= answers <= {7, 0}
    finally:
        controller.may_go_on.set()
        setting.join()
    wait_until(lambda: manager.get_capacity() == 9, "the new version counts", 10)
