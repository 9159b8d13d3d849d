"""Servers and profiles of the property tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.servers import real_kinds

from .servers import drivers_of
from .world import Driver

#: `ci`: the same few thousand steps every time; `deep`: random, and many more.
PROFILE = os.environ.get("BROKER_PROPERTY_PROFILE", "ci")


@pytest.fixture(scope="session")
def deep() -> bool:
    """Whether to search long and at random."""
    return PROFILE == "deep"


@pytest.fixture(scope="session", params=real_kinds(), ids=str)
def make_driver(request: pytest.FixtureRequest) -> Iterator[Callable[[], Driver]]:
    """A maker of drivers over a private server, each call with an empty store."""
    with drivers_of(request.param) as make:
        yield make
