"""A trainer or a worker as a process that is traced; it prints its spans as JSON, one a line, when it ends.

Usage: python -m tests.tracing.traced trainer|worker|aio-worker URL
"""

from __future__ import annotations

import asyncio
import json
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import broker.tracing
from broker import Attempt, RunConfig, Task, Trainer, Worker, aio

RUN, STEPS, BATCH = "math-7b", 2, 4


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def train(url: str) -> None:
    with Trainer(url, RUN, RunConfig(consumer_batch_size=BATCH, max_staleness=1)) as trainer:
        trainer.enqueue(Task(id=f"t{i}") for i in range(STEPS * BATCH))
        tell("open")
        for _ in trainer.batches():
            of_step = broker.tracing.context_of_step(RUN, trainer.version)
            with trace.get_tracer("program").start_as_current_span("loss", context=of_step):
                pass
        trainer.finish()


def generate(attempt: Attempt) -> dict[str, str]:
    with trace.get_tracer("program").start_as_current_span("generate"):
        return {"of": attempt.task}


async def generate_async(attempt: Attempt) -> dict[str, str]:
    await asyncio.sleep(0)
    return generate(attempt)


async def work_async(url: str) -> None:
    async with aio.Worker(url, RUN, name="aio-worker") as worker:
        await worker.run(generate_async, concurrency=2)


def main(role: str, url: str) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    broker.tracing.install()
    if role == "trainer":
        train(url)
    elif role == "worker":
        with Worker(url, RUN, name="worker") as worker:
            worker.run(generate, concurrency=2)
    else:
        asyncio.run(work_async(url))
    for span in exporter.get_finished_spans():
        tell(json.dumps(json.loads(span.to_json())))


if __name__ == "__main__":
    main(*sys.argv[1:])
