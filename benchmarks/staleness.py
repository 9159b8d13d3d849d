"""Compares `broker plan` with real processes: workers that sleep, a trainer that sleeps, and the broker between them.

    python -m benchmarks.staleness

Times are those of the simulation, divided by `--faster`. Each row is a run of its own on a private server. Prompts have
fixed lengths, the same ones in the simulation. It takes ten minutes; `--quick` takes one.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from broker import Attempt, RunConfig, Task, Trainer
from broker.aio import Worker
from broker.errors import BrokerError
from broker.local_server.embedded import EmbeddedServer
from broker.planning.choices import Choice, applied
from broker.planning.lengths import read_lengths
from broker.planning.setting import Outcome, Setting
from broker.planning.simulation import Simulation

#: What is compared: S, D, mode.
CHOICES = (
    Choice(2, 2, "requeue"),
    Choice(2, 8, "requeue"),
    Choice(2, 16, "requeue"),
    Choice(2, 16, "wait"),
    Choice(2, 2, "drop"),
    Choice(2, 8, "drop"),
    Choice(2, None, "keep"),
)
#: A heartbeat as often as with the default lease, in simulated seconds.
HEARTBEAT_S = 20.0
#: Worker processes.
WORKERS = 4
LEASE_S = 30.0


def measure(url: str, setting: Setting, faster: float, enqueued: int) -> Outcome:
    """One run with real processes. All times of the outcome are simulated ones, as the setting's."""
    name, seen = f"staleness-{time.monotonic_ns()}", Outcome()
    rng = random.Random(setting.seed)
    waits_ms = math.ceil(setting.config.max_wait_ms / faster)
    config = RunConfig.model_validate({**setting.config.to_document(), "max_wait_ms": waits_ms})
    with Trainer(url, run=name, config=config) as trainer:
        trainer.enqueue(
            Task(id=f"{order}", payload=setting.lengths.draw(rng) / faster)
            for order in range(enqueued + setting.places + enqueued // 3)
        )
        trainer.pause()
        with _workers(url, name, setting.places, faster):
            while trainer.stats().sessions < WORKERS:
                time.sleep(0.05)
            trainer.resume()
            began = time.monotonic()
            while seen.steps < setting.steps:
                batch = trainer.next_batch(timeout=600)
                time.sleep(setting.train_s / faster)
                trainer.advance()
                seen.steps += 1
                seen.tasks += len(batch)
                seen.trained += len(batch)
                seen.staleness.update(rollout.staleness for rollout in batch)
                seen.used_s += math.fsum(rollout.payload for rollout in batch) * faster
            seen.seconds = (time.monotonic() - began) * faster
            stats = trainer.stats()
            seen.wasted_s = math.fsum(stats.lost_s.values()) * faster
            seen.given_up = stats.totals.get("rejected", 0)
            if stats.totals.get("expired", 0):
                raise RuntimeError("a lease passed: this machine is too busy for the comparison")
            trainer.finish()
    return seen


@contextmanager
def _workers(url: str, run: str, places: int, faster: float) -> Generator[None]:
    share = [places // WORKERS + (number < places % WORKERS) for number in range(WORKERS)]
    command = [sys.executable, "-m", "benchmarks.staleness", "--work", url, run, str(HEARTBEAT_S / faster)]
    processes = [subprocess.Popen([*command, str(each)]) for each in share]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


async def work(url: str, run: str, heartbeat_s: float, places: int) -> None:
    """A worker whose rollouts take as long as the payload says."""

    async def handle(attempt: Attempt) -> bytes:
        await asyncio.sleep(attempt.payload)
        return b""

    async with Worker(url, run=run, lease_s=LEASE_S, heartbeat_s=heartbeat_s) as worker:
        with suppress(BrokerError):
            await worker.run(handle, concurrency=places)


def main() -> None:
    """Prints a table: each choice by the simulation, and by real processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lengths", default="lognormal:60:1.0")
    parser.add_argument("--train-s", type=float, default=40)
    parser.add_argument("--places", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--faster", type=float, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two choices, ten steps")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        url, run, heartbeat_s, places = options.work
        asyncio.run(work(url, run, float(heartbeat_s), int(places)))
        return
    base = Setting(
        RunConfig(consumer_batch_size=options.batch),
        read_lengths(options.lengths),
        options.train_s,
        options.places,
        steps=10 if options.quick else options.steps,
        heartbeat_s=HEARTBEAT_S,
        seed=options.seed,
    )
    lines = ["| S | D | on_stale | by | steps/h | thrown away | length | staleness | worst |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    server = EmbeddedServer(port=0)
    try:
        for choice in CHOICES[1:3] if options.quick else CHOICES:
            setting = applied(base, choice)
            simulation = Simulation(setting)
            simulated = simulation.run()
            real = measure(server.url, setting, options.faster, simulation.enqueued)
            lines.append(_line(choice, "simulation", simulated, setting))
            lines.append(_line(choice, "processes", real, setting))
            sys.stderr.write("\n".join(lines[-2:]) + "\n")
    finally:
        server.stop()
    sys.stdout.write("\n".join(lines) + "\n")


def _line(choice: Choice, by: str, seen: Outcome, setting: Setting) -> str:
    cells = (
        choice.max_staleness, "-" if choice.staleness_limit is None else choice.staleness_limit, choice.mode, by,
        f"{seen.steps_per_hour:.1f}", f"{seen.thrown_away:.0%}", f"{seen.mean_length_s / setting.lengths.mean_s:.2f}",
        f"{seen.mean_staleness:.1f}", seen.worst_staleness,
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
