"""What becomes of slow prompts: processes that sleep, on a real server, with `on_stale="requeue"` and `"wait"`.

    python -m benchmarks.slow_prompts --steps 60

Every fifth prompt takes 20 times as long as the others. The table says which share of the trained rollouts was slow,
how many tasks went back to waiting, how stale rollouts were, and how many steps a minute had.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from broker import Attempt, RunConfig, Task, Trainer, Worker
from broker.local_server.embedded import EmbeddedServer

#: The modes that are compared, each with D for each step of S.
MODES: tuple[tuple[Literal["requeue", "wait"], int], ...] = (("requeue", 1), ("requeue", 4), ("wait", 1), ("wait", 4))
#: Every so many prompts one is slow.
EVERY = 5


@dataclass
class Trained:
    """What a run came to.

    Attributes:
        tasks: the tasks in the order in which they were trained.
        staleness: of each.
        requeued: tasks that went back to waiting.
        seconds: how long it took.
    """

    tasks: list[int] = field(default_factory=list[int])
    staleness: list[int] = field(default_factory=list[int])
    requeued: int = 0
    seconds: float = 0.0

    @property
    def slow_percent(self) -> float:
        """Which share of what was trained was slow."""
        return 100 * sum(task % EVERY == 0 for task in self.tasks) / len(self.tasks)


def is_slow(task: str) -> bool:
    """Whether the prompt of this number takes long."""
    return int(task) % EVERY == 0


def work(url: str, run: str, at_once: int, fast_s: float, slow_s: float) -> None:
    """One worker process; it ends with the run."""

    def generate(attempt: Attempt) -> str:
        time.sleep(slow_s if is_slow(attempt.task) else fast_s)
        return "x"

    with Worker(url, run) as worker:
        worker.run(generate, concurrency=at_once)


def train(url: str, run: str, config: RunConfig, *, steps: int, train_s: float) -> Trained:
    """Trains so many steps on an endless supply."""
    found, began = Trained(), time.monotonic()
    with Trainer(url, run, config) as trainer:
        trainer.enqueue(Task(id=str(number)) for number in range((steps + 20) * config.batch_size))
        for _ in range(steps):
            for rollout in trainer.next_batch(timeout=60):
                found.tasks.append(int(rollout.task))
                found.staleness.append(rollout.staleness)
            time.sleep(train_s)
            trainer.advance()
        found.requeued = trainer.stats().totals.get("requeued", 0)
        found.seconds = time.monotonic() - began
        trainer.finish()
    return found


def measure(url: str, run: str, config: RunConfig, *, steps: int, processes: int = 2, unit_s: float = 0.02) -> Trained:
    """One run with worker processes.

    Args:
        url: the server's.
        run: the run's name, which must be new.
        config: of the run.
        steps: how many steps are trained.
        processes: of workers; each works on as many prompts at once as a batch has.
        unit_s: how long a fast prompt takes. A slow one takes 20 times as long, and a step of training twice.
    """
    words = [url, run, str(config.batch_size), str(unit_s), str(20 * unit_s)]
    command = [sys.executable, "-m", "benchmarks.slow_prompts", "--work", *words]
    workers = [subprocess.Popen(command) for _ in range(processes)]
    try:
        return train(url, run, config, steps=steps, train_s=2 * unit_s)
    finally:
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(10)
            worker.kill()
            worker.wait()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What becomes of slow prompts.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--staleness", type=int, default=1)
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        url, run, at_once, fast_s, slow_s = options.work
        work(url, run, int(at_once), float(fast_s), float(slow_s))
        return 0
    sys.stdout.write("mode     D  slow, of 20%  requeued  mean / worst staleness  steps/min\n")
    server = EmbeddedServer(port=0)
    try:
        for mode, limit in MODES:
            config = RunConfig(
                consumer_batch_size=options.batch,
                max_staleness=options.staleness,
                staleness_limit=limit * options.staleness,
                max_concurrent_rollouts=2 * options.batch,
                on_stale=mode,
            )
            found = measure(server.url, f"{mode}-{limit}", config, steps=options.steps)
            mean = sum(found.staleness) / len(found.staleness)
            sys.stdout.write(
                f"{mode:8} {limit}  {found.slow_percent:5.1f}%        {found.requeued:8}  "
                f"{mean:.2f} / {max(found.staleness)}              {60 * options.steps / found.seconds:.0f}\n"
            )
            sys.stdout.flush()
    finally:
        server.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
