"""Agent-lightning's own client and types, without the rest of its package.

Importing the package also imports its tracers, model proxies and training stack, which the client does not need. So an
empty package of that name takes its place, and only the real submodules `client` and `types` are imported.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

_NAME = "agentlightning"


@dataclass(frozen=True)
class AgentLightning:
    """Its modules."""

    types: Any
    client: Any

    def connect(self, endpoint: str, **options: Any) -> Any:
        """An AgentLightningClient, without its warning that it is deprecated."""
        with pytest.warns(DeprecationWarning, match="AgentLightningClient is deprecated"):
            return self.client.AgentLightningClient(endpoint, **options)


@contextmanager
def installed() -> Generator[AgentLightning]:
    """Skips the test where the package, or what its client needs, is not installed."""
    spec = importlib.util.find_spec(_NAME)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("agentlightning is not installed (pip install --no-deps agentlightning==0.3.0)")
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == _NAME}
    package = ModuleType(_NAME)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    for name in before:
        del sys.modules[name]
    sys.modules[_NAME] = package
    try:
        yield AgentLightning(import_module(f"{_NAME}.types"), import_module(f"{_NAME}.client"))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("broker"):
            raise
        pytest.skip(f"agentlightning's client needs {error.name}, which is not installed")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == _NAME]:
            del sys.modules[name]
        sys.modules.update(before)
