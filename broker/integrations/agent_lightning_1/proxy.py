"""The proxy to language models: agents ask it as they would ask OpenAI's API, and it keeps what was said as events."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import httpx

from broker.integrations.agent_lightning_1.events import Events
from broker.integrations.agent_lightning_1.messages import EventCreate
from broker.integrations.agent_lightning_1.models import Model, Models, server_for
from broker.integrations.agent_lightning_1.rollouts import Refused
from broker.values import spans

_log = logging.getLogger(__name__)

#: How long a model may take to answer, seconds.
ANSWER_WITHIN_S = 300.0
#: How often a request is sent until its answer is taken as it is, and the pauses between, seconds.
_TRIES, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 6, 0.5, 8.0
#: Answers after which a request is sent again, as after those from 500 on.
_AGAIN = frozenset({408, 409, 429})
#: The paths of the API that are passed on.
PATHS = frozenset({"chat/completions", "completions"})
MODES = frozenset({"train", "val"})

#: Sends a request to a model until it has an answer to take: client, URL, body.
Send = Callable[[httpx.AsyncClient, str, dict[str, Any]], Awaitable[httpx.Response]]


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """How the proxy changes requests.

    Args:
        model: name of the model that all requests go to; None: the only one that is registered.
        train_temperature, val_temperature: temperature in each mode.
        log_probs: whether answers for training have log-probabilities.
        routed_experts: whether they have the experts that each token was routed to.
    """

    model: str | None = None
    train_temperature: float = 1.0
    val_temperature: float = 0.7
    log_probs: bool = True
    routed_experts: bool = False

    def prepared(self, body: dict[str, Any], mode: str, model: str) -> dict[str, Any]:
        """A request as it is sent."""
        training = mode == "train"
        prepared = {
            **body,
            "model": model,
            "temperature": self.train_temperature if training else self.val_temperature,
            "return_token_ids": True,
        }
        if training and self.log_probs:
            prepared["logprobs"] = True
        if training and self.routed_experts:
            prepared["return_routed_experts"] = True
        return prepared


@dataclass(frozen=True, slots=True)
class Answered:
    """What the agent gets: status, JSON, headers."""

    status: int
    body: Any
    headers: dict[str, str]


class Proxy:
    """The proxy of one gateway. Use it with `async with`.

    Args:
        models: where requests go.
        events: where what was said is kept.
        config: how requests are changed.
        send: sends a request; None: by HTTP, again where that may help.
    """

    def __init__(self, models: Models, events: Events, config: ProxyConfig, send: Send | None = None) -> None:
        self._models, self._events, self._config = models, events, config
        self._send = send or _sent
        # Agents wait for models for minutes; a limit of connections would make them wait for each other.
        self._client = httpx.AsyncClient(timeout=ANSWER_WITHIN_S, limits=httpx.Limits(max_connections=None))

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def answer(self, shown: str, attempt: str, mode: str, path: str, body: Any) -> Answered:
        """Passes a request on.

        Args:
            shown: the id of the rollout in the URL.
            attempt: the attempt in the URL.
            mode: `train` or `val`.
            path: of OpenAI's API.
            body: the request.

        Raises:
            Refused: the attempt is over, or no model is there, or the request is wrong.
        """
        if mode not in MODES:
            raise Refused(404, f"Unsupported proxy mode: {mode}")
        if path not in PATHS:
            raise Refused(404, f"Unsupported upstream path: {path}")
        if not isinstance(body, dict):
            raise Refused(400, "Request body must be a JSON object")
        name, _ = await self._events.admit(shown, attempt, "requests")
        entered = await self._models.enter()
        try:
            if entered.pause is not None:
                headers = {"retry-after": str(entered.pause.retry_after_seconds), "x-agl-paused": "true"}
                return Answered(429, {"error": "gateway paused", "reason": entered.pause.reason}, headers)
            server = server_for(entered.models, self._config.model, name.rollout)
            if server is None:
                raise Refused(503, f"No servers available for model '{self._config.model or 'the only one'}'")
            prepared = self._config.prepared(cast("dict[str, Any]", body), mode, server.model)
            if prepared.get("stream"):
                raise Refused(400, "Streaming responses are not supported")
            return await self._passed_on(shown, attempt, server, path, prepared)
        finally:
            await asyncio.shield(self._models.leave(entered.ticket))

    async def _passed_on(
        self, shown: str, attempt: str, server: Model, path: str, prepared: dict[str, Any]
    ) -> Answered:
        started = time.perf_counter()
        response = await self._send(self._client, f"{server.endpoint.rstrip('/')}/{path}", prepared)
        latency_ms = (time.perf_counter() - started) * 1000
        is_json = response.headers.get("content-type", "").startswith("application/json")
        answer: Any = response.json() if is_json else {}
        experts = _without_experts(answer)
        data: dict[str, Any] = {
            "model": server.model,
            "model_version": server.version,
            "request": prepared,
            "response": answer,
            "server": {"model": server.model, "endpoint": server.endpoint, "version": server.version},
            "latency_ms": latency_ms,
            "http_status": response.status_code,
            "status": "ok" if response.status_code < 400 else "error",
            "retry_count": int(response.extensions.get("tries", 1)) - 1,
            "routed_experts": experts,
            "usage": _dict_in(answer, "usage"),
            "finish_reason": _finish_reason(answer),
        }
        await self._events.add(shown, attempt, EventCreate(event_type="model_request", data=data), "requests")
        return Answered(response.status_code, answer, {})


async def _sent(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"content-type": "application/json"}
    if (active := spans.active) is not None and (context := active.here()):
        headers["traceparent"] = context
    for tries in range(1, _TRIES + 1):
        try:
            response = await client.post(url, content=json.dumps(body), headers=headers)
        except httpx.TimeoutException:
            failed, refused = "it did not answer in time", Refused(504, "Upstream model server timed out")
        except httpx.TransportError as error:
            failed, refused = str(error), Refused(502, "Upstream model server request failed")
        else:
            if tries == _TRIES or not (response.status_code in _AGAIN or response.status_code >= 500):
                response.extensions["tries"] = tries
                return response
            failed, refused = f"it answered {response.status_code}", None
        if tries == _TRIES and refused is not None:
            raise refused
        pause_s = min(_FIRST_PAUSE_S * 2 ** (tries - 1), _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
        _log.warning("model server %s: %s; request %d of %d in %.1f s", url, failed, tries + 1, _TRIES, pause_s)
        await asyncio.sleep(pause_s)
    raise AssertionError("the last try has returned or raised")


def _choices(answer: Any) -> list[dict[str, Any]]:
    given: Any = cast("dict[str, Any]", answer).get("choices") if isinstance(answer, dict) else None
    if not isinstance(given, list):
        return []
    return [cast("dict[str, Any]", one) for one in cast("list[Any]", given) if isinstance(one, dict)]


def _without_experts(answer: Any) -> Any:
    """Takes the routed experts out of an answer: agents have no use for them. Returns them."""
    for choice in _choices(answer):
        experts = choice.pop("routed_experts", None)
        if experts is not None:
            return experts
    return None


def _dict_in(answer: Any, name: str) -> dict[str, Any] | None:
    found: Any = cast("dict[str, Any]", answer).get(name) if isinstance(answer, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _finish_reason(answer: Any) -> str | None:
    reason: Any = next((choice.get("finish_reason") for choice in _choices(answer)), None)
    return reason if isinstance(reason, str) and reason else None
