"""The proxy to language models, and the models that the trainer registers."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from broker.integrations.agent_lightning_1 import proxy
from broker.integrations.agent_lightning_1.models import Model, server_for
from broker.integrations.agent_lightning_1.proxy import ProxyConfig
from tests.integrations.agent_lightning_1.models import ANSWER, FakeModel, fake_model
from tests.integrations.agent_lightning_1.serving import QUICK, Client, Reply, gateway
from tests.waiting import wait_until


@pytest.fixture
def client(url: str) -> Generator[Client]:
    with gateway(url, QUICK) as client:
        client.create("r1")
        yield client


@pytest.fixture
def model(client: Client) -> Generator[FakeModel]:
    with fake_model() as model:
        register(client, model.endpoint)
        yield model


def register(client: Client, endpoint: str, name: str = "m", version: int = 3) -> None:
    sent = [{"model": name, "endpoint": endpoint, "version": version}]
    reply = client.request("POST", "/api/models", sent)
    assert (reply.status, reply.json) == (201, sent)


def ask(
    client: Client, rollout: str = "r1", mode: str = "train", path: str = "chat/completions", body: object = None
) -> Reply:
    url = f"/proxy/rollout/{rollout}/attempt/0/mode/{mode}/openai/v1/{path}"
    return client.request("POST", url, {"messages": [], "temperature": 9} if body is None else body)


def test_a_request_is_passed_on_and_kept_as_an_event(client: Client, model: FakeModel) -> None:
    reply = ask(client)
    assert (reply.status, reply.json) == (200, ANSWER)
    sent = {"messages": [], "model": "m", "temperature": 1.0, "return_token_ids": True, "logprobs": True}
    assert model.requests == [("/v1/chat/completions", sent)]
    (event,) = client.events("r1")
    assert event["data"].pop("latency_ms") > 0
    assert event["data"] == {
        "model": "m",
        "model_version": 3,
        "request": sent,
        "response": ANSWER,
        "server": {"model": "m", "endpoint": model.endpoint, "version": 3},
        "http_status": 200,
        "status": "ok",
        "retry_count": 0,
        "routed_experts": None,
        "usage": {"total_tokens": 3},
        "finish_reason": "stop",
    }
    assert ask(client, mode="val", path="completions").status == 200
    assert model.requests[1] == (
        "/v1/completions",
        {"messages": [], "model": "m", "temperature": 0.7, "return_token_ids": True},
    )
    assert len(client.events("r1", format="triplet")) == 1, "both have one prompt"


def test_its_options_change_requests(url: str) -> None:
    config = ProxyConfig(model="big", train_temperature=0.5, log_probs=False, routed_experts=True)
    said: Any = {"choices": [{"token_ids": [1], "routed_experts": "xyz"}]}
    with gateway(url, QUICK, proxy=config) as client, fake_model(lambda _: (200, said)) as model:
        client.create("r1")
        register(client, model.endpoint, "small")
        assert ask(client).status == 503
        register(client, model.endpoint, "big")
        assert ask(client).json == {"choices": [{"token_ids": [1]}]}, "agents do not get the experts"
        (request,) = model.requests
        assert request[1] == {
            "messages": [],
            "model": "big",
            "temperature": 0.5,
            "return_token_ids": True,
            "return_routed_experts": True,
        }
        assert client.events("r1")[0]["data"]["routed_experts"] == "xyz"


def test_an_error_of_the_model_is_kept_and_passed_on(url: str) -> None:
    error = {"error": {"message": "too long"}}
    with gateway(url, QUICK) as client, fake_model(lambda _: (400, error)) as model:
        client.create("r1")
        register(client, model.endpoint)
        reply = ask(client)
        assert (reply.status, reply.json) == (400, error)
        (event,) = client.events("r1", format="triplet")
        assert (event["data"]["status"], event["data"]["error"]) == ("error", error["error"])


def test_a_model_that_is_busy_is_asked_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "_FIRST_PAUSE_S", 0.01)
    answers = [(503, {}), (429, {}), (500, b"not JSON"), (200, ANSWER)]
    with gateway(url, QUICK) as client, fake_model(lambda _: answers.pop(0)) as model:
        client.create("r1")
        register(client, model.endpoint)
        assert ask(client).status == 200
        assert client.events("r1")[0]["data"]["retry_count"] == 3
        answers[:] = [(500, b"not JSON")] * 6
        reply = ask(client)
        assert (reply.status, reply.json) == (500, {})
        assert len(model.requests) == 10


def test_a_model_that_is_not_there_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "_FIRST_PAUSE_S", 0.01)
    assert ask(client).status == 503
    register(client, "http://127.0.0.1:9/v1")
    assert ask(client).status == 502
    assert client.request("DELETE", "/api/models").json == {"status": "ok"}
    assert ask(client).status == 503
    assert client.events("r1") == []


def test_wrong_requests_are_refused(client: Client, model: FakeModel) -> None:
    assert ask(client, mode="test").status == 404
    assert ask(client, path="embeddings").status == 404
    assert ask(client, rollout="unknown").status == 404
    assert ask(client, body=b"{").status == 400
    assert ask(client, body=[]).status == 400
    assert ask(client, body={"stream": True}).status == 400
    assert client.request("POST", "/api/models", [{"model": "m"}]).status == 422
    assert model.requests == []


def test_an_attempt_that_is_over_costs_no_generation(client: Client, model: FakeModel) -> None:
    client.patch("r1", "running")
    client.patch("r1", "failed", error_message="exit 1")
    assert ask(client).status == 409
    assert model.requests == []
    (again,) = wait_until(lambda: client.ids("queuing"), "it goes out again")
    assert ask(client, rollout=again).status == 200
    assert client.refused == {"requests": 1}


def test_an_answer_that_comes_when_its_attempt_is_over_is_refused(url: str) -> None:
    asked, over = threading.Event(), threading.Event()

    def slow(_: Any) -> tuple[int, Any]:
        asked.set()
        over.wait(10)
        return 200, ANSWER

    with gateway(url, QUICK) as client, fake_model(slow) as model, ThreadPoolExecutor() as pool:
        client.create("r1")
        register(client, model.endpoint)
        client.patch("r1", "running")
        asking = pool.submit(ask, client)
        assert asked.wait(10)
        client.patch("r1", "failed", error_message="exit 1")
        over.set()
        assert asking.result().status == 409
        assert client.events("r1") == []


def test_a_pause_holds_for_every_gateway_and_counts_what_is_under_way(url: str) -> None:
    asked, over = threading.Event(), threading.Event()

    def slow(_: Any) -> tuple[int, Any]:
        asked.set()
        over.wait(10)
        return 200, ANSWER

    with gateway(url, QUICK) as one, gateway(url) as other, fake_model(slow) as model, ThreadPoolExecutor() as pool:
        one.create("r1")
        register(one, model.endpoint)
        free = {"paused": False, "retry_after_seconds": 5, "reason": None, "inflight": 0}
        assert one.get("/proxy/state").json == free
        asking = pool.submit(ask, one)
        assert asked.wait(10)
        paused = other.request("POST", "/proxy/pause", {"retry_after_seconds": 9, "reason": "new weights"})
        assert paused.json == {"paused": True, "retry_after_seconds": 9, "reason": "new weights", "inflight": 1}
        for client in (one, other):
            refused = ask(client)
            assert (refused.status, refused.json) == (429, {"error": "gateway paused", "reason": "new weights"})
        over.set()
        assert asking.result().status == 200
        wait_until(lambda: one.get("/proxy/state").json["inflight"] == 0, "none is under way")
        resumed = one.request("POST", "/proxy/resume").json
        assert resumed == {**free, "retry_after_seconds": 9}
        assert ask(other).status == 200


def test_an_agent_that_leaves_ends_its_request(url: str) -> None:
    asked, over = threading.Event(), threading.Event()

    def slow(_: Any) -> tuple[int, Any]:
        asked.set()
        over.wait(20)
        return 200, ANSWER

    with gateway(url, QUICK) as client, fake_model(slow) as model:
        client.create("r1")
        register(client, model.endpoint)
        parts = urlsplit(client.endpoint)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        connection.request("POST", "/proxy/rollout/r1/attempt/0/mode/train/openai/v1/chat/completions", b"{}")
        assert asked.wait(10)
        assert client.get("/proxy/state").json["inflight"] == 1
        connection.close()
        wait_until(lambda: client.get("/proxy/state").json["inflight"] == 0, "the gateway gave it up")
        over.set()
        assert client.events("r1") == []


def test_a_rollout_keeps_its_server() -> None:
    models = [Model(model="m", endpoint=f"http://{i}") for i in range(3)] + [Model(model="n", endpoint="http://x")]
    chosen = {server_for(models, "m", f"r{i}").endpoint for i in range(50)}  # pyright: ignore[reportOptionalMemberAccess]
    assert chosen == {"http://0", "http://1", "http://2"}
    assert server_for(models, "m", "r1") == server_for(models[::-1], "m", "r1")
    assert server_for(models, None, "r1") is None, "which of the two models is not said"
    assert server_for(models[:3], None, "r1") is not None
    assert server_for([], None, "r1") is None
