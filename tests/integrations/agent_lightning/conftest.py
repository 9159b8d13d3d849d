from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.integrations.agent_lightning import stock


@pytest.fixture(scope="session")
def agentlightning() -> Generator[stock.AgentLightning]:
    """Agent-lightning's own client and types."""
    with stock.installed() as found:
        yield found
