"""Runs a function in several processes that start at the same moment."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

#: How long processes may take to get ready or to finish, seconds.
PATIENCE_S = 120.0
_context = multiprocessing.get_context("spawn")


def throughput(processes: int, prepare: Callable[..., Callable[[], int]], *args: Any) -> float:
    """Returns the items a second of several processes together, from the first start to the last end.

    Args:
        processes: how many processes.
        prepare: called in each process with args. It opens connections and returns the work, a function; the work
            returns how many items it did.
        args: arguments of `prepare`; picklable.
    """
    barrier = _context.Barrier(processes)
    pipes: list[Connection] = []
    children: list[Any] = []
    for _ in range(processes):
        ours, theirs = _context.Pipe()
        child = _context.Process(target=_work, args=(theirs, barrier, prepare, args), daemon=True)
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    try:
        spans = [_answer(pipe) for pipe in pipes]
    finally:
        for child in children:
            child.join(5)
            if child.is_alive():
                child.terminate()
    started, ended = min(span[0] for span in spans), max(span[1] for span in spans)
    return sum(span[2] for span in spans) / (ended - started)


def beside(work: Callable[..., None], *args: Any) -> tuple[Any, Connection]:
    """Starts a process that runs `work(connection, *args)`. Returns the process, and this end of the connection."""
    ours, theirs = _context.Pipe()
    child = _context.Process(target=work, args=(theirs, *args), daemon=True)
    child.start()
    theirs.close()
    return child, ours


def peak_bytes() -> int:
    """The peak memory of this process so far. (On Linux, getrusage also counts the parent's memory before the exec.)"""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _answer(pipe: Connection) -> tuple[float, float, int]:
    if not pipe.poll(PATIENCE_S):
        raise TimeoutError(f"a worker process did not finish in {PATIENCE_S:g} s")
    answer = pipe.recv()
    if isinstance(answer, str):
        raise RuntimeError(answer)  # noqa: TRY004 - the text of the process's error
    return answer


def _work(pipe: Connection, barrier: Barrier, prepare: Callable[..., Callable[[], int]], args: tuple[Any, ...]) -> None:
    try:
        work = prepare(*args)
        barrier.wait(PATIENCE_S)
        started = time.monotonic()
        count = work()
        pipe.send((started, time.monotonic(), count))
    except BaseException as error:  # noqa: BLE001 - sent to the parent, which raises it
        barrier.abort()
        pipe.send(f"{type(error).__name__}: {error}")
