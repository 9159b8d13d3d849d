"""Plain HTTP requests, as a client in any language may send them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reply:
    """An answer: status and body."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def request(
    endpoint: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection of its own."""
    parts = urlsplit(endpoint)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Reply(response.status, response.read().decode(), {k.lower(): v for k, v in response.getheaders()})
    finally:
        connection.close()


def get(endpoint: str, path: str, **headers: str) -> Reply:
    return request(endpoint, "GET", path, headers=headers)


def post(endpoint: str, rollout: object, **headers: str) -> Reply:
    return request(endpoint, "POST", "/rollout", json.dumps(rollout).encode(), headers)


async def aget(endpoint: str, path: str, **headers: str) -> Reply:
    return await asyncio.to_thread(get, endpoint, path, **headers)


async def apost(endpoint: str, rollout: object, **headers: str) -> Reply:
    return await asyncio.to_thread(post, endpoint, rollout, **headers)


async def atask(endpoint: str) -> Any:
    """Polls until there is a task, as clients do."""
    async with asyncio.timeout(10):
        while not (reply := await aget(endpoint, "/task")).json["is_available"]:
            assert reply.status == 200, reply
            await asyncio.sleep(0.01)
    return reply.json["task"]
