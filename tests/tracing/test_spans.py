"""Spans of OpenTelemetry: from a claim to its answer in one process, and links from a step in another."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="pip install -e '.[otel]'")

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

import broker.tracing
from broker import Reject, RunConfig, Task, Trainer, Worker, aio
from broker.values import spans
from tests.child import Child
from tests.threads import InThread
from tests.tracing.finished import named
from tests.tracing.traced import BATCH, STEPS


@pytest.mark.processes
def test_a_step_links_to_the_attempts_of_other_processes(url: str) -> None:
    module = ("-m", "tests.tracing.traced")
    with Child(*module, "trainer", url) as trainer:
        assert trainer.read_line() == "open"
        with Child(*module, "worker", url) as worker, Child(*module, "aio-worker", url) as aio_worker:
            found: dict[str, list[Any]] = {}
            for role, child in (("trainer", trainer), ("worker", worker), ("aio", aio_worker)):
                ended = child.end()
                assert ended.code == 0, ended.err
                found[role] = [json.loads(line) for line in ended.out.splitlines()]
    worked = found["worker"] + found["aio"]
    attempts = {context(span): span for span in worked if span["name"] == "broker.attempt"}
    accepted = {key for key, span in attempts.items() if span["attributes"]["broker.answer"] == "accepted"}
    steps = [span for span in found["trainer"] if span["name"] == "broker.train"]
    assert [span["attributes"]["broker.step"] for span in steps] == list(range(STEPS))
    linked = [context(link) for span in steps for link in span["links"]]
    assert len(linked) == STEPS * BATCH
    assert set(linked) == accepted
    for step in steps:
        for link in step["links"]:
            of = attempts[context(link)]["attributes"]
            assert link["attributes"] == {"broker.attempt": of["broker.attempt"], "broker.worker": of["broker.worker"]}
    (first, *_) = [span for span in found["trainer"] if span["name"] == "loss"]
    assert first["parent_id"] == steps[0]["context"]["span_id"]
    check_attempts(worked, attempts)


def context(of: dict[str, Any]) -> tuple[str, str]:
    return of["context"]["trace_id"], of["context"]["span_id"]


def check_attempts(worked: list[Any], attempts: dict[tuple[str, str], Any]) -> None:
    """Each attempt has a handler with what the handler began, a submit, and a link to its claim."""
    claims = {context(span) for span in worked if span["name"] == "broker.claim"}
    by_id = {span["context"]["span_id"]: span for span in worked}
    for span in worked:
        if span["name"] in ("broker.handler", "broker.submit"):
            assert by_id[span["parent_id"]]["name"] == "broker.attempt"
        if span["name"] == "generate":
            assert by_id[span["parent_id"]]["name"] == "broker.handler"
    for key, attempt in attempts.items():
        assert [context(link) in claims for link in attempt["links"]] == [True]
        below = sorted(span["name"] for span in worked if span["context"]["trace_id"] == key[0])
        if attempt["attributes"]["broker.answer"] == "accepted":
            assert below == ["broker.attempt", "broker.handler", "broker.submit", "generate"]


def test_each_way_an_attempt_ends_ends_its_span(url: str, exporter: InMemorySpanExporter) -> None:
    with Trainer(url, "ends", RunConfig(consumer_batch_size=9, max_attempts=1)) as trainer:
        trainer.enqueue(Task(id=f"t{i}") for i in range(5))
        with Worker(url, "ends", name="w") as worker:
            accepted, rejected, failed, released, cancelled = worker.claim(5, timeout=10)
            worker.submit(accepted, b"r")
            worker.reject(rejected, "no")
            worker.fail(failed, ValueError("boom"))
            worker.release(released)
            trainer.cancel([cancelled.task])
            worker.renew()
            assert broker.tracing.context_of_attempt(accepted) is None, "it has ended"
    ended = {span.attributes["broker.task"]: span for span in named(exporter, "broker.attempt") if span.attributes}
    answers = {task: (span.attributes or {})["broker.answer"] for task, span in ended.items()}
    assert answers == {
        accepted.task: "accepted",
        rejected.task: "rejected",
        failed.task: "failed",
        released.task: "released",
        cancelled.task: "cancelled",
    }
    assert ended[failed.task].status.status_code is StatusCode.ERROR
    assert "boom" in (ended[failed.task].status.description or "")
    assert len(named(exporter, "broker.claim")) == 1


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "asyncio"])
def test_a_handler_that_raises_has_its_exception_and_a_verdict_has_none(
    url: str, exporter: InMemorySpanExporter, *, is_async: bool
) -> None:
    run, calls = f"raises-{is_async}", list[str]()

    def handler(attempt: Any) -> bytes:
        calls.append(attempt.task)
        if len(calls) == 2:
            worker.drain()
        raise ValueError("boom") if attempt.task == "bad" else Reject("no")

    async def handler_async(attempt: Any) -> bytes:
        return handler(attempt)

    async def work() -> None:
        nonlocal worker
        async with aio.Worker(url, run) as worker:
            await worker.run(handler_async)

    worker: Any = None
    with Trainer(url, run, RunConfig(consumer_batch_size=2, max_attempts=1)) as trainer:
        trainer.enqueue([Task(id="bad"), Task(id="unwanted")])
        if is_async:
            asyncio.run(work())
        else:
            with Worker(url, run) as worker:
                worker.run(handler)
    seen = {
        span.status.status_code: [event.name for event in span.events] for span in named(exporter, "broker.handler")
    }
    assert seen == {StatusCode.ERROR: ["exception"], StatusCode.UNSET: []}


def test_a_batch_that_is_delivered_again_is_one_step_more_and_each_span_ends(
    url: str, exporter: InMemorySpanExporter
) -> None:
    with Trainer(url, "again", RunConfig(consumer_batch_size=1)) as trainer, Worker(url, "again") as worker:
        trainer.enqueue(Task(id="t", samples=2))
        for attempt in worker.claim(2, timeout=10):
            worker.submit(attempt, {"x": 1})
        batches = [trainer.next_batch(timeout=10) for _ in range(2)]
        assert [sample.result for sample in batches[1][0].samples] == [{"x": 1}] * 2
        assert len(named(exporter, "broker.train")) == 1
        trainer.advance()
        first, second = named(exporter, "broker.train")
        assert len(first.links) == len(second.links) == 2


def test_who_is_not_traced_reads_the_results_of_who_is(url: str, exporter: InMemorySpanExporter) -> None:
    results = [b"", b"\xc1\x04\x00\x00\x05hello", {"a": [1, 2]}, b"x" * 100_000]
    with Trainer(url, "untraced", RunConfig(consumer_batch_size=4)) as trainer, Worker(url, "untraced") as worker:
        trainer.enqueue(Task(id=f"t{i}") for i in range(4))
        for attempt, result in zip(worker.claim(4, timeout=10), results, strict=True):
            worker.submit(attempt, result)
        broker.tracing.uninstall()
        batch = sorted(trainer.next_batch(timeout=10), key=lambda rollout: rollout.task)
        assert [rollout.samples[0].result for rollout in batch] == results
        assert all(rollout.samples[0].trace.startswith("00-") for rollout in batch)
        trainer.advance()
        assert named(exporter, "broker.train") == []


def test_an_attempt_that_is_not_sampled_sends_no_context(url: str) -> None:
    broker.tracing.install(TracerProvider(sampler=ALWAYS_OFF))
    try:
        with Trainer(url, "unsampled", RunConfig(consumer_batch_size=1)) as trainer:
            trainer.enqueue(Task(id="t"))
            with Worker(url, "unsampled") as worker:
                (attempt,) = worker.claim(timeout=10)
                worker.submit(attempt, b"r")
            assert trainer.next_batch(timeout=10)[0].samples[0].trace == ""
    finally:
        broker.tracing.uninstall()
    assert spans.active is None


@pytest.mark.parametrize("context", ["", "nonsense", "00-0-0-01", "00-zz-1-01", "a-b-c-d-e"])
def test_a_context_that_cannot_be_read_is_no_link(context: str) -> None:
    assert broker.tracing._context_in(context) is None
    assert spans.context_and_result(spans.with_context(context, b"r")) == (context, b"r")
    assert spans.context_and_result(spans.CONTEXT_MARK) == ("", spans.CONTEXT_MARK)  # cut off: no value either


class _Broken(SpanProcessor):
    """Fails when any span begins, or when any ends."""

    def __init__(self, at: str) -> None:
        self.at = at

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if self.at == "start":
            raise RuntimeError("the processor is broken")

    def on_end(self, span: ReadableSpan) -> None:
        if self.at == "end":
            raise RuntimeError("the processor is broken")


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_span_processor_that_fails_costs_no_attempt_and_no_step(
    url: str, run: str, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(_Broken(at))
    broker.tracing.install(provider)
    try:
        with Trainer(url, run, RunConfig(consumer_batch_size=4)) as trainer, Worker(url, run) as worker:
            trainer.enqueue(Task(id=f"t{i}") for i in range(4))
            working = InThread(lambda: worker.run(lambda attempt: b"x"))
            assert len(trainer.next_batch(timeout=30)) == 4
            trainer.advance()
            worker.drain()
            working.result()
            assert trainer.stats().totals.get("failed", 0) == 0
    finally:
        broker.tracing.uninstall()
    assert "a span is missing" in caplog.text
