"""Latency of an idle worker: enqueue -> start, and enqueue -> the result in the hands of the waiting trainer.

A worker process waits. The trainer enqueues one task, waits for the result, and pauses so that the worker waits again.
Trainer and worker have the same clock (CLOCK_MONOTONIC). The result is the time at which the worker started.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import hiredis

from benchmarks.bare import LEASES, PAYLOAD, PENDING, READY, STATE, TASK, Bare
from benchmarks.cases import Case
from benchmarks.lab import Lab
from benchmarks.processes import beside
from benchmarks.quantiles import quantile
from benchmarks.resp import RawClient
from broker import RunConfig, Task, Trainer, Worker, aio

#: How long the worker has been idle before each task, seconds.
IDLE_S = 0.01
_CLOCK = struct.Struct("d")


def cases(lab: Lab) -> list[Case]:
    """The broker (threads, asyncio) and the limit: a wake-up and one script, raw and through redis-py."""
    return [
        Case("latency", "loop", "ours", partial(_ours, lab, _work_sync)),
        Case("latency", "asyncio", "ours", partial(_ours, lab, _work_async)),
        Case("latency", "redis-py", "limit", partial(_bare, lab, _bare_redis_py)),
        Case("latency", "raw", "limit", partial(_bare, lab, _bare_raw)),
    ]


def summary(starts: list[float], results: list[float]) -> dict[str, float]:
    """p50 and p99 of both, in milliseconds."""
    return {
        f"{name}_p{round(share * 100)}_ms": quantile(values, share) * 1000
        for name, values in (("start", starts), ("result", results))
        for share in (0.5, 0.99)
    }


def now() -> bytes:
    """The time now, as a result."""
    return _CLOCK.pack(time.monotonic())


def when(stamp: bytes) -> float:
    """The time that `now` packed."""
    return _CLOCK.unpack(stamp)[0]


def _ours(lab: Lab, work: Callable[..., None]) -> dict[str, float]:
    run, count = lab.run_name(), lab.size(200, 30)
    config = RunConfig(consumer_batch_size=1, max_concurrent_rollouts=1000, max_staleness=100)
    with Trainer(lab.url, run, config) as trainer:
        child, pipe = beside(work, lab.url, run)
        pipe.recv()
        starts, results = list[float](), list[float]()
        for i in range(count + 10):
            time.sleep(IDLE_S)
            begun = time.monotonic()
            trainer.enqueue(Task(id=f"t{i}", payload=PAYLOAD))
            result = trainer.next_batch(timeout=30)[0].results[0]
            ended = time.monotonic()
            trainer.advance()
            if i >= 10:
                starts.append(when(result) - begun)
                results.append(ended - begun)
        child.terminate()
        child.join()
    return summary(starts, results)


def _work_sync(pipe: Connection, url: str, run: str) -> None:
    with Worker(url, run) as worker:
        pipe.send("ready")
        for attempt in worker:
            worker.submit(attempt, now())


def _work_async(pipe: Connection, url: str, run: str) -> None:
    async def work() -> None:
        async def handler(_: object) -> bytes:
            return now()

        async with aio.Worker(url, run) as worker:
            pipe.send("ready")
            await worker.run(handler, concurrency=32)

    asyncio.run(work())


def _bare(lab: Lab, work: Callable[..., None]) -> dict[str, float]:
    """The limit: enqueue is one pipeline (task, place, marker).

    The worker blocks on the marker and claims; the trainer blocks on a list of results.
    """
    count = lab.size(200, 30)
    child, pipe = beside(work, lab.url)
    pipe.recv()
    client = lab.control
    starts, results = list[float](), list[float]()
    for i in range(count + 10):
        time.sleep(IDLE_S)
        begun = time.monotonic()
        client.pipeline([
            ("HSET", f"{TASK}t{i}", "payload", PAYLOAD), ("ZADD", PENDING, i, f"t{i}"), ("RPUSH", "bare:wake", 1)
        ])  # fmt: skip
        client.call("BLPOP", "bare:results", 30)
        result = client.call("GET", f"{TASK}t{i}:result")
        ended = time.monotonic()
        if i >= 10:
            starts.append(when(result) - begun)
            results.append(ended - begun)
    child.terminate()
    child.join()
    return summary(starts, results)


def _bare_raw(pipe: Connection, url: str) -> None:
    bare = Bare(RawClient(url))
    wait = hiredis.pack_command(("BLPOP", "bare:wake", 30))
    claim = hiredis.pack_command(bare.claim_call())
    pipe.send("ready")
    while True:
        bare.client.send(wait)
        bare.client.receive(1)
        bare.client.send(claim)
        claimed = bare.client.receive(1)[0]
        bare.client.pipeline([bare.submit_call(claimed, now()), ("RPUSH", "bare:results", 1)])


def _bare_redis_py(pipe: Connection, url: str) -> None:
    import redis

    client: Any = redis.Redis.from_url(url, socket_timeout=60)
    sha = Bare(RawClient(url)).sha
    pipe.send("ready")
    while True:
        client.blpop("bare:wake", 30)
        claimed = client.evalsha(sha["claim"], 3, STATE, PENDING, LEASES, TASK, 1)
        with client.pipeline(transaction=False) as submit:
            submit.evalsha(sha["submit"], 3, STATE, LEASES, READY, TASK, claimed[0], claimed[1], now())
            submit.rpush("bare:results", 1)
            submit.execute()
