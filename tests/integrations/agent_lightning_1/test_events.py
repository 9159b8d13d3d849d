"""Events over the API: kept for each attempt, in order, and trimmed for training."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from broker.integrations.agent_lightning_1.triplets import Event, superseded_routes, triplets
from tests.integrations.agent_lightning_1.serving import QUICK, Client, gateway
from tests.waiting import wait_until


@pytest.fixture
def client(url: str) -> Generator[Client]:
    with gateway(url, QUICK) as client:
        client.create("r1")
        yield client


def request(prompt: list[Any], answer: list[int], **more: Any) -> dict[str, Any]:
    response = {"prompt_token_ids": prompt, "choices": [{"token_ids": answer, **more}]}
    return {"response": response, "server": {"model": "m", "version": 3, "endpoint": "x"}, "latency_ms": 1}


def test_events_are_kept_in_order(client: Client) -> None:
    before = client.status("r1")["created_at"]
    first = client.post_event("r1", "note", text="a").json
    assert first.pop("timestamp") >= before
    assert first == {"event_type": "note", "rollout_id": "r1", "attempt_id": "0", "data": {"text": "a"}}
    client.request("POST", "/api/rollouts/r1/attempt/0/events", {"event_type": "empty"})
    client.post_event("r1", "reward", value=1)
    assert [(event["event_type"], event["data"]) for event in client.events("r1")] == [
        ("note", {"text": "a"}),
        ("empty", {}),
        ("reward", {"value": 1}),
    ]
    assert [event["data"] for event in client.events("r1", event_type="reward")] == [{"value": 1}]
    assert client.get("/api/rollouts/r1").json["attempts"] == ["0"]


def test_an_attempt_that_failed_takes_no_more_events(client: Client) -> None:
    client.ids()
    client.patch("r1", "running")
    client.post_event("r1", value=1)
    client.patch("r1", "failed", error_message="exit 1")
    assert client.post_event("r1", value=2).status == 409
    (again,) = wait_until(lambda: client.ids("queuing"), "it goes out again")
    client.patch(again, "running")
    assert client.post_event("r1", value=3).status == 409
    assert client.events("r1") == []
    client.post_event(again, value=4)
    client.patch(again, "succeeded")
    assert [event["data"]["value"] for event in client.events("r1")] == [4]
    assert client.refused == {"events": 2}


def test_a_rollout_that_failed_for_good_takes_what_the_trainers_hooks_add(client: Client) -> None:
    name = "r1"
    for _ in range(3):
        client.patch(name, "running")
        client.patch(name, "failed", error_message="exit 1")
        if client.status("r1")["state"] == "queuing":
            (name,) = wait_until(lambda: client.ids("queuing"), "it goes out again")
    last = client.status("r1")
    assert last["state"] == "failed"
    assert client.post_event("r1", attempt="0", value=0.0).status == 409, "that attempt is not the last one"
    assert client.post_event(name, value=-1.0).status == 200
    assert [event["data"]["value"] for event in client.events("r1")] == [-1.0]


def test_triplets_have_what_training_needs(client: Client) -> None:
    log_probs = {"content": [{"logprob": -0.5, "token": "x"}]}
    client.post_event("r1", "model_request", **request([1, 2], [10], logprobs=log_probs), http_status=200, status="ok")
    client.post_event("r1", "reward", value=0.5, source="agent", more="x")
    client.post_event("r1", "model_request", **request([3], [20], logprobs={"token_logprobs": [-1, "-2"]}))
    client.post_event("r1", "model_request", **request([1, 2], [30]))
    client.post_event("r1", "model_request", response={"error": {"message": "too long"}}, status="error")
    client.post_event("r1", "note", text="a")
    base = {"server": {"model": "m", "version": 3}}
    assert [event["data"] for event in client.events("r1", format="triplet")] == [
        {"value": 0.5, "source": "agent"},
        {**base, "prompt_token_ids": [3], "response_token_ids": [20], "response_log_probs": [-1.0, -2.0]},
        {**base, "prompt_token_ids": [1, 2], "response_token_ids": [30], "response_log_probs": None},
        {
            "server": {"model": None, "version": None},
            "prompt_token_ids": [],
            "response_token_ids": [],
            "response_log_probs": None,
            "status": "error",
            "error": {"message": "too long"},
        },
        {"text": "a"},
    ]
    (first,) = client.events("r1", event_type="model_request", format="triplet")[:1]
    assert first["data"]["prompt_token_ids"] == [3]


def test_only_the_last_request_of_a_conversation_keeps_its_experts(client: Client) -> None:
    client.post_event("r1", "model_request", **request([1, 2], [3]), routed_experts="A")
    client.post_event("r1", "model_request", **request([1, 2, 3, 4], [5]), routed_experts="B")
    client.post_event("r1", "model_request", **request([9], [5]), routed_experts="C")
    experts = [event["data"].get("routed_experts") for event in client.events("r1")]
    assert experts == [None, "B", "C"]
    assert [event["data"].get("routed_experts") for event in client.events("r1", format="triplet")] == experts
    without = client.events("r1", include_routed_experts="false")
    assert not any("routed_experts" in event["data"] for event in without)


def event(kind: str, data: dict[str, Any]) -> Event:
    return {"event_type": kind, "data": data}


@pytest.mark.parametrize(
    "log_probs",
    [None, 3, {}, {"content": [{}]}, {"content": ["x"]}, {"token_logprobs": [float("nan")]}, {"token_logprobs": ["x"]}],
)
def test_log_probabilities_that_cannot_be_used_are_none(log_probs: Any) -> None:
    (trimmed,) = triplets([event("model_request", request([1], [2], logprobs=log_probs))])
    assert trimmed["data"]["response_log_probs"] is None


@pytest.mark.parametrize("prompt", [None, "x", [], [1.5], [True]])
def test_requests_without_a_known_prompt_are_all_kept(prompt: Any) -> None:
    events = [event("model_request", {"response": {"prompt_token_ids": prompt}})] * 2
    assert len(triplets(events)) == 2


def test_a_stream_in_pieces_is_read() -> None:
    pieces = [{"prompt_token_ids": [1]}, {"choices": [{"token_ids": [2]}]}, {"choices": []}, "x"]
    more = [{"choices": [{"prompt_token_ids": [7], "token_ids": [8]}]}]
    found = triplets([event("model_request", {"response": pieces}), event("model_request", {"response": more[0]})])
    tokens = [(e["data"]["prompt_token_ids"], e["data"]["response_token_ids"]) for e in found]
    assert tokens == [([1], [2]), ([7], [8])]


def test_experts_of_another_conversation_are_not_superseded() -> None:
    with_experts = {**request([1], [2]), "routed_experts": "A"}
    assert superseded_routes([event("model_request", with_experts)], request([1], [9])) == 0
    assert superseded_routes([event("model_request", with_experts), event("reward", {})], request([1, 2, 5], [9])) == 0
    assert superseded_routes([event("model_request", with_experts)], request([1, 3], [9])) is None
    assert superseded_routes([event("model_request", request([1], [2]))], request([1], [9])) is None
    assert superseded_routes([event("reward", {})], request([1], [9])) is None
