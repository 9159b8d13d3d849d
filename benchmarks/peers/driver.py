"""Runs in a peer's own environment, with nothing but the standard library and the peer: `driver.py PEER DO JSON`.

A peer is a module beside this file with some of

    PACKAGES                     what pip installs
    enqueue(url, count)          seconds for so many, one at a time
    enqueue_bulk(url, count, n)  the same, n in one call or in flight
    fill(url, count)             tasks 0 to count - 1 waiting
    workers(url, processes)      commands that start the workers; a task calls `mark(number)` and returns RESULT
    ask(url)                     a function (number): enqueues one and waits for its result; may return when it did

Times are those that tasks note in a shared file: CLOCK_MONOTONIC is one clock for all processes.
"""

# ruff: noqa: T201 - printing is its purpose

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULT = "r" * 64
#: The environment variable that names the file of times.
STAMPS = "BENCHMARK_STAMPS"
#: How long workers may take for everything, seconds.
PATIENCE_S = 60.0
_DOUBLE = struct.Struct("d")
_map: mmap.mmap | None = None


def mark(number: int) -> None:
    """Notes that task `number` starts now."""
    global _map  # noqa: PLW0603 - opened in whichever process the peer runs its tasks in
    if _map is None:
        with Path(os.environ[STAMPS]).open("r+b") as file:
            _map = mmap.mmap(file.fileno(), 0)
    _DOUBLE.pack_into(_map, number * 8, time.monotonic())


def url() -> str:
    """The server, for what a peer builds when it is imported."""
    return os.environ["BENCHMARK_URL"]


def script(name: str) -> str:
    """Path of a program of this environment."""
    return str(Path(sys.executable).parent / name)


@contextmanager
def _running(peer: Any, url: str, count: int, processes: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        stamps = Path(directory) / "stamps"
        stamps.write_bytes(bytes(8 * count))
        os.environ.update({STAMPS: str(stamps), "PYTHONPATH": str(Path(__file__).parent)})
        log = (Path(directory) / "log").open("w+b")
        children = [
            subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=directory)
            for command in peer.workers(url, processes)
        ]
        try:
            yield stamps
        except TimeoutError as error:
            log.seek(0)
            raise TimeoutError(f"{error}; workers said: {log.read()[-600:].decode(errors='replace')}") from None
        finally:
            for child in children:
                _end(child)
            log.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Its whole process group, which is its own: peers fork."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            break
        try:
            child.wait(2)
        except subprocess.TimeoutExpired:
            continue
    child.wait(5)


def _times(stamps: Path) -> list[float]:
    return [value for (value,) in _DOUBLE.iter_unpack(stamps.read_bytes())]


def cycle(peer: Any, url: str, count: int, processes: int) -> dict[str, float]:
    """Tasks a second between the first 20 and the last 5 per cent, which leaves out the start of the workers."""
    peer.fill(url, count)
    with _running(peer, url, count, processes) as stamps:
        until = time.monotonic() + PATIENCE_S
        while not all(times := _times(stamps)):
            if time.monotonic() > until:
                raise TimeoutError(f"{sum(map(bool, times))} of {count} tasks in {PATIENCE_S:g} s")
            time.sleep(0.05)
    ordered = sorted(times)
    first, last = count // 5, count - count // 20 - 1
    return {"rate_per_s": (last - first) / (ordered[last] - ordered[first])}


def latency(peer: Any, url: str, count: int, idle_s: float) -> dict[str, list[float]]:
    """Seconds from enqueue to start and to the result, one task at a time, the worker idle before each."""
    starts, results = list[float](), list[float]()
    with _running(peer, url, count + 10, 1) as stamps:
        until = time.monotonic() + PATIENCE_S
        ask: Callable[[int], Any] = peer.ask(url)
        for number in range(count + 10):
            time.sleep(idle_s)
            begun = time.monotonic()
            own = ask(number)
            ended = time.monotonic()
            if isinstance(own, tuple):  # its own clock, where asking goes through another process
                begun, ended = own
            if ended > until:
                raise TimeoutError(f"{number} of {count} tasks in {PATIENCE_S:g} s")
            if number >= 10:
                starts.append(_times(stamps)[number] - begun)
                results.append(ended - begun)
    return {"starts": starts, "results": results}


def in_loop(start: Callable[[], Any], do: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function of a coroutine function, on a loop of its own; `start` is awaited first."""
    import asyncio

    loop = asyncio.new_event_loop()
    context = loop.run_until_complete(start())
    return lambda *given: loop.run_until_complete(do(context, *given))


async def in_flight(count: int, n: int, do: Callable[[int], Any]) -> float:
    """Seconds for `do(0)` to `do(count - 1)`, n at a time."""
    import asyncio

    started = time.perf_counter()
    for first in range(0, count, n):
        await asyncio.gather(*(do(number) for number in range(first, min(count, first + n))))
    return time.perf_counter() - started


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(name: str, do: str, given: dict[str, Any]) -> dict[str, Any]:
    """What was asked for."""
    os.environ["BENCHMARK_URL"] = given["url"]
    peer = importlib.import_module(name)
    work = getattr(peer, {"cycle": "workers", "latency": "ask"}.get(do, do), None)
    if work is None:
        return {"not_run": "it has no call for that"}
    if do == "cycle":
        return cycle(peer, **given)
    if do == "latency":
        return latency(peer, **given)
    return {"rate_per_s": given["count"] / work(**given)}


if __name__ == "__main__":
    # The peer's tasks are importable under the names they have here; `driver` must be one module, not two.
    sys.modules["driver"] = sys.modules["__main__"]
    sys.path.insert(0, str(Path(__file__).parent))
    print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
