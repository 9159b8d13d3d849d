"""A plugin of pytest for AReaL's own tests: `install` is in place, and each manager that they make has a run of its own.

Their tests make managers with other numbers, one after the other, as if no other had ever been. Loaded in the
environment of AReaL, as a module of its own: `tests` is AReaL's package there. Without `BROKER_URL` AReaL's own managers
stay, to tell which tests fail there anyway.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Generator
from types import ModuleType
from typing import Any

import pytest

from broker.integrations import areal

_made: list[areal.StalenessManager] = []
_count = 0


def pytest_configure() -> None:
    # Downloads models as it is imported; the tests that use one need a GPU.
    placeholder: Any = ModuleType("tests.utils")
    placeholder.get_model_path = placeholder.get_dataset_path = lambda *_: "/no/model"
    sys.modules["tests.utils"] = placeholder
    if "BROKER_URL" in os.environ:
        areal.installation.StalenessManager = _Apart  # pyright: ignore[reportAttributeAccessIssue]
        areal.install(os.environ["BROKER_URL"], "own-suites")


class _Apart(areal.StalenessManager):
    def __init__(self, *args: Any, **settings: Any) -> None:
        global _count  # noqa: PLW0603 - told at the end
        super().__init__(*args, **{**settings, "run": f"{settings['run']}/{secrets.token_hex(6)}"})
        _made.append(self)
        _count += 1


@pytest.fixture(autouse=True)
def managers_end_with_their_test() -> Generator[None]:
    yield
    while _made:
        _made.pop().close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"{_count} staleness managers were the broker's")
