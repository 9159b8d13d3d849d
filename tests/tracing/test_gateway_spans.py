"""Spans of gateways: below the span that a client names, and with links from the step that trains the result."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("opentelemetry.sdk", reason="pip install -e '.[otel]'")
pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import broker.tracing
from broker import RunConfig, Task, Trainer
from broker.integrations.agent_lightning.application import application
from broker.integrations.agent_lightning.gateway import Gateway
from broker.integrations.http_server.serving import Listener
from tests.integrations.agent_lightning.wire import aget, apost, atask
from tests.integrations.agent_lightning_1.models import fake_model
from tests.integrations.agent_lightning_1.serving import QUICK, gateway
from tests.tracing.finished import named

#: What an agent that is traced sends; its trace is the first part, its span the second.
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def test_a_step_links_to_the_request_that_brought_a_rollout(url: str, exporter: InMemorySpanExporter) -> None:
    async def post_rollouts() -> None:
        async with Gateway(url, "posted") as opened:
            listener = Listener("127.0.0.1", 0)
            await listener.start(application(opened))
            try:
                for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/nothing", 404)):
                    assert (await aget(listener.endpoint, path)).status == status
                task = await atask(listener.endpoint)
                rollout = {"rollout_id": task["rollout_id"], "final_reward": 1.0, "task": task}
                for header in (HEADER, HEADER.replace("b7ad", "ffff"), "nonsense"):  # a client that heard no answer
                    reply = await apost(listener.endpoint, rollout, traceparent=header)
                    assert "stored" in reply.json["message"], reply
                    assert "not stored" not in reply.json["message"], reply
            finally:
                await listener.stop()

    with Trainer(url, "posted", RunConfig(consumer_batch_size=1)) as trainer:
        trainer.enqueue(Task(id="t", payload={"q": 1}))
        asyncio.run(post_rollouts())
        (rollout,) = trainer.next_batch(timeout=10)
        trainer.advance()
    first, second, third = named(exporter, "POST /rollout")
    assert first.kind == SpanKind.SERVER
    assert first.parent is not None
    assert (f"{first.parent.trace_id:032x}", f"{first.parent.span_id:016x}") == (TRACE, SPAN)
    assert second.parent is not None
    assert third.parent is None
    assert rollout.samples[0].trace in {traceparent(span) for span in (first, second, third)}
    assert rollout.results[0]["final_reward"] == 1.0
    (step,) = named(exporter, "broker.train")
    assert [f"{link.context.span_id:016x}" for link in step.links] == [rollout.samples[0].trace.split("-")[2]]
    told = {**(first.attributes or {})}
    assert told.pop("broker.attempt") == rollout.samples[0].attempt_id
    assert told == {
        "http.request.method": "POST",
        "http.route": "/rollout",
        "http.response.status_code": 200,
        "broker.run": "posted",
        "broker.task": "t",
        "broker.answer": "accepted",
    }
    handed = named(exporter, "GET /task")[-1].attributes or {}
    assert handed["broker.attempt"] == rollout.samples[0].attempt_id
    assert not [span for span in exporter.get_finished_spans() if "z" in span.name or "/metrics" in span.name]


def test_a_request_to_a_model_goes_on_with_the_trace_of_the_agent(url: str, exporter: InMemorySpanExporter) -> None:
    with gateway(url, QUICK) as client, fake_model() as model:
        client.create("r1")
        client.request("POST", "/api/models", [{"model": "m", "endpoint": model.endpoint, "version": 3}])
        path = "/proxy/rollout/r1/attempt/0/mode/train/openai/v1/chat/completions"
        assert client.request("POST", path, {"messages": []}, {"traceparent": HEADER}).status == 200
        assert client.request("POST", path.replace("r1", "r2"), {"messages": []}).status == 404
        broker.tracing.uninstall()
        assert client.request("POST", path, {"messages": []}, {"traceparent": HEADER}).status == 200
    passed, refused = [span for span in exporter.get_finished_spans() if "proxy" in span.name]
    assert passed.name == refused.name, "no id is in the name"
    assert traceparent(passed).split("-")[1] == TRACE
    assert [headers.get("traceparent") for headers in model.headers] == [traceparent(passed), None]
    assert (refused.attributes or {})["http.response.status_code"] == 404
