"""A server for the tests of this folder, and staleness managers that are closed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from typing import Any

import pytest

from broker.integrations.areal import StalenessManager
from broker.local_server.embedded import EmbeddedServer
from tests.integrations.areal.crew import AnyManager, Process, Shared, processes

Make = Callable[..., Any]


class Provider:
    """A version provider that a test sets."""

    def __init__(self, version: int = 0) -> None:
        self.version = version

    def get_version(self) -> int:
        return self.version


@pytest.fixture(scope="session")
def areal_url() -> Generator[str]:
    server = EmbeddedServer()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def children() -> Generator[list[Process]]:
    """Three processes for all tests that share a run among processes and harm none."""
    with processes(3) as started:
        yield started


@pytest.fixture
def run() -> str:
    return f"areal-{secrets.token_hex(4)}"


@pytest.fixture
def make(areal_url: str, run: str) -> Generator[Make]:
    """Makes managers of this process; all of a test share a run."""
    made: list[StalenessManager] = []

    def new(provider: Any, *numbers: int, **settings: Any) -> StalenessManager:
        made.append(StalenessManager(provider, *numbers, **{"url": areal_url, "run": run, **settings}))
        return made[-1]

    yield new
    for manager in made:
        manager.close()


@pytest.fixture(params=["one process", "three processes"])
def manager_of(
    request: pytest.FixtureRequest, areal_url: str, run: str, make: Make, children: list[Process]
) -> Generator[Callable[..., AnyManager]]:
    """Makes the manager of a test: of this process, or one whose calls go to three processes in turn."""
    made: list[Shared] = []

    def new(provider: Any, *numbers: int) -> AnyManager:
        if request.param == "one process":
            return make(provider, *numbers)
        shared = Shared(children, provider, *numbers, url=areal_url, run=run)
        made.append(shared)
        return shared

    yield new
    for manager in made:
        manager.close()
