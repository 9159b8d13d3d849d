"""The fixtures of agent-lightning's server tests, with the gateway in place of its server. Copied as their conftest."""

# pyright: basic

from __future__ import annotations

import os
import uuid

import pytest
from starlette.testclient import TestClient

from broker.integrations.agent_lightning_1.application import application
from broker.integrations.agent_lightning_1.gateway import Gateway
from broker.integrations.agent_lightning_1.proxy import ProxyConfig

AGL_KEY = "test-secret-key"
MODEL_NAME = "test-model"


async def _send(client, url, body):
    import agentlightning.server.proxy as stock  # pyright: ignore[reportMissingImports] - of another Python

    return await stock._send_upstream_with_retries(client=client, url=url, body=body)


class _InPlace:
    """The gateway of a run of its own, open as long as the application."""

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        config = ProxyConfig(model=MODEL_NAME, val_temperature=0.0)
        async with Gateway(os.environ["BROKER_URL"], f"stock/{uuid.uuid4()}", proxy=config, send=_send) as gateway:
            self._app = application(gateway, token=AGL_KEY)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


@pytest.fixture
def client():
    with TestClient(_InPlace()) as client:
        yield client


@pytest.fixture
def auth_headers():
    return {"Authorization": f"Bearer {AGL_KEY}"}
