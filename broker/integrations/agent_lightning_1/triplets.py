"""Events in the form that training needs: token ids, log-probabilities, the reward's value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

Event = dict[str, Any]


def _as_dict(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def request_tokens(data: dict[str, Any]) -> tuple[list[Any], list[Any], list[float] | None]:
    """Of a model's answer: the ids of the prompt's and the answer's tokens, and their log-probabilities or None.

    The answer is one object, or a list of the pieces of a stream.
    """
    response = data.get("response")
    if isinstance(response, dict):
        answer = cast("dict[str, Any]", response)
        first = _as_dict(next(iter(_as_list(answer.get("choices"))), None))
        prompt = _as_list(answer.get("prompt_token_ids")) or _as_list(first.get("prompt_token_ids"))
        return prompt, _as_list(first.get("token_ids")), _log_probs(first.get("logprobs"))
    prompt, tokens = list[Any](), list[Any]()
    for piece in map(_as_dict, _as_list(response)):
        prompt = prompt or _as_list(piece.get("prompt_token_ids"))
        tokens += _as_list(_as_dict(next(iter(_as_list(piece.get("choices"))), None)).get("token_ids"))
    return prompt, tokens, None


def _log_probs(found: Any) -> list[float] | None:
    """One number for each token; None: there are none, or one of them is no finite number."""
    given = _as_dict(found)
    if isinstance(given.get("content"), list):
        raw: list[Any] = [_as_dict(item).get("logprob") for item in given["content"]]
    elif isinstance(given.get("token_logprobs"), list):
        raw = given["token_logprobs"]
    else:
        return None
    numbers: list[float] = []
    for value in raw:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        if not math.isfinite(number):
            return None
        numbers.append(number)
    return numbers


def _trimmed(event: Event) -> Event:
    data = _as_dict(event["data"])
    if event["event_type"] == "reward":
        return {**event, "data": {"value": data.get("value"), **_some(data, "source", "reason")}}
    if event["event_type"] != "model_request":
        return event
    prompt, tokens, log_probs = request_tokens(data)
    server = _as_dict(data.get("server"))
    kept: dict[str, Any] = {
        "prompt_token_ids": prompt,
        "response_token_ids": tokens,
        "response_log_probs": log_probs,
        "server": {"model": server.get("model"), "version": server.get("version")},
    }
    if data.get("routed_experts") is not None:
        kept["routed_experts"] = data["routed_experts"]
    kept |= _some(data, "http_status", "status")
    kept |= _some(_as_dict(data.get("response")), "error")
    return {**event, "data": kept}


def _some(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: data[name] for name in names if name in data}


def triplets(events: Sequence[Event]) -> list[Event]:
    """The events without what training does not need; of requests with one prompt only the last."""
    trimmed = [_trimmed(event) for event in events]
    last: dict[tuple[int, ...], int] = {}
    kept: set[int] = set()
    for at, event in enumerate(trimmed):
        key = _prompt_key(event)
        if key is None:
            kept.add(at)
        else:
            last[key] = at
    kept.update(last.values())
    return [event for at, event in enumerate(trimmed) if at in kept]


def _prompt_key(event: Event) -> tuple[int, ...] | None:
    """The prompt of a request; None: the event is none, or its prompt is not known."""
    prompt = event["data"].get("prompt_token_ids") if event["event_type"] == "model_request" else None
    if not isinstance(prompt, list) or not prompt:
        return None
    tokens = cast("list[Any]", prompt)
    return None if any(type(token) is not int for token in tokens) else tuple(tokens)


def without_routed_experts(event: Event) -> Event:
    """An event without the experts that each token was routed to."""
    if event["event_type"] != "model_request" or "routed_experts" not in event["data"]:
        return event
    return {**event, "data": {name: value for name, value in event["data"].items() if name != "routed_experts"}}


def superseded_routes(events: Sequence[Event], new: dict[str, Any]) -> int | None:
    """The position of the request before whose routed experts a new request has, too.

    Experts take much memory. A request with the same prompt, or one that goes on from the answer, brings them again.

    Args:
        events: the attempt's events.
        new: the data of the new request.
    """
    at = next((i for i in reversed(range(len(events))) if events[i]["event_type"] == "model_request"), None)
    if at is None or "routed_experts" not in events[at]["data"]:
        return None
    prompt = request_tokens(new)[0]
    before, answer, _ = request_tokens(events[at]["data"])
    context = [*before, *answer]
    return at if prompt == before or prompt[: len(context)] == context else None
