"""Large results: written by a worker, read by the trainer; beside SET + GET of the same bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import ours
from benchmarks.cases import Case
from benchmarks.lab import Lab
from benchmarks.probes import felt
from broker import Worker

KIB, MIB = 1024, 1024 * 1024
#: How many bytes are written while other clients are watched.
WRITTEN = 256 * MIB
#: Size of a result -> how many in a repetition (in a quick run a quarter).
SIZES = {16 * KIB: 1000, 64 * KIB: 500, 256 * KIB: 160, MIB: 48, 16 * MIB: 6}


def cases(lab: Lab) -> list[Case]:
    """Each size: the broker, and SET + GET, raw and through redis-py; then how long other clients wait."""
    found: list[Case] = []
    for size, full in SIZES.items():
        count, name = lab.size(full, max(2, full // 4)), label(size)
        found += [
            Case("results", name, "ours", partial(_ours, lab, size, count)),
            Case("results", f"{name}, SET + GET, raw", "limit", partial(_raw, lab, size, count)),
            Case("results", f"{name}, SET + GET, redis-py", "limit", partial(_redis_py, lab, size, count)),
        ]
    found.append(Case("results", "nothing, others meanwhile", "limit", partial(_stall, lab, _nothing)))
    for size in (MIB, 16 * MIB):
        count = lab.size(WRITTEN // size, 2)
        name = f"{label(size)}, others meanwhile"
        found += [
            Case("results", name, "ours", partial(_stall, lab, partial(_ours, lab, size, count))),
            Case("results", name, "limit", partial(_stall, lab, partial(_raw, lab, size, count))),
        ]
    return found


def label(size: int) -> str:
    """A size in words."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def _values(size: int, count: int, write_s: float, read_s: float, memory: int) -> dict[str, float]:
    total = size * count
    return {
        "cycle_mb_per_s": total / (write_s + read_s) / 1e6,
        "write_mb_per_s": total / write_s / 1e6,
        "read_mb_per_s": total / read_s / 1e6,
        "memory_x": memory / total,
    }


def _ours(lab: Lab, size: int, count: int) -> dict[str, float]:
    run, body = lab.run_name(), os.urandom(size)
    with ours.filled(lab.url, run, count) as trainer, Worker(lab.url, run) as worker:
        attempts = worker.claim(count)
        before = lab.memory_bytes()
        started = time.perf_counter()
        for attempt in attempts:
            worker.submit(attempt, body)
        written = time.perf_counter()
        memory = lab.memory_bytes() - before
        read_from = time.perf_counter()
        batch = trainer.next_batch(timeout=60)
        ended = time.perf_counter()
        assert len(batch) == count
        assert all(rollout.results[0] == body for rollout in batch)
    return _values(size, count, written - started, ended - read_from, memory)


def _set_and_get(
    lab: Lab, size: int, count: int, store: Callable[[str, bytes], Any], load: Callable[[str], Any]
) -> dict[str, float]:
    body = os.urandom(size)
    before = lab.memory_bytes()
    started = time.perf_counter()
    for i in range(count):
        store(f"bare:{i}", body)
    written = time.perf_counter()
    memory = lab.memory_bytes() - before
    read_from = time.perf_counter()
    got = [load(f"bare:{i}") for i in range(count)]
    ended = time.perf_counter()
    assert all(value == body for value in got)
    return _values(size, count, written - started, ended - read_from, memory)


def _raw(lab: Lab, size: int, count: int) -> dict[str, float]:
    """Sends the head of the command and the bytes one after the other, so that the bytes are not copied."""
    client = lab.control

    def store(name: str, body: bytes) -> None:
        client.send(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(name), name.encode(), len(body)))
        client.send(body)
        client.send(b"\r\n")
        client.receive(1)

    return _set_and_get(lab, size, count, store, lambda name: client.call("GET", name))


def _redis_py(lab: Lab, size: int, count: int) -> dict[str, float]:
    import redis

    with redis.Redis.from_url(lab.url) as client:
        return _set_and_get(lab, size, count, client.set, client.get)


def _nothing() -> dict[str, float]:
    """No work: shows how much the machine alone disturbs the watching client."""
    time.sleep(0.3)
    return {}


def _stall(lab: Lab, work: Callable[[], dict[str, float]]) -> dict[str, float]:
    with felt(lab.url) as found:
        work()
    return found
