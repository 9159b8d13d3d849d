"""Gateways for tests, and clients that speak plain HTTP to them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from broker import RunConfig
from broker.integrations.agent_lightning_1.application import application
from broker.integrations.agent_lightning_1.gateway import RUN_CONFIG, Gateway
from broker.integrations.agent_lightning_1.proxy import ProxyConfig
from broker.integrations.http_server.serving import Listener

RUN = "agl/test"
#: A config under which what ran out and what failed goes out again at once.
QUICK = RunConfig(**{**RUN_CONFIG.model_dump(), "lease_ms": 400, "retry_backoff_ms": 0, "attempt_timeout_ms": 60_000})


@dataclass(frozen=True)
class Reply:
    """An answer: status and body."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Client:
    """A client of a gateway. With a name it is a controller of that name."""

    endpoint: str
    token: str | None = None

    def named(self, name: str) -> Client:
        return Client(f"{self.endpoint}/controller/{name}", self.token)

    def request(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
        parts = urlsplit(self.endpoint)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        sent = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        auth = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        try:
            connection.request(method, parts.path + path, sent, {**auth, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, response.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Reply:
        return self.request("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path)

    def create(self, *ids: str, **fields: Any) -> list[Any]:
        reply = self.request("POST", "/api/rollouts", [{"rollout_id": i, "input": {"q": i}, **fields} for i in ids])
        assert reply.status == 201, reply
        return reply.json

    def listed(self, *states: str, limit: int = 50) -> list[Any]:
        reply = self.get("/api/rollouts", state_in=states or ("queuing", "running"), limit=limit)
        assert reply.status == 200, reply
        return reply.json

    def ids(self, *states: str, limit: int = 50) -> list[str]:
        return [rollout["rollout_id"] for rollout in self.listed(*states, limit=limit)]

    def patch(self, rollout: str, state: str | None = None, **status: Any) -> Reply:
        changed = {**({} if state is None else {"state": state}), **status}
        return self.request("PATCH", f"/api/rollouts/{rollout}", {"status": changed})

    def run(self, rollout: str) -> None:
        """Starts a rollout and ends it well, as a controller does."""
        for state in ("running", "succeeded"):
            reply = self.patch(rollout, state, last_attempt_id="0")
            assert reply.status == 200, reply

    def status(self, rollout: str) -> Any:
        return self.get(f"/api/rollouts/{rollout}").json["rollout"]["status"]

    def post_event(self, rollout: str, kind: str = "reward", attempt: str = "0", **data: Any) -> Reply:
        path = f"/api/rollouts/{rollout}/attempt/{attempt}/events"
        return self.request("POST", path, {"event_type": kind, "data": data})

    def events(self, rollout: str, **query: Any) -> list[Any]:
        reply = self.get(f"/api/rollouts/{rollout}/events", **query)
        assert reply.status == 200, reply
        return reply.json

    @property
    def refused(self) -> dict[str, int]:
        return self.get("/api/gateway").json["refused"]


@contextmanager
def gateway(
    url: str,
    config: RunConfig | None = None,
    token: str | None = None,
    proxy: ProxyConfig | None = None,
    **limits: Any,
) -> Generator[Client]:
    """A gateway that serves in a thread of its own."""
    started: list[Any] = []
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with Gateway(url, RUN, config=config, proxy=proxy) as opened:
            listener = Listener("127.0.0.1", 0)
            await listener.start(application(opened, token=token, **limits))
            started.append(listener.endpoint)
            ready.set()
            await asyncio.to_thread(over.wait)
            await listener.stop()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            started.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="test-gateway")
    thread.start()
    try:
        assert ready.wait(30)
        assert isinstance(started[0], str), started
        yield Client(started[0], token)
    finally:
        over.set()
        thread.join(30)


def ids_of(rollouts: Iterable[Any]) -> list[str]:
    return [rollout["rollout_id"] for rollout in rollouts]
