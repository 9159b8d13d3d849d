"""Short functions for the events of a run before and after a recovery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from broker import Trainer, Worker
from broker.errors import Exhausted, WaitTimeout
from broker.protocol import anyone
from tests.conformance.lab import Lab, RawTrainer, names_of

#: A run that takes more rounds than this will never end.
_MOST_ROUNDS = 2_000


def serve(worker: Worker, n: int = 1_000, result: bytes = b"x") -> list[str]:
    """Submits the attempts that the worker holds, then up to n more. Returns the tasks of the accepted ones."""
    accepted = [attempt.task for attempt in worker.held if worker.submit(attempt, result).answer == "accepted"]
    while n > 0 and (attempts := worker.claim(min(n, 64))):
        n -= len(attempts)
        for attempt in attempts:
            if worker.submit(attempt, result).answer == "accepted":
                accepted.append(attempt.task)
    return accepted


def train(trainer: Trainer, worker: Worker, steps: int = 1, n: int | None = None) -> list[list[str]]:
    """Works, takes and advances for some steps. Returns the tasks of each step."""
    trained: list[list[str]] = []
    for _ in range(steps * 50):
        serve(worker)
        with suppress(WaitTimeout):  # some rollouts were too old, and are done again
            trained.append(names_of(trainer.next_batch(n, timeout=0)))
            trainer.advance()
        if len(trained) == steps:
            return trained
    raise AssertionError(f"no batch for step {trainer.version}: {trainer.stats()}")


def train_to_the_end(lab: Lab, trainer: Trainer, worker: Worker) -> dict[int, list[str]]:
    """Trains on all tasks that are left, also in short batches; lets time pass for retries. Returns each step's tasks."""
    trained: dict[int, list[str]] = {}
    for _ in range(_MOST_ROUNDS):
        serve(worker)
        with suppress(WaitTimeout):
            try:
                trained[trainer.version] = names_of(trainer.next_batch(timeout=0, short=True))
            except Exhausted:
                return trained
            trainer.advance()
            continue
        lab.pass_ms(1_000)
        trainer.requeue()
    raise AssertionError(f"{lab.run} does not end: {lab.states()}")


def judge_once(history: dict[int, list[str]], wanted: Iterable[str]) -> None:
    """Checks that the history has each wanted task in exactly one step, and no other task."""
    times = Counter(task for tasks in history.values() for task in tasks)
    expected = set(wanted)
    assert {task: n for task, n in times.items() if n != 1} == {}, "trained more than once"
    assert expected - set(times) == set(), "never trained"
    assert set(times) - expected == set(), "trained though finished otherwise"


def surviving(history: dict[int, list[str]], version: int) -> dict[int, list[str]]:
    """The steps that a recovery to a version leaves."""
    return {step: tasks for step, tasks in history.items() if step < version}


def raw_step(trainer: RawTrainer, step: int, n: int = 1) -> None:
    """Seals a batch and advances, by raw script calls."""
    trainer.advance(step, trainer.take(step, n).digest)
    trainer.lab.call(anyone.trim)
