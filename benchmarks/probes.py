"""How long other clients wait during a large piece of work, and the slowest script."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import hiredis

from benchmarks.processes import beside
from benchmarks.quantiles import quantile
from benchmarks.resp import RawClient

#: Pause between two PINGs of the probe, seconds.
PAUSE_S = 0.001


@contextmanager
def felt(url: str) -> Iterator[dict[str, float]]:
    """Another client PINGs while the block runs. Then the dict has `ping_p50_ms`, `ping_p99_ms`, `ping_max_ms`."""
    found: dict[str, float] = {}
    child, pipe = beside(_probe, url)
    pipe.recv()
    yield found
    pipe.send("stop")
    samples = pipe.recv()
    child.join()
    found["ping_p50_ms"] = quantile(samples, 0.5) * 1000
    found["ping_p99_ms"] = quantile(samples, 0.99) * 1000
    found["ping_max_ms"] = max(samples) * 1000


def _probe(pipe: Connection, url: str) -> None:
    client, ping = RawClient(url), hiredis.pack_command(("PING",))
    samples: list[float] = []
    pipe.send("ready")
    while not samples or not pipe.poll():
        started = time.perf_counter()
        client.send(ping)
        client.receive(1)
        samples.append(time.perf_counter() - started)
        time.sleep(PAUSE_S)
    pipe.send(samples)


@contextmanager
def slowest_script(client: RawClient) -> Iterator[dict[str, float]]:
    """Watches SLOWLOG while the block runs. Then the dict has the slowest time, and how many took over 10 ms."""
    found: dict[str, float] = {}
    client.call("CONFIG", "SET", "slowlog-log-slower-than", 500, "slowlog-max-len", 100000)
    client.call("SLOWLOG", "RESET")
    yield found
    entries = client.call("SLOWLOG", "GET", -1)
    client.call("CONFIG", "SET", "slowlog-log-slower-than", 10000, "slowlog-max-len", 128)
    micros = [entry[2] for entry in entries if entry[3][0].upper() in {b"EVALSHA", b"FCALL"}]
    found["slowest_script_ms"] = max(micros, default=0) / 1000
    found["scripts_above_10ms_count"] = sum(us > 10_000 for us in micros)
