"""End to end, as users run it: enqueue, claim, submit, take, read, advance. What counts is a rollout that was trained.

The trainer is this process; workers are processes of their own. Capacity gates them: a batch may be two steps ahead.
The limit is the same six steps in variadic scripts without guarantees, in one process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


#: Rollouts of a large batch, which no single piece of a script may read or free at once.
LARGE = 4096


@dataclass(frozen=True, slots=True)
class _Load:
    """What a case does. `gated`: a batch may be STALENESS steps ahead; else all tasks are there before step 0."""

    samples: int = 1
    way: str = WAYS[2]
    processes: int = 1
    size: int = 64
    rollouts: int = 256
    gated: bool = True


def cases(lab: Lab) -> list[Case]:
    """Ours by groups, ways of working, processes and sizes of a result and a batch, and without a gate; the limit."""
    loads = {
        f"groups of {samples}, {way}{of}": _Load(samples, way, n)
        for samples in (1, 8)
        for way, n, of in (
            (WAYS[0], 2, ", 2 processes"),
            (WAYS[1], 1, ""),
            (WAYS[2], 1, ""),
            (WAYS[2], 4, ", 4 processes"),
        )
    }
    loads[f"batches of {LARGE} rollouts, 4 processes"] = _Load(processes=4, rollouts=lab.size(LARGE, 128))
    loads["ungated, 4 processes"] = _Load(processes=4, gated=False)
    for size, rollouts in ((64, 256), (1024, 64)):
        loads[f"results of {size} KiB, batches of 64"] = _Load(size=size * 1024, rollouts=rollouts)
    found = [Case("steady", name, "ours", partial(_ours, lab, load)) for name, load in loads.items()]
    return [*found, Case("steady", "the same six steps, variadic", "limit", partial(_bare, lab))]


def _ours(lab: Lab, load: _Load) -> dict[str, float]:
    rollouts = min(load.rollouts, lab.size(load.rollouts, 128))
    steps, batch, run = lab.size(max(4, 20 * 256 // max(256, rollouts)), 2), rollouts // load.samples, lab.run_name()
    ahead = STALENESS if load.gated else 4 * (steps + 2 * WARM)
    config = RunConfig(
        consumer_batch_size=batch,
        max_concurrent_rollouts=batch * (ahead + 1),
        max_staleness=STALENESS if load.gated else None,
    )
    with felt(lab.url) as idle:
        time.sleep(lab.size(1, 0))
    with Trainer(lab.url, run, config) as trainer:
        tasks = ours.tasks(10**9, samples=load.samples)
        trainer.enqueue(list(islice(tasks, batch * ahead)))
        workers = [beside(_work, lab.url, run, load.way, load.size) for _ in range(load.processes)]
        train = partial(_train, trainer, tasks if load.gated else None, batch)
        try:
            train(WARM)
            with felt(lab.url) as others:
                server, own, started = lab.server_cpu_s(), time.process_time(), time.perf_counter()
                submitted = trainer.stats().totals["results"]
                train(steps)
                submitted = trainer.stats().totals["results"] - submitted
                seconds = time.perf_counter() - started
                server, own = lab.server_cpu_s() - server, time.process_time() - own
            with _scripts(lab.control) as scripts:
                train(WARM)
        finally:
            trainer.finish()
            for process, _ in workers:
                process.join(5)
                process.terminate()
    count = steps * rollouts
    of_trainer = sum(len(scripts.get(name, ())) for name in ("enqueue", "take", "batch", "advance", "trim"))
    return {
        "rate_per_s": count / seconds,
        "submitted_per_s": submitted / seconds,
        **({"results_mb_per_s": count * load.size / seconds / 1e6} if load.size > 1024 else {}),
        "step_ms": seconds / steps * 1000,
        "server_cpu_us": server / count * 1e6,
        "trainer_cpu_us": own / count * 1e6,
        "trainer_scripts_a_step_count": of_trainer / WARM,
        "ping_p99_ms": others["ping_p99_ms"],
        "ping_p99_to_idle_x": others["ping_p99_ms"] / idle["ping_p99_ms"],
        "slowest_script_us": max(map(max, scripts.values())),
        **{
            f"{name}_us": sum(spent) / (WARM * rollouts)
            for name, spent in sorted(scripts.items(), key=lambda item: -sum(item[1]))
        },
    }


def _train(trainer: Trainer, tasks: Iterator[Task] | None, batch: int, steps: int) -> None:
    for _ in range(steps):
        if tasks is not None:
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
def _scripts(client: RawClient) -> Generator[dict[str, list[int]]]:
    """Each call of a script while the block runs, from SLOWLOG: by the script's name the microseconds of its calls."""
    spent: dict[str, list[int]] = {}
    client.call("CONFIG", "SET", "slowlog-log-slower-than", 0, "slowlog-max-len", 1_000_000)
    client.call("SLOWLOG", "RESET")
    yield spent
    for entry in client.call("SLOWLOG", "GET", -1):
        if entry[3][0].upper() == b"FCALL":
            spent.setdefault(entry[3][1].decode().split("_", 2)[2], []).append(entry[2])
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
