"""The servers of language models that the trainer registered, and whether requests to them are held back.

All gateways of a run share them. So a pause holds for every gateway, and the number of requests under way is that of
all of them: a trainer that changes its weights waits until it is 0.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from broker.connections import AsyncTransport
from broker.protocol import keys

#: A request counts as under way for so long after its gateway's last word, seconds: a gateway may die.
_COUNTED_FOR_S = 30.0


class Model(BaseModel):
    """A server of a model.

    Args:
        model: name of the model.
        endpoint: URL of its API, such as `http://host:8000/v1`.
        version: of its weights: the training step.
    """

    model: str
    endpoint: str
    version: int = 0


class PauseRequest(BaseModel):
    """Holds requests to models back.

    Args:
        retry_after_seconds: when agents may ask again.
        reason: for people.
    """

    retry_after_seconds: int = 5
    reason: str | None = None


class PauseState(BaseModel):
    """Whether requests to models are held back, and how many are under way."""

    paused: bool
    retry_after_seconds: int
    reason: str | None
    inflight: int


@dataclass(frozen=True, slots=True)
class Entered:
    """A request that has begun.

    Args:
        ticket: counts it as under way until `leave`.
        pause: the pause that holds it back, or None.
        models: the registered servers.
    """

    ticket: str
    pause: PauseRequest | None
    models: tuple[Model, ...]


class Models:
    """The models of one run.

    Args:
        transport: the server.
        run: name of the run.
    """

    def __init__(self, transport: AsyncTransport, run: str) -> None:
        self._transport = transport
        self._models, self._pause = keys.key(run, "gateway:models"), keys.key(run, "gateway:pause")
        self._tickets = keys.key(run, "gateway:under_way")
        self._own: set[str] = set()

    async def register(self, models: Sequence[Model]) -> None:
        """Adds servers. One that is there gets its new version."""
        parts = [part for one in models for part in (json.dumps([one.model, one.endpoint]), one.model_dump_json())]
        if parts:
            await self._transport.command("HSET", self._models, *parts)

    async def delete_all(self) -> None:
        """Forgets all servers."""
        await self._transport.command("DEL", self._models)

    async def pause(self, pause: PauseRequest) -> PauseState:
        """Holds requests back that begin from now on."""
        await self._transport.command("SET", self._pause, pause.model_dump_json())
        return await self.state()

    async def resume(self) -> PauseState:
        """Holds requests back no more."""
        found: bytes | None = await self._transport.command("GET", self._pause)
        await self._transport.command("DEL", self._pause)
        state = await self.state()
        return state if found is None else state.model_copy(update={"retry_after_seconds": _pause_in(found)})

    async def state(self) -> PauseState:
        """Whether requests are held back, and how many are under way in all gateways."""
        # The pause is read first: a request that did not see it is counted by then.
        found, count = await self._transport.pipeline(
            [("GET", self._pause), ("ZCOUNT", self._tickets, repr(time.time()), "+inf")]
        )
        pause = PauseRequest() if found is None else PauseRequest.model_validate_json(found)
        return PauseState(
            paused=found is not None,
            retry_after_seconds=pause.retry_after_seconds,
            reason=pause.reason,
            inflight=int(count),
        )

    async def enter(self) -> Entered:
        """Begins a request. The caller calls `leave` with its ticket, also if it is held back."""
        ticket = secrets.token_hex(8)
        self._own.add(ticket)
        # It is counted first, and looks for a pause then: whoever pauses sees it, or it sees the pause.
        _, pause, flat = await self._transport.pipeline(
            [
                ("ZADD", self._tickets, repr(time.time() + _COUNTED_FOR_S), ticket),
                ("GET", self._pause),
                ("HGETALL", self._models),
            ]
        )
        return Entered(
            ticket,
            None if pause is None else PauseRequest.model_validate_json(pause),
            tuple(Model.model_validate_json(text) for text in flat[1::2]),
        )

    async def leave(self, ticket: str) -> None:
        """Ends a request."""
        self._own.discard(ticket)
        await self._transport.command("ZREM", self._tickets, ticket)

    async def keep_counting(self) -> None:
        """Counts this gateway's requests for longer, and forgets those of gateways that died."""
        now = time.time()
        parts = [part for ticket in self._own for part in (repr(now + _COUNTED_FOR_S), ticket)]
        counting = [("ZADD", self._tickets, "XX", *parts)] if parts else []
        await self._transport.pipeline([*counting, ("ZREMRANGEBYSCORE", self._tickets, "-inf", repr(now))])


def _pause_in(found: bytes) -> int:
    return PauseRequest.model_validate_json(found).retry_after_seconds


def server_for(models: Sequence[Model], name: str | None, rollout: str) -> Model | None:
    """The server of a rollout's requests: always the same one, which has the prompt in its cache.

    Args:
        models: the registered servers.
        name: the model; None: the only one that is registered.
        rollout: the rollout.

    Returns:
        None: no server has that model, or several models are registered and none is named.
    """
    if name is None and len({one.model for one in models}) > 1:
        return None
    pool = sorted((one for one in models if name in {None, one.model}), key=lambda one: one.endpoint)
    if not pool:
        return None
    digest = hashlib.sha256(rollout.encode()).digest()
    return pool[int.from_bytes(digest[:8], "big") % len(pool)]
