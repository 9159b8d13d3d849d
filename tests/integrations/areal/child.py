"""A process with staleness managers of its own, with orders as lines of JSON: `python -m tests.integrations.areal.child`."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from typing import Any

from broker.integrations.areal import RolloutStat, StalenessManager


class Provider:
    """A version that is set from outside."""

    version = 0

    def get_version(self) -> int:
        return self.version


class Child:
    """Carries out one line after the other."""

    def __init__(self) -> None:
        self.managers: dict[str, tuple[Provider, StalenessManager]] = {}

    def new(self, name: str, version: int, numbers: list[int], settings: dict[str, Any]) -> None:
        provider = Provider()
        provider.version = version
        self.managers[name] = provider, StalenessManager(provider, *numbers, **settings)

    def call(self, name: str, version: int, method: str, times: int, args: list[Any]) -> Any:
        provider, manager = self.managers[name]
        provider.version = version
        answer: Any = None
        for _ in range(times):
            answer = getattr(manager, method)(*args)
        return asdict(answer) if isinstance(answer, RolloutStat) else answer

    def start_while_capacity(self, name: str, most: int) -> int:
        """Checks, then acts, as AReaL's dispatcher does, until there is no capacity."""
        _, manager = self.managers[name]
        started = 0
        while started < most and manager.get_capacity() > 0:
            manager.on_rollout_enqueued()
            manager.on_rollout_submitted()
            started += 1
        return started

    def close(self, name: str) -> None:
        self.managers.pop(name)[1].close()


def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    child = Child()
    for line in sys.stdin:
        do, *args = json.loads(line)
        try:
            answer = [True, getattr(child, do)(*args)]
        except Exception as error:  # noqa: BLE001 - sent to the test, which judges it
            answer = [False, repr(error)]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for _, manager in child.managers.values():
        manager.close()


if __name__ == "__main__":
    main()
