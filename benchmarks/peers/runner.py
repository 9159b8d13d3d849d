"""Runs in a peer's own environment, which has only the standard library and the peer: `runner.py PEER DO JSON`.

A peer is a module beside this file with

    PACKAGES             what pip installs; or NODE_PACKAGES, what npm installs
    SLOW                 optional, True: the peer gets a fifth of the tasks
    workers(processes)   commands that start the workers; a task calls `mark(number)` and returns RESULT
    send(number)         enqueues one task
    send_many(numbers)   optional: enqueues several tasks in one call
    ask(number)          optional: enqueues one task and waits for its result; may return when it began and ended
    start()              only if the peer uses asyncio: connects

A peer of asyncio has coroutine functions, whose first argument is the value that `start` returned. Without `send_many`,
such a peer has several calls in flight instead. A peer that sends from another process has `sent(count, n)` instead of
`send` and `send_many`: it returns the seconds that the calls took.

Tasks note their times in a shared file: CLOCK_MONOTONIC is one clock for all processes.
"""

# ruff: noqa: T201 - printing is its purpose

from __future__ import annotations

import asyncio
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULT = "r" * 64
#: The environment variable that names the file of times.
STAMPS = "BENCHMARK_STAMPS"
#: How many seconds the workers may take for all tasks.
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
    """The URL of the server; peers need it when they are imported."""
    return os.environ["BENCHMARK_URL"]


def script(name: str) -> str:
    """The path of a program in this environment."""
    return str(Path(sys.executable).parent / name)


@contextmanager
def _running(peer: Any, count: int, processes: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        stamps = Path(directory) / "stamps"
        stamps.write_bytes(bytes(8 * count))
        os.environ.update({STAMPS: str(stamps), "PYTHONPATH": str(Path(__file__).parent)})
        log = (Path(directory) / "log").open("w+b")
        children = [
            subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=directory)
            for command in peer.workers(processes)
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
    """Ends the whole process group of a child, because peers fork."""
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


class NotOfferedError(Exception):
    """The peer has no call for the work asked for; the message says so."""


def _is_asyncio(peer: Any) -> bool:
    return hasattr(peer, "start")


def _as_function(peer: Any, loop: asyncio.AbstractEventLoop) -> Callable[[int], Any]:
    context = loop.run_until_complete(peer.start())
    return lambda number: loop.run_until_complete(peer.ask(context, number))


def _sent(peer: Any, count: int, n: int) -> float:
    """Sends tasks 0 to count - 1, n in one call or in flight. Returns the seconds that this took."""
    if hasattr(peer, "sent"):
        return peer.sent(count, n)
    pieces = [range(first, min(count, first + n)) for first in range(0, count, n)]
    if _is_asyncio(peer):
        return asyncio.run(_sent_by_coroutines(peer, pieces, in_one_call=n > 1 and hasattr(peer, "send_many")))
    if n > 1 and not hasattr(peer, "send_many"):
        raise NotOfferedError("it has no call for that")
    started = time.perf_counter()
    for numbers in pieces:
        if n > 1:
            peer.send_many(numbers)
        else:
            peer.send(numbers[0])
    return time.perf_counter() - started


async def _sent_by_coroutines(peer: Any, pieces: Sequence[range], in_one_call: bool) -> float:
    context = await peer.start()
    started = time.perf_counter()
    for numbers in pieces:
        if in_one_call:
            await peer.send_many(context, numbers)
        else:
            await asyncio.gather(*(peer.send(context, number) for number in numbers))
    return time.perf_counter() - started


def enqueue(peer: Any, count: int, n: int) -> dict[str, float]:
    """Tasks a second that are enqueued, n in one call or in flight."""
    return {"rate_per_s": count / _sent(peer, count, n)}


def cycle(peer: Any, count: int, processes: int) -> dict[str, float]:
    """Tasks a second between the first 20 and the last 5 per cent, which leaves out the start of the workers."""
    try:
        _sent(peer, count, 64)
    except NotOfferedError:
        _sent(peer, count, 1)
    with _running(peer, count, processes) as stamps:
        until = time.monotonic() + PATIENCE_S
        while not all(times := _times(stamps)):
            if time.monotonic() > until:
                raise TimeoutError(f"{sum(map(bool, times))} of {count} tasks in {PATIENCE_S:g} s")
            time.sleep(0.05)
    ordered = sorted(times)
    first, last = count // 5, count - count // 20 - 1
    return {"rate_per_s": (last - first) / (ordered[last] - ordered[first])}


def latency(peer: Any, count: int, idle_s: float) -> dict[str, list[float]]:
    """Seconds from enqueue to start and to the result, one task at a time, the worker idle before each."""
    if not hasattr(peer, "ask"):
        raise NotOfferedError("it has no call for that")
    starts, results = list[float](), list[float]()
    with _running(peer, count + 10, 1) as stamps, asyncio.Runner() as runner:
        until = time.monotonic() + PATIENCE_S
        ask = _as_function(peer, runner.get_loop()) if _is_asyncio(peer) else peer.ask
        for number in range(count + 10):
            time.sleep(idle_s)
            begun = time.monotonic()
            own = ask(number)
            ended = time.monotonic()
            if isinstance(own, tuple):  # times of another process, which asked
                begun, ended = own
            if ended > until:
                raise TimeoutError(f"{number} of {count} tasks in {PATIENCE_S:g} s")
            if number >= 10:
                starts.append(_times(stamps)[number] - begun)
                results.append(ended - begun)
    return {"starts": starts, "results": results}


def main(name: str, do: str, given: dict[str, Any]) -> dict[str, Any]:
    """Does what `do` names with this peer, and returns the values."""
    os.environ["BENCHMARK_URL"] = given.pop("url")
    peer = importlib.import_module(name)
    try:
        return {"enqueue": enqueue, "cycle": cycle, "latency": latency}[do](peer, **given)
    except NotOfferedError as reason:
        return {"not_run": str(reason)}


if __name__ == "__main__":
    # The peer's tasks are importable under the names they have here; `runner` must be one module, not two.
    sys.modules["runner"] = sys.modules["__main__"]
    sys.path.insert(0, str(Path(__file__).parent))
    print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
