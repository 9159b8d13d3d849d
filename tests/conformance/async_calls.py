"""All public calls of both asyncio clients, for tests that each call is refused."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from broker import Attempt, Task
from broker.aio import Trainer, Worker

Calls = dict[str, Callable[[], Awaitable[Any]]]


def calls_of(trainer: Trainer, worker: Worker, attempt: Attempt) -> dict[Trainer | Worker, Calls]:
    """Each call of both clients except `close`, by its name. Fails if a call is missing here."""
    calls: dict[Trainer | Worker, Calls] = {
        trainer: {
            "open": trainer.open,
            "enqueue": lambda: trainer.enqueue([Task(id="child")]),
            "feed": lambda: trainer.feed([Task(id="child")]),
            "next_batch": lambda: trainer.next_batch(1, timeout=0.1),
            "read_batch": lambda: trainer.read_batch(0, timeout=0.1),
            "discard": lambda: trainer.discard(["t0"]),
            "advance": lambda: trainer.advance(allow_empty=True),
            "cancel": lambda: trainer.cancel(["t0"]),
            "retry": lambda: trainer.retry(["t0"]),
            "checkpoint": lambda: trainer.checkpoint("/nowhere/broker.json"),
            "recover": lambda: trainer.recover(version=0),
            "settle": trainer.settle,
            "pause": trainer.pause,
            "configure": lambda: trainer.configure(max_attempts=4),
            "prioritise": lambda: trainer.prioritise({"t0": 1}),
            "finish": trainer.finish,
            "drain": trainer.drain,
            "resume": trainer.resume,
            "requeue": trainer.requeue,
            "stats": trainer.stats,
            "capacity": trainer.capacity,
            "explain": trainer.explain,
            "metrics": trainer.metrics,
            "audit": trainer.audit,
        },
        worker: {
            "open": worker.open,
            "claim": worker.claim,
            "batches": lambda: anext(worker.batches(1)),
            "__aiter__": lambda: anext(aiter(worker)),
            "submit": lambda: worker.submit(attempt, b"x"),
            "submit_many": lambda: worker.submit_many([(attempt, b"x")]),
            "reject": lambda: worker.reject(attempt),
            "release": lambda: worker.release(attempt),
            "fail": lambda: worker.fail(attempt, "no"),
            "renew": worker.renew,
            "run": lambda: worker.run(lambda _: asyncio.sleep(0)),
        },
    }
    for client, named in calls.items():
        public = {
            name
            for name, member in inspect.getmembers(type(client))
            if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
            if not name.startswith("_") or name == "__aiter__"
        }
        assert public - set(named) == {"close"}, public ^ set(named)
    return calls
