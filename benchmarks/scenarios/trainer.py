"""The trainer: a batch of 1,024 rollouts with 256 KiB each; advance; capacity."""

from __future__ import annotations

import os
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import ours
from benchmarks.cases import Case
from benchmarks.lab import Lab
from benchmarks.processes import beside, peak_bytes
from benchmarks.quantiles import median
from benchmarks.resp import RawClient
from broker import Trainer, Worker

SIZE = 256 * 1024
#: Keys of one MGET of the limit.
PIECE = 64
#: How many ranks share the batch when the time to the first rollouts is measured.
WORLD = 16


def cases(lab: Lab) -> list[Case]:
    """The broker; pipelined MGET of the same bytes, raw and through redis-py; small calls."""
    count = lab.size(1024, 64)
    return [
        Case("trainer", "next_batch", "ours", partial(_next_batch, lab, count)),
        Case("trainer", "MGET, raw", "limit", partial(_mget, lab, count, _mget_raw)),
        Case("trainer", "MGET, redis-py", "limit", partial(_mget, lab, count, _mget_redis_py)),
        Case("trainer", "advance and capacity", "ours", partial(_small_calls, lab)),
    ]


def _apart(work: Any, *args: Any) -> dict[str, float]:
    """Runs the work in a process of its own, so that its memory can be measured."""
    child, pipe = beside(work, *args)
    values = pipe.recv()
    child.join()
    return values


def _next_batch(lab: Lab, count: int) -> dict[str, float]:
    run, body = lab.run_name(), os.urandom(SIZE)
    with ours.filled(lab.url, run, count):
        pass
    with Worker(lab.url, run) as worker:
        while attempts := worker.claim(64):
            for attempt in attempts:
                worker.submit(attempt, body)
    return _apart(_read_batch, lab.url, run, count)


def _read_batch(pipe: Connection, url: str, run: str, count: int) -> None:
    with Trainer(url, run) as trainer:
        before, started = peak_bytes(), time.perf_counter()
        batch = trainer.next_batch(timeout=60)
        last = time.perf_counter() - started
        assert len(batch) == count
        grown = peak_bytes() - before
        del batch
        started = time.perf_counter()
        first_part = trainer.read_batch(0, rank=0, world=WORLD)
        first = time.perf_counter() - started
        assert len(first_part) == count // WORLD
        started = time.perf_counter()
        trainer.advance()
        advanced = time.perf_counter() - started
    pipe.send({
        "last_ms": last * 1000,
        "first_of_16_ranks_ms": first * 1000,
        "read_mb_per_s": count * SIZE / last / 1e6,
        "advance_ms": advanced * 1000,
        "client_memory_x": grown / (count * SIZE),
    })  # fmt: skip


def _mget(lab: Lab, count: int, work: Any) -> dict[str, float]:
    body = os.urandom(SIZE)
    for i in range(count):
        lab.control.call("SET", f"bare:{i}", body)
    return _apart(work, lab.url, count)


def _names(count: int) -> list[list[str]]:
    return [[f"bare:{i}" for i in range(at, min(count, at + PIECE))] for at in range(0, count, PIECE)]


def _told(started: float, before: int, count: int, got: list[Any]) -> dict[str, float]:
    seconds = time.perf_counter() - started
    assert len(got) == count
    grown = peak_bytes() - before
    return {
        "last_ms": seconds * 1000,
        "read_mb_per_s": count * SIZE / seconds / 1e6,
        "client_memory_x": grown / (count * SIZE),
    }


def _mget_raw(pipe: Connection, url: str, count: int) -> None:
    client = RawClient(url)
    before, started = peak_bytes(), time.perf_counter()
    got = [value for names in _names(count) for value in client.call("MGET", *names)]
    pipe.send(_told(started, before, count, got))


def _mget_redis_py(pipe: Connection, url: str, count: int) -> None:
    import redis

    with redis.Redis.from_url(url) as client:
        client.ping()
        before, started = peak_bytes(), time.perf_counter()
        got = [value for names in _names(count) for value in client.mget(names)]
        pipe.send(_told(started, before, count, got))


def _small_calls(lab: Lab) -> dict[str, float]:
    """Batches of 16, one after the other."""
    steps, run = lab.size(60, 10), lab.run_name()
    config = ours.config(16)
    advances, capacities, batches = list[float](), list[float](), list[float]()
    with Trainer(lab.url, run, config) as trainer, Worker(lab.url, run) as worker:
        trainer.enqueue(ours.tasks(16 * steps))
        for _ in range(steps):
            worker.submit_many([(attempt, ours.RESULT) for attempt in worker.claim(16)])
            started = time.perf_counter()
            trainer.next_batch(timeout=10)
            batches.append(time.perf_counter() - started)
            started = time.perf_counter()
            trainer.capacity()
            capacities.append(time.perf_counter() - started)
            started = time.perf_counter()
            trainer.advance()
            advances.append(time.perf_counter() - started)
    return {
        "batch_of_16_ms": median(batches) * 1000,
        "advance_ms": median(advances) * 1000,
        "capacity_ms": median(capacities) * 1000,
    }
