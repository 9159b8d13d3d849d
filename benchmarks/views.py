"""How long the views of a large run take: the page of a run, all runs, dead tasks, one task, `broker watch`.

It exits with 1 if the median of a view is more than a second.

python -m benchmarks.views [--tasks 100000] [--workers 1000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import sys
import time

import httpx
from rich.console import Console

from broker import RunConfig, Task, Trainer
from broker.cli.commands.watch import EVENTS_BEFORE, MOST_PAGES
from broker.cli.picture import Cursor, picture
from broker.connections import open_transport
from broker.connections.sync import run_blocking
from broker.inspection.events import Follower
from broker.inspection.history import History
from broker.inspection.timeline import Timeline
from broker.local_server.embedded import EmbeddedServer
from broker.operator import Operator
from broker.protocol import worker
from broker.web.access import LOOPBACK, Access
from broker.web.application import Website, application
from broker.web.snapshot import WORKERS

RUN = "large"
#: How long a view may take, seconds.
_MOST_S = 1.0


def _fill(url: str, tasks: int, workers: int) -> None:
    """Enqueues tasks, lets each worker hold two, and rejects the first 1,000 that wait."""
    config = RunConfig(consumer_batch_size=64, max_staleness=None, max_concurrent_rollouts=1_000_000)
    with Trainer(url, RUN, config) as trainer, open_transport(url) as transport:
        trainer.enqueue(Task(id=f"t{i}", payload=i) for i in range(tasks))
        for k in range(workers):
            joined = run_blocking(transport.io.call(worker.join(RUN, f"w{k}", f"n{k}")))
            run_blocking(transport.io.call(worker.claim(RUN, joined.session, 1, 2, f"r{k}")))
        trainer.cancel(f"t{i}" for i in range(tasks - 1000, tasks))


async def _times(url: str, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    site = Website(url, Access("", needs_token=False, hosts=LOOPBACK))
    async with application(site) as (app, _end):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:

            async def timed(name: str, path: str) -> None:
                began = time.perf_counter()
                answer = await client.get(path)
                found.setdefault(name, []).append(time.perf_counter() - began)
                answer.raise_for_status()

            await timed("the page of the run, opened", f"/api/run?run={RUN}")
            for _ in range(rounds):
                await timed("the page of the run, a later look", f"/api/run?run={RUN}")
                await timed("all runs", "/api/runs")
                await timed("rejected tasks", f"/api/ended?run={RUN}&kind=rejected")
                await timed("one task with its history", f"/api/task?run={RUN}&id=t0")
    return found


def _look(url: str, rounds: int) -> list[float]:
    """What the server is asked for at each look of a page."""
    times: list[float] = []
    with Operator(url) as operator:
        for _ in range(rounds):
            began = time.perf_counter()
            operator.explain(RUN, WORKERS)
            times.append(time.perf_counter() - began)
    return times


def _watched(url: str, rounds: int) -> dict[str, list[float]]:
    """The picture of `broker watch`: the first, for which it reads the end of the event log, and later ones."""
    found: dict[str, list[float]] = {}
    console = Console(file=io.StringIO(), width=120, height=50)
    with Operator(url) as operator:
        history, timeline, cursor = History(), Timeline(), Cursor()
        follower = Follower.of_the_last(operator.transport.command, RUN, EVENTS_BEFORE)
        for name in ("the first picture of broker watch", *["a later picture of broker watch"] * rounds):
            began = time.perf_counter()
            explanation = operator.explain(RUN)
            history.add(explanation.now_ms / 1000, explanation.stats)
            timeline.read(follower, MOST_PAGES)
            console.print(picture(explanation, history, timeline, cursor, width=120))
            found.setdefault(name, []).append(time.perf_counter() - began)
    return found


def main() -> int:
    """Prints the median and the longest of each view."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    server = EmbeddedServer(port=0)
    try:
        _fill(server.url, given.tasks, given.workers)
        found = asyncio.run(_times(server.url, given.rounds))
        found["a look at the server, once a second"] = _look(server.url, given.rounds)
        found |= _watched(server.url, given.rounds)
        sys.stdout.write(f"{given.tasks:,} tasks, {given.workers:,} workers; seconds, the median and the longest\n")
        for name, times in found.items():
            sys.stdout.write(f"  {name:36} {statistics.median(times):6.3f} {max(times):6.3f}\n")
    finally:
        server.stop()
    slow = [name for name, times in found.items() if statistics.median(times) > _MOST_S]
    if slow:
        sys.stdout.write(f"over {_MOST_S:g} s: {', '.join(slow)}\n")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
