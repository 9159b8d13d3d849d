"""End to end, as users run it: enqueue, claim, submit, take, read, advance. What counts is a rollout that was trained.

The trainer is this process; workers are processes of their own. Capacity gates them: a batch may be two steps ahead.
The limit is the same six steps in variadic scripts without guarantees, in one process.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection

from benchmarks import ours
from benchmarks.bare import PAYLOADS, READY, STATE, TASK, Bare
from benchmarks.cases import Case
from benchmarks.lab import Lab
from benchmarks.probes import felt
from benchmarks.processes import beside
from benchmarks.resp import RawClient
from broker import RunConfig, Task, Trainer, Worker, aio

STALENESS = 2
_RESULTS = f"{TASK}result:"
WAYS = ("one at a time", "asyncio, 32 in flight", "batches of 64")
#: Steps before the measured ones.
WARM = 2


def cases(lab: Lab) -> list[Case]:
    """Ours by groups, ways of working, processes and sizes of a result; the limit."""
    found = [
        Case("steady", f"groups of {samples}, {way}{of}", "ours", partial(_ours, lab, samples, way, n, 64))
        for samples in (1, 8)
        for way, n, of in (
            (WAYS[0], 2, ", 2 processes"),
            (WAYS[1], 1, ""),
            (WAYS[2], 1, ""),
            (WAYS[2], 4, ", 4 processes"),
        )
    ]
    found += [
        Case("steady", f"results of {size} KiB, batches of 64", "ours", partial(_ours, lab, 1, WAYS[2], 1, size * 1024))
        for size in (64, 1024)
    ]
    return [*found, Case("steady", "the same six steps, variadic", "limit", partial(_bare, lab))]


def _ours(lab: Lab, samples: int, way: str, processes: int, size: int) -> dict[str, float]:
    rollouts = lab.size(64 if size > 100_000 else 256, 64)
    steps, batch, run = lab.size(20, 2), rollouts // samples, lab.run_name()
    config = RunConfig(
        consumer_batch_size=batch, max_concurrent_rollouts=batch * (STALENESS + 1), max_staleness=STALENESS
    )
    with Trainer(lab.url, run, config) as trainer:
        tasks = ours.tasks(10**9, samples=samples)
        trainer.enqueue(list(islice(tasks, batch * STALENESS)))
        workers = [beside(_work, lab.url, run, way, size) for _ in range(processes)]
        try:
            _train(trainer, tasks, batch, WARM)
            with felt(lab.url) as others:
                server, own, started = lab.server_cpu_s(), time.process_time(), time.perf_counter()
                _train(trainer, tasks, batch, steps)
                seconds = time.perf_counter() - started
                server, own = lab.server_cpu_s() - server, time.process_time() - own
            with _micros_by_script(lab.control) as spent:
                _train(trainer, tasks, batch, WARM)
        finally:
            trainer.finish()
            for process, _ in workers:
                process.join(5)
                process.terminate()
    count = steps * rollouts
    return {
        "rate_per_s": count / seconds,
        "step_ms": seconds / steps * 1000,
        "server_cpu_us": server / count * 1e6,
        "trainer_cpu_us": own / count * 1e6,
        "ping_p99_ms": others["ping_p99_ms"],
        **{f"{name}_us": us / (WARM * rollouts) for name, us in spent.most_common()},
    }


def _train(trainer: Trainer, tasks: Iterator[Task], batch: int, steps: int) -> None:
    for _ in range(steps):
        trainer.enqueue(list(islice(tasks, batch)))
        assert len(trainer.next_batch(timeout=60)) == batch
        trainer.advance()


def _work(_: Connection, url: str, run: str, way: str, size: int) -> None:
    result = b"r" * size
    if way == WAYS[1]:
        asyncio.run(_work_concurrently(url, run, result))
        return
    with Worker(url, run) as worker:
        if way == WAYS[0]:
            for attempt in worker:
                worker.submit(attempt, result)
        else:
            for attempts in worker.batches(64):
                worker.submit_many([(attempt, result) for attempt in attempts])


async def _work_concurrently(url: str, run: str, result: bytes) -> None:
    async def handler(_: object) -> bytes:
        return result

    async with aio.Worker(url, run) as worker:
        await worker.run(handler, concurrency=32)


@contextmanager
def _micros_by_script(client: RawClient) -> Generator[Counter[str]]:
    """The server's time in each script while the block runs, from SLOWLOG: microseconds by the script's name."""
    spent: Counter[str] = Counter()
    client.call("CONFIG", "SET", "slowlog-log-slower-than", 0, "slowlog-max-len", 1_000_000)
    client.call("SLOWLOG", "RESET")
    yield spent
    for entry in client.call("SLOWLOG", "GET", -1):
        if entry[3][0].upper() == b"FCALL":
            spent[entry[3][1].decode().split("_", 2)[2]] += entry[2]
    client.call("CONFIG", "SET", "slowlog-log-slower-than", 10000, "slowlog-max-len", 128)


def _bare(lab: Lab) -> dict[str, float]:
    rollouts, steps, bare = lab.size(256, 64), lab.size(20, 2), lab.bare
    server, started = lab.server_cpu_s(), time.perf_counter()
    for step in range(steps):
        _bare_step(bare, step * rollouts, rollouts)
    seconds, count = time.perf_counter() - started, steps * rollouts
    return {"rate_per_s": count / seconds, "server_cpu_us": (lab.server_cpu_s() - server) / count * 1e6}


def _bare_step(bare: Bare, first: int, rollouts: int) -> None:
    client = bare.client
    client.call(*bare.enqueue_call(first, rollouts))
    for _ in range(0, rollouts, ours.BATCH):
        client.call(*bare.submit_many_call(client.call(*bare.claim_many_call(ours.BATCH))))
    taken = client.call("EVALSHA", bare.sha["take_many"], 2, READY, PAYLOADS, _RESULTS, rollouts)
    assert len(taken) == rollouts * 3, len(taken)
    client.call("EVALSHA", bare.sha["advance_many"], 2, STATE, PAYLOADS, _RESULTS, *taken[::3])
